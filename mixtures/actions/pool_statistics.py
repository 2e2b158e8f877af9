"""The statistics of every pool: merged from the datasets' files, or measured where a pool is a part of a dataset."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mixtures.actions.pools import Pool, Pools, dataset_labels
from mixtures.index.tables import CompiledTable
from mixtures.specs.spec import MixtureSpec, Source
from pipelines.contract.errors import FailedWork
from pipelines.shards.statistics import (
    ArrayStatistics,
    NormStatistics,
    empty_statistics,
    load_statistics,
    quantities_of,
    summarize,
)

Parts = Mapping[str, Sequence[int]]
STEPS_AT_ONCE = 1 << 18


def pool_statistics(
    spec: MixtureSpec, tables: Mapping[Source, CompiledTable], pools: Pools, parts: Mapping[str, Parts]
) -> tuple[dict[str, NormStatistics], dict[str, dict[str, NormStatistics]]]:
    """By pool its statistics, and by pool and dataset (see `labels_of`) those of each member.

    A dataset's file counts whole where all that the mixture opens of it under one norm key is in one pool; else the
    pool's episodes are measured. Raises FailedWork where a file lacks a norm key.
    """
    loaded = _load_files(spec, tables)
    by_member: dict[str, dict[str, NormStatistics]] = {}
    labels = dataset_labels(tuple(tables.values()))
    for path, numbers in _by_path(tables).items():
        mine = [(number, table) for number, table in enumerate(tables.values()) if number in numbers]
        label = labels[mine[0][0]]
        names = sorted({(key, name) for number, _ in mine for (key, _), name in pools.names[number].items()})
        # The whole file counts where it can, filtered or not: filters change from run to run, and statistics that moved
        # with them would make a policy's inputs mean something else.
        for key, name in (pair for pair in names if pair[1] in parts):
            is_whole = sum(other == key for other, _ in names) == 1
            found = loaded[path][key] if is_whole else _measure(_distinct(mine), pools, name, key, parts[name])
            members = by_member.setdefault(name, {})
            found = replace(found, norm_key=name)
            members[label] = members[label].merge(found) if label in members else found
    merged = {}
    for name, members in sorted(by_member.items()):
        first, *others = members.values()
        for other in others:
            first = first.merge(other)
        merged[name] = first
    return merged, by_member


def rows_of_pool(number: int, table: CompiledTable, pools: Pools, name: str) -> NDArray[np.int64]:
    """The episodes of a table that are in a pool, int64 [e]."""
    mine = np.zeros(table.n_episodes, np.bool_)
    for (key, hz), other in pools.names[number].items():
        if other == name:
            code = table.vocabularies["norm_key"].index(key)
            mine |= (table.episodes["norm_key"] == code) & (table.control_hz == np.float32(hz))
    return np.flatnonzero(mine)


def find_pool(pools: Sequence[Pool], name: str) -> Pool:
    """The pool of a name."""
    return next(pool for pool in pools if pool.name == name)


def _load_files(spec: MixtureSpec, tables: Mapping[Source, CompiledTable]) -> dict[str, Mapping[str, NormStatistics]]:
    loaded: dict[str, Mapping[str, NormStatistics]] = {}
    for entry in spec.root.all_entries():
        file = Path(tables[entry.source].home) / "statistics.json"
        table = tables[entry.source]
        if entry.path not in loaded:
            loaded[entry.path] = load_statistics(file)
            if table.layout != table.source_layout:
                stored = loaded[entry.path].items()
                loaded[entry.path] = {key: value.moved(table.source_slots, table.n_slots) for key, value in stored}
        missing = set(table.vocabularies["norm_key"]) - set(loaded[entry.path])
        if missing:
            raise FailedWork(f"{entry.mark}: {file}: expected statistics of {', '.join(sorted(missing))}, found none")
    return loaded


def _by_path(tables: Mapping[Source, CompiledTable]) -> dict[str, set[int]]:
    """The numbers of the tables of each dataset's path."""
    found: dict[str, set[int]] = {}
    for number, (path, _, _) in enumerate(tables):
        found.setdefault(path, set()).add(number)
    return found


def _distinct(tables: Sequence[tuple[int, CompiledTable]]) -> list[tuple[int, CompiledTable]]:
    """One table of each split: the same episodes under other segments count once."""
    return list({table.split: (number, table) for number, table in reversed(tables)}.values())


def _measure(
    tables: Sequence[tuple[int, CompiledTable]], pools: Pools, name: str, norm_key: str, parts: Parts
) -> NormStatistics:
    """The statistics of a pool's episodes in some tables, from their compiled vectors."""
    sides = {side: quantities_of(norm_key, parts, side) for side in ("state", "action")}
    arrays = {side: empty_statistics(tables[0][1].n_slots) for side in sides}
    n_episodes = 0
    steps_at: dict[float, int] = {}
    for number, table in tables:
        rows = rows_of_pool(number, table, pools, name)
        n_episodes += len(rows)
        for hz in np.unique(table.control_hz[rows]).tolist():
            steps = int(table.n_steps_of[rows][table.control_hz[rows] == np.float32(hz)].sum())
            steps_at[hz] = steps_at.get(hz, 0) + steps
        for side in sides:
            arrays[side] = arrays[side].merge(_measure_array(table, rows, side, sides[side]))
    return NormStatistics(
        norm_key=name,
        n_episodes=n_episodes,
        n_steps=sum(steps_at.values()),
        rates=tuple(sorted(steps_at.items())),
        **arrays,
    )


def _measure_array(
    table: CompiledTable, rows: NDArray[np.int64], side: str, quantities: Mapping[int, str]
) -> ArrayStatistics:
    """The statistics of state or action over episodes, by pattern of masks, some 262,144 steps at a time."""
    found = empty_statistics(table.n_slots)
    values, masks = getattr(table, side), getattr(table, f"{side}_mask")[rows]
    for pattern in np.unique(masks, axis=0):
        mine = rows[(masks == pattern).all(axis=1)]
        portion = np.cumsum(table.n_steps_of[mine]) // STEPS_AT_ONCE
        for some in np.split(mine, np.flatnonzero(np.diff(portion)) + 1):
            steps = [values[table.first_step[row] : table.first_step[row + 1]] for row in some]
            found = found.merge(summarize(np.concatenate(steps), pattern, quantities))
    return found
