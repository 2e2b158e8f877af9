"""The rules of the house: which part may import which, and what stays light to import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pipelines", "mixtures", "model", "trainers", "annotation_tools")
CONTRACT = ("pipelines.contract", "pipelines.storage", "pipelines.shards")
HEAVY = {"apache_beam", "tensorflow", "tensorflow_datasets", "jax", "flax", "optax", "orbax", "matplotlib"}
MAY_IMPORT = {
    "pipelines": {"pipelines", "annotation_tools"},
    "annotation_tools": {"annotation_tools", "pipelines"},
    "mixtures": {"mixtures", "pipelines"},
    "model": {"model"},
    "trainers": {"trainers", "mixtures", "model", "pipelines", "annotation_tools"},
}


def modules(package: str) -> dict[str, ast.Module]:
    """Every module of a package by its dotted name, parsed."""
    paths = sorted((ROOT / package).rglob("*.py"))
    return {".".join(p.relative_to(ROOT).with_suffix("").parts): ast.parse(p.read_text()) for p in paths}


def imported(tree: ast.AST) -> set[str]:
    """Dotted names that a tree imports, at any depth."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def imported_at_load(tree: ast.Module) -> set[str]:
    """Dotted names that a module imports when it is itself imported: not those inside functions."""
    names: set[str] = set()
    for statement in tree.body:
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            names |= imported(ast.Module(body=[statement], type_ignores=[]))
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_a_part_imports_only_the_parts_below_it(package: str) -> None:
    for module, tree in modules(package).items():
        ours = {name.split(".")[0] for name in imported(tree)} & set(PACKAGES)
        assert ours <= MAY_IMPORT[package], f"{module} imports {sorted(ours - MAY_IMPORT[package])}"


def test_contract_modules_import_only_contract_modules_and_nothing_heavy() -> None:
    for module, tree in modules("pipelines").items():
        if not module.startswith(CONTRACT):
            continue
        names = imported_at_load(tree)
        assert not {name.split(".")[0] for name in names} & HEAVY, module
        ours = {name for name in names if name.startswith("pipelines.")}
        assert all(name.startswith(CONTRACT) for name in ours), f"{module} imports {sorted(ours)}"


def test_mixtures_and_annotations_do_not_reach_into_the_conversion() -> None:
    conversion = {"pipelines.conversion.shard_work", "pipelines.mapping.adapters", "pipelines.sources"}
    for package in ("mixtures", "annotation_tools"):
        for module, tree in modules(package).items():
            found = {n for n in imported_at_load(tree) if any(n == c or n.startswith(c + ".") for c in conversion)}
            assert not found, f"{module} imports {sorted(found)}"


@pytest.mark.parametrize("package", PACKAGES)
def test_package_files_hold_one_docstring(package: str) -> None:
    for path in (ROOT / package).rglob("__init__.py"):
        body = ast.parse(path.read_text()).body
        assert len(body) == 1 and ast.get_docstring(ast.parse(path.read_text())), path


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_says_what_it_holds_and_stays_readable(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        text = path.read_text()
        assert ast.get_docstring(ast.parse(text)), f"{path.name} has no docstring"
        assert text.count("\n") <= 500, f"{path.name} is past 500 lines"


def test_the_command_starts_without_heavy_packages() -> None:
    code = f"import sys, trainers.main; trainers.main.build_parser(); print(sorted(set(sys.modules) & {HEAVY!r}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.strip() == "[]"
