"""Episodes of a LeRobot dataset as its metadata lists them, and the files of metadata that say so."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.contract.errors import FailedWork
from pipelines.contract.native import Reject
from pipelines.contract.reject_reasons import RejectReason
from pipelines.sources.lerobot_files.templates import Info
from pipelines.storage.paths import StoragePath

PARQUET_ERRORS = (pa.ArrowException, OSError, ValueError)


@dataclass(frozen=True, kw_only=True)
class VideoSpan:
    """Where the frames of one camera of one episode lie.

    from_s, to_s: the stretch of the file that is the episode's; to_s None: all of it. file_from_s, file_to_s: the
    stretch that the metadata gives to all episodes of the file, by which its clock is read.
    """

    path: StoragePath
    from_s: float = 0.0
    to_s: float | None = None
    file_from_s: float = 0.0
    file_to_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class EpisodeFiles:
    """One episode as the metadata lists it. data: its table; None where there is none.

    from_row, to_row: what the metadata says of its rows in a file of many episodes.
    """

    number: int
    data: StoragePath | None
    length: int | None = None
    tasks: tuple[str, ...] = ()
    from_row: int | None = None
    to_row: int | None = None
    videos: Mapping[str, VideoSpan] = field(default_factory=dict)

    @property
    def n_promised(self) -> int | None:
        """How many rows the metadata says that the episode has, by its length or its row numbers; None for nothing."""
        if self.length is not None or self.from_row is None or self.to_row is None:
            return self.length
        return self.to_row - self.from_row


def key_of_episode(number: int) -> str:
    """The key of an episode: its own number, whatever file it lies in."""
    return f"episode_{number:06d}"


def split_of(info: Info, number: int) -> str:
    """The split whose range `start:end` in info.json holds the episode; `train` if none does."""
    for name, text in (info.get("splits") or {}).items():
        match = re.fullmatch(r"(\d+):(\d+)", str(text))
        if match and int(match[1]) <= number < int(match[2]):
            return str(name)
    return "train"


def reject_episode(root: StoragePath, info: Info, number: int, reason: RejectReason, detail: str) -> Reject:
    """The reject row of an episode that the scan cannot use."""
    return Reject(
        source_uri=str(root),
        source_key=key_of_episode(number),
        split=split_of(info, number),
        level="episode",
        start=0,
        end=0,
        reason=reason,
        detail=detail,
    )


def read_metadata_json(path: StoragePath) -> dict[str, Any]:
    """Reads a JSON object. Raises FailedWork."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FailedWork(f"{path}: expected JSON, found {error}") from error
    if not isinstance(content, dict):
        raise FailedWork(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def read_lines(path: StoragePath) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_bytes().splitlines() if line.strip()]
    except ValueError as error:
        raise FailedWork(f"{path}: expected a JSON object a line, found {error}") from error


def read_table(path: StoragePath) -> pa.Table:
    try:
        with path.open("rb") as file:
            return pq.read_table(file)
    except PARQUET_ERRORS as error:
        raise FailedWork(f"{path}: expected a Parquet table, found {error}") from error
