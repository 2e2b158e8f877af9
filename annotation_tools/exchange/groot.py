"""GR00T: an annotation column of LeRobot v2 episode files, whose numbers are texts of `meta/tasks.jsonl`.

Every step has one text; kind, arms, success and confidence have no place, and two neighbouring segments of one text
become one.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from annotation_tools.exchange.clips import Clip, EpisodeNames, runs_to_segments
from pipelines.contract.episode import Segment
from pipelines.contract.errors import FailedWork
from pipelines.storage.files import atomic_file, write_atomically

CHANNEL = "human.action.segment_description"
COLUMN = f"annotation.{CHANNEL}"


def write(directory: Path, clips: Sequence[Clip]) -> list[Path]:
    """Adds the column to the episode files in `directory`, or writes files of this column alone where there are none.

    Raises FailedWork where an episode has another length.
    """
    tasks = _read_tasks(directory)
    texts = {"", *(segment.text for clip in clips for segment in clip.segments)}
    for text in sorted(texts - set(tasks)):
        tasks[text] = max(tasks.values(), default=-1) + 1
    written = []
    for clip in clips:
        path = _path_of(directory, clip.index)
        numbers = np.full(clip.n_steps, tasks[""], np.int64)
        for segment in clip.segments:
            numbers[segment.start : segment.end] = tasks[segment.text]
        _add_column(path, clip, numbers)
        written.append(path)
    lines = [json.dumps({"task_index": number, "task": text}) for text, number in sorted(tasks.items(), key=_number)]
    write_atomically(directory / "meta" / "tasks.jsonl", ("\n".join(lines) + "\n").encode())
    _declare(directory / "meta" / "modality.json")
    return written


def read(path: Path, names: EpisodeNames) -> dict[str, list[Segment]]:
    """Reads the column of every episode file. Raises FailedWork where none has it."""
    texts = {number: text for text, number in _read_tasks(path).items()}
    found = {}
    for file in sorted(path.glob("data/chunk-*/episode_*.parquet")):
        table = pq.ParquetFile(file).read()
        if COLUMN not in table.column_names:
            continue
        brief = names.at(int(file.stem.removeprefix("episode_")))
        names.find(brief.episode_id, len(table))
        found[brief.episode_id] = runs_to_segments([texts.get(number) for number in table[COLUMN].to_pylist()])
    if not found:
        raise FailedWork(f"{path}: expected data/chunk-*/episode_*.parquet with a column {COLUMN}, found none")
    return found


def _path_of(directory: Path, index: int) -> Path:
    name = f"episode_{index:06d}.parquet"
    existing = sorted(directory.glob(f"data/chunk-*/{name}"))
    return existing[0] if existing else directory / "data" / f"chunk-{index // 1000:03d}" / name


def _add_column(path: Path, clip: Clip, numbers: np.ndarray) -> None:
    if path.exists():
        table = pq.ParquetFile(path).read()
        if len(table) != clip.n_steps:
            raise FailedWork(f"{path}: expected {clip.n_steps} frames, found {len(table)}")
    else:
        steps = np.arange(clip.n_steps)
        table = pa.table({"timestamp": steps / clip.control_hz, "episode_index": np.full(clip.n_steps, clip.index)})
    place = table.schema.get_field_index(COLUMN)
    column = pa.array(numbers)
    table = table.append_column(COLUMN, column) if place < 0 else table.set_column(place, COLUMN, column)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        pq.write_table(table, file)


def _read_tasks(directory: Path) -> dict[str, int]:
    path = directory / "meta" / "tasks.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines() if line] if path.exists() else []
    return {row["task"]: row["task_index"] for row in rows}


def _number(entry: tuple[str, int]) -> int:
    return entry[1]


def _declare(path: Path) -> None:
    modality = json.loads(path.read_text()) if path.exists() else {}
    annotation = {**modality.get("annotation", {}), CHANNEL: {}}
    write_atomically(path, json.dumps({**modality, "annotation": annotation}, indent=4).encode())
