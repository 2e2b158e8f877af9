"""Published statistics: their map to the last digit, through a file, and no merging."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.shards.published import PublishedMap, published_statistics
from pipelines.shards.statistics import load_statistics, save_statistics, summarize

KEY = "ur5e/joint_position/pi18/v1"
MAP = PublishedMap(center=[0.1, -3e-7], half_range=[1e-6, 2.5], low=[-0.5, -4.0], high=[0.5, 4.0])


def test_the_map_is_the_published_one_after_saving(tmp_path: Path) -> None:
    statistics = published_statistics(KEY, 32, ((6, 0), MAP), ((0, 31), MAP), 20.0)
    save_statistics(tmp_path / "statistics.json", {KEY: statistics})
    read = load_statistics(tmp_path / "statistics.json")[KEY]
    for normalization in ("quantile", "zscore"):
        affine = read.state.affine(normalization)
        np.testing.assert_allclose(affine.center[[6, 0]], MAP.center, rtol=1e-14)
        np.testing.assert_allclose(affine.half_range[[6, 0]], MAP.half_range, rtol=1e-12)
    assert np.flatnonzero(read.action.count).tolist() == [0, 31]
    assert (read.state.min[6], read.state.max[6]) == (-0.5, 0.5)
    assert read.control_hz == (20.0,)


def test_published_statistics_merge_with_nothing() -> None:
    published = published_statistics(KEY, 18, ((0, 1), MAP), ((0, 1), MAP), 20.0).state
    with pytest.raises(ValueError, match="expected counts of values; found published ones"):
        published.merge(summarize(np.zeros((3, 18), np.float32), np.ones(18, bool)))


def test_a_range_of_zero_and_another_number_of_dims_are_refused() -> None:
    flat = PublishedMap(center=[0.0], half_range=[0.0], low=[0.0], high=[0.0])
    with pytest.raises(ValueError, match="a range above 0; found 0.0"):
        published_statistics(KEY, 18, ((0,), flat), ((0,), flat), 20.0)
    with pytest.raises(ValueError, match=r"expected 3 numbers each; found \[2\], \[2\]"):
        published_statistics(KEY, 18, ((0, 1, 2), MAP), ((0, 1), MAP), 20.0)
