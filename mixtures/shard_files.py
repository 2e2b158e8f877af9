"""Exact byte ranges out of shards, checked against what the index says of them."""

import os
import threading
from collections import OrderedDict

from pipelines.errors import FailedWork

MAX_OPEN = 256


class ShardFiles:
    """Keeps some shards open and reads ranges of them; safe to use from many threads."""

    def __init__(self, max_open: int = MAX_OPEN) -> None:
        self.max_open = max_open
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Reads `length` bytes at `offset`. Raises FailedWork where the file is gone or ends before them."""
        try:
            file = self._open(path)
            data = os.pread(file.descriptor, length, offset)
        except OSError as error:
            raise FailedWork(f"{path}: expected a readable shard, found: {error}") from error
        if len(data) != length:
            found = f"found {len(data)} of them"
            raise FailedWork(f"{path}: expected {length} bytes at {offset}, {found}. It changed under its index.")
        return data

    def close(self) -> None:
        """Closes every file that no reader still uses."""
        with self._lock:
            self._files.clear()

    def _open(self, path: str) -> "_File":
        with self._lock:
            file = self._files.get(path)
            if file is None:
                file = self._files[path] = _File(path)
                if len(self._files) > self.max_open:
                    self._files.popitem(last=False)
            self._files.move_to_end(path)
            return file


class _File:
    """An open file that closes when its last user lets go of it, so that dropping it disturbs no reader."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)
