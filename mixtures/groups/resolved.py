"""What a spec resolves to on this host, cached so that it opens fast again: groups, samples, statistics."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mixtures.actions.pool_statistics import pool_statistics, rows_of_pool
from mixtures.actions.pools import Pool, Pools, assign_pools, members_of
from mixtures.groups.label_coverage import Labels
from mixtures.groups.selection import select_groups, walk
from mixtures.groups.tree import GroupFacts, SplitIndex, facts_of, split_index
from mixtures.index.mapped import map_file
from mixtures.index.sealed import ensure_sealed
from mixtures.index.tables import CompiledTable
from mixtures.specs.spec import MixtureSpec, Source
from pipelines.contract.document import SpecError
from pipelines.contract.errors import UsageError
from pipelines.contract.slots import LAYOUT
from pipelines.shards.statistics import NormStatistics, load_statistics, save_statistics

FORMAT = "embodimix.resolved/v5"
SPLITS = ("train", "validation")
_ARRAYS = ("group_edges", "table", "row", "edges", "steps")
_TUPLES = ("robot", "control_hz", "norm_keys", "datasets", "dataset_steps", "dataset_episodes", "slots")


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """Groups in the order of the spec, the samples of both splits, and per pool statistics and robot parts.

    members: by pool and dataset (name/version) the half ranges of state and action, float64 [2d], nan where unused.
    unplaced: held-out episodes of stored validation splits that belong to no group, by dataset.
    """

    facts: tuple[GroupFacts, ...]
    splits: Mapping[str, SplitIndex]
    pools: Pools
    statistics: Mapping[str, NormStatistics]
    parts: Mapping[str, Mapping[str, tuple[int, ...]]]
    members: Mapping[str, Mapping[str, tuple[float, ...]]]
    unplaced: Mapping[str, int]


def resolve(
    spec: MixtureSpec,
    tables: Mapping[Source, CompiledTable],
    cache: Path,
    frozen: Mapping[str, tuple[float, ...]] | None = None,
) -> Resolved:
    """Resolves a spec over its opened tables (by source), or loads what was resolved before.

    frozen: pools, with their rates, that statistics of a run are given for. Raises SpecError for filters that match
    nothing, FailedWork for statistics that are missing or unreadable.
    """
    folder = cache / "resolved" / _identity(spec, tables, frozen)
    ensure_sealed(folder, lambda scratch: _save(_resolve(spec, tables, frozen), scratch))
    return _load(folder)


def _resolve(
    spec: MixtureSpec, tables: Mapping[Source, CompiledTable], frozen: Mapping[str, tuple[float, ...]] | None
) -> Resolved:
    selection = select_groups(spec, tables)
    numbers = {id(table): i for i, table in enumerate(tables.values())}
    _check_namesakes(spec, tables)
    pools = assign_pools(members_of(tables.values()), spec.normalization.by, spec.action.rate_hz, frozen)
    facts = tuple(facts_of(group, pools, numbers, spec.language.proposals) for group in selection.groups)
    used = {name for group in facts for name in group.norm_keys}
    pools = replace(pools, pools=tuple(pool for pool in pools.pools if pool.name in used))
    splits = {name: split_index([getattr(group, name) for group in selection.groups], numbers) for name in SPLITS}
    parts = {name: _parts(name, pools, tables.values()) for name in sorted(used)}
    statistics, members = pool_statistics(spec, tables, pools, parts)
    return Resolved(
        facts=facts,
        splits=splits,
        pools=pools,
        statistics=statistics,
        parts=parts,
        members={pool: {d: _half_ranges(s) for d, s in found.items()} for pool, found in members.items()},
        unplaced=selection.unplaced,
    )


def _check_namesakes(spec: MixtureSpec, tables: Mapping[Source, CompiledTable]) -> None:
    """Raises SpecError where pools by dataset would hold two datasets, because both have one name and version."""
    paths: dict[str, str] = {}
    for entry in spec.root.all_entries() if spec.normalization.by == "dataset" else ():
        table = tables[entry.source]
        label = f"{table.name}/{table.version}"
        if paths.setdefault(label, table.path) != table.path:
            raise SpecError(
                entry.mark,
                f"`normalization: {{by: dataset}}` cannot separate {table.path} from {paths[label]}: both are {label}. "
                "Convert one of them under another `--name`",
            )


def _half_ranges(statistics: NormStatistics) -> tuple[float, ...]:
    """Half ranges of state and action under the quantile map, without floors: [2d], nan where nothing moves."""
    found = [np.where(a.count > 0, (a.q99 - a.q01) / 2, np.nan) for a in (statistics.state, statistics.action)]
    return tuple(np.concatenate(found).tolist())


def _identity(
    spec: MixtureSpec, tables: Mapping[Source, CompiledTable], frozen: Mapping[str, tuple[float, ...]] | None
) -> str:
    """Names what a spec resolves to: its entries, filters, grouping and validation, and the data they stand on."""
    entries = [
        (path, node.weighting.group_by, [_unmarked(asdict(e)) for e in node.entries]) for path, node in walk(spec.root)
    ]
    # Statistics files are not in the fingerprints of shards, so their size and time stand for them.
    content = [
        (key, table.fingerprint, _file_state(os.path.join(table.home, "statistics.json")))
        for key, table in tables.items()
    ]
    rules = [
        asdict(spec.validation),
        asdict(spec.kinds),
        asdict(spec.normalization),
        spec.action.rate_hz,
        spec.language.proposals,
        *([] if spec.layout == LAYOUT else [spec.layout]),
    ]
    known = None if frozen is None else sorted(frozen.items())
    identity = json.dumps([FORMAT, entries, *rules, known, content])
    return hashlib.sha256(identity.encode()).hexdigest()[:32]


def _unmarked(value: Any) -> Any:
    """The value without its marks in files."""
    if isinstance(value, dict):
        return {key: _unmarked(inner) for key, inner in value.items() if key != "mark"}
    return [_unmarked(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _file_state(path: str) -> tuple[int, int]:
    try:
        state = os.stat(path)
    except FileNotFoundError:
        return 0, 0
    return state.st_size, state.st_mtime_ns


def _save(resolved: Resolved, folder: Path) -> None:
    """Writes what was resolved into an empty folder."""
    for split, index in resolved.splits.items():
        for name in _ARRAYS:
            if getattr(index, name) is not None:
                np.save(folder / f"{split}-{name}.npy", getattr(index, name))
    save_statistics(folder / "statistics.json", resolved.statistics)
    content = {
        "facts": [asdict(group) for group in resolved.facts],
        "parts": resolved.parts,
        "pools": [asdict(pool) for pool in resolved.pools.pools],
        "pool_of": [[[*key, name] for key, name in names.items()] for names in resolved.pools.names],
        "members": resolved.members,
        "unplaced": resolved.unplaced,
    }
    (folder / "facts.json").write_text(json.dumps(content))


def _load(folder: Path) -> Resolved:
    content = json.loads((folder / "facts.json").read_text())
    facts = tuple(_facts(group) for group in content["facts"])
    splits = {
        split: SplitIndex(**{name: _array(folder / f"{split}-{name}.npy") for name in _ARRAYS}) for split in SPLITS
    }
    return Resolved(
        facts=facts,
        splits=splits,
        statistics=load_statistics(folder / "statistics.json"),
        parts={key: {part: tuple(s) for part, s in parts.items()} for key, parts in content["parts"].items()},
        pools=_pools(content["pools"], content["pool_of"]),
        members={pool: {d: tuple(h) for d, h in found.items()} for pool, found in content["members"].items()},
        unplaced=content["unplaced"],
    )


def _pools(pools: Sequence[Mapping[str, Any]], names: Sequence[Sequence[tuple[str, float, str]]]) -> Pools:
    return Pools(
        pools=tuple(
            Pool(**{**pool, "control_hz": tuple(pool["control_hz"]), "datasets": tuple(pool["datasets"])})
            for pool in pools
        ),
        names=tuple({(key, hz): name for key, hz, name in one} for one in names),
    )


def _facts(group: Mapping[str, Any]) -> GroupFacts:
    values: dict[str, Any] = {key: tuple(value) if key in _TUPLES else value for key, value in group.items()}
    return GroupFacts(**values | {"labels": Labels(**group["labels"])})


def _array(path: Path) -> Any:
    """An array that `np.save` wrote, mapped where it is large; None where there is none."""
    if not path.exists():
        return None
    if path.stat().st_size <= 1 << 16:
        return np.load(path)
    with open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        assert version == (1, 0), version
        shape, _, kind = np.lib.format.read_array_header_1_0(file)
        return np.frombuffer(map_file(path)[file.tell() :], kind).reshape(shape)


def _parts(name: str, pools: Pools, tables: Iterable[CompiledTable]) -> dict[str, tuple[int, ...]]:
    """The action slots of each part of the robot of a pool: all parts that any episode names.

    Raises UsageError where a part has other slots in some episodes than in others: then two robots have one name.
    """
    found: dict[str, tuple[tuple[int, ...], str]] = {}
    for number, table in enumerate(tables):
        rows = rows_of_pool(number, table, pools, name)
        for code in np.unique(table.codes("parts")[rows]):
            for part, numbers in json.loads(table.vocabularies["parts"][code]).items():
                slots = tuple(sorted(numbers))
                others, path = found.setdefault(part, (slots, table.path))
                if slots != others:
                    raise UsageError(
                        f"{name}: expected one robot of that name, found {part} in slots {list(others)} ({path}) and "
                        f"in {list(slots)} ({table.path}). Give one of them another name in its registry, and convert "
                        "its logs again"
                    )
    return {part: slots for part, (slots, _) in found.items()}
