"""Whether the state follows the action, and how late; and whether the action is a target or a change."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.slots import is_joint_mode
from pipelines.contract.units import is_absolute
from pipelines.contract.words import counted
from pipelines.quality.findings import Finding, finding
from pipelines.quality.scale import unwrap
from pipelines.shards.stored_episodes import StoredEpisode

Floats = NDArray[np.float64]

MAX_LAG_S = 1.0
SLOW_LAG_S = 0.6
CLEAR_CORRELATION = 0.3
CLEAR_GAIN = 0.05  # How much better than at lag 0 the correlation must be.
_STILL = 1e-4


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """How one episode's arm state follows its action.

    as_position, as_rate: [2k + 1] mean products, at lags -k..k, of the state's change with the action's change and
    with the action itself, each slot standardized. offset, reach: mean squares of action - state and of the state.
    is_copy: whether the action of every step equals the state of that step.
    """

    where: str
    control_mode: str
    control_hz: float
    as_position: Floats
    as_rate: Floats
    offset: float
    reach: float
    is_copy: bool


def measure_tracking(episode: StoredEpisode) -> Tracking | None:
    """Returns how the arm follows its action; None for an episode without arms, vectors, or enough steps."""
    lags = min(max(2, round(MAX_LAG_S * episode.control_hz)), (episode.n_steps - 4) // 2)
    if not episode.has_vectors or not len(episode.arm_slots) or lags < 2:
        return None
    slots = episode.arm_slots
    angles = [slot for slot in slots if episode.units("state")[slot] == "rad"]
    state, action = episode.state.astype(np.float64), episode.action.astype(np.float64)
    apart = action - state
    # Angles that differ by a full turn are the same; a joint's sensor may count -pi to pi and its command may not.
    apart[:, angles] = unwrap(apart[:, angles], range(len(angles)))
    apart[:, angles] -= 2 * np.pi * np.round(np.median(apart[:, angles], axis=0) / (2 * np.pi))
    change = np.diff(unwrap(state, angles), axis=0)
    compared = slots
    if not is_joint_mode(episode.control_mode):
        # Roll, pitch and yaw of a turn depend on each other; positions alone are compared slot by slot.
        compared = np.setdiff1d(slots, angles)
    moves = bool(np.abs(change[:, slots]).max() > _STILL)
    return Tracking(
        where=episode.where,
        control_mode=episode.control_mode,
        control_hz=episode.control_hz,
        as_position=_correlations(np.diff(unwrap(action, angles)[:, compared], axis=0), change[:, compared], lags),
        as_rate=_correlations(action[:-1, compared], change[:, compared], lags),
        offset=float(np.mean(apart[:, compared] ** 2)),
        reach=float(np.mean(state[:, compared] ** 2)),
        is_copy=moves and bool(np.abs(action[:, slots] - state[:, slots]).max() < 1e-6),
    )


def conclude_lag(scope: str, found: Sequence[Tracking]) -> list[Finding]:
    """The state must move with the action or a little after it, and the action must not be a copy of the state."""
    copies = [t.where for t in found if t.is_copy and is_absolute(t.control_mode)]
    if len(copies) > len(found) / 2:
        advice = "Take the commanded targets as the action, or the state of the next step."
        evidence = f"in {len(copies)} of {counted(found, 'episode')} the action equals the state of the same step"
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
        advice = (
            f"Pair every observation with the action {counted(-best, 'step')} later; look at how the logger pairs them."
        )
        return [finding("lag", "error", scope, evidence, advice, where)]
    if delay_s > SLOW_LAG_S:
        evidence = f"the state follows the action late: {numbers}"
        advice = "Look whether the streams share a clock, and whether actions are paired with old observations."
        return [finding("lag", "warning", scope, evidence, advice, where)]
    return []


def conclude_meaning(scope: str, found: Sequence[Tracking]) -> list[Finding]:
    """A delta action must not lie where the state is, an absolute one must."""
    offset = float(np.sqrt(np.mean([t.offset for t in found])))
    reach = float(np.sqrt(np.mean([t.reach for t in found])))
    mode, where = found[0].control_mode, [t.where for t in found]
    numbers = f"the action lies {offset:.3f} from the state, which lies {reach:.3f} from zero (rms)"
    if not is_absolute(found[0].control_mode) and reach > 0.02 and offset < 0.5 * reach:
        target = "joint_position" if mode == "joint_velocity" else "ee_absolute"
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


def _correlations(x: Floats, y: Floats, lags: int) -> Floats:
    """Mean of x[t] * y[t + lag] over time and slots that move, both standardized; zeros where nothing moves."""
    moving = (x.std(0) > _STILL) & (y.std(0) > _STILL)
    if not moving.any():
        return np.zeros(2 * lags + 1)
    x, y = (_standardized(v[:, moving]) for v in (x, y))
    n = len(x)
    # Product and sum in one pass; not by BLAS, whose threads take longer to start than this takes.
    pairs = ((x[max(0, -k) : n - max(0, k)], y[max(0, k) : n + min(0, k)]) for k in range(-lags, lags + 1))
    sums = [np.einsum("ij,ij->", now, later) for now, later in pairs]
    return np.array(sums) / (x.shape[1] * (n - np.abs(np.arange(-lags, lags + 1))))


def _standardized(values: Floats) -> Floats:
    return (values - values.mean(0)) / values.std(0)


def _mean(curves: Sequence[Floats]) -> Floats:
    """The mean of curves over the lags that the median one has; shorter ones are left out."""
    halves = [len(curve) // 2 for curve in curves]
    half = int(np.median(halves))
    return np.mean([c[n - half : n + half + 1] for c, n in zip(curves, halves, strict=True) if n >= half], axis=0)
