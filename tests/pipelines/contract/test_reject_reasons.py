"""Reasons of rejects: one list, which code, advice and docs agree with."""

import ast
from collections.abc import Iterator
from pathlib import Path

from pipelines.contract.reject_reasons import EXPLANATIONS, REJECT_REASONS, explain, reasons_table

ROOT = Path(__file__).resolve().parents[3]


def reasons_in(tree: ast.AST) -> Iterator[str]:
    """Reasons that a module writes down: the first argument of Rejected, and `reason=` of reject rows."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        given = node.args[:1] if name == "Rejected" else []
        given = given + [k.value for k in node.keywords if k.arg == "reason" and name in ("Reject", "DroppedSteps")]
        yield from (each.value for each in given if isinstance(each, ast.Constant) and isinstance(each.value, str))


def test_every_reason_in_the_code_is_listed() -> None:
    paths = sorted((ROOT / "pipelines").rglob("*.py"))
    found = {reason: str(path) for path in paths for reason in reasons_in(ast.parse(path.read_text()))}
    assert len(found) > 20
    assert {reason: path for reason, path in found.items() if reason not in REJECT_REASONS} == {}


def test_every_reason_is_explained_once_and_the_list_is_sorted() -> None:
    assert sorted(EXPLANATIONS) == list(REJECT_REASONS)


def test_the_docs_list_every_reason_as_the_code_explains_it() -> None:
    assert reasons_table() in (ROOT / "docs" / "convert.md").read_text()


def test_a_reason_of_an_older_version_is_not_an_error() -> None:
    assert explain("gone_since").meaning == "a reason that this version does not know"
