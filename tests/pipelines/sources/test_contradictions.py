"""Sources that contradict themselves: refused by name, or read by the statement that is certain, and that is stated."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from pipelines.contract.embodiments import get_embodiment
from pipelines.contract.episode import Reference
from pipelines.contract.errors import FailedWork
from pipelines.contract.native import NativeEpisode, Rejected
from pipelines.mapping.adapters import get_adapter
from pipelines.mapping.to_slots import to_episode
from pipelines.sources import dp, droid, lerobot, rlds, robomimic
from pipelines.sources.alignment import pair_frames
from pipelines.sources.zarr import find as find_logs
from pipelines.sources.zarr import read as read_log
from tests.pipelines.sources.test_dp import write_buffer
from tests.pipelines.sources.test_zarr import write_log
from tests.support.inputs.hdf5_files import T, write_libero, write_robomimic
from tests.support.inputs.lerobot_writer import CAMERA, MOTORS, make_rows, meta_row, write_v2, write_v3
from tests.support.inputs.native_files import bridge_features, write_rlds

SO100 = get_adapter("lerobot_so100")
ROBOMIMIC = get_adapter("robomimic")
DP = get_adapter("dp_replay")
BRIDGE = get_adapter("bridge_orig")


def test_a_camera_that_began_and_ended_late_moves_no_frame_forward() -> None:
    rows, frames = np.arange(100) / 10, 0.4 + np.arange(98) / 10
    assert pair_frames(rows, frames, 0.1).frames.tolist() == [-1] * 4 + list(range(96))
    # What an encoder shifts, and clocks that have nothing in common, are read from their starts.
    assert pair_frames(rows, 0.2 + np.arange(99) / 10, 0.1).frames.tolist() == [*range(99), -1]
    assert pair_frames(rows + 5000, frames, 0.1).frames.tolist() == [*range(98), -1, -1]


@pytest.mark.parametrize("without_times", [False, True])
def test_of_lerobot_episodes_with_the_same_frames_neither_is_taken(tmp_path: Path, without_times: bool) -> None:
    rows = [meta_row(0, 0, 20, 0.0), meta_row(1, 20, 20, 1.0 if not without_times else 0.0), meta_row(2, 40, 20, 4.0)]
    if without_times:
        for row in rows[:2]:
            row |= {f"videos/{CAMERA}/from_timestamp": None, f"videos/{CAMERA}/to_timestamp": None}
    root = write_v3(tmp_path, rows, {0: [make_rows(n, 20, 20 * n) for n in range(3)]}, 60)
    found = lerobot.find(str(root), SO100)
    assert [(r.source_key, r.reason) for r in found.rejects if r.reason == "unequal_clocks"] == [
        ("episode_000000", "unequal_clocks"),
        ("episode_000001", "unequal_clocks"),
    ]
    assert [episode.reference.key for episode in found.episodes] == ["episode_000002"]


def test_row_numbers_promise_as_a_length_does(tmp_path: Path) -> None:
    row = meta_row(0, 0, 20, 0.0)
    del row["length"]
    root = write_v3(tmp_path, [row], {0: [{name: values[:17] for name, values in make_rows(0, 20).items()}]}, 20)
    (located,) = lerobot.find(str(root), SO100).episodes
    with pytest.raises(Rejected, match="unequal_lengths: .*expected 20 rows, found 17"):
        lerobot.read(located, SO100)


@pytest.mark.parametrize("name", ["index", "frame_index"])
def test_columns_that_order_the_rows_in_two_ways_are_refused(tmp_path: Path, name: str) -> None:
    columns = make_rows(0, 20)
    root = write_v2(tmp_path, [columns | {name: columns[name][::-1].copy()}])
    (located,) = lerobot.find(str(root), SO100).episodes
    with pytest.raises(Rejected, match="wrong_identity: .*order the rows in two ways"):
        lerobot.read(located, SO100)


def test_task_texts_of_two_files_that_differ_are_refused(tmp_path: Path) -> None:
    root = write_v2(tmp_path, [make_rows(0, 5)], tasks=("open it", "shut it"))
    pq.write_table(pa.table({"task_index": [0, 1], "task": ["shut it", "open it"]}), root / "meta/tasks.parquet")
    with pytest.raises(FailedWork, match="task_index 0, .* found 'open it' and 'shut it'"):
        lerobot.find(str(root), SO100)


def test_listed_tasks_that_contradict_the_task_index_are_no_alternatives(tmp_path: Path) -> None:
    root = write_v2(tmp_path, [make_rows(0, 5)], tasks=("open it", "shut it"))
    line = {"episode_index": 0, "tasks": ["shut it"], "length": 5}
    (root / "meta/episodes.jsonl").write_text(json.dumps(line) + "\n")
    (located,) = lerobot.find(str(root), SO100).episodes
    native = lerobot.read(located, SO100)
    assert native.language == ("open it",)
    assert "not those of its task_index" in native.inferred["tasks"]


@pytest.mark.parametrize("sides", [("action",), ("observation.state", "action")])
def test_motors_in_another_order_are_refused(tmp_path: Path, sides: tuple[str, ...]) -> None:
    root = write_v2(tmp_path, [make_rows(0, 5)])
    info = json.loads((root / "meta/info.json").read_text())
    for side in sides:
        info["features"][side]["names"] = [MOTORS[1], MOTORS[0], *MOTORS[2:]]
    (root / "meta/info.json").write_text(json.dumps(info))
    (located,) = lerobot.find(str(root), SO100).episodes
    with pytest.raises(Rejected, match="wrong_names"):
        to_episode(lerobot.read(located, SO100), SO100, get_embodiment("so100"), [])


def test_state_and_action_that_name_dims_in_two_orders_are_refused_where_no_order_is_known() -> None:
    adapter = get_adapter("dp_replay")
    names = ["a", "b", "c", "d", "e", "f", "gripper"]
    vector = np.tile([0.1, 0.2, 0.3, 0, 0, 0.2, 0.25], (5, 1))
    native = NativeEpisode(
        reference=Reference(uri="x", key="x"),
        n_steps=5,
        arrays={"state": vector, "action": vector},
        frames={},
        dim_names={"state": names, "action": [*names[1::-1], *names[2:]]},
    )
    with pytest.raises(Rejected, match="wrong_names: arm0: expected one order of dims in state and action"):
        to_episode(native, adapter, get_embodiment("ur5e"), [])


def test_a_demonstration_that_is_held_out_does_not_train(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        file["mask/test"] = np.array([b"demo_0"])
        del file["mask/train"]
        file["mask/train"] = np.array([b"demo_0", b"demo_1"])
    splits = [e.reference.split for e in robomimic.find(str(path), ROBOMIMIC).episodes]
    assert splits == ["test", "val"]


def test_steps_that_a_robomimic_file_counts_and_lacks_are_a_reject(tmp_path: Path) -> None:
    path = write_libero(tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        file["data"].attrs["total"] = 3 * T
    (reject,) = robomimic.find(str(path), get_adapter("libero_hdf5")).rejects
    assert (reject.reason, f"total promises {3 * T} steps and {T} are there" in reject.detail) == (
        "promised_missing",
        True,
    )


def test_texts_of_another_number_of_steps_are_not_dropped_in_silence(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        file["data/demo_0"].create_dataset("subtask", data=["open it", "shut it"], dtype=h5py.string_dtype())
    with pytest.raises(Rejected, match="unequal_lengths: .*subtask: expected 4 texts, one a step, found 2"):
        robomimic.read(robomimic.find(str(path), ROBOMIMIC).episodes[0], ROBOMIMIC)


def test_a_consolidated_copy_of_metadata_that_is_out_of_date_does_not_count(tmp_path: Path) -> None:
    path = write_buffer(tmp_path / "a.zarr", timestamp=np.arange(8) * 0.1)
    zarr.consolidate_metadata(str(path), zarr_format=2)
    group = zarr.open_group(path, mode="a", zarr_format=2, use_consolidated=False)
    for key, array in dict(group["data"].arrays()).items():
        values = array[:]
        del group[f"data/{key}"]
        longer = np.concatenate([values, values[:4]])
        group.create_array(
            f"data/{key}", data=longer, chunks=(8, *values.shape[1:]), config={"write_empty_chunks": True}
        )
    group["meta/episode_ends"].resize((3,))
    group["meta/episode_ends"][:] = [3, 8, 12]
    found = dp.find(str(path), DP)
    assert ([e.place for e in found.episodes], found.rejects) == ([(0, 3), (3, 8), (8, 12)], ())


def test_a_buffer_without_episodes_is_named(tmp_path: Path) -> None:
    write_buffer(tmp_path / "a.zarr", ends=[])
    write_buffer(tmp_path / "b.zarr")
    found = dp.find(str(tmp_path), DP)
    assert [(r.source_key, r.reason) for r in found.rejects] == [("a.zarr#rest", "unlisted")]
    assert len(found.episodes) == 2


@pytest.mark.parametrize("units", [{"joints": "deg"}, {"joints/position": "degrees"}, {"gripper": "m"}, "deg"])
def test_a_log_in_other_units_is_not_read_as_if_in_radians(tmp_path: Path, units: Any) -> None:
    write_log(tmp_path / "a.zarr", attrs={"units": units})
    (located,) = find_logs(str(tmp_path), get_adapter("inhouse_log")).episodes
    with pytest.raises(Rejected, match="wrong_attributes: .*units"):
        read_log(located, get_adapter("inhouse_log"))


def test_a_log_of_several_tasks_is_not_read_as_one_without(tmp_path: Path) -> None:
    write_log(tmp_path / "a.zarr", attrs={"task": ["wipe it", "fold it"]})
    (located,) = find_logs(str(tmp_path), get_adapter("inhouse_log")).episodes
    with pytest.raises(Rejected, match="wrong_attributes: .*task: expected one text, found"):
        read_log(located, get_adapter("inhouse_log"))


@pytest.mark.parametrize("key", ["is_first", "is_last"])
def test_a_record_of_two_episodes_is_refused(tmp_path: Path, key: str) -> None:
    flags = np.zeros(12, np.int64)
    flags[[0, 6] if key == "is_first" else [5, 11]] = 1
    write_rlds(tmp_path / "in", {"train": [bridge_features(0, **{key: flags}), bridge_features(1, **{key: flags * 0})]})
    first, second = rlds.find(str(tmp_path / "in"), BRIDGE).episodes
    with pytest.raises(Rejected, match=f"wrong_identity: {key}: expected one episode, found that another"):
        rlds.read(first, BRIDGE)
    assert rlds.read(second, BRIDGE).n_steps == 12


def write_droid(folder: Path, attributes: dict[str, Any], **metadata: Any) -> None:
    folder.mkdir(parents=True)
    with h5py.File(folder / "trajectory.h5", "w") as file:
        for key in ("action/joint_position", "observation/robot_state/joint_positions"):
            file[key] = np.zeros((5, 7))
        file["observation/controller_info/movement_enabled"] = np.ones(5, bool)
        for serial, kind in (("11", 0), ("22", 1), ("33", 1)):
            file[f"observation/camera_type/{serial}"] = np.full(5, kind)
        file.attrs.update(attributes)
    stated = {"uuid": "a", "wrist_cam_serial": "11", "ext1_cam_serial": "22", "ext2_cam_serial": "33"}
    (folder / "metadata_a.json").write_text(json.dumps(stated | metadata))


def read_droid(root: Path) -> NativeEpisode:
    (located,) = droid.find(str(root), get_adapter("droid_raw")).episodes
    return droid.read(located, get_adapter("droid_raw"))


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"wrist_cam_serial": "22", "ext1_cam_serial": "11"}, "names camera 22 wrist, .* says exterior"),
        ({"ext2_cam_serial": "22"}, "a serial for each camera, found one twice"),
        ({"trajectory_length": 9}, "promised_missing: .*promises 9 steps, found 5"),
    ],
)
def test_droid_metadata_that_contradicts_the_log_is_refused(
    tmp_path: Path, metadata: dict[str, Any], expected: str
) -> None:
    write_droid(tmp_path / "e", {}, **metadata)
    with pytest.raises(Rejected, match=expected):
        read_droid(tmp_path)


def test_two_droid_metadata_files_that_differ_are_refused(tmp_path: Path) -> None:
    write_droid(tmp_path / "e", {})
    (tmp_path / "e/metadata_b.json").write_text(json.dumps({"uuid": "b"}))
    with pytest.raises(Rejected, match=r"wrong_identity: .*metadata_a.json, metadata_b.json, which differ"):
        read_droid(tmp_path)


def test_outcomes_that_differ_are_stated_and_the_metadata_counts(tmp_path: Path) -> None:
    write_droid(tmp_path / "e", {"success": True}, success="False")
    native = read_droid(tmp_path)
    assert native.success == 0
    assert "different outcomes" in native.inferred["success"]
