"""Entries of newer open sets, on twins with the features that cards and converters list: which column lands where."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.contract.embodiments import get_embodiment
from pipelines.mapping.adapters import get_adapter
from pipelines.mapping.to_slots import to_episode
from pipelines.sources.lerobot import find, read
from tests.support.inputs.lerobot_writer import write_lines, write_video

TEXT = (Path(__file__).parents[3] / "pipelines/adapters_open.yaml").read_text()
T = 4
SIX, SEVEN = range(1, 7), range(1, 8)
SIDES, KEYS, AGIBOT = ("left", "right"), ("observation.state", "action"), ("observation.states", "actions")


def robocoin_names(joints: range, has_poses: bool) -> list[str]:
    """As the cards of RoboCOIN list them, with grippers and poses last."""
    arms = [f"{side}_arm_joint_{i}_rad" for side in ("left", "right") for i in joints]
    poses = [f"{side}_eef_{what}_{axis}" for side in SIDES for what in ("pos", "rot") for axis in "xyz"]
    return [*arms, "left_gripper_open", "right_gripper_open", *(poses if has_poses else [])]


@dataclass(frozen=True, kw_only=True)
class Twin:
    """What a set's files hold: widths or names of the columns of each key, and cameras.

    opened: per key the columns of grippers, and the number that opens them. state, action: which column is in which
    slot; every column of a key holds its number in hundredths, those of grippers apart.
    """

    columns: dict[str, Any]
    cameras: list[str]
    opened: dict[str, dict[int, float]]
    state: dict[int, tuple[str, int]]
    action: dict[int, tuple[str, int]]
    grippers: dict[str, list[int]] = field(default_factory=lambda: {"state": [6, 13], "action": [6, 13]})


def run(key: str, columns: range, slots: list[int]) -> dict[int, tuple[str, int]]:
    return {slot: (key, column) for slot, column in zip(slots, columns, strict=True)}


ARM0, ARM1 = list(range(6)), list(range(7, 13))
LONG0, LONG1 = [*ARM0, 18], [*ARM1, 19]
TOP = "observation.images.camera_top"


def robomind(width: int) -> Twin:
    state, action = "observation.states.joint_position", "actions.joint_position"
    slots = [6] if width == 7 else [7]
    return Twin(
        columns={state: width, action: width, "observation.states.end_effector": 6},
        cameras=[TOP],
        opened={state: {width - 1: 0.0}, action: {width - 1: 0.0}},
        state=run(state, range(width - 1), list(range(width - 1))),
        action=run(action, range(width - 1), list(range(width - 1))),
        grippers={"state": slots, "action": slots},
    )


def robocoin(joints: range, camera: str, has_poses: bool) -> Twin:
    n, names = len(joints), robocoin_names(joints, has_poses)
    left, right = (ARM0, ARM1) if n == 6 else (LONG0, LONG1)
    scales = {"gripper_open_scale_state": 2, "gripper_open_scale_action": 2}
    sides = {
        key: run(key, range(n), left) | run(key, range(n, 2 * n), right) for key in ("observation.state", "action")
    }
    return Twin(
        columns={"observation.state": names, "action": names, **scales},
        cameras=[camera, "observation.images.cam_left_wrist_rgb", "observation.images.cam_right_wrist_rgb"],
        opened={key: {0: 1.0, 1: 1.0} for key in scales},
        state=sides["observation.state"],
        action=sides["action"],
    )


def droid(action: str) -> Twin:
    arm, gripper = "observation.state.joint_position", "observation.state.gripper_position"
    return Twin(
        columns={arm: 7, gripper: 1, action: 7, "action.gripper_position": 1},
        cameras=["observation.images.exterior_1_left", "observation.images.wrist_left"],
        opened={gripper: {0: 0.0}, "action.gripper_position": {0: 0.0}},
        state=run(arm, range(7), list(range(7))),
        action=run(action, range(7), list(range(7))),
        grippers={"state": [7], "action": [7]},
    )


JOINTS = ("ShoulderPitch", "ShoulderRoll", "ShoulderYaw", "Elbow", "WristRoll", "WristPitch", "WristYaw")


def unitree(gripper: str, opened: float) -> Twin:
    names = [f"k{side}{joint}" for side in ("Left", "Right") for joint in JOINTS]
    names += [f"kLeft{gripper}", f"kRight{gripper}"]
    return Twin(
        columns={key: names for key in KEYS},
        cameras=[f"observation.images.cam_{name}" for name in ("left_high", "left_wrist", "right_wrist")],
        opened={key: {14: opened, 15: opened} for key in KEYS},
        state=run("observation.state", range(7), LONG0) | run("observation.state", range(7, 14), LONG1),
        action=run("action", range(7), LONG0) | run("action", range(7, 14), LONG1),
    )


TWINS = {
    "unitree_r1_dex1": unitree("Dex1", 5.5),
    "unitree_g1_dex1": unitree("Gripper", 5.4),
    "robomind_ur5e": robomind(7),
    "robomind_franka": robomind(8),
    "robomind_franka_dual": Twin(
        columns={"observation.states.joint_position": 16, "actions.joint_position": 16},
        cameras=["observation.images.camera_front"],
        opened={key: {7: 0.0, 15: 0.0} for key in ("observation.states.joint_position", "actions.joint_position")},
        state=run("observation.states.joint_position", range(7), LONG0)
        | run("observation.states.joint_position", range(8, 15), LONG1),
        action=run("actions.joint_position", range(7), LONG0) | run("actions.joint_position", range(8, 15), LONG1),
    ),
    "robocoin_r1_lite": robocoin(SIX, "observation.images.cam_head_left_rgb", False),
    "robocoin_cobot_magic": robocoin(SIX, "observation.images.cam_high_rgb", True),
    "robocoin_realman": robocoin(SEVEN, "observation.images.cam_high_rgb", True),
    "galaxea_open_world": Twin(
        columns={
            **{f"observation.state.{side}_arm": 7 for side in SIDES},
            **{f"action.{side}_arm": 6 for side in SIDES},
            **{f"{key}.{side}_gripper": 1 for key in KEYS for side in SIDES},
            "action.chassis.velocities": 3,
            "observation.state.torso": 4,
        },
        cameras=[f"observation.images.{name}_rgb" for name in ("head", "left_wrist", "right_wrist")],
        opened={f"{key}.{side}_gripper": {0: 100.0} for key in KEYS for side in SIDES},
        state=run("observation.state.left_arm", range(6), ARM0) | run("observation.state.right_arm", range(6), ARM1),
        action=run("action.left_arm", range(6), ARM0)
        | run("action.right_arm", range(6), ARM1)
        | run("action.chassis.velocities", range(3), [14, 15, 16]),
    ),
    "molmoact2_yam": Twin(
        columns={"observation.state": 14, "action": 14},
        cameras=[f"observation.images.{name}" for name in ("top", "left", "right")],
        opened={key: {6: 1.0, 13: 1.0} for key in ("observation.state", "action")},
        state=run("observation.state", range(6), ARM0) | run("observation.state", range(7, 13), ARM1),
        action=run("action", range(6), ARM0) | run("action", range(7, 13), ARM1),
    ),
    "agibot_beta": Twin(
        columns={
            **{f"{key}.{part}.position": 2 for key in AGIBOT for part in ("effector", "head", "waist")},
            **{f"{key}.joint.position": 14 for key in AGIBOT},
            "actions.robot.velocity": 2,
        },
        cameras=[f"observation.images.{name}" for name in ("head", "hand_left", "hand_right")],
        opened={"actions.effector.position": {0: 0.0, 1: 0.0}},
        state=run("observation.states.joint.position", range(7), LONG0)
        | run("observation.states.joint.position", range(7, 14), LONG1)
        | run("observation.states.waist.position", range(2), [20, 17])
        | run("observation.states.head.position", range(2), [24, 25]),
        action=run("actions.joint.position", range(7), LONG0)
        | run("actions.joint.position", range(7, 14), LONG1)
        | run("actions.waist.position", range(2), [20, 17])
        | run("actions.head.position", range(2), [24, 25])
        | run("actions.robot.velocity", range(2), [14, 15]),
        grippers={"state": [], "action": [6, 13]},
    ),
    "lerobot_droid_1_0_1": droid("action.joint_position"),
    "lerobot_droid_1_0_1_joint_velocity": droid("action.joint_velocity"),
}  # fmt: skip


def value(key: str, column: int, twin: Twin) -> float:
    return twin.opened.get(key, {}).get(column, 0.01 * (column + 1))


def write_twin(root: Path, twin: Twin) -> Path:
    """Writes one episode as LeRobot v2.1."""
    features: dict[str, Any] = {camera: {"dtype": "video", "shape": [64, 64, 3]} for camera in twin.cameras}
    rows: dict[str, Any] = {}
    for key, columns in twin.columns.items():
        n = columns if isinstance(columns, int) else len(columns)
        names = None if isinstance(columns, int) else columns
        features[key] = {"dtype": "float32", "shape": [n], "names": names}
        numbers = np.tile([value(key, i, twin) for i in range(n)], (T, 1)).astype(np.float32)
        rows[key] = pa.array(list(numbers), pa.list_(pa.float32()))
    (root / "meta").mkdir(parents=True)
    info = {"codebase_version": "v2.1", "robot_type": "x", "fps": 10, "total_episodes": 1, "features": features}
    (root / "meta/info.json").write_text(json.dumps(info))
    write_lines(root / "meta/episodes.jsonl", [{"episode_index": 0, "tasks": ["push it"], "length": T}])
    write_lines(root / "meta/tasks.jsonl", [{"task_index": 0, "task": "push it"}])
    times = np.arange(T, dtype=np.float32) / 10
    for name, numbers in {"frame_index": np.arange(T), "index": np.arange(T)}.items():
        rows[name] = numbers
    rows |= {"timestamp": times, "episode_index": np.zeros(T, np.int64), "task_index": np.zeros(T, np.int64)}
    (root / "data/chunk-000").mkdir(parents=True)
    pq.write_table(pa.table(rows), root / "data/chunk-000/episode_000000.parquet")
    for camera in twin.cameras:
        write_video(root / f"videos/chunk-000/{camera}/episode_000000.mp4", range(T))
    return root


def test_every_entry_has_a_twin_and_says_that_no_real_bytes_were_read() -> None:
    names = re.findall(r"^  (\w+):$", TEXT, re.M)
    assert sorted(names) == sorted(TWINS)
    for name in names:
        assert get_adapter(name).note.startswith("untested on real bytes")


@pytest.mark.parametrize("name", sorted(TWINS))
def test_every_column_of_a_twin_lands_in_its_slot_and_open_grippers_are_open(name: str, tmp_path: Path) -> None:
    twin, adapter = TWINS[name], get_adapter(name)
    native = read(find(str(write_twin(tmp_path, twin)), adapter).episodes[0], adapter)
    embodiment = get_embodiment(adapter.robot)
    episode = to_episode(native, adapter, embodiment, list(adapter.all_cameras))
    scale = 3.0 if adapter.control_mode == "joint_velocity" else 1.0
    for vectors, mask, meant, side, factor in (
        (episode.state, episode.state_mask, twin.state, "state", 1.0),
        (episode.action, episode.action_mask, twin.action, "action", scale),
    ):
        expected = np.zeros(len(mask))
        for slot, (key, column) in meant.items():
            expected[slot] = factor * value(key, column, twin)
        np.testing.assert_allclose(vectors[0], expected, atol=1e-6)
        assert np.flatnonzero(mask).tolist() == sorted([*meant, *twin.grippers[side]])
    assert sorted(episode.images) == sorted(adapter.all_cameras)
