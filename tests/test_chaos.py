"""The judge of the chaos benchmark: what counts as a fault."""

import pytest

from benchmarks.chaos.outcomes import Failure, Reading, Tally, attempt, judge, to_markdown

WHOLE = Reading(episodes={"a.h5#1": "x", "a.h5#2": "y", "b.h5#1": "z"}, rejects=(("c", "holes"),))


@pytest.mark.parametrize(
    ("after", "outcome"),
    [
        (WHOLE, "same"),
        (Reading(episodes={}, error="no dataset"), "clear error"),
        (Reading(episodes={"b.h5#1": "z"}, rejects=(("a.h5", "unreadable_hdf5"), ("c", "holes"))), "refused by name"),
        # A row for one record does not speak of the other; a row that was there before speaks of neither.
        (Reading(episodes={"b.h5#1": "z"}, rejects=(("a.h5#1", "missing_chunk"),)), "silent difference"),
        (Reading(episodes={"a.h5#1": "x", "b.h5#1": "z"}, rejects=(("c", "holes"),)), "silent difference"),
        (Reading(episodes={**WHOLE.episodes, "b.h5#1": "other"}), "silent difference"),
        # Steps or cameras that are named are no silence.
        (Reading(episodes={**WHOLE.episodes, "b.h5#1": "o"}, rejects=(("b.h5#1#steps", "holes"),)), "refused by name"),
        (Failure(what="hang", text=""), "hang"),
    ],
)
def test_outcomes_are_judged_by_what_is_lost_and_named(after: Reading | Failure, outcome: str) -> None:
    assert judge(WHOLE, after, is_provable=True) == outcome


def test_a_process_that_dies_or_hangs_or_raises_is_an_outcome() -> None:
    def die() -> Reading:
        import os

        os._exit(3)

    def hang() -> Reading:
        import time

        time.sleep(60)
        return WHOLE

    def fail() -> Reading:
        raise ValueError("no")

    found = [attempt(try_one, limit_s=1.0) for try_one in (die, hang, fail, lambda: WHOLE)]
    assert [failure.what for failure in found[:3] if isinstance(failure, Failure)] == ["traceback", "hang", "traceback"]
    assert found[3] == WHOLE


def test_the_table_counts_every_outcome_and_names_the_bad_ones() -> None:
    tally = Tally(kind="cuts")
    tally.add("same", "first")
    tally.add("hang", "second")
    text = to_markdown([tally])
    assert "| cuts | 2 | 1 |  |  |  |  |  | 1 |  |" in text
    assert text.endswith("cuts: hang: second")
