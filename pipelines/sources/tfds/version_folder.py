"""TFDS version folders: which record files there are, and what `dataset_info.json` promises of them."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.contract.errors import UsageError
from pipelines.contract.native import MAX_PROMISED, Reject
from pipelines.contract.reject_reasons import RejectReason
from pipelines.sources.folders import find_files, key_of
from pipelines.storage.paths import StoragePath

# TFDS's own names: a dataset has no dash, a split may have any number (`train-robot_0`).
_SHARD = re.compile(r"(?P<name>[A-Za-z]\w*)-(?P<split>[\w-]+)\.tfrecord(?:-(?P<shard>\d+)-of-(?P<n_shards>\d+))?")
# Forms that TFDS writes too and that this reader does not know.
_OTHER_FORMS = re.compile(r"\.(array_record|riegeli|parquet)(-\d+-of-\d+)?$")
_LISTED = 5


@dataclass(frozen=True, kw_only=True)
class ShardFile:
    """One TFRecord file of the input; n_records as `dataset_info.json` promises, if it does."""

    path: StoragePath
    split: str
    shard: int
    n_shards: int
    n_records: int | None

    def key(self, record: int) -> str:
        """Names a record by its file and number, the same on every machine."""
        return f"{self.path.name}#{record}"

    def lost(self, numbers: Sequence[int], reason: RejectReason, detail: str) -> list[Reject]:
        """One reject for every record of `numbers`; one for all where they are absurdly many."""
        if numbers and numbers[-1] - numbers[0] > MAX_PROMISED:
            detail += f" ({numbers[-1] - numbers[0] + 1} records)"
            numbers = numbers[:1]
        return [
            Reject(
                source_uri=str(self.path),
                source_key=self.key(number),
                split=self.split,
                level="episode",
                start=0,
                end=0,
                reason=reason,
                detail=detail,
            )
            for number in numbers
        ]


@dataclass(frozen=True, kw_only=True)
class ShardFiles:
    """The files of every split, in order: those that are there, and those that their names or the metadata promise."""

    there: tuple[ShardFile, ...]
    missing: tuple[ShardFile, ...] = ()


@dataclass(kw_only=True)
class _Split:
    """What is known of one split while it is put together."""

    files: dict[int, StoragePath] = field(default_factory=dict)
    totals: set[int] = field(default_factory=set)
    numbered: bool = True


def find_version_folder(source: StoragePath) -> StoragePath:
    """Returns the one folder at or below `source` that holds TFRecord files of one dataset version."""
    files = find_files(source, "*.tfrecord*")
    parents = {str(path.parent): path.parent for path in files if _SHARD.fullmatch(path.name)}
    folders = [parents[name] for name in sorted(parents)]
    if not folders:
        others = [path.name for path in find_files(source, "*-of-*") if _OTHER_FORMS.search(path.name)]
        found = f"files of another form, such as {others[0]}; write them again as tfrecord" if others else "none"
        raise UsageError(f"{source}: expected files such as NAME-train.tfrecord-00000-of-00001, found {found}")
    if len(folders) > 1:
        listed = ", ".join(key_of(folder, source) for folder in folders)
        raise UsageError(f"{source}: expected one dataset version, found several: {listed}. Name one of them")
    return folders[0]


def list_shards(folder: StoragePath) -> ShardFiles:
    """Returns the files of every split. Raises UsageError where names contradict each other."""
    matches = [match for name in sorted(path.name for path in folder.iterdir()) if (match := _SHARD.fullmatch(name))]
    if len(names := {match["name"] for match in matches}) > 1:
        raise UsageError(f"{folder}: expected the files of one dataset, found {', '.join(sorted(names))}")
    promised = _read_shard_lengths(folder / "dataset_info.json")
    splits: dict[str, _Split] = defaultdict(_Split)
    for match in matches:
        split = splits[match["split"]]
        split.files[int(match["shard"] or 0)] = folder / match[0]
        split.totals.add(int(match["n_shards"] or 1))
        split.numbered &= match["shard"] is not None
    (name,) = names
    for split_name, lengths in promised.items():
        if split_name not in splits and any(lengths):
            splits[split_name].totals.add(len(lengths))
    there: list[ShardFile] = []
    missing: list[ShardFile] = []
    for split_name, split in sorted(splits.items()):
        for file, is_there in _files_of_split(folder, name, split_name, split, promised.get(split_name, [])):
            (there if is_there else missing).append(file)
    return ShardFiles(there=tuple(there), missing=tuple(missing))


def explain_missing(folder: StoragePath, files: ShardFiles) -> str:
    """Says in a line or two how many files and records of which split are not there."""
    texts = []
    splits: list[str] = sorted({file.split for file in files.missing})
    for split in splits:
        missing = [file for file in files.missing if file.split == split]
        n_there = sum(file.split == split for file in files.there)
        numbers = [str(file.shard) for file in missing]
        shown = numbers if len(numbers) <= _LISTED else [*numbers[: _LISTED - 1], "...", numbers[-1]]
        records = count_promised(missing)
        lost = "" if records is None else f", with {records} episodes"
        texts.append(
            f"split {split}: expected {missing[0].n_shards} files, found {n_there}; "
            f"{len(missing)} are missing{lost}: {', '.join(shown)}"
        )
    return f"{folder}: {'; '.join(texts)}"


def count_promised(files: Sequence[ShardFile]) -> int | None:
    """The records that the metadata promises of these files; None where it does not say."""
    counts = [file.n_records for file in files]
    return None if None in counts else sum(count for count in counts if count is not None)


def lost_with_files(files: Sequence[ShardFile]) -> list[Reject]:
    """One reject for every promised record of files that are not there; one for a file of which nothing is promised."""
    rejects = []
    for file in files:
        detail = f"{file.path}: expected the file, found none"
        if file.n_records is None:
            rejects += file.lost([0], "promised_missing", f"{detail} (how many records it holds is unknown)")
        else:
            rejects += file.lost(range(file.n_records), "promised_missing", detail)
    return rejects


def _files_of_split(
    folder: StoragePath, name: str, split_name: str, split: _Split, lengths: Sequence[int]
) -> list[tuple[ShardFile, bool]]:
    """Every file of a split by number, and whether it is there."""
    if len(split.totals) > 1:
        listed = " and ".join(map(str, sorted(split.totals)))
        raise UsageError(f"{folder}: split {split_name}: expected one number of files, found names of {listed}")
    (n_shards,) = split.totals
    if n_shards > MAX_PROMISED:
        raise UsageError(f"{folder}: split {split_name}: expected up to {MAX_PROMISED} files, found {n_shards}")
    if beyond := [number for number in split.files if number >= n_shards]:
        raise UsageError(f"{folder}: split {split_name}: expected numbers below {n_shards}, found {beyond[0]}")
    files = []
    for number in range(n_shards):
        usual = f"{name}-{split_name}.tfrecord" + (f"-{number:05d}-of-{n_shards:05d}" if split.numbered else "")
        file = ShardFile(
            path=split.files.get(number, folder / usual),
            split=split_name,
            shard=number,
            n_shards=n_shards,
            n_records=lengths[number] if len(lengths) == n_shards else None,
        )
        files.append((file, number in split.files))
    return files


def _read_shard_lengths(path: StoragePath) -> Mapping[str, list[int]]:
    if not path.exists():
        return {}
    try:
        splits = json.loads(path.read_bytes()).get("splits", [])
        return {split["name"]: [int(n) for n in split.get("shardLengths", [])] for split in splits}
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise UsageError(f"{path}: expected the metadata that TFDS writes, found {error}") from error
