"""Filters by a list from outside: the episodes of a dataset, or the steps of them, that a file names."""

import functools
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mixtures.index.tables import CompiledTable, load_column
from mixtures.specs.filters import Listed
from mixtures.stores.arrow import list_objects, read_object
from pipelines.contract.errors import UsageError
from pipelines.shards.episode_lists import EpisodeList, join_key, read_episode_list
from pipelines.shards.manifest import load_manifest
from pipelines.storage.paths import as_storage_path

_REJECTS = "rejects.parquet"
Stretches = list[tuple[int, int]]


def match_listed(listed: Listed, table: CompiledTable) -> tuple[NDArray[np.bool_], int]:
    """Which episodes of a table a list names, bool [e], and how many rows of the list name none of them."""
    found = _load(listed)
    keys = _joined_keys(table)
    named = np.array([key in found.ranges for key in keys], np.bool_)
    return named, len(found.ranges.keys() - set(keys)) + found.n_unknown


def match_steps(listed: Listed, table: CompiledTable) -> NDArray[np.bool_]:
    """Which steps of a table a list names, bool [t].

    A list counts steps as the source does; those that conversion left out still count, as rejects.parquet names them.
    """
    found, keys = _load(listed), table.source_keys.to_pylist()
    lost = _dropped_stretches(table)
    chosen = np.zeros(table.n_steps, np.bool_)
    for row, joined in enumerate(_joined_keys(table)):
        if joined not in found.ranges:
            continue
        first, n = int(table.first_step[row]), int(table.n_steps_of[row])
        ranges = found.ranges[joined]
        if ranges is None:
            chosen[first : first + n] = True
            continue
        numbers = _source_numbers(n, lost.get(keys[row], []))
        for start, end in ranges:
            chosen[first : first + n] |= (numbers >= start) & (numbers < end)
    return chosen


def find_rows_without_episode(listed: Listed, tables: Mapping[str, CompiledTable]) -> tuple[int, int]:
    """How many rows a list has, and how many of them name no episode of any of the tables."""
    found = _load(listed)
    keys = {key for table in tables.values() for key in _joined_keys(table)}
    return len(found.ranges) + found.n_unknown, len(found.ranges.keys() - keys) + found.n_unknown


def _joined_keys(table: CompiledTable) -> list[str]:
    return _join_all(table.folder)


@functools.lru_cache(maxsize=8)
def _join_all(folder: Path) -> list[str]:
    return [join_key(key) for key in load_column(folder / "source_key.arrow").to_pylist()]


def _load(listed: Listed) -> EpisodeList:
    found = _read(listed.path, listed.sha256)
    if found.sha256 != listed.sha256:
        raise UsageError(f"{listed.path}: expected the list as the spec was read with, found another; run it again")
    return found


@functools.lru_cache(maxsize=8)
def _read(path: str, sha256: str) -> EpisodeList:
    return read_episode_list(path)


def _source_numbers(n: int, lost: Stretches) -> NDArray[np.int64]:
    """The number in the source of each of n steps that were kept, where stretches [start, end) were left out.

    >>> _source_numbers(4, [(0, 1), (3, 5)]).tolist()
    [1, 2, 5, 6]
    """
    n_lost = sum(end - start for start, end in lost)
    is_kept = np.ones(n + n_lost, np.bool_)
    for start, end in lost:
        is_kept[start:end] = False
    return np.flatnonzero(is_kept)[:n]


def _dropped_stretches(table: CompiledTable) -> dict[str, Stretches]:
    """The stretches of steps that conversion left out, by the key of their episode; none where nothing says so.

    Raises UsageError where the manifest counts such steps and their list is lost: others would be taken for them.
    """
    rows = _read_rejects(table)
    if rows is None:
        manifest = load_manifest(as_storage_path(table.path))
        if manifest and manifest.counts.steps_dropped:
            raise UsageError(
                f"{table.path}: expected {_REJECTS}, which names the {manifest.counts.steps_dropped} steps that "
                "conversion left out, since a list of steps counts them; found none. Copy it from the original"
            )
        return {}
    rows = rows.filter(pc.and_(pc.equal(rows["level"], "steps"), pc.equal(rows["split"], table.split)))
    stretches: dict[str, Stretches] = {}
    for row in rows.to_pylist():
        stretches.setdefault(row["source_key"], []).append((row["start"], row["end"]))
    return stretches


def _read_rejects(table: CompiledTable) -> pa.Table | None:
    if table.is_remote:
        if _REJECTS not in list_objects(table.path):
            return None
        return pq.read_table(io.BytesIO(read_object(f"{table.path.rstrip('/')}/{_REJECTS}")))
    path = Path(table.home) / _REJECTS
    return pq.read_table(path) if path.exists() else None
