"""LeRobot: the columns `language_persistent` and `language_events` of `data/chunk-*/file-*.parquet`.

As `lerobot.datasets.language` of LeRobot 0.6 has them (the v3.1 row schema). A segment is a row of style `subtask` that
holds from its time until the next one; a gap is a row without content. Episodes are known by the column
`episode_index`. The format cannot hold kind, arms, success and confidence.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from annotation_tools.exchange.clips import Clip, Collector, EpisodeNames, Imported, Rows, check_rows
from annotation_tools.exchange.copies import copied
from annotation_tools.exchange.numbering import number_clips, write_numbers
from pipelines.contract.episode import Segment
from pipelines.contract.errors import FailedWork, UsageError
from pipelines.publishing.language import EVENTS, FEATURE, PERSISTENT, language_arrays, subtask_rows
from pipelines.storage.files import atomic_file, write_atomically

_TABLES = "data/chunk-*/*.parquet"
_VERSIONS = ("v3.0", "v3.1")
Times = NDArray[np.float64]


def write(directory: Path, clips: Sequence[Clip], source: Path | None = None) -> list[Path]:
    """Adds the columns to a copy of the LeRobot dataset `source`; without one, writes a dataset of these columns alone.

    Episodes are found by `episode_index`; other columns, and episodes without segments, stay as they are.
    Raises FailedWork where the LeRobot dataset lacks an episode, or has it with another length.
    """
    if source is None:
        return _write_columns(directory, clips)
    _check_version(source)
    by_index = index_clips(clips, source)
    left = dict(by_index)
    with copied(source, directory):
        written = [path for path in sorted(directory.glob(_TABLES)) if _add_columns(path, by_index, left)]
        if left:
            key = left[min(left)].source_key
            raise FailedWork(f"{source}: expected episode_index {min(left)}, {key}, found no row of it")
        _declare(directory / "meta" / "info.json")
    return written


def _check_version(source: Path) -> None:
    """Raises UsageError for a version whose readers know no language columns; without info.json, the copy does."""
    info = source / "meta" / "info.json"
    version = json.loads(info.read_text()).get("codebase_version") if info.exists() else _VERSIONS[0]
    if version not in _VERSIONS:
        raise UsageError(
            f"--source {source}: expected LeRobot {' or '.join(_VERSIONS)}, whose readers know the columns "
            f"{PERSISTENT} and {EVENTS}; found {version}. Convert a copy by LeRobot's convert_dataset_v21_to_v30 first"
        )


def read(path: Path, names: EpisodeNames) -> Imported:
    """Reads the subtasks of a LeRobot dataset. Raises FailedWork where it has no language columns."""
    found = Collector(where=str(path))
    is_there = False
    for file in sorted(path.glob(_TABLES)):
        table = pq.ParquetFile(file).read()
        if "language_persistent" not in table.column_names:
            continue
        is_there = True
        for index, rows in _episodes(table).items():
            persistent = table["language_persistent"][int(rows[0])].as_py()
            if not persistent:
                continue
            if (match := names.match_index(index)) is None:
                found.absent.append(f"episode_index {index}")
                continue
            kept = match.check_rows(len(rows), f"{file}: episode_index {index}")
            times = _times(table, rows, match.brief.control_hz)
            found.add(match, _segments(persistent, times, kept))
    if not is_there:
        raise FailedWork(f"{path}: expected {_TABLES} with a column language_persistent, found none")
    return found.finish()


def index_clips(clips: Sequence[Clip], source: Path) -> dict[int, Clip]:
    """The episodes by their `episode_index` in `source`. Raises FailedWork for one without, or two of one index."""
    by_index: dict[int, Clip] = {}
    for clip in clips:
        if (index := clip.lerobot_index) is None:
            raise FailedWork(
                f"{clip.source_key}: expected an episode that comes from a LeRobot dataset, so that it is known by its "
                f"episode_index in {source}, found this key. Give --names FILE, a CSV of episode_index and source key."
            )
        if index in by_index:
            raise FailedWork(f"episode_index {index}: expected one episode, found {clip.source_key} twice")
        by_index[index] = clip
    return by_index


def _segments(rows: Sequence[Mapping[str, Any]], times: Times, kept: Rows) -> list[Segment]:
    """times: of every row of the foreign table. kept: the rows that are steps of the dataset."""
    subtasks = sorted((row for row in rows if row["style"] == "subtask"), key=lambda row: row["timestamp"])
    # The row whose time is nearest: stored as float32, times are not those of the column to the bit.
    nearest = [int(np.abs(times - row["timestamp"]).argmin()) for row in subtasks]
    starts = np.searchsorted(kept, nearest).tolist()
    return [
        Segment(start=start, end=end, text=row["content"], source="source")
        for row, start, end in zip(subtasks, starts, [*starts[1:], len(kept)], strict=True)
        if row["content"]
    ]


def _episodes(table: pa.Table) -> dict[int, Rows]:
    """The rows of each episode in a data file."""
    indices = table["episode_index"].to_numpy()
    return {int(index): np.flatnonzero(indices == index) for index in np.unique(indices)}


def _times(table: pa.Table, rows: Rows, control_hz: float) -> Times:
    if "timestamp" not in table.column_names:
        return np.arange(len(rows)) / control_hz
    return table["timestamp"].to_numpy().astype(np.float64)[rows]


def _add_columns(path: Path, by_index: Mapping[int, Clip], left: dict[int, Clip]) -> bool:
    table = pq.ParquetFile(path).read()
    has_column = "language_persistent" in table.column_names
    values: list[Any] = table["language_persistent"].to_pylist() if has_column else [None] * len(table)
    changed = False
    for index, rows in _episodes(table).items():
        if (clip := by_index.get(index)) is None:
            continue
        left.pop(index, None)
        kept = check_rows(clip.n_steps, clip.dropped, len(rows), f"{path}: episode_index {index}")
        language = subtask_rows(clip.segments, _times(table, rows, clip.control_hz)[kept])
        for row in rows:
            values[int(row)] = language
        changed = True
    if changed:
        _save(path, table, values)
    return changed


def _save(path: Path, table: pa.Table, persistent: Sequence[Any]) -> None:
    columns = language_arrays(persistent)
    if EVENTS in table.column_names:
        del columns[EVENTS]
    for name, column in columns.items():
        i = table.schema.get_field_index(name)
        table = table.append_column(name, column) if i < 0 else table.set_column(i, name, column)
    with atomic_file(path) as file:
        pq.write_table(table, file)


def _write_columns(directory: Path, clips: Sequence[Clip]) -> list[Path]:
    if (directory / "meta" / "info.json").exists() and not (directory / "embodimix_episodes.json").exists():
        raise FailedWork(
            f"{directory}: expected a new folder, found a LeRobot dataset, which an export never changes. Name it with "
            "--source to get a copy of it with the segments in another folder."
        )
    path = directory / "data" / "chunk-000" / "file-000.parquet"
    numbered = number_clips(clips)
    parts, persistent = [], []
    for index, clip in sorted(numbered.items()):
        steps = np.arange(clip.n_steps)
        parts.append(
            pa.table(
                {
                    "episode_index": np.full(clip.n_steps, index),
                    "frame_index": steps,
                    "timestamp": (steps / clip.control_hz).astype(np.float32),
                }
            )
        )
        persistent += [subtask_rows(clip.segments, steps / clip.control_hz)] * clip.n_steps
    path.parent.mkdir(parents=True, exist_ok=True)
    _save(path, pa.concat_tables(parts), persistent)
    info = {"codebase_version": "v3.1", "features": {}}
    write_atomically(directory / "meta" / "info.json", json.dumps(info).encode())
    _declare(directory / "meta" / "info.json")
    return [path, write_numbers(directory, numbered)]


def _declare(path: Path) -> None:
    info = json.loads(path.read_text()) if path.exists() else {"features": {}}
    features = {**info.get("features", {}), PERSISTENT: FEATURE, EVENTS: FEATURE}
    write_atomically(path, json.dumps({**info, "features": features}, indent=4).encode())
