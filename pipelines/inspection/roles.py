"""What each native column is by the names that its source gives: joints, grippers, poses, bases, and of which arm."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pipelines.inspection.description import Feature
from pipelines.mapping.bag_form import COMMAND_TYPES
from pipelines.mapping.dim_names import words_of

Side = Literal["state", "action"]
Kind = Literal[
    "joints", "gripper", "position", "angles", "quaternion", "pose", "base", "torso", "head", "leg", "hand", "vector"
]
_ACTION = frozenset("action actions command commands cmd target leader master teleop control act".split())
# What a key holds that is neither where the robot is nor where it is to go.
_OTHER = frozenset(
    "velocity velocities vel qvel effort efforts torque torques current currents acceleration acc force forces wrench "
    "ft embedding embeddings latency stamp demo prev previous successful success info controller intrinsics extrinsics "
    "reward rewards annotation validity index id lang language instruction feature features depth env object objects "
    "desired jacobian mass temperature voltage tactile imu lidar contact contacts".split()
)
_SIDES = {"left": 0, "right": 1, "l": 0, "r": 1}
# Drivers of grippers are called by their makers, and their only joint a knuckle.
_GRIPPER = frozenset("gripper grippers grip claw jaw knuckle robotiq wsg onrobot".split())
_JOINT = frozenset("joint joints shoulder elbow forearm upperarm qpos q motor arm".split())
_WRIST = frozenset("pan tilt flex roll yaw pitch lift rotate angle wrist".split())
_ARM_ROOTS = _JOINT | {"wrist"}
_BASE = frozenset("base wheel wheels chassis mobile platform cmdvel twist odom".split())
_TORSO = frozenset("torso lift spine column".split())
_HEAD = frozenset("head neck".split())
_LEG = frozenset("leg legs hip knee ankle".split())
_HAND = frozenset("hand thumb index middle ring pinky little finger fingers".split())
_END = frozenset("eef ee tcp effector cartesian pose tool endpose".split())
_QUATERNION = frozenset("quat quaternion quaternions".split())
_ANGLES = frozenset("rotvec rpy euler axis rot rotation ori orientation".split())
_POSITION = frozenset("pos position positions xyz translation".split())


@dataclass(frozen=True, kw_only=True)
class Block:
    """Columns `start` up to `stop` of a key that are one thing of one arm.

    arm: 0 left, 1 right, None where nothing says which. names: of the columns, where the source gives them; is_named:
    whether the kind comes from them, not from the key and the width.
    """

    feature: Feature
    start: int
    stop: int
    kind: Kind
    arm: int | None = None
    is_named: bool = False

    @property
    def width(self) -> int:
        return self.stop - self.start

    @property
    def key(self) -> str:
        return self.feature.key

    @property
    def names(self) -> tuple[str, ...]:
        return self.feature.names[self.start : self.stop]

    @property
    def selector(self) -> str:
        """As an entry writes it.

        A whole key is its name alone, one column `key[3]`, several `key[0:6]`.
        """
        if self.width == self.feature.width:
            return self.key
        return f"{self.key}[{self.start}]" if self.width == 1 else f"{self.key}[{self.start}:{self.stop}]"


def side_of(feature: Feature) -> Side:
    """Whether a key is of the action, by its words or its type; what does not say so is of the state."""
    return "action" if _ACTION & set(words_of(feature.key)) or feature.dtype in COMMAND_TYPES else "state"


def is_used(feature: Feature) -> bool:
    """Whether a key may hold where the robot is, or where it is to go."""
    # ros2_control calls the topic of a command by the controller that it goes to.
    others = _OTHER - {"controller"} if side_of(feature) == "action" else _OTHER
    return not feature.is_bookkeeping and not set(words_of(feature.key)) & others and feature.width <= 128


def blocks_of(feature: Feature) -> list[Block]:
    """Returns the blocks of a key, by the names of its columns where these say what they are, else by its own name."""
    key_words = words_of(feature.key)
    if feature.width <= 2 and _GRIPPER & set(key_words):
        # A driver calls its only joint a finger.
        return [Block(feature=feature, start=0, stop=feature.width, kind="gripper", arm=_arm_of(key_words))]
    every = {word for name in feature.names for word in words_of(name)}
    named = [_kind_of_name(words_of(name), key_words, every) for name in feature.names]
    if named and sum(kind is not None for kind, _ in named) > len(named) / 2:
        return list(_joined(feature, named))
    kind = _kind_of_key(set(key_words), feature.width)
    if kind in ("position", "angles", "quaternion") and side_of(feature) == "state" and not _is_of_robot(key_words):
        return []
    return [Block(feature=feature, start=0, stop=feature.width, kind=kind, arm=_arm_of(key_words))]


def _joined(feature: Feature, named: Sequence[tuple[Kind | None, int | None]]) -> Iterator[Block]:
    start = 0
    for i in range(1, len(named) + 1):
        if i < len(named) and named[i] == named[start] and named[i][0] != "gripper":
            continue
        kind, arm = named[start]
        if kind is not None:
            yield Block(feature=feature, start=start, stop=i, kind=kind, arm=arm, is_named=True)
        start = i


def _kind_of_name(words: Sequence[str], key_words: Sequence[str], every: set[str]) -> tuple[Kind | None, int | None]:
    """Kind and arm of a column. every: the words of all columns of its key."""
    last = next((word for word in reversed(words) if not word.isdigit()), "")
    said = set(words)
    # ALOHA calls the first joint of an arm its waist; a humanoid has one of its own.
    if "waist" in said:
        is_joint = "shoulder" in every and not any(word.isdigit() for word in words)
        return "joints" if is_joint else "torso", _arm_of([*key_words, *words])
    return _kind_by_words(said, last), _arm_of([*key_words, *words])


def _kind_by_words(said: set[str], last: str) -> Kind | None:
    if said & _GRIPPER:
        return "gripper"
    if said & _LEG:
        return "leg"
    if said & _HEAD:
        return "head"
    if said & _HAND - {"index"} and not said & {"arm", "shoulder", "elbow"}:
        return "hand"
    if _is_base(said):
        return "base"
    if said & _QUATERNION or last in ("qx", "qy", "qz", "qw"):
        return "quaternion"
    if last in ("x", "y", "z") and not said & _JOINT:
        return "position"
    if last in ("roll", "pitch", "yaw", "rx", "ry", "rz") and not said & (_ARM_ROOTS | _WRIST - {last}):
        return "angles"
    if said & (_ARM_ROOTS | _WRIST) and not said <= {"lift"}:
        return "joints"
    return "torso" if said & _TORSO else None


def _is_base(said: set[str]) -> bool:
    if {"vx", "vy", "wz", "vz"} & said or said & {"theta"}:
        return True
    if said & {"linear", "angular"} and said & {"vel", "velocity"}:
        return True
    return bool(said & _BASE and not said & {"joint", "joints"}) or bool(said & {"vel"} and said & {"x", "y"})


def _kind_of_key(said: set[str], width: int) -> Kind:
    if said & _GRIPPER or said & {"finger", "fingers"} and width <= 2:
        return "gripper"
    if said & _BASE and not said & _JOINT:
        return "base"
    if said & _QUATERNION and width == 4:
        return "quaternion"
    if said & {"axis", "rotvec", "rpy", "euler"} and width == 3 or said & _ANGLES and width == 3:
        return "angles"
    if said & _ANGLES and width == 4:
        return "quaternion"
    if said & _JOINT:
        return "joints"
    if said & _END and width in (6, 7, 8):
        return "pose"
    if said & _POSITION and width == 3:
        return "position"
    if said & _TORSO:
        return "torso"
    if said & _HEAD:
        return "head"
    return "hand" if said & _HAND - {"index"} else "vector"


def _is_of_robot(words: Sequence[str]) -> bool:
    return any(word in _END or word.startswith("robot") or word in _SIDES for word in words)


def _arm_of(words: Sequence[str]) -> int | None:
    sides = {_SIDES[word] for word in words if word in _SIDES}
    return sides.pop() if len(sides) == 1 else None
