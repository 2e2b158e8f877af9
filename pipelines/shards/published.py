"""Statistics that other programs published with their weights: the maps that these were trained with, exactly.

Such statistics know no counts and no values, so that nothing else can be merged with them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pipelines.shards.statistics import UNKNOWN, ArrayStatistics, NormStatistics
from pipelines.shards.summaries import SlotSummary, summary_of_moments


@dataclass(frozen=True, kw_only=True)
class PublishedMap:
    """normalized = (physical - center) / half_range, one number a dim. low, high: where the values mostly were."""

    center: ArrayLike
    half_range: ArrayLike
    low: ArrayLike
    high: ArrayLike


def published_statistics(
    norm_key: str,
    n_slots: int,
    state: tuple[Sequence[int], PublishedMap],
    action: tuple[Sequence[int], PublishedMap],
    control_hz: float,
) -> NormStatistics:
    """The statistics of a norm key whose map is the published one. state, action: the slot of every dim, and its map.

    Raises ValueError for a range that is no positive number.
    """
    return NormStatistics(
        norm_key=norm_key,
        n_episodes=1,
        n_steps=2,
        state=_array(n_slots, *state),
        action=_array(n_slots, *action),
        rates=((float(control_hz), 2),),
    )


def _array(n_slots: int, slots: Sequence[int], published: PublishedMap) -> ArrayStatistics:
    columns = [np.asarray(values, np.float64) for values in vars(published).values()]
    if any(column.shape != (len(slots),) for column in columns):
        shapes = ", ".join(str(list(column.shape)) for column in columns)
        raise ValueError(f"published statistics: expected {len(slots)} numbers each; found {shapes}")
    summaries = [SlotSummary()] * n_slots
    for slot, center, half_range, low, high in zip(slots, *columns, strict=True):
        if not (np.isfinite([center, low, high]).all() and 0 < half_range < np.inf):
            raise ValueError(f"published statistics: expected finite numbers and a range above 0; found {half_range}")
        summaries[slot] = summary_of_moments(center, half_range, low, high)
    return ArrayStatistics(slots=tuple(summaries), quantities=(UNKNOWN,) * n_slots, rule="published/v1")
