"""Compiling the sidecars of a dataset split into fixed-width files, one shard in memory at a time."""

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixtures.index.stated import STATED, stated_runs
from mixtures.randomness import mix64, mix64_int
from pipelines.contract.episode import SegmentKind, SegmentSource
from pipelines.contract.errors import FailedWork, UsageError
from pipelines.contract.layouts import get_layout
from pipelines.contract.slots import CAMERAS, LAYOUT
from pipelines.shards.dataset import Dataset
from pipelines.shards.example_wire import varint_sizes
from pipelines.shards.sidecar import read_fingerprint, read_sidecar

FORMAT = "embodimix.compiled/v7"
# Goes into the fingerprints that locks hold. It names the content of a split and not the form of its compiled files, so
# it stays when FORMAT rises: else no run that was locked before could resume.
CONTENT = "embodimix.compiled/v4"
CODED = ("robot", "task", "control_mode", "norm_key", "parts")
KINDS: tuple[str, ...] = get_args(SegmentKind)
SOURCES: tuple[str, ...] = get_args(SegmentSource)
FROM_PROPOSAL = SOURCES.index("proposal")
# One segment: what it is, who made it, and the row of its episode.
SEGMENT = np.dtype([("kind", "u1"), ("source", "u1"), ("confidence", "<f4"), ("episode", "<i4"), ("n_steps", "<i4")])
_EPISODE_COLUMNS = (
    "episode_id",
    "layout",
    "source_key",
    *CODED,
    "n_steps",
    "control_hz",
    "success",
    "language",
    "segments",
    "instructions",
    "state_mask",
    "action_mask",
    "camera_mask",
    "state",
    "action",
    "is_idle",
)


@cache
def step_type(n_slots: int) -> np.dtype[Any]:
    """What one sample needs of a step, together, so that few reads bring it."""
    # Fixed width, so that a step is found by its row alone. Offsets count from the episode's first picture, which 4
    # bytes hold: offset and length in full take 36 bytes a step, 33 GB for 900 M steps.
    return np.dtype(
        [("state", "<f4", n_slots), ("image_start", "<u4", len(CAMERAS)), ("image_length", "<u4", len(CAMERAS))]
    )


@cache
def episode_type(n_slots: int) -> np.dtype[Any]:
    """What one sample needs of an episode."""
    return np.dtype(
        [
            ("first_step", "<i8"),
            ("end_step", "<i8"),
            ("image_base", "<i8", len(CAMERAS)),
            ("shard", "<i4"),
            ("norm_key", "<i4"),
            ("control_hz", "<f4"),
            ("state_mask", "?", n_slots),
            ("action_mask", "?", n_slots),
            ("camera_mask", "?", len(CAMERAS)),
        ]
    )


def compile_table(dataset: Dataset, split: str, folder: Path, layout: str = LAYOUT) -> None:
    """Writes the compiled files of a split into an empty folder, its vectors in the slots of `layout`.

    Raises UsageError where the layout declares no slots for those of the dataset.
    """
    content = _write_files(dataset, split, folder, layout)
    (folder / "table.json").write_text(json.dumps(content))


def _write_files(dataset: Dataset, split: str, folder: Path, layout: str) -> dict[str, Any]:
    writer = _Writer(folder, layout)
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
    # From the sidecars' fingerprints, not from the compiled bytes: a lock must hold on every host, whatever its cache's
    # form.
    identity = json.dumps([CONTENT, dataset.name, dataset.version, split, prints])
    return {
        "format": FORMAT,
        "name": dataset.name,
        "version": dataset.version,
        "split": split,
        "layout": layout,
        "source_layout": writer.source_layout or layout,
        "fingerprint": hashlib.sha256(identity.encode()).hexdigest(),
        "cameras": cameras if prints else [],
        "shards": [files.shard.name for files in dataset.splits[split]],
        "shard_sizes": [p[1] for p in prints],
        "n_episodes": writer.n_episodes,
        "n_steps": writer.n_steps,
        "vocabularies": {name: list(codes) for name, codes in writer.vocabularies.items()},
    }


class _Writer:
    """Appends sidecars to the compiled files, one shard in memory at a time."""

    # Vocabularies are numbered in the order of shards, so that a dataset compiles to the same bytes on every host.
    def __init__(self, folder: Path, layout: str) -> None:
        self.folder, self.layout = folder, layout
        self.source_layout = ""
        self.files: dict[str, BinaryIO] = {}
        self.texts: dict[str, list[pa.Array]] = {
            "episode_id": [],
            "source_key": [],
            "language": [],
            "segment_text": [],
            "stated_text": [],
        }
        self.vocabularies: dict[str, dict[str, int]] = {name: {} for name in CODED}
        self.n_episodes = self.n_steps = self.n_segments = 0
        self.append("first_step", np.zeros(1, np.int64))

    def append(self, name: str, values: NDArray[Any]) -> None:
        if name not in self.files:
            self.files[name] = open(self.folder / f"{name}.bin", "wb")
        values.tofile(self.files[name])

    def add(self, rows: pa.Table, shard: int, cameras: Sequence[str]) -> None:
        """Appends the episodes of one sidecar."""
        # One shard at a time, since a whole dataset's sidecars need not fit in memory; Parquet read per sample instead
        # costs 0.67 ms a load, as nearly every sample of a global order lies in another shard.
        rows = rows.combine_chunks()
        slots = self._slots_of(rows)
        lengths = rows["n_steps"].to_numpy().astype(np.int64)
        first = np.concatenate([[0], np.cumsum(lengths)])
        self.append("first_step", self.n_steps + first[1:])
        self.append("success", rows["success"].to_numpy().astype(np.int8))
        self.append("is_idle", _flat(rows["is_idle"]).to_numpy(zero_copy_only=False).astype(np.bool_))
        values = {name: rows[name].to_pylist() for name in CODED}
        values["parts"] = [self._moved_parts(text, slots) for text in values["parts"]]
        codes = {name: self._codes(name, values[name]) for name in CODED}
        for name, numbers in codes.items():
            self.append(f"{name}_code", numbers)
        n_slots = get_layout(self.layout).n_slots
        episodes, steps = np.empty(len(lengths), episode_type(n_slots)), np.empty(first[-1], step_type(n_slots))
        episodes["first_step"], episodes["end_step"] = self.n_steps + first[:-1], self.n_steps + first[1:]
        episodes["shard"], episodes["norm_key"] = shard, codes["norm_key"]
        episodes["control_hz"] = rows["control_hz"].to_numpy()
        for name, width in (("state_mask", len(slots)), ("action_mask", len(slots)), ("camera_mask", len(CAMERAS))):
            flat = _flat(rows[name]).to_numpy(zero_copy_only=False).astype(np.bool_).reshape(-1, width)
            episodes[name] = flat if name == "camera_mask" else _moved(flat, slots, n_slots)
        state, action = (_flat(rows[name]).to_numpy().reshape(-1, len(slots)) for name in ("state", "action"))
        # Of the stored vectors, so that a dataset keeps its words in every layout.
        self.append("motion", motion_words(np.concatenate([state, action], axis=1), first))
        steps["state"] = _moved(state, slots, n_slots)
        action = _moved(action.astype(np.float32), slots, n_slots)
        _place_pictures(rows, first, cameras, episodes, steps)
        for name, array in (("episodes", episodes), ("steps", steps), ("action", action)):
            self.append(name, array)
        self.add_segments(rows["segments"], first)
        self.add_stated(rows, first)
        self.texts["episode_id"].append(one_array(rows["episode_id"]).cast(pa.large_string()))
        self.texts["source_key"].append(one_array(rows["source_key"]).cast(pa.large_string()))
        self.texts["language"].append(one_array(rows["language"]).cast(pa.large_list(pa.large_string())))
        self.n_episodes += len(lengths)
        self.n_steps += int(first[-1])

    def add_segments(self, column: pa.ChunkedArray, first: NDArray[np.int64]) -> None:
        lists = one_array(column)
        per_episode = np.diff(lists.offsets.to_numpy())
        segments = lists.flatten()
        begin = segments.field("start").to_numpy().astype(np.int64)
        lengths = segments.field("end").to_numpy().astype(np.int64) - begin
        begin += np.repeat(first[:-1], per_episode)
        of_step = segment_of_step(begin, lengths, int(first[-1]), self.n_segments)
        self.append("segment", of_step)
        self.append("n_segmented", count_segmented(of_step, first))
        found = np.empty(len(lengths), SEGMENT)
        found["kind"] = [KINDS.index(kind) for kind in segments.field("kind").to_pylist()]
        found["source"] = [SOURCES.index(source) for source in segments.field("source").to_pylist()]
        found["confidence"], found["n_steps"] = segments.field("confidence").to_numpy(), lengths
        found["episode"] = self.n_episodes + np.repeat(np.arange(len(per_episode)), per_episode)
        self.append("segments", found)
        self.texts["segment_text"].append(segments.field("text").cast(pa.large_string()))
        self.n_segments += len(lengths)

    def add_stated(self, rows: pa.Table, first: NDArray[np.int64]) -> None:
        """Appends the sentences that hold for some steps only; `first` counts from this sidecar's first step."""
        runs = stated_runs(rows)
        found = np.empty(len(runs), STATED)
        for i, (row, (start, end, _)) in enumerate(runs):
            begin = self.n_steps + first[row]
            found[i] = (begin + start, begin + end, self.n_episodes + row)
        self.append("stated", found)
        self.texts["stated_text"].append(pa.array([text for _, (_, _, text) in runs], pa.large_string()))

    def finish(self) -> None:
        """Writes the texts."""
        for name, arrays in self.texts.items():
            kind = pa.large_list(pa.large_string()) if name == "language" else pa.large_string()
            column = pa.concat_arrays(arrays) if arrays else pa.array([], kind)
            save_column(self.folder / f"{name}.arrow", column)

    def close(self) -> None:
        for file in self.files.values():
            file.close()

    def _slots_of(self, rows: pa.Table) -> tuple[int, ...]:
        """The slot here of each slot that the rows' vectors have."""
        if not len(rows):
            return tuple(range(get_layout(self.layout).n_slots))
        # Shards of another writer state no layout; their vectors are empty.
        (found, *others) = sorted({self.source_layout, *(name or LAYOUT for name in rows["layout"].to_pylist())} - {""})
        if others:
            raise FailedWork(f"expected vectors of one layout in a dataset, found {found} and {', '.join(others)}")
        self.source_layout = found
        slots = get_layout(self.layout).slots_from(get_layout(found).name)
        if slots is None:
            raise UsageError(
                f"the vectors are in layout {found}, the mixture is in {self.layout}, which declares no slots for "
                f"them; write `layout: {found}` at the top of the spec, or leave the dataset out"
            )
        return slots

    def _moved_parts(self, text: str, slots: tuple[int, ...]) -> str:
        """The parts of a robot, as JSON, in the slots here. Raises UsageError where its slots here would be others."""
        if self.source_layout == self.layout:
            return text
        parts = {part: [slots[slot] for slot in own] for part, own in json.loads(text).items()}
        expected = get_layout(self.layout).fit({part: len(own) for part, own in parts.items()})
        if expected != {part: tuple(own) for part, own in parts.items()}:
            raise UsageError(
                f"a robot with the parts {text} in {self.source_layout} would have slots in {self.layout} that mean "
                f"something else there: expected {expected}, found {parts}; convert it into {self.layout}"
            )
        return json.dumps(parts)

    def _codes(self, name: str, values: Sequence[str]) -> NDArray[np.int32]:
        vocabulary = self.vocabularies[name]
        return np.array([vocabulary.setdefault(value, len(vocabulary)) for value in values], np.int32)


def _moved(values: NDArray[Any], slots: tuple[int, ...], n_slots: int) -> NDArray[Any]:
    """Vectors or masks [n, d] in the slots of another layout, [n, n_slots]; 0 and False in those that they lack."""
    if slots == tuple(range(n_slots)):
        return values
    moved = np.zeros((len(values), n_slots), values.dtype)
    moved[:, slots] = values
    return moved


def _place_pictures(
    rows: pa.Table, first: NDArray[np.int64], cameras: Sequence[str], episodes: NDArray[Any], steps: NDArray[Any]
) -> None:
    """Fills in where each JPEG lies; first: where episodes begin among the steps, [e + 1]."""
    episodes["image_base"], steps["image_start"], steps["image_length"] = -1, 0, 0
    for camera in cameras:
        column = CAMERAS.index(camera)
        sizes = _flat(rows[f"{camera}_lengths"]).to_numpy().astype(np.int64)
        # A record holds tag (1 byte), varint of the length, then the JPEG; only lengths are stored, 4.7 against 10.3
        # compressed bytes a step for offsets and lengths.
        strides = sizes + 1 + varint_sizes(np.append(sizes[1:], 0))
        before = np.cumsum(strides) - strides
        episodes["image_base"][:, column] = rows[f"{camera}_base"].to_numpy()
        steps["image_length"][:, column] = sizes
        steps["image_start"][:, column] = before - np.repeat(before[first[:-1]], np.diff(first))


def segment_of_step(
    begin: NDArray[np.int64], lengths: NDArray[np.int64], n_steps: int, first_number: int
) -> NDArray[np.int32]:
    """The number of each step's segment, int32 [t], -1 outside; segments are numbered from `first_number` on.

    >>> segment_of_step(np.array([0, 3]), np.array([2, 1]), 5, 10).tolist()
    [10, 10, -1, 11, -1]
    """
    of_step = np.full(n_steps, -1, np.int32)
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    of_step[np.repeat(begin, lengths) + within] = np.repeat(np.arange(len(lengths)) + first_number, lengths)
    return of_step


def count_segmented(of_step: NDArray[np.int32], first: NDArray[np.int64]) -> NDArray[np.int32]:
    """Steps of each episode that lie in a segment, int32 [e]; first: where episodes begin and end, [e + 1]."""
    return np.diff(np.concatenate([[0], np.cumsum(of_step >= 0)])[first]).astype(np.int32)


def motion_words(vectors: NDArray[np.float32], first: NDArray[np.int64]) -> NDArray[np.uint64]:
    """One word per episode from its state and action rows [t, 2d], uint64 [e]; first: where episodes begin, [e + 1].

    The four lowest hashes of its different rows, rounded to a thousandth, make the word. So an episode that was
    converted twice, or lost a few steps at its ends, nearly always keeps its word, and others do not share it.
    """
    rounded = np.round(vectors.astype(np.float64) * 1000).astype(np.int64).astype(np.uint64)
    hashes = np.zeros(len(vectors), np.uint64)
    for column in rounded.T:
        hashes = mix64(hashes ^ column)
    words = np.empty(len(first) - 1, np.uint64)
    for i in range(len(words)):
        # Distinct rows only: an episode that rests at its start would else be named by how long it rests.
        lowest = np.unique(hashes[first[i] : first[i + 1]])[:4]
        words[i] = mix64_int(int(sum(mix64_int(int(h)) for h in lowest)))
    return words


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return one_array(column).flatten()


def save_column(path: Path, column: pa.Array) -> None:
    """Writes one Arrow array so that `load_column` can map it."""
    table = pa.table({"values": column})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as output:
        output.write_table(table)


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """The chunks of a column as one array."""
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
