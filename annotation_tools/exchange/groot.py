"""GR00T: an annotation column of LeRobot v2 episode files, whose numbers are texts of `meta/tasks.jsonl`.

GR00T's reader looks the column up under the name that `meta/modality.json` declares, and its numbers in tasks.jsonl.
Episodes are known by `episode_index`, in the file's name and its column. Every step has one text: the format
cannot hold kind, arms, success and confidence, and two neighbouring segments of one text become one.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from annotation_tools.exchange.clips import Clip, Collector, EpisodeNames, Imported, check_rows, runs_to_segments
from annotation_tools.exchange.copies import copied
from annotation_tools.exchange.lerobot import index_clips
from annotation_tools.exchange.numbering import number_clips, write_numbers
from pipelines.contract.errors import FailedWork
from pipelines.storage.files import atomic_file, write_atomically

CHANNEL = "human.action.segment_description"
COLUMN = f"annotation.{CHANNEL}"
_FEATURE = {"dtype": "int64", "shape": [1], "names": None}


def write(directory: Path, clips: Sequence[Clip], source: Path | None = None) -> list[Path]:
    """Adds the column to a copy of the LeRobot v2 dataset `source`; without one, writes files of this column alone.

    Raises FailedWork where the LeRobot dataset lacks an episode, or has it with another length.
    """
    if source is not None:
        numbered = index_clips(clips, source)
        with copied(source, directory):
            return _write_all(directory, numbered, source)
    if (directory / "meta" / "info.json").exists():
        raise FailedWork(
            f"{directory}: expected a new folder, found a LeRobot dataset, which an export never changes. Name it with "
            "--source to get a copy of it with the segments in another folder."
        )
    numbered = number_clips(clips)
    return [*_write_all(directory, numbered, None), write_numbers(directory, numbered)]


def read(path: Path, names: EpisodeNames) -> Imported:
    """Reads the column of every episode file. Raises FailedWork where none has it."""
    texts = {number: text for text, number in _read_tasks(path).items()}
    found = Collector(where=str(path))
    is_there = False
    for file in sorted(path.glob("data/chunk-*/episode_*.parquet")):
        table = pq.ParquetFile(file).read()
        if COLUMN not in table.column_names:
            continue
        is_there = True
        index = _index_of(file, table)
        if (match := names.match_index(index)) is None:
            found.absent.append(f"episode_index {index}")
            continue
        kept = match.check_rows(len(table), str(file))
        numbers = table[COLUMN].to_numpy()[kept].tolist()
        if unknown := set(numbers) - texts.keys():
            raise FailedWork(f"{file}: expected task_index of meta/tasks.jsonl in {COLUMN}, found {min(unknown)}")
        found.add(match, runs_to_segments([texts[number] for number in numbers]))
    if not is_there:
        raise FailedWork(f"{path}: expected data/chunk-*/episode_*.parquet with a column {COLUMN}, found none")
    return found.finish()


def _write_all(directory: Path, numbered: Mapping[int, Clip], source: Path | None) -> list[Path]:
    tasks = _read_tasks(directory)
    for text in sorted({"", *(segment.text for clip in numbered.values() for segment in clip.segments)} - set(tasks)):
        tasks[text] = max(tasks.values(), default=-1) + 1
    written = [_write_episode(directory, index, clip, tasks, source) for index, clip in sorted(numbered.items())]
    lines = [json.dumps({"task_index": number, "task": text}) for text, number in sorted(tasks.items(), key=_number)]
    write_atomically(directory / "meta" / "tasks.jsonl", ("\n".join(lines) + "\n").encode())
    _declare(directory / "meta", len(tasks))
    return written


def _index_of(file: Path, table: pa.Table) -> int:
    """The episode_index of a file, by its column, which must agree with its name."""
    named = int(file.stem.removeprefix("episode_"))
    stated = set(table["episode_index"].to_pylist()) if "episode_index" in table.column_names else {named}
    if stated != {named}:
        raise FailedWork(f"{file}: expected rows of episode_index {named} as in its name, found {sorted(stated)[:3]}")
    return named


def _write_episode(directory: Path, index: int, clip: Clip, tasks: dict[str, int], source: Path | None) -> Path:
    name = f"episode_{index:06d}.parquet"
    existing = sorted(directory.glob(f"data/chunk-*/{name}"))
    if existing:
        path, table = existing[0], pq.ParquetFile(existing[0]).read()
        _index_of(path, table)
    elif source is not None:
        raise FailedWork(f"{source}: expected data/chunk-*/{name} of {clip.source_key}, found none")
    else:
        path = directory / "data" / f"chunk-{index // 1000:03d}" / name
        steps = np.arange(clip.n_steps)
        table = pa.table({"timestamp": steps / clip.control_hz, "episode_index": np.full(clip.n_steps, index)})
    kept = check_rows(clip.n_steps, clip.dropped, len(table), str(path))
    numbers = np.full(len(table), tasks[""], np.int64)
    for segment in clip.segments:
        numbers[kept[segment.start : segment.end]] = tasks[segment.text]
    _save(path, table, numbers)
    return path


def _save(path: Path, table: pa.Table, numbers: NDArray[np.int64]) -> None:
    i, column = table.schema.get_field_index(COLUMN), pa.array(numbers)
    table = table.append_column(COLUMN, column) if i < 0 else table.set_column(i, COLUMN, column)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        pq.write_table(table, file)


def _read_tasks(directory: Path) -> dict[str, int]:
    path = directory / "meta" / "tasks.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines() if line] if path.exists() else []
    return {row["task"]: row["task_index"] for row in rows}


def _number(entry: tuple[str, int]) -> int:
    return entry[1]


def _declare(meta: Path, n_tasks: int) -> None:
    """Names the column in modality.json, where GR00T looks, and in info.json, where LeRobot looks."""
    modality = _json_of(meta / "modality.json")
    annotation = {**modality.get("annotation", {}), CHANNEL: {}}
    write_atomically(meta / "modality.json", json.dumps({**modality, "annotation": annotation}, indent=4).encode())
    if (meta / "info.json").exists():
        info = _json_of(meta / "info.json")
        info |= {"features": {**info.get("features", {}), COLUMN: _FEATURE}, "total_tasks": n_tasks}
        write_atomically(meta / "info.json", json.dumps(info, indent=4).encode())


def _json_of(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return content
