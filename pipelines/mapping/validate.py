"""What makes an episode unfit for training: one place for every limit, one function that says why."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.episode import DroppedSteps, Episode
from pipelines.contract.reject_reasons import RejectReason
from pipelines.contract.units import Quantity, slot_quantities

Fault = tuple[RejectReason, str]


@dataclass(frozen=True, kw_only=True)
class Limit:
    """What no robot does. low, high: values outside are absurd. rate: the greatest change in a second, plus `step`.

    period: values that differ by this are the same (angles of a pose); 0 for none.
    """

    low: float
    high: float
    rate: float
    step: float
    period: float = 0.0


_TURN = 2 * np.pi
LIMITS: dict[Quantity, Limit] = {
    # A joint may have turned a few times; industrial arms reach 3-7 rad/s. 90 (a joint in degrees) is outside.
    "joint_rad": Limit(low=-4 * _TURN, high=4 * _TURN, rate=15.0, step=0.5),
    "joint_rad_s": Limit(low=-30.0, high=30.0, rate=float("inf"), step=float("inf")),
    "pose_m": Limit(low=-10.0, high=10.0, rate=5.0, step=0.2),
    "pose_rad": Limit(low=-2 * _TURN, high=2 * _TURN, rate=20.0, step=0.7, period=_TURN),
    "delta_m": Limit(low=-1.0, high=1.0, rate=float("inf"), step=float("inf")),
    "delta_rad": Limit(low=-_TURN, high=_TURN, rate=float("inf"), step=float("inf")),
    "gripper": Limit(low=-0.5, high=1.5, rate=float("inf"), step=float("inf")),
    "base_m_s": Limit(low=-5.0, high=5.0, rate=float("inf"), step=float("inf")),
    "base_rad_s": Limit(low=-10.0, high=10.0, rate=float("inf"), step=float("inf")),
    "torso_m": Limit(low=-2.0, high=3.0, rate=2.0, step=0.1),
}


# The share of its steps that an episode may lose and still be the demonstration that was recorded.
MAX_LOSS = 0.1
# A pause that hides a motion: a reach takes about half a second.
MAX_HOLE_S = 0.5
# A stream slower than 2 Hz pauses longer between any two samples; there a hole is one that lacks a sample.
_HOLE_PERIODS = 1.5
# Steps that an entry leaves out of every episode are no loss of this one.
_ON_PURPOSE = ("first_step", "first_step_zero_action", "camera_delay_shift")
_PAUSE_NOTE = "/longest_pause_ms"


def find_fault(episode: Episode, max_loss: float = MAX_LOSS) -> Fault | None:
    """Returns (reason, detail) of the first thing that bars the episode, or None.

    max_loss: the share of steps that it may lose. Reasons: those of `find_loss`, one_step, no_camera, no_action,
    non_finite, absurd_value, absurd_jump.
    """
    if fault := find_loss(
        episode.n_steps, episode.dropped, episode.timestamp_s, episode.notes, episode.control_hz, max_loss
    ):
        return fault
    if episode.n_steps < 2:
        return "one_step", f"expected at least 2 steps, found {episode.n_steps}"
    if not episode.images:
        return "no_camera", f"expected at least one of {', '.join(episode.dataset_cameras)}, found none"
    if not episode.action_mask.any():
        return "no_action", "expected an action in at least one slot, found none"
    for side, values, mask in (
        ("state", episode.state, episode.state_mask),
        ("action", episode.action, episode.action_mask),
    ):
        units = slot_quantities(episode.control_mode, episode.parts, side)
        fault = _find_in_vectors(side, values, mask, units, episode.control_hz)
        if fault:
            return fault
    return None


def find_loss(
    n_steps: int,
    dropped: Sequence[DroppedSteps],
    timestamp_s: NDArray[np.float64],
    notes: Mapping[str, float],
    control_hz: float,
    max_loss: float = MAX_LOSS,
) -> Fault | None:
    """Says what an episode lost, where it lost too much to be kept; None where it did not.

    n_steps, timestamp_s [t]: of the steps that are left. One lost step is never too much, and steps that an entry
    leaves out on purpose do not count. notes: `STREAM/longest_pause_ms` is the longest pause of a camera, gripper or
    other stream while the episode lasts. Reasons: holes, or the reason of most of the lost steps.
    """
    lost = [stretch for stretch in dropped if stretch.reason not in _ON_PURPOSE]
    n_lost = sum(stretch.end - stretch.start for stretch in lost)
    if n_lost > max(1.0, max_loss * (n_steps + n_lost)):
        return _explain_loss(lost, n_lost, n_steps + n_lost, max_loss)
    n_native = n_steps + sum(stretch.end - stretch.start for stretch in dropped)
    pauses = {name.removesuffix(_PAUSE_NOTE): ms / 1e3 for name, ms in notes.items() if name.endswith(_PAUSE_NOTE)}
    pauses["steps"] = float(np.diff(timestamp_s).max(initial=0.0))
    # Where the source has no clock, the times of what is left close over a stretch that is lost inside.
    inside = [stretch for stretch in lost if stretch.start > 0 and stretch.end < n_native]
    pauses["lost steps"] = max(((s.end - s.start + 1) / control_hz for s in inside), default=0.0)
    limit_s = max(MAX_HOLE_S, _HOLE_PERIODS / control_hz)
    stream, longest_s = max(pauses.items(), key=lambda pause: pause[1])
    if longest_s > limit_s:
        return "holes", f"{stream}: expected samples at most {limit_s:.2f} s apart, found a hole of {longest_s:.2f} s"
    return None


def _explain_loss(lost: Sequence[DroppedSteps], n_lost: int, n_all: int, max_loss: float) -> Fault:
    by_reason: Counter[str] = Counter()
    for stretch in lost:
        by_reason[stretch.reason] += stretch.end - stretch.start
    listed = ", ".join(f"{reason} {n}" for reason, n in by_reason.most_common())
    reason = cast(RejectReason, by_reason.most_common(1)[0][0])
    return reason, f"expected to lose at most {max_loss:.0%} of the steps, found {n_lost} of {n_all} lost ({listed})"


def _find_in_vectors(
    side: str, values: NDArray[np.float32], mask: NDArray[np.bool_], units: dict[int, Quantity], control_hz: float
) -> Fault | None:
    bad = ~np.isfinite(values)
    if bad.any():
        step, slot = np.argwhere(bad)[0]
        return "non_finite", f"{side}: step {step}, slot {slot}: expected a finite number, found {values[step, slot]}"
    for slot in np.flatnonzero(mask):
        unit = units[int(slot)]
        limit, column = LIMITS[unit], values[:, slot].astype(np.float64)
        where = f"{side}: slot {slot} ({unit})"
        outside = np.flatnonzero((column < limit.low) | (column > limit.high))
        if len(outside):
            step = outside[0]
            hint = _guess_unit(unit, float(np.abs(column).max()))
            expected = f"expected {limit.low:.3g} to {limit.high:.3g}"
            return "absurd_value", f"{where}: step {step}: {expected}, found {column[step]:.6g}{hint}"
        change = np.abs(np.diff(column))
        if limit.period:
            change = np.minimum(change % limit.period, limit.period - change % limit.period)
        most = limit.step + limit.rate / control_hz
        jumps = np.flatnonzero(change > most)
        if len(jumps):
            step = jumps[0]
            found = f"{column[step]:.6g} to {column[step + 1]:.6g}"
            return "absurd_jump", f"{where}: after step {step}: expected a change up to {most:.3g}, found {found}"
    return None


def _guess_unit(unit: str, greatest: float) -> str:
    """Asks about the usual mistake behind angles that are too large."""
    if "rad" not in unit or greatest <= 7:
        return ""
    return "; are these degrees?" if greatest <= 400 else "; are these raw servo ticks?"
