"""RLDS episodes in TFDS directories: TFRecords of `tf.train.Example`, read without TensorFlow."""

import functools
import json
import re
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.episode import Reference
from pipelines.contract.errors import UsageError
from pipelines.contract.native import EpisodeLocation, Found, NativeEpisode, Reject, Rejected
from pipelines.mapping.adapters import Adapter
from pipelines.shards.example_wire import ByteStrings, CorruptExample, Parsed, Payload, parse_example
from pipelines.shards.tfrecord import CorruptRecord, read_record, scan_records
from pipelines.sources.folders import find_files, key_of, source_root
from pipelines.storage.mirror import local_path, own_file
from pipelines.storage.paths import RemotePath, StoragePath, as_storage_path

# Each dataset has its own entry.
USUAL_ADAPTER = ""
_SHARD = re.compile(r"(?P<name>\w+)-(?P<split>\w+)\.tfrecord(?:-(?P<shard>\d+)-of-(?P<n_shards>\d+))?")
_PICTURE_STARTS = (b"\xff\xd8", b"\x89PNG")
_STEPS = "steps/"
# No vector of one step is larger; a stream that unpacks to more is hostile.
_MAX_UNPACKED = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ShardFile:
    """One TFRecord file of the input; n_records as `dataset_info.json` promises, if it does."""

    path: StoragePath
    split: str
    shard: int
    n_shards: int
    n_records: int | None


def find(source: str, adapter: Adapter) -> Found:
    """Lists every record of a TFDS directory; records that a damaged or missing file lost are rejects.

    source: the version folder, or a folder above it that holds only one. Raises UsageError when there is none.
    """
    folder = find_version_folder(source_root(source))
    episodes: list[EpisodeLocation] = []
    rejects: list[Reject] = []
    for file in list_shards(folder):
        found, error = (_count(file), "") if isinstance(file.path, RemotePath) else _scan(file)
        episodes += found
        if error:
            rejects += _lost_records(file, len(found), error)
    return Found(episodes=tuple(episodes), rejects=tuple(rejects))


files_of = own_file


def read(located: EpisodeLocation, adapter: Adapter) -> NativeEpisode:
    """Reads one record; its arrays are the features below `steps/`, its frames the ones that hold pictures.

    Raises Rejected when the record's bytes are damaged or are no RLDS episode.
    """
    try:
        features = parse_example(_read_payload(located))
    except CorruptRecord as error:
        raise Rejected("corrupt_record", str(error)) from error
    except CorruptExample as error:
        raise Rejected("corrupt_example", str(error)) from error
    steps = {key.removeprefix(_STEPS): value for key, value in features.items() if key.startswith(_STEPS)}
    t = count_steps(steps)
    steps |= {key: _unpack(key, steps[key]) for key in adapter.compressed if key in steps}
    numbers = {key: value for key, value in steps.items() if isinstance(value, np.ndarray) and value.size}
    arrays = {key: _per_step(key, value, t) for key, value in numbers.items()}
    texts = {key: value for key, value in steps.items() if isinstance(value, ByteStrings)}
    frames = {key: value for key, value in texts.items() if len(value) == t and _is_picture(value)}
    language = read_language(texts, arrays, adapter.language)
    is_terminal = bool(arrays["is_terminal"][-1, 0]) if "is_terminal" in arrays else True
    flags = read_flags(features)
    return NativeEpisode(
        reference=located.reference,
        n_steps=t,
        arrays=arrays,
        frames=frames,
        language=language,
        task=language[0] if language else "",
        is_terminal=is_terminal,
        flags=flags,
        reward=_scalars(arrays, "reward"),
        discount=_scalars(arrays, "discount"),
        success=read_success(features, flags),
    )


def find_version_folder(source: StoragePath) -> StoragePath:
    """Returns the one folder at or below `source` that holds TFRecord files of one dataset version."""
    files = find_files(source, "*.tfrecord*")
    folders = sorted({path.parent for path in files if _SHARD.fullmatch(path.name)}, key=str)
    if not folders:
        raise UsageError(f"{source}: expected files such as NAME-train.tfrecord-00000-of-00001, found none")
    if len(folders) > 1:
        listed = ", ".join(key_of(folder, source) for folder in folders)
        raise UsageError(f"{source}: expected one dataset version, found several: {listed}. Name one of them")
    return folders[0]


def list_shards(folder: StoragePath) -> list[ShardFile]:
    """Returns the files of every split, in order. Raises UsageError when a file of a split is not there."""
    matches = [match for path in sorted(folder.iterdir()) if (match := _SHARD.fullmatch(path.name))]
    if len(names := {match["name"] for match in matches}) > 1:
        raise UsageError(f"{folder}: expected the files of one dataset, found {', '.join(sorted(names))}")
    promised = _read_shard_lengths(folder / "dataset_info.json")
    by_split: dict[str, list[ShardFile]] = defaultdict(list)
    for match in matches:
        split, shard, n_shards = match["split"], int(match["shard"] or 0), int(match["n_shards"] or 1)
        lengths = promised.get(split, [])
        n_records = lengths[shard] if len(lengths) == n_shards else None
        path = folder / match[0]
        by_split[split].append(ShardFile(path=path, split=split, shard=shard, n_shards=n_shards, n_records=n_records))
    for split, files in by_split.items():
        missing = sorted(set(range(files[0].n_shards)) - {file.shard for file in files})
        if missing or len({file.n_shards for file in files}) > 1:
            raise UsageError(
                f"{folder}: split {split}: expected {files[0].n_shards} files, found {len(files)}; "
                f"missing: {', '.join(map(str, missing))}. Fetch them"
            )
    return [file for split in sorted(by_split) for file in by_split[split]]


def count_steps(steps: dict[str, Parsed]) -> int:
    """Returns the number of steps, which the RLDS flags tell. Raises Rejected for an episode without them."""
    for key in ("is_first", "is_last", "is_terminal", "reward", "discount"):
        if key in steps and len(steps[key]):
            return len(steps[key])
    listed = ", ".join(sorted(steps)) or "none"
    raise Rejected("no_steps", f"expected RLDS steps with is_first or is_last, found {listed}")


def read_language(
    texts: Mapping[str, ByteStrings], arrays: Mapping[str, NDArray], keys: Sequence[str]
) -> tuple[str, ...]:
    """Returns every distinct instruction under `keys`, in order; empty ones are left out.

    An instruction stored as numbers is a row of code points, padded with zeros.
    """
    found: dict[str, None] = {}
    for key in keys:
        values = [value.decode("utf-8", errors="replace") for value in dict.fromkeys(texts.get(key, ()))]
        if key in arrays:
            values += ["".join(map(chr, row[row > 0].astype(int))) for row in np.unique(arrays[key], axis=0)]
        found |= dict.fromkeys(text for value in values if (text := value.strip()))
    return tuple(found)


def read_flags(features: Mapping[str, Parsed]) -> dict[str, float]:
    """Returns the single numbers that are told of a whole episode, `episode_metadata/` left off their names."""
    return {
        key.removeprefix("episode_metadata/"): float(value[0])
        for key, value in features.items()
        if not key.startswith(_STEPS) and isinstance(value, np.ndarray) and value.size == 1
    }


def read_success(features: Mapping[str, Parsed], flags: Mapping[str, float]) -> int:
    """1 or 0 from a `success` flag, or from a path through a folder success/ or failure/, as DROID's; else -1."""
    if "success" in flags:
        return int(flags["success"] > 0)
    paths = features.get("episode_metadata/file_path", ())
    parts = paths[0].decode("utf-8", errors="replace").split("/") if isinstance(paths, ByteStrings) and paths else []
    return 1 if "success" in parts else 0 if "failure" in parts else -1


def _scan(file: ShardFile) -> tuple[list[EpisodeLocation], str]:
    """The records that can be reached, and what stopped the scan, if anything did."""
    found: list[EpisodeLocation] = []
    try:
        for span in scan_records(file.path):
            reference = Reference(uri=str(file.path), key=_key(file, len(found)), split=file.split)
            found.append(EpisodeLocation(reference=reference, place=span))
    except CorruptRecord as error:
        return found, str(error)
    return found, ""


def _count(file: ShardFile) -> list[EpisodeLocation]:
    """The records of a file in an object store, as `dataset_info.json` counts them; workers find them in a copy."""
    if file.n_records is None:
        raise UsageError(f"{file.path}: expected a dataset_info.json with shardLengths beside files of an object store")
    return [
        EpisodeLocation(
            reference=Reference(uri=str(file.path), key=_key(file, number), split=file.split),
            place=(number,),
            group=str(file.path),
        )
        for number in range(file.n_records)
    ]


def _read_payload(located: EpisodeLocation) -> Payload:
    """The bytes of a record: by offset and length on a disk, by number in an object store. Raises CorruptRecord."""
    place = as_storage_path(located.reference.uri)
    if not isinstance(place, RemotePath):
        return read_record(place, *located.place)
    (number,) = located.place
    local = local_path(place)
    spans, error = _read_spans(local, local.stat().st_mtime_ns)
    if number >= len(spans):
        raise Rejected("truncated_file", error or f"{place}: expected record {number}, found {len(spans)} records")
    return read_record(local, *spans[number])


@functools.lru_cache(maxsize=16)
def _read_spans(local: Path, mtime_ns: int) -> tuple[tuple[tuple[int, int], ...], str]:
    """Offset and length of every record that can be reached in a copy, and what stopped the scan, if anything did."""
    spans: list[tuple[int, int]] = []
    try:
        spans.extend(scan_records(local))
    except CorruptRecord as error:
        return tuple(spans), str(error)
    return tuple(spans), ""


def _lost_records(file: ShardFile, n_found: int, error: str) -> list[Reject]:
    """One reject for every record that the dataset's own counts promise, or for one and an unknown rest."""
    n_lost = max(1, (file.n_records or 0) - n_found)
    rest = "" if file.n_records else " (how many more records the file held is unknown)"
    return [
        Reject(
            source_uri=str(file.path),
            source_key=_key(file, n_found + i),
            split=file.split,
            level="episode",
            start=0,
            end=0,
            reason="truncated_file",
            detail=error + rest,
        )
        for i in range(n_lost)
    ]


def _key(file: ShardFile, record: int) -> str:
    return f"{file.path.name}#{record}"


def _read_shard_lengths(path: StoragePath) -> dict[str, list[int]]:
    if not path.exists():
        return {}
    try:
        splits = json.loads(path.read_bytes()).get("splits", [])
        return {split["name"]: [int(n) for n in split.get("shardLengths", [])] for split in splits}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UsageError(f"{path}: expected the metadata that TFDS writes, found {error}") from error


def _unpack(key: str, value: Parsed) -> Parsed:
    """One zlib stream of float32 a step, as TFDS stores tensors with that encoding; numbers are left as they are."""
    if not isinstance(value, ByteStrings):
        return value
    try:
        rows = [zlib.decompressobj().decompress(item, _MAX_UNPACKED) for item in value]
        return np.concatenate([np.frombuffer(row, "<f4") for row in rows])
    except (zlib.error, ValueError) as error:
        raise Rejected("corrupt_example", f"{key}: expected zlib streams of float32, found {error}") from error


def _per_step(key: str, values: NDArray, t: int) -> NDArray:
    if values.size % t:
        raise Rejected("unequal_lengths", f"{key}: expected a multiple of {t} values (the steps), found {values.size}")
    return values.reshape(t, -1)


def _is_picture(values: ByteStrings) -> bool:
    return len(values) > 0 and values[0].startswith(_PICTURE_STARTS)


def _scalars(arrays: dict[str, NDArray], key: str) -> NDArray[np.float32] | None:
    return arrays[key][:, 0].astype(np.float32) if key in arrays and arrays[key].shape[1] == 1 else None
