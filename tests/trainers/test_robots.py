"""What a run records of its robots: one entry a pool of statistics, with that pool's rates, found by name."""

from dataclasses import replace
from pathlib import Path

import pytest

from mixtures.mixture import open_mixture
from pipelines.contract.errors import UsageError
from tests.support.inputs.mixture_data import make_episode, write_dataset, write_spec
from trainers.robots import Robot, find_robot, read_robots, write_robots

DELTA = "arx/ee_delta/pi18/v1"


def test_every_pool_is_a_robot_with_its_own_rates(tmp_path: Path) -> None:
    options = {"control_mode": "ee_delta", "cameras": ("base_0_rgb",)}
    write_dataset(tmp_path, "slow", [make_episode(0, control_hz=5.0, **options)], n_shards=1)
    write_dataset(tmp_path, "fast", [make_episode(1, control_hz=50.0, **options)], n_shards=1)
    native = replace(make_episode(2, control_hz=50.0, **options), units="viola")
    write_dataset(tmp_path, "native", [native], n_shards=1)
    names = ", ".join(f"{{path: {name}/1.0.0}}" for name in ("slow", "fast", "native"))
    mixture = open_mixture(write_spec(tmp_path, f"datasets: [{names}]\n"), cache=tmp_path / "cache")
    write_robots(tmp_path / "robots.json", mixture)
    robots = read_robots(tmp_path / "robots.json")
    assert {name: robot.control_hz for name, robot in robots.items()} == {
        f"{DELTA}@5hz": (5.0,),
        f"{DELTA}@50hz": (50.0,),
        f"{DELTA}/viola": (50.0,),
    }
    assert robots[f"{DELTA}@5hz"].control_mode == "ee_delta"
    assert find_robot(robots, f"{DELTA}@5hz").control_hz == (5.0,)
    assert find_robot(robots, f"{DELTA}/viola").norm_key == f"{DELTA}/viola"
    for name in (DELTA, "arx", "arx/ee_delta"):
        with pytest.raises(UsageError, match=f"expected one of .*{DELTA}@50hz.*{DELTA}@5hz"):
            find_robot(robots, name)


def test_a_whole_name_is_found_where_others_begin_with_it() -> None:
    """Metric deltas beside a source's own units, which have a longer key."""
    robots = {key: Robot(norm_key=key, parts={}, control_hz=(5.0,)) for key in (DELTA, f"{DELTA}/viola")}
    assert find_robot(robots, DELTA).norm_key == DELTA
    assert find_robot(robots, f"{DELTA}/viola").norm_key == f"{DELTA}/viola"
    with pytest.raises(UsageError, match="expected one of"):
        find_robot(robots, "arx")
