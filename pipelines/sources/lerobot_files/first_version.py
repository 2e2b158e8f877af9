"""LeRobot datasets of v1.6: one table of all episodes, `meta_data/`, and videos named after camera and episode."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.contract.errors import FailedWork, UsageError
from pipelines.contract.native import Reject, Rejected
from pipelines.sources.folders import key_of
from pipelines.sources.lerobot_files.arrow import read_schema, runs_of
from pipelines.sources.lerobot_files.listing import EpisodeListing
from pipelines.sources.lerobot_files.records import (
    PARQUET_ERRORS,
    EpisodeFiles,
    VideoSpan,
    read_metadata_json,
    reject_episode,
)
from pipelines.sources.lerobot_files.templates import Info
from pipelines.storage.paths import StoragePath

VERSION = "v1.6"
INFO = "meta_data/info.json"
_INDEX = "meta_data/episode_data_index.safetensors"
# A header of more than this is none: it names two arrays.
_MAX_HEADER = 1 << 16


def is_first_version(root: StoragePath) -> bool:
    """Whether a folder holds a dataset of before v2.0."""
    return (root / INFO).exists()


def read_info(root: StoragePath) -> Info:
    """info.json, with the features that v1.6 states only as columns of tables. Raises UsageError for other versions."""
    info = read_metadata_json(root / INFO)
    version = str(info.get("codebase_version"))
    if version != VERSION:
        raise UsageError(f"{root}: LeRobot version {version!r} is unknown beside meta_data/; expected {VERSION}")
    tables = list_tables(root)
    if not tables:
        raise UsageError(f"{root}: expected tables data/*.parquet or train/*.arrow, found none")
    try:
        return info | {"features": {field.name: _feature_of(field.type) for field in read_schema(tables[0])}}
    except PARQUET_ERRORS as error:
        raise FailedWork(f"{tables[0]}: expected a table, found {error}") from error


def list_tables(root: StoragePath) -> list[StoragePath]:
    """The tables: Parquet as the hub has them, or Arrow as `datasets` saves them locally."""
    found = [*(root / "data").rglob("*.parquet"), *(root / "train").rglob("*.arrow")]
    return sorted(found, key=str)


def list_episodes(root: StoragePath, info: Info) -> EpisodeListing:
    """Every episode that a table holds, and rejects for those that the index promises and none does.

    An episode whose rows lie in two tables is read from the first, and refused there by its promised length.
    """
    lengths = _read_lengths(root)
    cameras = [key for key, spec in info["features"].items() if spec["dtype"] == "video"]
    videos = {path.name: path for path in (root / "videos").rglob("*.mp4")}
    episodes: dict[int, EpisodeFiles] = {}
    rejects: list[Reject] = []
    for path in list_tables(root):
        try:
            numbers = [number for number, _, _ in runs_of(path)]
        except Rejected as error:
            detail = f"{key_of(path, root)}: {error.detail}"
            rejects.append(reject_episode(root, info, max(episodes, default=-1) + 1, error.reason, detail))
            continue
        for number in dict.fromkeys(numbers):
            own = {key: videos.get(f"{key}_episode_{number:06d}.mp4") for key in cameras}
            spans = {key: VideoSpan(path=video) for key, video in own.items() if video is not None}
            length = lengths.get(number)
            episodes.setdefault(number, EpisodeFiles(number=number, data=path, length=length, videos=spans))
    lost = sorted(lengths.keys() - episodes.keys())
    detail = f"{_INDEX} lists {len(lengths)} episodes, the tables hold {len(episodes)}"
    rejects += [reject_episode(root, info, number, "promised_missing", detail) for number in lost]
    return EpisodeListing(episodes=episodes, rejects=tuple(rejects), inferred={})


def _feature_of(kind: pa.DataType) -> Mapping[str, Any]:
    """What a column is, as info.json of later versions says it."""
    names = {field.name for field in kind} if pa.types.is_struct(kind) else set()
    if {"path", "timestamp"} <= names:
        return {"dtype": "video", "shape": []}
    return {"dtype": "image" if "bytes" in names else str(kind), "shape": []}


def _read_lengths(root: StoragePath) -> dict[int, int]:
    """The rows of each episode by episode_data_index.safetensors; nothing where there is none."""
    path = root / _INDEX
    if not path.exists():
        return {}
    data = path.read_bytes()
    try:
        size = int.from_bytes(data[:8], "little")
        if size > min(_MAX_HEADER, len(data)):
            raise ValueError(f"a header of {size} bytes")
        header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
        first, last = (_read_tensor(header[key], body) for key in ("from", "to"))
        return {number: int(n) for number, n in enumerate((last - first).tolist())}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FailedWork(f"{path}: expected int64 `from` and `to` of each episode, found {error!r}") from error


def _read_tensor(entry: Mapping[str, Any], body: bytes) -> np.ndarray:
    start, stop = entry["data_offsets"]
    if entry["dtype"] != "I64" or not 0 <= start <= stop <= len(body):
        raise ValueError(f"{entry['dtype']} at {start} to {stop}")
    return np.frombuffer(body[start:stop], "<i8")
