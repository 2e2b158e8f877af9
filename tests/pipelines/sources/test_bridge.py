"""Reading Bridge raw folders, and pickles that must never run."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.contract.episode import Reference
from pipelines.contract.errors import FailedWork, UsageError
from pipelines.contract.images import CorruptImage
from pipelines.contract.native import EpisodeLocation, NativeEpisode, Rejected
from pipelines.mapping.adapters import get_adapter
from pipelines.sources.bridge import find, null_action, read
from pipelines.sources.restricted_pickle import load_pickle

BRIDGE = get_adapter("bridge_raw")
TRAJECTORY = "sim/sim_tabletop1/lift_the_red_cube/00/2023-03-14_10-20-30/raw/traj_group0/traj0"


class Bomb:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("bomb_went_off",)


@pytest.fixture
def sample(shared: Path, tmp_path: Path) -> Path:
    """A copy of one session that a test may damage."""
    source = shared / "data/sim/bridge_raw" / TRAJECTORY
    target = tmp_path / TRAJECTORY
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    shutil.copyfile(source.parents[2] / "config.json", target.parents[2] / "config.json")
    return target


def read_only(root: Path) -> NativeEpisode:
    (located,) = find(str(root), BRIDGE).episodes
    return read(located, BRIDGE)


@pytest.mark.shared
def test_a_trajectory_has_an_action_for_every_observation(sample: Path, tmp_path: Path) -> None:
    native = read_only(tmp_path)
    actions = native.arrays["actions"]
    stored = pickle.loads((sample / "policy_out.pkl").read_bytes())
    assert native.n_steps == 34 and native.reference.key == TRAJECTORY
    assert np.array_equal(actions[:-1], [step["actions"] for step in stored])
    assert actions[-1].tolist() == [0, 0, 0, 0, 0, 0, stored[-1]["actions"][6]]
    assert (native.success, native.language) == (1, ("lift the red cube",))


@pytest.mark.shared
def test_cameras_go_by_their_topics(sample: Path, tmp_path: Path) -> None:
    native = read_only(tmp_path)
    assert native.frames["/yellow/image_raw"][3] == (sample / "images1/im_3.jpg").read_bytes()
    assert native.frames["/wrist/image_raw"][33] == (sample / "images2/im_33.jpg").read_bytes()
    assert native.missing_cameras == ()


@pytest.mark.shared
def test_depth_and_masks_beside_the_pictures_are_not_read(sample: Path, tmp_path: Path) -> None:
    before = read_only(tmp_path)
    for name in ("depth_images0", "masks0", "images0_depth"):
        (sample / name).mkdir()
        (sample / name / "im_0.png").write_bytes(b"no picture")
    after = read_only(tmp_path)
    assert list(after.frames) == list(before.frames) and after.missing_cameras == before.missing_cameras


@pytest.mark.shared
def test_before_the_camera_fix_an_action_goes_with_the_next_observation(shared: Path) -> None:
    root = shared / "data/sim/bridge_raw/sim/sim_tabletop2"
    native = read_only(root)
    folder = Path(native.reference.uri)
    states = pickle.loads((folder / "obs_dict.pkl").read_bytes())["full_state"]
    actions = [step["actions"] for step in pickle.loads((folder / "policy_out.pkl").read_bytes())]
    assert native.n_steps == len(states) - 1
    assert np.array_equal(native.arrays["full_state"], states[1:])
    assert np.array_equal(native.arrays["actions"][:-1], actions[:-1])
    assert native.frames["images0"][0] == (folder / "images0/im_1.jpg").read_bytes()
    assert [(d.start, d.end, d.reason) for d in native.dropped] == [(0, 1, "camera_delay_shift")]
    assert native.language == () and native.task == "lift the red cube"


@pytest.mark.shared
def test_times_are_those_of_the_observations_also_where_the_first_one_goes(shared: Path, tmp_path: Path) -> None:
    source = shared / "data/sim/bridge_raw/sim/sim_tabletop2"
    shutil.copytree(source, tmp_path / "sim_tabletop2", copy_function=shutil.copyfile)
    (path,) = tmp_path.rglob("obs_dict.pkl")
    observations = pickle.loads(path.read_bytes())
    times = 1e9 + np.cumsum(np.linspace(0.1, 0.3, len(observations["full_state"])))
    path.write_bytes(pickle.dumps(observations | {"time_stamp": list(times)}))
    native = read_only(tmp_path)
    assert native.timestamp_s is not None
    assert (native.timestamp_s - native.timestamp_s[0]).tolist() == pytest.approx((times[1:] - times[1]).tolist())


@pytest.mark.shared
def test_no_instruction_and_failure_are_kept_as_such(sample: Path, tmp_path: Path) -> None:
    (sample / "lang.txt").unlink()
    (sample / "agent_data.pkl").write_bytes(pickle.dumps({"traj_ok": False}))
    native = read_only(tmp_path)
    assert (native.language, native.success) == ((), 0)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("obs_dict.pkl", None, "missing_file"),
        ("obs_dict.pkl", b"", "unreadable_pickle"),
        ("obs_dict.pkl", pickle.dumps({"x": 1}), "missing_key"),
        ("policy_out.pkl", pickle.dumps([{"actions": np.zeros(7)}]), "unequal_lengths"),
        ("policy_out.pkl", pickle.dumps([{"actions": "left"}]), "unreadable_pickle"),
        ("policy_out.pkl", pickle.dumps([{"actions": Bomb()}]), "unreadable_pickle"),
        ("images1/im_7.jpg", None, "missing_frames"),
        ("../../../config.json", b"{}", "unreadable_config"),
    ],
)
def test_a_damaged_trajectory_is_rejected(
    sample: Path, tmp_path: Path, name: str, content: bytes | None, reason: str
) -> None:
    if content is None:
        (sample / name).unlink()
    else:
        (sample / name).write_bytes(content)
    with pytest.raises(Rejected) as error:
        read_only(tmp_path)
    assert error.value.reason == reason
    assert reason != "unequal_lengths" or "expected 33 actions for 34 pictures, found 1" in error.value.detail
    assert not Path("bomb_went_off").exists()


@pytest.mark.shared
def test_a_hole_among_the_pictures_is_found(sample: Path, tmp_path: Path) -> None:
    (sample / "images0/im_5.jpg").rename(sample / "images0/im_900.jpg")
    with pytest.raises(Rejected, match="missing_frames: .*found 1 missing: im_5.jpg"):
        read_only(tmp_path)


@pytest.mark.shared
def test_more_pictures_than_observations_are_refused(sample: Path, tmp_path: Path) -> None:
    shutil.copyfile(sample / "images0/im_5.jpg", sample / "images0/im_34.jpg")
    with pytest.raises(Rejected, match="unequal_lengths: .*expected 34 frames, one an observation, found 35"):
        read_only(tmp_path)


@pytest.mark.shared
@pytest.mark.parametrize("kind", ["folder", "pipe", "loop", "gone meanwhile"])
def test_what_is_no_picture_bars_the_episode_and_nothing_else(sample: Path, tmp_path: Path, kind: str) -> None:
    native, path = read_only(tmp_path), sample / "images0/im_5.jpg"
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    with pytest.raises((Rejected, CorruptImage), match="im_5.jpg"):
        list(native.frames["images0"])


@pytest.mark.shared
@pytest.mark.parametrize("name", ["obs_dict.pkl", "lang.txt", "agent_data.pkl"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(sample: Path, tmp_path: Path, name: str) -> None:
    (sample / name).unlink()
    os.mkfifo(sample / name)
    with pytest.raises(FailedWork, match="expected a regular file"):
        find(str(tmp_path), BRIDGE)
    reference = Reference(uri=str(sample), key="traj0")
    if name == "obs_dict.pkl":
        with pytest.raises(Rejected, match="unsafe_file"):
            read(EpisodeLocation(reference=reference), BRIDGE)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("change", "inferred"),
    [(lambda t: t, []), (lambda t: np.r_[t[:-1], t[-2]], ["times"]), (lambda t: t[::-1], ["times"])],
)
def test_times_that_repeat_or_go_back_are_kept(
    sample: Path, tmp_path: Path, change: Callable[[np.ndarray], np.ndarray], inferred: list[str]
) -> None:
    observations = pickle.loads((sample / "obs_dict.pkl").read_bytes())
    times = change(np.array(observations["time_stamp"]))
    (sample / "obs_dict.pkl").write_bytes(pickle.dumps(observations | {"time_stamp": times}))
    native = read_only(tmp_path)
    assert native.timestamp_s is not None and native.timestamp_s.tolist() == (times - times[0]).tolist()
    assert list(native.inferred) == inferred


@pytest.mark.shared
@pytest.mark.parametrize("times", [np.arange(5.0), np.full(34, np.nan)])
def test_times_that_are_no_times_are_refused(sample: Path, tmp_path: Path, times: np.ndarray) -> None:
    observations = pickle.loads((sample / "obs_dict.pkl").read_bytes())
    (sample / "obs_dict.pkl").write_bytes(pickle.dumps(observations | {"time_stamp": times}))
    with pytest.raises(Rejected, match="wrong_times"):
        read_only(tmp_path)


@pytest.mark.shared
@pytest.mark.parametrize(("traj_ok", "success"), [("false", 0), (None, -1), (np.bool_(True), 1), (float("nan"), -1)])
def test_traj_ok_is_read_as_it_was_meant(sample: Path, tmp_path: Path, traj_ok: Any, success: int) -> None:
    (sample / "agent_data.pkl").write_bytes(pickle.dumps({"traj_ok": traj_ok}))
    assert read_only(tmp_path).success == success


@pytest.mark.shared
def test_the_scan_knows_the_tasks_by_their_folders(shared: Path) -> None:
    found = find(str(shared / "data/sim/bridge_raw"), BRIDGE)
    assert sorted(found.tasks) == ["lift the red cube", "stack the red cube on the green cube"]


def test_a_folder_without_trajectories_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="raw/traj_group0/traj0 below it, found none"):
        find(str(tmp_path), BRIDGE)


def test_the_closing_action_holds_the_gripper() -> None:
    assert null_action(np.array([[1.0, 2, 3, 4, 5, 6, 0.5]])).tolist() == [[0, 0, 0, 0, 0, 0, 0.5]]


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_pickles_of_arrays_are_read_in_every_protocol(protocol: int) -> None:
    value = {"a": np.arange(6.0).reshape(2, 3), "b": [np.float64(1.5), True, None, "x"], "c": (b"y", 2)}
    loaded = load_pickle(pickle.dumps(value, protocol=protocol))
    assert np.array_equal(loaded["a"], value["a"]) and loaded["b"] == value["b"] and loaded["c"] == value["c"]


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_that_run_code_are_refused(protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pickle.UnpicklingError, match="expected numpy arrays and plain values, found posix.mkdir"):
        load_pickle(pickle.dumps(Bomb(), protocol=protocol))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("data", [b"", b"\x80", b"garbage", pickle.dumps(np.arange(3))[:-9], b"\x80\x04K\x01"])
def test_damaged_pickles_say_so(data: bytes) -> None:
    with pytest.raises(pickle.UnpicklingError):
        load_pickle(data)


def test_arrays_of_objects_are_refused() -> None:
    with pytest.raises(pickle.UnpicklingError, match="array of objects"):
        load_pickle(pickle.dumps({"a": np.array([1, "x"], object)}))
