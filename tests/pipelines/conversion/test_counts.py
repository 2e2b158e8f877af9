"""Counts that add up for every format: what was found is what was kept and what was rejected, each by name."""

import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.contract.native import NativeEpisode
from pipelines.conversion.launch import ConversionRequest, run_conversion
from pipelines.mapping.adapters import get_adapter
from pipelines.shards.dataset import Dataset
from pipelines.shards.manifest import Manifest
from pipelines.shards.stored_episodes import iter_stored
from pipelines.sources import rlds
from tests.support.inputs.hdf5_files import write_libero
from tests.support.inputs.native_files import bridge_features, write_rlds

# Per format: its sample, its entry, the robot, the file that is cut in half, and how many episodes there are.
SAMPLES: dict[str, tuple[str, str, str, str, int]] = {
    "rlds": ("data/real/bridge_rlds", "bridge_orig", "", "*train.tfrecord*", 50),
    "bridge": ("data/sim/bridge_raw", "bridge_raw", "ur5e", "policy_out.pkl", 3),
    "droid": ("data/sim/droid_raw", "droid_raw", "", "trajectory.h5", 3),
    "zarr": ("data/sim/inhouse_zarr/ur5e", "inhouse_log", "", "zarr.json", 6),
    "aloha": ("data/sim/aloha_hdf5", "aloha_hdf5", "", "*.hdf5", 2),
    "lerobot": ("data/real/gr1_lerobot_v2", "gr1_arms", "", "*.parquet", 5),
}


def convert_copy(source: Path, root: Path, adapter: str, robot: str) -> Manifest:
    request = ConversionRequest(
        source=str(source),
        output_root=str(root),
        name="x",
        version="1.0.0",
        adapter=get_adapter(adapter),
        robot=robot,
        n_workers=1,
    )
    manifest = run_conversion(request).manifest
    assert manifest is not None
    return manifest


@pytest.mark.shared
@pytest.mark.parametrize("name", SAMPLES)
def test_found_is_kept_and_rejected(name: str, shared: Path, tmp_path: Path) -> None:
    folder, adapter, robot, pattern, n_episodes = SAMPLES[name]
    source = tmp_path / "in"
    shutil.copytree(shared / folder, source)
    first = sorted(path for path in source.rglob(pattern) if path.is_file())[0]
    os.truncate(first, first.stat().st_size // 2)
    manifest = convert_copy(source, tmp_path / "out", adapter, robot)
    counts = manifest.counts
    rejects = pq.read_table(tmp_path / "out/x/1.0.0/rejects.parquet").to_pylist()
    assert counts.episodes_in >= n_episodes
    assert counts.episodes_in == counts.episodes_out + counts.episodes_rejected
    assert counts.episodes_out == len(manifest.episodes) == sum(shard.n_episodes for shard in manifest.shards)
    assert counts.episodes_rejected == len(manifest.rejected) >= 1
    assert counts.steps_dropped == sum(row["end"] - row["start"] for row in rejects if row["level"] == "steps")
    assert counts.rejects == Counter(row["reason"] for row in rejects)
    names = [entry.scan_key for entry in manifest.episodes] + [entry.source_key for entry in manifest.rejected]
    assert len(set(names)) == len(names)
    stored = [episode.episode_id for episode in iter_stored(Dataset.open(tmp_path / "out/x/1.0.0"))]
    assert [entry.episode_id for entry in manifest.episodes] == stored


def test_what_readers_inferred_is_counted_by_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = rlds.read

    def infer(located: Any, adapter: Any) -> NativeEpisode:
        native = read(located, adapter)
        number = int(located.reference.key.rsplit("#")[1])
        sentences = {"units": "joints read as percent"} | ({"rate": "5 Hz by the median step"} if number else {})
        return replace(native, inferred=sentences, notes={"time_error_s": 0.01 * number})

    monkeypatch.setattr(rlds, "read", infer)
    source = write_rlds(tmp_path / "in", {"train": [bridge_features(number) for number in range(3)]})
    manifest = convert_copy(source, tmp_path / "out", "bridge_orig", "")
    assert manifest.inferred == {"joints read as percent": 3, "5 Hz by the median step": 2}
    card = (tmp_path / "out/x/1.0.0/card.md").read_text()
    assert "| joints read as percent | 3 |" in card
    assert "| time_error_s | 0.02 | tiny-train.tfrecord-00000-of-00001#2 |" in card


def flipped_gripper(features: dict[str, Any]) -> dict[str, Any]:
    """The episode with fingers that open when they are commanded to close."""
    t = len(features["steps/is_first"])
    state = features["steps/observation/state"].reshape(t, 7).copy()
    action = features["steps/action"].reshape(t, 7).copy()
    action[:, 6] = [0.0] * (t // 4) + [1.0] * (t // 4) + [0.0] * (t // 4) + [1.0] * (t - 3 * (t // 4))
    state[1:, 6] = 1.0 - action[:-1, 6]
    return features | {"steps/observation/state": state.ravel(), "steps/action": action.ravel()}


@pytest.mark.parametrize(("change", "kinds"), [(flipped_gripper, ["gripper_polarity"]), (lambda f: f, [])])
def test_every_conversion_tests_the_polarity_of_its_grippers(
    tmp_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]], kinds: list[str]
) -> None:
    source = write_rlds(tmp_path / "in", {"train": [change(bridge_features(number, t=48)) for number in range(3)]})
    manifest = convert_copy(source, tmp_path / "out", "bridge_orig", "")
    assert [finding["kind"] for finding in manifest.findings] == kinds
    assert ("gripper_polarity" in (tmp_path / "out/x/1.0.0/card.md").read_text()) == bool(kinds)


def test_a_file_that_cannot_be_read_was_found_too(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_libero(tmp_path / "in/KITCHEN_demo.hdf5")
    (tmp_path / "in/a.hdf5").write_bytes(b"no HDF5")
    counts = convert_copy(tmp_path / "in", tmp_path / "out", "libero_hdf5", "").counts
    assert (counts.episodes_in, counts.episodes_out, counts.episodes_rejected) == (2, 1, 1)
