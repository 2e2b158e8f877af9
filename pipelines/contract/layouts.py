"""The layouts of vectors, read from `layouts.yaml`: how many slots there are, and which of them each part may use."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, get_args

from pipelines.contract.document import Fields, MapOf, MarkedValue, Number, SpecError, TextKind, read_document
from pipelines.contract.errors import UsageError, nearest
from pipelines.contract.slots import PARTS, Part

SCHEMA = "embodimix.layouts/v1"
Slots = dict[str, tuple[int, ...]]
# A lone arm of so many joints has slots of its own.
LONG_ARM = 7

_SLOTS = TextKind(about="slots such as 0-5, 6 or 0-5+18")
_PARTS = Fields(about="parts and their slots", fields={part: _SLOTS for part in get_args(Part)})
_LAYOUT = Fields(
    about="a layout",
    fields={
        "description": TextKind(about="a line on which robots it holds"),
        "slots": Number(about="the number of slots", integer=True, above=0),
        "parts": _PARTS,
        "lone_arm_of_7": _PARTS,
        "reserved": _SLOTS,
        "from": MapOf(about="layouts and where their slots go", value=_SLOTS),
    },
    required=("description", "slots", "parts", "lone_arm_of_7"),
)
_REGISTRY = Fields(
    about="a registry of layouts",
    fields={
        "schema": TextKind(about="the schema of the file", choices=(SCHEMA,)),
        "layouts": MapOf(about="layouts", value=_LAYOUT),
    },
    required=("schema", "layouts"),
)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One layout. n_slots: the width of its vectors.

    parts: the slots that each part may use, in order. lone_arm: those of arm and gripper of a robot whose only arm has
    seven joints. reserved: slots without a meaning yet. sources: by other layout, the slot that each of its slots
    becomes here.
    """

    name: str
    description: str
    n_slots: int
    parts: Mapping[str, tuple[int, ...]]
    lone_arm: Mapping[str, tuple[int, ...]]
    reserved: tuple[int, ...] = ()
    sources: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (used := sorted(self.by_part)) != list(range(self.n_slots)):
            raise UsageError(
                f"layout {self.name}: expected every slot from 0 to {self.n_slots - 1} in one part or reserved, "
                f"found {used}"
            )
        if {slot for slots in self.lone_arm.values() for slot in slots} & set(self._behind_arms):
            raise UsageError(f"layout {self.name}: lone_arm_of_7: expected slots of arms and grippers only")

    @property
    def by_part(self) -> tuple[int, ...]:
        """All slots in the order in which people read them: part by part, whatever their numbers."""
        return tuple(slot for slots in (*self.parts.values(), self.reserved) for slot in slots)

    @property
    def _behind_arms(self) -> tuple[int, ...]:
        others = (slots for part, slots in self.parts.items() if not part.startswith(("arm", "gripper")))
        return tuple(slot for slots in (*others, self.reserved) for slot in slots)

    def available(self, n_dims: Mapping[str, int]) -> Slots:
        """The slots that each part of a robot may use, whose parts have so many dims.

        >>> get_layout("pi18/v1").available({"arm0": 7, "gripper0": 1})["gripper0"]
        (7,)
        """
        if n_dims.get("arm0", 0) != LONG_ARM or n_dims.get("arm1"):
            return dict(self.parts)
        body = {part: slots for part, slots in self.parts.items() if not part.startswith(("arm", "gripper"))}
        return body | dict(self.lone_arm)

    def fit(self, n_dims: Mapping[str, int]) -> Slots | None:
        """The slots of every part of a robot, whose parts have so many dims; None where they do not fit."""
        available = self.available(n_dims)
        if any(n > len(available.get(part, ())) for part, n in n_dims.items()):
            return None
        return {part: available[part][:n] if n else () for part, n in n_dims.items()}

    def slots_from(self, source: str) -> tuple[int, ...] | None:
        """The slot that each slot of another layout becomes here; None where none is declared."""
        return tuple(range(self.n_slots)) if source == self.name else self.sources.get(source)


def load_layouts() -> Mapping[str, Layout]:
    """Returns every layout by name. Raises UsageError where one is wrong."""
    return _load()


def get_layout(name: str) -> Layout:
    """Returns one layout. Raises UsageError with the nearest names if it is unknown."""
    layouts = load_layouts()
    if name not in layouts:
        raise UsageError(f"layout {name!r} is unknown. {nearest(name, layouts)}")
    return layouts[name]


def parse_slots(text: str) -> tuple[int, ...]:
    """Reads slots in their order. Raises UsageError.

    >>> parse_slots("0-2+18"), parse_slots("6")
    ((0, 1, 2, 18), (6,))
    """
    numbers: list[int] = []
    for run in text.split("+"):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", run)
        if not match:
            raise UsageError(f"expected slots such as 0-5, 6 or 0-5+18, found {text!r}")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UsageError(f"expected slots from the lowest to the highest, found {text!r}")
        numbers += range(first, last + 1)
    return tuple(numbers)


@functools.cache
def _load() -> Mapping[str, Layout]:
    layouts: dict[str, Layout] = {}
    with resources.as_file(resources.files("pipelines").joinpath("layouts.yaml")) as path:
        document = read_document(path, _REGISTRY, {}, "a registry of layouts")
    for name, marked in document["layouts"].value.items():
        try:
            layouts[name] = _build(name, marked)
            for source, slots in layouts[name].sources.items():
                _check_map(layouts[name], layouts.get(source), source, slots)
        except UsageError as error:
            raise SpecError(marked.mark, str(error)) from error
    return layouts


def _build(name: str, marked: MarkedValue) -> Layout:
    # Norm keys name a layout by two components, and what stands behind them are units.
    if not re.fullmatch(r"[a-z]\w*/v\d+", name):
        raise UsageError(f"expected a layout's name such as pi18/v1, found {name!r}")
    entry: dict[str, Any] = marked.unmarked()
    return Layout(
        name=name,
        description=entry["description"],
        n_slots=entry["slots"],
        parts=_parse_parts(entry["parts"]),
        lone_arm=_parse_parts(entry["lone_arm_of_7"]),
        reserved=parse_slots(entry["reserved"]) if "reserved" in entry else (),
        sources={source: parse_slots(slots) for source, slots in entry.get("from", {}).items()},
    )


def _parse_parts(entry: Mapping[str, str]) -> Slots:
    return {part: parse_slots(entry[part]) for part in PARTS if part in entry}


def _check_map(target: Layout, source: Layout | None, name: str, slots: tuple[int, ...]) -> None:
    """Raises UsageError unless every robot of the source's means the same by a slot and by the slot that it becomes.

    What a slot holds depends on the robot: the gripper of a lone arm of seven joints lies where a second arm begins. So
    each number of dims of each part is put through the map, of one arm and of two.
    """
    where = f"layout {target.name}: from {name}"
    if source is None:
        raise UsageError(f"{where}: expected a layout that stands before it")
    if len(slots) != source.n_slots or len(set(slots)) != len(slots) or max(slots) >= target.n_slots:
        raise UsageError(f"{where}: expected {source.n_slots} different slots below {target.n_slots}, found {slots}")
    robots = [source.lone_arm, source.parts, {part: source.parts[part] for part in source.parts if part[-1] != "1"}]
    for robot in robots:
        for n_arm in range(1, len(robot.get("arm0", ())) + 1):
            dims = {part: n_arm if part.startswith("arm") else len(own) for part, own in robot.items()}
            before, after = source.fit(dims), target.fit(dims)
            moved = {part: tuple(slots[slot] for slot in own) for part, own in (before or {}).items()}
            if before is not None and moved != after:
                raise UsageError(f"{where}: expected a robot of {dims} in {after}, found {moved}")
