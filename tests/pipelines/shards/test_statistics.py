"""Statistics: literal values, quantiles against numpy, merging in any order, and the affine maps."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipelines.contract.errors import FailedWork
from pipelines.shards.statistics import (
    NormStatistics,
    empty_statistics,
    load_statistics,
    merge_statistics,
    normalize,
    save_statistics,
    summarize,
    summarize_episode,
    unnormalize,
)
from pipelines.shards.summaries import summarize_slot

FIRST_SLOT = np.arange(18) == 0
ALL_SLOTS = np.ones(18, bool)
KEY = "ur5e/joint_position/pi18/v1"


def column(*values: float) -> np.ndarray:
    """float32 [t, 18] with the values in slot 0."""
    array = np.zeros((len(values), 18), np.float32)
    array[:, 0] = values
    return array


def norm(seed: int, t: int = 40) -> NormStatistics:
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=(2, t, 18)) * 10.0 ** rng.integers(-6, 4, 18)).astype(np.float32)
    return summarize_episode(KEY, values[0], values[1], ALL_SLOTS, FIRST_SLOT)


def test_moments_and_extremes_of_four_values() -> None:
    found = summarize(column(1, 2, 3, 6), FIRST_SLOT)
    assert found.count[:2].tolist() == [4, 0]
    assert (found.mean[0], found.m2[0], found.std[0]) == (3.0, 14.0, np.sqrt(3.5))
    assert (found.min[0], found.max[0]) == (1.0, 6.0)


def test_masked_slots_count_nothing() -> None:
    found = summarize(np.full((3, 18), 5, np.float32), FIRST_SLOT)
    assert found.count.tolist() == [3] + [0] * 17
    assert found.max.tolist() == [5.0] + [0.0] * 17


def test_moments_are_exact_where_adding_floats_would_cancel() -> None:
    found = summarize(column(1e8, 1, -1e8, 1e-8), FIRST_SLOT)
    assert found.mean[0] == (1 + float(np.float32(1e-8))) / 4


def test_moments_of_many_values_are_those_of_numpy() -> None:
    values = np.random.default_rng(3).normal(0.3, 2.0, (500, 18)).astype(np.float32)
    found = summarize(values, ALL_SLOTS)
    np.testing.assert_allclose(found.mean, values.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.std, values.astype(np.float64).std(0), rtol=1e-12)


def test_the_smallest_and_the_largest_float32_are_summed_exactly() -> None:
    tiny, huge = np.float32(1e-45), np.finfo(np.float32).max
    found = summarize(column(tiny, huge, -huge), FIRST_SLOT)
    assert found.mean[0] == float(tiny) / 3


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="found NaN or infinity"):
        summarize(column(1, np.nan), FIRST_SLOT)


def test_nan_in_a_masked_slot_is_ignored() -> None:
    values = column(1, 2)
    values[0, 5] = np.nan
    assert summarize(values, FIRST_SLOT).mean[0] == 1.5


@given(arrays(np.float32, st.integers(1, 60), elements=st.floats(-1e6, 1e6, width=32)))
def test_quantiles_lie_within_a_quarter_percent_of_the_true_ones(values: np.ndarray) -> None:
    found = summarize(column(*values), FIRST_SLOT)
    for name, fraction in {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}.items():
        true = float(np.quantile(values, fraction, method="lower"))
        assert getattr(found, name)[0] == pytest.approx(true, rel=0.00251, abs=1e-9)


def test_quantiles_of_a_gripper_that_is_open_or_closed() -> None:
    found = summarize(column(*[0.0] * 60, *[1.0] * 40), FIRST_SLOT)
    assert (found.q01[0], found.q50[0]) == (0.0, 0.0)
    assert found.q99[0] == pytest.approx(1.0, rel=0.0025)


def test_merging_does_not_depend_on_the_order_bit_for_bit(tmp_path: Path) -> None:
    parts = [{KEY: norm(seed)} for seed in range(4)]
    files = set()
    for i, order in enumerate(itertools.permutations(parts)):
        save_statistics(tmp_path / f"{i}.json", merge_statistics(order))
        files.add((tmp_path / f"{i}.json").read_bytes())
    left = merge_statistics([merge_statistics(parts[:2]), merge_statistics(parts[2:])])
    save_statistics(tmp_path / "left.json", left)
    assert files == {(tmp_path / "left.json").read_bytes()}


def test_merging_equals_summarizing_everything_at_once() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(50, 18)).astype(np.float32)
    merged = summarize(values[:13], ALL_SLOTS).merge(summarize(values[13:], ALL_SLOTS)).merge(empty_statistics(18))
    whole = summarize(values, ALL_SLOTS)
    for name in ("count", "mean", "m2", "min", "max", "q01", "q10", "q50", "q90", "q99"):
        np.testing.assert_array_equal(getattr(merged, name), getattr(whole, name))


def test_merging_counts_episodes_and_keeps_keys_apart() -> None:
    other = replace(norm(2), norm_key="franka/joint_position/pi18/v1")
    merged = merge_statistics([{KEY: norm(0)}, {other.norm_key: other}, {KEY: norm(1)}])
    assert {key: (s.n_episodes, s.n_steps) for key, s in merged.items()} == {other.norm_key: (1, 40), KEY: (2, 80)}


def test_different_norm_keys_do_not_merge() -> None:
    with pytest.raises(ValueError, match="norm_key: expected"):
        norm(0).merge(replace(norm(1), norm_key="other"))


def test_a_file_comes_back_bit_for_bit(tmp_path: Path) -> None:
    save_statistics(tmp_path / "a.json", {KEY: norm(0)})
    save_statistics(tmp_path / "b.json", load_statistics(tmp_path / "a.json"))
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "can be read"),
        ("[]", "expected schema"),
        ('{"schema": "x/v9"}', "found 'x/v9'"),
        ('{"schema": "embodimix.statistics/v1", "norm_keys": {"a": {}}}', "expected the fields"),
        ('{"schema": "embodimix.statistics/v1", "norm_keys": []}', "expected the fields"),
        ('{"schema": "embodimix.statistics/v2", "norm_keys": {}}', "expected the fields"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(FailedWork, match=message):
        load_statistics(tmp_path / "s.json")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("count", 41, "expected rising keys and counts of 41 in all"),
        ("buckets", "5:1 4:39", "rising keys"),
        ("buckets", "1:x", "invalid literal"),
        ("total", 3, "expected the fields"),
        ("low", None, "expected the fields"),
    ],
)
def test_a_damaged_slot_is_refused(tmp_path: Path, field: str, value: object, message: str) -> None:
    save_statistics(tmp_path / "s.json", {KEY: norm(0)})
    content = json.loads((tmp_path / "s.json").read_text())
    content["norm_keys"][KEY]["action"]["slots"][0][field] = value
    (tmp_path / "s.json").write_text(json.dumps(content))
    with pytest.raises(FailedWork, match=message):
        load_statistics(tmp_path / "s.json")


def test_the_quantile_map_spans_the_1st_to_the_99th_percentile() -> None:
    affine = summarize(column(*np.linspace(-1, 3, 401)), FIRST_SLOT).affine("quantile")
    assert affine.center[0] == pytest.approx(1.0, abs=0.01)
    assert affine.half_range[0] == pytest.approx(1.96, rel=0.005)


def test_the_zscore_map_is_mean_and_deviation() -> None:
    affine = summarize(column(1, 2, 3, 6), FIRST_SLOT).affine("zscore")
    assert (affine.center[0], affine.half_range[0]) == (3.0, np.sqrt(3.5))


def test_summaries_say_what_slots_hold_and_at_which_rates(tmp_path: Path) -> None:
    parts = {"arm0": (0, 1, 2, 3, 4, 5), "gripper0": (6,)}
    mask = np.arange(18) < 7
    values = np.zeros((3, 18), np.float32)
    slow, fast = (
        summarize_episode("a/ee_delta/pi18/v1", values, values, mask, mask, parts, control_hz=hz) for hz in (5.0, 50.0)
    )
    merged = fast.merge(slow).merge(fast)
    save_statistics(tmp_path / "s.json", {"a/ee_delta/pi18/v1": merged})
    found = load_statistics(tmp_path / "s.json")["a/ee_delta/pi18/v1"]
    assert found.rates == ((5.0, 3), (50.0, 6)) and found.control_hz == (5.0, 50.0)
    assert found.state.quantities[:8] == ("pose_m",) * 3 + ("pose_rad",) * 3 + ("gripper", "")
    assert found.action.quantities[:8] == ("delta_m",) * 3 + ("delta_rad",) * 3 + ("gripper", "")


def test_of_native_units_only_grippers_are_known() -> None:
    parts = {"arm0": (0, 1, 2, 3, 4, 5), "gripper0": (6,)}
    mask, values = np.arange(18) < 7, np.zeros((3, 18), np.float32)
    found = summarize_episode("a/ee_delta/pi18/v1/viola", values, values, mask, mask, parts)
    assert found.action.quantities[:8] == ("",) * 6 + ("gripper", "")
    assert found.action.affine().half_range[[0, 6]].tolist() == [0.001, 0.5]


def test_slots_on_which_episodes_disagree_are_mixed_in_any_order() -> None:
    seen = [summarize(column(1.0), FIRST_SLOT, {0: name} if name else None) for name in ("gripper", "joint_rad", "")]
    found = {a.merge(b).merge(c).quantities[0] for a, b, c in itertools.permutations(seen)}
    assert found == {"mixed"}
    assert seen[0].merge(seen[2]).quantities[0] == seen[2].merge(seen[0]).quantities[0] == "gripper"


V1_SLOT = {"count": 4, "total": hex(6 << 149), "total_squares": hex(14 << 298), "low": 0.0, "high": 3.0}


def old_file(path: Path) -> dict:
    """A file as version 1 wrote it: one slot with the values 0, 1, 2, 3 and the half range of its rule."""
    summary = summarize_slot(np.arange(4, dtype=np.float32))
    assert (summary.count, hex(summary.total), hex(summary.total_squares)) == tuple(V1_SLOT.values())[:3]
    buckets = " ".join(f"{k}:{c}" for k, c in zip(summary.keys.tolist(), summary.counts.tolist(), strict=True))
    empty = {"count": 0, "total": "0x0", "total_squares": "0x0", "low": 0.0, "high": 0.0, "buckets": ""}
    half = summary.quantile(0.99) / 2
    array = {
        "mean": [1.5] + [0.0] * 17,
        "center": [half] + [0.0] * 17,
        "half_range": [half] + [1.0] * 17,
        "slots": [V1_SLOT | {"buckets": buckets}, *[empty] * 17],
    }
    key = {"n_episodes": 1, "n_steps": 4, "state": array, "action": array}
    content = {"schema": "embodimix.statistics/v1", "normalization": "quantile", "norm_keys": {KEY: key}}
    path.write_text(json.dumps(content))
    return content


def test_files_of_version_1_keep_the_rule_that_their_shards_were_written_with(tmp_path: Path) -> None:
    old_file(tmp_path / "old.json")
    old = load_statistics(tmp_path / "old.json")
    assert old[KEY].action.rule == "span/v1"
    glitch = replace(old[KEY].action.slots[0], high=3000.0)
    assert replace(old[KEY].action, slots=(glitch, *old[KEY].action.slots[1:])).affine().half_range[0] == 150.0
    save_statistics(tmp_path / "again.json", old)
    again = load_statistics(tmp_path / "again.json")
    assert again[KEY].action.rule == "span/v1" and again[KEY].rates == ()


def test_pooled_with_new_statistics_old_ones_follow_the_new_rule(tmp_path: Path) -> None:
    old_file(tmp_path / "old.json")
    old = load_statistics(tmp_path / "old.json")[KEY]
    assert old.merge(norm(0)).action.rule == norm(0).merge(old).action.rule == "tails/v2"


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", ["mean", "half_range"])
def test_an_edited_file_is_noticed(tmp_path: Path, version: int, name: str) -> None:
    path = tmp_path / "s.json"
    if version == 1:
        old_file(path)
    else:
        save_statistics(path, {KEY: norm(0)})
    content = json.loads(path.read_text())
    content["norm_keys"][KEY]["action"][name][0] *= 2
    path.write_text(json.dumps(content))
    with pytest.raises(FailedWork, match="expected the statistics as they were written, found edited ones"):
        load_statistics(path)


def test_a_file_nested_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text("[" * 100_000)
    with pytest.raises(FailedWork, match="can be read"):
        load_statistics(tmp_path / "s.json")


def test_slots_never_seen_map_to_themselves() -> None:
    affine = summarize(column(5), FIRST_SLOT).affine()
    assert (affine.center[1], affine.half_range[1]) == (0.0, 1.0)


def test_an_unknown_map_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 'quantile' or 'zscore', found 'minmax'"):
        empty_statistics(18).affine("minmax")  # type: ignore[arg-type]


def test_masked_slots_are_exactly_zero_both_ways() -> None:
    values = np.full((2, 18), 7, np.float32)
    affine = summarize(values, ALL_SLOTS).affine()
    assert normalize(values, affine, FIRST_SLOT)[:, 1:].tolist() == [[0.0] * 17] * 2
    assert unnormalize(np.ones((2, 18), np.float32), affine, FIRST_SLOT)[:, 1:].tolist() == [[0.0] * 17] * 2


def test_values_outside_the_quantiles_are_not_clipped() -> None:
    values = column(*[0.0] * 200, *[1.0] * 200, 3.0)
    assert normalize(values, summarize(values, FIRST_SLOT).affine(), FIRST_SLOT).max() == pytest.approx(5.0, rel=0.01)


@pytest.mark.parametrize("scale", [2 * np.pi, 0.01])
@pytest.mark.parametrize("normalization", ["quantile", "zscore"])
def test_normalized_values_invert_to_physical_within_a_millionth(scale: float, normalization: str) -> None:
    values = np.random.default_rng(1).uniform(-scale, scale, (2000, 18)).astype(np.float32)
    affine = summarize(values, ALL_SLOTS).affine(normalization)  # type: ignore[arg-type]
    normalized = normalize(values, affine, ALL_SLOTS)
    assert normalized.dtype == np.float32
    assert np.abs(unnormalize(normalized, affine, ALL_SLOTS) - values).max() < 1e-6
