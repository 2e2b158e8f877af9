"""Which native camera goes to which slot, by the words in its name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.contract.slots import CAMERAS
from pipelines.inspection.description import CameraView
from pipelines.mapping.dim_names import words_of

_WRIST = frozenset("wrist hand gripper eih eef palm finger".split())
# Names of outside views, the most usual main view first.
_OUTSIDE = "base high top head front agentview main primary exterior external scene ego static third side low".split()
_SIDES = {"left": "left_wrist_0_rgb", "right": "right_wrist_0_rgb"}
_DEPTH = frozenset("depth mask segmentation seg infrared ir tactile".split())


@dataclass(frozen=True, kw_only=True)
class Views:
    """Slot -> native camera and why; left_out: cameras that are there and fill no slot."""

    slots: Mapping[str, tuple[str, str]]
    left_out: tuple[str, ...] = ()


def choose_views(cameras: Sequence[CameraView], has_two_arms: bool, is_hand_held: bool = False) -> Views:
    """Gives cameras to slots: those named after a wrist or hand to the wrists, the most usual outside view to the base.

    is_hand_held: the gripper carries its camera and there is no arm, as with UMI.
    """
    there = [camera.name for camera in cameras if not camera.why_left_out and not _DEPTH & _words(camera.name)]
    slots: dict[str, tuple[str, str]] = {}
    for name in there:
        words = _words(name)
        if not (words & _WRIST or "in" in words and "hand" in words) or words & {"head", "high"}:
            continue
        side = next((slot for side, slot in _SIDES.items() if side in words), "left_wrist_0_rgb")
        if side == "right_wrist_0_rgb" and not has_two_arms:
            side = "left_wrist_0_rgb"
        slots.setdefault(side, (name, "its name says a wrist or hand"))
    outside = [name for name in there if name not in {taken for taken, _ in slots.values()} and not _is_wrist(name)]
    outside.sort(key=_rank)
    if outside and is_hand_held:
        slots.setdefault("left_wrist_0_rgb", (outside.pop(0), "the gripper carries the camera"))
    if outside:
        why = "the only other camera" if len(outside) == 1 else "the outside view with the most usual name"
        slots["base_0_rgb"] = (
            outside[0],
            why
            if _rank(outside[0]) < len(_OUTSIDE) or len(outside) == 1
            else ("the first camera; no name says what it shows: look at its pictures"),
        )
    if not slots and there:
        slots["base_0_rgb"] = there[0], "the only camera"
    taken = {name for name, _ in slots.values()}
    ordered = {slot: slots[slot] for slot in CAMERAS if slot in slots}
    return Views(slots=ordered, left_out=tuple(camera.name for camera in cameras if camera.name not in taken))


def _words(name: str) -> set[str]:
    return set(words_of(name.replace("_", " ")))


def _is_wrist(name: str) -> bool:
    return bool(_words(name) & _WRIST) and not _words(name) & {"head", "high"}


def _rank(name: str) -> int:
    words = _words(name)
    return next((i for i, word in enumerate(_OUTSIDE) if word in words), len(_OUTSIDE))
