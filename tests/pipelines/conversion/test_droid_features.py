"""`--compat droid`: DROID's own features beside the slots, read by TFDS, by us, and by openpi's loader.

EMBODIMIX_RLDS_CHECKOUTS: a folder of checkouts named openpi and dlimp; without it, openpi's loader is left out.
"""

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from annotation_tools.merge import bake
from pipelines.contract.droid import VECTORS
from pipelines.contract.errors import UsageError
from pipelines.contract.images import decode_image
from pipelines.contract.native import NativeEpisode, Rejected
from pipelines.conversion.launch import ConversionRequest, convert
from pipelines.mapping.adapters import get_adapter
from pipelines.mapping.droid_features import droid_features
from pipelines.shards.dataset import Dataset
from pipelines.shards.rebuild import rebuild_index
from pipelines.shards.stored_episodes import StoredEpisode, iter_stored
from pipelines.sources import droid
from tests.support.checkout import ROOT
from trainers.main import main

pytestmark = pytest.mark.shared
CHECKOUTS = os.environ.get("EMBODIMIX_RLDS_CHECKOUTS", "")
PUBLISHED = "gs://xembodiment_data/r2d2/r2d2-data-full/"


def converted(root: Path, source: Path, format: str, adapter: str, **changes: Any) -> Path:
    entry = replace(get_adapter(adapter), compat=changes.pop("compat", "droid"))
    request = ConversionRequest(source=str(source), output_root=str(root), name=format, version="1.0.1", adapter=entry)
    convert(replace(request, **changes))
    return root / format / request.version


@pytest.fixture(scope="module")
def folder(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The raw sample with DROID's own features."""
    return converted(tmp_path_factory.mktemp("droid"), shared / "data/sim/droid_raw", "droid", "droid_raw")


@pytest.fixture(scope="module")
def plain(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without them."""
    root = tmp_path_factory.mktemp("plain")
    return converted(root, shared / "data/sim/droid_raw", "droid", "droid_raw", compat="")


def read_steps(folder: Path) -> dict[str, dict[str, Any]]:
    """Every episode by source_key, as plain TFDS yields it: its metadata, and its steps as one tree of arrays."""
    tfds = pytest.importorskip("tensorflow_datasets")
    episodes = {}
    for episode in tfds.builder_from_directory(folder).as_dataset(split="train"):
        metadata = tfds.as_numpy(episode["episode_metadata"])
        (steps,) = tfds.as_numpy(episode["steps"].batch(1000))
        episodes[metadata["source_key"].decode()] = {"metadata": metadata, "steps": steps}
    return episodes


def feature(steps: dict[str, Any], name: str) -> Any:
    group, key = name.split("/")
    return steps[group][key]


def test_vectors_paths_and_three_instructions_are_droids(folder: Path, shared: Path) -> None:
    episodes = read_steps(folder)
    assert len(episodes) == 3
    annotations = json.loads((shared / "data/sim/droid_raw/aggregated-annotations-sim.json").read_text())
    texts = {tuple(entry[f"language_instruction{i}"] for i in (1, 2, 3)) for entry in annotations.values()}
    for key, episode in episodes.items():
        steps = episode["steps"]
        with h5py.File(shared / "data/sim/droid_raw" / key / "trajectory.h5") as file:
            for name in VECTORS:
                raw = name.replace("action_dict/", "action/").replace("observation/", "observation/robot_state/")
                raw = raw.replace("robot_state/joint_position", "robot_state/joint_positions")
                stored = feature(steps, name)
                assert stored.dtype == np.float64 and stored.shape == (len(stored), VECTORS[name])
                np.testing.assert_array_equal(stored, np.float32(file[raw][:]).reshape(stored.shape))
        assert episode["metadata"]["file_path"].decode() == f"{PUBLISHED}{key}/trajectory.h5"
        assert episode["metadata"]["recording_folderpath"].decode() == f"{PUBLISHED}{key}/recordings/MP4"
        names = ("language_instruction", "language_instruction_2", "language_instruction_3")
        said = tuple(set(steps[name].tolist()) for name in names)
        if "/success/" in key:
            assert tuple(one.pop().decode() for one in said) in texts


def test_our_readers_find_the_same_as_without(folder: Path, plain: Path) -> None:
    with_them, without = Dataset.open(folder), Dataset.open(plain)
    assert with_them.is_droid and not without.is_droid
    assert with_them.cameras == without.cameras == ("base_0_rgb", "left_wrist_0_rgb")
    ours, theirs = ({one.episode_id: one for one in iter_stored(dataset)} for dataset in (with_them, without))
    assert ours.keys() == theirs.keys()
    for name, episode in ours.items():
        np.testing.assert_array_equal(episode.action, theirs[name].action)
        for camera in with_them.cameras:
            steps = range(episode.n_steps)
            assert episode.read_pictures(camera, steps) == theirs[name].read_pictures(camera, steps)


def test_the_index_is_rebuilt_byte_for_byte_and_survives_a_merge(folder: Path, tmp_path: Path) -> None:
    sidecars = sorted((folder / "index").iterdir())
    before = [path.read_bytes() for path in sidecars]
    list(rebuild_index(folder))
    assert [path.read_bytes() for path in sidecars] == before
    bake(Dataset.open(folder), [], tmp_path / "merged" / "1.1.0", "1.1.0")
    merged = read_steps(tmp_path / "merged" / "1.1.0")
    for key, episode in read_steps(folder).items():
        for name in ("observation/exterior_image_2_left", "observation/wrist_image_left", *VECTORS):
            np.testing.assert_array_equal(feature(merged[key]["steps"], name), feature(episode["steps"], name))


def test_droids_own_rlds_passes_its_features_on(folder: Path, tmp_path: Path) -> None:
    again = converted(tmp_path, folder, "rlds", "droid")
    first, second = read_steps(folder), read_steps(again)
    assert {episode["metadata"]["file_path"] for episode in first.values()} == {
        episode["metadata"]["file_path"] for episode in second.values()
    }
    for episode in second.values():
        path = episode["metadata"]["file_path"].decode()
        original = first[path.removeprefix(PUBLISHED).removesuffix("/trajectory.h5")]
        for name in VECTORS:
            np.testing.assert_array_equal(feature(episode["steps"], name), feature(original["steps"], name))


def test_another_form_cannot_be_appended_to(folder: Path, shared: Path) -> None:
    root = folder.parent.parent
    with pytest.raises(UsageError, match="expected --compat as that version was made"):
        converted(root, shared / "data/sim/droid_raw", "droid", "droid_raw", compat="", version="1.1.0", append="1.0.1")


def native(shared: Path) -> NativeEpisode:
    adapter = get_adapter("droid_raw")
    return droid.read(droid.find(str(shared / "data/sim/droid_raw"), adapter).episodes[0], adapter)


def test_the_first_exterior_camera_stands_in_for_a_missing_second_one(shared: Path) -> None:
    episode = native(shared)
    frames = {name: view for name, view in episode.frames.items() if name != "exterior_2"}
    assert droid_features(episode, "droid").second_exterior is episode.frames["exterior_2"]
    assert droid_features(replace(episode, frames=frames), "droid").second_exterior is frames["exterior_1"]
    with pytest.raises(Rejected, match="exterior_2 or exterior_1, found neither"):
        droid_features(replace(episode, frames={"wrist": frames["wrist"]}), "droid")


def test_what_is_not_droid_is_refused(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["aloha", str(shared / "data/sim/aloha_hdf5"), str(tmp_path), "--name", "a", "--version", "1.0.0"]
    assert main(["convert", *arguments, "--compat", "droid"]) == 2
    assert "--compat droid: expected DROID's raw folders or its RLDS" in capsys.readouterr().err
    episode = native(shared)
    arrays = {key: array for key, array in episode.arrays.items() if key != "action/joint_velocity"}
    with pytest.raises(Rejected, match="expected action/joint_velocity; found"):
        droid_features(replace(episode, arrays=arrays), "droid")
    with pytest.raises(Rejected, match="expected episode_metadata/file_path, found none"):
        droid_features(replace(episode, paths={}), "droid")


def run_openpi(folder: Path, out: Path, space: str, steps: str = "-") -> dict[str, Any]:
    script = [
        sys.executable,
        str(ROOT / "tests/support/foreign/foreign_openpi_droid.py"),
        CHECKOUTS,
        str(folder.parent.parent),
    ]
    done = subprocess.run(
        [*script, folder.parent.name, folder.name, space, steps, str(out)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = pickle.loads(out.read_bytes())
    return found


def step_id(episode: StoredEpisode, step: int) -> str:
    where = f"{PUBLISHED}{episode.source_key}"
    return f"{where}/recordings/MP4--{where}/trajectory.h5--{step}"


@pytest.mark.slow
@pytest.mark.skipif(not CHECKOUTS, reason="EMBODIMIX_RLDS_CHECKOUTS unset")
def test_openpis_loader_reads_equal_vectors_pictures_and_prompts(folder: Path, shared: Path, tmp_path: Path) -> None:
    found = run_openpi(folder, tmp_path / "out.pickle", "JOINT_POSITION")
    episodes = [one for one in iter_stored(Dataset.open(folder)) if one.success == 1]
    assert set(found["prompts"]) == {step_id(one, step) for one in episodes for step in range(one.n_steps)}
    pictures: dict[str, list[Any]] = {}
    for (name, _), frame in found["frames"].items():
        pictures.setdefault(name, []).append(frame)
    second = {key: one["steps"]["observation"]["exterior_image_2_left"] for key, one in read_steps(folder).items()}
    for episode in episodes:
        first, wrist = (
            episode.read_pictures(camera, range(episode.n_steps)) for camera in ("base_0_rgb", "left_wrist_0_rgb")
        )
        for step in range(episode.n_steps):
            name = step_id(episode, step)
            assert found["prompts"][name] == set(episode.language) and len(episode.language) == 3
            chunk = np.minimum(step + np.arange(4), episode.n_steps - 1)
            exteriors = [decode_image(first[step]).astype(int), second[episode.source_key][step].astype(int)]
            assert len(pictures[name]) == 2
            for frame in pictures[name]:
                np.testing.assert_array_equal(frame["actions"], episode.action[chunk, :8])
                np.testing.assert_array_equal(frame["observation"]["joint_position"], episode.state[step, :7])
                np.testing.assert_array_equal(frame["observation"]["gripper_position"], episode.state[step, 7:8])
                # TensorFlow decodes by a faster and less exact method.
                seen = frame["observation"]["image"]
                assert min(np.abs(seen - exterior).mean() for exterior in exteriors) < 1.5
                assert np.abs(frame["observation"]["wrist_image"] - decode_image(wrist[step]).astype(int)).mean() < 1.5


@pytest.mark.slow
@pytest.mark.skipif(not CHECKOUTS, reason="EMBODIMIX_RLDS_CHECKOUTS unset")
def test_openpis_lists_of_steps_and_joint_velocities(folder: Path, shared: Path, tmp_path: Path) -> None:
    episode = next(one for one in iter_stored(Dataset.open(folder)) if one.success == 1)
    (tmp_path / "steps.json").write_text(json.dumps({step_id(episode, 0).removesuffix("--0"): [[3, 6], [10, 11]]}))
    found = run_openpi(folder, tmp_path / "out.pickle", "JOINT_VELOCITY", str(tmp_path / "steps.json"))
    assert set(found["prompts"]) == {step_id(episode, step) for step in (3, 4, 5, 10)}
    with h5py.File(shared / "data/sim/droid_raw" / episode.source_key / "trajectory.h5") as file:
        velocity = np.float32(file["action/joint_velocity"][:])
    for (name, _), frame in found["frames"].items():
        step = int(name.rpartition("--")[2])
        np.testing.assert_array_equal(frame["actions"][:, :7], velocity[step : step + 4])
