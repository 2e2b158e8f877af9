"""Errors of predicted action chunks: by unit, by step of the chunk, by slot, by sample, and over the groups."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.errors import UsageError
from trainers.evaluation.records import PREDICTORS, ErrorCurves, Errors, GroupReport, OverallErrors, SlotErrors
from trainers.robots import UNITS


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Held-out samples of one group with what was predicted for them; n samples, physical units.

    true, policy, repeat_state, mean_action: [n, h, d]. counts: bool [n, h, d], where an error counts.
    half_range: [n, d], the normalization's unit. units: per sample the unit of each slot. flow_loss: [n].
    swept: [n, k], the policy's error in units of the normalization with each of k other numbers of flow steps.
    """

    names: list[str]
    norm_keys: list[str]
    true: NDArray[np.float32]
    policy: NDArray[np.float32]
    repeat_state: NDArray[np.float32]
    mean_action: NDArray[np.float32]
    counts: NDArray[np.bool_]
    half_range: NDArray[np.float64]
    units: NDArray[np.str_]
    flow_loss: NDArray[np.float32]
    swept: NDArray[np.float64]


def joined(parts: list[Predictions], count: int) -> Predictions:
    """The first `count` samples of parts one after another."""

    def of_all(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(part, name) for part in parts])[:count]

    return Predictions(
        names=[name for part in parts for name in part.names][:count],
        norm_keys=[key for part in parts for key in part.norm_keys][:count],
        **{name: of_all(name) for name in vars(parts[0]) if name not in ("names", "norm_keys")},
    )


def measure(name: str, share: float, predictions: Predictions, flow_sweep: Mapping[int, float]) -> GroupReport:
    """Mean flow loss, and mean absolute error per unit, in units of the normalization, and by step of the chunk."""
    errors = {predictor: np.abs(getattr(predictions, predictor) - predictions.true) for predictor in PREDICTORS}
    of_unit = {unit: predictions.counts & (predictions.units == unit)[:, None, :] for unit in UNITS}
    scaled = {predictor: error / predictions.half_range[:, None, :] for predictor, error in errors.items()}
    counts = predictions.counts
    horizon = range(counts.shape[1])
    return GroupReport(
        name=name,
        share=share,
        samples=len(predictions.names),
        flow_loss=float(predictions.flow_loss.mean()),
        error={unit: _errors(errors, where) for unit, where in of_unit.items() if where.any()},
        normalized_error=_errors(scaled, counts),
        normalized_error_by_step=_curves(scaled, [(counts[:, h : h + 1], slice(h, h + 1)) for h in horizon]),
        normalized_error_by_horizon=_curves(scaled, [(counts[:, : h + 1], slice(0, h + 1)) for h in horizon]),
        flow_sweep=flow_sweep,
    )


def of_samples(predictions: Predictions) -> list[float]:
    """The policy's mean absolute error of each sample, in units of the normalization."""
    scaled = np.abs(predictions.policy - predictions.true) / predictions.half_range[:, None, :]
    return sample_means(scaled, predictions.counts).tolist()


def sample_means(values: NDArray[Any], counts: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The mean of each sample's values [n, h, d] where they count; 0 where none does."""
    return (values * counts).sum(axis=(1, 2)) / np.maximum(counts.sum(axis=(1, 2)), 1)


def by_slot(groups: Iterable[Predictions]) -> dict[str, tuple[SlotErrors, ...]]:
    """Per norm key, the mean absolute error of each slot over all groups in its physical unit."""
    sums: dict[str, dict[str, NDArray[np.float64]]] = {}
    units: dict[str, NDArray[np.str_]] = {}
    for predictions in groups:
        for key in dict.fromkeys(predictions.norm_keys):
            mine = np.array([other == key for other in predictions.norm_keys])
            counts = predictions.counts[mine]
            errors = {name: np.abs(getattr(predictions, name) - predictions.true)[mine] for name in PREDICTORS}
            errors["normalized"] = errors["policy"] / predictions.half_range[mine][:, None]
            total = sums.setdefault(key, {})
            for name, error in {**errors, "count": np.ones(counts.shape)}.items():
                total[name] = total.get(name, 0.0) + (error * counts).sum(axis=(0, 1))
            units[key] = predictions.units[mine][0]
    return {key: _slot_rows(total, units[key]) for key, total in sums.items()}


def _slot_rows(total: Mapping[str, NDArray[np.float64]], units: NDArray[np.str_]) -> tuple[SlotErrors, ...]:
    def mean(name: str, slot: int) -> float:
        return float(total[name][slot] / total["count"][slot])

    return tuple(
        SlotErrors(
            slot=slot,
            unit=str(units[slot]),
            errors=Errors(**{name: mean(name, slot) for name in PREDICTORS}),
            normalized=mean("normalized", slot),
        )
        for slot in np.flatnonzero(total["count"]).tolist()
    )


def overall(groups: Sequence[GroupReport]) -> OverallErrors:
    """Means over the groups, each weighted by its share of the mixture. UsageError if nothing was held out."""
    if not groups:
        raise UsageError("the mixture holds out no episodes; say `validation: {fraction: 0.1, min_per_group: 1}` in it")
    weights = np.array([group.share for group in groups])
    weights = weights / weights.sum()
    means = weights @ np.array([group.normalized_error.values() for group in groups])
    return OverallErrors(
        errors=Errors(**dict(zip(PREDICTORS, means.tolist(), strict=True))),
        flow_loss=float(weights @ np.array([group.flow_loss for group in groups])),
    )


def _errors(errors: Mapping[str, NDArray[Any]], where: NDArray[np.bool_]) -> Errors:
    """Means where it counts; every sample has at least one such number, its first action."""
    return Errors(**{name: float(error[where].mean()) for name, error in errors.items()})


def _curves(errors: Mapping[str, NDArray[Any]], spans: Sequence[tuple[NDArray[np.bool_], slice]]) -> ErrorCurves:
    return ErrorCurves(
        **{name: tuple(_mean(error[:, span], where) for where, span in spans) for name, error in errors.items()}
    )


def _mean(values: NDArray[Any], where: NDArray[np.bool_]) -> float | None:
    return float(values[where].mean()) if where.any() else None
