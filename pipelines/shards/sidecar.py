"""The sidecar of a shard: per episode its metadata, vectors and segments, and where every picture lies in the shard.

Schema v2 goes with records that have `segment_text`; it adds `instructions`, the source's own instruction as runs of
steps. A sidecar of v1 is read as v2: its records knew one instruction for a whole episode, the task's.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.contract.errors import FailedWork
from pipelines.contract.layouts import get_layout, load_layouts
from pipelines.contract.slots import CAMERAS, LAYOUT
from pipelines.shards.example_wire import varint_sizes
from pipelines.storage.files import atomic_file
from pipelines.storage.paths import RemotePath, StoragePath

SCHEMA, SCHEMA_V1 = "embodimix.index/v2", "embodimix.index/v1"

SEGMENT = pa.struct(
    [
        pa.field("start", pa.int32()),
        pa.field("end", pa.int32()),
        pa.field("text", pa.string()),
        pa.field("kind", pa.string()),
        pa.field("arms", pa.list_(pa.string())),
        pa.field("success", pa.int8()),
        pa.field("confidence", pa.float32()),
        pa.field("source", pa.string()),
    ]
)
INSTRUCTION = pa.struct([pa.field("start", pa.int32()), pa.field("end", pa.int32()), pa.field("text", pa.string())])
_LOCATION = {
    "split": pa.string(),
    "shard": pa.string(),
    "record_index": pa.int32(),
    "record_offset": pa.int64(),
    "record_length": pa.int64(),
}
_TEXTS = (
    "episode_id",
    "dataset",
    "source_uri",
    "source_key",
    "robot",
    "control_mode",
    "layout",
    "task",
    "norm_key",
    "converter",
    "parts",
)
_STEPS = {
    "state": pa.list_(pa.float32()),
    "action": pa.list_(pa.float32()),
    "is_idle": pa.list_(pa.bool_()),
    "timestamp_s": pa.list_(pa.float64()),
}


@dataclass(frozen=True, kw_only=True)
class Location:
    """Where a record lies: its shard's file name, its number there, its header's offset, and its payload's length."""

    split: str
    shard: str
    record_index: int
    record_offset: int
    record_length: int


@dataclass(frozen=True, kw_only=True)
class PictureRanges:
    """Where one camera's JPEGs lie: the absolute offset of the first one in the shard file, and lengths int64 [t]."""

    base: int
    lengths: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, order=True)
class ShardId:
    """Shard number `shard` of `n_shards` of a split."""

    split: str
    shard: int
    n_shards: int

    @property
    def number(self) -> str:
        """For example 00000-of-00016."""
        return f"{self.shard:05d}-of-{self.n_shards:05d}"

    @property
    def file_stem(self) -> str:
        """The name of files that belong to the shard, without their ending."""
        return f"{self.split}-{self.number}"


@dataclass(frozen=True, kw_only=True)
class ShardName(ShardId):
    """A shard of the dataset `name`: the parts of `<name>-<split>.tfrecord-00000-of-00016`."""

    name: str

    @property
    def file_name(self) -> str:
        return f"{self.name}-{self.split}.tfrecord-{self.number}"

    @property
    def sidecar_name(self) -> str:
        return f"{self.file_stem}.parquet"

    def shard_path(self, directory: StoragePath) -> StoragePath:
        return directory / self.file_name

    def sidecar_path(self, directory: StoragePath) -> StoragePath:
        return directory / "index" / self.sidecar_name


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What a sidecar records of its shard: bytes, sha256, the options it was written with ("" unknown), and counts."""

    size: int
    sha256: str
    options_hash: str
    n_episodes: int
    n_steps: int


def is_split_name(text: str) -> bool:
    """Whether a split may be called so: it becomes part of file names, and a source's metadata can hold any text.

    >>> is_split_name("train-robot_0"), is_split_name("../train")
    (True, False)
    """
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}", text) is not None


def parse_shard_name(file_name: str) -> ShardName:
    """Reads a shard's file name. Raises FailedWork when it is not one."""
    match = re.fullmatch(r"(\w+)-(\w[\w-]*)\.tfrecord-(\d{5})-of-(\d{5})", file_name)
    if not match:
        raise FailedWork(f"{file_name}: expected a name like bridge-train.tfrecord-00000-of-00016")
    return ShardName(name=match[1], split=match[2], shard=int(match[3]), n_shards=int(match[4]))


def _episode_columns(n_slots: int) -> dict[str, pa.DataType]:
    return {
        "control_hz": pa.float64(),
        "language": pa.list_(pa.string()),
        "success": pa.int8(),
        "state_mask": pa.list_(pa.bool_(), n_slots),
        "action_mask": pa.list_(pa.bool_(), n_slots),
        "camera_mask": pa.list_(pa.bool_(), len(CAMERAS)),
        "n_steps": pa.int32(),
        "segments": pa.list_(SEGMENT),
        "instructions": pa.list_(INSTRUCTION),
    }


def sidecar_schema(cameras: Sequence[str], version: str = SCHEMA, layout: str = LAYOUT) -> pa.Schema:
    """The columns of a sidecar; per camera `<camera>_base` and `<camera>_lengths`. layout: of its masks."""
    texts = dict.fromkeys(_TEXTS, pa.string())
    pictures: dict[str, pa.DataType] = {}
    for camera in cameras:
        pictures |= {f"{camera}_base": pa.int64(), f"{camera}_lengths": pa.list_(pa.uint32())}
    columns = {**texts, **_LOCATION, **_episode_columns(get_layout(layout).n_slots), **_STEPS, **pictures}
    return pa.schema((name, kind) for name, kind in columns.items() if name != "instructions" or version != SCHEMA_V1)


def jpeg_offsets(base: int, lengths: NDArray[np.integer]) -> NDArray[np.int64]:
    """The absolute offset of every step's JPEG, int64 [t]; between two lie a tag and the varint of the next length.

    >>> jpeg_offsets(1000, np.array([100, 200, 7]))
    array([1000, 1103, 1305])
    """
    lengths = np.asarray(lengths, np.int64)
    # Offsets follow from lengths, so that only those are stored: 4.7 compressed bytes a step for three cameras, not
    # 10.3.
    strides = lengths[:-1] + 1 + varint_sizes(lengths[1:])
    return base + np.concatenate([[0], np.cumsum(strides)]).astype(np.int64)


def index_row(features: Mapping[str, Any], pictures: Mapping[str, PictureRanges], location: Location) -> dict[str, Any]:
    """The sidecar's row of one record, from the record's features by TFDS name (written or parsed, it is the same)."""
    episode = {
        name.removeprefix("episode_metadata/"): value
        for name, value in features.items()
        if name.startswith("episode_metadata/")
    }
    row: dict[str, Any] = {name: episode[name][0].decode() for name in _TEXTS}
    row |= {name: getattr(location, name) for name in _LOCATION}
    row |= {
        "control_hz": float(episode["control_hz"][0]),
        "language": [text.decode() for text in episode["language"]],
        "success": int(episode["success"][0]),
        "n_steps": int(episode["n_steps"][0]),
        "segments": json.loads(episode["segments"][0]),
        "instructions": _runs(features["steps/language_instruction"]),
        "state": features["steps/observation/state_physical"],
        "action": features["steps/action_physical"],
        "is_idle": features["steps/is_idle"].astype(bool),
        # From the exact stamps: the float32 seconds of the record lose milliseconds after hours.
        "timestamp_s": features["steps/timestamp_ns"] / 1e9,
    }
    row |= {name: [bool(on) for on in episode[name]] for name in ("state_mask", "action_mask", "camera_mask")}
    for camera, where in pictures.items():
        row |= {f"{camera}_base": where.base, f"{camera}_lengths": where.lengths}
    return row


def write_sidecar(
    directory: StoragePath,
    shard: ShardName,
    rows: Sequence[Mapping[str, Any]],
    cameras: Sequence[str],
    fingerprint: Fingerprint,
    version: str = SCHEMA,
) -> None:
    """Writes a shard's sidecar, atomically; equal rows give equal bytes. version: v1 for records of the first form.

    Raises FailedWork where rows are of different layouts: one shard has vectors of one width.
    """
    schema = sidecar_schema(cameras, version, _layout_of(shard, rows))
    columns = [_column(schema.field(name).type, [row[name] for row in rows]) for name in schema.names]
    metadata = {
        "schema": version,
        "shard": shard.file_name,
        "size": str(fingerprint.size),
        "sha256": fingerprint.sha256,
        "options_hash": fingerprint.options_hash,
        "n_episodes": str(fingerprint.n_episodes),
        "n_steps": str(fingerprint.n_steps),
    }
    # The fingerprint binds the index to one shard: opening compares sizes, and a replaced shard is refused.
    table = pa.table(columns, schema=schema).replace_schema_metadata(metadata)
    with atomic_file(shard.sidecar_path(directory)) as file:
        # Page checksums, since Parquet without them reads a flipped bit as another offset, and so another picture.
        pq.write_table(table, file, compression="zstd", write_page_checksum=True)


def _layout_of(shard: ShardName, rows: Sequence[Mapping[str, Any]]) -> str:
    found = sorted({row["layout"] or LAYOUT for row in rows})
    if len(found) > 1:
        raise FailedWork(f"{shard.file_name}: expected episodes of one layout, found {', '.join(found)}")
    return found[0] if found else LAYOUT


def read_fingerprint(path: StoragePath) -> Fingerprint:
    """Reads what a sidecar records of its shard. Raises FailedWork when the file is no sidecar of these schemas."""
    return _open(path)[1]


def read_version(path: StoragePath) -> str:
    """The schema of a sidecar, `SCHEMA` or `SCHEMA_V1`. Raises FailedWork when the file is no sidecar."""
    return _open(path)[2]


def read_sidecar(path: StoragePath, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads a sidecar, or some of its columns. Raises FailedWork when it is none, of another schema, or damaged."""
    file, _, version = _open(path)
    try:
        if version == SCHEMA_V1:
            return _read_v1(file, columns)
        return file.read(columns=None if columns is None else list(columns))
    except (OSError, pa.ArrowException) as error:
        raise FailedWork(f"{path}: expected a whole sidecar index, found {error}. {_REBUILD}") from error


def _read_v1(file: pq.ParquetFile, columns: Sequence[str] | None) -> pa.Table:
    """The columns as v2 has them: the task is the instruction of every step."""
    wanted = list(sidecar_schema(_cameras(file.schema_arrow)).names if columns is None else columns)
    if "instructions" not in wanted:
        return file.read(columns=wanted)
    stored = dict.fromkeys([*(name for name in wanted if name != "instructions"), "task", "n_steps"])
    table = file.read(columns=list(stored))
    pairs = zip(table["task"].to_pylist(), table["n_steps"].to_pylist(), strict=True)
    # Version 1 stored segment texts as instructions, so that only the task is the source's own.
    whole = [[{"start": 0, "end": n_steps, "text": task}] if task else [] for task, n_steps in pairs]
    return table.append_column("instructions", pa.array(whole, pa.list_(INSTRUCTION))).select(wanted)


def _cameras(schema: pa.Schema) -> list[str]:
    return [name.removesuffix("_base") for name in schema.names if name.endswith("_base")]


def _open(path: StoragePath) -> tuple[pq.ParquetFile, Fingerprint, str]:
    try:
        file = pq.ParquetFile(
            path.open() if isinstance(path, RemotePath) else path, page_checksum_verification=True, pre_buffer=False
        )
        schema = file.schema_arrow
        metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise FailedWork(f"{path}: expected a sidecar index that can be read, found {error}. {_REBUILD}") from error
    version = metadata.get("schema", "")
    if version not in (SCHEMA, SCHEMA_V1):
        raise FailedWork(f"{path}: expected schema {SCHEMA!r} or {SCHEMA_V1!r}, found {version!r}. {_REBUILD}")
    # By its width alone: the layout's name is in the rows, which are not read here.
    if not any(schema.equals(sidecar_schema(_cameras(schema), version, name)) for name in load_layouts()):
        raise FailedWork(f"{path}: expected the columns of {version}, found {', '.join(schema.names)}. {_REBUILD}")
    try:
        fingerprint = Fingerprint(
            size=int(metadata["size"]),
            sha256=metadata["sha256"],
            options_hash=metadata["options_hash"],
            n_episodes=int(metadata["n_episodes"]),
            n_steps=int(metadata["n_steps"]),
        )
        return file, fingerprint, version
    except (KeyError, ValueError) as error:
        raise FailedWork(f"{path}: expected the fingerprint of a shard, found {error!r}. {_REBUILD}") from error


def _runs(texts: Sequence[Any]) -> list[dict[str, Any]]:
    """Stretches of equal text, half open; a stretch without text is left out."""
    runs: list[dict[str, Any]] = []
    start = 0
    for step in range(1, len(texts) + 1):
        if step == len(texts) or texts[step] != texts[start]:
            if text := bytes(texts[start]).decode():
                runs.append({"start": start, "end": step, "text": text})
            start = step
    return runs


def _column(kind: pa.DataType, values: Sequence[Any]) -> pa.Array:
    """One column; lists that are arrays already are joined without a Python object per number."""
    if values and isinstance(values[0], np.ndarray):
        offsets = np.concatenate([[0], np.cumsum([len(v) for v in values])]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(values)).cast(kind.value_type))
    return pa.array(values, kind)


_REBUILD = "Run `embodimix index DATASET` to rebuild the index from the shards."
