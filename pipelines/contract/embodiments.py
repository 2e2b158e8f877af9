"""The embodiment registry: which of the 18 slots each part of each robot fills."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.document import (
    Anything,
    Fields,
    ListOf,
    MapOf,
    Number,
    SpecError,
    TextKind,
    read_registry,
    read_value,
)
from pipelines.contract.errors import UsageError, nearest
from pipelines.contract.slots import CAMERAS, N_SLOTS, PARTS, is_joint_mode

SCHEMA = "embodimix.embodiments/v1"
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
_ENTRY = Fields(
    about="a robot's entry",
    fields={
        "description": TextKind(about="a line on what the robot is"),
        "control_hz": Number(about="a rate in Hz"),
        "cameras": ListOf(about="camera slots", item=TextKind(about="a camera slot")),
        "base": TextKind(about="how the robot drives"),
        "joint_names": ListOf(about="names of an arm's joints, base to tool", item=TextKind(about="a joint's name")),
        "joint": _VECTORS,
        "ee": _VECTORS,
    },
    required=("description", "control_hz", "cameras"),
)
_REGISTRY = Fields(
    about="an embodiment registry",
    fields={
        "schema": TextKind(about="the schema of the file"),
        "vectors": Anything(about="anchors that entries refer to"),
        "robots": MapOf(about="robots by name", value=_ENTRY),
    },
    required=("schema", "robots"),
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


def load_embodiments() -> Mapping[str, Embodiment]:
    """Returns every robot of the registry by name. Raises UsageError where an entry is wrong."""
    return _load()


def get_embodiment(robot: str) -> Embodiment:
    """Returns one robot. Raises UsageError with the nearest names if it is unknown."""
    embodiments = load_embodiments()
    if robot not in embodiments:
        raise UsageError(f"robot {robot!r} is not in the embodiment registry. {nearest(robot, embodiments)}")
    return embodiments[robot]


def parse_embodiment(name: str, entry: Mapping[str, Any]) -> Embodiment:
    """Builds one robot from an entry that Python code wrote. Raises UsageError on unknown keys or slots outside the
    layout."""
    return _build(name, read_value(entry, _ENTRY, f"robot {name}").unmarked())


@functools.cache
def _load() -> Mapping[str, Embodiment]:
    robots = {}
    for name, marked in read_registry("embodiments.yaml", _REGISTRY, SCHEMA)["robots"].value.items():
        try:
            robots[name] = _build(name, marked.unmarked())
        except UsageError as error:
            raise SpecError(marked.mark, str(error)) from error
    return robots


def _build(name: str, entry: Mapping[str, Any]) -> Embodiment:
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
