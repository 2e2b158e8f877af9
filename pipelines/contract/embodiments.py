"""The embodiment registry: which slots of its layout each part of each robot fills."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.document import Fields, ListOf, MapOf, MarkedValue, Number, TextKind, read_value
from pipelines.contract.errors import UsageError, nearest
from pipelines.contract.layouts import Slots, get_layout, load_layouts, parse_slots
from pipelines.contract.registries import REPLACES, Registry, Stamp, own_entries, own_stamps, shipped_entries
from pipelines.contract.slots import CAMERAS, LAYOUT, PARTS, is_joint_mode

_FILE = "embodiments.yaml"
BaseKind = Literal["none", "nonholonomic", "holonomic"]
_SLOTS = MapOf(about="parts and their slots, such as 0-5", value=TextKind(about="slots such as 0-5 or 6"))
_VECTORS = Fields(
    about="slots of state and action",
    fields={"layout": TextKind(about="a layout such as pi32/v1"), "state": _SLOTS, "action": _SLOTS},
    required=("state", "action"),
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
    """The slots of each part in the state and in the action, for one family of control modes, and their layout."""

    state: Slots
    action: Slots
    layout: str = LAYOUT

    @property
    def n_slots(self) -> int:
        """The width of the vectors."""
        return get_layout(self.layout).n_slots


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
            if vectors is not None:
                _check_vectors(self.name, vectors)

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


def slot_mask(slots: Slots, layout: str = LAYOUT) -> NDArray[np.bool_]:
    """Returns bool [d], True at every slot of every part; d: the width of the layout."""
    mask = np.zeros(get_layout(layout).n_slots, np.bool_)
    for numbers in slots.values():
        mask[list(numbers)] = True
    return mask


def fit_parts(robot: str, dims: Mapping[str, list[str]], layout: str = LAYOUT) -> Slots:
    """Gives each named native dim of each part its slot; raises UsageError that names the dims left over.

    >>> fit_parts("ur5e", {"arm0": ["a", "b", "c", "d", "e", "f"], "gripper0": ["g"]})
    {'arm0': (0, 1, 2, 3, 4, 5), 'gripper0': (6,)}
    """
    for part in dims:
        if part not in PARTS:
            raise UsageError(f"robot {robot}: part {part!r} is unknown. {nearest(part, PARTS)}")
    used = get_layout(layout)
    widths = {part: len(names) for part, names in dims.items()}
    if (slots := used.fit(widths)) is not None:
        return slots
    available = used.available(widths)
    left_over = {part: names[len(available.get(part, ())) :] for part, names in dims.items()}
    listed = "; ".join(f"{part}: {', '.join(names)}" for part, names in left_over.items() if names)
    raise UsageError(
        f"robot {robot} does not fit the {used.n_slots} slots of {layout}; left over are {listed}. "
        f"{_other_layouts(widths)}"
    )


def _other_layouts(widths: Mapping[str, int]) -> str:
    """What to do with a robot that does not fit its layout, as a sentence."""
    roomy = [name for name, layout in load_layouts().items() if layout.fit(widths) is not None]
    room = f"`layout: {roomy[0]}` beside the robot's slots has room for them; or" if roomy else "No layout has room;"
    return f"{room} choose the dims to keep in an adapter entry"


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
            values[family] = Vectors(**sides, layout=stored.get("layout", LAYOUT))
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
            vectors[family] = Vectors(state=state, action=action, layout=entry[family].get("layout", LAYOUT))
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
    try:
        return {part: parse_slots(str(numbers)) for part, numbers in entry.items()}
    except UsageError as error:
        raise UsageError(f"robot {robot}: {error}") from error


def _check_vectors(robot: str, vectors: Vectors) -> None:
    """Raises UsageError unless every part lies where the layout has it, in the state and in the action alike."""
    for slots in (vectors.state, vectors.action):
        dims = {part: [f"{part}[{i}]" for i in range(len(numbers))] for part, numbers in slots.items()}
        expected = fit_parts(robot, dims, vectors.layout)
        for part, numbers in slots.items():
            if numbers != expected[part]:
                raise UsageError(f"robot {robot}: {part}: expected slots {expected[part]}, found {numbers}")
    for part in vectors.state.keys() & vectors.action.keys():
        pairs = zip(vectors.state[part], vectors.action[part], strict=False)
        # A lone arm of seven joints has other slots than one of two: a state of one arm would not be its action's.
        if any(a != b for a, b in pairs):
            raise UsageError(
                f"robot {robot}: {part}: expected one set of slots for state and action, found {vectors.state[part]} "
                f"and {vectors.action[part]}"
            )
