"""Statistics of action chunks relative to their first state, computed from the compiled index in one pass."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mixtures.actions import absolute_to_relative, relative_slots
from mixtures.compiled import Table
from pipelines.statistics import EMPTY, ArrayStatistics, NormStatistics, load_statistics, save_statistics, summarize

CHUNK_STARTS = 20_000
MAX_STARTS = 400_000


def relative_statistics(
    absolute: Mapping[str, NormStatistics], tables: Sequence[Table], parts: Mapping[str, Mapping[str, tuple[int, ...]]],
    horizon: int, cache: Path,
) -> dict[str, NormStatistics]:  # fmt: skip
    """The statistics with those of the actions taken over relative chunks, per norm key; kept in `cache`.

    Every chunk counts, up to its episode's end. A split of more than 400,000 steps is sampled at even distances.
    """
    identity = json.dumps(["relative/v1", horizon, MAX_STARTS, sorted(table.fingerprint for table in tables)])
    file = cache / "relative" / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.json"
    if file.exists():
        return load_statistics(file)
    actions = {key: EMPTY for key in absolute}
    for table in tables:
        for code, key in enumerate(table.vocabularies["norm_key"]):
            if key in actions:
                rows = np.flatnonzero(table.codes("norm_key") == code)
                found = _table_statistics(table, rows, relative_slots(key, parts[key]), horizon)
                actions[key] = actions[key].merge(found)
    statistics = {key: replace(value, action=actions[key]) for key, value in absolute.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_statistics(file, statistics)
    return statistics


def _table_statistics(
    table: Table, rows: NDArray[np.int64], slots: tuple[NDArray[np.bool_], NDArray[np.bool_]], horizon: int
) -> ArrayStatistics:
    total = int(table.n_steps_of[rows].sum())
    stride = -(-total // MAX_STARTS)
    result = EMPTY
    for row in _batches(table, rows):
        first = np.concatenate([np.arange(table.first_step[r], table.first_step[r + 1], stride) for r in row])
        owner = np.repeat(row, [-(-int(table.n_steps_of[r]) // stride) for r in row])
        result = result.merge(_chunk_statistics(table, first, owner, slots, horizon))
    return result


def _chunk_statistics(
    table: Table, first: NDArray[np.int64], owner: NDArray[np.int64],
    slots: tuple[NDArray[np.bool_], NDArray[np.bool_]], horizon: int,
) -> ArrayStatistics:  # fmt: skip
    """Statistics of the chunks that begin at rows `first` of the episodes `owner`, by pattern of masks."""
    result = EMPTY
    steps = first[:, None] + np.arange(horizon)
    inside = steps < table.first_step[owner + 1][:, None]
    masks = np.concatenate([table.state_mask[owner], table.action_mask[owner]], axis=1)
    for pattern in np.unique(masks, axis=0):
        mine = (masks == pattern).all(axis=1)
        state_mask, action_mask = np.split(pattern, 2)
        relative, wraps = (np.tile(mask & state_mask & action_mask, (mine.sum(), 1)) for mask in slots)
        action = table.action[np.where(inside[mine], steps[mine], first[mine][:, None])]
        values = absolute_to_relative(action, table.state[first[mine]], relative, wraps)[inside[mine]]
        result = result.merge(summarize(values.astype(np.float32), action_mask))
    return result


def _batches(table: Table, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Episodes in runs of about `CHUNK_STARTS` steps."""
    edges = np.cumsum(table.n_steps_of[rows]) // CHUNK_STARTS
    return np.split(rows, np.flatnonzero(np.diff(edges)) + 1)
