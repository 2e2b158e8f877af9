"""Statistics as LeRobot computes them: numbers that LeRobot 0.6.1's `get_feature_stats` gave for the same arrays."""

import numpy as np
import pytest

from pipelines.publishing.lerobot_statistics import merge_stats, picture_stats, thinned, vector_stats

VECTORS = {
    "min": [1.74162018, 2.00379014],
    "max": [3.71926141, 4.00020838],
    "mean": [2.89064002, 2.93295264],
    "std": [0.45382741, 0.42973855],
    "count": [40.0],
    "q01": [1.74162018, 2.00379014],
    "q10": [2.23523951, 2.40067816],
    "q50": [2.96696663, 2.90217829],
    "q90": [3.44951105, 3.44240904],
    "q99": [3.71910319, 4.00004873],
}
PICTURES = {
    "min": [0.0, 0.0, 0.0],
    "max": [0.78039216, 0.78039216, 0.78039216],
    "mean": [0.38678514, 0.39937194, 0.40448324],
    "std": [0.23034731, 0.23042507, 0.22701057],
    "count": [3.0],
    "q01": [0.00786947, 0.00789133, 0.01176564],
    "q10": [0.06679532, 0.08229347, 0.08621148],
    "q50": [0.37656522, 0.39612705, 0.40786415],
    "q90": [0.70201581, 0.70975728, 0.7135968],
    "q99": [0.7685427, 0.77245712, 0.7763753],
}


def test_vectors_and_pictures_have_lerobots_numbers() -> None:
    rng = np.random.default_rng(7)
    vectors = rng.normal(3, 0.5, (40, 2)).astype(np.float32)
    pictures = rng.integers(0, 200, (3, 16, 16, 3), dtype=np.uint8)
    stats = vector_stats(vectors, with_quantiles=True)
    assert set(stats) == set(VECTORS)
    for name, expected in VECTORS.items():
        np.testing.assert_allclose(stats[name], expected, atol=1e-7, err_msg=name)
    stats = picture_stats(list(pictures), with_quantiles=True)
    for name, expected in PICTURES.items():
        np.testing.assert_allclose(stats[name].reshape(-1), expected, atol=1e-7, err_msg=name)
        assert stats[name].shape == ((1,) if name == "count" else (3, 1, 1))


def test_without_quantiles_there_are_the_five_of_version_2_1() -> None:
    stats = vector_stats(np.array([1.0, 2.0, 6.0]), with_quantiles=False)
    assert {name: value.tolist() for name, value in stats.items()} == {
        "min": [1.0],
        "max": [6.0],
        "mean": [3.0],
        "std": [pytest.approx(np.sqrt(14 / 3))],
        "count": [3],
    }


def test_merged_statistics_weigh_episodes_by_their_steps() -> None:
    parts = [{"action": vector_stats(np.arange(float(n)), with_quantiles=True)} for n in (2, 6)]
    merged = merge_stats(parts)["action"]
    assert merged["count"].tolist() == [8]
    assert merged["mean"].tolist() == [(2 * 0.5 + 6 * 2.5) / 8]
    np.testing.assert_allclose(merged["std"], np.std([0, 1, 0, 1, 2, 3, 4, 5]))
    quantiles = [float(part["action"]["q50"][0]) for part in parts]
    np.testing.assert_allclose(merged["q50"], (2 * quantiles[0] + 6 * quantiles[1]) / 8)


def test_large_pictures_are_thinned() -> None:
    assert thinned(np.zeros((299, 200, 3), np.uint8)).shape == (299, 200, 3)
    assert thinned(np.zeros((480, 640, 3), np.uint8)).shape == (120, 160, 3)
