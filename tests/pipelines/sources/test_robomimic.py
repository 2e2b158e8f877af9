"""Reading robomimic's layout as robosuite, LIBERO, RoboCasa and Isaac Lab write it."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipelines.contract.embodiments import get_embodiment
from pipelines.contract.errors import FailedWork, UsageError
from pipelines.contract.native import NativeEpisode, Rejected
from pipelines.conversion.launch import ConversionRequest, find_episodes
from pipelines.mapping.adapters import get_adapter
from pipelines.mapping.to_slots import to_episode
from pipelines.sources import robomimic
from tests.support.inputs.hdf5_files import T, write_libero, write_robomimic

ROBOMIMIC = get_adapter("robomimic")
LIBERO = get_adapter("libero_hdf5")
FRANKA = get_embodiment("franka")


def read_one(path: Path, number: int = 0) -> NativeEpisode:
    return robomimic.read(robomimic.find(str(path), ROBOMIMIC).episodes[number], ROBOMIMIC)


def test_demonstrations_keep_their_masks_as_splits(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "low_dim.hdf5")
    found = robomimic.find(str(path), ROBOMIMIC)
    assert [(e.reference.key, e.reference.split) for e in found.episodes] == [
        ("low_dim.hdf5#demo_0", "train"),
        ("low_dim.hdf5#demo_1", "val"),
    ]
    native = robomimic.read(found.episodes[1], ROBOMIMIC)
    assert (native.success, native.control_hz) == (1, 10.0)
    episode = to_episode(native, ROBOMIMIC, FRANKA, ["base_0_rgb"])
    assert episode.state[0, :7].tolist() == pytest.approx([0.1, 0.1, 0.1, 0, 0, 0.2, 0.25])
    assert episode.action[0, :7].tolist() == pytest.approx([0.05, 0, 0, 0, 0, 0.1, 0.0])


def test_a_libero_file_is_read_upright_in_metres_with_its_instruction(tmp_path: Path) -> None:
    write_libero(tmp_path / "KITCHEN_demo.hdf5")
    (located,) = robomimic.find(str(tmp_path), LIBERO).episodes
    native = robomimic.read(located, LIBERO)
    episode = to_episode(native, LIBERO, FRANKA, ["base_0_rgb", "left_wrist_0_rgb"])
    assert episode.state[0, :7].tolist() == pytest.approx([0.1, 0.2, 0.3, 0, 0, 0.5, 0.25])
    assert episode.action[0, :7].tolist() == pytest.approx([0.02, 0, -0.05, 0, 0, 0.1, 0.0])
    assert (episode.task, episode.success, episode.control_hz) == ("open the drawer", 1, 20.0)
    for frames in episode.images.values():
        red, blue, wall = frames[2][0, 8], frames[2][8, 0], frames[2][15, 15]
        assert (red.tolist(), blue.tolist(), wall.tolist()) == ([220, 30, 30], [30, 30, 220], [60, 60, 60])


def test_pictures_that_the_file_calls_upright_are_not_turned(tmp_path: Path) -> None:
    path = write_libero(tmp_path / "KITCHEN_demo.hdf5")
    with h5py.File(path, "a") as file:
        file["data"].attrs["macros_image_convention"] = "opencv"
    (located,) = robomimic.find(str(tmp_path), LIBERO).episodes
    with pytest.raises(Rejected, match="wrong_attributes: .*pictures are upright"):
        robomimic.read(located, LIBERO)


def test_liberos_keys_under_another_entry_name_the_entry_to_take(tmp_path: Path) -> None:
    write_libero(tmp_path / "KITCHEN_demo.hdf5")
    with pytest.raises(Rejected, match="missing_key: .*found LIBERO's keys; give --adapter libero_hdf5"):
        read_one(tmp_path)


DELTA = {"type": "OSC_POSE", "control_delta": True, "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5]}


@pytest.mark.parametrize(
    ("controller", "fault"),
    [
        (DELTA, ""),
        ({"type": "BASIC", "body_parts": {"right": DELTA | {"input_type": "delta"}}}, ""),
        (DELTA | {"output_max": [0.1, 0.1, 0.1, 0.5, 0.5, 0.5]}, "output_max"),
        (DELTA | {"output_max": 0.05}, "output_max"),
        (DELTA | {"control_delta": False}, "control_delta True, env_args states False"),
        (DELTA | {"type": "JOINT_VELOCITY"}, "type OSC_POSE, env_args states JOINT_VELOCITY"),
        ({"type": "BASIC", "body_parts": {"right": DELTA | {"input_type": "absolute"}}}, "input_type delta"),
    ],
)
def test_a_controller_of_another_scale_is_refused(tmp_path: Path, controller: dict, fault: str) -> None:
    path = write_robomimic(tmp_path / "demo.hdf5")
    with h5py.File(path, "a") as file:
        file["data"].attrs["env_args"] = json.dumps({"env_kwargs": {"controller_configs": controller}})
    if not fault:
        assert read_one(path).n_steps == T
        return
    with pytest.raises(Rejected, match=f"wrong_attributes: .*{fault}"):
        read_one(path)


def edit(path: Path, *, demo: dict[str, Any] | None = None, data: dict[str, Any] | None = None) -> None:
    """Changes the first demonstration: its attributes, and (arrays) its datasets; and the attributes of all."""
    with h5py.File(path, "a") as file:
        group = file["data/demo_0"]
        for key, value in (demo or {}).items():
            if isinstance(value, np.ndarray):
                if key in group:
                    del group[key]
                group[key] = value
            else:
                group.attrs[key] = value
        file["data"].attrs.update(data or {})


@pytest.mark.parametrize(
    ("demo", "data", "instruction"),
    [
        ({"ep_meta": json.dumps({"lang": "turn on the stove"})}, {}, "turn on the stove"),
        (
            {"ep_meta": json.dumps({"lang": "turn on the stove"})},
            {"problem_info": json.dumps({"language_instruction": "open the drawer"})},
            "turn on the stove",
        ),
        ({}, {"problem_info": json.dumps({"language_instruction": list("open it")})}, "open it"),
        ({}, {"env_args": json.dumps({"env_lang": "lift the cube", "env_kwargs": {}})}, "lift the cube"),
        ({"language_instruction": "b'stack the cubes'"}, {}, "stack the cubes"),
        ({"ep_meta": json.dumps({"lang": "<task description>"})}, {}, ""),
        ({"ep_meta": "not JSON"}, {"problem_info": "[1, 2]"}, ""),
    ],
)
def test_the_stored_instruction_is_the_task_of_its_demonstration(
    tmp_path: Path, demo: dict, data: dict, instruction: str
) -> None:
    path = write_robomimic(tmp_path / "demo.hdf5")
    edit(path, demo=demo, data=data)
    native = read_one(path)
    assert (native.task, native.language) == (instruction, (instruction,) if instruction else ())


def request(source: Path, task: str) -> ConversionRequest:
    return ConversionRequest(
        source=str(source), output_root="out", name="a", version="1.0.0", adapter=ROBOMIMIC, task=task
    )


def test_one_task_for_an_input_of_two_is_refused(tmp_path: Path) -> None:
    for task in ("open the drawer", "turn on the stove"):
        path = write_robomimic(tmp_path / f"{task.split()[-1]}.hdf5")
        edit(path, data={"problem_info": json.dumps({"language_instruction": task})})
    assert len(find_episodes(request(tmp_path, "")).episodes) == 4
    with pytest.raises(UsageError, match="found 2 .'open the drawer', 'turn on the stove'.. Leave --task out"):
        find_episodes(request(tmp_path, "do it"))
    assert len(find_episodes(request(tmp_path / "stove.hdf5", "do it")).episodes) == 2


def test_one_task_for_two_environments_without_instructions_is_refused(tmp_path: Path) -> None:
    for name in ("Lift", "Stack"):
        edit(write_robomimic(tmp_path / f"{name}.hdf5"), data={"env_args": json.dumps({"env_name": name})})
    with pytest.raises(UsageError, match="found 2 .'Lift', 'Stack'."):
        find_episodes(request(tmp_path, "do it"))


ZEROS, SPARSE, SHAPED = np.zeros(T), np.array([0.0, 0, 0, 1]), np.array([0.1, 0.2, 0.3, 0.3])


@pytest.mark.parametrize(
    ("demo", "success"),
    [
        ({"rewards": ZEROS, "dones": ZEROS}, -1),
        ({"rewards": ZEROS}, -1),
        ({"rewards": SHAPED, "dones": ZEROS}, -1),
        ({"rewards": SHAPED, "dones": SPARSE}, -1),
        ({"rewards": SPARSE, "dones": ZEROS}, 1),
        ({"rewards": ZEROS, "dones": SPARSE}, 1),
        ({"rewards": np.array([0.1, 0.5, 1.0, 1.0])}, -1),
        ({"rewards": ZEROS, "success": True}, 1),
        ({"rewards": SPARSE, "success": False}, 0),
        ({"rewards": SPARSE, "success": "false"}, 0),
        ({"rewards": ZEROS, "success": float("nan")}, -1),
        ({"success": np.array([False, False, True, True])}, 1),
    ],
)
def test_success_is_what_says_so_and_no_reward_of_zero(tmp_path: Path, demo: dict, success: int) -> None:
    path = write_robomimic(tmp_path / "demo.hdf5")
    edit(path, demo=demo)
    assert read_one(path).success == success


def test_a_success_that_is_neither_yes_nor_no_is_refused(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "demo.hdf5")
    edit(path, demo={"success": "maybe"})
    with pytest.raises(Rejected, match="foreign_flag"):
        read_one(path)


@pytest.mark.parametrize(
    ("demo", "texts"),
    [
        ({"subtask": np.array([b"reach", b"reach", b"", b"lift"])}, ("reach", "reach", "", "lift")),
        (
            {
                "action_config": json.dumps(
                    [
                        {"start_frame": 0, "end_frame": 2, "action_text": "Pick up the cup."},
                        {"start_frame": 3, "end_frame": 4, "action_text": "Put it down.", "skill": "Place"},
                    ]
                )
            },
            ("Pick up the cup.", "Pick up the cup.", "", "Put it down."),
        ),
        ({}, None),
    ],
)
def test_the_instruction_of_each_step_is_read(tmp_path: Path, demo: dict, texts: tuple[str, ...] | None) -> None:
    path = write_robomimic(tmp_path / "demo.hdf5")
    edit(path, demo=demo)
    assert read_one(path).step_text == texts


def test_spans_of_text_beyond_the_episode_are_refused(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "demo.hdf5")
    edit(path, demo={"action_config": json.dumps([{"start_frame": 2, "end_frame": 9, "action_text": "x"}])})
    with pytest.raises(Rejected, match="wrong_attributes: .*expected frames within 0 to 4, found 2 to 9"):
        read_one(path)


def test_fewer_steps_than_promised_are_a_reject(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "demo.hdf5")
    edit(path, demo={"num_samples": T + 6})
    with pytest.raises(Rejected, match="promised_missing: .*num_samples promises 10 steps, found 4"):
        read_one(path)
    edit(path, demo={"num_samples": T - 1})
    with pytest.raises(Rejected, match="unequal_lengths"):
        read_one(path)


def test_promised_demonstrations_that_are_not_there_are_rejects(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "demo.hdf5")
    edit(path, data={"num_demos": 4})
    with h5py.File(path, "a") as file:
        file["mask/valid"][...] = [b"demo_7"]
    found = robomimic.find(str(path), ROBOMIMIC)
    assert [(reject.source_key, reject.reason) for reject in found.rejects] == [
        ("demo.hdf5#demo_7", "promised_missing"),
        ("demo.hdf5#lost_2", "promised_missing"),
    ]
    assert len(found.episodes) == 2


def test_a_count_that_no_file_holds_is_refused(tmp_path: Path) -> None:
    edit(write_robomimic(tmp_path / "demo.hdf5"), data={"num_demos": 10**9})
    with pytest.raises(FailedWork, match="num_demos: expected at most 100000, found 1000000000"):
        robomimic.find(str(tmp_path), ROBOMIMIC)


def test_pictures_that_are_not_read_are_named(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "demo.hdf5")
    with h5py.File(path, "a") as file:
        del file["data/demo_0/obs/agentview_image"]
        file["data/demo_0/obs/agentview_image"] = np.zeros((T, 8, 8, 3), np.uint16)
    with pytest.raises(Rejected, match=r"no_camera: .*found agentview_image \(uint16 \[4, 8, 8, 3\]\)"):
        to_episode(read_one(path), ROBOMIMIC, FRANKA, ["base_0_rgb"])


def test_a_file_that_cannot_be_read_does_not_stop_the_others(tmp_path: Path) -> None:
    write_robomimic(tmp_path / "a.hdf5")
    (tmp_path / "b.hdf5").write_bytes(b"no HDF5")
    h5py.File(tmp_path / "c.hdf5", "w").close()
    found = robomimic.find(str(tmp_path), ROBOMIMIC)
    assert [e.reference.key for e in found.episodes] == ["a.hdf5#demo_0", "a.hdf5#demo_1"]
    assert [(reject.source_key, reject.reason) for reject in found.rejects] == [
        ("b.hdf5", "unreadable_hdf5"),
        ("c.hdf5", "unreadable_hdf5"),
    ]
    (tmp_path / "a.hdf5").unlink()
    with pytest.raises(FailedWork, match="b.hdf5: expected a robomimic file"):
        robomimic.find(str(tmp_path), ROBOMIMIC)


def test_what_mimicgen_adds_to_a_demonstration_changes_nothing(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        demo = file["data/demo_0"]
        # As mimicgen/scripts/generate_dataset.py leaves it: poses of objects, and the numbers of source demonstrations.
        demo["datagen_info/eef_pose"] = np.tile(np.eye(4), (T, 1, 1))
        demo["datagen_info/object_poses/cube"] = np.tile(np.eye(4), (T, 1, 1))
        demo["src_demo_inds"], demo["src_demo_labels"] = np.zeros(2), np.zeros((T, 1))
        demo["states"] = np.zeros((T, 45))
    adapter = get_adapter("robomimic")
    native = robomimic.read(robomimic.find(str(tmp_path), adapter).episodes[0], adapter)
    assert native.n_steps == T and "obs/robot0_eef_pos" in native.arrays and list(native.frames) == ["agentview_image"]


def test_arrays_of_pictures_without_colours_are_no_vectors(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        file["data/demo_0/obs/agentview_depth"] = np.zeros((T, 8, 8), np.float32)
    assert "obs/agentview_depth" not in read_one(path).arrays


def test_inspect_is_told_the_controller_that_the_file_states(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "demo.hdf5")
    with h5py.File(path, "a") as file:
        arguments = {"env_name": "Lift", "env_kwargs": {"robots": "Panda", "controller_configs": DELTA}}
        file["data"].attrs["env_args"] = json.dumps(arguments)
    facts = robomimic.describe(str(path), robomimic.find(str(path), ROBOMIMIC))
    assert facts.notes == ("env_args states the controller OSC_POSE",) and facts.robot == "Panda"


def test_a_missing_key_is_not_called_liberos_where_the_keys_are_others(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "demo.hdf5")
    with h5py.File(path, "a") as file:
        for key in [key for key in file["data/demo_0/obs"] if key.startswith("robot0_")]:
            file["data/demo_0/obs"].move(key, f"other_{key}")
    assert "obs/other_robot0_eef_pos" in read_one(path).arrays


def test_a_folder_without_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at or below it, found none"):
        robomimic.find(str(tmp_path), ROBOMIMIC)


def test_a_file_whose_name_holds_the_separator_is_read(tmp_path: Path) -> None:
    write_robomimic(tmp_path / "take#2.hdf5")
    found = robomimic.find(str(tmp_path), ROBOMIMIC)
    assert [e.reference.key for e in found.episodes] == ["take#2.hdf5#demo_0", "take#2.hdf5#demo_1"]
    assert robomimic.read(found.episodes[1], ROBOMIMIC).success == 1
