"""What makes an episode unfit for training: every limit, and one function that returns the reason."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.episode import DroppedSteps, Episode
from pipelines.contract.reject_reasons import RejectReason
from pipelines.contract.slots import METRIC
from pipelines.contract.units import Quantity, slot_quantities
from pipelines.mapping.forms import turns_between
from pipelines.mapping.steps import MAX_LOSS

Fault = tuple[RejectReason, str]


@dataclass(frozen=True, kw_only=True)
class Limit:
    """What no robot does. low, high: values outside are absurd. rate: the greatest change in a second, plus `step`.

    For angles of a pose, `rate` and `step` limit the angle of the rotation between two poses.
    """

    low: float
    high: float
    rate: float
    step: float


_TURN = 2 * np.pi
LIMITS: dict[Quantity, Limit] = {
    # A joint may have turned a few times; industrial arms reach 3-7 rad/s. 90 (a joint in degrees) is outside.
    "joint_rad": Limit(low=-4 * _TURN, high=4 * _TURN, rate=15.0, step=0.5),
    "joint_rad_s": Limit(low=-30.0, high=30.0, rate=float("inf"), step=float("inf")),
    "pose_m": Limit(low=-10.0, high=10.0, rate=5.0, step=0.2),
    "pose_rad": Limit(low=-2 * _TURN, high=2 * _TURN, rate=20.0, step=0.7),
    "delta_m": Limit(low=-1.0, high=1.0, rate=float("inf"), step=float("inf")),
    "delta_rad": Limit(low=-_TURN, high=_TURN, rate=float("inf"), step=float("inf")),
    "gripper": Limit(low=-0.5, high=1.5, rate=float("inf"), step=float("inf")),
    "base_m_s": Limit(low=-5.0, high=5.0, rate=float("inf"), step=float("inf")),
    "base_rad_s": Limit(low=-10.0, high=10.0, rate=float("inf"), step=float("inf")),
    "torso_m": Limit(low=-2.0, high=3.0, rate=2.0, step=0.1),
}


# A pause that hides a motion: a reach takes about half a second.
MAX_HOLE_S = 0.5
# A stream slower than 2 Hz pauses longer between any two samples; there a hole is one that lacks a sample.
_HOLE_PERIODS = 1.5
# Steps that an entry leaves out of every episode are no loss of this one.
_ON_PURPOSE = ("first_step", "first_step_zero_action", "camera_delay_shift", "no_reached_state")
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
        quantities = judged_quantities(episode.control_mode, episode.parts, side, episode.units)
        fault = _find_in_vectors(side, values, mask, quantities, episode.control_hz)
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
    # One lost step is none: at the 3 Hz of RT-1 it would bar an episode for a single glitch, which is common there.
    inside = [s for s in lost if s.start > 0 and s.end < n_native and s.end - s.start > 1]
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


def judged_quantities(
    control_mode: str, parts: Mapping[str, tuple[int, ...]], side: str, units: str
) -> dict[int, Quantity]:
    """The quantity of every slot that has limits: of an action in a source's own units, grippers only."""
    quantities = slot_quantities(control_mode, parts, side)
    if side == "action" and units != METRIC:
        return {slot: quantity for slot, quantity in quantities.items() if quantity == "gripper"}
    return quantities


def find_absurd_steps(
    values: NDArray[np.float32], mask: NDArray[np.bool_], quantities: Mapping[int, Quantity], control_hz: float
) -> dict[RejectReason, NDArray[np.bool_]]:
    """Returns, per reason (absurd_value, absurd_jump), bool [t]: the steps whose values no robot can have.

    A jump does not say which of its two sides is wrong. What lies within reach of the longest stretch without a jump
    is kept: a single glitch is one step, and of an episode that changes over to other values the shorter part is lost.
    """
    outside: NDArray[np.bool_] = np.logical_or.reduce(_is_outside(values, mask, quantities), axis=1)
    jumps = np.zeros(len(values), np.bool_)
    if (_excess(values[:-1], values[1:], mask, quantities, control_hz) > 0).any():
        jumps = ~outside & ~_within_reach(values, ~outside, mask, quantities, control_hz)
    return {"absurd_value": outside, "absurd_jump": jumps}


def _within_reach(
    values: NDArray[np.float32],
    candidates: NDArray[np.bool_],
    mask: NDArray[np.bool_],
    quantities: Mapping[int, Quantity],
    control_hz: float,
) -> NDArray[np.bool_]:
    """bool [t]: the candidates of the longest stretch without a jump, and those that follow or precede it without."""
    kept = np.zeros(len(values), np.bool_)
    steps = np.flatnonzero(candidates)
    if not len(steps):
        return kept

    def is_jump(before: int, after: int) -> bool:
        pair = values[before : before + 1], values[after : after + 1]
        return bool((_excess(*pair, mask, quantities, control_hz) > 0).any())

    jumps = (_excess(values[steps[:-1]], values[steps[1:]], mask, quantities, control_hz) > 0).any(axis=1)
    bounds = [0, *(np.flatnonzero(jumps) + 1), len(steps)]
    start, stop = max(zip(bounds, bounds[1:], strict=False), key=lambda stretch: stretch[1] - stretch[0])
    kept[steps[start:stop]] = True
    last = steps[stop - 1]
    for step in steps[stop:]:
        if not is_jump(last, step):
            kept[step], last = True, step
    last = steps[start]
    for step in steps[:start][::-1]:
        if not is_jump(step, last):
            kept[step], last = True, step
    return kept


def _find_in_vectors(
    side: str,
    values: NDArray[np.float32],
    mask: NDArray[np.bool_],
    quantities: Mapping[int, Quantity],
    control_hz: float,
) -> Fault | None:
    bad = ~np.isfinite(values)
    if bad.any():
        step, slot = np.argwhere(bad)[0]
        return "non_finite", f"{side}: step {step}, slot {slot}: expected a finite number, found {values[step, slot]}"
    outside = _is_outside(values, mask, quantities)
    jumps = _excess(values[:-1], values[1:], mask, quantities, control_hz) > 0
    for slot in np.flatnonzero(outside.any(axis=0) | jumps.any(axis=0)):
        quantity = quantities[int(slot)]
        limit, where = LIMITS[quantity], f"{side}: slot {slot} ({quantity})"
        if outside[:, slot].any():
            step = np.flatnonzero(outside[:, slot])[0]
            hint = _guess_unit(quantity, float(np.abs(values[:, slot]).max()))
            expected = f"expected {limit.low:.3g} to {limit.high:.3g}"
            return "absurd_value", f"{where}: step {step}: {expected}, found {values[step, slot]:.6g}{hint}"
        step = np.flatnonzero(jumps[:, slot])[0]
        most = limit.step + limit.rate / control_hz
        if quantity == "pose_rad":
            (turn,) = turns_between(*(values[i : i + 1, _pose_of(int(slot), quantities)] for i in (step, step + 1)))
            found = f"after step {step}: expected a turn up to {most:.3g} rad, found {turn:.3g}"
            return "absurd_jump", f"{where}: {found}"
        found = f"{values[step, slot]:.6g} to {values[step + 1, slot]:.6g}"
        return "absurd_jump", f"{where}: after step {step}: expected a change up to {most:.3g}, found {found}"
    return None


def _is_outside(
    values: NDArray[np.float32], mask: NDArray[np.bool_], quantities: Mapping[int, Quantity]
) -> NDArray[np.bool_]:
    """bool [t, d]: numbers beyond the limits of their quantity."""
    outside = np.zeros(values.shape, np.bool_)
    for slot, quantity in quantities.items():
        if mask[slot]:
            column = values[:, slot].astype(np.float64)
            outside[:, slot] = (column < LIMITS[quantity].low) | (column > LIMITS[quantity].high)
    return outside


def _excess(
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    mask: NDArray[np.bool_],
    quantities: Mapping[int, Quantity],
    control_hz: float,
) -> NDArray[np.float64]:
    """float64 [n, d]: by how much each slot changes from row to row beyond what its limit allows.

    The three angles of a pose are judged as one rotation: near pitch +-90 degrees roll and yaw may jump by half a turn
    while the arm hardly turns. The first of them that counts stands for all.
    """
    excess = np.full(before.shape, -np.inf)
    for slot, quantity in quantities.items():
        limit = LIMITS[quantity]
        if not mask[slot] or limit.rate == np.inf:
            continue
        most = limit.step + limit.rate / control_hz
        if quantity == "pose_rad":
            angles = _pose_of(slot, quantities)
            if not any(mask[earlier] for earlier in angles if earlier < slot):
                excess[:, slot] = turns_between(before[:, angles], after[:, angles]) - most
        else:
            excess[:, slot] = np.abs(after[:, slot].astype(np.float64) - before[:, slot]) - most
    return excess


def _pose_of(slot: int, quantities: Mapping[int, Quantity]) -> list[int]:
    """The slots of roll, pitch and yaw of the pose that an angle belongs to."""
    first = slot
    while quantities.get(first - 1) == "pose_rad":
        first -= 1
    return [first, first + 1, first + 2]


def _guess_unit(unit: str, greatest: float) -> str:
    """Asks about the usual mistake behind angles that are too large."""
    if "rad" not in unit or greatest <= 7:
        return ""
    return "; are these degrees?" if greatest <= 400 else "; are these raw servo ticks?"
