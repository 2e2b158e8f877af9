"""The demo's raw logs: Bridge v2 folders of JPEGs and pickles, DROID folders of HDF5 and MP4."""

import json
import pickle
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from trainers.demo.pictures import draw_base, draw_wrist
from trainers.demo.script import Recording
from trainers.demo.world import Array, hand_positions, headings

BRIDGE_START = datetime(2023, 3, 14, 10, 20, 30, tzinfo=UTC)
DROID_START = datetime(2024, 5, 6, 10, 11, 12, tzinfo=UTC)
BRIDGE_PX, DROID_PX = (640, 480), (320, 180)
DROID_CAMERAS = {"18650758": "wrist", "22008760": "left", "24400334": "front"}
DROID_LIMITS = {"cartesian": np.array([0.075] * 3 + [0.15] * 3), "joint": 0.2, "gripper": 0.25}
# The grasp frame's axes in the base frame while the hand points straight down.
HAND_DOWN = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
HAND_DOWN_EULER = (np.pi, 0.0, np.pi / 2)
LAB = "DEMO"


def end_effector_steps(recording: Recording) -> tuple[Array, Array]:
    """States and actions as Bridge has them, both [t, 7]: xyz (m), rpy (rad, 0 is straight down), gripper 1 open;
    actions are the step from the measured state to the commanded one, and the commanded gripper."""
    body, worlds = recording.body, recording.at_control_steps()
    at, goal = (
        np.column_stack([hand_positions(body, joints)[:, 0], np.zeros((len(joints), 2)), headings(body, joints)[:, 0]])
        for joints in (
            np.stack([world.joints for world in worlds]),
            np.stack([command.joints for command in recording.commands]),
        )
    )
    open_now = 1.0 - np.array([world.gripper[0] for world in worlds])
    open_goal = 1.0 - np.array([command.gripper[0] for command in recording.commands])
    return np.column_stack([at, open_now]), np.column_stack([goal - at, open_goal])


def write_bridge(root: Path, made: Iterable[tuple[Recording, str]]) -> int:
    """Writes a Bridge v2 raw tree; an episode with the flaw `one_step` holds one observation and no action."""
    written = 0
    for k, (recording, flaw) in enumerate(made):
        slug = recording.scene.task.replace(" ", "_")
        session = root / "demo" / "demo_tabletop1" / slug / "00" / f"{BRIDGE_START:%Y-%m-%d_%H-%M-%S}"
        folder = session / "raw" / "traj_group0" / f"traj{k}"
        folder.mkdir(parents=True, exist_ok=True)
        steps = 1 if flaw == "one_step" else len(recording.commands)
        if k == 0:
            _write_bridge_session(session, recording, steps)
        _write_bridge_trajectory(folder, recording, steps, k)
        written += 1
    return written


def write_droid(root: Path, made: Iterable[tuple[Recording, str]]) -> int:
    """Writes DROID raw folders, successes and failures apart, and the file of their sentences."""
    sentences, written = {}, 0
    for k, (recording, _) in enumerate(made):
        start = DROID_START + timedelta(minutes=11 * k)
        user = uuid.uuid5(uuid.NAMESPACE_URL, "demo operator").hex[:8]
        stamp = f"{start:%Y-%m-%d-%Hh-%Mm-%Ss}"
        outcome = "success" if recording.success else "failure"
        day = f"{start:%a_%b}_{start.day:_>2}_{start:%H:%M:%S_%Y}"
        place = f"{outcome}/{start:%Y-%m-%d}/{day}"
        folder = root / LAB / place
        (folder / "recordings" / "MP4").mkdir(parents=True, exist_ok=True)
        _write_droid_table(folder / "trajectory.h5", recording, start)
        for serial, view in DROID_CAMERAS.items():
            _write_droid_video(folder / "recordings" / "MP4" / f"{serial}.mp4", recording, view)
        name = f"{LAB}+{user}+{stamp}"
        metadata = _droid_metadata(recording, name, user, start, place)
        (folder / f"metadata_{name}.json").write_text(json.dumps(metadata))
        if recording.success:
            sentences[name] = _droid_sentences(recording.scene.task)
        written += 1
    (root / "aggregated-annotations-demo.json").write_text(json.dumps(sentences, indent=1))
    return written


def _write_bridge_session(session: Path, recording: Recording, steps: int) -> None:
    env = {"camera_topics": ["/D435/color/image_raw"], "control_hz": int(recording.body.control_hz)}
    (session / "config.json").write_text(json.dumps({"agent": {"T": steps, "env": ["DemoEnv", env]}}, indent=1))
    collection = {
        "camera_type": "drawn",
        "robot": "WidowX 250",
        "environment": "demo_tabletop1",
        "policy_desc": "scripted",
        "object_classes": [recording.scene.task],
        "demonstrator": "demo_script",
    }
    (session / "collection_metadata.json").write_text(json.dumps(collection, indent=1))


def _write_bridge_trajectory(folder: Path, recording: Recording, steps: int, number: int) -> None:
    import simplejpeg

    body, worlds = recording.body, recording.at_control_steps()[:steps]
    (folder / "images0").mkdir(exist_ok=True)
    for k, world in enumerate(worlds):
        picture = np.ascontiguousarray(draw_base(body, recording.scene, world, *BRIDGE_PX))
        (folder / "images0" / f"im_{k}.jpg").write_bytes(simplejpeg.encode_jpeg(picture, quality=90))
    state, action = (values[:steps] for values in end_effector_steps(recording))
    joints = np.stack([world.joints[0] for world in worlds])
    stamps = (BRIDGE_START + timedelta(minutes=number)).timestamp() + np.arange(steps) / body.control_hz
    observation = {
        "full_state": state,
        "state": state,
        "desired_state": state + action * ([1.0] * 6 + [0.0]),
        "qpos": joints,
        "qvel": _speeds(joints, body.control_hz),
        "joint_effort": np.zeros((steps, 6)),
        "time_stamp": stamps,
        "t_get_obs": np.full(steps, 0.012),
        "eef_transform": _poses(state[:, :6]),
        "high_bound": np.array([0.9, 0.6, 0.8, 1.57, 0.0]),
        "low_bound": np.array([0.1, -0.6, -0.2, -1.57, 0.0]),
        "env_done": np.arange(steps) == steps - 1,
    }
    poses = _poses(state[:, :6])
    targets = _poses(state[:, :6] + action[:, :6])
    policy = [
        {
            "actions": action[k],
            "new_robot_transform": targets[k],
            "delta_robot_transform": targets[k] @ np.linalg.inv(poses[k]),
            "policy_type": "DemoScripted",
        }
        for k in range(steps - 1)
    ]
    agent = {"traj_ok": recording.success, "term_t": steps - 1, "camera_info": {}, "stats": {}}
    for name, value in (("obs_dict", observation), ("policy_out", policy), ("agent_data", agent)):
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(value))
    (folder / "lang.txt").write_text(f"{recording.scene.task}\nconfidence: 1\n")


def _poses(state: Array) -> Array:
    """Poses [t, 4, 4] of a hand that points straight down, from xyz and rpy [t, 6] of which roll and pitch are 0."""
    cos, sin = np.cos(state[:, 5]), np.sin(state[:, 5])
    poses = np.tile(np.eye(4), (len(state), 1, 1))
    turn = np.array([[cos, -sin, 0 * cos], [sin, cos, 0 * cos], [0 * cos, 0 * cos, 1 + 0 * cos]])
    poses[:, :3, :3], poses[:, :3, 3] = turn.transpose(2, 0, 1) @ HAND_DOWN, state[:, :3]
    return poses


def _speeds(joints: Array, rate_hz: float) -> Array:
    return np.gradient(joints, 1.0 / rate_hz, axis=0) if len(joints) > 1 else np.zeros_like(joints)


def _write_droid_table(path: Path, recording: Recording, start: datetime) -> None:
    import h5py

    t = len(recording.commands)
    columns = _droid_robot_columns(recording) | _droid_clock_columns(recording, start) | _droid_camera_columns(t)
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file.create_dataset(name, data=values)
        file.attrs.update(
            {
                "time": f"{start:%a_%b_%d_%H:%M:%S_%Y}",
                "robot_serial_number": "panda-000000-0000000",
                "version_number": "1.3",
                "user": "Demo Operator",
                "building": "Drawn",
                "scene_id": 1,
                "current_task": recording.scene.task,
                "success": recording.success,
                "failure": not recording.success,
                "movement_enabled": True,
                "controller_on": True,
            }
        )
        for name in ("fixed_tasks", "new_tasks"):
            file.attrs.create(name, [recording.scene.task], dtype=h5py.string_dtype())


def _droid_robot_columns(recording: Recording) -> dict[str, np.ndarray]:
    """Robot state and every form of the action; velocities are normalised by DROID's limits per step."""
    body, worlds = recording.body, recording.at_control_steps()
    joints = np.stack([world.joints[0] for world in worlds])
    goals = np.stack([command.joints[0] for command in recording.commands])
    gripper = np.array([world.gripper[0] for world in worlds])
    gripper_goal = np.array([command.gripper[0] for command in recording.commands])
    pose, pose_goal = (
        np.column_stack([hand_positions(body, q[:, None])[:, 0], np.tile(HAND_DOWN_EULER, (len(q), 1))])
        for q in (joints, goals)
    )
    seven = np.zeros_like(joints)
    state = {
        "cartesian_position": pose,
        "gripper_position": gripper,
        "joint_positions": joints,
        "joint_velocities": _speeds(joints, body.control_hz),
        "joint_torques_computed": seven,
        "motor_torques_measured": seven,
        "prev_joint_torques_computed": seven,
        "prev_joint_torques_computed_safened": seven,
        "prev_command_successful": np.ones(len(joints), bool),
        "prev_controller_latency_ms": np.full(len(joints), 0.34),
    }
    action = {
        "cartesian_position": pose_goal,
        "joint_position": goals,
        "gripper_position": gripper_goal,
        "cartesian_velocity": np.clip((pose_goal - pose) / DROID_LIMITS["cartesian"], -1, 1),
        "joint_velocity": np.clip((goals - joints) / DROID_LIMITS["joint"], -1, 1),
        "gripper_velocity": np.clip((gripper_goal - gripper) / DROID_LIMITS["gripper"], -1, 1),
        "target_cartesian_position": pose_goal,
        "target_gripper_position": gripper_goal,
    }
    columns = {f"observation/robot_state/{name}": values for name, values in state.items()}
    columns |= {f"action/robot_state/{name}": values for name, values in state.items()}
    return columns | {f"action/{name}": values for name, values in action.items()}


def _droid_clock_columns(recording: Recording, start: datetime) -> dict[str, np.ndarray]:
    """Clocks in ms since the epoch, and the operator's buttons: success or failure is pressed on the last row."""
    t = len(recording.commands)
    last = np.arange(t) == t - 1
    now = (start.timestamp() * 1000 + np.arange(t) * 1000 / recording.body.control_hz).astype(np.int64)
    nanos = start.timestamp() * 1e9 + np.arange(t) * 1e9 / recording.body.control_hz
    columns = {
        "controller_info/success": last & recording.success,
        "controller_info/failure": last & (not recording.success),
        "controller_info/movement_enabled": np.ones(t, bool),
        "controller_info/controller_on": np.ones(t, bool),
        "timestamp/skip_action": np.zeros(t, bool),
        "timestamp/robot_state/robot_timestamp_seconds": (nanos // 1e9).astype(np.int64),
        "timestamp/robot_state/robot_timestamp_nanos": (nanos % 1e9).astype(np.int64),
        "timestamp/robot_state/read_start": now,
        "timestamp/robot_state/read_end": now + 2,
    }
    for delay_ms, name in (
        (0, "step_start"),
        (18, "policy_start"),
        (20, "sleep_start"),
        (64, "control_start"),
        (66, "step_end"),
    ):
        columns[f"timestamp/control/{name}"] = now + delay_ms
    for serial in DROID_CAMERAS:
        for delay_ms, name in ((5, "read_start"), (8, "read_end"), (7, "frame_received"), (-20, "estimated_capture")):
            columns[f"timestamp/cameras/{serial}_{name}"] = now + delay_ms
    return {f"observation/{name}": values for name, values in columns.items()}


def _droid_camera_columns(t: int) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {}
    lens = np.array([[214.0, 0.0, 160.0], [0.0, 214.0, 90.0], [0.0, 0.0, 1.0]])
    for serial, view in DROID_CAMERAS.items():
        columns[f"camera_type/{serial}"] = np.full(t, int(view != "wrist"), np.int64)
        for side in ("left", "right"):
            columns[f"camera_intrinsics/{serial}_{side}"] = np.tile(lens, (t, 1, 1))
            columns[f"camera_extrinsics/{serial}_{side}"] = np.tile([0.4, 0.0, 0.9, np.pi, 0.0, np.pi / 2], (t, 1))
            if view == "wrist":
                offset = np.tile([0.0, 0.0, -0.2, 0.0, 0.0, np.pi], (t, 1))
                columns[f"camera_extrinsics/{serial}_{side}_gripper_offset"] = offset
    return {f"observation/{name}": values for name, values in columns.items()}


def _write_droid_video(path: Path, recording: Recording, view: str) -> None:
    import av

    body, scene = recording.body, recording.scene
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=int(body.control_hz), options={"crf": "18", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = *DROID_PX, "yuv420p"
        for world in recording.at_control_steps():
            if view == "wrist":
                picture = draw_wrist(body, scene, world, 0, *DROID_PX)
            else:
                picture = draw_base(body, scene, world, *DROID_PX)
                # The second camera faces the robot: the same table, turned half round.
                picture = picture[::-1, ::-1] if view == "front" else picture
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _droid_metadata(recording: Recording, name: str, user: str, start: datetime, place: str) -> dict[str, Any]:
    roles = {"wrist": "18650758", "ext1": "22008760", "ext2": "24400334"}
    paths = {f"{role}_mp4_path": f"{place}/recordings/MP4/{serial}.mp4" for role, serial in roles.items()}
    return {
        "uuid": name,
        "lab": LAB,
        "user": "Demo Operator",
        "user_id": user,
        "date": f"{start:%Y-%m-%d}",
        "timestamp": f"{start:%Y-%m-%d-%Hh-%Mm-%Ss}",
        "hdf5_path": f"{place}/trajectory.h5",
        "building": "Drawn",
        "scene_id": 1,
        "success": recording.success,
        "robot_serial": "panda-000000-0000000",
        "droid_version": "1.3",
        "current_task": recording.scene.task,
        "trajectory_length": len(recording.commands),
        **{f"{role}_cam_serial": serial for role, serial in roles.items()},
        **{f"{role}_cam_extrinsics": [0.4, 0.0, 0.9, np.pi, 0.0, np.pi / 2] for role in roles},
        **{f"{role}_svo_path": f"{place}/recordings/SVO/{serial}.svo" for role, serial in roles.items()},
        **paths,
        "left_mp4_path": paths["ext1_mp4_path"],
        "right_mp4_path": paths["ext2_mp4_path"],
    }


def _droid_sentences(task: str) -> dict[str, str]:
    thing = task.removeprefix("lift ")
    return {
        "language_instruction1": task,
        "language_instruction2": f"pick up {thing} from the table",
        "language_instruction3": f"raise {thing} off the table",
    }
