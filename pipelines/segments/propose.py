"""Segment proposals: cuts an episode into sub-trajectories of about 2 s where its movement changes."""

import math
from dataclasses import dataclass, field

import numpy as np

from pipelines.contract.episode import Episode, Segment, SegmentKind
from pipelines.segments.motion import (
    Bools,
    Floats,
    Motion,
    MotionParameters,
    PartMotion,
    idle_in,
    measure_motion,
    runs,
)
from pipelines.segments.phrases import IDLE_TEXT, describe_motion, moving_arms

__all__ = ["ProposeParameters", "idle_in", "motion_of", "propose_segments"]


@dataclass(frozen=True, kw_only=True)
class ProposeParameters:
    """How change points become segments. Durations in s; a change point's strength lies in 0..1.

    shortest_s, target_s, longest_s: bounds and the length that is aimed at. A boundary gains `event_weight` times
    its strength less `cut_cost`; a segment loses the squared logarithm of length / target_s, `short_weight` times
    where it is too short and `long_weight` times where it is too long.
    gripper, idle_edge, base, speed_minimum, direction: the greatest strength of each kind of change point.
    apart_s: of change points nearer than this only the strongest counts. glance_s: how far a speed minimum looks
    for the peaks on both sides. turn_s: the stretches before and after a step whose directions are compared.
    idle_share: the share of idle steps that makes a segment idle. recovery_s: a gripper that opens this soon after
    it closed, without its arm having gone `recovery_m` or `recovery_rad`, and closes again, is a recovery.
    """

    shortest_s: float = 0.4
    target_s: float = 2.0
    longest_s: float = 5.0
    event_weight: float = 3.0
    cut_cost: float = 0.5
    short_weight: float = 5.0
    long_weight: float = 2.0
    gripper: float = 1.0
    idle_edge: float = 1.0
    base: float = 0.9
    speed_minimum: float = 0.8
    direction: float = 0.7
    apart_s: float = 0.25
    glance_s: float = 1.0
    turn_s: float = 0.4
    idle_share: float = 0.75
    recovery_s: float = 2.5
    recovery_m: float = 0.05
    recovery_rad: float = 0.25
    motion: MotionParameters = field(default_factory=MotionParameters)

    def __post_init__(self) -> None:
        if not 0 < self.shortest_s < self.target_s < self.longest_s:
            raise ValueError(
                f"expected 0 < shortest_s < target_s < longest_s, found {self.shortest_s}, {self.target_s}, "
                f"{self.longest_s}"
            )
        if self.longest_s < 2 * self.shortest_s:
            raise ValueError(f"longest_s: expected twice shortest_s or more, found {self.longest_s}")


def propose_segments(
    episode: Episode, parameters: ProposeParameters = ProposeParameters(), motion: Motion | None = None
) -> tuple[Segment, ...]:
    """Cuts the whole episode into segments, half open and without gaps; the same episode gives the same segments.

    Boundaries lie at gripper events, speed minima, changes of direction, starts and stops, of either arm, the
    base or the torso; long uneventful stretches are cut evenly. Every segment lasts `shortest_s` to `longest_s`
    (an episode shorter than that is one segment). The confidence, 0..1, says how clear its two boundaries are.
    motion: the episode's, if it is measured already.
    """
    motion = motion or motion_of(episode, parameters)
    if motion.n_steps == 0:
        return ()
    strengths = change_points(motion, parameters)
    boundaries = _choose_boundaries(strengths, motion.control_hz, parameters)
    recoveries = _recoveries(motion, parameters)
    return tuple(
        _segment(motion, strengths, recoveries, start, end, parameters)
        for start, end in zip(boundaries[:-1], boundaries[1:], strict=True)
    )


def motion_of(episode: Episode, parameters: ProposeParameters = ProposeParameters()) -> Motion:
    """Measures how each part of an episode moves."""
    masks = (episode.state_mask, episode.action_mask)
    return measure_motion(
        episode.state,
        episode.action,
        masks,
        episode.parts,
        episode.control_mode,
        episode.control_hz,
        parameters.motion,
    )


def change_points(motion: Motion, parameters: ProposeParameters = ProposeParameters()) -> Floats:
    """Rates each step as the start of a new segment, 0..1; only the strongest within `apart_s` keep their rating.

    Returns float64 [t + 1]; the two ends of the episode are rated 1.
    """
    n, hz = motion.n_steps, motion.control_hz
    strengths = np.zeros(n + 1)
    glance = max(1, round(parameters.glance_s * hz))
    speeds = [part.speed / part.still_speed for part in motion.parts]
    # Where one arm hands over to the other, only their united speed has a minimum.
    for speed in [*speeds, *([np.linalg.norm(speeds, axis=0)] if len(speeds) > 1 else [])]:
        strengths[:n] = np.maximum(strengths[:n], parameters.speed_minimum * _speed_minima(speed, glance))
    for part in motion.parts:
        turns = _turns(part, max(1, round(parameters.turn_s * hz)), parameters)
        strengths[:n] = np.maximum(strengths[:n], parameters.direction * turns)
    # Inside stillness a minimum or a turn is noise; only the edges of stillness, below, may cut.
    strengths[:n][motion.is_idle] = 0.0
    for part in motion.parts:
        if part.part in ("base", "torso", "waist"):
            strengths[_starts_and_stops(part, hz)] = parameters.base
    for start, end in runs(motion.is_idle):
        if motion.is_idle[start]:
            # A stop shorter than a second may be a pause within one movement, so it cuts with less certainty.
            clear = parameters.idle_edge * min(1.0, (end - start) / hz)
            strengths[[start, end]] = np.maximum(strengths[[start, end]], clear)
    # After the fingers have closed, not when they begin to: a grasp belongs to the movement that led to it.
    for event in motion.events:
        strengths[event.end] = max(strengths[event.end], parameters.gripper)
    # One change shows in several signals, a few steps apart: without this, each would count as a boundary of its own.
    strengths = _strongest(strengths, max(1, round(parameters.apart_s * hz)))
    strengths[[0, n]] = 1.0
    return strengths


def _starts_and_stops(part: PartMotion, control_hz: float) -> list[int]:
    """Steps at which a part starts or stops to move for half a second or longer."""
    moves = part.speed >= 2 * part.still_speed
    return [start for start, end in runs(moves) if start > 0 and end - start >= 0.5 * control_hz]


def _speed_minima(speed: Floats, glance: int) -> Floats:
    """How deep each local minimum lies under the lower of the peaks beside it, 0..1; a speed under 1 is still."""
    peak = np.minimum(_trailing_max(speed, glance), _trailing_max(speed[::-1], glance)[::-1])
    depth = np.where(peak > 2, 1 - speed / np.maximum(peak, 1e-12), 0.0)
    return _centres(np.where(depth > 0.3, depth, 0.0), max(1, glance // 4))


def _turns(part: PartMotion, reach: int, parameters: ProposeParameters) -> Floats:
    """How far the direction of movement turns at each step, as (1 - cosine) / 2, at its local maxima."""
    n = len(part.path)
    steps = np.arange(n)
    before = part.path - part.path[np.maximum(steps - reach, 0)]
    after = part.path[np.minimum(steps + reach, n - 1)] - part.path
    lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    least = part.still_speed * parameters.turn_s * 2
    cosine = np.einsum("tk,tk->t", before, after) / np.maximum(lengths, 1e-12)
    turn = np.where(lengths > least * least, (1 - cosine) / 2, 0.0)
    return _centres(np.where(turn > 0.15, turn, 0.0), max(1, reach // 2))


def _trailing_max(values: Floats, reach: int) -> Floats:
    """The greatest value among the last `reach` before each step and the step itself."""
    padded = np.concatenate([np.full(reach, -np.inf), values])
    greatest: Floats = np.lib.stride_tricks.sliding_window_view(padded, reach + 1).max(axis=1)
    return greatest


def _centres(values: Floats, radius: int) -> Floats:
    """Keeps local maxima over `radius` steps on both sides; a plateau keeps its middle."""
    highest = np.maximum(_trailing_max(values, radius), _trailing_max(values[::-1], radius)[::-1])
    is_peak = (values > 0) & (values >= highest - 1e-9)
    kept = np.zeros_like(values)
    for start, end in runs(is_peak):
        if is_peak[start]:
            middle = (start + end - 1) // 2
            kept[middle] = values[middle]
    return kept


def _strongest(strengths: Floats, apart: int) -> Floats:
    """Keeps the strengths that no stronger one, nor an equal one earlier, lies nearer to than `apart` steps."""
    kept = np.zeros_like(strengths)
    taken = np.zeros(len(strengths), bool)
    for step in np.argsort(-strengths, kind="stable"):
        if strengths[step] <= 0:
            break
        if not taken[step]:
            kept[step] = strengths[step]
            taken[max(0, step - apart + 1) : step + apart] = True
    return kept


def _choose_boundaries(strengths: Floats, control_hz: float, parameters: ProposeParameters) -> list[int]:
    """Picks the boundaries with the greatest total gain, by dynamic programming over change points and a grid."""
    n = len(strengths) - 1
    shortest = max(1, math.ceil(parameters.shortest_s * control_hz - 1e-9))
    longest = max(shortest, math.floor(parameters.longest_s * control_hz + 1e-9))
    if n < 2 * shortest:
        return [0, n]  # Any cut would leave a part under `shortest`.
    # The grid keeps every length reachable where nothing happens for longer than `longest`. Change points alone could
    # leave no path to the end, and the episode would be one segment of any length.
    grid = np.arange(0, n, max(1, min(shortest, longest - shortest)))
    steps = np.union1d(np.flatnonzero(strengths), grid)
    gains = parameters.event_weight * strengths[steps] - parameters.cut_cost
    # Squared logarithm: half and double the target length are equally wrong, and mild deviations cost little.
    excess = np.log(np.arange(1, longest + 1) / (parameters.target_s * control_hz))
    costs = np.where(excess < 0, parameters.short_weight, parameters.long_weight) * excess**2
    best = np.full(len(steps), -np.inf)
    best[0] = 0.0
    came_from = np.zeros(len(steps), np.int64)
    firsts = np.searchsorted(steps, steps - longest)
    lasts = np.searchsorted(steps, steps - shortest, side="right")
    for node in range(1, len(steps)):
        first, last = firsts[node], lasts[node]
        if first < last:
            # The whole path counts, not the next cut: taking the strongest point at once would leave a remainder too
            # short to be a segment, or move every later boundary.
            totals = best[first:last] - costs[steps[node] - steps[first:last] - 1]
            chosen = int(totals.argmax())
            best[node], came_from[node] = totals[chosen] + gains[node], first + chosen
    node, path = len(steps) - 1, [n]
    while node > 0:
        node = int(came_from[node])
        path.append(int(steps[node]))
    return path[::-1]


def _recoveries(motion: Motion, parameters: ProposeParameters) -> Bools:
    """Marks the steps from an opening soon after a grasp that carried nothing to the end of the next grasp."""
    marked = np.zeros(motion.n_steps, bool)
    paths = {part.part.replace("arm", "gripper"): part for part in motion.parts if part.part.startswith("arm")}
    for gripper in motion.grippers:
        events = [event for event in motion.events if event.part == gripper]
        arm = paths.get(gripper)
        # Closed, opened, closed again: the third event shows that the first grasp was not meant to end so.
        for first, opening, again in zip(events, events[1:], events[2:], strict=False):
            if arm is None or not first.closes or opening.start - first.end > parameters.recovery_s * motion.control_hz:
                continue
            # In the unit of the path: metres for poses, radians for joints; one limit for both would call every
            # joint-space carry a failed grasp.
            gone = float(np.linalg.norm(arm.path[opening.start] - arm.path[min(first.end, motion.n_steps - 1)]))
            if gone < (parameters.recovery_m if arm.is_pose else parameters.recovery_rad):
                marked[opening.start : again.end] = True
    return marked


def _segment(
    motion: Motion, strengths: Floats, recoveries: Bools, start: int, end: int, parameters: ProposeParameters
) -> Segment:
    is_idle = bool(motion.is_idle[start:end].mean() >= parameters.idle_share)
    kind: SegmentKind = "idle" if is_idle else "recovery" if recoveries[start:end].mean() > 0.5 else "subtask"
    confidence = 0.1 + 0.8 * (strengths[start] + strengths[end]) / 2
    return Segment(
        start=start,
        end=end,
        text=IDLE_TEXT if is_idle else describe_motion(motion, start, end),
        kind=kind,
        arms=() if is_idle else moving_arms(motion, start, end),
        confidence=round(float(confidence), 3),
    )
