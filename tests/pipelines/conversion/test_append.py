"""Adding episodes to a dataset as a MINOR version."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.contract.errors import FailedWork, UsageError
from pipelines.conversion.launch import ConversionRequest, convert
from pipelines.mapping.adapters import get_adapter
from pipelines.shards.dataset import Dataset
from pipelines.shards.rebuild import rebuild_index
from pipelines.shards.sidecar import read_sidecar
from tests.pipelines.sources.test_zarr import write_log
from tests.support.inputs.hdf5_files import T, write_aloha


def run(tmp_path: Path, version: str, **changes: Any) -> dict[str, Any]:
    options: dict[str, Any] = {"adapter": get_adapter("inhouse_log"), "n_shards": 2}
    options |= {"source": str(tmp_path / "logs"), "output_root": str(tmp_path / "data")}
    return convert(ConversionRequest(name="x", version=version, **options | changes))


def add_logs(tmp_path: Path, *names: str, **changes: Any) -> None:
    for name in names:
        write_log(tmp_path / f"logs/{name}.zarr", **changes)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Version 1.0.0 of three logs, one of them left out."""
    add_logs(tmp_path, "a", "b")
    add_logs(tmp_path, "bad", **{"command/gripper": np.full((20, 1), np.nan)})
    run(tmp_path, "1.0.0")
    return tmp_path / "data/x/1.0.0"


def keys_of(dataset: Dataset) -> list[str]:
    return [key for path in dataset.sidecars("train") for key in read_sidecar(path)["source_key"].to_pylist()]


def test_old_shards_keep_their_bytes_and_new_ones_follow(base: Path, tmp_path: Path) -> None:
    add_logs(tmp_path, "c", "d", "e")
    counts = run(tmp_path, "1.1.0", append="1.0.0", n_shards=1)
    assert (counts["episodes_in"], counts["episodes_out"], counts["episodes_rejected"]) == (6, 5, 1)
    dataset, old = Dataset.open(tmp_path / "data/x/1.1.0"), Dataset.open(base)
    assert sorted(keys_of(dataset)) == [f"{name}.zarr" for name in "abcde"]
    assert keys_of(dataset)[:2] == keys_of(old)
    for new_files, old_files in zip(dataset.splits["train"], old.splits["train"], strict=False):
        assert new_files.shard.read_bytes() == old_files.shard.read_bytes()
        assert new_files.shard.stat().st_ino == old_files.shard.stat().st_ino
    assert (dataset.path / "statistics.json").read_bytes() == (base / "statistics.json").read_bytes()
    dataset.verify_hashes()


def test_the_manifest_of_the_new_version_knows_all(base: Path, tmp_path: Path) -> None:
    add_logs(tmp_path, "c")
    run(tmp_path, "1.1.0", append="1.0.0")
    manifest = json.loads((tmp_path / "data/x/1.1.0/manifest.json").read_text())
    assert manifest["appended_to"] == "1.0.0"
    assert sorted(entry["source_key"] for entry in manifest["episodes"]) == ["a.zarr", "b.zarr", "c.zarr"]
    assert [entry["source_key"] for entry in manifest["rejected"]] == ["bad.zarr"]
    assert run(tmp_path, "1.1.0", append="1.0.0")["already_done"]


def test_its_index_can_be_rebuilt(base: Path, tmp_path: Path) -> None:
    add_logs(tmp_path, "c")
    run(tmp_path, "1.1.0", append="1.0.0")
    folder = tmp_path / "data/x/1.1.0"
    before = {path.name: read_sidecar(path) for path in (folder / "index").iterdir()}
    rebuild_index(folder)
    assert {path.name: read_sidecar(path) for path in (folder / "index").iterdir()} == before


def test_a_new_robot_brings_its_own_statistics(base: Path, tmp_path: Path) -> None:
    add_logs(tmp_path, "dual", robot="ur5e_dual")
    run(tmp_path, "1.1.0", append="1.0.0")
    statistics = Dataset.open(tmp_path / "data/x/1.1.0").statistics
    assert sorted(statistics) == ["ur5e/joint_position/pi18/v1", "ur5e_dual/joint_position/pi18/v1"]
    assert statistics["ur5e/joint_position/pi18/v1"].n_episodes == 2


def test_a_camera_that_the_dataset_has_not_is_an_error(base: Path, tmp_path: Path) -> None:
    frames = np.zeros((10, 8, 8, 3), np.uint8)
    wrist = {"camera/left_wrist_0/timestamp_ns": np.arange(10) * 10**8, "camera/left_wrist_0/rgb": frames}
    add_logs(tmp_path, "c", **wrist)
    with pytest.raises(FailedWork, match="--append: expected cameras base_0_rgb, found left_wrist_0_rgb too"):
        run(tmp_path, "1.1.0", append="1.0.0")


def test_nothing_new_is_an_error(base: Path, tmp_path: Path) -> None:
    with pytest.raises(FailedWork, match="expected episodes that .*1.0.0 does not hold, found none"):
        run(tmp_path, "1.1.0", append="1.0.0")


@pytest.mark.parametrize("version", ["1.0.1", "2.0.0", "1.1.1", "0.9.0"])
def test_only_a_minor_version_may_follow(base: Path, tmp_path: Path, version: str) -> None:
    with pytest.raises(UsageError, match="expected --version 1.1.0"):
        run(tmp_path, version, append="1.0.0")


def test_a_split_that_is_new_begins_with_shard_0(base: Path, tmp_path: Path) -> None:
    add_logs(tmp_path, *"cdefgh")
    counts = run(tmp_path, "1.1.0", append="1.0.0", n_shards=1, val_fraction=0.5)
    splits = Dataset.open(tmp_path / "data/x/1.1.0").splits
    names = {split: [shard.shard.name for shard in shards] for split, shards in splits.items()}
    assert names == {
        "train": [f"x-train.tfrecord-{number:05d}-of-00003" for number in range(3)],
        "val": ["x-val.tfrecord-00000-of-00001"],
    }
    assert counts["episodes_out"] == 8


def write_session(path: Path, number: int) -> None:
    path.parent.mkdir(exist_ok=True)
    steps = np.arange(T)[:, None]
    write_aloha(path, action=(0.01 * np.sin(steps / 5 + np.arange(14) + number) * (np.arange(14) % 7 < 6)).astype("f4"))


def test_episodes_that_only_have_the_names_of_known_ones_are_not_taken_for_them(tmp_path: Path) -> None:
    """Every recording session has an episode_0.hdf5; the second one's would be left out unseen."""
    for session, number in (("one", 0), ("two", 1)):
        write_session(tmp_path / session / "episode_0.hdf5", number)
    write_session(tmp_path / "two" / "episode_1.hdf5", 2)
    options = {"adapter": get_adapter("aloha_hdf5"), "task": "fold", "n_shards": 1}
    run(tmp_path, "1.0.0", source=str(tmp_path / "one"), **options)
    with pytest.raises(FailedWork, match=r"two/episode_0.hdf5: episode .* has the name of one that .* took from .*one"):
        run(tmp_path, "1.1.0", source=str(tmp_path / "two"), append="1.0.0", **options)
    (tmp_path / "one").rename(tmp_path / "moved")
    (tmp_path / "two/episode_1.hdf5").rename(tmp_path / "moved/episode_1.hdf5")
    counts = run(tmp_path, "1.1.0", source=str(tmp_path / "moved"), append="1.0.0", **options)
    assert counts["episodes_out"] == 2
