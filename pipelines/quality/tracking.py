"""Does the state do what the action says? Lag, degrees for radians, absolute for delta, and the rate of velocities."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.slots import N_SLOTS, is_joint_mode
from pipelines.contract.units import is_absolute, is_delta, is_velocity
from pipelines.quality.findings import Finding, finding
from pipelines.shards.stored_episodes import StoredEpisode

Floats = NDArray[np.float64]

MAX_LAG_S = 1.0
SLOW_LAG_S = 0.6
CLEAR_CORRELATION = 0.3
CLEAR_GAIN = 0.05  # How much better than at lag 0 the correlation must be.
# A controller that aims ahead of the arm moves it at 0.4 of what is commanded (DROID); none overshoots by half.
SLOWEST_GAIN, FASTEST_GAIN = 0.2, 1.5
DEGREES = 180 / np.pi
FULL_TURN_RAD = 7.0  # A little over 2 pi: no joint or pose of a manipulator lies further out.
FAST_RAD_S = 12.0
_STILL = 1e-4


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """How one episode's arm state follows its action.

    as_position, as_rate: [2k + 1] mean products, at lags -k..k, of the state's change with the action's change and
    with the action itself, each slot standardized. offset, reach: mean squares of action - state and of the state.
    position_gain, rate_gain: [18] slopes of the state on the action, and of its change on the action; NaN where
    nothing moves. peaks, speeds: [2, 18] greatest magnitude and 95th percentile of the speed per s, of state, action.
    """

    where: str
    control_mode: str
    control_hz: float
    as_position: Floats
    as_rate: Floats
    offset: float
    reach: float
    is_copy: bool
    position_gain: Floats
    rate_gain: Floats
    peaks: Floats
    speeds: Floats
    angle_slots: tuple[int, ...]


def measure_tracking(episode: StoredEpisode) -> Tracking | None:
    """Returns how the arm follows its action; None for an episode without arms, vectors, or enough steps."""
    lags = min(max(2, round(MAX_LAG_S * episode.control_hz)), (episode.n_steps - 4) // 2)
    if not episode.has_vectors or not len(episode.arm_slots) or lags < 2:
        return None
    slots = episode.arm_slots
    angles = [slot for slot in slots if episode.units("state")[slot] == "rad"]
    state, action = episode.state.astype(np.float64), episode.action.astype(np.float64)
    change = np.diff(state, axis=0)
    places = slots
    if not is_joint_mode(episode.control_mode):
        change[:, angles] = (change[:, angles] + np.pi) % (2 * np.pi) - np.pi
        places = np.setdiff1d(slots, angles)
    moves = bool(np.abs(change[:, slots]).max() > _STILL)
    return Tracking(
        where=episode.where,
        control_mode=episode.control_mode,
        control_hz=episode.control_hz,
        as_position=_correlations(np.diff(action[:, places], axis=0), change[:, places], lags),
        as_rate=_correlations(action[:-1, places], change[:, places], lags),
        offset=float(np.mean((action[:, places] - state[:, places]) ** 2)),
        reach=float(np.mean(state[:, places] ** 2)),
        is_copy=moves and bool(np.abs(action[:, slots] - state[:, slots]).max() < 1e-6),
        position_gain=_slopes(action - action.mean(0), state - state.mean(0), slots),
        rate_gain=_slopes(action[:-1], change, slots),
        peaks=np.abs(np.stack([state, action])).max(1),
        speeds=np.stack([_speed(change), _speed(_action_change(episode))]) * episode.control_hz,
        angle_slots=tuple(int(slot) for slot in angles),
    )


def conclude_lag(scope: str, found: Sequence[Tracking]) -> list[Finding]:
    """The state must move with the action or a little after it, and the action must not be a copy of the state."""
    copies = [t.where for t in found if t.is_copy and is_absolute(t.control_mode)]
    if len(copies) > len(found) / 2:
        advice = "Take the commanded targets as the action, or the state of the next step."
        evidence = f"in {len(copies)} of {len(found)} episodes the action equals the state of the same step"
        return [finding("lag", "error", scope, evidence, advice, copies)]
    curve = _mean([t.as_position if is_absolute(t.control_mode) else t.as_rate for t in found])
    middle = len(curve) // 2
    best = int(np.argmax(curve)) - middle
    gain = curve[best + middle] - curve[middle]
    delay_s = best / found[0].control_hz
    numbers = f"correlation {curve[best + middle]:.2f} at {best:+d} steps ({delay_s:+.2f} s), {curve[middle]:.2f} at 0"
    where = [t.where for t in found]
    if curve[best + middle] < CLEAR_CORRELATION or gain < CLEAR_GAIN:
        return []
    if best < 0:
        evidence = f"the state moves before the action commands it: {numbers}"
        advice = f"Pair every observation with the action {-best} steps later; look at how the logger pairs them."
        return [finding("lag", "error", scope, evidence, advice, where)]
    if delay_s > SLOW_LAG_S:
        evidence = f"the state follows the action late: {numbers}"
        advice = "Look whether the streams share a clock, and whether actions are paired with old observations."
        return [finding("lag", "warning", scope, evidence, advice, where)]
    return []


def conclude_degrees(scope: str, found: Sequence[Tracking]) -> list[Finding]:
    """Angles are in rad: no joint beyond a full turn, no arm that fast, and a state that turns as much as commanded."""
    findings = []
    for side, name in ((0, "state"), (1, "action")):
        slots = _degree_slots(found, side)
        if slots:
            listed = "; ".join(f"slot {slot}: {why}" for slot, why in slots.items())
            advice = f"Set `degrees: true` for these dims of the {name} in the adapter, and convert again."
            where = [t.where for t in found]
            findings.append(finding("degrees", "error", scope, f"{name} in degrees: {listed}", advice, where))
    return findings


def conclude_meaning(scope: str, found: Sequence[Tracking]) -> list[Finding]:
    """A delta action must not lie where the state is, an absolute one must."""
    offset = float(np.sqrt(np.mean([t.offset for t in found])))
    reach = float(np.sqrt(np.mean([t.reach for t in found])))
    mode, where = found[0].control_mode, [t.where for t in found]
    numbers = f"the action lies {offset:.3f} from the state, which lies {reach:.3f} from zero (rms)"
    if not is_absolute(found[0].control_mode) and reach > 0.02 and offset < 0.5 * reach:
        target = "joint_position" if is_velocity(mode) else "ee_absolute"
        advice = f"The action is an absolute target: set control_mode to {target}, or subtract the state."
        return [finding("absolute_as_delta", "error", scope, numbers, advice, where)]
    curve = _mean([t.as_rate for t in found])
    follows = float(curve[len(curve) // 2 :].max())
    if is_absolute(found[0].control_mode) and offset > 0.7 * reach and follows > CLEAR_CORRELATION:
        evidence = f"{numbers}, and it correlates {follows:.2f} with the state's change"
        target = "joint_velocity" if is_joint_mode(mode) else "ee_delta"
        advice = f"The action is a change, not a target: set control_mode to {target}, or add it to the state."
        return [finding("delta_as_absolute", "error", scope, evidence, advice, where)]
    return []


def conclude_velocity(scope: str, found: Sequence[Tracking]) -> list[Finding]:
    """Joints that are commanded in rad/s move by that much in a second."""
    if not is_velocity(found[0].control_mode):
        return []
    gains = np.concatenate([t.rate_gain[~np.isnan(t.rate_gain)] * t.control_hz for t in found])
    gain = float(np.median(gains)) if len(gains) else 1.0
    if SLOWEST_GAIN < gain < FASTEST_GAIN:
        return []
    hz = found[0].control_hz
    evidence = f"joints move {gain:.2f} times as fast as commanded, taken at {hz:g} Hz"
    advice = f"The control rate may be {hz / gain:.3g} Hz, or the velocities are not in rad/s: look at the adapter."
    return [finding("control_rate", "error", scope, evidence, advice, [t.where for t in found])]


def _correlations(x: Floats, y: Floats, lags: int) -> Floats:
    """Mean of x[t] * y[t + lag] over time and slots that move, both standardized; zeros where nothing moves."""
    moving = (x.std(0) > _STILL) & (y.std(0) > _STILL)
    if not moving.any():
        return np.zeros(2 * lags + 1)
    x, y = (_standardized(v[:, moving]) for v in (x, y))
    n = len(x)
    products = [x[max(0, -k) : n - max(0, k)] * y[max(0, k) : n + min(0, k)] for k in range(-lags, lags + 1)]
    return np.array([product.mean() for product in products])


def _standardized(values: Floats) -> Floats:
    return (values - values.mean(0)) / values.std(0)


def _slopes(x: Floats, y: Floats, slots: NDArray[np.int64]) -> Floats:
    """Least-squares slope of y on x through zero, per slot; NaN where x hardly moves."""
    slopes = np.full(N_SLOTS, np.nan)
    moving = [slot for slot in slots if x[:, slot].std() > _STILL and y[:, slot].std() > _STILL]
    slopes[moving] = (x[:, moving] * y[:, moving]).sum(0) / (x[:, moving] ** 2).sum(0)
    return slopes


def _action_change(episode: StoredEpisode) -> Floats:
    """The arm's commanded change per step, [t, 18], whatever the control mode."""
    action = episode.action.astype(np.float64)
    if is_velocity(episode.control_mode):
        return action / episode.control_hz
    return action if is_delta(episode.control_mode) else np.diff(action, axis=0)


def _speed(change: Floats) -> Floats:
    return np.quantile(np.abs(change), 0.95, axis=0)


def _mean(curves: Sequence[Floats]) -> Floats:
    """The mean of curves over the lags that the median one has; shorter ones are left out."""
    halves = [len(curve) // 2 for curve in curves]
    half = int(np.median(halves))
    return np.mean([c[n - half : n + half + 1] for c, n in zip(curves, halves, strict=True) if n >= half], axis=0)


def _degree_slots(found: Sequence[Tracking], side: int) -> dict[int, str]:
    """The angle slots of the state (0) or the action (1) whose numbers only make sense as degrees, and why."""
    slots: dict[int, str] = {}
    for slot in found[0].angle_slots:
        peak = float(np.median([t.peaks[side, slot] for t in found]))
        speed = float(np.median([t.speeds[side, slot] for t in found]))
        ratio = _turn_ratio(found, slot)
        if peak > FULL_TURN_RAD and not (side == 1 and is_velocity(found[0].control_mode)):
            slots[slot] = f"reaches {peak:.3g}"
        elif speed > FAST_RAD_S:
            slots[slot] = f"moves at {speed:.3g} per s"
        elif side == 1 and 0.7 < ratio * DEGREES < 1.4:
            slots[slot] = f"the state turns 1/{1 / ratio:.0f} of what is commanded"
        elif side == 0 and 0.7 < ratio / DEGREES < 1.4:
            slots[slot] = f"turns {ratio:.0f} times what is commanded"
    return slots


def _turn_ratio(found: Sequence[Tracking], slot: int) -> float:
    """How far the state turns for what is commanded; NaN where it hardly moves."""
    if is_velocity(found[0].control_mode):
        gains = np.array([t.rate_gain[slot] * t.control_hz for t in found])
    else:
        gains = np.array([t.position_gain[slot] if is_absolute(t.control_mode) else t.rate_gain[slot] for t in found])
    known = gains[~np.isnan(gains)]
    return float(np.median(known)) if len(known) else float("nan")
