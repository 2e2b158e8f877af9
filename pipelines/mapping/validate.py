"""What makes an episode unfit for training: one place for every limit, one function that says why."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.episode import Episode
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


def find_fault(episode: Episode) -> Fault | None:
    """Returns (reason, detail) of the first thing that bars the episode, or None.

    Reasons: one_step, no_camera, no_action, non_finite, absurd_value, absurd_jump.
    """
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
