"""The order of samples: pure in the position, exact in the shares, every step once before any twice."""

import time
from math import factorial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixtures.randomness import mix64
from mixtures.stream.sampler import Sampler, permute

SIZES = np.array([50, 7, 1, 100_000, 3000, 12])
SHARES = SIZES**0.43 / (SIZES**0.43).sum()
NAMES = [f"g{i}" for i in range(len(SIZES))]
SAMPLER = Sampler(seed=17, probabilities=SHARES, sizes=SIZES, names=NAMES)


def draws(sampler: Sampler, start: int, count: int) -> list[tuple[int, int, int]]:
    drawn = sampler.draw(start, count)
    return list(zip(drawn.group.tolist(), drawn.epoch.tolist(), drawn.index.tolist(), strict=True))


@settings(deadline=None)
@given(st.integers(0, 2**40), st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_any_split_of_the_positions_gives_the_same_order(start: int, lengths: list[int]) -> None:
    whole = draws(Sampler(seed=17, probabilities=SHARES, sizes=SIZES, names=NAMES), start, sum(lengths))
    pieces = []
    for length in lengths:
        pieces += draws(SAMPLER, start + len(pieces), length)
    assert pieces == whole


@pytest.mark.parametrize("hosts", [1, 2, 5, 64])
def test_hosts_that_take_their_rows_of_each_batch_cover_every_position_once(hosts: int) -> None:
    batch, start = 320, 65_536 - 100
    rows = batch // hosts
    shards = [draws(SAMPLER, start + host * rows, rows) for host in range(hosts)]
    assert sum(shards, []) == draws(SAMPLER, start, batch)


def test_the_order_is_what_it_was_when_runs_were_recorded() -> None:
    assert draws(SAMPLER, 0, 6) == [
        (4, 0, 1693),
        (3, 0, 92957),
        (3, 0, 14554),
        (3, 0, 60805),
        (3, 0, 48596),
        (3, 0, 75568),
    ]
    assert draws(SAMPLER, 10**9, 3) == [(3, 7671, 86011), (3, 7671, 59710), (3, 7671, 13444)]


def test_every_step_comes_once_before_any_comes_twice() -> None:
    drawn = SAMPLER.draw(0, 200_000)
    for group, size in enumerate(SIZES):
        steps = drawn.index[drawn.group == group]
        epochs = drawn.epoch[drawn.group == group]
        assert (epochs == np.arange(len(steps)) // size).all()
        whole = steps[: len(steps) // size * size].reshape(-1, size)
        assert (np.sort(whole, axis=1) == np.arange(size)).all()


def test_an_epochs_order_differs_from_the_next_ones() -> None:
    drawn = SAMPLER.draw(0, 20_000)
    first, second = (drawn.index[(drawn.group == 0) & (drawn.epoch == epoch)].tolist() for epoch in (0, 1))
    assert sorted(first) == sorted(second) and first != second


@pytest.mark.parametrize("start", [0, 10**9 + 12_345])
def test_shares_of_a_million_draws_are_within_four_sigma(start: int) -> None:
    shares = np.array([1e-5, 2e-4, 0.05, 0.3, 0.2])
    shares = np.append(shares, 1 - shares.sum())
    sampler = Sampler(seed=start, probabilities=shares, sizes=[1000] * 6, names=NAMES)
    counts = np.bincount(sampler.draw(start, 1_000_000).group, minlength=6)
    assert (np.abs(counts - 1e6 * shares) <= 4 * np.sqrt(1e6 * shares * (1 - shares)) + 1e-9).all()


def test_visits_never_drift_from_the_shares() -> None:
    for position in (65_536, 10 * 65_536, 10**12 // 65_536 * 65_536):
        assert np.abs(SAMPLER.visits_before(position) - position * SHARES).max() < 1.01


@settings(deadline=None)
@given(st.lists(st.floats(1e-9, 1), min_size=1, max_size=60), st.integers(0, 10**6))
def test_visits_never_fall_and_add_up_to_the_position(weights: list[float], block: int) -> None:
    shares = np.array(weights) / sum(weights)
    sampler = Sampler(seed=3, probabilities=shares, sizes=[5] * len(shares), names=[str(i) for i in range(len(shares))])
    before, after = (sampler._schedule.visits_before(b) for b in (block, block + 1))
    assert before.sum() == block * sampler.block_size and after.sum() == (block + 1) * sampler.block_size
    assert (after >= before).all()
    assert np.abs(before - block * sampler.block_size * shares).max() < len(shares) + 2


def test_groups_come_without_a_pattern() -> None:
    hits = (SAMPLER.draw(65_536 * 3, 65_536 * 4).group == 4).astype(float)
    hits -= hits.mean()
    for lag in (1, 2, 3, 8, 64, 4096):
        correlation = (hits[:-lag] * hits[lag:]).mean() / hits.var()
        assert abs(correlation) < 4 / np.sqrt(len(hits)), lag


def test_a_batch_mixes_groups_as_independent_draws_would() -> None:
    counts = (SAMPLER.draw(0, 64_000).group.reshape(1000, 64) == 3).sum(axis=1)
    assert counts.var() == pytest.approx(64 * SHARES[3] * (1 - SHARES[3]), rel=0.2)


def test_seed_and_name_change_the_order() -> None:
    other_seed = Sampler(seed=18, probabilities=SHARES, sizes=SIZES, names=NAMES)
    assert draws(other_seed, 0, 100) != draws(SAMPLER, 0, 100)


def test_position_a_billion_is_as_fast_as_position_zero() -> None:
    sampler = Sampler(seed=1, probabilities=[1e-3] * 1000, sizes=[900_000] * 1000, names=[str(i) for i in range(1000)])

    def seconds(start: int) -> float:
        begin = time.thread_time()
        sampler.draw(start, 64)
        return time.thread_time() - begin

    near = min(seconds(65_536 * i) for i in range(5, 12))
    far = min(seconds(10**9 + 65_536 * i) for i in range(7))
    assert far < 3 * near


@settings(deadline=None)
@given(st.integers(1, 5000), st.integers(0, 2**64 - 1))
def test_permute_is_a_permutation(size: int, key: int) -> None:
    mapped = permute(np.arange(size), np.full(size, size), np.full(size, key, np.uint64))
    assert np.array_equal(np.sort(mapped), np.arange(size))


def test_permute_reaches_every_order_equally_often() -> None:
    keys = np.repeat(mix64(np.arange(24_000, dtype=np.uint64)), 4)
    orders = permute(np.tile(np.arange(4), 24_000), np.full(96_000, 4), keys).reshape(-1, 4)
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == factorial(4)
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000)


def test_permute_stays_inside_sizes_beyond_32_bits() -> None:
    size = np.full(1000, 900_000_000_017)
    mapped = permute(np.arange(1000), size, np.zeros(1000, np.uint64))
    assert len(set(mapped.tolist())) == 1000 and mapped.min() >= 0 and mapped.max() < size[0]
    assert mapped.mean() == pytest.approx(size[0] / 2, rel=0.1)


def test_wrong_probabilities_are_refused() -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        Sampler(seed=0, probabilities=[0.5, 0.4], sizes=[1, 1], names=["a", "b"])
