"""Files that appear whole or not at all: a unique temporary name, fsync, then a rename."""

import errno
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pipelines.errors import FailedWork

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SUFFIX = ".tmp"
_STALE_S = 24 * 3600


class DiskFull(FailedWork):
    """A file could not be written for lack of space; nothing under its final name was touched."""


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Yields a file that gets the name `path` when the block ends without an error; otherwise it is removed.

    Raises DiskFull when the device or a quota has no room. Readers see the old file or the whole new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:8]}{_SUFFIX}"
    try:
        with open(temporary, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(_full_message(path, error)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes `content` to `path`, whole or not at all. Raises DiskFull."""
    with atomic_file(path) as file:
        file.write(content)


def sweep_leftovers(directory: Path) -> list[Path]:
    """Removes the temporary files that dead writers left in `directory` and below; returns what it removed.

    A file of a living process of this host, or of another host, stays for a day: its writer may still be at work.
    """
    removed = []
    for path in sorted(directory.rglob(f".*{_SUFFIX}")):
        if _is_abandoned(path):
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


def _full_message(path: Path, error: OSError) -> str:
    free = shutil.disk_usage(path.parent).free
    return (
        f"{path}: expected room to write it, found {error.strerror} ({free / 1e6:.1f} MB free there). "
        "The unfinished file was removed; free some space and run the same command again."
    )
