"""HDF5 files of layouts that nobody shares, read by the keys that an entry names."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipelines.contract.embodiments import get_embodiment
from pipelines.contract.errors import FailedWork, UsageError
from pipelines.contract.native import NativeEpisode, Rejected
from pipelines.mapping.adapters import Adapter, parse_adapter
from pipelines.mapping.to_slots import to_episode
from pipelines.sources import hdf5
from tests.support.inputs.hdf5_files import jpeg, padded
from trainers.main import main

T = 5
ENTRY: dict[str, Any] = {
    "title": "a lab's own files",
    "format": "hdf5",
    "robot": "ur5e",
    "control_mode": "joint_position",
    "control_hz": 10,
    "units": "metric",
    "cameras": {"base_0_rgb": "obs/front"},
    "state": {"arm0": {"from": "obs/q", "degrees": True}, "gripper0": {"from": "obs/grip", "open": 0.1, "closed": 0}},
    "action": {"arm0": {"from": "cmd[0:6]", "degrees": True}, "gripper0": {"from": "cmd[6]", "open": 1, "closed": 0}},
    "language": ["what"],
}


def entry(**changes: Any) -> Adapter:
    return parse_adapter("lab", ENTRY | changes)


def fill(group: h5py.Group, number: int = 0) -> None:
    """One episode, as h5py writes it: joints in degrees, a gripper's opening in m as a flat array."""
    group["obs/q"] = np.full((T, 6), 90.0 + number)
    group["obs/grip"] = np.linspace(0.1, 0, T)
    group["cmd"] = np.tile([180.0, 0, 0, 0, 0, 0, 1.0], (T, 1))
    group["obs/front"] = np.full((T, 8, 8, 3), 40 * (number + 1), np.uint8)
    group.attrs["what"] = f"push block {number}"


def write(path: Path, groups: tuple[str, ...] = ("",)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for number, name in enumerate(groups):
            fill(file.require_group(name) if name else file["/"], number)
    return path


def read(source: Path, adapter: Adapter, number: int = 0) -> NativeEpisode:
    return hdf5.read(hdf5.find(str(source), adapter).episodes[number], adapter)


def test_a_file_is_an_episode_whose_keys_fill_slots(tmp_path: Path) -> None:
    native = read(write(tmp_path / "a.h5"), entry())
    episode = to_episode(native, entry(), get_embodiment("ur5e"), ["base_0_rgb"])
    assert episode.state[0, :7].tolist() == pytest.approx([np.pi / 2] * 6 + [0.0])
    assert episode.state[-1, 6] == pytest.approx(1.0)
    assert episode.action[0, :7].tolist() == pytest.approx([np.pi, 0, 0, 0, 0, 0, 0])
    assert episode.task == "push block 0" and episode.control_hz == 10


def test_every_file_is_an_episode(tmp_path: Path) -> None:
    for name in ("a", "b", "deeper/c"):
        write(tmp_path / f"{name}.hdf5")
    found = hdf5.find(str(tmp_path), entry())
    assert [located.reference.key for located in found.episodes] == ["a.hdf5", "b.hdf5", "deeper/c.hdf5"]


def test_groups_are_episodes_where_the_entry_says_which(tmp_path: Path) -> None:
    write(tmp_path / "in/a.hdf5", ("data/run_1", "data/run_2", "calibration/x"))
    adapter = entry(episodes="data/run_*")
    found = hdf5.find(str(tmp_path / "in"), adapter)
    assert [located.reference.key for located in found.episodes] == ["a.hdf5#data/run_1", "a.hdf5#data/run_2"]
    native = hdf5.read(found.episodes[1], adapter)
    assert native.task == "push block 1" and native.arrays["obs/q"][0, 0] == 91.0
    assert int(np.asarray(native.frames["obs/front"][0])[0, 0, 0]) == 80


def test_a_file_without_such_groups_is_a_reject_that_names_what_it_holds(tmp_path: Path) -> None:
    write(tmp_path / "in/a.hdf5", ("data/run_1",))
    write(tmp_path / "in/b.hdf5")
    (reject,) = hdf5.find(str(tmp_path / "in"), entry(episodes="data/*")).rejects
    assert (reject.source_key, reject.reason) == ("b.hdf5", "missing_key")
    assert "expected groups data/*, as the entry's `episodes` says, found cmd, obs" in reject.detail
    with pytest.raises(FailedWork, match="correct the entry's `episodes`"):
        hdf5.find(str(tmp_path / "in"), entry(episodes="demos/*"))


def test_a_file_that_cannot_be_read_costs_none_of_those_after_it(tmp_path: Path) -> None:
    (tmp_path / "a.hdf5").write_bytes(b"no HDF5")
    write(tmp_path / "b.hdf5", ("data/run_1",))
    found = hdf5.find(str(tmp_path), entry(episodes="data/*"))
    assert [located.reference.key for located in found.episodes] == ["b.hdf5#data/run_1"]
    assert [reject.source_key for reject in found.rejects] == ["a.hdf5"]


@pytest.mark.parametrize(
    ("groups", "pattern"),
    [
        (("data/demo_0", "data/demo_1"), ("data/*", 2, True)),
        (("left", "right"), ("", 0, False)),
        (("",), ("", 0, False)),
    ],
)
def test_groups_are_proposed_as_episodes_only_where_they_are_numbered(
    tmp_path: Path, groups: tuple[str, ...], pattern: tuple[str, int, bool]
) -> None:
    write(tmp_path / "a.hdf5", groups)
    assert hdf5._look_at_groups(str(tmp_path)) == pattern


def test_of_a_file_that_cannot_be_read_or_holds_more_than_groups_no_episodes_are_proposed(tmp_path: Path) -> None:
    (tmp_path / "a.hdf5").write_bytes(b"no HDF5")
    assert hdf5._look_at_groups(str(tmp_path)) == ("", 0, False)
    with h5py.File(write(tmp_path / "a.hdf5", ("data/demo_0", "data/demo_1")), "a") as file:
        file["calibration"] = np.eye(3)
    assert hdf5._look_at_groups(str(tmp_path)) == ("", 0, False)


def test_arrays_that_no_part_names_are_kept_where_they_are_numbers_of_the_steps(tmp_path: Path) -> None:
    with h5py.File(write(tmp_path / "a.h5"), "a") as file:
        file["force"], file["torque"], file["cloud"] = np.arange(T), np.zeros((T, 3)), np.zeros((T, 9, 3))
    arrays = read(tmp_path / "a.h5", entry()).arrays
    assert arrays["force"].reshape(-1).tolist() == list(range(T)) and "torque" in arrays and "cloud" not in arrays


def test_a_file_of_many_episodes_is_not_read_as_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", ("data/0", "data/1"))
    with pytest.raises(Rejected, match=r"expected obs/q, found .* 2 groups alike: say `episodes: data/\*`"):
        read(path, entry())


@pytest.mark.parametrize("form", ["rows", "texts"])
def test_encoded_pictures_are_known_by_their_first_bytes(tmp_path: Path, form: str) -> None:
    coded = [jpeg(np.full((8, 8, 3), 30 * i, np.uint8)) for i in range(T)]
    with h5py.File(write(tmp_path / "a.hdf5"), "a") as file:
        del file["obs/front"]
        file["obs/front"] = padded(coded, 2000) if form == "rows" else np.array(coded, "S2000")
        file["obs/bytes_that_are_numbers"] = np.ones((T, 4), np.uint8)
    native = read(tmp_path / "a.hdf5", entry())
    assert native.frames["obs/front"][2] == coded[2] and list(native.frames) == ["obs/front"]
    assert native.arrays["obs/bytes_that_are_numbers"].shape == (T, 4)


def test_pictures_with_channels_first_are_named(tmp_path: Path) -> None:
    with h5py.File(write(tmp_path / "a.hdf5"), "a") as file:
        del file["obs/front"]
        file["obs/front"] = np.zeros((T, 3, 8, 8), np.uint8)
    native = read(tmp_path / "a.hdf5", entry())
    assert not native.frames and "obs/front (uint8 [5, 3, 8, 8])" in native.cameras_found


def test_what_the_entry_does_not_name_may_be_of_another_length(tmp_path: Path) -> None:
    with h5py.File(write(tmp_path / "a.hdf5"), "a") as file:
        file["force"] = np.zeros((100 * T, 6))
        file["obs/slow_camera"] = np.zeros((2, 8, 8, 3), np.uint8)
    native = read(tmp_path / "a.hdf5", entry())
    assert native.n_steps == T and "force" not in native.arrays and list(native.frames) == ["obs/front"]


def test_keys_of_the_entry_of_other_lengths_are_refused(tmp_path: Path) -> None:
    with h5py.File(write(tmp_path / "a.hdf5"), "a") as file:
        del file["cmd"]
        file["cmd"] = np.zeros((T - 1, 7))
    with pytest.raises(Rejected, match="unequal_lengths: .* found obs/q 5, obs/grip 5, cmd 4"):
        read(tmp_path / "a.hdf5", entry())


def test_texts_of_steps_success_flags_and_rate_are_those_of_the_episode(tmp_path: Path) -> None:
    with h5py.File(write(tmp_path / "a.hdf5"), "a") as file:
        del file.attrs["what"]
        file["what"] = np.array([b"reach", b"reach", b"grasp", b"grasp", b"lift"])
        file.attrs.update({"success": False, "fps": 25, "operator": 3})
    native = read(tmp_path / "a.hdf5", entry())
    assert native.step_text == ("reach", "reach", "grasp", "grasp", "lift")
    assert (native.success, native.control_hz, native.flags["operator"]) == (0, 25.0, 3.0)


def test_an_instruction_under_a_usual_key_is_taken_and_stated(tmp_path: Path) -> None:
    with h5py.File(write(tmp_path / "a.hdf5"), "a") as file:
        file.attrs["language_instruction"] = "open the box"
    native = read(tmp_path / "a.hdf5", entry(language=["instruction_of_ours"]))
    assert native.task == "open the box" and "usual key" in native.inferred["language"]


def test_a_part_of_a_named_key_that_is_not_stored_rejects_the_episode(tmp_path: Path) -> None:
    with h5py.File(write(tmp_path / "a.hdf5"), "a") as file:
        del file["cmd"]
        file.create_dataset("cmd", (T, 7), chunks=(1, 7))[0] = 1.0
    with pytest.raises(Rejected, match="missing_chunk"):
        read(tmp_path / "a.hdf5", entry())
    del_unused = entry(action={})
    assert "cmd" not in read(tmp_path / "a.hdf5", del_unused).arrays


def test_episodes_are_of_this_format_alone() -> None:
    with pytest.raises(UsageError, match="episodes: expected format hdf5"):
        entry(format="aloha", episodes="data/*")


def test_without_an_entry_the_keys_that_are_there_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in/a.hdf5")
    facts = ("--name", "x", "--version", "1.0.0")
    assert main(["convert", "hdf5", str(tmp_path / "in"), str(tmp_path / "out"), *facts]) == 2
    said = capsys.readouterr().err
    assert "an entry that names the keys of" in said and "obs/front uint8 [5, 8, 8, 3]" in said


def test_pictures_reach_the_slot_in_the_order_of_colours_that_the_entry_states(tmp_path: Path) -> None:
    red = np.tile(np.array([220, 20, 20], np.uint8), (64, 64, 1))
    with h5py.File(write(tmp_path / "a.hdf5"), "a") as file:
        del file["obs/front"]
        file["obs/front"] = np.tile(red[..., ::-1], (T, 1, 1, 1))
    adapter = entry(cameras={"base_0_rgb": {"from": "obs/front", "channels": "bgr"}})
    episode = to_episode(read(tmp_path / "a.hdf5", adapter), adapter, get_embodiment("ur5e"), ["base_0_rgb"])
    assert np.asarray(episode.images["base_0_rgb"][0])[32, 32].tolist() == [220, 20, 20]


def test_a_part_that_some_episodes_lack_is_masked_off_there(tmp_path: Path) -> None:
    write(tmp_path / "a.hdf5", ("data/demo_0", "data/demo_7"))
    with h5py.File(tmp_path / "a.hdf5", "r+") as file:
        del file["data/demo_7/obs/grip"]
    state = {"arm0": ENTRY["state"]["arm0"], "gripper0": ENTRY["state"]["gripper0"] | {"when": "present"}}
    adapter = entry(episodes="data/demo_*", state=state)
    found = [
        to_episode(read(tmp_path, adapter, number), adapter, get_embodiment("ur5e"), ["base_0_rgb"])
        for number in (0, 1)
    ]
    assert [episode.state_mask[:7].tolist() for episode in found] == [[True] * 7, [True] * 6 + [False]]


def test_a_pose_may_be_a_matrix_a_step(tmp_path: Path) -> None:
    pose = np.eye(4)
    pose[:3, 3] = [0.1, 0.2, 0.3]
    with h5py.File(write(tmp_path / "a.hdf5"), "r+") as file:
        file["obs/pose"] = np.tile(pose, (T, 1, 1))
    arm = {"arm0": {"from": "obs/pose", "form": "matrix"}}
    adapter = entry(control_mode="ee_absolute", state=arm, action=arm)
    episode = to_episode(read(tmp_path / "a.hdf5", adapter), adapter, get_embodiment("ur5e"), ["base_0_rgb"])
    assert episode.state[0, :6].tolist() == pytest.approx([0.1, 0.2, 0.3, 0, 0, 0])
