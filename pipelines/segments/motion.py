"""What moves in an episode: a path per part, gripper events, idle steps; numpy only, whatever the control mode."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.slots import is_joint_mode
from pipelines.contract.units import is_delta, is_velocity

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class MotionParameters:
    """When a part counts as moving. Durations in s, speeds in the unit that each name ends in.

    smoothing_s: width of the centred mean that paths pass through. rotation_m: metres that one radian of an
    end effector's rotation counts for. gripper_low, gripper_high: hysteresis thresholds, as fractions of the
    range of the gripper within the episode; a gripper whose range is under `gripper_range` never acts.
    gripper_debounce_s: an opening or closing that lasts less does not count. gripper_settle_s: the longest time
    that a gripper may take to reach its new position. idle_s: the shortest stretch of stillness that is idle.
    """

    smoothing_s: float = 0.3
    rotation_m: float = 0.1
    arm_m_s: float = 0.01
    arm_rad_s: float = 0.04
    base_m_s: float = 0.02
    torso_m_s: float = 0.005
    gripper_s: float = 0.15
    gripper_low: float = 0.35
    gripper_high: float = 0.65
    gripper_range: float = 0.15
    gripper_debounce_s: float = 0.25
    gripper_settle_s: float = 0.6
    idle_s: float = 0.5


@dataclass(frozen=True, kw_only=True)
class PartMotion:
    """The smoothed movement of an arm, the base or the torso.

    path: float64 [t, k], what the part went through in rad or m (rotations of an end effector in m, scaled by
    `rotation_m`). velocity: its rate per s. speed: the norm of `velocity`. still_speed: below it the part is still.
    is_pose: whether it is an end effector's x, y, z and rotation. is_measured: whether it comes from the state.
    """

    part: str
    path: Floats
    velocity: Floats
    speed: Floats
    still_speed: float
    is_pose: bool
    is_measured: bool


@dataclass(frozen=True, kw_only=True)
class GripperEvent:
    """A gripper starts to open or close at step `start` and has done so at step `end` (start < end <= t)."""

    part: str
    start: int
    end: int
    closes: bool


@dataclass(frozen=True, kw_only=True)
class Motion:
    """What the proposals are computed from; `is_idle` bool [t], one `GripperEvent` per change, in order of time."""

    n_steps: int
    control_hz: float
    parts: tuple[PartMotion, ...]
    grippers: tuple[str, ...]
    events: tuple[GripperEvent, ...]
    is_idle: Bools


def measure_motion(
    state: NDArray[np.float32],
    action: NDArray[np.float32],
    masks: tuple[Bools, Bools],
    parts: Mapping[str, tuple[int, ...]],
    control_mode: str,
    control_hz: float,
    parameters: MotionParameters = MotionParameters(),
) -> Motion:
    """Measures how each part moves. state, action: [t, d] physical; masks: those of state and action, bool [d].

    Measured state is used where the state mask has a part, commands elsewhere; a base is always read from its
    command, and so is an arm in mode `joint_velocity`.
    """
    if control_hz <= 0:
        raise ValueError(f"control_hz: expected more than 0, found {control_hz}")
    moving, grippers, events, still = [], [], [], np.ones(len(state), bool)
    for part, slots in parts.items():
        columns = list(slots)
        sensed = bool(columns) and bool(masks[0][columns].all())
        if not sensed and not masks[1][columns].any():
            continue
        commanded = (action if masks[1][columns].any() else state)[:, columns].astype(float)
        measured = (state if sensed else action)[:, columns].astype(float)
        if part.startswith("gripper"):
            grippers.append(part)
            events += _gripper_events(part, commanded[:, 0], measured[:, 0], control_hz, parameters)
            for signal in (commanded, measured):
                still &= _speed(signal, control_hz, parameters) < parameters.gripper_s
        else:
            motion = _part_motion(part, measured, commanded, sensed, control_mode, control_hz, parameters)
            moving.append(motion)
            still &= motion.speed < motion.still_speed
    shortest = max(1, round(parameters.idle_s * control_hz))
    return Motion(
        n_steps=len(state),
        control_hz=control_hz,
        parts=tuple(moving),
        grippers=tuple(grippers),
        events=tuple(sorted(events, key=lambda event: (event.start, event.part))),
        is_idle=_long_runs(still, shortest),
    )


def idle_in(motion: Motion) -> Bools:
    """Says for each step whether nothing moves, neither measured nor commanded, for `idle_s` or longer: bool [t].

    An episode without any part that can be read has no idle step.
    """
    return motion.is_idle if motion.parts or motion.grippers else np.zeros(motion.n_steps, bool)


def runs(flags: NDArray[np.generic]) -> list[tuple[int, int]]:
    """Splits an array into stretches of equal values, half open.

    >>> runs(np.array([0, 0, 1, 1, 1, 0]))
    [(0, 2), (2, 5), (5, 6)]
    """
    edges = [0, *(np.flatnonzero(flags[1:] != flags[:-1]) + 1).tolist(), len(flags)]
    return list(zip(edges[:-1], edges[1:], strict=True))


def smooth(values: Floats, width: int) -> Floats:
    """Takes the centred mean over `width` steps (made odd) down axis 0; at the ends over what there is."""
    half = width // 2
    if half == 0 or len(values) < 2:
        return values
    sums = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])
    steps = np.arange(len(values))
    # The window shrinks on both sides alike, so that a ramp stays the same ramp up to its ends.
    reach = np.minimum(half, np.minimum(steps, len(values) - 1 - steps))
    widths = (2 * reach + 1).reshape(-1, *[1] * (values.ndim - 1))
    means: Floats = (sums[steps + reach + 1] - sums[steps - reach]) / widths
    return means


def _part_motion(
    part: str,
    measured: Floats,
    commanded: Floats,
    sensed: bool,
    control_mode: str,
    control_hz: float,
    parameters: MotionParameters,
) -> PartMotion:
    is_arm = part.startswith("arm")
    is_pose = is_arm and not is_joint_mode(control_mode)
    # A base has no measured pose in the state's slots, and velocities add up to a path; both are read as commands.
    if part == "base" or (is_arm and is_velocity(control_mode)):
        path = _integrate(commanded / control_hz)
    elif sensed:
        path = measured
    else:
        path = _integrate(commanded) if is_arm and is_delta(control_mode) else commanded
    if is_pose and path.shape[1] > 3:
        # Unwrapped, since a jump of 2 pi would be the fastest motion of the episode; in m, so that turning and moving
        # compare.
        path = np.concatenate([path[:, :3], np.unwrap(path[:, 3:], axis=0) * parameters.rotation_m], axis=1)
    path = smooth(path, round(parameters.smoothing_s * control_hz))
    velocity = np.gradient(path, axis=0) * control_hz if len(path) > 1 else np.zeros_like(path)
    arm_still = parameters.arm_m_s if is_pose else parameters.arm_rad_s
    still = {"base": parameters.base_m_s, "torso": parameters.torso_m_s}.get(part, arm_still)
    return PartMotion(
        part=part,
        path=path,
        velocity=velocity,
        speed=np.linalg.norm(velocity, axis=1),
        still_speed=still,
        is_pose=is_pose,
        is_measured=sensed,
    )


def _integrate(change: Floats) -> Floats:
    """Sums what each step adds; the path at a step holds the changes before it."""
    return np.concatenate([np.zeros_like(change[:1]), np.cumsum(change, axis=0)[:-1]])


def _speed(signal: Floats, control_hz: float, parameters: MotionParameters) -> Floats:
    if len(signal) < 2:
        return np.zeros(len(signal))
    smoothed = smooth(signal, round(parameters.smoothing_s * control_hz))
    speeds: Floats = np.linalg.norm(np.gradient(smoothed, axis=0) * control_hz, axis=1)
    return speeds


def _gripper_events(
    part: str, commanded: Floats, measured: Floats, control_hz: float, parameters: MotionParameters
) -> list[GripperEvent]:
    """Finds openings and closings: hysteresis between two thresholds, then short ones are taken back."""
    low, high = float(commanded.min()), float(commanded.max())
    # A gripper that hardly moves has noise and no events; thresholds relative to its range would find many.
    if high - low < parameters.gripper_range:
        return []
    # Two thresholds: with one, a command that trembles about it opens and closes at every step.
    is_high = commanded > low + parameters.gripper_high * (high - low)
    is_low = commanded < low + parameters.gripper_low * (high - low)
    decided = np.flatnonzero(is_high | is_low)
    last = np.maximum.accumulate(np.where(is_high | is_low, np.arange(len(commanded)), -1))
    is_closed = is_high[np.where(last < 0, decided[0], last)]
    changes = [start for start, _ in _debounced(is_closed, math.ceil(parameters.gripper_debounce_s * control_hz))]
    settle = max(1, round(parameters.gripper_settle_s * control_hz))
    rate = np.abs(np.diff(measured, append=measured[-1:])) * control_hz
    events = []
    for start in changes[1:]:
        window = rate[start : start + settle]
        moving = np.flatnonzero(window > parameters.gripper_s)
        end = start + (int(moving[-1]) + 1 if len(moving) else 1)
        events.append(GripperEvent(part=part, start=start, end=end, closes=bool(is_closed[start])))
    return events


def _debounced(flags: Bools, shortest: int) -> list[tuple[int, int]]:
    """The runs of `flags` once runs shorter than `shortest` are joined to the run before them."""
    kept: list[tuple[int, int]] = []
    for start, end in runs(flags):
        if kept and (end - start < shortest or flags[kept[-1][0]] == flags[start]):
            kept[-1] = (kept[-1][0], end)
        else:
            kept.append((start, end))
    return kept


def _long_runs(flags: Bools, shortest: int) -> Bools:
    kept = np.zeros_like(flags)
    for start, end in runs(flags):
        kept[start:end] = flags[start] and end - start >= shortest
    return kept
