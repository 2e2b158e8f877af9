"""How much motion is one normalized unit: what glitches, rare motion, rest and grippers make of it."""

import numpy as np
import pytest

from pipelines.shards.scales import affine_of
from pipelines.shards.statistics import normalize, summarize
from pipelines.shards.summaries import SlotSummary, summarize_slot

EMPTY = [SlotSummary()] * 17
FIRST_SLOT = np.arange(18) == 0


def mapped(values: np.ndarray, quantity: str = "joint_rad", normalization: str = "quantile") -> tuple[float, float]:
    """Center and half range of one slot."""
    slots = [summarize_slot(values.astype(np.float32)), *EMPTY]
    affine = affine_of(slots, [quantity, *[""] * 17], normalization, "tails/v2")  # type: ignore[arg-type]
    return float(affine.center[0]), float(affine.half_range[0])


def swing(n: int = 12_000) -> np.ndarray:
    """A joint that swings by 0.19 rad to both sides."""
    return 0.19 * np.sin(np.arange(n) / 40)


def test_a_slot_that_moves_is_scaled_by_its_percentiles() -> None:
    center, half_range = mapped(swing())
    assert center == pytest.approx(0.0, abs=0.001) and half_range == pytest.approx(0.19, rel=0.005)


@pytest.mark.parametrize("n", [500, 2_000, 12_000])
@pytest.mark.parametrize("size", [6.283, -1e4])
def test_two_glitches_do_not_change_the_scale_by_a_percent(n: int, size: float) -> None:
    values = swing(n)
    before = mapped(values)[1]
    values[[100, 300]] = size
    assert mapped(values)[1] == pytest.approx(before, rel=0.01)


@pytest.mark.parametrize(("part", "largest"), [(0.008, 2.51), (0.003, 2.51), (0.001, 10.1)])
def test_a_slot_that_seldom_moves_does_not_explode(part: float, largest: float) -> None:
    values = np.zeros(10_000)
    values[: int(part * 10_000)] = 0.5
    center, half_range = mapped(values, "base_m_s")
    assert abs(0.5 - center) / half_range <= largest


@pytest.mark.parametrize("sign", [1, -1])
def test_motion_to_both_sides_is_limited_by_the_farther_one(sign: int) -> None:
    values = np.zeros(10_000)
    values[:40], values[40:80] = 0.5 * sign, -0.2 * sign
    center, half_range = mapped(values, "base_m_s")
    assert abs(0.5 * sign - center) / half_range == pytest.approx(2.5, rel=0.01)


@pytest.mark.parametrize(
    ("quantity", "floor"),
    [("joint_rad", 0.01), ("delta_m", 0.0005), ("base_m_s", 0.02), ("torso_m", 0.005), ("", 0.001)],
)
def test_noise_of_a_parked_slot_stays_noise(quantity: str, floor: float) -> None:
    assert mapped(np.full(5_000, 0.7), quantity)[1] == floor
    noise = 0.7 + floor / 8 * np.sin(np.arange(5_000))
    assert mapped(noise, quantity)[1] == floor


def test_one_value_far_from_a_slot_at_rest_is_ten_units_away() -> None:
    values = np.zeros(1_000)
    values[500] = 10.0
    assert mapped(values, "")[1] == 1.0


@pytest.mark.parametrize("normalization", ["quantile", "zscore"])
@pytest.mark.parametrize("values", [np.zeros(50), np.ones(50), np.array([0.2, 0.7])])
def test_a_gripper_is_open_at_minus_one_and_closed_at_one(values: np.ndarray, normalization: str) -> None:
    assert mapped(values, "gripper", normalization) == (0.5, 0.5)


def test_a_gripper_in_millimetres_is_scaled_as_any_slot() -> None:
    center, half_range = mapped(np.linspace(0, 86, 1001), "gripper")
    assert center == pytest.approx(43, rel=0.01) and half_range == pytest.approx(42.1, rel=0.01)


def test_files_of_version_1_have_no_fixed_map_of_grippers() -> None:
    slots = [summarize_slot(np.zeros(50, np.float32)), *EMPTY]
    affine = affine_of(slots, ["gripper", *[""] * 17], "quantile", "span/v1")
    assert (affine.center[0], affine.half_range[0]) == (0.0, 1e-3)


@pytest.mark.parametrize("draw", ["normal", "laplace", "uniform"])
def test_usual_distributions_keep_the_percentiles(draw: str) -> None:
    values = getattr(np.random.default_rng(0), draw)(size=20_000)
    low, high = (summarize_slot(values.astype(np.float32)).quantile(q) for q in (0.01, 0.99))
    assert mapped(values)[1] == (high - low) / 2


def test_zscore_is_mean_and_deviation_with_the_same_care() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(0.3, 0.2, 10_000).astype(np.float32)
    center, half_range = mapped(values, "joint_rad", "zscore")
    assert center == pytest.approx(0.3, abs=0.01) and half_range == pytest.approx(values.std(), rel=1e-6)
    rare = np.zeros(10_000)
    rare[:80] = 0.5
    center, half_range = mapped(rare, "base_m_s", "zscore")
    assert (0.5 - center) / half_range == pytest.approx(5.0, rel=0.01)


def test_rare_slots_do_not_outweigh_the_others() -> None:
    values = np.zeros((2_000, 18), np.float32)
    values[:, 0] = 0.3 * np.sin(np.arange(2_000) / 40)
    values[400:416, 14] = 0.5
    mask = np.isin(np.arange(18), (0, 14))
    affine = summarize(values, mask, {0: "joint_rad", 14: "base_m_s"}).affine()
    normalized = normalize(values, affine, mask)
    squares = (normalized**2).sum(axis=0)
    assert np.abs(normalized).max(axis=0)[[0, 14]] == pytest.approx([1.0, 2.5], rel=0.02)
    assert squares[14] / squares.sum() < 0.1


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rule: expected one of span/v1, tails/v2, published/v1, found 'none'"):
        affine_of([SlotSummary()] * 18, [""] * 18, "quantile", "none")  # type: ignore[arg-type]
