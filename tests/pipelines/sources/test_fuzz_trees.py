"""Hostile folders: one file of a source is damaged, and the reader reads on or says why not, as a worker would."""

import json
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcap.writer import CompressionType

from pipelines.contract.errors import EmbodimixError, FailedWork
from pipelines.contract.images import to_jpeg
from pipelines.contract.native import Rejected
from pipelines.contract.slots import CAMERAS
from pipelines.conversion.launch import ConversionRequest, find_episodes
from pipelines.conversion.plan import Job
from pipelines.conversion.read_episode import read_episode
from pipelines.conversion.used_entries import robots_for
from pipelines.mapping.adapters import Adapter, get_adapter
from pipelines.mapping.formats import list_formats
from tests.pipelines.sources.test_bag import entry as bag_entry
from tests.pipelines.sources.test_bridge import TRAJECTORY
from tests.pipelines.sources.test_dp import write_buffer
from tests.pipelines.sources.test_droid import EPISODE
from tests.pipelines.sources.test_fuzz import damage, damaged
from tests.pipelines.sources.test_hdf5 import entry as hdf5_entry
from tests.pipelines.sources.test_hdf5 import write as write_hdf5
from tests.pipelines.sources.test_lerobot import write_v2, write_v3
from tests.pipelines.sources.test_zarr import write_log
from tests.support.inputs.bag_writers import demonstration, write_mcap, write_ros1, write_rosbag2
from tests.support.inputs.fuzzing import fuzzing
from tests.support.inputs.hdf5_files import write_aloha
from tests.support.inputs.native_files import bridge_features, write_rlds

QUICK = fuzzing(20)
GROWTH_MB = 600
ADAPTERS: dict[str, str | Adapter] = {
    "zarr": "inhouse_log",
    "dp": "dp_replay",
    "dp_zip": "dp_replay",
    "aloha": "aloha_hdf5",
    "rlds": "bridge_orig",
    "lerobot_v2": "lerobot_aloha",
    "lerobot_v3": "lerobot_aloha",
    "robomimic": "robomimic",
    "droid": "droid_raw",
    "bridge": "bridge_raw",
    "hdf5": hdf5_entry(),
    "bag_mcap": bag_entry(),
    "bag_sqlite": bag_entry(),
    "bag_ros1": bag_entry(),
    "bag_open": bag_entry(bag={"stamp": "log", "episodes": {"by": "markers", "topic": "/task"}}),
    "bag_markers": bag_entry(bag={"stamp": "log", "episodes": {"by": "markers", "topic": "/task"}}),
}


def adapter_of(name: str) -> Adapter:
    """The entry of a source: a shipped one, or, of formats where each robot has its own, one of a test."""
    entry = ADAPTERS[name]
    return get_adapter(entry) if isinstance(entry, str) else entry


def write_robomimic(path: Path) -> Path:
    path.mkdir()
    with h5py.File(path / "demos.hdf5", "w") as file:
        for name in ("demo_0", "demo_1"):
            group = file.create_group(f"data/{name}")
            group["actions"] = np.zeros((4, 7))
            group["obs/robot0_eef_pos"] = np.zeros((4, 3))
            group["obs/robot0_eef_quat"] = np.tile([0, 0, 0, 1.0], (4, 1))
            group["obs/robot0_gripper_qpos"] = np.zeros((4, 2))
            group["obs/agentview_image"] = np.zeros((4, 8, 8, 3), np.uint8)
    return path


def copy_droid(path: Path, shared: Path) -> Path:
    source = shared / "data/sim/droid_raw"
    shutil.copytree(source / EPISODE, path / EPISODE, copy_function=shutil.copyfile)
    shutil.copyfile(source / "aggregated-annotations-sim.json", path / "aggregated-annotations-sim.json")
    return path


def copy_bridge(path: Path, shared: Path) -> Path:
    source = shared / "data/sim/bridge_raw" / TRAJECTORY
    shutil.copytree(source, path / TRAJECTORY, copy_function=shutil.copyfile)
    shutil.copyfile(source.parents[2] / "config.json", (path / TRAJECTORY).parents[2] / "config.json")
    return path


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> dict[str, Path]:
    """A small source of every format that is a folder of files."""
    root = tmp_path_factory.mktemp("sources")
    writers: dict[str, Callable[[Path], Path]] = {
        "zarr": lambda path: write_log(path / "ur5e/lift/a.zarr").parents[2],
        "dp": lambda path: write_dp(path),
        "dp_zip": write_dp_zip,
        "aloha": lambda path: write_aloha_folder(path),
        "rlds": lambda path: write_rlds(path, {"train": [bridge_features(0), bridge_features(1)]}),
        "lerobot_v2": write_v2,
        "lerobot_v3": write_v3,
        "robomimic": write_robomimic,
        "droid": lambda path: copy_droid(path, shared),
        "bridge": lambda path: copy_bridge(path, shared),
        "hdf5": lambda path: write_hdf5(path / "a.h5").parent,
        "bag_mcap": lambda path: write_mcap(path / "a.mcap", demonstration()).parent,
        "bag_sqlite": lambda path: write_rosbag2(path / "a", demonstration()).parent,
        "bag_ros1": lambda path: write_ros1(path / "a.bag", demonstration(), "lz4").parent,
        "bag_open": lambda path: write_mcap(path / "a.mcap", demonstration(), close=False, use_chunking=False).parent,
        "bag_markers": lambda path: write_mcap(path / "a.mcap", demonstration(), CompressionType.LZ4).parent,
    }
    return {name: write(root / name) for name, write in writers.items()}


def write_dp(path: Path) -> Path:
    write_buffer(path / "a.zarr")
    return path


def write_dp_zip(path: Path) -> Path:
    write_buffer(path / "a.zarr")
    shutil.make_archive(str(path / "a.zarr"), "zip", path / "a.zarr")
    shutil.rmtree(path / "a.zarr")
    return path


def write_aloha_folder(path: Path) -> Path:
    path.mkdir()
    write_aloha(path / "episode_0.hdf5")
    write_aloha(path / "episode_1.hdf5")
    return path


def test_every_format_that_conversion_reads_is_damaged_here() -> None:
    assert {adapter_of(name).format for name in ADAPTERS} == set(list_formats())


def read_all(source: Path, name: str) -> tuple[int, list[str]]:
    """Reads every episode as a worker does; returns how many were read whole and what was said of the others."""
    adapter = adapter_of(name)
    conversion = ConversionRequest(source=str(source), output_root="out", name="x", version="1.0.0", adapter=adapter)
    robots = robots_for(adapter, "")
    job = Job(directory="out", name="x", version="1.0.0", adapter=adapter, task="lift", robots=robots)
    try:
        found = find_episodes(conversion)
    except EmbodimixError as error:
        return 0, [str(error)]
    said, whole = [reject.detail for reject in found.rejects], 0
    for located in found.episodes:
        try:
            episode = read_episode(job, located, CAMERAS)
            for frames in episode.images.values():
                for frame in frames:
                    to_jpeg(frame)
            whole += 1
        except (Rejected, FailedWork) as error:
            said.append(str(error))
    return whole, said


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.fixture
def steady_memory() -> Iterator[None]:
    """No file of some kilobytes may make a reader take hundreds of megabytes."""
    before = peak_mb()
    yield
    assert peak_mb() - before < GROWTH_MB


@pytest.mark.shared
@pytest.mark.parametrize("name", ADAPTERS)
def test_the_sources_are_read_whole_when_nothing_is_damaged(sources: dict[str, Path], name: str) -> None:
    whole, said = read_all(sources[name], name)
    assert whole >= 1 and said == []


@pytest.mark.shared
@pytest.mark.parametrize("name", ADAPTERS)
@given(file=st.floats(0, 1, exclude_max=True), how=damage)
@QUICK
def test_a_damaged_file_is_read_or_named(
    sources: dict[str, Path], steady_memory: None, name: str, file: float, how: tuple
) -> None:
    files = sorted(path for path in sources[name].rglob("*") if path.is_file())
    path = files[int(file * len(files))]
    intact = path.read_bytes()
    try:
        path.write_bytes(damaged(intact, how) if intact else b"\0")
        whole, said = read_all(sources[name], name)
        assert all(said) and (whole or said)
    finally:
        path.write_bytes(intact)


def edit_json(path: Path, *keys: Any, value: Any) -> bytes:
    content = json.loads(path.read_text())
    part = content
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    return json.dumps(content).encode()


RGB = "ur5e/lift/a.zarr/camera/base_0/rgb/zarr.json"
JOINTS = "ur5e/lift/a.zarr/joints/position/zarr.json"
HOSTILE = {
    "a picture array of a million frames": ("zarr", RGB, ("shape",), [10**6, 8, 8, 3]),
    "pictures of a terabyte": ("zarr", RGB, ("shape",), [10, 10**6, 10**6, 3]),
    "a gigabyte of joints": ("zarr", JOINTS, ("shape",), [10**8, 6]),
    "a billion steps a second": ("zarr", "ur5e/lift/a.zarr/zarr.json", ("attributes", "control_hz"), 1e9),
    "a chunk of a terabyte": ("zarr", RGB, ("chunk_grid", "configuration", "chunk_shape"), [4, 10**6, 10**5, 3]),
    "joints without end": ("zarr", JOINTS, ("shape",), [10**12, 6]),
    "no joints at all": ("zarr", JOINTS, ("shape",), [50, 0]),
    "a negative shape": ("zarr", JOINTS, ("shape",), [-50, 6]),
    "a replay buffer without end": ("dp", "a.zarr/data/state/.zarray", ("shape",), [10**12, 7]),
    "a chunk of a replay buffer without end": ("dp", "a.zarr/data/img/.zarray", ("chunks",), [10**4, 10**5, 10**4, 3]),
    "fps of nothing": ("lerobot_v2", "meta/info.json", ("fps",), 0),
    "fps that is no number": ("lerobot_v2", "meta/info.json", ("fps",), "fast"),
    "features that are a list": ("lerobot_v2", "meta/info.json", ("features",), [1, 2]),
    "a path that leads outside": ("lerobot_v2", "meta/info.json", ("data_path",), "../../../../etc/passwd"),
    "info that is a list": ("lerobot_v3", "meta/info.json", ("splits",), {"train": "5:-5"}),
}


@pytest.mark.shared
@pytest.mark.parametrize(("name", "file", "keys", "value"), HOSTILE.values(), ids=HOSTILE)
def test_a_file_that_lies_about_sizes_is_no_blow_up(
    sources: dict[str, Path], steady_memory: None, name: str, file: str, keys: tuple, value: Any
) -> None:
    path = sources[name] / file
    intact = path.read_bytes()
    try:
        path.write_bytes(edit_json(path, *keys, value=value))
        whole, said = read_all(sources[name], name)
        assert all(said) and (whole or said)
    finally:
        path.write_bytes(intact)
