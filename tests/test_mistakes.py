"""Every mistake of `benchmarks.mistakes` has a message that says what was expected, what was found, and what to do."""

from pathlib import Path

import pytest

from benchmarks.mistakes.cases import MISTAKES
from benchmarks.mistakes.provoking import provoke
from benchmarks.mistakes.records import Mistake

# An endpoint that does not answer is asked again for a quarter of a minute.
SLOW = ("an endpoint that nobody serves",)
KINDS = ("registries", "specs", "files", "environments", "networks", "ports", "options", "runs", "first steps")


def test_there_are_61_mistakes_of_every_kind() -> None:
    assert len(MISTAKES) == 61
    assert {mistake.kind for mistake in MISTAKES} == set(KINDS)
    assert len({(mistake.kind, mistake.name) for mistake in MISTAKES}) == 61


@pytest.mark.parametrize(
    "mistake",
    [
        pytest.param(mistake, id=f"{mistake.kind}: {mistake.name}", marks=[pytest.mark.slow] * (mistake.name in SLOW))
        for mistake in MISTAKES
    ],
)
def test_a_mistake_is_named_with_what_to_do(mistake: Mistake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBODIMIX_CACHE", str(tmp_path / "cache"))
    outcome = provoke(mistake, tmp_path)
    assert outcome.points == (True, True, True), f"exit {outcome.code}: {outcome.message}"
