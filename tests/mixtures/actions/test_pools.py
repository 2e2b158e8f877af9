"""Which steps share statistics: units, rates of deltas and datasets apart, in any order; runs keep their pools."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mixtures.actions.pools import Member, assign_pools
from mixtures.mixture import Mixture, open_mixture
from mixtures.stream.batches import Stream
from pipelines.contract.episode import Episode
from pipelines.shards.statistics import load_statistics
from tests.support.inputs.mixture_data import make_episode, write_dataset, write_spec

DELTA, JOINT = "franka/ee_delta/pi18/v1", "franka/joint_position/pi18/v1"


def member(table: int, hz: float, key: str = DELTA, dataset: str | None = None) -> Member:
    return Member(table=table, dataset=dataset or f"d{table}/1.0.0", norm_key=key, control_hz=hz, n_steps=100)


def names(members: list[Member], **options: object) -> list[str]:
    pools = assign_pools(members, **options)  # type: ignore[arg-type]
    return [pools.names[m.table][m.norm_key, m.control_hz] for m in members]


def test_deltas_at_rates_over_a_fifth_apart_are_not_pooled() -> None:
    members = [member(i, hz) for i, hz in enumerate((5.0, 15.0, 6.0, 6.1, 50.0))]
    expected = [f"{DELTA}@5-6hz", f"{DELTA}@15hz", f"{DELTA}@5-6hz", f"{DELTA}@6.1hz", f"{DELTA}@50hz"]
    for order in itertools.permutations(range(5)):
        assert names([members[i] for i in order]) == [expected[i] for i in order]


def test_one_class_of_rates_has_the_norm_keys_name() -> None:
    assert names([member(0, 10.0), member(1, 12.0)]) == [DELTA, DELTA]


def test_positions_and_resampled_deltas_are_pooled_at_all_rates() -> None:
    assert names([member(0, 5.0, JOINT), member(1, 50.0, JOINT)]) == [JOINT, JOINT]
    assert names([member(0, 5.0), member(1, 50.0)], rate_hz=10.0) == [DELTA, DELTA]


def test_native_units_have_a_pool_of_their_own() -> None:
    pools = assign_pools([member(0, 20.0), member(1, 20.0, f"{DELTA}/viola")]).pools
    assert [(pool.name, pool.units, pool.datasets) for pool in pools] == [
        (DELTA, "metric", ("d0/1.0.0",)),
        (f"{DELTA}/viola", "viola", ("d1/1.0.0",)),
    ]


def test_by_dataset_every_dataset_has_its_own() -> None:
    members = [member(0, 5.0), member(0, 50.0), member(1, 5.0), member(2, 5.0, JOINT)]
    assert names(members, by="dataset") == [
        f"{DELTA}@d0-1.0.0@5hz",
        f"{DELTA}@d0-1.0.0@50hz",
        f"{DELTA}@d1-1.0.0",
        f"{JOINT}@d2-1.0.0",
    ]


@pytest.mark.parametrize(
    ("hz", "frozen", "expected"),
    [
        (15.0, {f"{DELTA}@5hz": (5.0,), f"{DELTA}@15hz": (15.0,)}, f"{DELTA}@15hz"),
        (16.0, {f"{DELTA}@5hz": (5.0,), f"{DELTA}@15hz": (15.0,)}, f"{DELTA}@15hz"),
        (15.0, {DELTA: (15.0,)}, DELTA),
        (50.0, {DELTA: (15.0,)}, f"{DELTA}@50hz"),
        (50.0, {DELTA: ()}, DELTA),
        (15.0, {f"{DELTA}/viola": (15.0,)}, DELTA),
    ],
)
def test_a_run_that_starts_from_another_takes_its_pool_of_the_same_rate(
    hz: float, frozen: dict[str, tuple[float, ...]], expected: str
) -> None:
    assert names([member(0, hz)], frozen=frozen) == [expected]


def moving(number: int, hz: float, size: float, n_steps: int = 40) -> Episode:
    """An end-effector delta episode whose x goes to and fro by `size` a step."""
    episode = make_episode(number, control_mode="ee_delta", control_hz=hz, n_steps=n_steps, cameras=("base_0_rgb",))
    action = episode.action.copy()
    action[:, 0] = size * np.where(np.arange(n_steps) % 2, 1, -1)
    return replace(episode, action=action)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pools")
    write_dataset(root, "slow", [moving(0, 5.0, 0.1), moving(1, 5.0, 0.1)], n_shards=1)
    write_dataset(root, "fast", [moving(2, 50.0, 0.01)], n_shards=1)
    write_dataset(root, "both", [moving(3, 5.0, 0.2), moving(4, 50.0, 0.02)], n_shards=1)
    write_dataset(root, "native", [replace(moving(5, 5.0, 1.0), units="viola")], n_shards=1)
    return root


def opened(folder: Path, names: str, extra: str = "", **options: object) -> Mixture:
    datasets = ", ".join(f"{{path: {name}/1.0.0}}" for name in names.split())
    body = f"datasets: [{datasets}]\naction: {{horizon: 4}}\n{extra}"
    return open_mixture(write_spec(folder, body), cache=folder / "cache", **options)  # type: ignore[arg-type]


def test_every_sample_is_scaled_by_the_statistics_of_its_rate(folder: Path) -> None:
    mixture = opened(folder, "slow fast")
    slow, fast = "arx/ee_delta/pi18/v1@5hz", "arx/ee_delta/pi18/v1@50hz"
    assert {pool.name: (pool.control_hz, pool.n_steps) for pool in mixture.pools.pools} == {
        slow: ((5.0,), 80),
        fast: ((50.0,), 40),
    }
    assert mixture.statistics[slow].action.affine().half_range[0] == pytest.approx(0.1, rel=0.003)
    assert mixture.statistics[fast].action.affine().half_range[0] == pytest.approx(0.01, rel=0.003)
    with Stream(mixture, batch_size=32) as stream:
        batch = stream.batch_at(0)
        rows = {row.dataset: row.norm_key for row in stream.episodes()}
    assert set(zip(batch.dataset, batch.norm_key, strict=True)) == {("slow", slow), ("fast", fast)}
    assert rows == {"slow": slow, "fast": fast}
    assert np.abs(batch.action[:, 0, 0]) == pytest.approx(1.0, rel=0.01)
    back = mixture.unnormalize_batch_action(batch, batch.action)
    assert np.abs(back - batch.action_physical).max() < 1e-6


def test_a_dataset_of_several_rates_is_measured_by_rate(folder: Path) -> None:
    mixture = opened(folder, "slow both")
    found = {
        name: (value.n_episodes, value.n_steps, value.action.max[0].round(4), value.rates, value.action.quantities[0])
        for name, value in mixture.statistics.items()
    }
    assert found == {
        "arx/ee_delta/pi18/v1@5hz": (3, 120, 0.2, ((5.0, 120),), "delta_m"),
        "arx/ee_delta/pi18/v1@50hz": (1, 40, 0.02, ((50.0, 40),), "delta_m"),
    }


def test_native_units_never_meet_metric_ones(folder: Path) -> None:
    mixture = opened(folder, "slow native")
    halves = {name: value.action.affine().half_range[0].round(2) for name, value in mixture.statistics.items()}
    assert halves == {"arx/ee_delta/pi18/v1": 0.1, "arx/ee_delta/pi18/v1/viola": 1.0}


def test_normalization_by_dataset(folder: Path) -> None:
    mixture = opened(folder, "slow both", "normalization: {by: dataset}\n")
    assert sorted(mixture.statistics) == [
        "arx/ee_delta/pi18/v1@both-1.0.0@50hz",
        "arx/ee_delta/pi18/v1@both-1.0.0@5hz",
        "arx/ee_delta/pi18/v1@slow-1.0.0",
    ]
    assert mixture.lock()["normalization"] == {"by": "dataset"}
    assert mixture.lock()["pools"]["arx/ee_delta/pi18/v1@slow-1.0.0"] == {
        "datasets": ["slow/1.0.0"],
        "control_hz": [5.0],
        "units": "metric",
    }


def test_chunks_of_every_pool_have_statistics_of_their_own(folder: Path) -> None:
    body = "datasets: [{path: slow/1.0.0}, {path: fast/1.0.0}]\naction: {horizon: 4, mode: relative_to_first_state}\n"
    found = open_mixture(write_spec(folder, body, "relative.yaml"), cache=folder / "cache").statistics
    assert {name: value.action.max[0].round(3) for name, value in found.items()} == {
        "arx/ee_delta/pi18/v1@5hz": 0.1,
        "arx/ee_delta/pi18/v1@50hz": 0.01,
    }


def test_post_training_at_one_rate_keeps_pretrainings_statistics_of_that_rate(folder: Path, tmp_path: Path) -> None:
    before = opened(folder, "slow fast")
    before.save_statistics(tmp_path / "run.json")
    after = opened(folder, "both", "filters: [{keep: {min_hz: 20}}]\n", statistics=tmp_path / "run.json")
    (name,) = after.groups[0].norm_keys
    assert name == "arx/ee_delta/pi18/v1@50hz"
    assert after.statistics[name].action.max[0] == pytest.approx(0.01)
    assert load_statistics(tmp_path / "run.json")[name].rates == ((50.0, 40),)
