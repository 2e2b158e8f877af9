"""LeRobot (v3.1): the columns `language_persistent` and `language_events` of `data/chunk-*/file-*.parquet`.

A segment is a row of style `subtask` that holds from its time until the next one; a gap is a row without content.
Kind, arms, success and confidence have no place there.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from annotation_tools.exchange.clips import Clip, EpisodeNames
from pipelines.contract.episode import Segment
from pipelines.contract.errors import FailedWork
from pipelines.storage.files import atomic_file, write_atomically

_FIELDS = [
    pa.field("role", pa.string(), nullable=False),
    pa.field("content", pa.string()),
    pa.field("style", pa.string()),
    pa.field("camera", pa.string()),
    pa.field("tool_calls", pa.list_(pa.string())),
]
_EVENTS = pa.list_(pa.struct(_FIELDS))
_PERSISTENT = pa.list_(pa.struct([*_FIELDS[:3], pa.field("timestamp", pa.float32(), nullable=False), *_FIELDS[3:]]))
_FEATURE = {"dtype": "language", "shape": [1], "names": None}


def write(directory: Path, clips: Sequence[Clip]) -> list[Path]:
    """Adds the columns to the LeRobot dataset in `directory`; without one, writes a dataset of these columns alone.

    Episodes are told by `episode_index`, the place in the dataset; other columns, and episodes without segments, stay
    as they are. Raises FailedWork where an episode has another length.
    """
    paths = sorted(directory.glob("data/chunk-*/*.parquet"))
    if not paths:
        return _write_columns(directory, clips)
    by_index = {clip.index: clip for clip in clips}
    written = [path for path in paths if _add_columns(path, by_index)]
    _declare(directory / "meta" / "info.json")
    return written


def read(path: Path, names: EpisodeNames) -> dict[str, list[Segment]]:
    """Reads the subtasks of a LeRobot dataset. Raises FailedWork where it has no language columns."""
    paths = sorted(path.glob("data/chunk-*/*.parquet"))
    found: dict[str, list[Segment]] = {}
    for file in paths:
        table = pq.ParquetFile(file).read()
        if "language_persistent" not in table.column_names:
            continue
        for index, rows in _episodes(table).items():
            persistent = table["language_persistent"][int(rows[0])].as_py()
            if not persistent:
                continue
            brief = names.at(index)
            names.find(brief.episode_id, len(rows))
            begin_s = table["timestamp"][int(rows[0])].as_py() if "timestamp" in table.column_names else 0.0
            found[brief.episode_id] = _segments(persistent, begin_s, brief.control_hz, brief.n_steps)
    if not found:
        raise FailedWork(f"{path}: expected data/chunk-*/*.parquet with a column language_persistent, found none")
    return found


def _rows(clip: Clip, begin_s: float) -> list[dict[str, Any]]:
    rows: list[tuple[int, str | None]] = []
    reached = 0
    for segment in clip.segments:
        if segment.start > reached:
            rows.append((reached, None))
        rows.append((segment.start, segment.text))
        reached = segment.end
    if reached < clip.n_steps:
        rows.append((reached, None))
    return [
        {
            "role": "assistant",
            "content": text,
            "style": "subtask",
            "timestamp": begin_s + step / clip.control_hz,
            "camera": None,
            "tool_calls": None,
        }
        for step, text in rows
    ]


def _segments(rows: Sequence[Mapping[str, Any]], begin_s: float, control_hz: float, n_steps: int) -> list[Segment]:
    subtasks = sorted((row for row in rows if row["style"] == "subtask"), key=lambda row: row["timestamp"])
    starts = [round((row["timestamp"] - begin_s) * control_hz) for row in subtasks]
    ends = [*starts[1:], n_steps]
    return [
        Segment(start=start, end=end, text=row["content"], source="source")
        for row, start, end in zip(subtasks, starts, ends, strict=True)
        if row["content"] and end > start
    ]


def _episodes(table: pa.Table) -> dict[int, np.ndarray]:
    """The rows of each episode in a data file."""
    indices = table["episode_index"].to_numpy()
    return {int(index): np.flatnonzero(indices == index) for index in np.unique(indices)}


def _add_columns(path: Path, by_index: Mapping[int, Clip]) -> bool:
    table = pq.ParquetFile(path).read()
    kept = "language_persistent" in table.column_names
    values: list[Any] = table["language_persistent"].to_pylist() if kept else [None] * len(table)
    changed = False
    for index, rows in _episodes(table).items():
        clip = by_index.get(index)
        if clip is None:
            continue
        if len(rows) != clip.n_steps:
            raise FailedWork(f"{path}: episode {index}: expected {clip.n_steps} frames, found {len(rows)}")
        begin_s = float(table["timestamp"][int(rows[0])].as_py())
        language = _rows(clip, begin_s)
        for row in rows:
            values[int(row)] = language
        changed = True
    if changed:
        _save(path, table, values)
    return changed


def _save(path: Path, table: pa.Table, persistent: Sequence[Any]) -> None:
    columns = {"language_persistent": pa.array(persistent, _PERSISTENT)}
    if "language_events" not in table.column_names:
        columns["language_events"] = pa.array([[]] * len(table), _EVENTS)
    for name, column in columns.items():
        place = table.schema.get_field_index(name)
        table = table.append_column(name, column) if place < 0 else table.set_column(place, name, column)
    with atomic_file(path) as file:
        pq.write_table(table, file)


def _write_columns(directory: Path, clips: Sequence[Clip]) -> list[Path]:
    path = directory / "data" / "chunk-000" / "file-000.parquet"
    parts, persistent = [], []
    for clip in clips:
        steps = np.arange(clip.n_steps)
        parts.append(
            pa.table(
                {
                    "episode_index": np.full(clip.n_steps, clip.index),
                    "frame_index": steps,
                    "timestamp": (steps / clip.control_hz).astype(np.float32),
                }
            )
        )
        persistent += [_rows(clip, 0.0)] * clip.n_steps
    path.parent.mkdir(parents=True, exist_ok=True)
    _save(path, pa.concat_tables(parts), persistent)
    info = {"codebase_version": "v3.1", "features": {}}
    write_atomically(directory / "meta" / "info.json", json.dumps(info).encode())
    _declare(directory / "meta" / "info.json")
    return [path]


def _declare(path: Path) -> None:
    info = json.loads(path.read_text()) if path.exists() else {"features": {}}
    features = {**info.get("features", {}), "language_persistent": _FEATURE, "language_events": _FEATURE}
    write_atomically(path, json.dumps({**info, "features": features}, indent=4).encode())
