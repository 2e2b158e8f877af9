"""The embodiment registry: which of the 18 slots each part of each robot fills."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.document import Fields, ListOf, MapOf, MarkedValue, Number, TextKind, read_value
from pipelines.contract.errors import UsageError, nearest
from pipelines.contract.registries import REPLACES, Registry, Stamp, own_entries, own_stamps, shipped_entries
from pipelines.contract.slots import CAMERAS, N_SLOTS, PARTS, is_joint_mode

_FILE = "embodiments.yaml"
BaseKind = Literal["none", "nonholonomic", "holonomic"]
Slots = dict[str, tuple[int, ...]]

# The slots a part may use, in order; a lone arm of seven joints pushes its gripper to slot 7 and leaves no second arm.
_AVAILABLE_SLOTS: dict[str, tuple[int, ...]] = {
    "arm0": (0, 1, 2, 3, 4, 5),
    "gripper0": (6,),
    "arm1": (7, 8, 9, 10, 11, 12),
    "gripper1": (13,),
    "base": (14, 15, 16),
    "torso": (17,),
}
_SLOTS_LONE_7DOF = _AVAILABLE_SLOTS | {"arm0": (0, 1, 2, 3, 4, 5, 6), "gripper0": (7,), "arm1": (), "gripper1": ()}
_SLOTS = MapOf(about="parts and their slots, such as 0-5", value=TextKind(about="slots such as 0-5 or 6"))
_VECTORS = Fields(
    about="slots of state and action", fields={"state": _SLOTS, "action": _SLOTS}, required=("state", "action")
)
ROBOT = Fields(
    about="a robot's entry",
    fields={
        "description": TextKind(about="a line on what the robot is"),
        "control_hz": Number(about="a rate in Hz"),
        "cameras": ListOf(about="camera slots", item=TextKind(about="a camera slot")),
        "base": TextKind(about="how the robot drives"),
        "joint_names": ListOf(about="names of an arm's joints, base to tool", item=TextKind(about="a joint's name")),
        "joint": _VECTORS,
        "ee": _VECTORS,
        "replaces": REPLACES,
    },
    required=("description", "control_hz", "cameras"),
)


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """The slots of each part in the state and in the action, for one family of control modes."""

    state: Slots
    action: Slots


@dataclass(frozen=True, kw_only=True)
class Embodiment:
    """One robot.

    control_hz: its usual control rate. cameras: the camera slots it usually has. base: how it drives.
    joint_names: what its drivers call the joints of an arm, from the base to the tool, without the arm's side.
    joint, ee: its slots in joint modes and in end-effector modes; None where it is not driven that way.
    """

    name: str
    description: str
    control_hz: float
    cameras: tuple[str, ...]
    base: BaseKind = "none"
    joint_names: tuple[str, ...] = ()
    joint: Vectors | None = None
    ee: Vectors | None = None

    def __post_init__(self) -> None:
        if unknown := [camera for camera in self.cameras if camera not in CAMERAS]:
            raise UsageError(f"robot {self.name}: camera {unknown[0]!r} is not a slot. {nearest(unknown[0], CAMERAS)}")
        if self.base not in get_args(BaseKind):
            raise UsageError(f"robot {self.name}: base {self.base!r}. {nearest(str(self.base), get_args(BaseKind))}")
        if not self.control_hz > 0:
            raise UsageError(f"robot {self.name}: expected control_hz above 0, found {self.control_hz}")
        for vectors in (self.joint, self.ee):
            for slots in (vectors.state, vectors.action) if vectors else ():
                _check_slots(self.name, slots)

    def vectors(self, control_mode: str) -> Vectors:
        """Returns the slots of `control_mode`. Raises UsageError if the robot is not driven that way."""
        vectors = self.joint if is_joint_mode(control_mode) else self.ee
        if vectors is None:
            raise UsageError(f"robot {self.name} has no slots for control mode {control_mode!r}; add them to its entry")
        return vectors


@dataclass(frozen=True, kw_only=True)
class Robots:
    """The robots of one conversion as they were when it was launched; workers have no registry of the project's own.

    known: by name. faults: what is wrong with entries that could not be read, by name. own: names of robots that are
    not shipped.
    """

    known: Mapping[str, Embodiment] = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)
    own: frozenset[str] = frozenset()

    def find(self, robot: str) -> Embodiment:
        """Returns one robot. Raises UsageError with the nearest names if it is unknown, or where its entry is wrong."""
        if robot in self.faults:
            raise UsageError(self.faults[robot])
        if robot not in self.known:
            raise UsageError(f"robot {robot!r} is not in the registry. {nearest(robot, self.known)}")
        return self.known[robot]


def slot_mask(slots: Slots) -> NDArray[np.bool_]:
    """Returns bool [18], True at every slot of every part."""
    mask = np.zeros(N_SLOTS, np.bool_)
    for numbers in slots.values():
        mask[list(numbers)] = True
    return mask


def fit_parts(robot: str, dims: Mapping[str, list[str]]) -> Slots:
    """Gives each named native dim of each part its slot; raises UsageError that names the dims left over.

    >>> fit_parts("ur5e", {"arm0": ["a", "b", "c", "d", "e", "f"], "gripper0": ["g"]})
    {'arm0': (0, 1, 2, 3, 4, 5), 'gripper0': (6,)}
    """
    for part in dims:
        if part not in PARTS:
            raise UsageError(f"robot {robot}: part {part!r} is unknown. {nearest(part, PARTS)}")
    lone_7dof = len(dims.get("arm0", ())) == 7 and not dims.get("arm1")
    available = _SLOTS_LONE_7DOF if lone_7dof else _AVAILABLE_SLOTS
    left_over = {
        part: names[len(available[part]) :] for part, names in dims.items() if len(names) > len(available[part])
    }
    if left_over:
        listed = "; ".join(f"{part}: {', '.join(names)}" for part, names in left_over.items())
        raise UsageError(
            f"robot {robot} does not fit the 18 slots; left over are {listed}. Two arms have six slots and one gripper "
            "each; choose the dims to keep in an adapter entry"
        )
    return {part: available[part][: len(names)] for part, names in dims.items()}


def load_embodiments() -> Registry[Embodiment]:
    """Returns every robot of the registries by name, each checked when it is first used."""
    return _load(own_stamps())


def get_embodiment(robot: str) -> Embodiment:
    """Returns one robot. Raises UsageError with the nearest names if it is unknown, or where its entry is wrong."""
    return load_embodiments()[robot]


def freeze_robots(robot: str = "") -> Robots:
    """Returns one robot, or all of the registries, to be carried by a job. Raises UsageError if `robot` is unknown."""
    registry = load_embodiments()
    known: dict[str, Embodiment] = {}
    faults: dict[str, str] = {}
    for name in [robot] if robot else registry:
        try:
            known[name] = registry[name]
        except UsageError as error:
            if robot:
                raise
            faults[name] = str(error)
    return Robots(known=known, faults=faults, own=frozenset(name for name in known if registry.is_own(name)))


def restore_embodiment(content: Mapping[str, Any]) -> Embodiment:
    """Builds a robot from what a manifest holds of it, the fields of `Embodiment` as JSON."""
    values = {each.name: content[each.name] for each in fields(Embodiment) if each.name in content}
    for family in ("joint", "ee"):
        if stored := values.get(family):
            sides = {side: {part: tuple(n) for part, n in stored[side].items()} for side in ("state", "action")}
            values[family] = Vectors(**sides)
    tuples = {key: tuple(values.get(key, ())) for key in ("cameras", "joint_names")}
    return Embodiment(**{**values, **tuples})


def parse_embodiment(name: str, entry: Mapping[str, Any]) -> Embodiment:
    """Builds one robot from an entry that Python code wrote. Raises UsageError on unknown keys or slots outside the
    layout."""
    return _build(name, read_value(entry, ROBOT, f"robot {name}"))


@functools.lru_cache(maxsize=8)
def _load(own: tuple[Stamp, ...]) -> Registry[Embodiment]:
    return Registry("robot", shipped_entries("robots", _FILE), own_entries("robots", own), ROBOT, _build)


def _build(name: str, content: MarkedValue) -> Embodiment:
    entry = content.unmarked()
    vectors: dict[str, Vectors] = {}
    for family in ("joint", "ee"):
        if family in entry:
            state, action = (_parse_slots(name, entry[family][side]) for side in ("state", "action"))
            vectors[family] = Vectors(state=state, action=action)
    return Embodiment(
        name=name,
        description=entry["description"],
        control_hz=float(entry["control_hz"]),
        cameras=tuple(entry["cameras"]),
        base=entry.get("base", "none"),
        joint_names=tuple(entry.get("joint_names", ())),
        joint=vectors.get("joint"),
        ee=vectors.get("ee"),
    )


def _parse_slots(robot: str, entry: Mapping[str, Any]) -> Slots:
    slots: Slots = {}
    for part, numbers in entry.items():
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", str(numbers))
        if not match:
            raise UsageError(f"robot {robot}: {part}: expected slots such as 0-5 or 6, found {numbers!r}")
        first, last = int(match[1]), int(match[2] or match[1])
        slots[part] = tuple(range(first, last + 1))
    return slots


def _check_slots(robot: str, slots: Slots) -> None:
    expected = fit_parts(robot, {part: [f"{part}[{i}]" for i in range(len(n))] for part, n in slots.items()})
    for part, numbers in slots.items():
        if numbers != expected[part]:
            raise UsageError(f"robot {robot}: {part}: expected slots {expected[part]}, found {numbers}")
