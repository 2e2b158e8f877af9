"""Fingerprints of the input's files and folders when they were read, to detect that one was replaced.

A fast fingerprint holds what a listing says, size and time, and of files on a disk their first and last bytes, since
copying tools keep times. A full one holds every byte, and no time. Of a folder of very many files (the chunks of zarr
arrays), the bytes of some, spread over it, are read; all count by size and time.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipelines.contract.errors import UsageError
from pipelines.shards.manifest import InputRecord
from pipelines.storage.paths import RemotePath, RemoteStat, StoragePath, as_storage_path

Mode = Literal["fast", "full"]
_END_BYTES = 4096
_MOST_OPENED = 16
_CHUNK = 1 << 20
# Files of metadata that readers look for in the folders above an episode: Bridge's config, DROID's annotations.
_ABOVE = ".json"


@dataclass(frozen=True, kw_only=True)
class _File:
    """A source file by its name below what it belongs to."""

    name: str
    path: StoragePath
    size: int
    modified: str


def fingerprint_input(source: StoragePath, uris: Sequence[str], output: StoragePath, mode: Mode) -> InputRecord:
    """Returns the prints of every source file or folder that episodes refer to, and of metadata above them.

    uris: of the episodes, kept or not. output: the dataset's folder, which may lie in the input and is left out.
    Raises OSError when a file cannot be read.
    """
    is_remote = isinstance(source, RemotePath)
    listed = source.matching("**") | source.matching("") if isinstance(source, RemotePath) else {}
    n_files, n_bytes = 0, 0
    prints: dict[str, str] = {}
    for uri in sorted(set(uris)):
        files = _remote_files(uri, listed) if is_remote else list(_local_files(uri, output))
        prints[uri] = _print_of(files, mode)
        n_files, n_bytes = n_files + len(files), n_bytes + sum(file.size for file in files)
    for uri, file in _files_above(source, sorted(set(uris)), listed):
        prints.setdefault(uri, _print_of([file], mode))
    return InputRecord(mode=mode, n_files=n_files, n_bytes=n_bytes, prints=prints)


def changed_since(before: InputRecord, now: InputRecord) -> list[str]:
    """Returns the source files and folders that `before` knows and that are others now, or gone; sorted."""
    return sorted(uri for uri, known in before.prints.items() if now.prints.get(uri) != known)


def check_unchanged(before: InputRecord, now: InputRecord, what: str, advice: str) -> None:
    """Raises UsageError that names what changed. what: for whom it matters, as a clause."""
    if not (changed := changed_since(before, now)):
        return
    first = as_storage_path(changed[0])
    inside = f", its newest file {newest.name}" if (newest := _newest_in(first)) else ""
    more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    raise UsageError(f"{first}{inside}{more}: expected the input unchanged {what}, found it changed. {advice}")


def _newest_in(folder: StoragePath) -> Path | None:
    if not isinstance(folder, Path) or not folder.is_dir():
        return None
    return max(
        (path for path in folder.rglob("*") if os.path.isfile(path)), key=lambda p: p.stat().st_mtime, default=None
    )


def _print_of(files: Sequence[_File], mode: Mode) -> str:
    digest = hashlib.sha256()
    opened = {files[i * len(files) // _MOST_OPENED].name for i in range(_MOST_OPENED)} if files else set()
    for file in files:
        digest.update(f"{file.name}\0{file.size}\0".encode())
        if mode == "full":
            digest.update(_hash_of(file))
            continue
        digest.update(file.modified.encode())
        if isinstance(file.path, Path) and file.name in opened:
            digest.update(_ends_of(file.path, file.size))
    return digest.hexdigest()[:32]


def _ends_of(path: Path, size: int) -> bytes:
    """The first and the last bytes of a file; all of a small one."""
    try:
        with open(path, "rb") as file:
            ends = file.read(_END_BYTES)
            if size > _END_BYTES:
                file.seek(max(_END_BYTES, size - _END_BYTES))
                ends += file.read(_END_BYTES)
    except PermissionError:
        # The reader names it, as a reject of its episode; a print must not end the run for it.
        ends = b"not readable"
    return hashlib.sha256(ends).digest()


def _hash_of(file: _File) -> bytes:
    digest = hashlib.sha256()
    try:
        with file.path.open("rb") as opened:
            while chunk := opened.read(_CHUNK):
                digest.update(chunk)
    except PermissionError:
        digest.update(b"not readable")
    return digest.digest()


def _local_files(uri: str, output: StoragePath) -> Iterator[_File]:
    """The regular files at or below a path, sorted; what cannot be listed is left to the reader, which names it."""
    root = Path(uri)
    if os.path.isfile(root):
        yield _local_file(root, root.name)
        return
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if os.path.join(folder, name) != str(output))
        for name in sorted(names):
            path = Path(folder, name)
            if os.path.isfile(path):
                yield _local_file(path, str(path)[len(uri) :].replace(os.sep, "/"))


def _local_file(path: Path, name: str) -> _File:
    status = path.stat()
    # Names that are not UTF-8 are rejects of the scan; here they only must not end the run.
    text = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return _File(name=text, path=path, size=status.st_size, modified=str(status.st_mtime_ns))


def _remote_files(uri: str, listed: Mapping[RemotePath, RemoteStat]) -> list[_File]:
    own = as_storage_path(uri)
    found = {own: listed[own]} if isinstance(own, RemotePath) and own in listed else {}
    below = found or {path: stat for path, stat in listed.items() if path.url.startswith(f"{uri}/")}
    return [_remote_file(path, stat) for path, stat in sorted(below.items())]


def _remote_file(path: RemotePath, stat: RemoteStat) -> _File:
    return _File(name=path.url, path=path, size=stat.st_size, modified=repr(stat.st_mtime))


def _files_above(
    source: StoragePath, uris: Sequence[str], listed: Mapping[RemotePath, RemoteStat]
) -> Iterator[tuple[str, _File]]:
    """The metadata files right in the folders from the input down to its episodes."""
    folders = {parent for uri in uris for parent in _parents(uri) if f"{parent}/".startswith(f"{source}/")}
    if isinstance(source, RemotePath):
        for path, stat in sorted(listed.items()):
            if path.name.endswith(_ABOVE) and str(path.parent) in folders:
                yield path.url, _remote_file(path, stat)
        return
    for folder in sorted(folders):
        for file in sorted(Path(folder).glob(f"[!.]*{_ABOVE}")):
            if os.path.isfile(file):
                yield str(file), _local_file(file, file.name)


def _parents(uri: str) -> Iterator[str]:
    while "/" in uri.partition("://")[2] or ("://" not in uri and uri not in ("", "/")):
        uri = uri.rpartition("/")[0]
        yield uri
