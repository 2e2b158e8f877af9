"""Segment tables laid over a dataset's own segments, compiled beside its index; no picture is touched."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa

from mixtures.index.compiling import FORMAT, KINDS, SEGMENT, SOURCES, count_segmented, save_column, segment_of_step
from mixtures.index.sealed import ensure_sealed
from mixtures.index.tables import CompiledTable
from pipelines.contract.episode import Segment, SegmentKind, SegmentSource
from pipelines.contract.errors import FailedWork
from pipelines.segments.tables import EpisodeKey, check_segments, episode_hash, overlay, read_segments


def overlay_segments(table: CompiledTable, paths: Sequence[str], cache: Path) -> CompiledTable:
    """The table with the segments of the tables instead of its own, episode by episode; later tables win.

    Raises FailedWork for a table that is missing, unreadable, or made for other episodes than the dataset has.
    """
    digest = hashlib.sha256(table.fingerprint.encode())
    for path in paths:
        digest.update(_content_digest(path))
    name = digest.hexdigest()
    folder = cache / "overlays" / hashlib.sha256(f"{FORMAT}/{name}".encode()).hexdigest()[:32]
    ensure_sealed(folder, lambda scratch: _compile(table, paths, scratch))
    return replace(table, fingerprint=name, segment_folder=folder)


def _content_digest(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise FailedWork(f"{path}: expected a segment table that can be read, found: {error}") from error


def _compile(table: CompiledTable, paths: Sequence[str], folder: Path) -> None:
    """Writes the compiled files of the segments into an empty folder."""
    segments = _overlaid(table, paths)
    begin = [table.first_step[row] + s.start for row, found in enumerate(segments) for s in found]
    lengths = [s.end - s.start for found in segments for s in found]
    flat = [s for found in segments for s in found]
    of_step = segment_of_step(np.array(begin, np.int64), np.array(lengths, np.int64), table.n_steps, 0)
    of_step.tofile(folder / "segment.bin")
    count_segmented(of_step, table.first_step).tofile(folder / "n_segmented.bin")
    records = [
        (KINDS.index(s.kind), SOURCES.index(s.source), s.confidence, row, s.end - s.start)
        for row, found in enumerate(segments)
        for s in found
    ]
    np.array(records, SEGMENT).tofile(folder / "segments.bin")
    save_column(folder / "segment_text.arrow", pa.array([s.text for s in flat], pa.large_string()))


def _overlaid(table: CompiledTable, paths: Sequence[str]) -> list[list[Segment]]:
    """Each episode's segments, sorted by their first step: those of the tables, or else its own."""
    rows = {episode: row for row, episode in enumerate(table.episode_ids.to_pylist())}
    tables = []
    for path in paths:
        annotations = read_segments(Path(path))
        mine = {a.episode_id for a in annotations} & rows.keys()
        known = {episode: _episode_key(table, rows[episode]) for episode in mine}
        check_segments([a for a in annotations if a.episode_id in mine], known, path)
        if not mine:
            raise FailedWork(f"{path}: expected segments of {table.name} {table.version}, found none of its episodes")
        tables.append([a for a in annotations if a.episode_id in mine])
    result = [_own_segments(table, row) for row in range(table.n_episodes)]
    for episode, found in overlay(tables).items():
        result[rows[episode]] = sorted(found, key=lambda segment: segment.start)
    return result


def _episode_key(table: CompiledTable, row: int) -> EpisodeKey:
    steps = slice(table.first_step[row], table.first_step[row + 1])
    # Tables of segments are made for the stored vectors, whatever layout a mixture draws them into.
    slots = list(table.source_slots)
    movement = episode_hash(table.state[steps][:, slots], table.action[steps][:, slots])
    return EpisodeKey(n_steps=int(table.n_steps_of[row]), episode_hash=movement)


def _own_segments(table: CompiledTable, row: int) -> list[Segment]:
    """The segments that the shards hold, read back from the compiled steps."""
    numbers = table.segment[table.first_step[row] : table.first_step[row + 1]]
    edges = np.flatnonzero(np.diff(numbers, prepend=-2, append=-2))
    return [
        _own_segment(table, int(numbers[a]), int(a), int(b))
        for a, b in zip(edges[:-1], edges[1:], strict=True)
        if numbers[a] >= 0
    ]


def _own_segment(table: CompiledTable, number: int, start: int, end: int) -> Segment:
    record = table.segments[number]
    kind, source = cast(SegmentKind, KINDS[record["kind"]]), cast(SegmentSource, SOURCES[record["source"]])
    text = table.segment_text_at[number]
    return Segment(start=start, end=end, text=text, kind=kind, source=source, confidence=float(record["confidence"]))
