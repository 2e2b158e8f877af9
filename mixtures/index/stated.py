"""Sentences that the source states for some steps of an episode only, apart from those that hold for all of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

# A sentence of the steps `first` up to `end`, counted through all episodes, and the row of its episode.
STATED = np.dtype([("first", "<i8"), ("end", "<i8"), ("episode", "<i4")])
Run = tuple[int, int, str]


def stated_runs(rows: pa.Table) -> list[tuple[int, Run]]:
    """Per episode (its row) the sentences of single steps, by their steps; episodes of one sentence have none.

    rows: `segments`, `instructions`, `task` and `n_steps` of a sidecar.
    """
    chosen = np.flatnonzero(_is_of_steps(rows))
    found = rows.select(["segments", "instructions"]).take(pa.array(chosen)).to_pylist()
    return [(int(row), run) for row, item in zip(chosen, found, strict=True) for run in _runs(item)]


def _is_of_steps(rows: pa.Table) -> NDArray[np.bool_]:
    """bool [e]: whether an episode has instructions other than its task, at every step."""
    instructions = rows["instructions"].combine_chunks()
    counts = pc.list_value_length(instructions).to_numpy(zero_copy_only=False)
    is_one = counts == 1
    only = pc.list_flatten(instructions.filter(pa.array(is_one)))
    lengths = rows["n_steps"].to_numpy()[is_one]
    whole = (only.field("start").to_numpy() == 0) & (only.field("end").to_numpy() == lengths)
    task = rows["task"].combine_chunks().filter(pa.array(is_one))
    is_of_steps = counts > 1
    is_of_steps[is_one] = ~(whole & pc.equal(only.field("text"), task).to_numpy(zero_copy_only=False))
    return is_of_steps


def _runs(item: Mapping[str, Any]) -> list[Run]:
    """The source's own segments, or else the runs of its instructions.

    The segments are the better of the two, since the runs also hold the task where no sentence was stated. A merge may
    have replaced them by other segments, whose texts are not the instructions.
    """
    runs = [(run["start"], run["end"], run["text"]) for run in item["instructions"]]
    own = [(s["start"], s["end"], s["text"]) for s in item["segments"] if s["source"] == "source"]
    return own if own and all(_is_within(run, runs) for run in own) else runs


def _is_within(run: Run, runs: Sequence[Run]) -> bool:
    return any(start <= run[0] and run[1] <= end and run[2] == text for start, end, text in runs)
