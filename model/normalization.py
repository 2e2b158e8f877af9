"""The statistics that published policies come with, and how they normalize.

openpi stores `norm_stats.json` beside its weights. Policies trained here carry their own statistics with
their run; these functions are for weights that others published.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

Kind = Literal["zscore", "quantile"]
EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class PublishedStatistics:
    """Per dim of a state or action: mean, deviation, and the 1st and 99th percentile where recorded."""

    mean: np.ndarray
    std: np.ndarray
    q01: np.ndarray | None = None
    q99: np.ndarray | None = None


def load_published_statistics(path: str | Path) -> Mapping[str, PublishedStatistics]:
    """Reads openpi's `norm_stats.json`: statistics by 'state' and 'actions'."""
    content = json.loads(Path(path).read_text())
    if "norm_stats" not in content:
        raise ValueError(f"{path}: expected the key 'norm_stats'; found {', '.join(content) or 'nothing'}")
    return {
        name: PublishedStatistics(
            **{key: None if value is None else np.asarray(value, np.float64) for key, value in fields.items()}
        )
        for name, fields in content["norm_stats"].items()
    }


def normalize(values: np.ndarray, statistics: PublishedStatistics, kind: Kind) -> np.ndarray:
    """Physical [..., d] to normalized: (x - mean) / (std + 1e-6), or q01..q99 to -1..1. pi0 uses zscore,
    pi05 quantile."""
    center, half_range = _affine(statistics, kind, values.shape[-1])
    if kind == "zscore":
        return (values - center) / half_range
    return (values - center) / half_range * 2.0 - 1.0


def unnormalize(values: np.ndarray, statistics: PublishedStatistics, kind: Kind) -> np.ndarray:
    """Inverse of `normalize`; dims beyond the statistics (the policy's padding) pass through."""
    known = len(statistics.mean)
    center, scale = _affine(statistics, kind, known)
    inner = values[..., :known] if kind == "zscore" else (values[..., :known] + 1.0) / 2.0
    return np.concatenate([inner * scale + center, values[..., known:]], axis=-1)


def _affine(statistics: PublishedStatistics, kind: Kind, dims: int) -> tuple[np.ndarray, np.ndarray]:
    if kind == "zscore":
        return statistics.mean[:dims], statistics.std[:dims] + EPS
    if statistics.q01 is None or statistics.q99 is None:
        raise ValueError("quantile normalization: expected q01 and q99 in the statistics; found neither")
    return statistics.q01[:dims], statistics.q99[:dims] - statistics.q01[:dims] + EPS
