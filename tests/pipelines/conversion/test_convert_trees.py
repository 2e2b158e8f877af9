"""Whole conversions of HDF5 files, zarr stores and folders as people have them: one bad input loses nothing else."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.contract.images import decode_jpeg
from pipelines.contract.slots import CAMERAS
from pipelines.shards.dataset import Dataset
from pipelines.shards.stored_episodes import StoredEpisode, iter_stored
from tests.pipelines.sources.test_dp import write_buffer
from tests.pipelines.sources.test_zarr import write_log
from tests.support.inputs.hdf5_files import T, jpeg, padded, write_aloha, write_libero, write_robomimic
from trainers.main import main

FACTS = ("--name", "a", "--version", "1.0.0", "--workers", "1")


def convert(tmp_path: Path, format: str, *options: str, exit_code: int = 0) -> Path:
    """Runs the command on `in`; returns the dataset's folder."""
    source, root = tmp_path / "in", tmp_path / "out"
    assert main(["convert", format, str(source), str(root), *FACTS, *options]) == exit_code
    return root / "a/1.0.0"


def episodes(folder: Path) -> dict[str, StoredEpisode]:
    return {stored.source_key: stored for stored in iter_stored(Dataset.open(folder))}


def rejects(folder: Path) -> list[tuple[str, str]]:
    rows = pq.read_table(folder / "rejects.parquet").to_pylist()
    return sorted((row["source_key"], row["reason"]) for row in rows if row["level"] == "episode")


def middle(stored: StoredEpisode, camera: str = CAMERAS[0], step: int = 2) -> list[int]:
    """The colour at the centre of one picture."""
    return [int(value) for value in decode_jpeg(stored.read_pictures(camera, [step])[0])[112, 112]]


def test_colours_are_turned_back_by_an_option(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    coded = [jpeg(np.tile(np.array([30, 40, 220], np.uint8), (64, 64, 1)))] * T
    changes = {"observations/images/cam_high": padded(coded, 2 * len(coded[0]))}
    write_aloha(tmp_path / "in/episode_0.hdf5", **changes)
    folder = convert(tmp_path, "aloha", "--task", "x", "--channels", "bgr")
    assert middle(episodes(folder)["episode_0.hdf5"]) == pytest.approx([220, 40, 30], abs=4)
    adapter = json.loads((folder / "manifest.json").read_text())["adapter"]
    assert adapter["camera_forms"]["base_0_rgb"]["channels"] == "bgr"


def test_a_libero_file_becomes_a_dataset_that_is_upright(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_libero(tmp_path / "in/KITCHEN_demo.hdf5")
    folder = convert(tmp_path, "robomimic", "--adapter", "libero_hdf5")
    stored = episodes(folder)["KITCHEN_demo.hdf5#demo_0"]
    pixels = decode_jpeg(stored.read_pictures("base_0_rgb", [1])[0])
    assert pixels[20, 112].tolist() == pytest.approx([220, 30, 30], abs=6)
    assert pixels[200, 200].tolist() == pytest.approx([60, 60, 60], abs=6)
    assert stored.task == "open the drawer"


@pytest.mark.shared
def test_a_relabelled_conversion_says_so(tmp_path: Path, shared: Path) -> None:
    source = shared / "data/sim/bridge_raw/sim/sim_tabletop1"
    shutil.copytree(source, tmp_path / "in", copy_function=shutil.copyfile)
    folder = convert(tmp_path, "bridge", "--relabel", "reached_states")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["adapter"]["relabel"] == "reached_states"
    assert manifest["counts"]["rejects"] == {"no_reached_state": manifest["counts"]["episodes_out"]}
    for stored in episodes(folder).values():
        moved = np.diff(stored.state[:, :3], axis=0)
        assert stored.action[:-1, :3] == pytest.approx(moved, abs=1e-6)


def spoil_robomimic(source: Path) -> dict[str, str]:
    write_robomimic(source / "a.hdf5")
    (source / "b.hdf5").write_bytes(b"no HDF5")
    os.mkfifo(source / "c.hdf5")
    (source / "d.hdf5").symlink_to("/dev/zero")
    (source / "e.hdf5").symlink_to(source / "gone")
    (source / os.fsdecode(b"caf\xe9.hdf5")).write_bytes(b"x")
    (source / "loop").symlink_to(source)
    with h5py.File(source / "a.hdf5", "a") as file:
        del file["data/demo_1/obs/robot0_eef_pos"]
        sparse = file["data/demo_1/obs"].create_dataset("robot0_eef_pos", (T, 3), "f8", chunks=(2, 3))
        sparse[:2] = 0.1
    return {
        "a.hdf5#demo_1": "missing_chunk",
        "b.hdf5": "unreadable_hdf5",
        "c.hdf5": "unsafe_file",
        "d.hdf5": "unsafe_file",
        "e.hdf5": "missing_file",
        "caf\\udce9.hdf5": "bad_name",
        "loop": "link_loop",
    }


def spoil_zarr(source: Path) -> dict[str, str]:
    write_log(source / "ur5e/lift/a.zarr")
    for name in "bcdefgh":
        write_log(source / f"ur5e/lift/{name}.zarr")
    (source / "ur5e/lift/b.zarr/joints/position/c/0/0").unlink()
    (source / "ur5e/lift/c.zarr/camera/base_0/rgb/c/1/0/0/0").unlink()
    (source / "ur5e/lift/d.zarr/zarr.json").unlink()
    (source / "ur5e/lift/g.zarr/joints/position/c/0/0").unlink()
    os.mkfifo(source / "ur5e/lift/g.zarr/joints/position/c/0/0")
    (source / "ur5e/lift/h.zarr/camera/base_0/rgb/c/0/0/0/0").unlink()
    (source / "ur5e/lift/h.zarr/camera/base_0/rgb/c/0/0/0/0").mkdir()
    attributes = json.loads((source / "ur5e/lift/e.zarr/zarr.json").read_text())
    attributes["attributes"]["robot"] = "ur5e \ud800"
    (source / "ur5e/lift/e.zarr/zarr.json").write_text(json.dumps(attributes))
    attributes["attributes"] |= {"robot": "ur5e", "success": "perhaps"}
    (source / "ur5e/lift/f.zarr/zarr.json").write_text(json.dumps(attributes))
    return {
        "ur5e/lift/b.zarr": "missing_chunk",
        "ur5e/lift/c.zarr": "missing_chunk",
        "ur5e/lift/d.zarr": "missing_file",
        "ur5e/lift/e.zarr": "unknown_robot",
        "ur5e/lift/f.zarr": "foreign_flag",
        "ur5e/lift/g.zarr": "unsafe_file",
        "ur5e/lift/h.zarr": "unsafe_file",
    }


def spoil_dp(source: Path) -> dict[str, str]:
    write_buffer(source / "a.zarr", chunks=1)
    (source / "a.zarr/data/img/4.0.0.0").unlink()
    write_buffer(source / "b.zarr", ends=[3, 6])
    (source / "c.zarr").mkdir()
    return {"a.zarr#1": "missing_chunk", "b.zarr#rest": "unlisted", "c.zarr": "unreadable_zarr"}


SPOILT: dict[str, Any] = {"robomimic": (spoil_robomimic, 1), "zarr": (spoil_zarr, 1), "dp": (spoil_dp, 3)}


@pytest.mark.parametrize("format", SPOILT)
def test_every_loss_is_a_reject_and_stops_nothing(tmp_path: Path, format: str) -> None:
    (tmp_path / "in").mkdir()
    spoil, n_kept = SPOILT[format]
    lost = spoil(tmp_path / "in")
    folder = convert(tmp_path, format, *(("--task", "push") if format == "dp" else ()))
    assert rejects(folder) == sorted(lost.items())
    counts = json.loads((folder / "manifest.json").read_text())["counts"]
    assert (counts["episodes_out"], counts["episodes_in"]) == (n_kept, n_kept + len(lost))
    assert len(episodes(folder)) == n_kept


def test_one_task_for_two_is_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_log(tmp_path / "in/ur5e/lift/a.zarr", attrs={"task": "lift the cube"})
    write_log(tmp_path / "in/ur5e/stack/a.zarr", attrs={"task": "stack the cube"})
    convert(tmp_path, "zarr", "--task", "move", exit_code=2)
    assert "expected an input of one task, found 2 ('lift the cube', 'stack the cube')" in capsys.readouterr().err
