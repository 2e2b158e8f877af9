"""The registry entries that a dataset was made with: kept in its manifest, read back, and compared with today's."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pipelines.contract.embodiments import Robots, freeze_robots, restore_embodiment
from pipelines.contract.errors import UsageError
from pipelines.conversion.measure import Measured
from pipelines.mapping.adapters import FROM_LOG, Adapter, restore_adapter
from pipelines.shards.manifest import Manifest

# What decides the numbers in the slots; cameras have counts of their own, and words change nothing.
_MEANING = ("control_mode", "control_hz", "units", "state", "action", "relabel", "shift_before", "bag")
_ROBOT_MEANING = ("control_hz", "base", "joint", "ee")


def robots_for(adapter: Adapter, robot: str) -> Robots:
    """The robots that a job takes along: the one it is for, or all where each log names its own.

    robot: replaces the adapter's, if any. Raises UsageError where it is unknown or its entry is wrong.
    """
    return freeze_robots(robot or ("" if adapter.robot == FROM_LOG else adapter.robot))


def used_robots(robots: Robots, measured: Measured, before: Manifest | None) -> dict[str, Any]:
    """The entries of the robots that a dataset has, by name, for its manifest.

    before: of the version that this one adds to.
    """
    names = sorted({key.split("/")[0] for key in measured.statistics} & robots.known.keys())
    return {**(before.robots if before else {}), **{name: asdict(robots.known[name]) for name in names}}


def stored_robots(manifest: Manifest) -> Robots:
    """The robots of a dataset as its manifest holds them; of a manifest that holds none, those of the registries."""
    if not manifest.robots:
        return robots_for(restore_adapter(manifest.adapter), manifest.robot or "")
    return Robots(known={name: restore_embodiment(content) for name, content in manifest.robots.items()})


def check_same_adapter(manifest: Manifest, adapter: Adapter, advice: str) -> None:
    """Raises UsageError where an entry is another than the dataset's, or gives the same slots another meaning."""
    if (name := manifest.adapter["name"]) != adapter.name:
        raise UsageError(f"{advice}: expected adapter {name}, as there, found {adapter.name}")
    _compare(f"adapter {name}", asdict(restore_adapter(manifest.adapter)), asdict(adapter), _MEANING, advice)


def check_same_robots(manifest: Manifest, robots: Robots, advice: str) -> None:
    """Raises UsageError where a robot of the dataset has another rate or other slots now."""
    for name, content in manifest.robots.items():
        if name in robots.known:
            stored = asdict(restore_embodiment(content))
            _compare(f"robot {name}", stored, asdict(robots.known[name]), _ROBOT_MEANING, advice)


def _compare(what: str, stored: Mapping[str, Any], now: Mapping[str, Any], keys: tuple[str, ...], advice: str) -> None:
    if changed := [key for key in keys if stored[key] != now[key]]:
        raise UsageError(
            f"{advice}: expected {what} as it was then, found another {' and '.join(changed)}. Give the new entry a "
            "name of its own, and convert everything with it into a new --version"
        )
