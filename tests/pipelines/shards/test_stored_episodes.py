"""Stored episodes as checks and cards see them."""

from dataclasses import replace
from pathlib import Path

from pipelines.shards.dataset import Dataset
from pipelines.shards.stored_episodes import iter_stored
from tests.support.inputs.stored_episodes import make_episode, store_dataset


def test_a_page_does_not_claim_metres_for_numbers_of_unknown_scale(tmp_path: Path) -> None:
    episodes = [make_episode(0), replace(make_episode(1), units="viola")]
    store_dataset(tmp_path / "toy" / "1.0.0", {"train": [episodes]})
    metric, native = iter_stored(Dataset.open(tmp_path / "toy" / "1.0.0"))
    assert metric.shown_units("action") == dict.fromkeys(range(6), "rad") | {6: "closed"}
    assert native.norm_key == "ur5e/joint_position/pi18/v1/viola"
    assert native.shown_units("action") == dict.fromkeys(range(6), "native") | {6: "closed"}
