"""Locks: what was resolved from a spec, written down so that a run never silently resumes with a different mixture."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from mixtures.actions.pools import Pools
from mixtures.groups.tree import Group
from mixtures.index.tables import CompiledTable
from mixtures.specs.filters import Filter
from mixtures.specs.spec import ActionRule, MixtureSpec
from pipelines.contract.errors import UsageError
from pipelines.contract.slots import LAYOUT
from pipelines.shards.statistics import NormStatistics

SCHEMA = "embodimix.lock/v1"
SHARE_TOLERANCE = 1e-9
# What locks of earlier versions do not state: they pooled by norm key, knew one layout and no lists from outside.
_BEFORE: dict[str, Any] = {"normalization": {"by": "norm_key"}, "layout": LAYOUT, "lists": []}
_GROUP_NUMBERS = ("n_episodes", "n_steps", "n_validation_episodes", "n_validation_steps")


class Lockable(Protocol):
    """What a lock is made from: an opened mixture."""

    @property
    def spec(self) -> MixtureSpec: ...
    @property
    def draws(self) -> int | None: ...
    @property
    def groups(self) -> Sequence[Group]: ...
    @property
    def tables(self) -> Sequence[CompiledTable]: ...
    @property
    def pools(self) -> Pools: ...
    @property
    def statistics(self) -> Mapping[str, NormStatistics]: ...


def make_lock(mixture: Lockable) -> dict[str, Any]:
    """Groups with their shares and sizes, fingerprints of the datasets, seed, and the rules that shape a sample."""
    spec = mixture.spec
    return {
        "schema": SCHEMA,
        "name": spec.name,
        "seed": spec.seed,
        "draws": mixture.draws,
        "layout": spec.layout,
        "action": action_settings(spec.action),
        "normalization": asdict(spec.normalization),
        "language": asdict(spec.language),
        "kinds": asdict(spec.kinds),
        "corrupt_images": spec.corrupt_images,
        "lists": sorted({rule.listed.sha256 for rule in _filters(spec) if rule.listed}),
        "groups": [
            {"name": group.name, "probability": group.probability}
            | {number: getattr(group, number) for number in _GROUP_NUMBERS}
            for group in mixture.groups
        ],
        "datasets": [
            {
                "path": table.path,
                "name": table.name,
                "version": table.version,
                "split": table.split,
                "fingerprint": table.fingerprint,
            }
            for table in mixture.tables
        ],
        "pools": {
            pool.name: {"datasets": list(pool.datasets), "control_hz": list(pool.control_hz), "units": pool.units}
            for pool in mixture.pools.pools
        },
        "statistics": {key: _digest(asdict_statistics(value)) for key, value in mixture.statistics.items()},
    }


def read_lock(path: Path) -> dict[str, Any]:
    """Reads a lock file. Raises UsageError for one that is cut, or is none."""
    try:
        lock = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: expected a mixture spec or a lock file, found: {error}") from error
    found = lock.get("schema") if isinstance(lock, dict) else type(lock).__name__
    if found != SCHEMA:
        raise UsageError(f"{path}: expected schema {SCHEMA!r}, found {found!r}")
    if missing := [
        key for key in ("seed", "action", "language", "groups", "datasets", "statistics") if key not in lock
    ]:
        raise UsageError(f"{path}: expected a whole lock, found none of {', '.join(missing)}; write it again")
    return lock


def action_settings(rule: ActionRule) -> dict[str, Any]:
    """The action rule as locks hold it; a rotation form only where a mixture asks for one, as before there were any."""
    return {key: value for key, value in asdict(rule).items() if (key, value) != ("rotation", "euler")}


def _change(old: Any, new: Any) -> str:
    """How a setting changed, of several only those that did."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return f"{old!r} became {new!r}"
    keys = (key for key in {**old, **new} if old.get(key) != new.get(key))
    return ", ".join(f"{key} {_change(old.get(key), new.get(key))}" for key in keys)


def compare_locks(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two locks, one sentence each; a dataset may lie at another path."""
    old, new = (_BEFORE | dict(lock) | {"language": _language(lock["language"])} for lock in (old, new))
    differences = [
        f"{key}: {_change(old.get(key), new.get(key))}"
        for key in (
            "schema",
            "seed",
            "layout",
            "action",
            "normalization",
            "language",
            "kinds",
            "corrupt_images",
            "lists",
        )
        if old.get(key) != new.get(key)
    ]
    differences += _compare_groups(_by_name(old["groups"]), _by_name(new["groups"]))
    before, after = ({_dataset(d): d["fingerprint"] for d in lock["datasets"]} for lock in (old, new))
    differences += _compare_names("dataset", before, after)
    differences += [
        f"dataset {name}: its content changed" for name in before if after.get(name, before[name]) != before[name]
    ]
    before, after = old["statistics"], new["statistics"]
    differences += _compare_names("statistics of", before, after)
    return differences + [
        f"statistics of {key} changed" for key in before if after.get(key, before[key]) != before[key]
    ]


def asdict_statistics(statistics: Any) -> dict[str, Any]:
    """The numbers of a norm key's statistics that normalization uses."""
    affines = {
        f"{array}_{kind}": getattr(statistics, array).affine(kind)
        for array in ("state", "action")
        for kind in ("quantile", "zscore")
    }
    return {name: [affine.center.tolist(), affine.half_range.tolist()] for name, affine in affines.items()}


def _language(rule: Mapping[str, Any]) -> dict[str, Any]:
    """A lock's language rule; those of earlier versions drew the phrases of proposals, where they drew segments."""
    return {"proposals": True, **rule} if rule["segment"] > 0 else {**rule, "proposals": False}


def _filters(spec: MixtureSpec) -> list[Filter]:
    return [rule for entry in spec.root.all_entries() for rule in entry.filters]


def _compare_groups(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    differences = _compare_names("group", old, new)
    for name in (name for name in old if name in new):
        before, after = old[name]["probability"], new[name]["probability"]
        if abs(before - after) > SHARE_TOLERANCE:
            differences.append(f"group {name}: share {before:.6f} became {after:.6f}")
        for number in _GROUP_NUMBERS:
            if old[name][number] != new[name][number]:
                differences.append(f"group {name}: {number} {old[name][number]} became {new[name][number]}")
    return differences


def _compare_names(what: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    gone = [f"{what} {name} is gone" for name in old if name not in new]
    return gone + [f"{what} {name} is new" for name in new if name not in old]


def _by_name(groups: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {group["name"]: group for group in groups}


def _dataset(entry: Mapping[str, Any]) -> str:
    return f"{entry['name']}/{entry['version']} {entry['split']}"


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
