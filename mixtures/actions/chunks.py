"""Action chunks out of the compiled index: at the source's own rate, or resampled to one rate for all sources."""

import json
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mixtures.actions.rotations import euler_to_relative, relative_to_euler
from mixtures.index.tables import CompiledTable
from mixtures.specs.spec import ActionRule
from pipelines.contract.units import is_delta

LINEAR, ANGLE, HOLD, SUM = range(4)
# Rates are stored as float32, so that a whole native step may come out as 3.9999999: floor would then take the step
# before.
_NEARLY = 1e-6


def read_chunks(
    table: CompiledTable, rows: NDArray[np.int64], steps: NDArray[np.int64], rule: ActionRule
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The physical chunks that begin at `steps` of episodes `rows`: float32 [b, h, d], and bool [b, h].

    The second marks the steps that lie inside the episode; behind its end the last action is repeated, or where changes
    are resampled nothing moves.
    """
    if rule.rate_hz is not None and (np.abs(table.control_hz[rows] - rule.rate_hz) > _NEARLY).any():
        return _resampled(table, rows, steps, rule.horizon, rule.rate_hz)
    ahead = steps[:, None] + np.arange(rule.horizon)
    return _actions(table, rows, ahead), ahead < table.n_steps_of[rows][:, None]


def slot_kinds(control_mode: str, parts: str, n_slots: int) -> NDArray[np.uint8]:
    """How each slot is resampled, uint8 [n_slots]. parts: the action's slots of each part, as JSON.

    HOLD: grippers keep their last value, so that no switch is smeared. SUM: the changes of ee_delta add up to the same
    movement. ANGLE: roll, pitch, yaw of ee_absolute turn together, the short way. LINEAR: everything else.
    """
    kinds = np.full(n_slots, LINEAR, np.uint8)
    for part, slots in json.loads(parts).items():
        if part.startswith("gripper"):
            kinds[slots] = HOLD
        elif part.startswith("arm") and is_delta(control_mode):
            kinds[slots] = SUM
        elif part.startswith("arm") and control_mode == "ee_absolute":
            kinds[slots[3:6]] = ANGLE
    return kinds


def resample(
    window: NDArray[np.float32], kinds: NDArray[np.uint8], ratio: NDArray[np.float64], horizon: int
) -> NDArray[np.float32]:
    """Actions at every `ratio`-th native step, float32 [b, horizon, d].

    window: native actions from the chunk's first step on, float32 [b, w, d], w > horizon * ratio + 1. kinds: uint8
    [b, d]. ratio: native steps per new step, float64 [b].

    >>> window = np.arange(8, dtype=np.float32)[None, :, None] * np.ones((1, 8, 18), np.float32)
    >>> resample(window, np.full((1, 18), LINEAR), np.array([0.5]), 4)[0, :, 0]
    array([0. , 0.5, 1. , 1.5], dtype=float32)
    >>> resample(window, np.full((1, 18), SUM), np.array([2.0]), 3)[0, :, 0]
    array([1., 5., 9.], dtype=float32)
    """
    # Deltas are resampled as the movement that they add up to: interpolating the deltas themselves would move the hand
    # twice as far at half the rate.
    values = window.astype(np.float64)
    positions = ratio[:, None] * np.arange(horizon + 1)
    low = np.floor(positions + _NEARLY).astype(np.int64)
    part = np.maximum(positions - low, 0)[:, :, None]
    sample = np.arange(len(window))[:, None]
    before, after = values[sample, low], values[sample, low + 1]
    moved = np.cumsum(values, axis=1) - values
    moved_to = moved[sample, low] + part * before
    kinds = kinds[:, None]
    result = before + part * (after - before)
    result = np.where(kinds == HOLD, before, result)[:, :-1]
    _turn(result, before[:, :-1], after[:, :-1], part[:, :-1], kinds[:, 0])
    return np.where(kinds == SUM, np.diff(moved_to, axis=1), result).astype(np.float32)


def _turn(
    result: NDArray[np.float64],
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    part: NDArray[np.float64],
    kinds: NDArray[np.uint8],
) -> None:
    """Sets the ANGLE slots of result [b, h, d] to orientations on the shortest turn from `before` to `after`.

    Roll, pitch and yaw by themselves would leave that turn near pitch +-90 degrees, by up to half a step of it.
    """
    sample, step = np.nonzero(np.broadcast_to(part[:, :, 0] > 0, result.shape[:2]))
    on_step = kinds[:, None] == ANGLE
    result[:] = np.where(on_step, before, result)
    for slots in _triples(kinds):
        mine = (kinds[sample] == ANGLE)[:, slots].all(axis=1)
        cut = sample[mine, None], step[mine, None], np.array(slots)[None]
        if mine.any():
            vector = euler_to_relative(after[cut][:, None], before[cut])
            result[cut] = relative_to_euler(vector * part[sample, step][mine, None], before[cut])[:, 0]


def _triples(kinds: NDArray[np.uint8]) -> list[list[int]]:
    """The slots of every three angles that turn together, of all samples.

    >>> _triples(slot_kinds("ee_absolute", '{"arm0": [0, 1, 2, 3, 4, 5]}', 18)[None])
    [[3, 4, 5]]
    """
    found = {
        tuple(row) for angles in np.unique(kinds == ANGLE, axis=0) for row in np.flatnonzero(angles).reshape(-1, 3)
    }
    return [list(map(int, row)) for row in sorted(found)]


def _resampled(
    table: CompiledTable, rows: NDArray[np.int64], steps: NDArray[np.int64], horizon: int, rate_hz: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    ratio = table.control_hz[rows].astype(np.float64) / rate_hz
    width = int(np.ceil(ratio.max() * horizon)) + 2
    window = _actions(table, rows, steps[:, None] + np.arange(width))
    modes, parts = table.vocabularies["control_mode"], table.vocabularies["parts"]
    pairs = zip(table.codes("control_mode")[rows], table.codes("parts")[rows], strict=True)
    kinds = np.array([_cached_kinds(modes[mode], parts[part], table.n_slots) for mode, part in pairs])
    positions = steps[:, None] + ratio[:, None] * np.arange(horizon)
    inside = positions <= table.n_steps_of[rows][:, None] - 1 + _NEARLY
    # The last change of an episode may add up fewer native ones than the others do; a repeated one would be motion that
    # was not recorded, in a step that counts.
    behind = steps[:, None] + np.arange(width) >= table.n_steps_of[rows][:, None]
    window[behind[:, :, None] & (kinds == SUM)[:, None]] = 0.0
    return resample(window, kinds, ratio, horizon), inside


def _actions(table: CompiledTable, rows: NDArray[np.int64], steps: NDArray[np.int64]) -> NDArray[np.float32]:
    """Actions at steps [b, w] of each episode; the last one behind the end."""
    return table.action[np.minimum(table.first_step[rows][:, None] + steps, table.first_step[rows + 1][:, None] - 1)]


_cached_kinds = lru_cache(maxsize=256)(slot_kinds)
