"""Copies of shards of object stores on local disk, made behind the training's back up to a limit of bytes.

Under a global order every sample comes from another shard, so throwing old copies out would only make room for new
misses: copies stay, and what does not fit is read from the store.
"""

import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from mixtures.stores.arrow import open_object
from mixtures.stores.retry import with_store_retries
from pipelines.contract.errors import FailedWork
from pipelines.storage.files import atomic_file

PIECE_BYTES = 8 << 20
THREADS = 4


class ShardCache:
    """A folder that holds up to `limit_bytes` of copies. A shard is copied once it is first used."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self._ready = {file.name: str(file) for file in folder.iterdir() if file.suffix == ".shard"}
        self._used = sum(os.path.getsize(path) for path in self._ready.values())
        self._asked: set[str] = set()
        self._lock = threading.Lock()
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="embodimix-stage")

    @property
    def used_bytes(self) -> int:
        """Bytes of copies that are there or on their way."""
        return self._used

    def local_path(self, path: str) -> str | None:
        """The copy of a shard, or None while there is none; the first question has it copied if it fits."""
        name = hashlib.sha256(path.encode()).hexdigest()[:32] + ".shard"
        ready = self._ready.get(name)
        if ready is None and name not in self._asked:
            with self._lock:
                if name not in self._asked:
                    self._asked.add(name)
                    self._executor.submit(self._copy, path, name)
        return ready

    def wait(self) -> None:
        """Waits until every copy that was asked for is there or given up."""
        self._executor.shutdown(wait=True)
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="embodimix-stage")

    def close(self) -> None:
        """Gives up the copies that have not begun."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _copy(self, path: str, name: str) -> None:
        try:
            source = open_object(path)
            size = with_store_retries(source.size, path)
            with self._lock:
                if self._used + size > self.limit_bytes:
                    return
                self._used += size
            with atomic_file(self.folder / name) as file:
                for start in range(0, size, PIECE_BYTES):
                    length = min(PIECE_BYTES, size - start)
                    file.write(with_store_retries(partial(source.read_at, length, start), path))
            self._ready[name] = str(self.folder / name)
        except (FailedWork, OSError):
            return  # The store stays the source; a read that fails there fails the run by name.
