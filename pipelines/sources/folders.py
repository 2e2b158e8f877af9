"""Episode folders and files below an input, on a disk or in an object store, and what could not be read."""

import fnmatch
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.contract.errors import FailedWork, UsageError
from pipelines.contract.native import Reject, Rejected, printable
from pipelines.contract.reject_reasons import RejectReason
from pipelines.storage.paths import RemotePath, StoragePath, as_storage_path
from pipelines.storage.retry import transient_cause, with_retries

IsEpisode = Callable[[str, Sequence[str]], bool]
# More than any file of one episode that is read at once: pictures of 64 megapixels, pickles of an hour.
MAX_FILE_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What a search below an input found, sorted by path, and what it could not look at, one reject each."""

    found: tuple[StoragePath, ...]
    rejects: tuple[Reject, ...] = ()


@dataclass(kw_only=True)
class ScanLimit:
    """When a scan ends early: after so many seconds, or when it has found so many. was_reached: whether one did.

    n_listed: the objects of a store that are listed, once for all scans of one input.
    """

    seconds: float
    n_found: int
    n_listed: int = 20_000
    was_reached: bool = False
    _until_s: float = 0.0
    _listed: dict[RemotePath, list[RemotePath]] = field(default_factory=dict)

    def begin(self) -> None:
        """Starts the clock of one scan."""
        self._until_s = time.monotonic() + self.seconds

    def is_reached(self, n_found: int) -> bool:
        """Whether a scan that has found so many is to end."""
        self.was_reached |= n_found >= self.n_found or time.monotonic() > self._until_s
        return n_found >= self.n_found or time.monotonic() > self._until_s

    def list_first(self, root: RemotePath) -> list[RemotePath]:
        """The first objects below a folder of a store."""
        if root not in self._listed:
            self._listed[root] = root.first(self.n_listed)
        self.was_reached |= len(self._listed[root]) >= self.n_listed
        return self._listed[root]


_limit: ContextVar[ScanLimit | None] = ContextVar("scan limit", default=None)


@contextmanager
def limited_scan(limit: ScanLimit) -> Iterator[ScanLimit]:
    """Has every scan inside the block end early: for a look at an input, never for a conversion, which needs all."""
    token = _limit.set(limit)
    try:
        yield limit
    finally:
        _limit.reset(token)


def source_root(source: str) -> StoragePath:
    """Returns the input as an absolute path or URL, so that references lead back from anywhere."""
    if not _is_text(source):
        raise UsageError(f"{printable(source)}: expected a path in UTF-8, since every episode is named by it")
    path = as_storage_path(source)
    return path if isinstance(path, RemotePath) else path.absolute()


def key_of(path: StoragePath, root: StoragePath) -> str:
    """Returns `path` relative to `root`, with slashes, as the key of an episode.

    >>> key_of(Path("/logs/a/b"), Path("/logs"))
    'a/b'
    """
    return str(path)[len(str(root)) :].lstrip("/").replace(os.sep, "/") or path.name


def scan_folders(root: StoragePath, is_episode: IsEpisode) -> Scan:
    """Returns every folder at or below `root` for which `is_episode(path, names in it)` holds.

    On a disk nothing below an episode's own folder is examined. A linked folder is followed once. What cannot be
    listed, a link that leads nowhere or into itself, a pipe or device in an episode's folder, and names that are not
    UTF-8 are rejects. Raises UsageError when `root` is no folder, FailedWork when a disk keeps failing.
    """
    if isinstance(root, RemotePath):
        return Scan(found=tuple(_find_remote_folders(root, is_episode)))
    _check_folder(root)
    walk, limit = _Walk(root), _begin()
    found: list[StoragePath] = []
    for folder in walk.folders():
        if limit and limit.is_reached(len(found)):
            break
        if not is_episode(folder.path, folder.names):
            continue
        folder.folders.clear()
        folder.links.clear()
        folder.broken.clear()
        if folder.special:
            walk.reject(os.path.join(folder.path, folder.special[0]), "unsafe_file", _SPECIAL)
        else:
            found.append(Path(folder.path))
    return walk.scan(found)


def scan_files(root: StoragePath, *patterns: str) -> Scan:
    """Returns the files at or below `root` whose names match one of the patterns; rejects as `scan_folders`."""
    if isinstance(root, RemotePath):
        _check_folder(root)
        if limit := _limit.get():
            matching = {path for path in limit.list_first(root) if _matches(path.name, patterns)}
        else:
            matching = {path for pattern in patterns for path in root.rglob(pattern)}
        return Scan(found=tuple(sorted(matching, key=str)))
    _check_folder(root)
    walk, limit = _Walk(root), _begin()
    found: list[StoragePath] = []
    for folder in walk.folders():
        if limit and limit.is_reached(len(found)):
            break
        # A broken link of another name may be one to a folder of episodes, if it has no suffix.
        folder.broken[:] = [name for name in folder.broken if _matches(name, patterns) or "." not in name]
        for name in (name for name in folder.files if _matches(name, patterns)):
            path = os.path.join(folder.path, name)
            if _is_text(name):
                found.append(Path(path))
            else:
                walk.reject(path, "bad_name", _BAD_NAME)
        for name in (name for name in folder.special if _matches(name, patterns)):
            walk.reject(os.path.join(folder.path, name), "unsafe_file", _SPECIAL)
    return walk.scan(found)


def find_folders(root: StoragePath, is_episode: IsEpisode) -> list[StoragePath]:
    """As `scan_folders`. Raises FailedWork where anything could not be read."""
    return _all_found(scan_folders(root, is_episode))


def find_files(root: StoragePath, pattern: str) -> list[StoragePath]:
    """As `scan_files`. Raises FailedWork where anything could not be read."""
    return _all_found(scan_files(root, pattern))


def read_regular(path: Path, most: int = MAX_FILE_BYTES) -> bytes:
    """Returns the bytes of a file. Raises Rejected for a pipe, a device or a folder, and for more than `most` bytes."""
    # Without O_NONBLOCK, opening a pipe without a writer waits for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise Rejected("unsafe_file", f"{path}: {_SPECIAL}")
    with open(descriptor, "rb") as file:
        if status.st_size > most:
            raise Rejected("absurd_size", f"{path}: expected at most {most} bytes, found {status.st_size}")
        return file.read()


def check_regular(path: Path) -> None:
    """Raises Rejected where a library is about to open what is no file, FileNotFoundError where nothing is there."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise Rejected("unsafe_file", f"{path}: {_SPECIAL}")


def make_scan_reject(path: StoragePath, root: StoragePath, reason: RejectReason, detail: str) -> Reject:
    """The reject of an episode, or of all that a file or folder may hold, that the scan could not use."""
    return Reject(
        source_uri=str(path),
        source_key=key_of(path, root),
        split="train",
        level="episode",
        start=0,
        end=0,
        reason=reason,
        detail=detail,
    )


def _begin() -> ScanLimit | None:
    if limit := _limit.get():
        limit.begin()
    return limit


_SPECIAL = "expected a regular file, found a pipe, a device, a socket or a folder; take it away"
_BAD_NAME = "expected a name in UTF-8; rename it"


@dataclass(kw_only=True)
class _Folder:
    """A folder that is walked: names of what lies in it, by kind; folders and links are where the walk continues.

    broken: links that lead nowhere, each a reject unless the caller takes it out.
    """

    path: str
    folders: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    special: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Everything in it that is there."""
        return [*self.folders, *self.links, *self.files, *self.special]


class _Walk:
    """Every folder below a root, real ones first, then those that links lead to, each once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._seen: set[tuple[int, int]] = set()
        self._rejects: list[Reject] = []

    def folders(self) -> Iterator[_Folder]:
        """Yields folders; the caller may empty `folders` and `links` of one that it needs no deeper look at."""
        links: list[str] = []
        waiting = [str(self._root)]
        # A folder that lies in the tree keeps its own path: links wait until every real folder was seen.
        while waiting or links:
            if not waiting:
                waiting = [path for path in [links.pop(0)] if self._is_new_link(path)]
                continue
            path = waiting.pop()
            if (folder := self._list(path)) is None:
                continue
            yield folder
            for name in folder.broken:
                self.reject(os.path.join(path, name), "missing_file", "expected a file or folder, found a broken link")
            waiting += [os.path.join(path, name) for name in sorted(folder.folders, reverse=True)]
            links += [os.path.join(path, name) for name in sorted(folder.links)]

    def reject(self, path: str, reason: RejectReason, detail: str) -> None:
        self._rejects.append(make_scan_reject(Path(path), self._root, reason, f"{path}: {detail}"))

    def scan(self, found: Sequence[StoragePath]) -> Scan:
        rejects = sorted(self._rejects, key=lambda reject: reject.source_key)
        return Scan(found=tuple(sorted(found, key=str)), rejects=tuple(rejects))

    def _list(self, path: str) -> _Folder | None:
        """Lists one folder. Raises FailedWork when its disk keeps failing; other failures are rejects."""
        try:
            entries = with_retries(lambda: _list_folder(path), path)
        except OSError as error:
            if path == str(self._root):
                raise FailedWork(f"{path}: expected a folder that can be listed, found: {error}") from error
            self.reject(path, "unlistable_folder", f"expected a folder that can be listed, found: {error.strerror}")
            return None
        self._seen.add(_identity(os.stat(path)))
        folder = _Folder(path=path)
        for entry in sorted(entries, key=lambda entry: entry.name):
            self._sort_in(folder, entry)
        return folder

    def _sort_in(self, folder: _Folder, entry: "os.DirEntry[str]") -> None:
        try:
            mode = entry.stat().st_mode
        except OSError as error:
            if transient_cause(error):
                raise
            # Editors mark files that they hold open with hidden links to nothing.
            if not entry.name.startswith("."):
                folder.broken.append(entry.name)
            return
        if stat.S_ISDIR(mode) and not _is_text(entry.name):
            self.reject(entry.path, "bad_name", f"{_BAD_NAME}; nothing below it was read")
        elif stat.S_ISDIR(mode):
            (folder.links if entry.is_symlink() else folder.folders).append(entry.name)
        else:
            (folder.files if stat.S_ISREG(mode) else folder.special).append(entry.name)

    def _is_new_link(self, path: str) -> bool:
        """Whether a linked folder is still to be walked; one that leads back to where it lies is a reject."""
        target = os.path.realpath(path)
        inside = os.path.realpath(os.path.dirname(path))
        if os.path.commonpath([target, inside]) == target:
            self.reject(path, "link_loop", f"expected a link out of its own folder, found one that leads to {target}")
            return False
        return _identity(os.stat(path)) not in self._seen


def _list_folder(path: str) -> "list[os.DirEntry[str]]":
    with os.scandir(path) as entries:
        return list(entries)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _is_text(name: str) -> bool:
    """Whether a name is UTF-8; Python reads others with code points that no file of a dataset can hold."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _check_folder(root: StoragePath) -> None:
    if not root.is_dir():
        raise UsageError(f"{root}: expected a folder, found {'a file' if root.exists() else 'nothing'}")


def _all_found(scan: Scan) -> list[StoragePath]:
    if scan.rejects:
        raise FailedWork(f"{len(scan.rejects)} entries could not be read, the first: {scan.rejects[0].detail}")
    return list(scan.found)


def _find_remote_folders(root: RemotePath, is_episode: IsEpisode) -> list[StoragePath]:
    """Object stores list objects, not folders: folders are what their names begin with."""
    names: dict[str, set[str]] = {}
    limit = _limit.get()
    for path in limit.list_first(root) if limit else root.rglob("*"):
        folder, name = path.url.rsplit("/", 1)
        while name not in names.setdefault(folder, set()):
            names[folder].add(name)
            if len(folder) <= len(root.url):
                break
            folder, name = folder.rsplit("/", 1)
    found: list[StoragePath] = []
    for folder in sorted(names):
        inside_another = any(folder.startswith(f"{other}/") for other in found[-1:])
        if not inside_another and is_episode(folder, sorted(names[folder])):
            found.append(RemotePath(folder))
    return found
