"""Segment tables: Parquet files beside a dataset that replace the segments of its episodes."""

import hashlib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.contract.episode import Segment, SegmentKind, SegmentSource
from pipelines.contract.errors import FailedWork
from pipelines.contract.words import counted
from pipelines.storage.files import write_atomically
from pipelines.storage.paths import StoragePath

SCHEMA = "embodimix.segments/v1"
KINDS: tuple[str, ...] = get_args(SegmentKind)
SOURCES: tuple[str, ...] = get_args(SegmentSource)
FaultKind = Literal["overlap", "gap", "outside", "empty", "value", "unknown episode", "other version"]

COLUMNS = pa.schema(
    [
        pa.field("episode_id", pa.string()),
        pa.field("start", pa.int32()),
        pa.field("end", pa.int32()),
        pa.field("text", pa.string()),
        pa.field("kind", pa.string()),
        pa.field("arms", pa.list_(pa.string())),
        pa.field("success", pa.int8()),
        pa.field("confidence", pa.float32()),
        pa.field("source", pa.string()),
        pa.field("annotator", pa.string()),
        pa.field("created", pa.string()),
        pa.field("tool_version", pa.string()),
        pa.field("episode_hash", pa.string()),
    ]
)
_SEGMENT = ("start", "end", "text", "kind", "arms", "success", "confidence", "source")


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """One segment of one episode, who made it, and when.

    episode_hash: `episode_hash` of the annotated episode. created: UTC in ISO 8601, to the second.
    """

    episode_id: str
    episode_hash: str
    segment: Segment
    annotator: str
    created: str
    tool_version: str

    @property
    def layer(self) -> tuple[str, str, str]:
        """One annotator's segments, of a person or a machine, for one episode."""
        return self.episode_id, self.segment.source, self.annotator


@dataclass(frozen=True, kw_only=True)
class EpisodeKey:
    """What a segment must fit: the episode's length and `episode_hash`."""

    n_steps: int
    episode_hash: str


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is wrong with a segment or between two of them. A gap is reported, but may be intended."""

    kind: FaultKind
    episode_id: str
    annotator: str
    start: int
    end: int
    detail: str

    @property
    def is_error(self) -> bool:
        return self.kind != "gap"

    def __str__(self) -> str:
        where = f"episode {self.episode_id}, {self.annotator or 'no annotator'}, steps {self.start}-{self.end}"
        return f"{where}: {self.kind}: {self.detail}"


def episode_hash(state: NDArray[np.float32], action: NDArray[np.float32]) -> str:
    """Names an episode's movement: 32 hex digits of the sha256 over physical state and action, float32 [t, d].

    It stays the same when only texts or pictures change in a new conversion, so that segment tables still fit.
    """
    digest = hashlib.sha256(b"embodimix.motion/v1")
    for array in (state, action):
        digest.update(np.ascontiguousarray(array, "<f4").tobytes())
    return digest.hexdigest()[:32]


def to_table(annotations: Iterable[Annotation]) -> pa.Table:
    """Makes a table, sorted by episode, source, annotator and step, so that equal content gives equal files."""
    rows = [
        {
            **{name: getattr(a.segment, name) for name in _SEGMENT},
            "episode_id": a.episode_id,
            "annotator": a.annotator,
            "created": a.created,
            "tool_version": a.tool_version,
            "episode_hash": a.episode_hash,
        }
        # Sorted, so that equal content gives equal bytes, and merging the same tables again changes nothing.
        for a in sorted(annotations, key=lambda a: (a.layer, a.segment.start, a.segment.end, a.segment.text))
    ]
    return pa.Table.from_pylist(rows, schema=COLUMNS)


def to_annotations(table: pa.Table) -> list[Annotation]:
    """The rows of a table, in its order."""
    return [_annotation(row) for row in table.to_pylist()]


def write_segments(path: StoragePath, annotations: Iterable[Annotation]) -> None:
    """Writes a segment table, atomically: a reader sees the old file or the new one."""
    write_atomically(path, to_parquet(annotations))


def to_parquet(annotations: Iterable[Annotation]) -> bytes:
    """A segment table as the bytes of its file; equal annotations give equal bytes."""
    table = to_table(annotations).replace_schema_metadata({"schema": SCHEMA})
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd")
    return file.getvalue()


def check_own_table(path: StoragePath, annotator: str, source: SegmentSource) -> None:
    """Raises FailedWork where a table is at `path` that anyone but `annotator` made, so that none is overwritten.

    The layers `annotator-2`, ... that an import makes of overlapping segments count as the annotator's own.
    """
    if not path.exists():
        return
    for annotation in read_segments(path):
        is_own = re.fullmatch(rf"{re.escape(annotator)}(-\d+)?", annotation.annotator)
        if not is_own or annotation.segment.source != source:
            raise FailedWork(
                f"{path}: expected a table of {annotator} ({source}) or none, found segments that would be lost, of "
                f"{annotation.annotator} ({annotation.segment.source}). Give another name or --out."
            )


def read_segments(path: StoragePath) -> list[Annotation]:
    """Reads a segment table. Raises FailedWork where the file is none, of another schema, or lacks columns."""
    try:
        table = pq.ParquetFile(pa.BufferReader(path.read_bytes())).read()
    except (OSError, pa.ArrowInvalid) as error:
        raise FailedWork(f"{path}: expected a segment table that can be read, found {error}") from error
    found = (table.schema.metadata or {}).get(b"schema", b"").decode()
    if found != SCHEMA:
        raise FailedWork(f"{path}: expected a segment table of schema {SCHEMA!r}, found {found!r}")
    missing = [name for name in COLUMNS.names if name not in table.column_names]
    if missing:
        raise FailedWork(f"{path}: expected the columns {', '.join(COLUMNS.names)}; missing: {', '.join(missing)}")
    return to_annotations(table.select(COLUMNS.names).cast(COLUMNS))


def find_faults(annotations: Iterable[Annotation], episodes: Mapping[str, EpisodeKey]) -> list[Fault]:
    """Checks segments against their episodes, each annotator's for itself, in order of the table.

    >>> find_faults([], {})
    []
    """
    faults = []
    for (episode_id, _, _), layer in groupby(sorted(annotations, key=_by_layer), key=lambda a: a.layer):
        segments = list(layer)
        episode = episodes.get(episode_id)
        if episode is None:
            detail = "the dataset has no such episode; was it converted again from other data?"
            faults.append(_fault("unknown episode", segments[0], detail))
            continue
        others = [a for a in segments if a.episode_hash != episode.episode_hash]
        if others:
            detail = f"made for movement {others[0].episode_hash}, the dataset has {episode.episode_hash}"
            faults.append(_fault("other version", others[0], detail))
        for annotation in segments:
            faults += _own_faults(annotation, episode.n_steps)
        faults += _faults_between(segments, episode.n_steps)
    return faults


def check_segments(annotations: Sequence[Annotation], episodes: Mapping[str, EpisodeKey], source: str) -> None:
    """Raises FailedWork that names `source` and the first faults, where any is an error (gaps are not)."""
    errors = [fault for fault in find_faults(annotations, episodes) if fault.is_error]
    if errors:
        shown = "\n".join(f"  {error}" for error in errors[:10])
        more = f"\n  and {len(errors) - 10} more" if len(errors) > 10 else ""
        found = f"found {counted(errors, 'fault')}"
        raise FailedWork(f"{source}: expected segments that fit the dataset, {found}:\n{shown}{more}")


def overlay(tables: Iterable[Sequence[Annotation]]) -> dict[str, tuple[Segment, ...]]:
    """The segments of each episode in the tables: those of the last table that has it.

    An episode's segments are replaced as a whole. Raises FailedWork where one table has two annotators'
    segments of one episode: merge them first.
    """
    result: dict[str, tuple[Segment, ...]] = {}
    for table in tables:
        seen: dict[str, tuple[str, str, str]] = {}
        for layer, group in groupby(sorted(table, key=_by_layer), key=lambda a: a.layer):
            other = seen.setdefault(layer[0], layer)
            # Which of two annotators is right is a decision (`annotate merge`), not something that an overlay may
            # guess.
            if other != layer:
                raise FailedWork(
                    f"episode {layer[0]}: expected one annotator in a table that overlays a dataset, found "
                    f"{other[2]!r} and {layer[2]!r}. Run `embodimix annotate merge` to decide between them."
                )
            result[layer[0]] = tuple(annotation.segment for annotation in group)
    return result


def is_unicode(text: str) -> bool:
    """Whether a text can be written to a file: JSON's escapes can hold half a surrogate pair, which UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _by_layer(annotation: Annotation) -> tuple[tuple[str, str, str], int, int]:
    return annotation.layer, annotation.segment.start, annotation.segment.end


def _annotation(row: Mapping[str, Any]) -> Annotation:
    values = {name: row[name] for name in _SEGMENT} | {"arms": tuple(row["arms"] or ())}
    rest = {name: row[name] for name in ("episode_id", "episode_hash", "annotator", "created", "tool_version")}
    return Annotation(segment=Segment(**values), **rest)


def _fault(
    kind: FaultKind, annotation: Annotation, detail: str, start: int | None = None, end: int | None = None
) -> Fault:
    segment = annotation.segment
    return Fault(
        kind=kind,
        episode_id=annotation.episode_id,
        annotator=annotation.annotator,
        detail=detail,
        start=segment.start if start is None else start,
        end=segment.end if end is None else end,
    )


def _own_faults(annotation: Annotation, n_steps: int) -> list[Fault]:
    segment, faults = annotation.segment, []
    if segment.end <= segment.start:
        faults.append(_fault("empty", annotation, "expected start < end"))
    if segment.start < 0 or segment.end > n_steps:
        faults.append(_fault("outside", annotation, f"the episode has steps 0-{n_steps}"))
    checks = (
        ("kind", segment.kind in KINDS, f"one of {KINDS}"),
        ("source", segment.source in SOURCES, f"one of {SOURCES}"),
        ("success", segment.success in (-1, 0, 1), "1, 0 or -1"),
        ("confidence", 0 <= segment.confidence <= 1, "0 to 1"),
        ("text", bool(segment.text.strip()), "words"),
        ("letters", is_unicode(segment.text), "text without lone surrogates"),
    )
    for name, is_good, expected in checks:
        if not is_good:
            found = segment.text if name == "letters" else getattr(segment, name)
            detail = f"{name}: expected {expected}, found {found!r}"
            faults.append(_fault("value", annotation, detail))
    return faults


def _faults_between(layer: Sequence[Annotation], n_steps: int) -> list[Fault]:
    """Overlaps and gaps among one annotator's segments of one episode, sorted by start."""
    faults, reached = [], 0
    for annotation in layer:
        start = annotation.segment.start
        if start < reached:
            faults.append(_fault("overlap", annotation, f"the segment before it reaches to step {reached}"))
        elif start > reached:
            faults.append(_fault("gap", annotation, "no segment covers these steps", reached, start))
        reached = max(reached, annotation.segment.end)
    if layer and reached < n_steps:
        faults.append(_fault("gap", layer[-1], "no segment covers these steps", reached, n_steps))
    return faults
