"""Exact byte ranges out of shards, on this host or in an object store, checked against what the index says of them."""

import os
import threading
from typing import Any

from mixtures.staging import Stage
from mixtures.stores import is_remote, open_object, with_retries
from pipelines.errors import FailedWork

MAX_OPEN = 256
MAX_OPEN_REMOTE = 16_384


class ShardFiles:
    """Keeps some shards open and reads ranges of them; safe to use from many threads.

    stage: copies shards of object stores to local disk as they are used, None for never.
    """

    def __init__(self, stage: Stage | None = None) -> None:
        self.stage = stage
        self._local = _Handles(_LocalFile, MAX_OPEN)
        self._remote = _Handles(open_object, MAX_OPEN_REMOTE)

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Reads `length` bytes at `offset`. Raises FailedWork where the file is gone or ends before them."""
        if is_remote(path):
            staged = self.stage.local_path(path) if self.stage else None
            if staged is None:
                return self._read_remote(path, offset, length)
            path = staged
        try:
            data = self._local.get(path).read_at(length, offset)
        except OSError as error:
            raise FailedWork(f"{path}: expected a readable shard, found: {error}") from error
        return _checked(data, path, offset, length)

    def close(self) -> None:
        """Closes every file that no reader still uses."""
        self._local.clear()
        self._remote.clear()
        if self.stage:
            self.stage.close()

    def _read_remote(self, path: str, offset: int, length: int) -> bytes:
        handle = self._remote.get(path)
        return _checked(with_retries(lambda: handle.read_at(length, offset), path), path, offset, length)


class _Handles:
    """Open files by path; the one opened first makes room."""

    def __init__(self, opener: Any, most: int) -> None:
        self.opener, self.most = opener, most
        self._files: dict[str, Any] = {}
        self._lock = threading.Lock()

    def get(self, path: str) -> Any:
        file = self._files.get(path)
        if file is not None:
            return file
        file = self.opener(path)  # outside the lock: a store may take its time
        with self._lock:
            file = self._files.setdefault(path, file)
            if len(self._files) > self.most:
                del self._files[next(iter(self._files))]
        return file

    def clear(self) -> None:
        with self._lock:
            self._files.clear()


class _LocalFile:
    """An open file that closes when its last user lets go of it, so that dropping it disturbs no reader."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def read_at(self, length: int, offset: int) -> bytes:
        # A method, so that the call holds the file: a bare descriptor could be closed by now, or be another file's.
        return os.pread(self._descriptor, length, offset)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


def _checked(data: bytes, path: str, offset: int, length: int) -> bytes:
    if len(data) != length:
        found = f"found {len(data)} of them"
        raise FailedWork(f"{path}: expected {length} bytes at {offset}, {found}. It changed under its index.")
    return data
