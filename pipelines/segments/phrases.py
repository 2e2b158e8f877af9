"""Plain words for how a robot moves between two steps: the text of a proposal until something better is known."""

import numpy as np

from pipelines.segments.motion import Floats, GripperEvent, Motion, PartMotion

IDLE_TEXT = "hold still"
# Displacements under which a direction is not worth naming; rotations of an end effector are scaled to m.
_TRAVEL_M, _ROTATION_M, _BASE_M, _BASE_RAD = 0.03, 0.03, 0.1, 0.2


def describe_motion(motion: Motion, start: int, end: int) -> str:
    """Says what moves between two steps, for example "move the left arm down, close the left gripper".

    Directions are named only where the robot's own frame was measured: x forward, y left, z up. In joint modes,
    without forward kinematics, an arm just moves. The parts of the phrase follow the order of time where that is known.
    """
    two_arms = any(name.endswith("1") for name in (*motion.grippers, *(part.part for part in motion.parts)))
    middle = (start + end) / 2
    early = [_gripper_words(event, two_arms) for event in _events(motion, start, end) if event.start < middle]
    late = [_gripper_words(event, two_arms) for event in _events(motion, start, end) if event.start >= middle]
    words = [*_united(early), *_movements(motion, start, end, two_arms), *_united(late)]
    return ", ".join(dict.fromkeys(words)) or IDLE_TEXT


def moving_arms(motion: Motion, start: int, end: int) -> tuple[str, ...]:
    """Names the arms (`arm0`, `arm1`) that move, or whose gripper acts, between two steps."""
    names = {part.part for part in motion.parts if part.part.startswith("arm") and _moves(part, start, end)}
    names |= {event.part.replace("gripper", "arm") for event in _events(motion, start, end)}
    return tuple(sorted(names))


def _events(motion: Motion, start: int, end: int) -> list[GripperEvent]:
    return [event for event in motion.events if start <= event.start < end]


def _gripper_words(event: GripperEvent, two_arms: bool) -> str:
    return f"{'close' if event.closes else 'open'} the {_side(event.part, two_arms)}gripper"


def _united(words: list[str]) -> list[str]:
    """Says once what both grippers do."""
    for verb in ("close", "open"):
        sides = {f"{verb} the left gripper", f"{verb} the right gripper"}
        if sides <= set(words):
            words = [f"{verb} both grippers" if word in sides else word for word in words]
    return words


def _side(part: str, two_arms: bool) -> str:
    return ("left " if part.endswith("0") else "right ") if two_arms else ""


def _moves(part: PartMotion, start: int, end: int) -> bool:
    return bool((part.speed[start:end] >= part.still_speed).mean() > 0.1)


def _movements(motion: Motion, start: int, end: int, two_arms: bool) -> list[str]:
    words = []
    arms = [part for part in motion.parts if part.part.startswith("arm") and _moves(part, start, end)]
    described = [_arm_words(part, _side(part.part, two_arms), start, end) for part in arms]
    if len(arms) == 2 and described[0].replace("left ", "right ", 1) == described[1]:
        described = [described[0].replace("the left arm", "both arms").replace("the left gripper", "both grippers")]
    for part in motion.parts:
        if part.part == "base" and _moves(part, start, end):
            words += _base_words(_change(part, start, end))
        elif part.part == "torso" and _moves(part, start, end):
            words.append("raise the torso" if _change(part, start, end)[0] > 0 else "lower the torso")
        elif part.part in ("waist", "head") and _moves(part, start, end):
            words.append(f"turn the {part.part}")
    return [*words, *described]


def _change(part: PartMotion, start: int, end: int) -> Floats:
    # The last step's own movement shows in the step after it.
    change: Floats = part.path[min(end, len(part.path) - 1)] - part.path[start]
    return change


def _arm_words(part: PartMotion, side: str, start: int, end: int) -> str:
    if not (part.is_pose and part.is_measured):
        return f"move the {side}arm"
    change = _change(part, start, end)
    names = (("forward", "back"), ("left", "right"), ("up", "down"))
    travel, rotation = np.abs(change[:3]), float(np.linalg.norm(change[3:]))
    if travel.max() < _TRAVEL_M:
        reached = np.abs(part.path[start:end, :3] - part.path[start, :3]).max(initial=0.0)
        if reached >= 2 * _TRAVEL_M:
            return f"move the {side}arm there and back"
        return f"rotate the {side}gripper" if rotation >= _ROTATION_M else f"move the {side}arm slightly"
    least = max(_TRAVEL_M, 0.5 * travel.max(), np.sort(travel)[1])  # the two greatest at most
    named = [pair[int(value < 0)] for pair, value in zip(names, change, strict=False) if abs(value) >= least]
    return f"move the {side}arm {' and '.join(named)}"


def _base_words(change: Floats) -> list[str]:
    holonomic = len(change) > 2
    ahead, yaw = change[0], change[-1]
    words = []
    if abs(ahead) >= _BASE_M:
        words.append("drive forward" if ahead > 0 else "drive back")
    if holonomic and abs(change[1]) >= _BASE_M:
        words.append("drive left" if change[1] > 0 else "drive right")
    if abs(yaw) >= _BASE_RAD:
        words.append("turn left" if yaw > 0 else "turn right")
    return words or ["move the base slightly"]
