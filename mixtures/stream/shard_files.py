"""Exact byte ranges out of shards, on this host or in an object store, checked against the index."""

import os
import resource
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from mixtures.stores.arrow import IN_FLIGHT, is_remote, needs_client, open_object, range_reader
from mixtures.stores.ranges import WAIT_S, Fetch, Range, RangeReader
from mixtures.stores.shard_cache import ShardCache
from pipelines.contract.errors import FailedWork
from pipelines.storage.retry import transient_cause, with_retries, with_store_retries

# Open shards of local datasets, at most: opening one again costs some 10 microseconds, of the 800 of a sample.
MAX_OPEN = 256
MAX_OPEN_REMOTE = 16_384
WANTED_DESCRIPTORS = 4096


class OpenShards:
    """Reads ranges of shards, and keeps what that needs open; safe to use from many threads.

    stage: copies shards of object stores to local disk as they are used, None for never.
    """

    def __init__(self, stage: ShardCache | None = None) -> None:
        self.stage = stage
        if stage is not None:
            stage.join()
        self._local = _Handles(_LocalFile, _most_open())
        self._remote = _Handles(open_object, MAX_OPEN_REMOTE)
        self._lock = threading.Lock()
        self._reader: RangeReader | None = None
        self._threads: ThreadPoolExecutor | None = None

    def begin(self, ranges: Sequence[Range]) -> "Reads":
        """Begins to read ranges (path, offset, length): those of object stores now, others when they are asked for."""
        found = [(self._source(path), offset, length) for path, offset, length in ranges]
        away = [i for i, (path, _, _) in enumerate(found) if is_remote(path)]
        if not away:
            return Reads(self, found)
        slow = {i for i in away if needs_client(found[i][0])}
        fast = [i for i in away if i not in slow]
        fetch = self._ranges().fetch([found[i] for i in fast]) if fast else None
        read = {i: self._executor().submit(self._read_with_client, *found[i]) for i in slow}
        return Reads(self, found, fetch, {i: number for number, i in enumerate(fast)}, read)

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Reads `length` bytes at `offset`. Raises FailedWork where the file is gone or ends before them."""
        if is_remote(path):
            return self.begin([(path, offset, length)]).get(0)
        try:
            data = self._local.get(path).read_at(length, offset)
        except OSError as error:
            data = self._read_again(path, offset, length, error)
        return data if len(data) == length else _checked(data, path, offset, length)

    def expect(self, path: str, offset: int, length: int) -> None:
        """Announces a range of a local file that will be read soon, so that disk and decoding work at once."""
        try:
            self._local.get(path).expect(length, offset)
        except OSError:
            return  # it is only advice: `read` fails by name

    def close(self) -> None:
        """Cancels reads in flight, and closes every file that no reader still uses."""
        with self._lock:
            reader, threads = self._reader, self._threads
            self._reader = self._threads = None
        if reader is not None:
            reader.close()
        if threads is not None:
            threads.shutdown(wait=True, cancel_futures=True)
        self._local.clear()
        self._remote.clear()
        if self.stage:
            self.stage.close()

    def _read_again(self, path: str, offset: int, length: int, error: OSError) -> bytes:
        """Opens the file again and reads, if the error is of the kind that passes on disks behind a network."""
        try:
            if transient_cause(error) is None:
                raise error
            self._local.drop(path)
            return with_retries(lambda: self._local.get(path).read_at(length, offset), path)
        except OSError as last:
            raise FailedWork(f"{path}: expected a readable shard, found: {last}") from last

    def _source(self, path: str) -> str:
        """Where a shard is read: its staged copy, or itself."""
        if self.stage is None or not is_remote(path):
            return path
        return self.stage.local_path(path) or path

    def _ranges(self) -> RangeReader:
        with self._lock:
            if self._reader is None:
                self._reader = range_reader()
            return self._reader

    def _executor(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="embodimix-fetch")
            return self._threads

    def _read_with_client(self, path: str, offset: int, length: int) -> bytes:
        handle = self._remote.get(path)
        return with_store_retries(lambda: handle.read_at(length, offset), path)


def _most_open() -> int:
    """How many shards stay open: a quarter of the descriptors that this process may have, once it has asked for more.

    The rest is for connections, checkpoints and what else trains in this process.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, WANTED_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (OSError, ValueError):
            pass  # containers may forbid it; fewer shards stay open then
    return MAX_OPEN if soft == resource.RLIM_INFINITY else max(1, min(MAX_OPEN, soft // 4))


class Reads:
    """Ranges that were begun; those of local files are read when they are asked for."""

    def __init__(
        self,
        files: OpenShards,
        ranges: Sequence[Range],
        fetch: Fetch | None = None,
        fetched: dict[int, int] | None = None,
        slow: dict[int, Future[bytes]] | None = None,
    ) -> None:
        self._files, self._ranges, self._fetch = files, ranges, fetch
        self._fetched, self._slow = fetched or {}, slow or {}

    def get(self, number: int) -> bytes:
        """The bytes of one range. Raises FailedWork where the file is gone or ends before them."""
        if self._fetch is not None and number in self._fetched:
            return _checked(self._fetch.get(self._fetched[number]), *self._ranges[number])
        if number in self._slow:
            return _checked(self._slow[number].result(timeout=WAIT_S), *self._ranges[number])
        return self._files.read(*self._ranges[number])


class _Handles:
    """Open files by path; the one that was opened first is closed for a new one."""

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

    def drop(self, path: str) -> None:
        with self._lock:
            self._files.pop(path, None)

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

    def expect(self, length: int, offset: int) -> None:
        os.posix_fadvise(self._descriptor, offset, length, os.POSIX_FADV_WILLNEED)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


def _checked(data: bytes, path: str, offset: int, length: int) -> bytes:
    if len(data) != length:
        found = f"found {len(data)} of them"
        raise FailedWork(f"{path}: expected {length} bytes at {offset}, {found}. It changed under its index.")
    return data
