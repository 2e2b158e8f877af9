"""Small sets in the forms of other people's tools, written with pyarrow, PyAV, h5py, zarr, mcap and TFDS alone."""

import io
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from imagecodecs.numcodecs import Jpegxl, register_codecs
from mcap.writer import Writer
from numpy.typing import NDArray
from PIL import Image
from rosbags.typesys import Stores, get_typestore
from scipy.spatial.transform import Rotation

from benchmarks.own_data.motions import (
    N_EPISODES,
    SIDE,
    TASKS,
    D,
    Demonstration,
    T,
    closing,
    lead,
    pictures,
    save_truth,
    swing,
)

_FPS = 30
_MOTORS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
_UR_JOINTS = tuple(
    f"{name}_joint" for name in ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")
)
_WRIST = "left_wrist_0_rgb"
_STEP_NS = 50_000_000


@dataclass(frozen=True, kw_only=True)
class Twin:
    """A set in a foreign form: what writes it below a folder and returns the path to inspect."""

    name: str
    title: str
    write: Callable[[Path, Path], Path]


def _arms(number: int, columns: Sequence[int], grippers: Sequence[int]) -> Demonstration:
    state = np.zeros((T, D))
    state[:, list(columns)] = swing(number, len(columns))
    for gripper in grippers:
        state[:, gripper] = closing(number + gripper)
    action = np.zeros((T, D))
    used = [*columns, *grippers]
    action[:, used] = lead(state[:, used])
    return Demonstration(task=TASKS[number], state=state, action=action)


def _both(slots: Sequence[int]) -> dict[str, list[int]]:
    return {"state": list(slots), "action": list(slots)}


# ---- LeRobot, SO-101


def _so101(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    """Degrees, and percent of the gripper's range with 0 closed, as lerobot-record writes with use_degrees."""
    return np.concatenate([np.degrees(rows[:, :5]), 100 * (1 - rows[:, 6:7])], axis=1).astype(np.float32)


def _table(episode: Demonstration, number: int) -> pa.Table:
    vectors = {"observation.state": _so101(episode.state), "action": _so101(episode.action)}
    columns = {key: pa.array(list(rows), pa.list_(pa.float32(), 6)) for key, rows in vectors.items()}
    columns["timestamp"] = pa.array((np.arange(T) / _FPS).astype(np.float32))
    whole = {"frame_index": np.arange(T), "episode_index": np.full(T, number), "index": number * T + np.arange(T)}
    whole["task_index"] = np.full(T, number)
    return pa.table(columns | {key: pa.array(rows) for key, rows in whole.items()})


def _info(version: str) -> dict[str, Any]:
    vector = {"dtype": "float32", "shape": [6], "names": [f"{motor}.pos" for motor in _MOTORS]}
    film: dict[str, Any] = {"dtype": "video", "shape": [SIDE, SIDE, 3], "names": ["height", "width", "channels"]}
    film["info"] = {"video.codec": "h264", "video.fps": _FPS, "video.is_depth_map": False, "has_audio": False}
    whole = {"dtype": "int64", "shape": [1], "names": None}
    features = {"action": vector, "observation.state": vector}
    features |= {f"observation.images.{name}": film for name in ("front", "wrist")}
    features |= {"timestamp": whole | {"dtype": "float32"}}
    features |= {key: whole for key in ("frame_index", "episode_index", "index", "task_index")}
    info = {"codebase_version": version, "robot_type": "so101_follower", "fps": _FPS, "features": features}
    info |= {"total_episodes": N_EPISODES, "total_frames": N_EPISODES * T, "total_tasks": 2, "chunks_size": 1000}
    return info | {"splits": {"train": f"0:{N_EPISODES}"}}


def _video(path: Path, frames: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=_FPS, options={"g": "2", "crf": "10"})
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv444p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


_LEROBOT_CAMERAS = {"front": "base_0_rgb", "wrist": _WRIST}


def _write_json_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _so101_episodes(truth: Path) -> list[Demonstration]:
    episodes = [_arms(number, range(5), [6]) for number in range(N_EPISODES)]
    save_truth(truth, episodes, tuple(_LEROBOT_CAMERAS.values()), _both([0, 1, 2, 3, 4, 6]))
    return episodes


def write_so101_v21(folder: Path, truth: Path) -> Path:
    root = folder / "so101_v21"
    (root / "meta").mkdir(parents=True)
    paths = {"data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"}
    paths["video_path"] = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    (root / "meta/info.json").write_text(json.dumps(_info("v2.1") | paths))
    tasks = [{"task_index": i, "task": text} for i, text in enumerate(TASKS)]
    _write_json_lines(root / "meta/tasks.jsonl", tasks)
    rows = [{"episode_index": i, "tasks": [text], "length": T} for i, text in enumerate(TASKS)]
    _write_json_lines(root / "meta/episodes.jsonl", rows)
    (root / "data/chunk-000").mkdir(parents=True)
    for number, episode in enumerate(_so101_episodes(truth)):
        pq.write_table(_table(episode, number), root / f"data/chunk-000/episode_{number:06d}.parquet")
        for name, camera in _LEROBOT_CAMERAS.items():
            path = root / f"videos/chunk-000/observation.images.{name}/episode_{number:06d}.mp4"
            _video(path, pictures(camera, number))
    return root


def write_so101_v30(folder: Path, truth: Path) -> Path:
    root = folder / "so101_v30"
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    (root / "data/chunk-000").mkdir(parents=True)
    paths = {"data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"}
    paths["video_path"] = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    (root / "meta/info.json").write_text(json.dumps(_info("v3.0") | paths))
    tasks = pa.table({"task_index": list(range(len(TASKS))), "__index_level_0__": list(TASKS)})
    pq.write_table(tasks, root / "meta/tasks.parquet")
    tables = [_table(episode, number) for number, episode in enumerate(_so101_episodes(truth))]
    pq.write_table(pa.concat_tables(tables), root / "data/chunk-000/file-000.parquet")
    rows = pa.Table.from_pylist([_v30_row(number) for number in range(N_EPISODES)])
    pq.write_table(rows, root / "meta/episodes/chunk-000/file-000.parquet")
    for name, camera in _LEROBOT_CAMERAS.items():
        frames = np.concatenate([pictures(camera, number) for number in range(N_EPISODES)])
        _video(root / f"videos/observation.images.{name}/chunk-000/file-000.mp4", frames)
    return root


def _v30_row(number: int) -> dict[str, Any]:
    first = number * T
    row: dict[str, Any] = {"episode_index": number, "length": T, "tasks": [TASKS[number]]}
    row |= {"data/chunk_index": 0, "data/file_index": 0, "dataset_from_index": first, "dataset_to_index": first + T}
    for name in _LEROBOT_CAMERAS:
        key = f"videos/observation.images.{name}"
        row |= {f"{key}/chunk_index": 0, f"{key}/file_index": 0}
        row |= {f"{key}/from_timestamp": first / _FPS, f"{key}/to_timestamp": (first + T) / _FPS}
    return row


# ---- ALOHA


_ALOHA_CAMERAS = {
    "cam_high": "base_0_rgb",
    "cam_left_wrist": "left_wrist_0_rgb",
    "cam_right_wrist": "right_wrist_0_rgb",
}


def _aloha(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    """Two arms of six joints, each with a gripper behind it that is 1 when open."""
    own = rows[:, :14].copy()
    own[:, [6, 13]] = 1 - own[:, [6, 13]]
    return own.astype(np.float32)


def write_aloha(folder: Path, truth: Path) -> Path:
    root = folder / "aloha"
    root.mkdir(parents=True)
    columns = [*range(6), *range(7, 13)]
    # ALOHA stores no instruction, so that one set has one.
    episodes = [replace(_arms(number, columns, [6, 13]), task=TASKS[0]) for number in range(N_EPISODES)]
    save_truth(truth, episodes, tuple(_ALOHA_CAMERAS.values()), _both(range(14)))
    for number, episode in enumerate(episodes):
        with h5py.File(root / f"episode_{number}.hdf5", "w", rdcc_nbytes=1024**2 * 2) as file:
            file.attrs["sim"] = False
            file["observations/qpos"], file["action"] = _aloha(episode.state), _aloha(episode.action)
            file["observations/qvel"] = np.gradient(_aloha(episode.state), axis=0).astype(np.float32)
            file["observations/effort"] = np.zeros((T, 14), np.float32)
            for name, camera in _ALOHA_CAMERAS.items():
                file[f"observations/images/{name}"] = pictures(camera, number)
            file["observations/images/cam_low"] = np.full((T, SIDE, SIDE, 3), 9, np.uint8)
    return root


# ---- UMI


def write_umi(folder: Path, truth: Path) -> Path:
    """A zip store of JPEG XL pictures, poses by rotation vectors and widths in m, without actions."""
    register_codecs(verbose=False)
    episodes = [_umi_episode(number) for number in range(N_EPISODES)]
    save_truth(truth, episodes, (_WRIST,), {"state": list(range(7)), "action": []})
    state = np.concatenate([episode.state for episode in episodes])
    turns = Rotation.from_euler("xyz", state[:, 3:6]).as_rotvec()
    path = folder / "umi/replay_buffer.zarr.zip"
    path.parent.mkdir(parents=True)
    with zarr.storage.ZipStore(str(path), mode="w") as store:
        group = zarr.open_group(store, mode="w", zarr_format=2)
        arrays = {"eef_pos": state[:, :3], "eef_rot_axis_angle": turns, "gripper_width": 0.085 * (1 - state[:, 6:7])}
        starts = np.repeat(np.concatenate([state[:1, :6], state[T : T + 1, :6]]), T, axis=0)
        arrays |= {"demo_start_pose": starts, "demo_end_pose": starts}
        for key, rows in arrays.items():
            group.create_array(f"data/robot0_{key}", data=rows.astype(np.float32), chunks=(len(rows), rows.shape[1]))
        frames = np.concatenate([pictures(_WRIST, number) for number in range(N_EPISODES)])
        codec = Jpegxl(level=99, numthreads=1)
        group.create_array("data/camera0_rgb", data=frames, chunks=(1, SIDE, SIDE, 3), compressors=codec)
        group.create_array("meta/episode_ends", data=T * np.arange(1, N_EPISODES + 1), chunks=(N_EPISODES,))
    return path


def _umi_episode(number: int) -> Demonstration:
    state = np.zeros((T, D))
    state[:, :6] = swing(number, 6)
    state[:, 6] = closing(number)
    return Demonstration(task="fold the towel", state=state, action=np.zeros((T, D)))


# ---- MCAP


_ROS = get_typestore(Stores.ROS2_HUMBLE)
_TYPES = _ROS.types


def _header(at_ns: int) -> Any:
    stamp = _TYPES["builtin_interfaces/msg/Time"](sec=at_ns // 10**9, nanosec=at_ns % 10**9)
    return _TYPES["std_msgs/msg/Header"](stamp=stamp, frame_id="")


def _joints(at_ns: int, names: Sequence[str], values: NDArray[np.float64]) -> Any:
    empty = np.zeros(0)
    kind = _TYPES["sensor_msgs/msg/JointState"]
    return kind(header=_header(at_ns), name=list(names), position=values, velocity=empty, effort=empty)


def _jpeg(at_ns: int, pixels: NDArray[np.uint8]) -> Any:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=95, subsampling=0)
    data = np.frombuffer(out.getvalue(), np.uint8)
    return _TYPES["sensor_msgs/msg/CompressedImage"](header=_header(at_ns), format="jpeg", data=data)


def write_bag(folder: Path, truth: Path) -> Path:
    """A file each episode: a UR5e whose driver publishes joints by the alphabet, and a gripper of widths in m."""
    root = folder / "bags"
    root.mkdir(parents=True)
    episodes = [_arms(number, range(6), [6]) for number in range(N_EPISODES)]
    save_truth(truth, episodes, ("base_0_rgb", _WRIST), _both(range(7)))
    for number, episode in enumerate(episodes):
        _write_mcap(root / f"demo_{number}.mcap", number, episode)
    return root


def _write_mcap(path: Path, number: int, episode: Demonstration) -> None:
    start = 1_700_000_000_000_000_000 + number * 10**12
    order = sorted(range(6), key=lambda i: _UR_JOINTS[i])
    names = [_UR_JOINTS[i] for i in order]
    base, wrist = pictures("base_0_rgb", number), pictures(_WRIST, number)
    messages: list[tuple[str, int, Any]] = [("/task", start, _TYPES["std_msgs/msg/String"](data=episode.task))]
    width = _TYPES["std_msgs/msg/Float64"]
    for i in range(T):
        at = start + i * _STEP_NS
        messages += [
            ("/joint_states", at, _joints(at, names, episode.state[i, order])),
            ("/gripper/width", at, width(data=0.085 * (1 - episode.state[i, 6]))),
            ("/command/joints", at, _joints(at, _UR_JOINTS, episode.action[i, :6])),
            ("/command/gripper", at, width(data=0.085 * (1 - episode.action[i, 6]))),
            ("/camera/color/image_raw/compressed", at, _jpeg(at, base[i])),
            ("/wrist/image_raw/compressed", at, _jpeg(at, wrist[i])),
        ]
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start(profile="ros2", library="twin")
        channels: dict[str, int] = {}
        for topic, at, message in messages:
            if topic not in channels:
                text, _ = _ROS.generate_msgdef(message.__msgtype__, ros_version=2)
                schema = writer.register_schema(message.__msgtype__, "ros2msg", text.encode())
                channels[topic] = writer.register_channel(topic, "cdr", schema)
            writer.add_message(channels[topic], at, bytes(_ROS.serialize_cdr(message, message.__msgtype__)), at)
        writer.finish()


# ---- TFDS


def write_own_tfds(folder: Path, truth: Path) -> Path:
    """A set of a builder of one's own: poses and deltas, a gripper that is 1 when open."""
    episodes = [_delta_episode(number) for number in range(N_EPISODES)]
    save_truth(truth, episodes, ("base_0_rgb", _WRIST), _both(range(7)))
    builder = Path(__file__).with_name("tfds_builder.py")
    subprocess.run([sys.executable, builder, truth, folder / "tfds"], check=True, capture_output=True)
    return folder / "tfds/desk_set/1.0.0"


def _delta_episode(number: int) -> Demonstration:
    """The action is the change of the pose to the next step; the gripper is commanded as it stands."""
    state = _umi_episode(number).state
    action = np.zeros((T, D))
    action[:-1, :6] = np.diff(state[:, :6], axis=0)
    action[:, 6] = state[:, 6]
    return Demonstration(task=TASKS[number], state=state, action=action)


TWINS = (
    Twin(name="so101_v21", title="LeRobot v2.1, SO-101", write=write_so101_v21),
    Twin(name="so101_v30", title="LeRobot v3.0, SO-101", write=write_so101_v30),
    Twin(name="aloha", title="ALOHA HDF5", write=write_aloha),
    Twin(name="umi", title="UMI zarr, JPEG XL", write=write_umi),
    Twin(name="bag", title="MCAP of a UR5e", write=write_bag),
    Twin(name="tfds", title="own TFDS builder", write=write_own_tfds),
)
