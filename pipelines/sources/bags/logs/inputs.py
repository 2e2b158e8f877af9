"""Bags below an input: single files, rosbag2 folders, folders of files that follow one another; and opening them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from pipelines.contract.native import Reject, Rejected
from pipelines.sources.bags.logs import mcap_files, ros1_files, sqlite_files
from pipelines.sources.bags.logs.blocks import BlockLog
from pipelines.sources.bags.logs.indexes import KeptIndexes
from pipelines.sources.bags.logs.log import MAX_TIME_NS, Batch, Batches, ByteSource, Channel, Log
from pipelines.sources.bags.logs.unpacked import ENDING, UnpackedLog
from pipelines.sources.folders import make_scan_reject, read_regular, scan_files
from pipelines.storage.paths import RemotePath, StoragePath

PATTERNS = ("*.mcap", "*.bag", "*.db3")
# rosbag2 compresses files as a whole in its mode FILE.
_PACKED = tuple(f"{pattern}{ENDING}" for pattern in ("*.mcap", "*.db3"))
# ROS 1 writes into `.bag.active` until a recording ends; a crash leaves it.
ACTIVE = "*.bag.active"
METADATA = "metadata.yaml"
_MAX_METADATA_BYTES = 1 << 24
_INDEXES = KeptIndexes()
_RANGES = (".mcap", ".bag", ".active")


@dataclass(frozen=True, kw_only=True)
class Bag:
    """One recording: a file, or a folder of files in their order."""

    path: StoragePath
    files: tuple[StoragePath, ...]
    distro: str = ""

    @property
    def is_ranged(self) -> bool:
        """Whether parts of it can be read from an object store without the rest; SQLite reads files of a disk."""
        return all(file.name.endswith(_RANGES) for file in self.files)


def find_bags(root: StoragePath, whole_folders: bool) -> tuple[list[Bag], tuple[Reject, ...]]:
    """Returns the bags at or below `root`, sorted, and what could not be looked at.

    A folder with rosbag2's metadata is one bag, its files in the order that it states. whole_folders: so is any other,
    in the order of its files' names.
    """
    if _is_bag_file(root):
        return [Bag(path=root, files=(root,))], ()
    scan = scan_files(root, *PATTERNS, *_PACKED, ACTIVE)
    folders: dict[str, list[StoragePath]] = {}
    for path in scan.found:
        folders.setdefault(str(path.parent), []).append(path)
    bags: list[Bag] = []
    rejects = list(scan.rejects)
    for files in folders.values():
        folder = files[0].parent
        try:
            found = _bags_in(folder, sorted(files, key=lambda path: _natural(path.name)), whole_folders)
        except Rejected as error:
            rejects.append(make_scan_reject(folder, root, error.reason, error.detail))
            continue
        bags += found
    return sorted(bags, key=lambda bag: str(bag.path)), tuple(rejects)


def bag_at(path: StoragePath, whole_folders: bool) -> Bag:
    """The bag that a reference names. Raises Rejected where its files are gone."""
    bags, rejects = find_bags(path, whole_folders)
    for bag in bags:
        if str(bag.path) == str(path):
            return bag
    raise Rejected("missing_file", rejects[0].detail if rejects else f"{path}: expected a bag, found none")


def open_bag(bag: Bag) -> Log:
    """Opens a bag to be read. Raises Rejected where a file of it is none, or is gone."""
    if len(bag.files) == 1:
        return _open_file(bag.files[0])
    return SplitLog([_open_file(file) for file in bag.files])


def _is_bag_file(path: StoragePath) -> bool:
    names = (".mcap", ".bag", ".db3", ".active", f".mcap{ENDING}", f".db3{ENDING}")
    return path.name.endswith(names) and (isinstance(path, RemotePath) or path.is_file())


def _bags_in(folder: StoragePath, files: Sequence[StoragePath], whole_folders: bool) -> list[Bag]:
    metadata = _read_metadata(folder / METADATA)
    if metadata is None:
        if whole_folders:
            return [Bag(path=folder, files=tuple(files))]
        return [Bag(path=file, files=(file,)) for file in files]
    by_name = {file.name: file for file in files}
    listed = metadata.get("relative_file_paths") or sorted(by_name)
    # Only names in the folder itself: a path could lead anywhere.
    names = [str(name).rpartition("/")[2] for name in listed] if isinstance(listed, list) else []
    # Some versions list files of the mode FILE without the ending that they have.
    names = [f"{name}{ENDING}" if name not in by_name and f"{name}{ENDING}" in by_name else name for name in names]
    if missing := [name for name in names if name not in by_name]:
        raise Rejected("missing_file", f"{folder}: expected {missing[0]}, which {METADATA} lists, found none")
    left = [file for name, file in by_name.items() if name not in names]
    if left:
        raise Rejected("unlisted", f"{left[0]}: expected only files that {METADATA} lists")
    distro = str(metadata.get("ros_distro") or "")
    return [Bag(path=folder, files=tuple(by_name[name] for name in names), distro=distro)]


def _read_metadata(path: StoragePath) -> Mapping[str, Any] | None:
    """What rosbag2 wrote beside the files; None where there is none."""
    try:
        text = path.read_bytes() if isinstance(path, RemotePath) else read_regular(path, _MAX_METADATA_BYTES)
    except FileNotFoundError:
        return None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        # No anchors, so that aliases of aliases stand for nothing.
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, Loader=loader)):
            raise Rejected("unreadable_metadata", f"{path}: expected no aliases")
        content = yaml.load(text, Loader=loader)
    except (yaml.YAMLError, RecursionError, UnicodeDecodeError, ValueError) as error:
        raise Rejected("unreadable_metadata", f"{path}: {' '.join(str(error).split())}") from error
    found = content.get("rosbag2_bagfile_information") if isinstance(content, dict) else None
    return found if isinstance(found, dict) else None


def _natural(name: str) -> list[tuple[int, str]]:
    """`bag_10` comes after `bag_2`."""
    parts: list[tuple[int, str]] = []
    for is_digit, run in _runs(name):
        parts.append((int(run) if is_digit else 0, "" if is_digit else run))
    return parts


def _runs(name: str) -> Iterator[tuple[bool, str]]:
    start = 0
    for i in range(1, len(name) + 1):
        if i == len(name) or name[i].isdecimal() != name[start].isdecimal():
            yield name[start].isdecimal(), name[start:i]
            start = i


def _open_file(path: StoragePath) -> Log:
    if path.name.endswith(ENDING):
        assert isinstance(path, Path)
        try:
            return UnpackedLog(path, _open_file)
        except FileNotFoundError as error:
            raise Rejected("missing_file", f"{path}: expected a bag, found none") from error
    try:
        if path.name.endswith(".db3"):
            assert isinstance(path, Path)
            return sqlite_files.SqliteLog(path)
        source = ByteSource(path)
    except FileNotFoundError as error:
        raise Rejected("missing_file", f"{path}: expected a bag, found none") from error
    try:
        # By what it holds: rosbag2 and others name files as they like.
        is_mcap = source.read(0, len(mcap_files.MAGIC)) == mcap_files.MAGIC
        return BlockLog(source, _INDEXES.of(source, mcap_files.read_index if is_mcap else ros1_files.read_index))
    except BaseException:
        source.close()
        raise


class SplitLog(Batches):
    """Files that follow one another as one log; channels of all of them, each under a number of its own."""

    def __init__(self, logs: Sequence[Log]) -> None:
        self._logs = logs
        self.channels: dict[int, Channel] = {}
        self.damage = [text for log in logs for text in log.damage]
        self._own: dict[int, tuple[int, int]] = {}
        for part, log in enumerate(logs):
            for id, channel in log.channels.items():
                number = len(self.channels)
                self.channels[number] = replace(channel, id=number)
                self._own[number] = part, id

    def span(self) -> tuple[int, int]:
        spans = [span for log in self._logs if (span := log.span())[1] >= span[0]]
        return min((first for first, _ in spans), default=0), max((last for _, last in spans), default=-1)

    def batches(self, channels: Collection[int], start_ns: int = 0, stop_ns: int = MAX_TIME_NS) -> Iterator[Batch]:
        wanted: dict[int, dict[int, int]] = {}
        for number in channels:
            part, id = self._own[number]
            wanted.setdefault(part, {})[id] = number
        for part, numbers in sorted(wanted.items()):
            for data, at, found in self._logs[part].batches(numbers.keys(), start_ns, stop_ns):
                own = found.copy()
                own[:, 0] = [numbers[id] for id in found[:, 0].tolist()]
                yield Batch(data, (part, *at), own)
            for text in self._logs[part].damage:
                if text not in self.damage:
                    self.damage.append(text)

    def read_at(self, at: Sequence[int]) -> memoryview:
        return self._logs[at[0]].read_at(at[1:])

    def close(self) -> None:
        for log in self._logs:
            with suppress(OSError):
                log.close()
