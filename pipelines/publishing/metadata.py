"""The metadata of a published dataset: LeRobot's, and ours beside it on where each episode comes from."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from pipelines.contract.slots import METRIC, units_of
from pipelines.publishing.language import EVENTS, FEATURE, PERSISTENT
from pipelines.publishing.lerobot_statistics import Stats, merge_stats, stats_from_json, stats_to_json
from pipelines.publishing.publication import CHUNK, PlannedEpisode, Publication
from pipelines.publishing.unit_files import COUNTERS, camera_key, record_path
from pipelines.publishing.vectors import KEYS, PublishedVector
from pipelines.storage.files import atomic_file, write_atomically

INFO = "meta/info.json"
OWN = "meta/embodimix.json"
SCHEMA = "embodimix.published/v1"
PROVENANCE = "meta/embodimix_episodes.parquet"
ENTRY = "meta/embodimix_adapter.yaml"
ENTRY_NAME = "published"
Records = Sequence[Mapping[str, Any]]


def write_metadata(publication: Publication, program: str) -> None:
    """Writes all of meta/ from the records of the units, info.json last: without it there is no dataset.

    program: name and version of what publishes.
    """
    records = [json.loads(record_path(publication, unit).read_text()) for unit in range(len(publication.units))]
    statistics = [stats_from_json(stats) for record in records for stats in record["statistics"]]
    if publication.form.version == "3.0":
        _write_shared(publication, statistics)
    else:
        _write_lines(publication, statistics)
    _write_own(publication, program)
    _write_json(publication, INFO, _info(publication, _sizes(records)))


def _info(publication: Publication, sizes: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    splits: dict[str, list[int]] = {}
    for episode in publication.episodes:
        splits.setdefault(episode.split, []).append(episode.number)
    is_shared, films = publication.form.version == "3.0", publication.form.video is not None
    many = "chunk-{chunk_index:03d}/file-{file_index:03d}"
    single = "episode_{episode_index:06d}"
    info: dict[str, Any] = {
        "codebase_version": f"v{publication.form.version}",
        "robot_type": publication.robot,
        "total_episodes": len(publication.episodes),
        "total_frames": publication.n_steps,
        "total_tasks": len(publication.tasks),
        "chunks_size": CHUNK,
        "fps": int(publication.fps) if publication.fps == int(publication.fps) else publication.fps,
        "splits": {split: f"{numbers[0]}:{numbers[-1] + 1}" for split, numbers in splits.items()},
    }
    if is_shared:
        info |= {
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "data_path": f"data/{many}.parquet",
            "video_path": f"videos/{{video_key}}/{many}.mp4" if films else None,
        }
    else:
        n_chunks = -(-len(publication.episodes) // CHUNK)
        info |= {
            "total_videos": len(publication.episodes) * len(publication.cameras) if films else 0,
            "total_chunks": n_chunks,
            "data_path": f"data/chunk-{{episode_chunk:03d}}/{single}.parquet",
            "video_path": f"videos/chunk-{{episode_chunk:03d}}/{{video_key}}/{single}.mp4" if films else None,
        }
    return info | {"features": _features(publication, sizes)}


def _features(publication: Publication, sizes: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    features: dict[str, Any] = {
        KEYS["state"]: _vector_feature(publication.state),
        KEYS["action"]: _vector_feature(publication.action),
    }
    video = publication.form.video
    for camera in publication.cameras:
        y, x = sizes[camera]
        kind: dict[str, Any] = {"dtype": "image" if video is None else "video", "shape": [y, x, 3]}
        kind["names"] = ["height", "width", "channels"]
        features[camera_key(camera)] = kind | (
            {} if video is None else {"info": video.describe(publication.fps, (y, x))}
        )
    if publication.has_subtasks:
        features |= {PERSISTENT: FEATURE, EVENTS: FEATURE}
    features["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
    return features | {name: {"dtype": "int64", "shape": [1], "names": None} for name in COUNTERS}


def _vector_feature(vector: PublishedVector) -> dict[str, Any]:
    return {"dtype": "float32", "shape": [len(vector.names)], "names": list(vector.names)}


def _write_shared(publication: Publication, statistics: Sequence[dict[str, Stats]]) -> None:
    """The tables of version 3.0: tasks, episodes with their statistics, and those of the dataset."""
    tasks = pa.table({"task_index": list(range(len(publication.tasks))), "task": list(publication.tasks)})
    # LeRobot reads the texts as pandas' index, and pandas learns from this note which column that is.
    note = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [_pandas_column("task_index", "int64"), _pandas_column("task", "unicode")],
        "pandas_version": "2.0.0",
    }
    tasks = tasks.replace_schema_metadata({"pandas": json.dumps(note)})
    with atomic_file(publication.out / "meta/tasks.parquet") as file:
        pq.write_table(tasks, file)
    rows = [
        row | {f"stats/{key}/{name}": value for key, own in stats_to_json(stats).items() for name, value in own.items()}
        for row, stats in zip(_episode_rows(publication), statistics, strict=True)
    ]
    with atomic_file(publication.out / "meta/episodes/chunk-000/file-000.parquet") as file:
        pq.write_table(pa.Table.from_pylist(rows), file)
    _write_json(publication, "meta/stats.json", stats_to_json(merge_stats(statistics)))


def _episode_rows(publication: Publication) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for unit, (start, stop) in enumerate(publication.units):
        n_before = 0
        for episode in publication.episodes[start:stop]:
            chunk, file = divmod(unit, CHUNK)
            row: dict[str, Any] = {
                "episode_index": episode.number,
                "tasks": _texts(episode),
                "length": episode.n_steps,
                "data/chunk_index": chunk,
                "data/file_index": file,
                "dataset_from_index": episode.first_step,
                "dataset_to_index": episode.first_step + episode.n_steps,
            }
            for camera in publication.cameras if publication.form.video is not None else ():
                row |= {
                    f"videos/{camera_key(camera)}/chunk_index": chunk,
                    f"videos/{camera_key(camera)}/file_index": file,
                    f"videos/{camera_key(camera)}/from_timestamp": n_before / publication.fps,
                    f"videos/{camera_key(camera)}/to_timestamp": (n_before + episode.n_steps) / publication.fps,
                }
            rows.append(row | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
            n_before += episode.n_steps
    return rows


def _write_lines(publication: Publication, statistics: Sequence[dict[str, Stats]]) -> None:
    """The lines of version 2.1."""
    tasks = [{"task_index": number, "task": text} for number, text in enumerate(publication.tasks)]
    episodes = [
        {"episode_index": episode.number, "tasks": _texts(episode), "length": episode.n_steps}
        for episode in publication.episodes
    ]
    stats = [{"episode_index": number, "stats": stats_to_json(own)} for number, own in enumerate(statistics)]
    for name, lines in (("tasks", tasks), ("episodes", episodes), ("episodes_stats", stats)):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_atomically(publication.out / f"meta/{name}.jsonl", text.encode())


def _write_own(publication: Publication, program: str) -> None:
    with atomic_file(publication.out / PROVENANCE) as file:
        pq.write_table(pa.Table.from_pylist([_origin(publication, episode) for episode in publication.episodes]), file)
    entry = {
        "title": f"{publication.robot}, published by {program}",
        "format": "lerobot",
        "robot": publication.robot,
        "control_mode": publication.norm_key.split("/")[1],
        "units": "metric" if units_of(publication.norm_key) == METRIC else "native",
        "cameras": {camera: camera_key(camera) for camera in publication.cameras},
        # Of all slots, most are no part's; an entry says so for each key.
        "widths": {KEYS["state"]: len(publication.state.names), KEYS["action"]: len(publication.action.names)},
        "state": publication.state.entry(KEYS["state"]),
        "action": publication.action.entry(KEYS["action"]),
    }
    content = {"schema": "embodimix.adapters/v1", "adapters": {ENTRY_NAME: entry}}
    write_atomically(publication.out / ENTRY, yaml.safe_dump(content, sort_keys=False).encode())
    own = {
        "schema": SCHEMA,
        "program": program,
        "fingerprint": publication.fingerprint,
        "norm_key": publication.norm_key,
        "dims": publication.form.dims,
        "licence": publication.form.licence or "not stated",
        "sources": dict(publication.sources),
        **{
            side: [{"name": name, "unit": unit} for name, unit in zip(vector.names, vector.units, strict=True)]
            for side, vector in (("state", publication.state), ("action", publication.action))
        },
    }
    _write_json(publication, OWN, own)


def _origin(publication: Publication, episode: PlannedEpisode) -> dict[str, Any]:
    return {
        "episode_index": episode.number,
        "split": episode.split,
        "episode_id": episode.episode_id,
        "source_uri": episode.source_uri,
        "source_key": episode.source_key,
        "dataset": episode.dataset,
        "version": episode.version,
        "converter": episode.converter,
        "licence": publication.form.licence or "not stated",
        "success": episode.success,
        "language": list(episode.language),
        "missing_cameras": [camera for camera in publication.cameras if camera in episode.missing_cameras],
        "time_error_s": episode.time_error_s,
    }


def _texts(episode: PlannedEpisode) -> list[str]:
    return list(dict.fromkeys((episode.task, *episode.language)))


def _sizes(records: Records) -> dict[str, tuple[int, int]]:
    return {camera: (size[0], size[1]) for record in records for camera, size in record["sizes"].items()}


def _pandas_column(name: str, kind: str) -> dict[str, Any]:
    numpy_kind = "int64" if kind == "int64" else "object"
    return {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy_kind, "metadata": None}


def _write_json(publication: Publication, path: str, content: Mapping[str, Any]) -> None:
    write_atomically(publication.out / path, json.dumps(content, indent=4, ensure_ascii=False).encode())
