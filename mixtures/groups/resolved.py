"""What a spec resolves to on this host, kept so that opening it again takes no time: groups, samples, statistics."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mixtures.groups.label_coverage import Labels
from mixtures.groups.selection import select_groups, walk
from mixtures.groups.tree import GroupFacts, SplitIndex, facts_of, split_index
from mixtures.index.tables import CompiledTable
from mixtures.specs.spec import MixtureSpec, Source
from pipelines.contract.errors import FailedWork
from pipelines.shards.statistics import NormStatistics, load_statistics, merge_statistics, save_statistics

FORMAT = "embodimix.resolved/v3"
SPLITS = ("train", "validation")
_ARRAYS = ("group_edges", "table", "row", "edges", "steps")
_TUPLES = ("robot", "control_hz", "norm_keys", "datasets", "slots")


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """Groups in the order of the spec, the samples of both splits, and per norm key statistics and robot parts."""

    facts: tuple[GroupFacts, ...]
    splits: Mapping[str, SplitIndex]
    statistics: Mapping[str, NormStatistics]
    parts: Mapping[str, Mapping[str, tuple[int, ...]]]


def resolve(spec: MixtureSpec, tables: Mapping[Source, CompiledTable], cache: Path) -> Resolved:
    """Resolves a spec over its opened tables (by source), or loads what was resolved before.

    Raises SpecError for filters that match nothing, FailedWork for statistics that are missing or unreadable.
    """
    folder = cache / "resolved" / _identity(spec, tables)
    if not (folder / "facts.json").exists():
        _save(_resolve(spec, tables), folder)
    return _load(folder)


def _resolve(spec: MixtureSpec, tables: Mapping[Source, CompiledTable]) -> Resolved:
    grouped = select_groups(spec, tables)
    numbers = {id(table): i for i, table in enumerate(tables.values())}
    facts = tuple(facts_of(group) for group in grouped)
    keys = sorted({key for group in facts for key in group.norm_keys})
    splits = {name: split_index([getattr(group, name) for group in grouped], numbers) for name in SPLITS}
    parts = {key: _parts(key, tables.values()) for key in keys}
    return Resolved(facts=facts, splits=splits, statistics=_merged_statistics(spec, tables, keys), parts=parts)


def _identity(spec: MixtureSpec, tables: Mapping[Source, CompiledTable]) -> str:
    """Names what a spec resolves to: its entries, filters, grouping and validation, and the data they stand on."""
    entries = [
        (path, node.weighting.group_by, [_unmarked(asdict(e)) for e in node.entries]) for path, node in walk(spec.root)
    ]
    content = [
        (key, table.fingerprint, _file_state(os.path.join(table.home, "statistics.json")))
        for key, table in tables.items()
    ]
    identity = json.dumps([FORMAT, entries, asdict(spec.validation), asdict(spec.kinds), content])
    return hashlib.sha256(identity.encode()).hexdigest()[:32]


def _unmarked(value: Any) -> Any:
    """The value without the places in files where it was said."""
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
    """Writes the folder under another name and renames it when it is whole; who comes second changes nothing."""
    scratch = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    scratch.mkdir(parents=True)
    try:
        for split, index in resolved.splits.items():
            for name in _ARRAYS:
                if getattr(index, name) is not None:
                    np.save(scratch / f"{split}-{name}.npy", getattr(index, name))
        save_statistics(scratch / "statistics.json", resolved.statistics)
        content = {"facts": [asdict(group) for group in resolved.facts], "parts": resolved.parts}
        (scratch / "facts.json").write_text(json.dumps(content))
        os.rename(scratch, folder)
    except OSError:
        if not (folder / "facts.json").exists():
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


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
    )


def _facts(group: Mapping[str, Any]) -> GroupFacts:
    values: dict[str, Any] = {key: tuple(value) if key in _TUPLES else value for key, value in group.items()}
    return GroupFacts(**values | {"labels": Labels(**group["labels"])})


def _array(path: Path) -> Any:
    if not path.exists():
        return None
    array = np.load(path, mmap_mode="r") if path.stat().st_size > 1 << 16 else np.load(path)
    return array.view(np.ndarray)


def _merged_statistics(
    spec: MixtureSpec, tables: Mapping[Source, CompiledTable], keys: Sequence[str]
) -> dict[str, NormStatistics]:
    """The statistics of all datasets of a mixture, merged by norm key. Raises FailedWork where some are missing."""
    loaded: dict[str, dict[str, NormStatistics]] = {}
    for entry in spec.root.all_entries():
        file = Path(tables[entry.source].home) / "statistics.json"
        if entry.path not in loaded:
            loaded[entry.path] = load_statistics(file)
        missing = set(tables[entry.source].vocabularies["norm_key"]) - set(loaded[entry.path])
        if missing:
            raise FailedWork(f"{entry.mark}: {file}: expected statistics of {', '.join(sorted(missing))}, found none")
    merged = merge_statistics(list(loaded.values()))
    return {key: merged[key] for key in keys}


def _parts(norm_key: str, tables: Iterable[CompiledTable]) -> dict[str, tuple[int, ...]]:
    """The action slots of each part of the robots of a norm key: all that any episode names."""
    parts: dict[str, set[int]] = {}
    for table in tables:
        if norm_key not in table.vocabularies["norm_key"]:
            continue
        mine = table.codes("norm_key") == table.vocabularies["norm_key"].index(norm_key)
        for code in np.unique(table.codes("parts")[mine]):
            for part, slots in json.loads(table.vocabularies["parts"][code]).items():
                parts.setdefault(part, set()).update(slots)
    return {part: tuple(sorted(slots)) for part, slots in parts.items()}
