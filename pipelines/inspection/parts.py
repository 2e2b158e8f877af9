"""Which native columns are the arms, grippers, base, torso, waist and head of a robot, in state and in action."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from pipelines.contract.native import NativeEpisode
from pipelines.inspection.description import Description
from pipelines.inspection.evidence import has_unit_quaternion, is_gripper_like
from pipelines.inspection.roles import Block, Kind, Side, blocks_of, is_used, side_of
from pipelines.mapping.dim_names import words_of

Family = Literal["joint", "ee", "unknown"]
# Of several keys for one part, the words of those that name where the robot is, best first.
_PREFERRED = ("state", "qpos", "position", "positions", "pos", "joint")
_ARM_KINDS: dict[Family, tuple[Kind, ...]] = {
    "joint": ("joints",),
    "ee": ("pose", "position"),
    "unknown": ("vector",),
}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """The native columns of one arm: one block, or a position and its rotation, and its gripper's."""

    blocks: tuple[Block, ...]
    gripper: Block | None = None

    @property
    def width(self) -> int:
        return sum(block.width for block in self.blocks)


@dataclass(frozen=True, kw_only=True)
class Body:
    """The parts of one side of a robot: arms by number (0 left or only, 1 right), and what else there is."""

    family: Family
    arms: Mapping[int, Arm]
    base: Block | None = None
    torso: Block | None = None
    waist: Block | None = None
    head: Block | None = None
    others: tuple[Block, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Bodies:
    """Every reading of one side: by joints, by end-effector poses, or by vectors whose meaning nothing says."""

    by_family: Mapping[Family, Body] = field(default_factory=dict)

    def __getitem__(self, family: Family) -> Body:
        return self.by_family[family]

    def __contains__(self, family: object) -> bool:
        return family in self.by_family


def find_bodies(description: Description, episodes: Sequence[NativeEpisode], side: Side) -> Bodies:
    """Reads the keys of one side as parts of a robot."""
    used = [feature for feature in description.features if is_used(feature) and side_of(feature) == side]
    whole = [block for feature in used for block in blocks_of(feature)]
    # Where a key of its own holds the gripper, no column of another key is taken for one.
    has_gripper = any(block.kind == "gripper" for block in whole)
    grippers = {} if has_gripper else _gripper_columns(description, episodes)
    blocks = [part for block in whole for part in _split(block, episodes, grippers.get(block.width, set()))]
    bodies: dict[Family, Body] = {}
    for family, kinds in _ARM_KINDS.items():
        arms = _arms(blocks, kinds)
        if arms:
            bodies[family] = _with_rest(family, arms, blocks)
    if not bodies and any(block.kind == "base" for block in blocks):
        bodies["joint"] = _with_rest("joint", {}, blocks)
    return Bodies(by_family=bodies)


def _gripper_columns(description: Description, episodes: Sequence[NativeEpisode]) -> dict[int, set[int]]:
    """Width -> the columns that look like grippers in any key of that width: a state has the columns of its action."""
    found: dict[int, set[int]] = {}
    for feature in description.features:
        if is_used(feature) and 3 < feature.width < 18:
            columns = (i for i in range(3, feature.width) if is_gripper_like(episodes, feature.key, i))
            found.setdefault(feature.width, set()).update(columns)
    return found


def _split(block: Block, episodes: Sequence[NativeEpisode], grippers: set[int]) -> Iterator[Block]:
    """A block whose columns have no names, as the arms and grippers that its width and numbers say."""
    if block.kind not in ("vector", "joints", "pose") or block.is_named:
        yield block
        return

    spans = _spans_of_pose(block, episodes) if block.kind == "pose" else _spans(block.width, grippers.__contains__)
    if block.kind == "vector" and block.width in (7, 8) and has_unit_quaternion(episodes, block.key, 3):
        spans = _spans_of_pose(block, episodes)
    for start, stop, kind, arm in spans:
        own: Kind = block.kind if kind == "arm" else kind
        arm = block.arm if arm is None or block.arm is not None else arm
        yield replace(block, start=start, stop=stop, kind=own, arm=arm)


Span = tuple[int, int, "Kind | Literal['arm']", int | None]


def _spans(width: int, is_gripper: Callable[[int], bool]) -> list[Span]:
    """Arms and grippers of a vector without names, by its width and by which columns look like grippers."""
    if width in (3, 4, 6, 7, 8):
        if width > 3 and is_gripper(width - 1):
            return [(0, width - 1, "arm", None), (width - 1, width, "gripper", None)]
        return [(0, width, "arm", None)] if width < 8 else [(0, 7, "arm", None), (7, 8, "gripper", None)]
    if width == 9:
        return [(0, 7, "arm", None), (7, 9, "gripper", None)]
    if width == 12:
        return [(0, 6, "arm", 0), (6, 12, "arm", 1)]
    if width in (14, 16, 17) and is_gripper(6) and is_gripper(13):
        dual: list[Span] = [(0, 6, "arm", 0), (6, 7, "gripper", 0), (7, 13, "arm", 1), (13, 14, "gripper", 1)]
        return dual if width == 14 else [*dual, (14, width, "base", None)]
    if width == 14 and is_gripper(12) and is_gripper(13):
        return [(0, 6, "arm", 0), (6, 12, "arm", 1), (12, 13, "gripper", 0), (13, 14, "gripper", 1)]
    if width == 14:
        return [(0, 7, "arm", 0), (7, 14, "arm", 1)]
    if width == 16 and is_gripper(14) and is_gripper(15):
        return [(0, 7, "arm", 0), (7, 14, "arm", 1), (14, 15, "gripper", 0), (15, 16, "gripper", 1)]
    if width == 16:
        return [(0, 7, "arm", 0), (7, 8, "gripper", 0), (8, 15, "arm", 1), (15, 16, "gripper", 1)]
    return []


def _spans_of_pose(block: Block, episodes: Sequence[NativeEpisode]) -> list[Span]:
    """Position, rotation and gripper of a pose without names."""
    rotation: list[Span] = [(3, 6, "angles", None)]
    if block.width >= 7 and has_unit_quaternion(episodes, block.key, 3):
        rotation = [(3, 7, "quaternion", None)]
    end = rotation[0][1]
    rest: list[Span] = [(end, block.width, "gripper", None)] if end < block.width else []
    return [(0, 3, "position", None), *rotation, *rest]


def _arms(blocks: Sequence[Block], kinds: Sequence[Kind]) -> dict[int, Arm]:
    """The arms by number; an only arm is 0, whichever side it is on."""
    has_two = {block.arm for block in blocks if block.kind in kinds} >= {0, 1}
    arms = {}
    for number in (0, 1) if has_two else (0,):
        own = [part for block in blocks for part in _of_arm(block, number, has_two)]
        chosen = _best_key([block for block in own if block.kind in kinds])
        if not chosen:
            continue
        if chosen[0].kind == "position":
            rotation = _rotation_for(chosen[0], own)
            chosen = [chosen[0], *([rotation] if rotation else [])]
        arms[number] = Arm(blocks=tuple(chosen), gripper=_gripper_for(chosen[0], own))
    return arms


def _of_arm(block: Block, number: int, has_two: bool) -> Iterator[Block]:
    """The block where it is the arm's; of one array for the grippers of two arms, the column of this one."""
    if not has_two or block.arm == number:
        yield block
    elif block.kind == "gripper" and block.arm is None and block.width == 2:
        yield replace(block, start=block.start + number, stop=block.start + number + 1, arm=number)


def _best_key(blocks: Sequence[Block]) -> list[Block]:
    """The blocks of the key that most likely says where the robot is."""
    keys = list(dict.fromkeys(block.key for block in blocks))
    if not keys:
        return []

    def rank(key: str) -> tuple[int, int]:
        words = words_of(key)
        return min((_PREFERRED.index(word) for word in words if word in _PREFERRED), default=9), len(key)

    best = min(keys, key=rank)
    return [block for block in blocks if block.key == best]


def _rotation_for(position: Block, blocks: Sequence[Block]) -> Block | None:
    found = [block for block in blocks if block.kind in ("angles", "quaternion")]
    near = sorted(found, key=lambda block: (block.key != position.key, -_common(block.key, position.key), block.start))
    return near[0] if near else None


def _gripper_for(arm: Block, blocks: Sequence[Block]) -> Block | None:
    found = [block for block in blocks if block.kind == "gripper"] or [
        block for block in blocks if block.kind == "hand" and block.key == arm.key
    ]
    near = sorted(found, key=lambda block: (block.key != arm.key, -_common(block.key, arm.key), len(block.key)))
    return near[0] if near else None


def _common(one: str, other: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _with_rest(family: Family, arms: Mapping[int, Arm], blocks: Sequence[Block]) -> Body:
    taken = [block for arm in arms.values() for block in (*arm.blocks, arm.gripper) if block is not None]
    keys = {block.key for block in taken}
    base = next((block for block in blocks if block.kind == "base" and block.width in (2, 3)), None)
    torso = next((block for block in blocks if block.kind == "torso" and block.width == 1), None)
    # A waist turns in joints, a torso is lifted by one.
    waist = next((block for block in blocks if block.kind == "torso" and block.width > 1), None)
    head = next((block for block in blocks if block.kind == "head"), None)
    used = [*taken, *(block for block in (base, torso, waist, head) if block)]
    taken_spans = {(block.key, i) for block in used for i in range(block.start, block.stop)}
    left = [block for block in blocks if block.key in keys]
    others = tuple(b for b in left if not any((b.key, i) in taken_spans for i in range(b.start, b.stop)))
    return Body(family=family, arms=arms, base=base, torso=torso, waist=waist, head=head, others=others)
