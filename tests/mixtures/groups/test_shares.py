"""Shares of groups: the rules, the published tables, and their properties."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixtures.groups.shares import Branch, Leaf, bounded_shares, resolve_shares
from mixtures.specs.spec import alpha_from_temperature
from pipelines.contract.errors import UsageError

# FACTS section 5: dataset, multiplier, train steps, share of multiplier * n in %, share of n ** 0.43 in %.
OXE_MAGIC_SOUP = [
    ("fractal20220817_data", 0.54087122203, 3513684, 16.92, 9.91),
    ("kuka", 0.8341046294, 2133779, 15.85, 8.00),
    ("bridge_dataset", 1.0, 1946218, 17.33, 7.69),
    ("taco_play", 2.0, 210730, 3.75, 2.96),
    ("jaco_play", 1.0, 69151, 0.62, 1.83),
    ("berkeley_cable_routing", 1.0, 36758, 0.33, 1.40),
    ("roboturk", 2.0, 166627, 2.97, 2.67),
    ("viola", 2.0, 68778, 1.22, 1.83),
    ("berkeley_autolab_ur5", 2.0, 86887, 1.55, 2.02),
    ("toto", 1.0, 293237, 2.61, 3.41),
    ("language_table", 0.1, 6275438, 5.59, 12.72),
    ("stanford_hydra_dataset_converted_externally_to_rlds", 2.0, 339237, 6.04, 3.63),
    ("austin_buds_dataset_converted_externally_to_rlds", 1.0, 32757, 0.29, 1.33),
    ("nyu_franka_play_dataset_converted_externally_to_rlds", 3.0, 34083, 0.91, 1.35),
    ("furniture_bench_dataset_converted_externally_to_rlds", 0.1, 3739948, 3.33, 10.18),
    ("ucsd_kitchen_dataset_converted_externally_to_rlds", 2.0, 3614, 0.06, 0.51),
    ("austin_sailor_dataset_converted_externally_to_rlds", 1.0, 334011, 2.97, 3.60),
    ("austin_sirius_dataset_converted_externally_to_rlds", 1.0, 265812, 2.37, 3.27),
    ("bc_z", 0.2, 5432343, 9.67, 11.96),
    ("dlr_edan_shared_control_converted_externally_to_rlds", 1.0, 8487, 0.08, 0.74),
    ("iamlab_cmu_pickup_insert_converted_externally_to_rlds", 1.0, 138937, 1.24, 2.47),
    ("utaustin_mutex", 1.0, 343702, 3.06, 3.65),
    ("berkeley_fanuc_manipulation", 2.0, 58781, 1.05, 1.71),
    ("cmu_stretch", 1.0, 23556, 0.21, 1.15),
]


def final(root: Branch) -> dict[str, float]:
    return {share.name: share.final for share in resolve_shares(root)}


def flat(alpha: float, *leaves: Leaf) -> Branch:
    return Branch(name="", alpha=alpha, children=leaves)


def test_octos_multipliers_give_the_published_shares() -> None:
    shares = final(flat(1.0, *(Leaf(name=name, count=n, multiplier=w) for name, w, n, _, _ in OXE_MAGIC_SOUP)))
    for name, _, _, expected, _ in OXE_MAGIC_SOUP:
        assert 100 * shares[name] == pytest.approx(expected, abs=0.05), name


def test_the_power_rule_gives_the_published_shares() -> None:
    shares = final(flat(0.43, *(Leaf(name=name, count=n) for name, _, n, _, _ in OXE_MAGIC_SOUP)))
    for name, _, _, _, expected in OXE_MAGIC_SOUP:
        assert 100 * shares[name] == pytest.approx(expected, abs=0.05), name


def test_alpha_0_43_is_temperature_2_3256() -> None:
    assert alpha_from_temperature(2.3256) == pytest.approx(0.43, abs=1e-5)


def test_alpha_zero_is_uniform_and_alpha_one_proportional() -> None:
    leaves = Leaf(name="a", count=1), Leaf(name="b", count=3)
    assert final(flat(0.0, *leaves)) == {"a": 0.5, "b": 0.5}
    assert final(flat(1.0, *leaves)) == {"a": 0.25, "b": 0.75}


def test_a_fixed_share_is_kept_and_the_rest_divided_by_the_rule() -> None:
    open_data = Branch(name="open", alpha=1.0, share=0.091, children=(Leaf(name="x", count=10**9),))
    root = Branch(name="", alpha=0.5, children=(open_data, Leaf(name="a", count=4), Leaf(name="b", count=16)))
    assert final(root) == pytest.approx({"x": 0.091, "a": 0.909 / 3, "b": 0.909 * 2 / 3})


def test_a_node_without_a_share_weighs_the_sum_of_its_groups_under_the_outer_rule() -> None:
    inner = Branch(name="i", alpha=0.0, children=(Leaf(name="x", count=9), Leaf(name="y", count=1)))
    root = Branch(name="", alpha=0.5, children=(inner, Leaf(name="a", count=16)))
    assert final(root) == pytest.approx({"x": 0.25, "y": 0.25, "a": 0.5})


def test_bounds_stay_inside_the_nearest_fixed_share() -> None:
    half = Branch(
        name="h", alpha=1.0, share=0.5, children=(Leaf(name="x", count=9), Leaf(name="y", count=1, lower=0.2))
    )
    root = Branch(name="", alpha=1.0, children=(half, Leaf(name="a", count=1), Leaf(name="b", count=3, upper=0.3)))
    assert final(root) == pytest.approx({"x": 0.3, "y": 0.2, "a": 0.2, "b": 0.3})


def test_bounds_that_cannot_be_met_are_refused() -> None:
    with pytest.raises(
        UsageError, match="the mixture cannot be met: the smallest shares add up to 1.2, more than the 1 "
    ):
        resolve_shares(flat(1.0, Leaf(name="a", count=1, lower=0.6), Leaf(name="b", count=1, lower=0.6)))
    with pytest.raises(UsageError, match="the largest shares add up to 0.5, less than the 1 to give"):
        resolve_shares(flat(1.0, Leaf(name="a", count=1, upper=0.25), Leaf(name="b", count=1, upper=0.25)))


counts = st.integers(1, 10**9)
leaf_numbers = st.tuples(counts, st.floats(0.01, 100), st.floats(0, 0.02), st.floats(0.3, 1))


def tree(numbers: list[tuple[int, float, float, float]], alpha: float, share: float, order: list[int]) -> Branch:
    """Groups alternate between a fixed share, a free node with another rule, and the root."""
    leaves = [
        Leaf(name=str(i), count=n, multiplier=m, lower=low * min(share, 1 - share), upper=high)
        for i, (n, m, low, high) in enumerate(numbers)
    ]
    fixed = Branch(name="f", alpha=alpha / 2, share=share, children=tuple(leaves[i] for i in order if i % 3 == 0))
    free = Branch(name="g", alpha=1 - alpha, children=tuple(leaves[i] for i in order if i % 3 == 1))
    return Branch(name="", alpha=alpha, children=(free, fixed, *(leaves[i] for i in order if i % 3 == 2)))


trees = st.lists(leaf_numbers, min_size=9, max_size=15)


@settings(deadline=None)
@given(trees, st.floats(0, 1), st.floats(0.2, 0.8), st.randoms(use_true_random=False))
def test_shares_add_up_to_one_and_do_not_depend_on_the_order(numbers, alpha, share, random) -> None:
    numbers = [(n, m, low, 1.0) for n, m, low, _ in numbers]
    order = list(range(len(numbers)))
    shares = final(tree(numbers, alpha, share, order))
    random.shuffle(order)
    shuffled = final(tree(numbers, alpha, share, order))
    assert math.fsum(shares.values()) == pytest.approx(1, abs=1e-9)
    assert min(shares.values()) > 0
    assert shuffled == pytest.approx(shares, abs=1e-9)


@settings(deadline=None)
@given(trees, st.floats(0, 1), st.floats(0.2, 0.8), st.integers(0, 8), st.floats(1, 100))
def test_a_groups_share_grows_with_its_size(numbers, alpha, share, which, factor) -> None:
    numbers = [(n, m, low, 1.0) for n, m, low, _ in numbers]
    order = list(range(len(numbers)))
    before = final(tree(numbers, alpha, share, order))[str(which)]
    n, *rest = numbers[which]
    numbers[which] = (int(n * factor), *rest)
    assert final(tree(numbers, alpha, share, order))[str(which)] >= before - 1e-9


@settings(deadline=None)
@given(st.lists(st.floats(1e-6, 1), min_size=2, max_size=30), st.data())
def test_bounded_shares_keep_sum_bounds_and_the_ratio_of_unbounded_groups(weights, data) -> None:
    shares = np.array(weights) / sum(weights)
    lower = np.array([data.draw(st.floats(0, 1 / len(shares))) for _ in shares])
    upper = np.array([data.draw(st.floats(1 / len(shares), 1)) for _ in shares])
    result = bounded_shares(shares, lower, upper)
    assert result.sum() == pytest.approx(1, abs=1e-9)
    assert (result >= lower - 1e-12).all() and (result <= upper + 1e-12).all()
    inside = (result > lower + 1e-9) & (result < upper - 1e-9)
    ratios = result[inside] / shares[inside]
    assert np.ptp(ratios) <= 1e-6 * ratios.max() if len(ratios) else True


def test_a_smallest_share_over_the_largest_of_one_group_is_refused() -> None:
    leaves = (Leaf(name="a", count=10, lower=0.6, upper=0.2), Leaf(name="b", count=10))
    with pytest.raises(UsageError, match="a smallest share of 0.6 is over the largest of the same group"):
        resolve_shares(Branch(name="", alpha=1.0, children=leaves))
