"""Small sets in the forms of other people's tools: SO-101, UMI, ALOHA, an own TFDS set."""

import json
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr

from tests.support.inputs.lerobot_writer import write_lines, write_video
from tests.support.inputs.native_files import picture, write_rlds

SO101_MOTORS = tuple(f"{name}.pos" for name in "shoulder_pan shoulder_lift elbow_flex wrist_flex wrist_roll".split())
SO101_CAMERAS = ("observation.images.front", "observation.images.wrist")
FPS = 30
T = 60


def so101_joints(number: int, t: int = T, most: float = 80.0) -> np.ndarray:
    """Five joints that swing up to `most` degrees and a gripper from 5 to 95, [t, 6]."""
    phase = np.arange(t)[:, None] / 15 + np.arange(6) + number
    rows = most * np.sin(phase)
    rows[:, 5] = 50 + 45 * np.sin(phase[:, 5])
    return rows.astype(np.float32)


def _so101_table(number: int, first: int, t: int, most: float) -> pa.Table:
    state = so101_joints(number, t, most)
    action = np.concatenate([state[1:], state[-1:]])
    vectors = {"observation.state": state, "action": action}
    columns = {key: pa.array(list(rows), pa.list_(pa.float32())) for key, rows in vectors.items()}
    columns["timestamp"] = pa.array((np.arange(t) / FPS).astype(np.float32))
    columns["frame_index"] = pa.array(np.arange(t))
    columns["episode_index"] = pa.array(np.full(t, number))
    columns["index"] = pa.array(first + np.arange(t))
    columns["task_index"] = pa.array(np.zeros(t, np.int64))
    return pa.table(columns)


def _so101_info(version: str, n: int, t: int) -> dict[str, object]:
    vector = {"dtype": "float32", "shape": [6], "names": [*SO101_MOTORS, "gripper.pos"]}
    film = {"dtype": "video", "shape": [64, 64, 3], "names": ["height", "width", "channels"]}
    film["info"] = {"video.codec": "h264", "video.fps": FPS, "video.is_depth_map": False}
    features = {"observation.state": vector, "action": vector, **dict.fromkeys(SO101_CAMERAS, film)}
    info = {"codebase_version": version, "robot_type": "so101_follower", "fps": FPS, "features": features}
    return info | {"total_episodes": n, "total_frames": n * t, "splits": {"train": f"0:{n}"}}


def write_so101_v21(root: Path, n: int = 2, t: int = T, most: float = 80.0) -> Path:
    """SO-101 as lerobot-record of 2025 wrote it: a table and a video for each episode; joints up to `most`."""
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(_so101_info("v2.1", n, t)))
    write_lines(
        root / "meta/episodes.jsonl", [{"episode_index": i, "tasks": ["lift it"], "length": t} for i in range(n)]
    )
    write_lines(root / "meta/tasks.jsonl", [{"task_index": 0, "task": "lift it"}])
    for number in range(n):
        path = root / f"data/chunk-000/episode_{number:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(_so101_table(number, number * t, t, most), path)
        for camera in SO101_CAMERAS:
            write_video(root / f"videos/chunk-000/{camera}/episode_{number:06d}.mp4", range(t), fps=FPS)
    return root


def write_so101_v30(root: Path, n: int = 2, t: int = T, most: float = 120.0) -> Path:
    """SO-101 in v3.0: all episodes in one table and one video a camera."""
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(_so101_info("v3.0", n, t)))
    pq.write_table(pa.table({"task_index": [0], "__index_level_0__": ["lift it"]}), root / "meta/tasks.parquet")
    (root / "data/chunk-000").mkdir(parents=True)
    tables = [_so101_table(number, number * t, t, most) for number in range(n)]
    pq.write_table(pa.concat_tables(tables), root / "data/chunk-000/file-000.parquet")
    pq.write_table(
        pa.Table.from_pylist([_v30_row(number, t) for number in range(n)]),
        root / "meta/episodes/chunk-000/file-000.parquet",
    )
    for camera in SO101_CAMERAS:
        write_video(root / f"videos/{camera}/chunk-000/file-000.mp4", range(n * t), fps=FPS)
    return root


def _v30_row(number: int, t: int) -> dict[str, object]:
    first = number * t
    row: dict[str, object] = {"episode_index": number, "length": t, "tasks": ["lift it"]}
    row |= {"data/chunk_index": 0, "data/file_index": 0, "dataset_from_index": first, "dataset_to_index": first + t}
    for camera in SO101_CAMERAS:
        row |= {f"videos/{camera}/chunk_index": 0, f"videos/{camera}/file_index": 0}
        row |= {f"videos/{camera}/from_timestamp": first / FPS, f"videos/{camera}/to_timestamp": (first + t) / FPS}
    return row


def write_umi(store: Path, n: int = 2, t: int = T, most_open_m: float = 0.08) -> Path:
    """A UMI replay buffer (zarr v2): poses, gripper widths in m and one camera on the gripper, no actions, no times."""
    group = zarr.open_group(str(store), mode="w", zarr_format=2)
    i = np.arange(n * t)[:, None]
    arrays = {
        "robot0_eef_pos": 0.3 + 0.1 * np.sin(i / 15 + np.arange(3)),
        "robot0_eef_rot_axis_angle": 0.2 * np.sin(i / 15 + np.arange(3)),
        "robot0_gripper_width": most_open_m * (0.5 + 0.48 * np.sin(i / 9)),
        "robot0_demo_start_pose": np.ones((n * t, 6)),
        "robot0_demo_end_pose": np.ones((n * t, 6)),
    }
    for key, rows in arrays.items():
        group.create_array(f"data/{key}", data=rows.astype(np.float32), chunks=(n * t, rows.shape[1]))
    pictures = np.tile(((np.arange(n * t) * 2) % 255 + 1).astype(np.uint8)[:, None, None, None], (1, 48, 48, 3))
    group.create_array("data/camera0_rgb", data=pictures, chunks=(1, 48, 48, 3))
    group.create_array("meta/episode_ends", data=t * np.arange(1, n + 1), chunks=(n,))
    return store


def write_aloha_hdf5(path: Path, t: int = T, gripper: tuple[float, float] = (0.02, 0.98)) -> Path:
    """One episode as ACT's record_episodes writes it; grippers run between these two."""
    i = np.arange(t)[:, None]
    rows = 0.8 * np.sin(i / 15 + np.arange(14))
    rows[:, [6, 13]] = gripper[0] + (gripper[1] - gripper[0]) * np.clip(0.5 + np.sin(i / 9), 0, 1)
    action = np.concatenate([rows[1:], rows[-1:]])
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.attrs["sim"] = False
        file["observations/qpos"], file["action"] = rows.astype(np.float32), action.astype(np.float32)
        file["observations/qvel"] = np.gradient(rows, axis=0).astype(np.float32)
        for camera in ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist"):
            file[f"observations/images/{camera}"] = np.full((t, 48, 64, 3), 90, np.uint8) + (
                i[:, None, None] % 90
            ).astype(np.uint8)
    return path


def joint_record(number: int, t: int = T) -> dict[str, object]:
    """An episode of an own set: seven joints in rad and a gripper (0 closed, 1 open), commanded one step ahead."""
    i = np.arange(t)
    state = np.zeros((t, 8), np.float32)
    state[:, :7] = 0.8 * np.sin(i[:, None] / 15 + np.arange(7) + number)
    state[:, 7] = 0.5 + 0.5 * np.sin(i / 9)
    action = np.concatenate([state[1:], state[-1:]])
    return _record(state, action, number)


def delta_record(number: int, t: int = T) -> dict[str, object]:
    """An episode of an own set: pose (xyz in m, angles in rad) and gripper; the action is the change of the pose."""
    i = np.arange(t)
    state = np.zeros((t, 7), np.float32)
    state[:, :6] = 0.3 + 0.15 * np.sin(i[:, None] / 15 + np.arange(6) + number)
    state[:, 1] -= 0.3
    state[:, 6] = i % 30 < 15
    action = np.zeros((t, 7), np.float32)
    action[:-1, :6] = np.diff(state[:, :6], axis=0)
    action[:, 6] = state[:, 6]
    return _record(state, action, number)


def _record(state: np.ndarray, action: np.ndarray, number: int) -> dict[str, object]:
    t = len(state)
    return {
        "steps/is_first": (np.arange(t) == 0).astype(np.int64),
        "steps/is_last": (np.arange(t) == t - 1).astype(np.int64),
        "steps/is_terminal": (np.arange(t) == t - 1).astype(np.int64),
        "steps/observation/state": state.ravel(),
        "steps/action": action.ravel(),
        "steps/language_instruction": [b"put the cup away"] * t,
        "steps/observation/image": [picture(i + number) for i in range(t)],
        "steps/observation/wrist_image": [picture(2 * i + number) for i in range(t)],
    }


def write_own_tfds(folder: Path, kind: str = "joints", n: int = 2) -> Path:
    """An own set of `rlds_dataset_builder`'s form, of joints or of pose deltas."""
    make = joint_record if kind == "joints" else delta_record
    return write_rlds(folder, {"train": [make(number) for number in range(n)]}, name="own_set")


def write_humanoid(root: Path, t: int = T, poses: bool = False) -> Path:
    """A LeRobot set of a humanoid: two arms of seven joints, two grippers, a waist of three, legs of zeros; no camera.

    poses: whether the hands' poses are stored as well, in state and action.
    """
    names = [f"{side}_joint_{i}" for side in ("left", "right") for i in range(1, 8)]
    names += ["left_gripper", "right_gripper", "waist_yaw", "waist_pitch", "waist_roll"]
    names += [f"{side}_knee" for side in ("left", "right")]
    rows = 0.7 * np.sin(np.arange(t)[:, None] / 15 + np.arange(len(names)))
    rows[:, 14:16] = np.clip(0.5 + np.sin(np.arange(t)[:, None] / 9), 0, 1)
    rows[:, -2:] = 0.0
    keys = {"observation.state": (rows, names)}
    if poses:
        axes = ("x", "y", "z", "roll", "pitch", "yaw")
        pose = 0.3 * np.sin(np.arange(t)[:, None] / 15 + np.arange(12))
        keys["observation.eef_pose"] = (pose, [f"{side}_{axis}" for side in ("left", "right") for axis in axes])
    columns: dict[str, pa.Array] = {}
    features: dict[str, object] = {}
    for key, (values, own) in keys.items():
        action = key.replace("observation.state", "action").replace("observation.eef_pose", "action.eef_pose")
        later = np.concatenate([values[1:], values[-1:]])
        for name, numbers in ((key, values), (action, later)):
            columns[name] = pa.array(list(numbers.astype(np.float32)), pa.list_(pa.float32()))
            features[name] = {"dtype": "float32", "shape": [len(own)], "names": own}
    columns["timestamp"] = pa.array((np.arange(t) / FPS).astype(np.float32))
    columns |= {name: pa.array(np.zeros(t, np.int64)) for name in ("episode_index", "task_index")}
    info = {"codebase_version": "v2.1", "robot_type": "walker", "fps": FPS, "features": features, "total_episodes": 1}
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    write_lines(root / "meta/episodes.jsonl", [{"episode_index": 0, "tasks": ["wave"], "length": t}])
    write_lines(root / "meta/tasks.jsonl", [{"task_index": 0, "task": "wave"}])
    path = root / "data/chunk-000/episode_000000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table(columns), path)
    return root
