"""The index of one dataset split in fixed-width, memory-mapped files, compiled once per host from its sidecars.

Reading one sample touches a few pages of them; nothing is parsed and memory does not grow with the dataset.
"""

import hashlib
import json
import mmap
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.dataset import INFO_FILE, Dataset, read_info
from pipelines.errors import FailedWork, UsageError, nearest
from pipelines.index import read_fingerprint, read_sidecar
from pipelines.slots import CAMERAS, N_SLOTS
from pipelines.wire import varint_sizes

FORMAT = "embodimix.compiled/v1"
CODED = ("robot", "task", "control_mode", "norm_key", "parts")
KINDS = ("subtask", "recovery", "idle")
_EPISODE_COLUMNS = (
    "episode_id", *CODED, "n_steps", "control_hz", "success", "language", "segments", "state_mask", "action_mask",
    "camera_mask", "state", "action", "is_idle",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Table:
    """One compiled split. Arrays are memory-mapped; e episodes, t steps of all episodes, n cameras of `CAMERAS`.

    fingerprint: names the content of shards and sidecars. shards: their paths; shard_sizes: their bytes.
    vocabularies: per coded attribute (robot, task, ...) its values; `codes(attribute)` are indices into them.
    """

    folder: Path
    path: str
    name: str
    version: str
    split: str
    fingerprint: str
    cameras: tuple[str, ...]
    shards: tuple[str, ...]
    shard_sizes: tuple[int, ...]
    vocabularies: Mapping[str, tuple[str, ...]]
    n_episodes: int
    n_steps: int

    @cached_property
    def first_step(self) -> NDArray[np.int64]:
        """Row of each episode's first step, and behind the last one the number of all steps; int64 [e + 1]."""
        return self._array("first_step", np.int64)

    @cached_property
    def n_steps_of(self) -> NDArray[np.int64]:
        """Steps of each episode, int64 [e]."""
        return np.diff(self.first_step)

    @cached_property
    def shard(self) -> NDArray[np.int32]:
        """Index into `shards`, int32 [e]."""
        return self._array("shard", np.int32)

    @cached_property
    def image_base(self) -> NDArray[np.int64]:
        """Offset of the first JPEG in its shard, int64 [e, 3]; -1 where the dataset lacks the camera."""
        return self._array("image_base", np.int64, len(CAMERAS))

    @cached_property
    def image_start(self) -> NDArray[np.uint32]:
        """Offset of each JPEG behind its episode's first one, uint32 [t, 3]."""
        return self._array("image_start", np.uint32, len(CAMERAS))

    @cached_property
    def image_length(self) -> NDArray[np.uint32]:
        """Bytes of each JPEG, uint32 [t, 3]."""
        return self._array("image_length", np.uint32, len(CAMERAS))

    @cached_property
    def camera_mask(self) -> NDArray[np.bool_]:
        """bool [e, 3]."""
        return self._array("camera_mask", np.bool_, len(CAMERAS))

    @cached_property
    def state(self) -> NDArray[np.float32]:
        """Physical state, float32 [t, 18]."""
        return self._array("state", np.float32, N_SLOTS)

    @cached_property
    def action(self) -> NDArray[np.float32]:
        """Physical action, float32 [t, 18]."""
        return self._array("action", np.float32, N_SLOTS)

    @cached_property
    def state_mask(self) -> NDArray[np.bool_]:
        """bool [e, 18]."""
        return self._array("state_mask", np.bool_, N_SLOTS)

    @cached_property
    def action_mask(self) -> NDArray[np.bool_]:
        """bool [e, 18]."""
        return self._array("action_mask", np.bool_, N_SLOTS)

    @cached_property
    def is_idle(self) -> NDArray[np.bool_]:
        """bool [t]."""
        return self._array("is_idle", np.bool_)

    @cached_property
    def segment(self) -> NDArray[np.int32]:
        """Row of each step's segment in `segment_texts` and `segment_kind`, int32 [t]; -1 outside all segments."""
        return self._array("segment", np.int32)

    @cached_property
    def n_segmented(self) -> NDArray[np.int32]:
        """Steps of each episode that lie in a segment, int32 [e]."""
        return self._array("n_segmented", np.int32)

    @cached_property
    def segment_kind(self) -> NDArray[np.uint8]:
        """Index into `KINDS`, uint8 [segments]."""
        return self._array("segment_kind", np.uint8)

    @cached_property
    def control_hz(self) -> NDArray[np.float32]:
        """float32 [e]."""
        return self._array("control_hz", np.float32)

    @cached_property
    def success(self) -> NDArray[np.int8]:
        """1, 0, or -1 unknown; int8 [e]."""
        return self._array("success", np.int8)

    @cached_property
    def episode_ids(self) -> pa.Array:
        """Text [e]."""
        return _load_column(self.folder / "episode_id.arrow")

    @cached_property
    def languages(self) -> pa.Array:
        """List of texts [e]."""
        return _load_column(self.folder / "language.arrow")

    @cached_property
    def segment_texts(self) -> pa.Array:
        """Text [segments]."""
        return _load_column(self.folder / "segment_text.arrow")

    def codes(self, attribute: str) -> NDArray[np.int32]:
        """The index of each episode's value in the attribute's vocabulary, int32 [e]."""
        return self._codes[attribute]

    @cached_property
    def _codes(self) -> dict[str, NDArray[np.int32]]:
        return {attribute: self._array(f"{attribute}_code", np.int32) for attribute in CODED}

    def _array(self, name: str, kind: Any, width: int | None = None) -> NDArray[Any]:
        with open(self.folder / f"{name}.bin", "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return np.empty((0,) if width is None else (0, width), kind)
            array = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), kind)
        return array if width is None else array.reshape(-1, width)


def cache_folder(cache: str | Path | None = None) -> Path:
    """Where compiled files live: `cache`, or $EMBODIMIX_CACHE, or ~/.cache/embodimix."""
    return Path(cache or os.environ.get("EMBODIMIX_CACHE") or Path.home() / ".cache" / "embodimix")


def open_table(path: str, split: str, cache: Path) -> Table:
    """Opens a split's compiled index; compiles it first where that has not been done on this host.

    Raises FailedWork for a dataset, shard or sidecar that is missing, incomplete or changed, UsageError for a split
    that the dataset lacks.
    """
    folder = cache / "tables" / _state_of_files(path, split)
    if not (folder / "table.json").exists() or not os.path.exists(os.path.join(path, INFO_FILE)):
        info, _ = read_info(Path(path))
        splits = [entry["name"] for entry in info["splits"]]
        if split not in splits:
            raise UsageError(f"{path}: no split {split!r}. {nearest(split, splits)}")
        _compile(Dataset.open(path), split, folder)
    table = _load(folder, path)
    for shard, size in zip(table.shards, table.shard_sizes, strict=True):
        _check_size(shard, size)
    return table


def _state_of_files(path: str, split: str) -> str:
    """Names a split by what the file system says of its sidecars, without opening any."""
    index = os.path.join(path, "index")
    entries = sorted(
        (entry.name, entry.stat().st_size, entry.stat().st_mtime_ns)
        for entry in (os.scandir(index) if os.path.isdir(index) else ())
        if entry.name.startswith(f"{split}-")
    )
    return hashlib.sha256(json.dumps([FORMAT, os.path.realpath(path), split, entries]).encode()).hexdigest()[:32]


def _check_size(shard: str, size: int) -> None:
    try:
        found = os.stat(shard).st_size
    except FileNotFoundError as error:
        missing = f"{shard}: expected the shard, found no such file. Copy it again from where it was whole."
        raise FailedWork(missing) from error
    if found != size:
        raise FailedWork(f"{shard}: expected {size} bytes, found {found}. It changed under its index; copy it again.")


def _load(folder: Path, path: str) -> Table:
    content = json.loads((folder / "table.json").read_text())
    return Table(
        folder=folder, path=path, name=content["name"], version=content["version"], split=content["split"],
        fingerprint=content["fingerprint"], cameras=tuple(content["cameras"]),
        shards=tuple(os.path.join(path, name) for name in content["shards"]),
        shard_sizes=tuple(content["shard_sizes"]), n_episodes=content["n_episodes"], n_steps=content["n_steps"],
        vocabularies={name: tuple(values) for name, values in content["vocabularies"].items()},
    )  # fmt: skip


def _compile(dataset: Dataset, split: str, folder: Path) -> None:
    """Writes the folder under another name and renames it when it is whole; who comes second changes nothing."""
    scratch = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    scratch.mkdir(parents=True)
    try:
        content = _write_files(dataset, split, scratch)
        (scratch / "table.json").write_text(json.dumps(content))
        os.rename(scratch, folder)
    except OSError:
        if not (folder / "table.json").exists():
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_files(dataset: Dataset, split: str, folder: Path) -> dict[str, Any]:
    writer = _Writer(folder)
    prints = []
    try:
        for number, files in enumerate(dataset.splits[split]):
            fingerprint = read_fingerprint(files.sidecar)
            prints.append([files.sidecar.name, fingerprint.size, fingerprint.sha256, fingerprint.options_hash])
            cameras = [camera for camera in CAMERAS if camera in dataset.cameras]
            pictures = [f"{camera}_{part}" for camera in cameras for part in ("base", "lengths")]
            writer.add(read_sidecar(files.sidecar, (*_EPISODE_COLUMNS, *pictures)), number, cameras)
        writer.finish()
    finally:
        writer.close()
    identity = json.dumps([FORMAT, dataset.name, dataset.version, split, prints])
    return {
        "format": FORMAT, "name": dataset.name, "version": dataset.version, "split": split,
        "fingerprint": hashlib.sha256(identity.encode()).hexdigest(), "cameras": cameras if prints else [],
        "shards": [files.shard.name for files in dataset.splits[split]], "shard_sizes": [p[1] for p in prints],
        "n_episodes": writer.n_episodes, "n_steps": writer.n_steps,
        "vocabularies": {name: list(codes) for name, codes in writer.vocabularies.items()},
    }  # fmt: skip


class _Writer:
    """Appends sidecars to the compiled files, one shard in memory at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, BinaryIO] = {}
        self.texts: dict[str, list[pa.Array]] = {"episode_id": [], "language": [], "segment_text": []}
        self.vocabularies: dict[str, dict[str, int]] = {name: {} for name in CODED}
        self.n_episodes = self.n_steps = self.n_segments = 0
        self.append("first_step", np.zeros(1, np.int64))

    def append(self, name: str, values: NDArray[Any]) -> None:
        if name not in self.files:
            self.files[name] = open(self.folder / f"{name}.bin", "wb")
        values.tofile(self.files[name])

    def add(self, rows: pa.Table, shard: int, cameras: Sequence[str]) -> None:
        """Appends the episodes of one sidecar."""
        rows = rows.combine_chunks()
        lengths = rows["n_steps"].to_numpy().astype(np.int64)
        first = np.concatenate([[0], np.cumsum(lengths)])
        self.append("first_step", self.n_steps + first[1:])
        self.append("shard", np.full(len(lengths), shard, np.int32))
        for name, kind in (("control_hz", np.float32), ("success", np.int8)):
            self.append(name, rows[name].to_numpy().astype(kind))
        for name in ("state_mask", "action_mask", "camera_mask", "is_idle"):
            self.append(name, _flat(rows[name]).to_numpy(zero_copy_only=False).astype(np.bool_))
        for name in ("state", "action"):
            self.append(name, _flat(rows[name]).to_numpy().astype(np.float32))
        for name in CODED:
            self.append(f"{name}_code", self._codes(name, rows[name].to_pylist()))
        self.add_pictures(rows, first, cameras)
        self.add_segments(rows["segments"], first)
        self.texts["episode_id"].append(_one_array(rows["episode_id"]).cast(pa.large_string()))
        self.texts["language"].append(_one_array(rows["language"]).cast(pa.large_list(pa.large_string())))
        self.n_episodes += len(lengths)
        self.n_steps += int(first[-1])

    def add_pictures(self, rows: pa.Table, first: NDArray[np.int64], cameras: Sequence[str]) -> None:
        base = np.full((len(first) - 1, len(CAMERAS)), -1, np.int64)
        start = np.zeros((first[-1], len(CAMERAS)), np.uint32)
        length = np.zeros((first[-1], len(CAMERAS)), np.uint32)
        for camera in cameras:
            column = CAMERAS.index(camera)
            sizes = _flat(rows[f"{camera}_lengths"]).to_numpy().astype(np.int64)
            strides = sizes + 1 + varint_sizes(np.append(sizes[1:], 0))
            before = np.cumsum(strides) - strides
            base[:, column] = rows[f"{camera}_base"].to_numpy()
            length[:, column] = sizes
            start[:, column] = before - np.repeat(before[first[:-1]], np.diff(first))
        for name, values in (("image_base", base), ("image_start", start), ("image_length", length)):
            self.append(name, values)

    def add_segments(self, column: pa.ChunkedArray, first: NDArray[np.int64]) -> None:
        lists = _one_array(column)
        per_episode = np.diff(lists.offsets.to_numpy())
        segments = lists.flatten()
        begin = segments.field("start").to_numpy().astype(np.int64)
        lengths = segments.field("end").to_numpy().astype(np.int64) - begin
        begin += np.repeat(first[:-1], per_episode)
        of_step = np.full(first[-1], -1, np.int32)
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        of_step[np.repeat(begin, lengths) + within] = np.repeat(np.arange(len(lengths)) + self.n_segments, lengths)
        self.append("segment", of_step)
        inside = np.concatenate([[0], np.cumsum(of_step >= 0)])
        self.append("n_segmented", np.diff(inside[first]).astype(np.int32))
        kinds = [KINDS.index(kind) for kind in segments.field("kind").to_pylist()]
        self.append("segment_kind", np.array(kinds, np.uint8))
        self.texts["segment_text"].append(segments.field("text").cast(pa.large_string()))
        self.n_segments += len(lengths)

    def finish(self) -> None:
        """Writes the texts."""
        for name, arrays in self.texts.items():
            kind = pa.large_list(pa.large_string()) if name == "language" else pa.large_string()
            column = pa.concat_arrays(arrays) if arrays else pa.array([], kind)
            table = pa.table({name: column})
            with pa.OSFile(str(self.folder / f"{name}.arrow"), "wb") as file:
                with pa.ipc.new_file(file, table.schema) as output:
                    output.write_table(table)

    def close(self) -> None:
        for file in self.files.values():
            file.close()

    def _codes(self, name: str, values: Sequence[str]) -> NDArray[np.int32]:
        vocabulary = self.vocabularies[name]
        return np.array([vocabulary.setdefault(value, len(vocabulary)) for value in values], np.int32)


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return _one_array(column).flatten()


def _load_column(path: Path) -> pa.Array:
    return _one_array(pa.ipc.open_file(pa.memory_map(str(path))).read_all().column(0))
