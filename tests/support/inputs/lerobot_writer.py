"""LeRobot datasets v2.1 and v3.0 as LeRobot writes them, by pyarrow and PyAV alone; grey frames tell their numbers."""

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

CAMERA = "observation.images.top"
MOTORS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
FPS = 10
Columns = dict[str, Any]


def level_of(number: int) -> int:
    """The grey level of frame `number`; 45 levels differ."""
    return 20 + 5 * (number % 45)


def write_video(path: Path, numbers: Sequence[int], times_s: Sequence[float] | None = None, fps: int = FPS) -> None:
    """A video of frames that tell their numbers, at these times; every 1/fps s by default."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"g": "4", "crf": "12", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 90000)
        for i, number in enumerate(numbers):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), level_of(number), np.uint8), format="rgb24")
            frame.pts = round((i / fps if times_s is None else times_s[i]) * 90000)
            frame.time_base = Fraction(1, 90000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def make_rows(number: int, t: int, first: int = 0, fps: int = FPS, task: int | Sequence[int] = 0) -> Columns:
    """The columns of an episode; the joints of row i are at `10 * number + i / 10` degrees."""
    joints = np.tile(10.0 * number + np.arange(t)[:, None] / 10, (1, 6)).astype(np.float32)
    return {
        "observation.state": joints,
        "action": joints,
        "timestamp": (np.arange(t) / fps).astype(np.float32),
        "frame_index": np.arange(t),
        "episode_index": np.full(t, number),
        "index": first + np.arange(t),
        "task_index": np.full(t, task),
    }


def to_table(columns: Mapping[str, Any]) -> pa.Table:
    vectors = {"observation.state", "action"}
    return pa.table(
        {
            name: pa.array(list(values), pa.list_(pa.float32())) if name in vectors else pa.array(values)
            for name, values in columns.items()
        }
    )


def write_info(root: Path, version: str, n: int, **changes: Any) -> None:
    vector = {"dtype": "float32", "shape": [6], "names": list(MOTORS)}
    features = {"observation.state": vector, "action": vector}
    features[CAMERA] = {"dtype": "video", "shape": [64, 64, 3], "names": ["height", "width", "channels"]}
    info = {"codebase_version": version, "robot_type": "so100", "fps": FPS, "total_episodes": n, "features": features}
    (root / "meta").mkdir(parents=True, exist_ok=True)
    (root / "meta/info.json").write_text(json.dumps(info | {"splits": {"train": f"0:{n}"}} | changes))


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_v2(root: Path, episodes: Sequence[Columns], tasks: Sequence[str] = ("lift it",), **changes: Any) -> Path:
    """One table and one video for each episode; frame i of every video is number i."""
    write_info(root, "v2.1", len(episodes), **changes)
    for number, columns in enumerate(episodes):
        path = root / f"data/chunk-000/episode_{number:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(to_table(columns), path)
        write_video(video_path(root, number), range(len(columns["index"])))
    lines = [{"episode_index": i, "tasks": list(tasks), "length": len(c["index"])} for i, c in enumerate(episodes)]
    write_lines(root / "meta/episodes.jsonl", lines)
    write_lines(root / "meta/tasks.jsonl", [{"task_index": i, "task": text} for i, text in enumerate(tasks)])
    return root


def video_path(root: Path, number: int) -> Path:
    return root / f"videos/chunk-000/{CAMERA}/episode_{number:06d}.mp4"


def meta_row(number: int, first: int, t: int, from_s: float | None = None, file: int = 0) -> dict[str, Any]:
    """One row of meta/episodes, of an episode whose frames lie where its rows do."""
    start = first / FPS if from_s is None else from_s
    row = {"episode_index": number, "length": t, "tasks": ["lift it"]}
    row |= {"data/chunk_index": 0, "data/file_index": file, "dataset_from_index": first, "dataset_to_index": first + t}
    row |= {f"videos/{CAMERA}/chunk_index": 0, f"videos/{CAMERA}/file_index": 0}
    return row | {f"videos/{CAMERA}/from_timestamp": start, f"videos/{CAMERA}/to_timestamp": start + t / FPS}


def write_v3(
    root: Path, rows: Sequence[Mapping[str, Any]], files: Mapping[int, Sequence[Columns]], n_frames: int, **changes: Any
) -> Path:
    """rows: of meta/episodes. files: the episodes in each table. n_frames: of the one video, numbered from 0."""
    write_info(root, "v3.0", len(rows), **changes)
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)
    pq.write_table(pa.table({"task_index": [0], "__index_level_0__": ["lift it"]}), root / "meta/tasks.parquet")
    for file, episodes in files.items():
        path = root / f"data/chunk-000/file-{file:03d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.concat_tables([to_table(columns) for columns in episodes]), path)
    write_video(root / f"videos/{CAMERA}/chunk-000/file-000.mp4", range(n_frames))
    return root


def numbers_shown(frames: Sequence[Any]) -> list[int]:
    """Which frame each picture is, modulo 45, by its grey level."""
    return [round((float(np.mean(np.asarray(frame, np.float64))) - 20) / 5) for frame in frames]


def first_joint(arrays: Mapping[str, NDArray[np.float64]]) -> list[float]:
    return [round(float(x), 1) for x in arrays["observation.state"][:, 0]]
