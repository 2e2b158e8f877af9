"""Runs the policy's computations, one at a time on each device, several robots at once; hung threads are abandoned."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pipelines.jobs.local_workers import return_memory

Item = TypeVar("Item")
Result = TypeVar("Result")
READERS = 2


@dataclass(eq=False, kw_only=True)
class Waiting(Generic[Item]):
    """A request in the queue. kind: requests of one kind may be computed together."""

    kind: str
    item: Item
    is_wanted: Callable[[], bool]
    answer: "asyncio.Future[Any]"


class Engine(Generic[Item, Result]):
    """A thread for each device, the queue that they share, and the threads that read messages meanwhile.

    compute: (device's number, items of one kind) -> a result, or an exception, for each. together: at most so many.
    """

    def __init__(
        self,
        compute: Callable[[int, Sequence[Item]], Sequence[Result | Exception]],
        *,
        devices: int = 1,
        together: int = 1,
    ) -> None:
        self._compute, self._together = compute, together
        # In the order they came: a client has one message in here at a time, so that one with a queue of messages waits
        # behind every other client for each of them.
        self._queue: deque[Waiting[Item]] = deque()
        self._threads = [ThreadPoolExecutor(1, thread_name_prefix=f"policy-{number}") for number in range(devices)]
        self._free = list(reversed(range(devices)))
        self._since: list[float | None] = [None] * devices
        self._tasks: set[asyncio.Task[None]] = set()
        # Decoding pictures must not hold the policy's thread; with one reader, a client of large pictures would still
        # hold up the messages of all others.
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="reader")

    @property
    def busy_s(self) -> float:
        """Seconds since the oldest running computation began; 0.0 if there is none."""
        running = [since for since in self._since if since is not None]
        return time.monotonic() - min(running) if running else 0.0

    async def read(self, function: Callable[[], Any]) -> Any:
        """Runs beside the policy."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, function)

    async def return_memory(self) -> None:
        """Gives back to the system what a large message took."""
        await self.read(return_memory)

    async def compute(self, kind: str, item: Item, is_wanted: Callable[[], bool]) -> Result | None:
        """Computes when a device is free and its turn has come; None if the client has gone by then."""
        answer: asyncio.Future[Result | None] = asyncio.get_running_loop().create_future()
        self._queue.append(Waiting(kind=kind, item=item, is_wanted=is_wanted, answer=answer))
        self._start()
        return await answer

    def close(self) -> None:
        """Accepts no new work; does not wait for the running computations."""
        for threads in (*self._threads, self._readers):
            threads.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> None:
        while self._free and (taken := self._take()):
            task = asyncio.get_running_loop().create_task(self._run(self._free.pop(), taken))
            self._tasks.add(task)  # else nothing holds it, and Python may drop it
            task.add_done_callback(self._tasks.discard)

    def _take(self) -> list[Waiting[Item]]:
        """The longest-waiting request and those of its kind behind it, which leave the queue."""
        for one in list(self._queue):
            if one.answer.done() or not one.is_wanted():
                self._queue.remove(one)
                _settle(one, None)
        if not self._queue:
            return []
        kind = self._queue[0].kind
        taken = [one for one in self._queue if one.kind == kind][: self._together]
        for one in taken:
            self._queue.remove(one)
        return taken

    async def _run(self, device: int, taken: Sequence[Waiting[Item]]) -> None:
        results: Sequence[Any]
        try:
            items = [one.item for one in taken]
            loop = asyncio.get_running_loop()
            results = await loop.run_in_executor(self._threads[device], self._timed, device, items)
        except Exception as error:
            results = [error] * len(taken)
        for one, result in zip(taken, results, strict=True):
            _settle(one, result)
        self._free.append(device)
        self._start()

    def _timed(self, device: int, items: Sequence[Item]) -> Sequence[Result | Exception]:
        self._since[device] = time.monotonic()
        try:
            return self._compute(device, items)
        finally:
            self._since[device] = None


def _settle(one: Waiting[Any], result: Any) -> None:
    if one.answer.done():  # the connection's task was cancelled meanwhile
        return
    if isinstance(result, Exception):
        one.answer.set_exception(result)
    else:
        one.answer.set_result(result)
