"""Clocks, stillness and values far out: what a stream of steps shows by itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.slots import is_joint_mode
from pipelines.contract.units import is_absolute
from pipelines.contract.words import counted
from pipelines.quality.findings import Finding, finding
from pipelines.quality.scale import unwrap
from pipelines.shards.statistics import NormStatistics
from pipelines.shards.stored_episodes import StoredEpisode

LONG_IDLE_S = 3.0
RATE_TOLERANCE = 0.1
_FAR, _FAR_RATE = 3.0, 8.0
_FLOORS = {"rad": 0.2, "m": 0.05, "rad/s": 0.5, "m/s": 0.2, "closed": 0.3}
_SPIKE = 10.0


@dataclass(frozen=True, kw_only=True)
class Clock:
    """One episode's times. interval_s, longest_s: the median and the longest step."""

    where: str
    control_hz: float
    interval_s: float
    longest_s: float
    goes_back: bool


@dataclass(frozen=True, kw_only=True)
class Stillness:
    """One episode's long idle stretches (first step, number of steps), and its idle and all steps."""

    where: str
    control_hz: float
    stretches: tuple[tuple[int, int], ...]
    n_idle: int
    n_steps: int


@dataclass(frozen=True, kw_only=True)
class FarValue:
    """The value of an episode that lies furthest out."""

    where: str
    side: str
    slot: int
    step: int
    value: float
    reason: str


def measure_clock(episode: StoredEpisode) -> Clock | None:
    """Returns the times of an episode that has some."""
    if len(episode.timestamp_s) < 3:
        return None
    steps = np.diff(episode.timestamp_s)
    return Clock(
        where=episode.where,
        control_hz=episode.control_hz,
        interval_s=float(np.median(steps)),
        longest_s=float(steps.max()),
        goes_back=bool(steps.min() <= 0),
    )


def conclude_clock(scope: str, found: Sequence[Clock]) -> list[Finding]:
    """Times rise, at the rate that the dataset declares, without holes."""
    findings = []
    back = [c.where for c in found if c.goes_back]
    if back:
        advice = "Look at the logger's clock; sort or drop these steps before converting."
        findings.append(finding("control_rate", "error", scope, "times that do not rise", advice, back))
    off = [c for c in found if not c.goes_back and abs(c.interval_s * c.control_hz - 1) > RATE_TOLERANCE]
    if off:
        measured = float(np.median([1 / c.interval_s for c in off]))
        share = f"{len(off)} of {counted(found, 'episode')}"
        evidence = f"declared {off[0].control_hz:g} Hz, steps come at {measured:.3g} Hz in {share}"
        advice = f"Set control_hz to {measured:.3g} in the adapter, or resample the logs."
        findings.append(finding("control_rate", "error", scope, evidence, advice, [c.where for c in off]))
    holes = [c for c in found if not c.goes_back and c.longest_s > 2.5 * c.interval_s]
    if holes:
        longest = max(c.longest_s for c in holes)
        evidence = (
            f"{len(holes)} of {counted(found, 'episode has', 'episodes have')} holes in time, the longest "
            f"{longest:.3g} s"
        )
        advice = "Split these episodes at the holes: an action chunk across one is not what the robot did."
        findings.append(finding("control_rate", "warning", scope, evidence, advice, [c.where for c in holes]))
    return findings


def measure_stillness(episode: StoredEpisode) -> Stillness | None:
    """Returns the stretches of at least LONG_IDLE_S in which nothing moves."""
    if not len(episode.is_idle) or not episode.control_hz:
        return None
    edges = np.flatnonzero(np.diff(np.concatenate([[0], episode.is_idle.astype(int), [0]])))
    runs = [(int(a), int(b - a)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return Stillness(
        where=episode.where,
        control_hz=episode.control_hz,
        n_idle=int(episode.is_idle.sum()),
        n_steps=episode.n_steps,
        stretches=tuple(run for run in runs if run[1] >= LONG_IDLE_S * episode.control_hz),
    )


def conclude_stillness(scope: str, found: Sequence[Stillness]) -> list[Finding]:
    """Long stillness teaches a policy to stand still."""
    long = [s for s in found if s.stretches]
    if not long:
        return []
    n_stretches = sum(len(s.stretches) for s in long)
    share = sum(s.n_idle for s in found) / sum(s.n_steps for s in found)
    longest = max(n / s.control_hz for s in long for _, n in s.stretches)
    evidence = (
        f"{counted(n_stretches, 'stretch', 'stretches')} of {LONG_IDLE_S:g} s and more in {len(long)} of "
        f"{counted(found, 'episode')}, the longest "
        f"{longest:.1f} s; {share:.0%} of all steps are idle"
    )
    advice = "Leave them out of training: `filters: [{drop: idle}]` in the mixture."
    where = [f"{s.where} steps {a} to {a + n}" for s in long for a, n in s.stretches[:1]]
    return [finding("idle", "warning", scope, evidence, advice, where)]


def measure_far_value(episode: StoredEpisode, statistics: Mapping[str, NormStatistics]) -> FarValue | None:
    """Returns a value far outside the 1st to 99th percentile, or a spike of one step; None where there is none."""
    if not episode.has_vectors or episode.norm_key not in statistics:
        return None
    known = statistics[episode.norm_key]
    sides = (
        ("state", episode.state, episode.state_mask, known.state, "joint_position"),
        ("action", episode.action, episode.action_mask, known.action, episode.control_mode),
    )
    for side, values, mask, numbers, mode in sides:
        units = episode.units(side)
        moved = _without_turns(episode, side, values)
        for slot in np.flatnonzero(mask).tolist():
            column, unit = values[:, slot].astype(np.float64), units.get(slot, "rad")
            # Deltas and velocities may be spiky: a command may come and go within a step.
            spikes = is_absolute(mode) and unit != "closed"
            step, reason = _far_out(column, unit, mode, float(numbers.q01[slot]), float(numbers.q99[slot]))
            if reason and unit == "rad" and not is_joint_mode(episode.control_mode) and _is_smooth(moved[:, slot]):
                # Angles of a pose that nothing jumped to: the numbers went around, the gripper did not.
                step, reason = 0, ""
            if not reason and spikes and (step := _spike(moved[:, slot], _FLOORS[unit])):
                reason = f"a spike of one step, {column[step - 1]:.3g} before it"
            if reason:
                value = float(column[step])
                return FarValue(where=episode.where, side=side, slot=slot, step=step, value=value, reason=reason)
    return None


def _without_turns(episode: StoredEpisode, side: str, values: NDArray[np.float32]) -> NDArray[np.float64]:
    """The values [t, d] in which a jump of angles is a jump of what they describe.

    Joint angles count on across pi. Roll, pitch and yaw of a pose become the rotation itself, summed up step by step:
    they jump by pi where a smooth turn passes pitch -90 degrees.
    """
    units = episode.units(side)
    moved = unwrap(values.astype(np.float64), [slot for slot, unit in units.items() if unit == "rad"])
    if is_joint_mode(episode.control_mode):
        return moved
    for part in ("arm0", "arm1"):
        slots = [slot for slot in episode.parts.get(part, ()) if units.get(slot) == "rad"]
        if len(slots) == 3:
            moved[:, slots] = _summed_rotation(values[:, slots].astype(np.float64))
    return moved


def _summed_rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """The path [t, 3], in rad, whose steps are the rotation vectors between orientations given as roll, pitch, yaw."""
    from scipy.spatial.transform import Rotation

    rotations = Rotation.from_euler("xyz", angles)
    steps = (rotations[1:] * rotations[:-1].inv()).as_rotvec() if len(angles) > 1 else np.zeros((0, 3))
    return np.concatenate([np.zeros((1, 3)), np.cumsum(steps, axis=0)])


def conclude_far_values(scope: str, found: Sequence[FarValue]) -> list[Finding]:
    """Values far out stretch the range that everything else is scaled by."""
    if not found:
        return []
    worst = found[0]
    evidence = f"{counted(found, 'episode')} with values far out, such as {worst.value:.4g}: {worst.reason}"
    advice = "Look at these steps; drop the episodes or repair the sensor's values, and convert again."
    where = [f"{v.where} {v.side} slot {v.slot} step {v.step}" for v in found]
    return [finding("outlier", "warning", scope, evidence, advice, where)]


def _far_out(column: NDArray[np.float64], unit: str, mode: str, q01: float, q99: float) -> tuple[int, str]:
    """The step of a slot that lies far out, and why; (0, "") where none does."""
    out = np.maximum(q01 - column, column - q99)
    step = int(np.argmax(out))
    far = _FAR if is_absolute(mode) else _FAR_RATE
    if out[step] > far * max(q99 - q01, _FLOORS[unit]):
        return step, f"the 1st to 99th percentile is {q01:.3g} to {q99:.3g}"
    return 0, ""


def _is_smooth(path: NDArray[np.float64]) -> bool:
    """Whether no step of a summed rotation, [t] in rad, is larger than a robot's may be."""
    return len(path) < 2 or float(np.abs(np.diff(path)).max()) < _FLOORS["rad"]


def _spike(column: NDArray[np.float64], floor: float) -> int:
    """The step of the greatest one-step spike that no other change comes near; 0 for none."""
    if len(column) < 8:
        return 0
    change = np.diff(column)
    height = np.where(change[:-1] * change[1:] < 0, np.minimum(np.abs(change[:-1]), np.abs(change[1:])), 0.0)
    step = int(np.argmax(height))
    if height[step] <= floor:
        return 0
    usual = float(np.quantile(np.abs(change), 0.9))
    return step + 1 if height[step] > _SPIKE * usual else 0
