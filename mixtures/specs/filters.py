"""Filters of a mixture spec: what they match, and how they are read from YAML."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixtures.specs.grammar import (
    ABOUT_FILTER,
    CHOICES,
    EPISODE_LIMITS,
    GROUP_KEYS,
    SLOT_ARRAYS,
    STEP_KEYS,
    STEP_LIMITS,
    STEP_PREDICATES,
)
from pipelines.contract.document import Mark, MarkedValue, SpecError
from pipelines.contract.errors import UsageError
from pipelines.shards.episode_lists import read_episode_list


@dataclass(frozen=True, kw_only=True)
class SlotRange:
    """The physical values of one slot of `state` or `action` that match, both ends included."""

    array: str
    slot: int
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A list of episodes from outside. sha256: of its content; has_ranges: whether it is about single steps."""

    path: str
    sha256: str
    has_ranges: bool


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Keeps or drops what a predicate holds for, or what meets all conditions.

    predicate: idle, recovery, segment (steps), success, failure, language (episodes), or None where the others decide.
    values: allowed values of attributes (for `cameras`, which must all be there). limits: by key of the grammar's
    EPISODE_LIMITS and STEP_LIMITS. ranges: of slots, at each step. listed: a list that names the episodes, or steps.
    """

    keep: bool
    mark: Mark
    predicate: str | None = None
    values: tuple[tuple[str, tuple[str, ...]], ...] = ()
    limits: tuple[tuple[str, float], ...] = ()
    ranges: tuple[SlotRange, ...] = ()
    listed: Listed | None = None

    @property
    def is_about_steps(self) -> bool:
        keys = [key for key, _ in (*self.values, *self.limits)]
        has_steps = bool(self.ranges) or self.listed is not None and self.listed.has_ranges
        return self.predicate in STEP_PREDICATES or has_steps or not set(keys).isdisjoint(STEP_KEYS)

    @property
    def rule(self) -> tuple[Any, ...]:
        """What it does, wherever it stands."""
        listed = self.listed.sha256 if self.listed else ""
        return self.keep, self.predicate, self.values, self.limits, self.ranges, listed

    def __str__(self) -> str:
        ranges = {f"{r.array} {r.slot}": [r.low, r.high] for r in self.ranges}
        listed = {"list": Path(self.listed.path).name} if self.listed else {}
        conditions = {k: list(v) for k, v in self.values} | dict(self.limits) | ranges | listed
        return f"{'keep' if self.keep else 'drop'}: {self.predicate or conditions}"


def parse_filters(document: MarkedValue, n_slots: int) -> tuple[Filter, ...]:
    """The filters of a document or an item of it. n_slots: the width of the mixture's vectors.

    Raises SpecError, also for a list that cannot be read.
    """
    return tuple(_filter(item, n_slots) for item in document.plain("filters", []))


def _filter(item: MarkedValue, n_slots: int) -> Filter:
    if len(item.value) != 1:
        raise SpecError(item.mark, f"expected one of drop or keep in a filter, found {len(item.value)} keys")
    ((action, match),) = item.value.items()
    if isinstance(match.value, str):
        return Filter(keep=action == "keep", mark=match.mark, predicate=match.value)
    if not match.value:
        raise SpecError(match.mark, f"expected {ABOUT_FILTER}, found an empty mapping")
    values = {key: tuple(v.value for v in match.plain(key)) for key in (*GROUP_KEYS, *CHOICES) if key in match}
    limits = {key: float(match.plain(key)) for key in (*EPISODE_LIMITS, *STEP_LIMITS) if key in match}
    ranges = [
        _slot_range(array, slot, bounds, n_slots)
        for array in SLOT_ARRAYS
        for slot, bounds in match.plain(array, {}).items()
    ]
    return Filter(
        keep=action == "keep",
        mark=match.mark,
        values=tuple(values.items()),
        limits=tuple(limits.items()),
        ranges=tuple(ranges),
        listed=_listed(match["list"]) if "list" in match else None,
    )


def _listed(item: MarkedValue) -> Listed:
    """Reads a list once, so that one that cannot be read is an error of the spec."""
    if "://" in item.value:
        raise SpecError(item.mark, f"expected a file of this machine as a list, found {item.value}; fetch it first")
    # Of the file in which it is written, which a stage or an include may have brought here.
    path = resolve_path(item.value, str(Path(item.mark.file).parent) if item.mark.line else ".")
    try:
        found = read_episode_list(path)
    except UsageError as error:
        raise SpecError(item.mark, str(error)) from error
    return Listed(path=path, sha256=found.sha256, has_ranges=found.has_ranges)


def _slot_range(array: str, slot: str, bounds: MarkedValue, n_slots: int) -> SlotRange:
    numbers = [item.value for item in bounds.value]
    if not slot.isdigit() or int(slot) >= n_slots:
        raise SpecError(
            bounds.mark, f"expected a slot from 0 to {n_slots - 1} in the ranges of {array}, found {slot!r}"
        )
    if len(numbers) != 2 or numbers[0] > numbers[1]:
        message = f"expected the lowest and the highest value of {array} {slot}, found {numbers}"
        raise SpecError(bounds.mark, message)
    return SlotRange(array=array, slot=int(slot), low=numbers[0], high=numbers[1])


def resolve_path(path: str, folder: str) -> str:
    """A path as written, seen from a folder or URI; absolute paths and URIs stay as they are."""
    if "://" in path or Path(path).is_absolute():
        return path
    if "://" in folder:
        return folder.rstrip("/") + "/" + path.removeprefix("./").rstrip("/")
    return str(Path(folder) / path)
