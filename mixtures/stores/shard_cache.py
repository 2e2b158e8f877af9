"""Copies of shards of object stores on local disk, filled in the background up to a limit of bytes.

Under a global order every sample comes from another shard, so throwing old copies out would only make room for new
misses: copies stay, and what does not fit is read from the store.
"""

import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path

from mixtures.stores.arrow import open_object
from pipelines.contract.errors import FailedWork, UsageError
from pipelines.storage.files import atomic_file
from pipelines.storage.retry import with_store_retries

PIECE_BYTES = 8 << 20
THREADS = 4
FOLDER_VARIABLE, LIMIT_VARIABLE = "EMBODIMIX_SHARD_CACHE", "EMBODIMIX_SHARD_CACHE_GB"
DEFAULT_GB = "100"


class ShardCache:
    """A folder that holds up to `limit_bytes` of copies. A shard is copied once it is first used.

    Streams of one process share a cache: each calls `join` and, at its end, `close`; the last one ends the copying.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self._ready = {file.name: str(file) for file in folder.iterdir() if file.suffix == ".shard"}
        self._used = sum(os.path.getsize(path) for path in self._ready.values())
        self._asked: set[str] = set()
        self._lock = threading.Lock()
        self._n_users = 0
        self._executor: ThreadPoolExecutor | None = None
        self._is_closing = False

    @property
    def used_bytes(self) -> int:
        """Bytes of copies that are complete or being made."""
        return self._used

    def join(self) -> None:
        """Counts one more stream that uses the cache."""
        with self._lock:
            self._n_users += 1

    def local_path(self, path: str) -> str | None:
        """The copy of a shard, or None while there is none; the first call starts copying it if it fits."""
        name = hashlib.sha256(path.encode()).hexdigest()[:32] + ".shard"
        ready = self._ready.get(name)
        if ready is None and name not in self._asked:
            with self._lock:
                if name not in self._asked:
                    self._asked.add(name)
                    self._threads().submit(self._copy, path, name)
        return ready

    def wait(self) -> None:
        """Waits until every requested copy is complete or cancelled."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True)

    def close(self) -> None:
        """Ends the copying when the last stream closes; an unfinished copy is cancelled."""
        with self._lock:
            self._n_users = max(self._n_users - 1, 0)
            executor = None if self._n_users else self._executor
            if executor is not None:
                self._executor, self._is_closing = None, True
                self._asked &= self._ready.keys()
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)

    def _threads(self) -> ThreadPoolExecutor:
        if self._executor is None:
            self._is_closing = False
            self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="embodimix-copy")
        return self._executor

    def _copy(self, path: str, name: str) -> None:
        size = 0
        try:
            source = open_object(path)
            found = with_store_retries(source.size, path)
            with self._lock:
                if self._used + found > self.limit_bytes:
                    return
                self._used += (size := found)
            with atomic_file(self.folder / name) as file:
                for start in range(0, size, PIECE_BYTES):
                    if self._is_closing:
                        raise FailedWork(f"{path}: the cache was closed before the copy was whole")
                    length = min(PIECE_BYTES, size - start)
                    file.write(with_store_retries(partial(source.read_at, length, start), path))
            self._ready[name] = str(self.folder / name)
        except (FailedWork, OSError):
            # The store stays the source; a read that fails there fails the run by name.
            with self._lock:
                self._used -= size


def shard_cache_of_process() -> ShardCache | None:
    """The cache that EMBODIMIX_SHARD_CACHE (a folder) and EMBODIMIX_SHARD_CACHE_GB set, None without a folder.

    They are settings of a machine and not of a run: what is drawn does not depend on them.
    """
    folder, limit = os.environ.get(FOLDER_VARIABLE), os.environ.get(LIMIT_VARIABLE, DEFAULT_GB)
    if not folder:
        return None
    try:
        limit_bytes = int(float(limit) * 1e9)
    except (ValueError, OverflowError):
        limit_bytes = 0
    if limit_bytes <= 0:
        raise UsageError(f"{LIMIT_VARIABLE} (--shard-cache-gb): expected gigabytes above 0, found {limit!r}")
    return _shared(folder, limit_bytes, os.getpid())


@lru_cache(maxsize=4)
def _shared(folder: str, limit_bytes: int, process: int) -> ShardCache:
    """One cache a process, so that its streams keep to the limit together."""
    return ShardCache(Path(folder), limit_bytes)
