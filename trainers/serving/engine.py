"""Runs computations one after another in one thread, which is watched and abandoned when it hangs."""

import asyncio
import ctypes
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")
READERS = 2


class Engine:
    """The policy's thread, which computes one request at a time, and the threads that read messages meanwhile."""

    def __init__(self) -> None:
        # asyncio's lock wakes its waiters in the order they came, so that a client with a queue of messages waits
        # behind every other client for each of them.
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="policy")
        # Decoding pictures must not hold the policy's thread; with one reader, a client of large pictures would still
        # hold up the messages of all others.
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="reader")
        self._since: float | None = None

    @property
    def busy_s(self) -> float:
        """Seconds since the running computation began; 0.0 if there is none."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    async def read(self, function: Callable[[], Result]) -> Result:
        """Runs beside the policy."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, function)

    async def compute(self, function: Callable[[], Result], is_wanted: Callable[[], bool]) -> Result | None:
        """Runs when all earlier computations are done; None if the client has gone by then."""
        async with self._turn:
            if not is_wanted():
                return None
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._timed, function)

    def close(self) -> None:
        """Accepts no new work; does not wait for the running computation."""
        for threads in (self._thread, self._readers):
            threads.shutdown(wait=False, cancel_futures=True)

    def _timed(self, function: Callable[[], Result]) -> Result:
        self._since = time.monotonic()
        try:
            return function()
        finally:
            self._since = None


def return_memory() -> None:
    """Gives freed memory back to the system, where the C library can: glibc keeps what large messages once took."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
