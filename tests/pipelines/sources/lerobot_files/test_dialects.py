"""LeRobot datasets as others write them: other keys, parts by GR00T's names, cameras of two kinds, tables alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.contract.embodiments import get_embodiment
from pipelines.contract.errors import FailedWork, UsageError
from pipelines.contract.native import NativeEpisode, Rejected
from pipelines.mapping.adapters import Adapter, get_adapter, parse_adapter
from pipelines.mapping.to_slots import to_episode
from pipelines.sources.lerobot import explain_misfit, find, read
from tests.pipelines.sources.lerobot_files.test_tables import picture, with_pictures
from tests.support.inputs.lerobot_writer import CAMERA, make_rows, numbers_shown, write_lines, write_v2

WRIST = "observation.images.wrist"


def entry(**changes: Any) -> Adapter:
    base: dict[str, Any] = {
        "title": "a twin",
        "format": "lerobot",
        "robot": "so100",
        "control_mode": "joint_position",
        "units": "metric",
        "cameras": {"base_0_rgb": CAMERA},
        "optional_cameras": {"left_wrist_0_rgb": WRIST},
        "state": {"arm0": {"from": "observation.state[0:5]"}},
        "action": {"arm0": {"from": "action[0:5]"}},
    }
    return parse_adapter("twin", base | changes)


def read_first(root: Path, adapter: Adapter) -> NativeEpisode:
    return read(find(str(root), adapter).episodes[0], adapter)


def change_info(root: Path, **features: Any) -> None:
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    info["features"] |= features
    path.write_text(json.dumps(info))


def test_of_two_cameras_one_may_be_pictures_in_the_table(tmp_path: Path) -> None:
    columns = make_rows(0, 3)
    root = write_v2(tmp_path, [columns])
    change_info(root, **{WRIST: {"dtype": "image", "shape": [64, 64, 3]}})
    table = pq.read_table(root / "data/chunk-000/episode_000000.parquet")
    stored = with_pictures(columns, first=7, kind="JPEG")[CAMERA]
    pq.write_table(table.append_column(WRIST, stored), root / "data/chunk-000/episode_000000.parquet")
    native = read_first(root, entry())
    assert numbers_shown(native.frames[CAMERA]) == [0, 1, 2]
    assert [native.frames[WRIST][i] for i in range(3)] == [picture(7 + i, "JPEG") for i in range(3)]


def write_openpi_libero(root: Path) -> Path:
    """As openpi's convert_libero_data_to_lerobot.py has LeRobot write it: `state`, `actions`, pictures in the table."""
    t = 4
    (root / "meta").mkdir(parents=True)
    features = {
        "image": {"dtype": "image", "shape": [256, 256, 3], "names": ["height", "width", "channel"]},
        "wrist_image": {"dtype": "image", "shape": [256, 256, 3], "names": ["height", "width", "channel"]},
        "state": {"dtype": "float32", "shape": [8], "names": ["state"]},
        "actions": {"dtype": "float32", "shape": [7], "names": ["actions"]},
    }
    info = {"codebase_version": "v2.0", "robot_type": "panda", "fps": 10, "total_episodes": 1, "features": features}
    (root / "meta/info.json").write_text(json.dumps(info))
    write_lines(root / "meta/tasks.jsonl", [{"task_index": 0, "task": "put both pots on the stove"}])
    write_lines(
        root / "meta/episodes.jsonl", [{"episode_index": 0, "tasks": ["put both pots on the stove"], "length": t}]
    )
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pictures = [{"bytes": picture(i), "path": f"frame_{i:06d}.png"} for i in range(t)]
    table = {
        "image": pa.array(pictures, kind),
        "wrist_image": pa.array(pictures[::-1], kind),
        "state": pa.array([[0.1, 0.2, 0.3, 3.1, 0.0, 0.0, 0.04, -0.04]] * t, pa.list_(pa.float32(), 8)),
        "actions": pa.array([[0.5, 0, 0, 0, 0, 0, -1.0]] * t, pa.list_(pa.float32(), 7)),
        "timestamp": pa.array(np.arange(t, dtype=np.float32) / 10),
        "frame_index": np.arange(t),
        "episode_index": np.zeros(t, np.int64),
        "index": np.arange(t),
        "task_index": np.zeros(t, np.int64),
    }
    (root / "data/chunk-000").mkdir(parents=True)
    pq.write_table(pa.table(table), root / "data/chunk-000/episode_000000.parquet")
    return root


def test_keys_called_state_and_actions_are_read(tmp_path: Path) -> None:
    adapter = get_adapter("lerobot_libero_openpi")
    native = read_first(write_openpi_libero(tmp_path), adapter)
    episode = to_episode(native, adapter, get_embodiment("franka"), ["base_0_rgb", "left_wrist_0_rgb"])
    assert episode.state[0, :7].tolist() == pytest.approx([0.1, 0.2, 0.3, 3.1, 0.0, 0.0, 0.0], abs=1e-6)
    assert episode.action[0, :7].tolist() == pytest.approx([0.025, 0, 0, 0, 0, 0, 0.0])
    assert numbers_shown([np.asarray(native.frames["image"][0] and [20.0])]) == [0]
    assert episode.task == "put both pots on the stove" and sorted(episode.images) == ["base_0_rgb", "left_wrist_0_rgb"]


def test_without_an_entry_features_of_any_names_are_listed(tmp_path: Path) -> None:
    root = write_openpi_libero(tmp_path)
    assert explain_misfit(str(root)) == "robot_type panda, state of 8 dims"
    path = root / "meta/info.json"
    path.write_text(path.read_text().replace('"state": {', '"proprio": {'))
    assert "features are image [256, 256, 3], wrist_image [256, 256, 3], proprio [8], actions" in explain_misfit(
        str(root)
    )


def test_tables_without_their_metadata_are_refused_with_what_to_fetch(tmp_path: Path) -> None:
    root = write_v2(tmp_path, [make_rows(0, 3)])
    (root / "meta").rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/info.json").unlink()
    with pytest.raises(
        UsageError, match=r"found tables such as data/chunk-000/episode_000000.parquet without .* meta/"
    ):
        find(str(root), entry())


@pytest.mark.parametrize(("stated", "is_there"), [(None, False), (False, True)])
def test_a_camera_that_is_named_depth_is_left_out_unless_it_says_otherwise(
    tmp_path: Path, stated: bool | None, is_there: bool
) -> None:
    root = write_v2(tmp_path, [make_rows(0, 3)])
    key = "observation.images.top_depth"
    (root / f"videos/chunk-000/{CAMERA}").rename(root / f"videos/chunk-000/{key}")
    spec: dict[str, Any] = {"dtype": "video", "shape": [64, 64, 3]}
    if stated is not None:
        spec["info"] = {"video.is_depth_map": stated}
    change_info(root, **{key: spec})
    native = read_first(root, entry(cameras={"base_0_rgb": key}))
    assert (key in native.frames) == is_there


MODALITY = {
    "state": {"arm": {"start": 0, "end": 5}, "gripper": {"start": 5, "end": 6}},
    "action": {"arm": {"start": 1, "end": 6, "original_key": "action"}},
    "video": {"front": {"original_key": CAMERA}},
    "annotation": {"human.task_description": {}},
}


def with_modality(root: Path, content: Any) -> Path:
    (root / "meta/modality.json").write_text(json.dumps(content))
    return root


def test_parts_and_cameras_go_by_the_names_of_modality_json(tmp_path: Path) -> None:
    columns = make_rows(0, 3)
    columns["observation.state"] = np.tile(np.arange(6, dtype=np.float32), (3, 1))
    columns["action"] = columns["observation.state"]
    root = with_modality(write_v2(tmp_path, [columns]), MODALITY)
    adapter = entry(
        cameras={"base_0_rgb": "video.front"},
        state={"arm0": {"from": "state.arm"}, "gripper0": {"from": "state.gripper", "open": 5, "closed": 0}},
        action={"arm0": {"from": "action.arm"}},
    )
    native = read_first(root, adapter)
    episode = to_episode(native, adapter, get_embodiment("so100"), ["base_0_rgb"])
    assert episode.state[0, :7].tolist() == [0, 1, 2, 3, 4, 0, 0]
    assert episode.action[0, :5].tolist() == [1, 2, 3, 4, 5]
    assert numbers_shown(native.frames["video.front"]) == [0, 1, 2]
    assert native.dim_names["state.gripper"] == ("gripper",)


def test_parts_beyond_their_column_are_refused(tmp_path: Path) -> None:
    root = with_modality(write_v2(tmp_path, [make_rows(0, 3)]), {"state": {"legs": {"start": 4, "end": 9}}})
    with pytest.raises(Rejected, match="modality.json: state.legs: expected columns 4 to 9 .* found 6"):
        read_first(root, entry())


@pytest.mark.parametrize("content", [{"state": []}, {"state": {"arm": {"start": 3, "end": 3}}}, {"video": {"a": 1}}])
def test_a_modality_json_of_another_form_is_named(tmp_path: Path, content: Any) -> None:
    with pytest.raises(FailedWork, match="modality.json"):
        find(str(with_modality(write_v2(tmp_path, [make_rows(0, 3)]), content)), entry())


@pytest.mark.shared
def test_the_humanoids_own_names_are_its_own_columns(shared: Path) -> None:
    native = read_first(shared / "data/real/gr1_lerobot_v2", get_adapter("gr1_right_arm"))
    assert np.array_equal(native.arrays["state.right_arm"], native.arrays["observation.state"][:, 22:29])
    assert np.array_equal(native.arrays["action.left_hand"], native.arrays["action"][:, 7:13])
