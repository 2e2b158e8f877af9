"""Statistics of state and action per norm key, the affine maps that follow from them, and the file they live in.

They merge bit for bit in any order (see `pipelines.shards.summaries`), so any number of workers, and any number of
datasets, come to the same numbers.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.errors import FailedWork
from pipelines.contract.slots import N_SLOTS
from pipelines.shards.summaries import SlotSummary, summarize_slot
from pipelines.storage.files import write_atomically
from pipelines.storage.paths import StoragePath

SCHEMA = "embodimix.statistics/v1"
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
Normalization = Literal["quantile", "zscore"]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Affine:
    """normalized = (physical - center) / half_range, float64 [18]; a slot never seen has center 0 and half range 1."""

    center: Floats
    half_range: Floats


@dataclass(frozen=True, kw_only=True)
class ArrayStatistics:
    """Statistics of one array (state or action) over the steps whose slots are not masked; every property is [18]."""

    slots: tuple[SlotSummary, ...]

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
        """The map to about [-1, 1] (quantile: 1st to 99th percentile) or to unit deviation (zscore).

        The half range is at least a twentieth of the whole range and at least 1e-3, so that no slot explodes.
        """
        floor = np.maximum((self.max - self.min) / 20, 1e-3)
        if normalization == "quantile":
            center, half_range = (self.q01 + self.q99) / 2, (self.q99 - self.q01) / 2
        elif normalization == "zscore":
            center, half_range = self.mean, self.std
        else:
            raise ValueError(f"normalization: expected 'quantile' or 'zscore', found {normalization!r}")
        seen = self.count > 0
        return Affine(center=np.where(seen, center, 0.0), half_range=np.where(seen, np.maximum(half_range, floor), 1.0))

    def merge(self, other: "ArrayStatistics") -> "ArrayStatistics":
        """Returns the statistics of both sets of steps; the order does not matter, bit for bit."""
        return ArrayStatistics(slots=tuple(a.merge(b) for a, b in zip(self.slots, other.slots, strict=True)))


@dataclass(frozen=True, kw_only=True)
class NormStatistics:
    """State and action statistics of one norm key."""

    norm_key: str
    n_episodes: int
    n_steps: int
    state: ArrayStatistics
    action: ArrayStatistics

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
        )


EMPTY = ArrayStatistics(slots=(SlotSummary(),) * N_SLOTS)


def summarize(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> ArrayStatistics:
    """Returns the statistics of float32 [t, 18] values in the slots of mask bool [18]. Raises ValueError for NaN."""
    if values.ndim != 2 or values.shape[1] != N_SLOTS or mask.shape != (N_SLOTS,):
        raise ValueError(f"expected values [t, 18] and mask [18], found {list(values.shape)} and {list(mask.shape)}")
    used = np.ascontiguousarray(values[:, mask].T, dtype=np.float32)
    if not np.isfinite(used).all():
        raise ValueError("values: expected finite numbers, found NaN or infinity")
    summaries = iter([summarize_slot(row) for row in used])
    return ArrayStatistics(slots=tuple(next(summaries) if on else SlotSummary() for on in mask))


def summarize_episode(
    norm_key: str,
    state: NDArray[np.float32],
    action: NDArray[np.float32],
    state_mask: NDArray[np.bool_],
    action_mask: NDArray[np.bool_],
) -> NormStatistics:
    """Returns the statistics of one episode: state and action float32 [t, 18], masks bool [18]."""
    return NormStatistics(
        norm_key=norm_key,
        n_episodes=1,
        n_steps=len(state),
        state=summarize(state, state_mask),
        action=summarize(action, action_mask),
    )


def merge_statistics(parts: Sequence[Mapping[str, NormStatistics]]) -> dict[str, NormStatistics]:
    """Merges statistics by norm key; the result, sorted by key, does not depend on the order of the parts."""
    merged: dict[str, NormStatistics] = {}
    for part in parts:
        for key, statistics in part.items():
            merged[key] = merged[key].merge(statistics) if key in merged else statistics
    return dict(sorted(merged.items()))


def normalize(physical: NDArray[np.floating], affine: Affine, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Maps physical values [..., 18] to float32, unclipped; slots outside the mask are exactly 0."""
    return np.where(mask, (physical.astype(np.float64) - affine.center) / affine.half_range, 0.0).astype(np.float32)


def unnormalize(normalized: NDArray[np.floating], affine: Affine, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Maps normalized values [..., 18] back to physical float32; slots outside the mask are exactly 0."""
    physical = normalized.astype(np.float64) * affine.half_range + affine.center
    return np.where(mask, physical, 0.0).astype(np.float32)


def save_statistics(
    path: StoragePath, statistics: Mapping[str, NormStatistics], normalization: Normalization = "quantile"
) -> None:
    """Writes a statistics file, atomically; `normalization` names the affine map that the shards were written with."""
    content = {
        "schema": SCHEMA,
        "normalization": normalization,
        "norm_keys": {key: _norm_to_json(value, normalization) for key, value in sorted(statistics.items())},
    }
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


def load_statistics(path: StoragePath) -> dict[str, NormStatistics]:
    """Reads a statistics file, bit for bit what was saved. Raises FailedWork when it is not one."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise FailedWork(f"{path}: expected a statistics file that can be read, found {error}") from error
    found = content.get("schema") if isinstance(content, dict) else type(content).__name__
    if found != SCHEMA:
        raise FailedWork(f"{path}: expected schema {SCHEMA!r}, found {found!r}. Give a statistics.json of a dataset.")
    try:
        return {key: _norm_from_json(key, value) for key, value in content["norm_keys"].items()}
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise FailedWork(f"{path}: expected the fields of {SCHEMA!r}, found {error!r}") from error


def _norm_to_json(statistics: NormStatistics, normalization: Normalization) -> dict[str, Any]:
    return {
        "n_episodes": statistics.n_episodes,
        "n_steps": statistics.n_steps,
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
    return {name: values.tolist() for name, values in readable.items()} | {
        "slots": [_slot_to_json(slot) for slot in statistics.slots]
    }


def _slot_to_json(slot: SlotSummary) -> dict[str, Any]:
    buckets = " ".join(f"{k}:{c}" for k, c in zip(slot.keys.tolist(), slot.counts.tolist(), strict=True))
    return {
        "count": slot.count,
        "total": hex(slot.total),
        "total_squares": hex(slot.total_squares),
        "low": slot.low,
        "high": slot.high,
        "buckets": buckets,
    }


def _norm_from_json(key: str, content: Mapping[str, Any]) -> NormStatistics:
    return NormStatistics(
        norm_key=key,
        n_episodes=int(content["n_episodes"]),
        n_steps=int(content["n_steps"]),
        state=_array_from_json(content["state"]),
        action=_array_from_json(content["action"]),
    )


def _array_from_json(content: Mapping[str, Any]) -> ArrayStatistics:
    slots = tuple(_slot_from_json(slot) for slot in content["slots"])
    if len(slots) != N_SLOTS:
        raise ValueError(f"slots: expected {N_SLOTS}, found {len(slots)}")
    return ArrayStatistics(slots=slots)


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
