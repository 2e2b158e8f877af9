"""LeRobot datasets v2.0, v2.1 and v3.0: Parquet tables and MP4 files, found by what is there, not by path templates."""

import functools
import json
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.contract.embodiments import fit_parts
from pipelines.contract.episode import Reference
from pipelines.contract.errors import FailedWork, UsageError, nearest
from pipelines.contract.native import EpisodeLocation, Found, NativeEpisode, Reject, Rejected
from pipelines.mapping.adapters import Adapter
from pipelines.sources.folders import key_of, source_root
from pipelines.sources.video import VideoFrames, count_frames
from pipelines.storage.mirror import Files, Listing, local_path
from pipelines.storage.paths import RemotePath, StoragePath, as_storage_path

# Each dataset has its own entry.
USUAL_ADAPTER = ""

VERSIONS = ("v2.0", "v2.1", "v3.0")
_EPISODE_FILE = re.compile(r"episode_(\d+)\.(?:parquet|mp4)")
# What metadata raises that is JSON or a table, but not LeRobot's.
_MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
_PARQUET_ERRORS = (pa.ArrowException, OSError, ValueError)
# Rates further apart than this are different rates.
_RATE_TOLERANCE = 0.02


@dataclass(frozen=True, kw_only=True)
class VideoSpan:
    """Where the frames of one camera of one episode lie."""

    path: StoragePath
    first: int


@dataclass(frozen=True, kw_only=True)
class EpisodeFiles:
    """One episode as the metadata lists it. from_row, to_row: rows of its file in v3.0; None for a file of its own."""

    number: int
    data: StoragePath | None
    length: int | None
    tasks: tuple[str, ...]
    from_row: int = 0
    to_row: int | None = None
    videos: Mapping[str, VideoSpan]


@dataclass(frozen=True, kw_only=True)
class Meta:
    """The metadata of a dataset: its info.json, every episode listed or found, and task texts by index."""

    info: Mapping[str, Any]
    episodes: Mapping[int, EpisodeFiles]
    tasks: Mapping[int, str]

    @property
    def fps(self) -> float:
        return float(self.info["fps"])


def find(source: str, adapter: Adapter) -> Found:
    """Lists every episode that the metadata names or the data folder holds; one without data is a reject.

    In v3.0 many episodes share a file; these go to shards together.
    """
    root = _find_root(source_root(source))
    load_meta.cache_clear()
    _probe.cache_clear()
    meta = load_meta(root)
    episodes, rejects = [], []
    for number, episode in sorted(meta.episodes.items()):
        reference = Reference(uri=str(root), key=f"episode_{number:06d}", split=_split_of(meta.info, number))
        if episode.data is not None:
            group = "" if episode.to_row is None else str(episode.data)
            episodes.append(EpisodeLocation(reference=reference, place=(number,), group=group))
            continue
        rejects.append(
            Reject(
                source_uri=str(root),
                source_key=reference.key,
                split=reference.split,
                level="episode",
                start=0,
                end=0,
                reason="missing_file",
                detail="expected a Parquet file with its rows, found none",
            )
        )
    return Found(episodes=tuple(episodes), rejects=tuple(rejects))


def files_of(located: EpisodeLocation, listing: Listing, pictures: bool) -> Files:
    """The episode's table and its videos, which the measuring pass counts the frames of."""
    root, number = as_storage_path(located.reference.uri), located.place[0]
    episode = load_meta(root).episodes[number]
    places = [episode.data, *(span.path for span in episode.videos.values())]
    return {place: stat for own in places if isinstance(own, RemotePath) for place, stat in listing.own(own).items()}


def read(located: EpisodeLocation, adapter: Adapter) -> NativeEpisode:
    """Reads one episode; arrays go by column, frames by video key.

    A camera that info.json lists and no file holds is left out. Raises Rejected when rows or frames are missing or
    the video's rate is not the dataset's.
    """
    root, number = as_storage_path(located.reference.uri), located.place[0]
    meta = load_meta(root)
    episode = meta.episodes[number]
    table = _read_rows(episode)
    t = table.num_rows
    if episode.length is not None and episode.length != t:
        raise Rejected("unequal_lengths", f"{episode.data}: expected {episode.length} rows, found {t}")
    arrays = {name: array for name in table.column_names if (array := _to_array(table[name])) is not None}
    frames = {key: _open_video(span, t, meta.fps) for key, span in episode.videos.items()}
    listed = [key for key, spec in meta.info.get("features", {}).items() if spec.get("dtype") == "video"]
    names = {key: flatten_names(spec.get("names")) for key, spec in meta.info.get("features", {}).items()}
    language = read_tasks(meta, episode, arrays)
    times = arrays["timestamp"].reshape(-1).astype(np.float64) if "timestamp" in arrays else None
    reward = arrays["next.reward"].reshape(-1).astype(np.float32) if "next.reward" in arrays else None
    return NativeEpisode(
        reference=located.reference,
        n_steps=t,
        arrays=arrays,
        frames=frames,
        dim_names=names,
        robot=str(meta.info.get("robot_type")),
        control_hz=meta.fps,
        language=language,
        task=language[0] if language else "",
        timestamp_s=times if _increases(times) else None,
        reward=reward,
        success=int(arrays["next.success"][-1].item()) if "next.success" in arrays else -1,
        missing_cameras=tuple(key for key in listed if key not in frames),
    )


@functools.lru_cache(maxsize=2)
def load_meta(root: StoragePath) -> Meta:
    """Reads the metadata, wherever it lies. Raises UsageError for other versions, FailedWork for damaged files."""
    with _malformed_metadata_named(root):
        return _load_meta(root)


@contextmanager
def _malformed_metadata_named(root: StoragePath) -> Iterator[None]:
    try:
        yield
    except _MALFORMED as error:
        raise FailedWork(f"{root}/meta: expected LeRobot's metadata, found {error!r}") from error


def _load_meta(root: StoragePath) -> Meta:
    info = _read_json(root / "meta/info.json")
    version = str(info.get("codebase_version"))
    if version not in VERSIONS:
        raise UsageError(f"{root}: LeRobot version {version!r} is unknown. {nearest(version, VERSIONS)}")
    if not float(info.get("fps") or 0) > 0:
        raise FailedWork(f"{root}/meta/info.json: expected fps above 0, found {info.get('fps')!r}")
    if version == "v3.0":
        return Meta(info=info, episodes=_list_v3(root, info), tasks=_read_tasks_v3(root))
    return Meta(info=info, episodes=_list_v2(root), tasks=_read_tasks_v2(root))


def explain_misfit(source: str) -> str:
    """Says which dims of a dataset the 18 slots have no room for, as the reason to choose an adapter."""
    root = _find_root(source_root(source))
    with _malformed_metadata_named(root):
        return _explain_misfit(root, load_meta(root))


def _explain_misfit(root: StoragePath, meta: Meta) -> str:
    robot, width = meta.info.get("robot_type"), int(np.prod(meta.info["features"]["observation.state"]["shape"]))
    path = root / "meta/modality.json"
    groups = _read_json(path).get("state", {}) if path.exists() else {}
    dims = {name: [f"{name}[{i}]" for i in range(span["end"] - span["start"])] for name, span in groups.items()}
    sides = {"left_arm": "arm0", "left_hand": "gripper0", "right_arm": "arm1", "right_hand": "gripper1"}
    try:
        fit_parts(str(robot), {part: dims[name] for name, part in sides.items() if name in dims})
        misfit = ""
    except UsageError as error:
        misfit = f"; {error}"
    others = [name for name in dims if name not in sides]
    rest = f"; no slots at all for {', '.join(others)}" if others else ""
    return f"robot_type {robot}, observation.state of {width} dims{misfit}{rest}"


def read_tasks(meta: Meta, episode: EpisodeFiles, arrays: Mapping[str, NDArray]) -> tuple[str, ...]:
    """Returns the instructions: the texts of `task_index`, then others that are listed and are no mere flags."""
    indices = np.unique(arrays["task_index"]).astype(int) if "task_index" in arrays else []
    named = [meta.tasks[int(i)] for i in indices if int(i) in meta.tasks]
    listed = [text for text in episode.tasks if " " in text.strip()]
    return tuple(dict.fromkeys(text.strip() for text in [*named, *listed] if text.strip()))


def flatten_names(names: Any) -> tuple[str, ...]:
    """Returns the names of a feature's dims, which LeRobot stores as a list or as lists by group."""
    if isinstance(names, Mapping):
        return tuple(name for group in names.values() for name in flatten_names(group))
    return tuple(str(name) for name in names) if isinstance(names, Sequence) and not isinstance(names, str) else ()


def _find_root(source: StoragePath) -> StoragePath:
    roots = (
        [source]
        if (source / "meta/info.json").exists()
        else sorted((path.parent.parent for path in source.rglob("info.json") if path.parent.name == "meta"), key=str)
    )
    if len(roots) != 1:
        listed = ", ".join(key_of(root, source) for root in roots) or "none"
        raise UsageError(f"{source}: expected one LeRobot dataset (meta/info.json), found {listed}")
    return roots[0]


def _list_v2(root: StoragePath) -> dict[int, EpisodeFiles]:
    """Episodes of v2.0 and v2.1, one Parquet file and one MP4 per camera each, wherever their folders are."""
    data = {_number(path): path for path in sorted((root / "data").rglob("episode_*.parquet"), key=str)}
    videos: dict[int, dict[str, VideoSpan]] = {}
    for path in sorted((root / "videos").rglob("episode_*.mp4"), key=str):
        videos.setdefault(_number(path), {})[path.parent.name] = VideoSpan(path=path, first=0)
    rows = {row["episode_index"]: row for row in _read_lines(root / "meta/episodes.jsonl")}
    return {
        number: EpisodeFiles(
            number=number,
            data=data.get(number),
            length=rows.get(number, {}).get("length"),
            tasks=tuple(rows.get(number, {}).get("tasks", ())),
            videos=videos.get(number, {}),
        )
        for number in sorted({*data, *rows})
    }


def _list_v3(root: StoragePath, info: Mapping[str, Any]) -> dict[int, EpisodeFiles]:
    """Episodes of v3.0: many in a file, their rows and times in meta/episodes."""
    keys = [key for key, spec in info.get("features", {}).items() if spec.get("dtype") == "video"]
    listings: dict[int, EpisodeFiles] = {}
    first_rows: dict[StoragePath, int] = {}
    there = frozenset(path for kind in ("data", "videos") for path in (root / kind).rglob("file-*"))
    for path in sorted((root / "meta/episodes").rglob("*.parquet"), key=str):
        for row in _read_table(path).to_pylist():
            chunk, file = row["data/chunk_index"], row["data/file_index"]
            data = root / f"data/chunk-{chunk:03d}/file-{file:03d}.parquet"
            first = first_rows.setdefault(data, row["dataset_from_index"])
            videos = {key: span for key in keys if (span := _span_v3(root, row, key, float(info["fps"]), there))}
            listings[row["episode_index"]] = EpisodeFiles(
                number=row["episode_index"],
                data=data if data in there else None,
                length=row.get("length"),
                tasks=tuple(row.get("tasks") or ()),
                from_row=row["dataset_from_index"] - first,
                to_row=row["dataset_to_index"] - first,
                videos=videos,
            )
    return listings


def _span_v3(
    root: StoragePath, row: Mapping[str, Any], key: str, fps: float, there: Container[StoragePath]
) -> VideoSpan | None:
    chunk, file = row.get(f"videos/{key}/chunk_index"), row.get(f"videos/{key}/file_index")
    if chunk is None or file is None:
        return None
    path = root / f"videos/{key}/chunk-{chunk:03d}/file-{file:03d}.mp4"
    return VideoSpan(path=path, first=round(row[f"videos/{key}/from_timestamp"] * fps)) if path in there else None


def _read_tasks_v2(root: StoragePath) -> dict[int, str]:
    return {row["task_index"]: row["task"] for row in _read_lines(root / "meta/tasks.jsonl")}


def _read_tasks_v3(root: StoragePath) -> dict[int, str]:
    """Task texts by index; pandas stores the text as the index column."""
    path = root / "meta/tasks.parquet"
    if not path.exists():
        return {}
    rows = _read_table(path).to_pylist()
    return {row["task_index"]: str(row.get("task") or row.get("__index_level_0__") or "") for row in rows}


def _read_rows(episode: EpisodeFiles) -> pa.Table:
    """The episode's rows; of a file of many episodes, only the row groups that hold them are read."""
    assert episode.data is not None
    try:
        path = local_path(episode.data)
        if episode.to_row is None:
            return pq.read_table(path)
        with pq.ParquetFile(path) as file:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            ends = np.cumsum(sizes)
            first, last = np.searchsorted(ends, [episode.from_row, episode.to_row - 1], side="right").tolist()
            table = file.read_row_groups(list(range(first, min(last + 1, len(sizes)))))
            before = int(ends[first - 1]) if first else 0
            return table.slice(episode.from_row - before, episode.to_row - episode.from_row)
    except _PARQUET_ERRORS as error:
        raise Rejected("unreadable_parquet", f"{episode.data}: {error}") from error


def _open_video(span: VideoSpan, t: int, fps: float) -> VideoFrames:
    """The frames of one camera. Raises Rejected when the video has another rate or too few frames."""
    path = local_path(span.path)
    found, rate = _probe(path)
    if rate and abs(rate / fps - 1) > _RATE_TOLERANCE:
        raise Rejected("wrong_rate", f"{path}: expected {fps:g} frames a second (info.json), found {rate:g}")
    return VideoFrames(path, t, first=span.first, found=found)


@functools.lru_cache(maxsize=64)
def _probe(path: Path) -> tuple[int, float]:
    """Frames and rate of a video."""
    import av

    found = count_frames(path)
    with av.open(str(path)) as container:
        return found, float(container.streams.video[0].average_rate or 0)


def _split_of(info: Mapping[str, Any], number: int) -> str:
    """The split whose range `start:end` in info.json holds the episode; `train` if none does."""
    for name, text in (info.get("splits") or {}).items():
        match = re.fullmatch(r"(\d+):(\d+)", str(text))
        if match and int(match[1]) <= number < int(match[2]):
            return str(name)
    return "train"


def _to_array(column: pa.ChunkedArray) -> NDArray | None:
    """float64 [t] or [t, k] of a column of numbers or of lists of equal length; None for anything else."""
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        rows = column.to_pylist()
        if len({len(row) for row in rows}) != 1 or not isinstance(rows[0][0] if rows[0] else "", (int, float)):
            return None
        return np.asarray(rows, np.float64)
    if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return column.cast(pa.float64()).to_numpy() if not pa.types.is_boolean(kind) else np.asarray(column, np.float64)
    return None


def _increases(times: NDArray[np.float64] | None) -> bool:
    return times is not None and bool((np.diff(times) > 0).all())


def _number(path: StoragePath) -> int:
    match = _EPISODE_FILE.fullmatch(path.name)
    return int(match[1]) if match else -1


def _read_table(path: StoragePath) -> pa.Table:
    try:
        with path.open("rb") as file:
            return pq.read_table(file)
    except _PARQUET_ERRORS as error:
        raise FailedWork(f"{path}: expected a Parquet table, found {error}") from error


def _read_json(path: StoragePath) -> dict[str, Any]:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise FailedWork(f"{path}: expected JSON, found {error}") from error


def _read_lines(path: StoragePath) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_bytes().splitlines() if line.strip()]
    except ValueError as error:
        raise FailedWork(f"{path}: expected a JSON object a line, found {error}") from error
