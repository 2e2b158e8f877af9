"""Statistics of state and action per norm key, the affine maps that follow from them, and the file they live in.

They merge bit for bit in any order (see `pipelines.shards.summaries`), so any number of workers, and any number of
datasets, come to the same numbers.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.errors import FailedWork
from pipelines.contract.layouts import load_layouts
from pipelines.contract.slots import METRIC, units_of
from pipelines.contract.units import Quantity, slot_quantities
from pipelines.shards.scales import RULES, Affine, Normalization, Rule, affine_of
from pipelines.shards.summaries import SlotSummary, summarize_slot
from pipelines.storage.files import write_atomically
from pipelines.storage.paths import StoragePath

SCHEMA = "embodimix.statistics/v2"
# Files of this schema hold no rule and no quantities; the shards beside them were normalized by its one rule.
SCHEMA_V1 = "embodimix.statistics/v1"
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
Floats = NDArray[np.float64]

UNKNOWN = ""
# Episodes disagree on what a slot holds.
MIXED = "mixed"


@dataclass(frozen=True, kw_only=True)
class ArrayStatistics:
    """Statistics of one array (state or action) over the steps whose slots are not masked; every property is [d].

    quantities: what each slot holds (see `pipelines.contract.units`), "" where that is not known. rule: the one that
    `affine` follows, see `pipelines.shards.scales`.
    """

    slots: tuple[SlotSummary, ...]
    quantities: tuple[str, ...]
    rule: Rule = "tails/v2"

    @cached_property
    def count(self) -> NDArray[np.int64]:
        return np.array([slot.count for slot in self.slots], np.int64)

    @cached_property
    def mean(self) -> Floats:
        return np.array([slot.mean for slot in self.slots])

    @cached_property
    def m2(self) -> Floats:
        return np.array([slot.m2 for slot in self.slots])

    @cached_property
    def std(self) -> Floats:
        """The population's standard deviation."""
        return np.sqrt(self.m2 / np.maximum(self.count, 1))

    @cached_property
    def min(self) -> Floats:
        return np.array([slot.low for slot in self.slots])

    @cached_property
    def max(self) -> Floats:
        return np.array([slot.high for slot in self.slots])

    @cached_property
    def quantiles(self) -> dict[str, Floats]:
        """By name: q01, q10, q50, q90, q99."""
        return {name: np.array([s.quantile(q) for s in self.slots]) for name, q in QUANTILES.items()}

    @property
    def q01(self) -> Floats:
        return self.quantiles["q01"]

    @property
    def q10(self) -> Floats:
        return self.quantiles["q10"]

    @property
    def q50(self) -> Floats:
        return self.quantiles["q50"]

    @property
    def q90(self) -> Floats:
        return self.quantiles["q90"]

    @property
    def q99(self) -> Floats:
        return self.quantiles["q99"]

    def affine(self, normalization: Normalization = "quantile") -> Affine:
        """The map to about [-1, 1] (quantile: 1st to 99th percentile) or to unit deviation (zscore), by `rule`."""
        return affine_of(self.slots, self.quantities, normalization, self.rule)

    @property
    def n_slots(self) -> int:
        return len(self.slots)

    def moved(self, slots: Sequence[int], n_slots: int) -> "ArrayStatistics":
        """Returns the statistics of the same values in another layout.

        slots: the slot that each slot becomes there. n_slots: the other layout's width.
        """
        summaries, quantities = [SlotSummary()] * n_slots, [UNKNOWN] * n_slots
        for slot, summary, quantity in zip(slots, self.slots, self.quantities, strict=True):
            summaries[slot], quantities[slot] = summary, quantity
        return ArrayStatistics(slots=tuple(summaries), quantities=tuple(quantities), rule=self.rule)

    def merge(self, other: "ArrayStatistics") -> "ArrayStatistics":
        """Returns the statistics of both sets of steps; the order does not matter, bit for bit.

        The newer of two rules holds: summaries of both files can be put to it. Raises ValueError for published
        statistics, which are a map alone.
        """
        if "published/v1" in (self.rule, other.rule):
            raise ValueError("statistics: expected counts of values; found published ones, which cannot be merged")
        return ArrayStatistics(
            slots=tuple(a.merge(b) for a, b in zip(self.slots, other.slots, strict=True)),
            quantities=tuple(_both(a, b) for a, b in zip(self.quantities, other.quantities, strict=True)),
            # An old file alone keeps its rule, since shards beside it were normalized by it; a pool has no shards.
            rule=max(self.rule, other.rule, key=RULES.index),
        )


@dataclass(frozen=True, kw_only=True)
class NormStatistics:
    """State and action statistics of one norm key. rates: steps by control rate in Hz; none in files before v2."""

    norm_key: str
    n_episodes: int
    n_steps: int
    state: ArrayStatistics
    action: ArrayStatistics
    rates: tuple[tuple[float, int], ...] = ()

    @property
    def control_hz(self) -> tuple[float, ...]:
        """The control rates of its steps, ascending; none where the file does not say them."""
        return tuple(hz for hz, _ in self.rates)

    @property
    def n_slots(self) -> int:
        """The width of the vectors."""
        return self.state.n_slots

    def moved(self, slots: Sequence[int], n_slots: int) -> "NormStatistics":
        """See `ArrayStatistics.moved`."""
        return replace(self, state=self.state.moved(slots, n_slots), action=self.action.moved(slots, n_slots))

    def merge(self, other: "NormStatistics") -> "NormStatistics":
        """Returns the statistics of both sets of episodes. Raises ValueError for different norm keys."""
        if self.norm_key != other.norm_key:
            raise ValueError(f"norm_key: expected {self.norm_key!r} on both sides, found {other.norm_key!r}")
        return NormStatistics(
            norm_key=self.norm_key,
            n_episodes=self.n_episodes + other.n_episodes,
            n_steps=self.n_steps + other.n_steps,
            state=self.state.merge(other.state),
            action=self.action.merge(other.action),
            rates=_added(self.rates, other.rates),
        )


def empty_statistics(n_slots: int) -> ArrayStatistics:
    """Returns the statistics of no steps."""
    return ArrayStatistics(slots=(SlotSummary(),) * n_slots, quantities=(UNKNOWN,) * n_slots)


def summarize(
    values: NDArray[np.float32], mask: NDArray[np.bool_], quantities: Mapping[int, str] | None = None
) -> ArrayStatistics:
    """Returns the statistics of float32 [t, d] values in the slots of mask bool [d]. Raises ValueError for NaN.

    quantities: what each slot holds, of those that are known.
    """
    if values.ndim != 2 or mask.shape != values.shape[1:]:
        raise ValueError(f"expected values [t, d] and mask [d], found {list(values.shape)} and {list(mask.shape)}")
    used = np.ascontiguousarray(values[:, mask].T, dtype=np.float32)
    # One NaN would make the sums of its slot NaN for all datasets that are ever merged with it.
    if not np.isfinite(used).all():
        raise ValueError("values: expected finite numbers, found NaN or infinity")
    summaries = iter([summarize_slot(row) for row in used])
    known = quantities or {}
    return ArrayStatistics(
        slots=tuple(next(summaries) if on else SlotSummary() for on in mask),
        quantities=tuple(known.get(slot, UNKNOWN) if on else UNKNOWN for slot, on in enumerate(mask)),
    )


def summarize_episode(
    norm_key: str,
    state: NDArray[np.float32],
    action: NDArray[np.float32],
    state_mask: NDArray[np.bool_],
    action_mask: NDArray[np.bool_],
    parts: Mapping[str, Sequence[int]] | None = None,
    control_hz: float | None = None,
) -> NormStatistics:
    """Returns the statistics of one episode: state and action float32 [t, d], masks bool [d].

    parts: the slots of each part of the robot, from which follows what each slot holds; unknown without them.
    """
    quantities = [quantities_of(norm_key, parts or {}, side) for side in ("state", "action")]
    return NormStatistics(
        norm_key=norm_key,
        n_episodes=1,
        n_steps=len(state),
        state=summarize(state, state_mask, quantities[0]),
        action=summarize(action, action_mask, quantities[1]),
        rates=() if control_hz is None else ((float(control_hz), len(state)),),
    )


def quantities_of(norm_key: str, parts: Mapping[str, Sequence[int]], side: str) -> dict[int, Quantity]:
    """What the slots of a norm key hold, of those that are known; side: state or action.

    Grippers are canonical in every source; of other slots nothing is known where the source's units are its own.

    >>> quantities_of("a/ee_delta/pi18/v1", {"arm0": (0, 1), "gripper0": (6,)}, "action")
    {0: 'delta_m', 1: 'delta_m', 6: 'gripper'}
    >>> quantities_of("a/ee_delta/pi18/v1/viola", {"arm0": (0, 1), "gripper0": (6,)}, "action")
    {6: 'gripper'}
    """
    if not parts:
        return {}
    found = slot_quantities(norm_key.split("/")[1], parts, side)
    # Floors are in physical units; where a source's scale is its own, a floor in metres would be a guess.
    is_metric = units_of(norm_key) == METRIC
    return {slot: quantity for slot, quantity in found.items() if is_metric or quantity == "gripper"}


def merge_statistics(parts: Sequence[Mapping[str, NormStatistics]]) -> dict[str, NormStatistics]:
    """Merges statistics by norm key; the result, sorted by key, does not depend on the order of the parts."""
    merged: dict[str, NormStatistics] = {}
    for part in parts:
        for key, statistics in part.items():
            merged[key] = merged[key].merge(statistics) if key in merged else statistics
    return dict(sorted(merged.items()))


def normalize(physical: NDArray[np.floating], affine: Affine, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Maps physical values [..., d] to float32, unclipped; slots outside the mask are exactly 0."""
    # In float64, since float32 would not invert to within 1e-6; unclipped, since a clipped value would not invert at
    # all. Exactly 0 outside the mask, so that an absent slot reads the same in every dataset.
    return np.where(mask, (physical.astype(np.float64) - affine.center) / affine.half_range, 0.0).astype(np.float32)


def unnormalize(normalized: NDArray[np.floating], affine: Affine, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Maps normalized values [..., d] back to physical float32; slots outside the mask are exactly 0."""
    physical = normalized.astype(np.float64) * affine.half_range + affine.center
    return np.where(mask, physical, 0.0).astype(np.float32)


def save_statistics(
    path: StoragePath, statistics: Mapping[str, NormStatistics], normalization: Normalization = "quantile"
) -> None:
    """Writes a statistics file, atomically; `normalization` names the affine map that the shards were written with."""
    norm_keys = {key: _norm_to_json(value, normalization) for key, value in sorted(statistics.items())}
    content = {
        "schema": SCHEMA,
        "normalization": normalization,
        # People read the numbers beside the summaries, and the code the summaries: an edit of the former would be seen
        # and not used, so that readers refuse it.
        "sha256": _digest(norm_keys),
        "norm_keys": norm_keys,
    }
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


def load_statistics(path: StoragePath) -> dict[str, NormStatistics]:
    """Reads a statistics file, bit for bit what was saved.

    Raises FailedWork when it is not one, and where it was edited: the numbers that people read follow from the
    summaries beside them, so that a changed one would be shown and not used.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise FailedWork(f"{path}: expected a statistics file that can be read, found {error}") from error
    found = content.get("schema") if isinstance(content, dict) else type(content).__name__
    if found not in (SCHEMA, SCHEMA_V1):
        raise FailedWork(f"{path}: expected schema {SCHEMA!r}, found {found!r}. Give a statistics.json of a dataset.")
    try:
        statistics = {key: _norm_from_json(key, value) for key, value in content["norm_keys"].items()}
        if found == SCHEMA:
            is_edited = content["sha256"] != _digest(content["norm_keys"])
        else:
            normalization = content.get("normalization", "quantile")
            # Version 1 has no digest; its readable numbers must follow from its summaries.
            is_edited = not all(
                _reads_alike(content["norm_keys"][key], _norm_to_json(value, normalization))
                for key, value in statistics.items()
            )
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise FailedWork(f"{path}: expected the fields of {found!r}, found {error!r}") from error
    if is_edited:
        raise FailedWork(
            f"{path}: expected the statistics as they were written, found edited ones. The shards beside them were "
            "normalized with the former numbers; restore the file, or convert with other settings."
        )
    return statistics


def _reads_alike(content: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    """Whether the readable numbers of a file without a checksum are those that follow from its summaries."""
    return all(
        np.allclose(content[side][name], values, rtol=1e-6, atol=1e-12)
        for side in ("state", "action")
        for name, values in expected[side].items()
        if name in content[side] and name not in ("slots", "rule", "quantities")
    )


def _digest(norm_keys: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(norm_keys, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _both(a: str, b: str) -> str:
    """What a slot holds by two statements, one of which may be missing."""
    # Files before v2 do not state what a slot holds; that must not hide what the others state.
    if UNKNOWN in (a, b) or a == b:
        return a or b
    return MIXED


def _added(a: tuple[tuple[float, int], ...], b: tuple[tuple[float, int], ...]) -> tuple[tuple[float, int], ...]:
    """Steps by rate of both, by rising rate."""
    steps = dict(a)
    for hz, n in b:
        steps[hz] = steps.get(hz, 0) + n
    return tuple(sorted(steps.items()))


def _norm_to_json(statistics: NormStatistics, normalization: Normalization) -> dict[str, Any]:
    return {
        "n_episodes": statistics.n_episodes,
        "n_steps": statistics.n_steps,
        "rates": [[hz, n] for hz, n in statistics.rates],
        "state": _array_to_json(statistics.state, normalization),
        "action": _array_to_json(statistics.action, normalization),
    }


def _array_to_json(statistics: ArrayStatistics, normalization: Normalization) -> dict[str, Any]:
    """The numbers people and other tools read, and under `slots` the exact summaries that merge."""
    affine = statistics.affine(normalization)
    readable = {
        "count": statistics.count,
        "mean": statistics.mean,
        "std": statistics.std,
        "m2": statistics.m2,
        "min": statistics.min,
        "max": statistics.max,
        **statistics.quantiles,
        "center": affine.center,
        "half_range": affine.half_range,
    }
    return (
        {"rule": statistics.rule, "quantities": list(statistics.quantities)}
        | {name: values.tolist() for name, values in readable.items()}
        | {"slots": [_slot_to_json(slot) for slot in statistics.slots]}
    )


def _slot_to_json(slot: SlotSummary) -> dict[str, Any]:
    buckets = " ".join(f"{k}:{c}" for k, c in zip(slot.keys.tolist(), slot.counts.tolist(), strict=True))
    return {
        "count": slot.count,
        # Sums are integers far beyond 2**53, which JSON readers that hold numbers as floats would round.
        "total": hex(slot.total),
        "total_squares": hex(slot.total_squares),
        "low": slot.low,
        "high": slot.high,
        "buckets": buckets,
    }


def _norm_from_json(key: str, content: Mapping[str, Any]) -> NormStatistics:
    widths = {side: len(content[side]["slots"]) for side in ("state", "action")}
    # Of which layout they are, the norm key does not say: a mixture may have drawn its data into another one.
    if len(set(widths.values())) > 1 or widths["state"] not in {layout.n_slots for layout in load_layouts().values()}:
        raise ValueError(f"slots of {key}: expected as many in state and action as a layout has, found {widths}")
    return NormStatistics(
        norm_key=key,
        n_episodes=int(content["n_episodes"]),
        n_steps=int(content["n_steps"]),
        state=_array_from_json(content["state"]),
        action=_array_from_json(content["action"]),
        rates=tuple((float(hz), int(n)) for hz, n in content.get("rates", [])),
    )


def _array_from_json(content: Mapping[str, Any]) -> ArrayStatistics:
    slots = tuple(_slot_from_json(slot) for slot in content["slots"])
    quantities = tuple(content.get("quantities", (UNKNOWN,) * len(slots)))
    rule = content.get("rule", "span/v1")
    if len(quantities) != len(slots) or rule not in RULES:
        found = f"{len(quantities)} and {rule!r}"
        raise ValueError(f"expected {len(slots)} quantities and a rule of {RULES}, found {found}")
    return ArrayStatistics(slots=slots, quantities=quantities, rule=rule)


def _slot_from_json(content: Mapping[str, Any]) -> SlotSummary:
    pairs = [pair.split(":") for pair in content["buckets"].split()]
    slot = SlotSummary(
        count=int(content["count"]),
        total=int(content["total"], 16),
        total_squares=int(content["total_squares"], 16),
        low=float(content["low"]),
        high=float(content["high"]),
        keys=np.array([int(k) for k, _ in pairs], np.int32),
        counts=np.array([int(c) for _, c in pairs], np.int64),
    )
    if slot.count != slot.counts.sum() or (np.diff(slot.keys) <= 0).any() or (slot.counts <= 0).any():
        raise ValueError(f"buckets: expected rising keys and counts of {slot.count} in all")
    return slot
