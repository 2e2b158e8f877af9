"""Statistics of action chunks as the spec shapes them (relative, resampled), from the index in one pass."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mixtures.actions.chunks import read_chunks
from mixtures.actions.normalizer import ActionForm, action_form, to_form
from mixtures.actions.pool_statistics import rows_of_pool
from mixtures.actions.pools import Pools
from mixtures.index.tables import CompiledTable
from mixtures.specs.spec import ActionRule
from pipelines.contract.slots import LAYOUT
from pipelines.shards.statistics import (
    ArrayStatistics,
    NormStatistics,
    empty_statistics,
    load_statistics,
    quantities_of,
    save_statistics,
    summarize,
)

STARTS_AT_ONCE = 4_000
MAX_STARTS = 400_000


def chunk_statistics(
    stored: Mapping[str, NormStatistics],
    tables: Sequence[CompiledTable],
    pools: Pools,
    parts: Mapping[str, Mapping[str, tuple[int, ...]]],
    rule: ActionRule,
    cache: Path,
) -> dict[str, NormStatistics]:
    """The statistics with those of the actions taken over the chunks of the rule, per pool; kept in `cache`.

    Every chunk counts, up to its episode's end. A pool with more than 400,000 steps in a split is sampled at even
    distances.
    """
    rules = sorted((key, value.action.rule) for key, value in stored.items())
    members = [sorted([*key, name] for key, name in names.items()) for names in pools.names]
    identity = ["chunks/v3", asdict(rule), MAX_STARTS, rules, members, [table.fingerprint for table in tables]]
    identity += sorted({table.layout for table in tables} - {LAYOUT})
    name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    file = cache / "chunks" / f"{name}.json"
    if file.exists():
        return load_statistics(file)
    actions = {key: empty_statistics(value.n_slots) for key, value in stored.items()}
    for pool in pools.pools:
        key = pool.name
        form = action_form(pool.norm_key, parts[key], stored[key].n_slots, rule.mode, rule.rotation)
        quantities = quantities_of(pool.norm_key, parts[key], "action")
        for number, table in enumerate(tables):
            rows = rows_of_pool(number, table, pools, key)
            for found in _table_statistics(table, rows, form, quantities, rule) if len(rows) else ():
                actions[key] = actions[key].merge(found)
    # A rule of old files stays with their numbers, as long as a pool holds nothing newer.
    statistics = {
        key: replace(value, action=replace(actions[key], rule=value.action.rule)) for key, value in stored.items()
    }
    save_statistics(file, statistics)
    return statistics


def _table_statistics(
    table: CompiledTable, rows: NDArray[np.int64], form: ActionForm, quantities: Mapping[int, str], rule: ActionRule
) -> Iterator[ArrayStatistics]:
    """Statistics of some thousand chunks at a time, by pattern of masks."""
    lengths = table.n_steps_of[rows]
    # Even distances and no random sample: the same statistics on every host, and every episode is in them.
    stride = -(-int(lengths.sum()) // MAX_STARTS)
    counts = -(-lengths // stride)
    owner = np.repeat(rows, counts)
    step = (np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)) * stride
    for start in range(0, len(owner), STARTS_AT_ONCE):
        some = slice(start, start + STARTS_AT_ONCE)
        masks = np.concatenate([table.state_mask[owner[some]], table.action_mask[owner[some]]], axis=1)
        for pattern in np.unique(masks, axis=0):
            mine = (masks == pattern).all(axis=1)
            yield _chunk_statistics(table, owner[some][mine], step[some][mine], pattern, form, quantities, rule)


def _chunk_statistics(
    table: CompiledTable,
    rows: NDArray[np.int64],
    steps: NDArray[np.int64],
    pattern: NDArray[np.bool_],
    form: ActionForm,
    quantities: Mapping[int, str],
    rule: ActionRule,
) -> ArrayStatistics:
    """Statistics of the chunks at the given steps of episodes that all have one pattern of state and action masks."""
    state_mask, action_mask = np.split(pattern, 2)
    values, inside = read_chunks(table, rows, steps, rule)
    state = table.state[table.first_step[rows] + steps]
    known, commanded = (np.tile(mask, (len(rows), 1)) for mask in (state_mask & action_mask, action_mask))
    values = to_form(values, state, known, commanded, [form] * len(rows)).astype(np.float32)
    return summarize(values[inside], action_mask, quantities)
