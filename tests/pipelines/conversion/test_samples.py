"""The sample datasets, converted and read back by plain TFDS: values and pictures are the source's."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.contract.images import decode_jpeg
from pipelines.contract.slots import norm_key
from pipelines.conversion.contact_sheet import compare_frames, draw_sheet, main
from pipelines.conversion.launch import ConversionRequest, convert
from pipelines.mapping.adapters import get_adapter
from pipelines.shards.example_wire import parse_example
from pipelines.shards.statistics import load_statistics, unnormalize
from pipelines.shards.tfrecord import iter_records

pytestmark = pytest.mark.shared

SOURCES = {
    "bridge_rlds": ("data/real/bridge_rlds", "bridge_orig", ""),
    "bridge_raw": ("data/sim/bridge_raw", "bridge_raw", "ur5e"),
    "droid_raw": ("data/sim/droid_raw", "droid_raw", ""),
    "inhouse": ("data/sim/inhouse_zarr/ur5e", "inhouse_log", ""),
}
# Resizing and one more JPEG; a frame of another step or camera differs by 5 levels and more.
LEVELS = 2.0


@pytest.fixture(scope="module")
def converted(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Converts a sample once and returns its folder."""
    root = tmp_path_factory.mktemp("converted")

    def get(name: str) -> Path:
        folder = root / name / "1.0.0"
        if not folder.exists():
            source, adapter, robot = SOURCES[name]
            convert(
                ConversionRequest(
                    source=str(shared / source),
                    output_root=str(root),
                    name=name,
                    version="1.0.0",
                    adapter=get_adapter(adapter),
                    robot=robot,
                )
            )
        return folder

    return get


def read_with_tfds(folder: Path) -> dict[str, Mapping[str, Any]]:
    """Every episode by source_key, read by TFDS alone; its steps as one mapping of arrays."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(folder)
    episodes = {}
    for split in builder.info.splits:
        for episode in builder.as_dataset(split=split):
            metadata = tfds.as_numpy(episode["episode_metadata"])
            (steps,) = tfds.as_numpy(episode["steps"].batch(1000))
            episodes[metadata["source_key"].decode()] = metadata | {"steps": steps}
    return episodes


def test_all_of_bridge_is_kept_and_read_back(converted: Callable[[str], Path], shared: Path) -> None:
    folder = converted("bridge_rlds")
    statistics = load_statistics(folder / "statistics.json")[norm_key("widowx", "ee_delta")]
    episodes = read_with_tfds(folder)
    assert len(episodes) == 50
    for path in sorted((shared / SOURCES["bridge_rlds"][0]).rglob("*.tfrecord*")):
        for i, (_, payload) in enumerate(iter_records(path)):
            source = parse_example(payload)
            name, number = (source[f"episode_metadata/{key}"][0] for key in ("file_path", "episode_id"))
            # Both splits of this sample hold the same episodes, so their own names need the record to differ.
            stored = episodes[f"{name.decode()}#{number}#{path.name}#{i}"]
            for side, key in (("state", "steps/observation/state"), ("action", "steps/action")):
                expected = np.array(source[key]).reshape(10, 7)[1:].copy()  # The first step has a zero action.
                expected[:, 6] = 1 - expected[:, 6]
                steps = stored["steps"]["observation"] if side == "state" else stored["steps"]
                physical = steps[f"{side}_physical"]
                assert np.allclose(physical[:, :7], expected, atol=1e-7) and not physical[:, 7:].any()
                affine = getattr(statistics, side).affine("quantile")
                assert np.abs(unnormalize(steps[side], affine, stored[f"{side}_mask"]) - physical).max() < 1e-6
            assert stored["task"] == source["steps/language_instruction"][0]


def test_every_step_left_out_is_named(converted: Callable[[str], Path]) -> None:
    rows = pq.read_table(converted("bridge_rlds") / "rejects.parquet").to_pylist()
    assert len(rows) == 50
    assert {(row["level"], row["start"], row["end"], row["reason"]) for row in rows} == {
        ("steps", 0, 1, "first_step_zero_action")
    }


def test_stored_pictures_decode_to_those_that_tfds_shows(converted: Callable[[str], Path], shared: Path) -> None:
    folder = converted("bridge_raw")
    episode = read_with_tfds(folder)["sim/sim_tabletop1/lift_the_red_cube/00/2023-03-14_10-20-30/raw/traj_group0/traj0"]
    frame = episode["steps"]["observation"]["base_0_rgb"][9]
    source = decode_jpeg((Path(episode["source_uri"].decode()) / "images0/im_9.jpg").read_bytes())
    assert frame.shape == (224, 224, 3)
    assert max(frame[:24].max(), frame[-24:].max()) < 8  # 4:3 in a square: 28 black rows above and below.
    assert np.abs(frame[28:196:3, ::3].mean() - source.mean()) < 2


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_stored_frames_are_the_sources(converted: Callable[[str], Path], name: str) -> None:
    pairs = compare_frames(converted(name), n_episodes=2, n_frames=3)
    assert len(pairs) >= 6
    assert max(pair.mean_difference for pair in pairs) < LEVELS


def test_a_sheet_of_frames_can_be_looked_at(converted: Callable[[str], Path], tmp_path: Path) -> None:
    sheet = draw_sheet(compare_frames(converted("bridge_raw"), n_episodes=1, n_frames=3))
    assert sheet.shape == (472, 6 * 228, 3)
    assert main([str(converted("bridge_raw")), str(tmp_path / "sheet.png")]) == 0
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_the_manifest_tells_skew_and_lost_frames(converted: Callable[[str], Path]) -> None:
    manifest = json.loads((converted("inhouse") / "manifest.json").read_text())
    assert manifest["counts"]["episodes_out"] == 6
    notes = manifest["episodes"][0]["notes"]
    assert 0 <= notes["base_0_rgb/skew_ms_max"] < 100 and "base_0_rgb/n_lost" in notes


def test_failures_and_idle_steps_are_flagged(converted: Callable[[str], Path]) -> None:
    episodes = read_with_tfds(converted("droid_raw"))
    failed = episodes["SIM/failure/2024-05-16/Thu_May_16_14:02:03_2024"]
    assert failed["success"] == 0
    assert failed["steps"]["is_idle"].sum() >= 16


@pytest.mark.slow
def test_processes_write_the_same_bytes(converted: Callable[[str], Path], shared: Path, tmp_path: Path) -> None:
    source, adapter, _ = SOURCES["bridge_rlds"]
    flags = ("--runner=FnApiRunner", "--direct_num_workers=2", "--direct_running_mode=multi_processing")
    convert(
        ConversionRequest(
            source=str(shared / source),
            output_root=str(tmp_path),
            name="bridge_rlds",
            version="1.0.0",
            adapter=get_adapter(adapter),
            beam_flags=flags,
        )
    )
    folder, other = converted("bridge_rlds"), tmp_path / "bridge_rlds/1.0.0"
    for path in (path for path in folder.rglob("*") if path.is_file()):
        assert (other / path.relative_to(folder)).read_bytes() == path.read_bytes()
