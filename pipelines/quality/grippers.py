"""Gripper polarity and range, 0 open and 1 closed, checked against the motion of the fingers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.quality.findings import Finding, finding
from pipelines.shards.stored_episodes import StoredEpisode

_SETTLE_S = 1.0
_MOVED = 0.05
_OPEN, _CLOSED = 0.35, 0.65
# Fingers that switch between two ends less than this apart were not divided by their full opening (0.04 m, 0.085 m).
# Below the other they are at rest.
_NARROW, _AT_REST = 0.2, 0.005
_WIDE = 1.5
# Parts of the steps: near either end together, and near the rarer one. Noise and drift of idle fingers do not switch.
_AT_ENDS, _AT_EITHER_END = 0.7, 0.05


@dataclass(frozen=True, kw_only=True)
class GripperMotion:
    """What one gripper did in one episode.

    agree, against: commanded switches after which the fingers moved as commanded, or the other way.
    open_rest, closed_rest: how far the fingers rest from the command when it has long been open, or closed; NaN where
    it never was. starts_closed: the first measured value, or the first command where nothing is measured. spans: how
    far apart the least and the greatest are, of commands and of measured values. switches: whether these lie near one
    of the two nearly always.
    """

    where: str
    agree: int
    against: int
    open_rest: float
    closed_rest: float
    starts_closed: bool
    is_measured: bool
    slot: int
    spans: tuple[float, float]
    switches: tuple[bool, bool]


def measure_grippers(episode: StoredEpisode) -> list[GripperMotion]:
    """Returns the motion of every gripper that is commanded."""
    if not episode.has_vectors:
        return []
    settle = max(1, round(_SETTLE_S * episode.control_hz))
    return [_motion(episode, slot, settle) for slot in episode.gripper_slots if episode.action_mask[slot]]


def conclude_polarity(scope: str, found: Sequence[Sequence[GripperMotion]]) -> list[Finding]:
    """Fingers close on command; a thing between them may stop them from closing, nothing stops them from opening."""
    motions = [motion for motions in found for motion in motions]
    agree, against = sum(m.agree for m in motions), sum(m.against for m in motions)
    if not motions:
        return []
    closed_start = float(np.mean([m.starts_closed for m in motions]))
    starts = f"{closed_start:.0%} of the episodes start closed"
    if agree + against >= 2 and against > 0.7 * (agree + against):
        where = [m.where for m in motions if m.against > m.agree]
        evidence = f"fingers moved against {against} of {agree + against} commands, and by the state {starts}"
        side = "state" if closed_start > 0.5 else "action"
        return [finding("gripper_polarity", "error", scope, evidence, _advice(f"the {side}'s"), where)]
    open_rest, closed_rest = (_mean([getattr(m, side) for m in motions]) for side in ("open_rest", "closed_rest"))
    if open_rest > 0.15 and open_rest > closed_rest + 0.1 and closed_start > 0.6:
        evidence = (
            f"fingers rest {open_rest:.2f} short of open and {closed_rest:.2f} short of closed, as if something "
            f"stopped them from opening, and {starts}"
        )
        where = [m.where for m in motions]
        return [finding("gripper_polarity", "error", scope, evidence, _advice("the state's and the action's"), where)]
    if len(motions) >= 10 and closed_start > 0.9:
        measured = "measured" if all(m.is_measured for m in motions) else "not measured"
        evidence = f"{starts}; the fingers are {measured}, and there is no other evidence"
        where = [m.where for m in motions if m.starts_closed]
        return [finding("gripper_polarity", "warning", scope, evidence, _advice("the"), where)]
    return []


def conclude_range(scope: str, found: Sequence[Sequence[GripperMotion]]) -> list[Finding]:
    """Grippers that switch must do so over about 0 to 1: their map is fixed, so that metres would be a hair's width."""
    findings: list[Finding] = []
    for slot in sorted({motion.slot for motions in found for motion in motions}):
        mine = [motion for motions in found for motion in motions if motion.slot == slot]
        for side, name in ((0, "command"), (1, "fingers")):
            if side == 1 and not mine[0].is_measured:
                continue
            spans = [motion.spans[side] for motion in mine if motion.spans[side] > _AT_REST]
            narrow = [m for m in mine if _AT_REST < m.spans[side] < _NARROW and m.switches[side]]
            is_narrow = len(narrow) > len(mine) / 2 and max(spans) < _NARROW
            if len(mine) < 3 or not (is_narrow or (spans and float(np.median(spans)) > _WIDE)):
                continue
            evidence = f"slot {slot}: the {name} span {float(np.median(spans)):.3g} from one end to the other, not 1"
            advice = "Give `open` and `closed` of this gripper in the adapter in the source's own numbers."
            findings.append(finding("gripper_range", "warning", scope, evidence, advice, [m.where for m in mine]))
    return findings


def _advice(whose: str) -> str:
    return f"Swap `open` and `closed` of {whose} gripper in the adapter (0 is open, 1 closed), and convert again."


def _motion(episode: StoredEpisode, slot: int, settle: int) -> GripperMotion:
    command = episode.action[:, slot]
    is_measured = bool(episode.state_mask[slot])
    fingers = episode.state[:, slot] if is_measured else command
    closes = _hysteresis(command)
    switches = np.flatnonzero(np.diff(closes.astype(int))) + 1
    ends = np.minimum(switches + settle, len(command) - 1)
    moved = fingers[ends] - fingers[switches]
    agrees = (np.sign(moved) == np.where(closes[switches], 1, -1))[np.abs(moved) > _MOVED] if is_measured else []
    rests = np.abs(fingers - command)
    settled = _held_for(closes, settle) & is_measured
    return GripperMotion(
        where=episode.where,
        agree=int(np.sum(agrees)),
        against=int(len(agrees) - np.sum(agrees)),
        open_rest=_mean(rests[settled & ~closes & (command < 0.1)]),
        closed_rest=_mean(rests[settled & closes & (command > 0.9)]),
        starts_closed=bool(fingers[0] > 0.5),
        is_measured=is_measured,
        slot=slot,
        spans=(float(np.ptp(command)), float(np.ptp(fingers))),
        switches=(_switches(command), _switches(fingers)),
    )


def _switches(values: NDArray[np.float32]) -> bool:
    """Whether values are near their least or their greatest nearly always, and each at times."""
    part = (values - values.min()) / max(float(np.ptp(values)), 1e-9)
    low, high = float(np.mean(part < 0.2)), float(np.mean(part > 0.8))
    return low + high > _AT_ENDS and min(low, high) > _AT_EITHER_END


def _hysteresis(command: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether the command says closed, bool [t]; between the thresholds it keeps what it said last."""
    said = np.where(command > _CLOSED, 1, np.where(command < _OPEN, 0, -1))
    said[0] = int(command[0] > 0.5)
    last = np.maximum.accumulate(np.where(said >= 0, np.arange(len(said)), 0))
    return said[last].astype(bool)


def _held_for(flags: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """Whether a flag has been as it is for at least so many steps, bool [t]."""
    changes = np.concatenate([[0], np.flatnonzero(np.diff(flags.astype(int))) + 1])
    since = np.arange(len(flags)) - changes[np.searchsorted(changes, np.arange(len(flags)), side="right") - 1]
    return since >= steps


def _mean(values: Sequence[float] | NDArray[np.floating]) -> float:
    """The mean of what is known; NaN where nothing is."""
    known = [float(value) for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
