"""Files that appear whole or not at all: a unique temporary name, fsync, then a rename; and folders removed as one."""

import errno
import os
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pipelines.contract.errors import FailedWork
from pipelines.storage.paths import RemotePath, StoragePath

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SUFFIX = ".tmp"
_STALE_S = 24 * 3600


class DiskFull(FailedWork):
    """A file could not be written for lack of space; nothing under its final name was touched."""


@contextmanager
def atomic_file(path: StoragePath, *, parents: bool = True) -> Iterator[BinaryIO]:
    """Yields a file that gets the name `path` when the block ends without an error; otherwise it is removed.

    parents: makes all folders above it that are missing; otherwise only the one that holds it. Readers see the old
    file or the whole new one. Raises DiskFull when the device or a quota has no room.
    """
    try:
        with _remote_file(path) if isinstance(path, RemotePath) else _local_file(path, parents) as file:
            yield file
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(_full_message(path, error)) from error
        raise


@contextmanager
def _local_file(path: Path, parents: bool) -> Iterator[BinaryIO]:
    path.parent.mkdir(parents=parents, exist_ok=True)
    temporary = path.parent / f".{path.name}.{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:8]}{_SUFFIX}"
    try:
        with open(temporary, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _remote_file(path: RemotePath) -> Iterator[BinaryIO]:
    """A local file without a name, sent to the store at the end."""
    with tempfile.TemporaryFile() as file:
        yield file
        file.seek(0)
        path.put(file)


def write_atomically(path: StoragePath, content: bytes, *, parents: bool = True) -> None:
    """Writes `content` to `path`, whole or not at all. parents: as for atomic_file. Raises DiskFull."""
    with atomic_file(path, parents=parents) as file:
        file.write(content)


def remove_tree(folder: StoragePath) -> None:
    """Removes a folder and all below it, if it is there.

    It is renamed first: late writers find it gone at once, not piece by piece.
    """
    if isinstance(folder, RemotePath):
        for item in folder.rglob("*"):
            item.unlink(missing_ok=True)
        return
    trash = trash_path(folder)
    shutil.rmtree(trash, ignore_errors=True)
    with suppress(FileNotFoundError):
        os.rename(folder, trash)
    shutil.rmtree(trash, ignore_errors=True)


def trash_path(folder: Path) -> Path:
    """Where a folder lies while it is removed."""
    return folder.parent / f"{folder.name}.gone"


def sweep_leftovers(directory: StoragePath, *, wanted: bool = True) -> list[Path]:
    """Removes the temporary files that dead writers left in `directory` and below; returns what it removed.

    Object stores have none: what is written there appears when it is complete.

    A file of a living process of this host, or of another host, stays for a day: its writer may still be at work.
    wanted: False removes these too, and so ends the work of writers whose part others have done.
    """
    removed: list[Path] = []
    if isinstance(directory, RemotePath):
        return removed
    for path in sorted(directory.rglob(f".*{_SUFFIX}")):
        if not wanted or _is_abandoned(path):
            path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def _is_abandoned(path: Path) -> bool:
    """Says whether the writer of `.NAME.HOST.PID.RANDOM.tmp` ended: its process is gone, or a day has passed."""
    if path.stat().st_mtime < time.time() - _STALE_S:
        return True
    fields = path.name.removesuffix(_SUFFIX).rsplit(".", 2)
    if len(fields) < 3 or not fields[1].isdigit() or not fields[0].endswith("." + socket.gethostname()):
        return False
    try:
        os.kill(int(fields[1]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _full_message(path: StoragePath, error: OSError) -> str:
    free = shutil.disk_usage(tempfile.gettempdir() if isinstance(path, RemotePath) else path.parent).free
    return (
        f"{path}: expected room to write it, found {error.strerror} ({free / 1e6:.1f} MB free there). "
        "The unfinished file was removed; free some space and run the same command again."
    )
