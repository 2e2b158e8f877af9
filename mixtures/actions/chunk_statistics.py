"""Statistics of action chunks as the spec shapes them (relative, resampled), from the index in one pass."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mixtures.actions.chunks import read_chunks
from mixtures.actions.normalizer import absolute_to_relative, relative_slots
from mixtures.index.tables import CompiledTable
from mixtures.specs.spec import ActionRule
from pipelines.shards.statistics import (
    EMPTY,
    ArrayStatistics,
    NormStatistics,
    load_statistics,
    save_statistics,
    summarize,
)

STARTS_AT_ONCE = 4_000
MAX_STARTS = 400_000


def chunk_statistics(
    stored: Mapping[str, NormStatistics],
    tables: Sequence[CompiledTable],
    parts: Mapping[str, Mapping[str, tuple[int, ...]]],
    rule: ActionRule,
    cache: Path,
) -> dict[str, NormStatistics]:
    """The statistics with those of the actions taken over the chunks of the rule, per norm key; kept in `cache`.

    Every chunk counts, up to its episode's end. A norm key with more than 400,000 steps in a split is sampled at even
    distances.
    """
    identity = ["chunks/v1", asdict(rule), MAX_STARTS, sorted(stored), sorted(table.fingerprint for table in tables)]
    name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    file = cache / "chunks" / f"{name}.json"
    if file.exists():
        return load_statistics(file)
    actions = {key: EMPTY for key in stored}
    for table in tables:
        for code, key in enumerate(table.vocabularies["norm_key"]):
            if key in actions:
                rows = np.flatnonzero(table.codes("norm_key") == code)
                for found in _table_statistics(table, rows, relative_slots(key, parts[key]), rule):
                    actions[key] = actions[key].merge(found)
    statistics = {key: replace(value, action=actions[key]) for key, value in stored.items()}
    save_statistics(file, statistics)
    return statistics


def _table_statistics(
    table: CompiledTable, rows: NDArray[np.int64], slots: tuple[NDArray[np.bool_], NDArray[np.bool_]], rule: ActionRule
) -> Iterator[ArrayStatistics]:
    """Statistics of some thousand chunks at a time, by pattern of masks."""
    lengths = table.n_steps_of[rows]
    stride = -(-int(lengths.sum()) // MAX_STARTS)
    counts = -(-lengths // stride)
    owner = np.repeat(rows, counts)
    step = (np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)) * stride
    for start in range(0, len(owner), STARTS_AT_ONCE):
        some = slice(start, start + STARTS_AT_ONCE)
        masks = np.concatenate([table.state_mask[owner[some]], table.action_mask[owner[some]]], axis=1)
        for pattern in np.unique(masks, axis=0):
            mine = (masks == pattern).all(axis=1)
            yield _chunk_statistics(table, owner[some][mine], step[some][mine], pattern, slots, rule)


def _chunk_statistics(
    table: CompiledTable,
    rows: NDArray[np.int64],
    steps: NDArray[np.int64],
    pattern: NDArray[np.bool_],
    slots: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    rule: ActionRule,
) -> ArrayStatistics:
    """Statistics of the chunks at the given steps of episodes that all have one pattern of state and action masks."""
    state_mask, action_mask = np.split(pattern, 2)
    values, inside = read_chunks(table, rows, steps, rule)
    if rule.mode == "relative_to_first_state":
        relative, wraps = (np.tile(mask & state_mask & action_mask, (len(rows), 1)) for mask in slots)
        state = table.state[table.first_step[rows] + steps]
        values = absolute_to_relative(values, state, relative, wraps).astype(np.float32)
    return summarize(values[inside], action_mask)
