"""Reading inhouse_log/v1: streams brought to one rate, never with a picture from the future."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from pipelines.contract.embodiments import get_embodiment
from pipelines.contract.episode import DroppedSteps
from pipelines.contract.errors import FailedWork, UsageError
from pipelines.contract.images import CorruptImage, to_jpeg
from pipelines.contract.native import NativeEpisode, Rejected
from pipelines.mapping.adapters import get_adapter
from pipelines.mapping.to_slots import to_episode
from pipelines.mapping.validate import find_fault
from pipelines.sources.alignment import StreamReport, hold, interpolate_columns, latest_index, make_grid, report_stream
from pipelines.sources.zarr import find, read
from tests.support.checkout import ROOT

LOG = get_adapter("inhouse_log")
MS = 1_000_000
HZ = 20.0


def write_log(path: Path, robot: str = "ur5e", **changes: Any) -> Path:
    """Writes one second of a log: joints at 50 Hz that rise 1 rad/s, a gripper that closes at 0.5 s, camera at 10 fps.

    changes: arrays by key (None removes one) and, under `attrs`, attributes.
    """
    joints, command, camera = np.arange(5, 1005, 20), np.arange(10, 1000, 50), np.arange(0, 1000, 100)
    n, g = (12, 2) if robot == "ur5e_dual" else (6, 1)
    arrays: dict[str, Any] = {
        "joints/timestamp_ns": joints * MS,
        "joints/position": np.repeat(joints[:, None] / 1000, n, 1),
        "gripper/timestamp_ns": joints * MS,
        "gripper/position": np.repeat((joints[:, None] >= 500) * 1.0, g, 1),
        "command/timestamp_ns": command * MS,
        "command/joint_position": np.repeat(command[:, None] / 1000 + 0.1, n, 1),
        "command/gripper": np.ones((len(command), g)),
        "camera/base_0/timestamp_ns": camera * MS,
        "camera/base_0/rgb": np.arange(10, dtype=np.uint8)[:, None, None, None] * np.full((1, 8, 8, 3), 20, np.uint8),
    }
    attributes = {
        "schema": "inhouse_log/v1",
        "robot": robot,
        "task": "lift the cube",
        "success": True,
        "control_hz": HZ,
        "cameras": {"base_0": {}},
        "joint_names": [f"joint_{i}" for i in range(n)],
    } | changes.pop("attrs", {})
    group = zarr.open_group(path, mode="w", attributes=attributes)
    for key, value in (arrays | changes).items():
        if value is not None:
            value = np.asarray(value)
            chunks = (4, *value.shape[1:]) if value.ndim == 4 else value.shape
            # Without this zarr leaves chunks of zeros out, and does not say so.
            group.create_array(key, data=value, chunks=chunks, config={"write_empty_chunks": True})
    return path


def read_only(root: Path) -> NativeEpisode:
    (located,) = find(str(root), LOG).episodes
    return read(located, LOG)


def test_every_command_becomes_a_step(tmp_path: Path) -> None:
    write_log(tmp_path / "a.zarr")
    native = read_only(tmp_path)
    assert native.n_steps == 20  # Up to the command at 960 ms: the joints end at 985 ms.
    assert native.timestamp_s is not None and native.timestamp_s[:3].tolist() == pytest.approx([0, 0.05, 0.1])
    assert native.arrays["command/joint_position"][1, 0] == pytest.approx(0.16)


def test_joints_are_interpolated_and_grippers_are_not(tmp_path: Path) -> None:
    write_log(tmp_path / "a.zarr")
    arrays = read_only(tmp_path).arrays
    assert arrays["joints/position"][:3, 0].tolist() == pytest.approx([0.010, 0.060, 0.110])
    assert arrays["gripper/position"][8:12, 0].tolist() == [0.0, 0.0, 1.0, 1.0]
    closing = (np.arange(5, 1005, 20)[:, None] >= 525) * 1.0  # from 505 to 525 ms; a step stands at 510
    write_log(tmp_path / "a.zarr", **{"gripper/position": closing})
    assert read_only(tmp_path).arrays["gripper/position"][8:12, 0].tolist() == [0.0, 0.0, 0.0, 1.0]


def test_a_joint_is_not_taken_through_zero_where_its_sensor_begins_again(tmp_path: Path) -> None:
    write_log(tmp_path / "a.zarr")
    plain = read_only(tmp_path).arrays["joints/position"]
    logged = zarr.open_group(tmp_path / "a.zarr", mode="r")["joints/position"][:]
    turned = np.pi - 0.107  # samples at 105 and 125 ms are on either side of pi, and a step stands at 110
    wound = (logged + turned + np.pi) % (2 * np.pi) - np.pi
    write_log(tmp_path / "a.zarr", **{"joints/position": wound})
    found = read_only(tmp_path).arrays["joints/position"]
    np.testing.assert_allclose(np.exp(1j * found), np.exp(1j * (plain + turned)), atol=1e-9)
    assert found.min() < -2.0 and found.max() < np.pi + 0.02  # as the sensor counts


def test_pictures_are_the_latest_that_are_not_in_the_future(tmp_path: Path) -> None:
    write_log(tmp_path / "a.zarr")
    frames = read_only(tmp_path).frames["base_0_rgb"]
    shown = [to_jpeg(np.full((8, 8, 3), 20 * i, np.uint8)) for i in range(10)]
    assert [shown.index(frame) for frame in frames] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9]


def test_notes_tell_lost_frames_pauses_and_age(tmp_path: Path) -> None:
    stamps = np.array([0, 100, 200, 500, 600, 700, 800, 900, 950, 990]) * MS
    write_log(tmp_path / "a.zarr", **{"camera/base_0/timestamp_ns": stamps})
    notes = read_only(tmp_path).notes
    assert notes["base_0_rgb/n_gaps"] == 1
    assert notes["base_0_rgb/n_lost"] == 2
    assert notes["base_0_rgb/longest_pause_ms"] == 300.0
    assert notes["base_0_rgb/skew_ms_max"] == 260.0  # The step at 460 ms shows the picture of 200 ms.
    assert notes["joints/n_gaps"] == 0


def test_a_stream_that_starts_late_starts_the_episode_late(tmp_path: Path) -> None:
    stamps = np.arange(300, 1300, 100) * MS
    write_log(tmp_path / "a.zarr", **{"camera/base_0/timestamp_ns": stamps})
    native = read_only(tmp_path)
    assert native.arrays["command/joint_position"][0, 0] == pytest.approx(0.41)


def fault_of(native: NativeEpisode) -> tuple[str, str] | None:
    return find_fault(to_episode(native, LOG, get_embodiment("ur5e"), ["base_0_rgb"]))


def test_every_step_before_the_streams_begin_and_after_they_end_is_listed(tmp_path: Path) -> None:
    """Commands at 10, 60 ... 960 ms; the camera has pictures from 30 ms to 830 ms, and shows the last until 930 ms."""
    camera = {"camera/base_0/timestamp_ns": np.arange(30, 830 + 1, 100) * MS}
    camera["camera/base_0/rgb"] = np.zeros((9, 8, 8, 3), np.uint8)
    write_log(tmp_path / "a.zarr", **camera)
    native = read_only(tmp_path)
    assert native.n_steps == 18
    assert native.dropped == (
        DroppedSteps(start=0, end=1, reason="missing_frames"),
        DroppedSteps(start=19, end=20, reason="missing_frames"),
    )
    assert fault_of(native) is None


def test_a_camera_that_ends_early_costs_the_episode_by_name(tmp_path: Path) -> None:
    camera = {"camera/base_0/timestamp_ns": np.arange(0, 200, 100) * MS}
    write_log(tmp_path / "a.zarr", **camera, **{"camera/base_0/rgb": np.zeros((2, 8, 8, 3), np.uint8)})
    assert fault_of(read_only(tmp_path)) == (
        "missing_frames",
        "expected to lose at most 10% of the steps, found 16 of 20 lost (missing_frames 16)",
    )


def test_a_clock_that_is_off_costs_the_episode_by_name(tmp_path: Path) -> None:
    write_log(tmp_path / "a.zarr", **{"gripper/timestamp_ns": (np.arange(5, 1005, 20) + 400) * MS})
    fault = fault_of(read_only(tmp_path))
    assert fault is not None and fault[0] == "no_overlap" and "found 8 of 20 lost" in fault[1]


def test_a_hole_in_a_gripper_is_named(tmp_path: Path) -> None:
    times = np.concatenate([np.arange(5, 205, 20), np.arange(805, 1005, 20)]) * MS
    write_log(tmp_path / "a.zarr", **{"gripper/timestamp_ns": times, "gripper/position": np.ones((20, 1))})
    assert fault_of(read_only(tmp_path)) == (
        "holes",
        "gripper: expected samples at most 0.50 s apart, found a hole of 0.62 s",
    )


def test_words_for_success_are_read_as_words(tmp_path: Path) -> None:
    write_log(tmp_path / "a.zarr", attrs={"success": "false"})
    assert read_only(tmp_path).success == 0


def test_left_arm_comes_first(tmp_path: Path) -> None:
    write_log(tmp_path / "a.zarr", robot="ur5e_dual")
    episode = to_episode(read_only(tmp_path), LOG, get_embodiment("ur5e_dual"), ["base_0_rgb"])
    assert episode.state_mask.tolist() == [True] * 14 + [False] * 4
    assert episode.state[0, 12] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"attrs": {"schema": "inhouse_log/v2"}}, "wrong_schema"),
        ({"attrs": {"control_hz": "fast"}}, "wrong_attributes"),
        ({"joints/position": None}, "missing_key"),
        ({"gripper/timestamp_ns": None}, "unreadable_zarr"),
        ({"joints/timestamp_ns": np.zeros(50, np.int64)}, "wrong_times"),
        ({"joints/position": np.zeros((7, 6))}, "unequal_lengths"),
        ({"camera/base_0/rgb": np.zeros((10, 8, 8, 3))}, "unequal_lengths"),
        ({"camera/base_0/timestamp_ns": np.arange(5000, 6000, 100) * MS}, "no_overlap"),
        ({"joints/timestamp_ns": np.r_[0, np.arange(600, 1090, 10)] * MS}, "joint_gap"),
    ],
)
def test_a_damaged_log_is_rejected(tmp_path: Path, changes: dict, reason: str) -> None:
    write_log(tmp_path / "a.zarr", **changes)
    with pytest.raises(Rejected) as error:
        read_only(tmp_path)
    assert error.value.reason == reason


SIDES = {side: [f"{side}_joint_{i}" for i in range(6)] for side in ("left", "right")}
UR = ["shoulder_pan_joint", "shoulder_lift_joint", "elbow_joint", "wrist_1_joint", "wrist_2_joint", "wrist_3_joint"]


@pytest.mark.parametrize(
    ("robot", "attributes", "fault"),
    [
        ("ur5e_dual", {"joint_names": SIDES["left"] + SIDES["right"]}, ""),
        ("ur5e_dual", {"joint_names": SIDES["right"] + SIDES["left"]}, "expected the left arm's dims, found the right"),
        (
            "ur5e_dual",
            {"joint_names": SIDES["left"] + SIDES["right"], "gripper_names": ["right_gripper", "left_gripper"]},
            "gripper0: gripper/position.0.: expected the left arm's dims",
        ),
        ("ur5e", {"joint_names": UR}, ""),
        ("ur5e", {"joint_names": sorted(UR)}, "expected the robot's joints in the order shoulder_pan, shoulder_lift"),
        ("ur5e", {"joint_names": [f"joint_{i}" for i in (1, 0, 2, 3, 4, 5)]}, "in the order of their numbers"),
    ],
)
def test_names_that_give_another_order_are_refused(tmp_path: Path, robot: str, attributes: dict, fault: str) -> None:
    write_log(tmp_path / "a.zarr", robot=robot, attrs=attributes)
    native = read_only(tmp_path)
    if not fault:
        assert to_episode(native, LOG, get_embodiment(robot), ["base_0_rgb"]).n_steps == 20
        return
    with pytest.raises(Rejected, match=f"wrong_names: .*{fault}"):
        to_episode(native, LOG, get_embodiment(robot), ["base_0_rgb"])


def test_more_names_than_columns_are_refused(tmp_path: Path) -> None:
    write_log(tmp_path / "a.zarr", attrs={"joint_names": UR[:5]})
    with pytest.raises(Rejected, match="wrong_dims: .*joint_names: expected 6 names, one a column"):
        read_only(tmp_path)


@pytest.mark.parametrize(
    ("stored", "success"), [("false", 0), ("0", 0), (float("nan"), -1), (None, -1), (1, 1), ("success", 1)]
)
def test_success_is_read_as_it_was_meant(tmp_path: Path, stored: Any, success: int) -> None:
    write_log(tmp_path / "a.zarr", attrs={"success": stored})
    assert read_only(tmp_path).success == success


def test_a_task_is_cleaned_and_lone_surrogates_end_no_run(tmp_path: Path) -> None:
    write_log(tmp_path / "a.zarr", attrs={"task": "lift the cube \ud800"})
    native = read_only(tmp_path)
    assert native.language[0].encode() and native.task.startswith("lift the cube")
    write_log(tmp_path / "a.zarr", attrs={"task": "<task>"})
    assert (read_only(tmp_path).task, read_only(tmp_path).language) == ("", ())


@pytest.mark.parametrize("chunk", ["joints/position/c/0/0", "command/gripper/c/0/0", "camera/base_0/timestamp_ns/c/0"])
def test_a_chunk_of_numbers_that_is_gone_rejects_the_log(tmp_path: Path, chunk: str) -> None:
    write_log(tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / chunk).unlink()
    with pytest.raises(Rejected, match=f"missing_chunk: .*{chunk}"):
        read_only(tmp_path)


def test_a_chunk_of_pictures_that_is_gone_is_no_black_picture(tmp_path: Path) -> None:
    write_log(tmp_path / "a.zarr")
    (tmp_path / "a.zarr/camera/base_0/rgb/c/1/0/0/0").unlink()
    with pytest.raises(Rejected, match="missing_chunk"):
        list(read_only(tmp_path).frames["base_0_rgb"])


def test_commands_at_another_rate_are_reported(tmp_path: Path) -> None:
    write_log(tmp_path / "a.zarr")
    assert read_only(tmp_path).inferred == {}
    write_log(tmp_path / "a.zarr", attrs={"control_hz": 10.0})
    assert list(read_only(tmp_path).inferred) == ["resampled"]


def test_a_pause_outside_of_the_episode_is_no_pause_of_it(tmp_path: Path) -> None:
    stamps = np.r_[-5000, np.arange(0, 900, 100)] * MS
    write_log(tmp_path / "a.zarr", **{"camera/base_0/timestamp_ns": stamps})
    assert read_only(tmp_path).notes["base_0_rgb/longest_pause_ms"] == 100.0


def test_the_scan_knows_the_tasks_that_logs_state(tmp_path: Path) -> None:
    for name, task in (("a", "lift it"), ("b", "lift it"), ("c", "stack it"), ("d", None)):
        write_log(tmp_path / f"{name}.zarr", attrs={"task": task})
    (tmp_path / "d.zarr/zarr.json").write_bytes(b"{")
    assert find(str(tmp_path), LOG).tasks == ("lift it", "stack it")


def test_logs_without_metadata_are_named(tmp_path: Path) -> None:
    write_log(tmp_path / "a.zarr")
    (tmp_path / "b.zarr").mkdir()
    found = find(str(tmp_path), LOG)
    assert [e.reference.key for e in found.episodes] == ["a.zarr"]
    assert [(r.source_key, r.reason) for r in found.rejects] == [("b.zarr", "missing_file")]
    shutil.rmtree(tmp_path / "a.zarr")
    with pytest.raises(FailedWork, match="b.zarr: expected zarr.json, found none"):
        find(str(tmp_path), LOG)


def test_seven_joints_do_not_fit_six(tmp_path: Path) -> None:
    names = [f"joint_{i}" for i in range(7)]
    wide = {"joints/position": np.zeros((50, 7)), "command/joint_position": np.zeros((20, 7))}
    write_log(tmp_path / "a.zarr", attrs={"joint_names": names}, **wide)
    with pytest.raises(Rejected, match="expected 6 dims for robot ur5e, found 7; left over: joint_6"):
        to_episode(read_only(tmp_path), LOG, get_embodiment("ur5e"), ["base_0_rgb"])


def test_a_base_that_cannot_go_sideways_must_not_be_told_to(tmp_path: Path) -> None:
    base = np.zeros((20, 3))
    write_log(tmp_path / "a.zarr", robot="ur5e_dual", attrs={"robot": "mobile_arx"}, **{"command/base": base})
    base[:, [0, 2]] = [0.5, 0.1]
    write_log(tmp_path / "b.zarr", robot="ur5e_dual", attrs={"robot": "mobile_arx"}, **{"command/base": base})
    episode = to_episode(read_only(tmp_path / "b.zarr"), LOG, get_embodiment("mobile_arx"), ["base_0_rgb"])
    assert episode.action[0, 14:16].tolist() == pytest.approx([0.5, 0.1])
    assert not episode.state_mask[14:].any()
    base[4, 1] = 0.2
    write_log(tmp_path / "c.zarr", robot="ur5e_dual", attrs={"robot": "mobile_arx"}, **{"command/base": base})
    with pytest.raises(Rejected, match="expected vy = 0, found up to 0.2 m/s"):
        to_episode(read_only(tmp_path / "c.zarr"), LOG, get_embodiment("mobile_arx"), ["base_0_rgb"])


def test_a_camera_that_is_listed_but_not_there_is_missing(tmp_path: Path) -> None:
    write_log(tmp_path / "a.zarr", attrs={"cameras": {"base_0": {}, "left_wrist_0": {}}})
    assert read_only(tmp_path).missing_cameras == ("left_wrist_0_rgb",)


def test_a_damaged_chunk_of_pictures_is_found_when_it_is_read(tmp_path: Path) -> None:
    write_log(tmp_path / "a.zarr")
    (tmp_path / "a.zarr/camera/base_0/rgb/c/1/0/0/0").write_bytes(b"damaged")
    with pytest.raises(CorruptImage):
        list(read_only(tmp_path).frames["base_0_rgb"])


def test_a_folder_without_logs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ROBOT/TASK/EPISODE.zarr"):
        find(str(tmp_path), LOG)


@pytest.mark.shared
def test_every_sample_log_is_read(shared: Path) -> None:
    root = shared / "data/sim/inhouse_zarr"
    natives = [read(located, LOG) for located in find(str(root), LOG).episodes]
    assert len(natives) == 13
    assert {native.robot for native in natives} == {"franka", "franka_mobile", "ur5e", "ur5e_dual"}
    mobile = next(native for native in natives if native.robot == "franka_mobile")
    episode = to_episode(mobile, LOG, get_embodiment("franka_mobile"), ["base_0_rgb"])
    assert np.flatnonzero(episode.state_mask).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 17]
    assert np.flatnonzero(episode.action_mask).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 14, 15, 16, 17]
    lost = {native.reference.key: native.notes["base_0_rgb/n_lost"] for native in natives}
    assert sum(n > 0 for n in lost.values()) > 0


@pytest.mark.shared
def test_a_sample_picture_is_the_stored_one(shared: Path, tmp_path: Path) -> None:
    source = shared / "data/sim/inhouse_zarr/ur5e/lift_the_red_cube/20250304_000.zarr"
    shutil.copytree(source, tmp_path / "a.zarr", copy_function=shutil.copyfile)
    native = read_only(tmp_path)
    group = zarr.open_group(source, mode="r")
    stamps, grid = group["camera/base_0/timestamp_ns"][:], group["command/timestamp_ns"][:][-native.n_steps :]
    step = 40
    number = np.flatnonzero(stamps <= grid[step])[-1]
    assert native.frames["base_0_rgb"][step] == to_jpeg(np.asarray(group["camera/base_0/rgb"][number]))


def test_alignment_in_numbers() -> None:
    stamps = np.array([0, 10, 20, 50]) * MS
    assert report_stream(stamps) == StreamReport(period_ms=10.0, longest_pause_ms=30.0, n_gaps=1, n_lost=2)
    grid = np.array([5, 20, 40]) * MS
    values = np.array([[0.0], [1.0], [2.0], [5.0]])
    assert latest_index(stamps, grid).tolist() == [0, 2, 2]
    assert hold(stamps, values, grid)[:, 0].tolist() == [0.0, 2.0, 2.0]
    assert interpolate_columns(stamps, values, grid)[:, 0].tolist() == pytest.approx([0.5, 2.0, 4.0])


def test_a_command_stream_of_another_rate_is_resampled() -> None:
    fast = np.arange(0, 1000, 5) * MS
    grid = make_grid(fast, first=20 * MS, last=300 * MS, control_hz=20.0)
    assert (grid / MS).tolist() == [20, 70, 120, 170, 220, 270]


def test_the_writer_of_the_page_writes_a_log_that_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs/inhouse_log.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    native = read_only(tmp_path / "logs")
    assert (native.n_steps, native.task, native.success, native.robot) == (40, "reach to the left", 1, "ur5e")
    assert find_fault(to_episode(native, LOG, get_embodiment("ur5e"), ["base_0_rgb"])) is None
