"""Chunks that a writer left out because they hold zeros: refused, or read so where the user says it."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import tensorflow_datasets as tfds
import zarr

from pipelines.contract.errors import FailedWork, UsageError
from pipelines.conversion.launch import ConversionRequest, run_conversion
from pipelines.mapping.adapters import Adapter, get_adapter, with_sparse_chunks

T = 40
SENTENCE = "chunks that are not stored, if any, are read as their fill value (zeros), says --sparse-chunks"


def write_log(path: Path) -> None:
    """An in-house log of a UR5e whose gripper is open all the time, as zarr-python 3 writes it by default."""
    group = zarr.open_group(path, mode="w")
    attributes = {"schema": "inhouse_log/v1", "robot": "ur5e", "task": "wipe the table", "control_hz": 20.0}
    group.attrs.update(attributes | {"cameras": {"base_0": {}}})
    stamps = np.arange(T, dtype=np.int64) * 50_000_000 + 1
    joints = np.linspace(0.1, 0.5, T)[:, None] + np.arange(6) * 0.1
    arrays = {"joints/position": joints, "gripper/position": np.zeros((T, 1)), "command/gripper": np.zeros((T, 1))}
    arrays |= {"command/joint_position": joints + 0.01}
    arrays |= {f"{name}/timestamp_ns": stamps for name in ("joints", "gripper", "command", "camera/base_0")}
    arrays["camera/base_0/rgb"] = np.full((T, 16, 16, 3), 90, np.uint8)
    for key, value in arrays.items():
        group.create_array(key, data=value, chunks=(10, *value.shape[1:]))


def request(tmp_path: Path, source: Path, adapter: Adapter) -> ConversionRequest:
    return ConversionRequest(
        source=str(source), output_root=str(tmp_path / "out"), name="a", version="1.0.0", adapter=adapter, n_workers=1
    )


def first_steps(directory: Path) -> list[dict[str, np.ndarray]]:
    (episode,) = tfds.builder_from_directory(directory).as_dataset(split="train")
    return list(episode["steps"].as_numpy_iterator())


def test_a_gripper_that_is_always_open_is_read_where_the_user_declares_sparse_chunks(tmp_path: Path) -> None:
    write_log(tmp_path / "in" / "ur5e" / "wipe" / "e.zarr")
    usual = get_adapter("inhouse_log")
    with pytest.raises(FailedWork, match="give --sparse-chunks"):
        run_conversion(request(tmp_path / "x", tmp_path / "in", usual))
    outcome = run_conversion(request(tmp_path, tmp_path / "in", with_sparse_chunks(usual)))
    assert outcome.manifest is not None and outcome.manifest.inferred[SENTENCE] == 1
    directory = tmp_path / "out/a/1.0.0"
    assert json.loads((directory / "manifest.json").read_text())["adapter"]["sparse_chunks"] is True
    assert SENTENCE in (directory / "card.md").read_text()
    steps = first_steps(directory)
    assert {float(step["observation"]["state_physical"][6]) for step in steps} == {0.0}
    assert steps[0]["observation"]["state_physical"][:3].tolist() == pytest.approx([0.1, 0.2, 0.3], abs=1e-6)


def test_an_hdf5_file_is_read_so_too(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with h5py.File(tmp_path / "in/episode_0.hdf5", "w") as file:
        joints = np.tile(np.linspace(0.1, 0.3, T)[:, None], (1, 14))
        file["action"] = joints
        qpos = file.create_dataset("observations/qpos", (T, 14), "f8", chunks=(10, 14))
        qpos[10:] = joints[10:]
        file["observations/images/cam_high"] = np.full((T, 16, 16, 3), 90, np.uint8)
    usual = get_adapter("aloha_hdf5")
    with pytest.raises(FailedWork, match="give --sparse-chunks"):
        run_conversion(request(tmp_path / "x", tmp_path / "in", usual))
    run_conversion(request(tmp_path, tmp_path / "in", with_sparse_chunks(usual)))
    steps = first_steps(tmp_path / "out/a/1.0.0")
    found = [round(float(step["observation"]["state_physical"][0]), 4) for step in steps]
    assert found == [0.0] * 10 + [round(x, 4) for x in np.linspace(0.1, 0.3, T)[10:].tolist()]


def test_formats_without_chunks_refuse_the_option() -> None:
    with pytest.raises(UsageError, match="--sparse-chunks: expected a format that stores chunks .*, found rlds"):
        with_sparse_chunks(get_adapter("bridge_orig"))
