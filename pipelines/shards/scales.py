"""The rules that turn summaries of slots into affine maps: how much physical motion is one normalized unit.

`tails/v2` is the rule of new statistics. It has to hold against two opposite faults: a few glitches must not shrink a
slot that moves, and a slot that seldom moves must not explode. Both look alike at the extremes, so neither the largest
value nor the 1st and 99th percentiles alone can decide; see `_tails`. `published/v1` takes another program's map.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pipelines.shards.summaries import SlotSummary

Normalization = Literal["quantile", "zscore"]
Rule = Literal["span/v1", "tails/v2", "published/v1"]
RULES: tuple[str, ...] = get_args(Rule)
Floats = NDArray[np.float64]

# Half ranges below which motion is noise or drift, by the quantity of `pipelines.contract.units`. Encoders and tracking
# of common arms leave up to 2 mrad and 1 mm; a floor some five times that keeps a parked joint from becoming +-1.
# Changes per step are as much smaller as a step is shorter than a second.
FLOORS = {
    "joint_rad": 0.01,
    "joint_rad_s": 0.02,
    "pose_m": 0.005,
    "pose_rad": 0.01,
    "delta_m": 0.0005,
    "delta_rad": 0.002,
    "base_m_s": 0.02,
    "base_rad_s": 0.02,
    "torso_m": 0.005,
}
# Values whose unit is not known: numbers of order 1 as controllers take them.
UNKNOWN_FLOOR = 0.001
GRIPPER = "gripper"
# Fingers measure a little beyond their ends. Values farther out are no fraction closed: a fixed map would multiply
# the fault of the source's entry (86 for 86 mm) instead of bounding it.
GRIPPER_RANGE = (-0.25, 1.25)
# (part of the values on each side that may lie beyond, normalized size that the others keep to), quantile map.
# 1 % beyond +-1 is the map itself. Normal and Laplace tails keep both limits by far, so that only slots that rest most
# of the time are scaled by them.
TAILS = ((0.0025, 2.5), (0.0005, 10.0))
# A slot at rest has nothing that a large scale could hide, so that its farthest value may set it.
AT_REST = 10.0
# One deviation of the zscore map is about half of the quantile map's unit.
ZSCORE_FACTOR = 2.0
# So many values on each side never count as a tail, as long as they are at most 1 % of all: glitches come in ones and
# twos, whatever the size of a dataset.
FEW = 4


@dataclass(frozen=True, kw_only=True)
class Affine:
    """normalized = (physical - center) / half_range, float64 [d]; a slot never seen has center 0 and half range 1."""

    center: Floats
    half_range: Floats


def affine_of(
    slots: Sequence[SlotSummary], quantities: Sequence[str], normalization: Normalization, rule: Rule
) -> Affine:
    """The map of slots under a rule. quantities: what each slot holds, "" where that is not known.

    quantile: the 1st to the 99th percentile become -1 to 1; zscore: mean 0 and deviation 1. Raises ValueError for
    another map or rule.
    """
    if normalization not in get_args(Normalization):
        raise ValueError(f"normalization: expected 'quantile' or 'zscore', found {normalization!r}")
    if rule not in RULES:
        raise ValueError(f"rule: expected one of {', '.join(RULES)}, found {rule!r}")
    pairs = [_slot_map(s, q, normalization, rule) for s, q in zip(slots, quantities, strict=True)]
    return Affine(center=np.array([c for c, _ in pairs]), half_range=np.array([h for _, h in pairs]))


def _slot_map(slot: SlotSummary, quantity: str, normalization: Normalization, rule: Rule) -> tuple[float, float]:
    """Center and half range of one slot."""
    if not slot.count:
        return 0.0, 1.0
    if rule == "published/v1":
        # The map that published weights were trained with, whatever its sense; see `pipelines.shards.published`.
        return slot.mean, math.sqrt(slot.m2 / slot.count)
    if rule == "tails/v2" and quantity == GRIPPER and _is_canonical(slot):
        # 0 is open and 1 closed for every source, so that no data need to say it: a gripper that closes in few steps,
        # or in none, still has its two ends at -1 and 1.
        return 0.5, 0.5
    if normalization == "quantile":
        low, high = slot.quantile(0.01), slot.quantile(0.99)
        center, half_range = (low + high) / 2, (high - low) / 2
    else:
        center, half_range = slot.mean, math.sqrt(slot.m2 / slot.count)
    if rule == "span/v1":
        return center, max(half_range, (slot.high - slot.low) / 20, 1e-3)
    return center, _tails(slot, quantity, center, half_range, 1.0 if normalization == "quantile" else ZSCORE_FACTOR)


def _is_canonical(slot: SlotSummary) -> bool:
    """Whether a gripper's values are fractions, 0 open to 1 closed."""
    return GRIPPER_RANGE[0] <= slot.quantile(0.01) and slot.quantile(0.99) <= GRIPPER_RANGE[1]


def _tails(slot: SlotSummary, quantity: str, center: float, half_range: float, factor: float) -> float:
    """The half range that keeps the tails, the floor and a slot at rest within their sizes."""
    for beyond, size in TAILS:
        half_range = max(half_range, _farthest(slot, center, beyond) / (size * factor))
    floor = FLOORS.get(quantity, UNKNOWN_FLOOR)
    if half_range > floor:
        return half_range
    return max(floor, max(slot.high - center, center - slot.low) / (AT_REST * factor))


def _farthest(slot: SlotSummary, center: float, beyond: float) -> float:
    """The distance from the center that all values keep but a part `beyond` on each side, at least `FEW` of many."""
    n_beyond = max(int(beyond * slot.count), min(FEW, slot.count // 100))
    return max(slot.at_rank(slot.count - 1 - n_beyond) - center, center - slot.at_rank(n_beyond))
