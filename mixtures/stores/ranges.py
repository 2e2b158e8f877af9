"""Reads many byte ranges of objects at once: one thread, hundreds of kept connections, retries and time limits."""

import heapq
import itertools
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from mixtures.stores.connection import Connection, HttpResponse, Server, find_addresses
from pipelines.contract.errors import EmbodimixError, FailedWork
from pipelines.storage import retry

# One thread over kept connections, since a thread to each read costs more processor time than the reads: 0.04 to 0.05
# ms a read here, 0.44 ms with pyarrow's S3 client and 256 threads, 0.12 to 0.27 ms with obstore (the same server).
Range = tuple[str, int, int]
# Every wait has a limit: a reader that hangs must fail the run by name. All attempts of one read end far earlier.
WAIT_S = 600.0
SWEEP_S = 0.5
RETRIED = (
    HTTPStatus.UNAUTHORIZED,  # once, with fresh credentials
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)


@dataclass(frozen=True, kw_only=True)
class RangeRequest:
    """A request ready to send, and where to."""

    server: Server
    head: bytes


Requests = Callable[[str, int, int], RangeRequest]


class Fetch:
    """Ranges that are being read; `get` waits for all of them."""

    def __init__(self, count: int) -> None:
        self._data = [b""] * count
        self._left = count
        self._done = threading.Event()
        self._error: FailedWork | None = None

    def get(self, number: int) -> bytes:
        """The bytes of one range, fewer at the object's end. Raises FailedWork that names the object."""
        if not self._done.wait(WAIT_S):
            raise FailedWork(f"reading from object stores took over {WAIT_S:.0f} s")
        if self._error is not None:
            raise self._error
        return self._data[number]

    def _put(self, number: int, data: bytes) -> None:
        self._data[number] = data
        self._left -= 1
        if not self._left:
            self._done.set()

    def _fail(self, error: FailedWork) -> None:
        self._error = self._error or error
        self._done.set()


class RangeReader:
    """Reads ranges of objects in a thread of its own; `fetch` returns at once.

    request_of: makes the request of a range, again for every attempt. in_flight: most connections to one server.
    refresh: called after an answer 401, to get fresh credentials.
    """

    def __init__(self, request_of: Requests, in_flight: int, refresh: Callable[[], None] = lambda: None) -> None:
        self.in_flight = in_flight
        self._request_of, self._refresh = request_of, refresh
        self._pools: dict[Server, _ConnectionPool] = {}
        self._new: deque[_Read] = deque()
        self._later: list[tuple[float, int, _Read]] = []
        self._numbers = itertools.count()
        self._selector = selectors.DefaultSelector()
        # The thread sleeps in select(), which only sockets end: a byte on a pair of its own announces new reads.
        self._wake_end, wake = socket.socketpair()
        for end in (self._wake_end, wake):
            end.setblocking(False)
        self._wake = wake
        self._selector.register(wake, selectors.EVENT_READ)
        self._sleeps = self._closed = False
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def fetch(self, ranges: Sequence[Range]) -> Fetch:
        """Begins to read ranges (path, offset, length)."""
        fetch = Fetch(len(ranges))
        with self._lock:
            if self._closed or (self._thread is not None and not self._thread.is_alive()):
                raise FailedWork(f"{ranges[0][0]}: the reader of object stores has ended")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="embodimix-ranges", daemon=True)
                self._thread.start()
        # No lock: extending and popping a deque are atomic in CPython.
        self._new.extend(_Read(path, offset, length, fetch, i) for i, (path, offset, length) in enumerate(ranges))
        self._rouse()
        return fetch

    def close(self) -> None:
        """Cancels the reads in flight and ends the thread."""
        self._closed = True
        self._rouse(always=True)
        if self._thread is not None:
            self._thread.join(timeout=10)
        elif self._wake.fileno() >= 0:
            self._tidy_up()

    def _rouse(self, always: bool = False) -> None:
        if self._sleeps or always:
            try:
                self._wake_end.send(b"x")
            except OSError:
                return  # it is awake already, or has ended

    def _run(self) -> None:
        next_sweep = time.monotonic() + SWEEP_S
        try:
            while not self._closed:
                self._take_new()
                # Set before looking at `_new`: a fetch that came between the look and select() would send no byte, and
                # wait for the next sweep.
                self._sleeps = True
                pause = 0.0 if self._new else self._pause(next_sweep)
                events = self._selector.select(pause)
                self._sleeps = False
                for key, _ in events:
                    if key.fileobj is self._wake:
                        self._wake.recv(4096)
                    else:
                        self._proceed(key.data)
                if time.monotonic() > next_sweep:
                    self._sweep()
                    next_sweep = time.monotonic() + SWEEP_S
        finally:
            self._tidy_up()

    def _pause(self, next_sweep: float) -> float:
        due = self._later[0][0] if self._later else next_sweep
        return max(min(due, next_sweep) - time.monotonic(), 0.0)

    def _take_new(self) -> None:
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            self._new.append(heapq.heappop(self._later)[2])
        touched: set[_ConnectionPool] = set()
        while self._new:
            read = self._new[0]  # stays there, so that nothing that goes wrong here can lose it
            if read.fetch._error is None:
                try:
                    request = self._request_of(read.path, read.offset, read.length)
                    pool = self._pools.setdefault(request.server, _ConnectionPool(request.server))
                    pool.queue.append((read, request.head))
                    touched.add(pool)
                except OSError as error:  # for example, no credentials
                    self._failed(read, error)
                except EmbodimixError as error:
                    read.fetch._fail(FailedWork(str(error)))
            self._new.popleft()
        for pool in touched:
            self._start(pool)

    def _start(self, pool: "_ConnectionPool") -> None:
        while pool.queue and (pool.free or len(pool.busy) < self.in_flight):
            read, head = pool.queue.popleft()
            connection = pool.free.pop() if pool.free else None
            try:
                if connection is None:
                    connection = pool.open()
                    self._selector.register(connection.socket, connection.events, connection)
                pool.busy[connection] = (read, time.monotonic() + retry.STORE_ANSWER_S)
                connection.ask(head, read.length)
            except OSError as error:
                if connection is None:
                    self._failed(read, error)
                else:
                    self._broken(connection, error)

    def _proceed(self, connection: Connection) -> None:
        before, descriptor = connection.events, connection.socket
        try:
            answer = connection.proceed()
        except OSError as error:
            self._broken(connection, error)
            self._start(self._pools[connection.server])
            return
        if connection.events != before or connection.socket is not descriptor:
            self._selector.unregister(descriptor)
            self._selector.register(connection.socket, connection.events, connection)
        if answer is None:
            return
        pool = self._pools[connection.server]
        read, _ = pool.busy.pop(connection, (None, 0.0))
        if read is None:  # an answer without a request
            pool.free.remove(connection)
            self._drop(connection)
            return
        if answer.stays_open:
            pool.free.append(connection)
        else:
            self._drop(connection)
        self._answered(read, answer)
        self._start(pool)

    def _answered(self, read: "_Read", answer: HttpResponse) -> None:
        if answer.status == HTTPStatus.PARTIAL_CONTENT:
            self._take(read, answer)
        elif answer.status == HTTPStatus.OK:  # a server that ignores the range and sends the whole object
            read.fetch._put(read.number, answer.content[read.offset : read.offset + read.length])
        # A range that begins at the object's end is an empty read, as of a file.
        elif answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            read.fetch._put(read.number, b"")
        elif answer.status in RETRIED and not (answer.status == HTTPStatus.UNAUTHORIZED and read.attempts):
            if answer.status == HTTPStatus.UNAUTHORIZED:
                self._refresh()
            self._failed(read, OSError(f"answer {answer.status}: {_start_of(answer.content)}"))
        else:
            found = "no such object" if answer.status == HTTPStatus.NOT_FOUND else f"answer {answer.status}"
            stated = f"{found}. The store answered: {_start_of(answer.content)}"
            read.fetch._fail(FailedWork(f"{read.path}: expected an object that may be read, found: {stated}"))

    def _take(self, read: "_Read", answer: HttpResponse) -> None:
        """Accepts a part of an object if it is the requested range; other bytes would be other pictures."""
        found = answer.content_range
        fault = "no Content-Range" if found is None else found.fault(read.offset, read.length, len(answer.content))
        if fault:
            self._failed(read, OSError(f"answer 206: {fault}"))
        else:
            read.fetch._put(read.number, answer.content)

    def _broken(self, connection: Connection, error: OSError) -> None:
        """A connection failed: its read is retried, at once if the store had only closed an idle connection."""
        pool = self._pools[connection.server]
        read, _ = pool.busy.pop(connection, (None, 0.0))
        if connection in pool.free:
            pool.free.remove(connection)
        self._drop(connection)
        # Stores close idle connections at any time. That is no failure of the store, so it uses up none of the read's
        # attempts; once per read, else a store that closes every connection would be asked for ever.
        if read is not None and not connection.is_fresh and not connection.has_answer_begun and not read.was_stale:
            read.was_stale = True
            self._new.append(read)
        elif read is not None:
            # The next connection resolves the name again, since the failed address may be a server that was taken out
            # of service.
            pool.addresses = []
            self._failed(read, error)

    def _failed(self, read: "_Read", error: OSError) -> None:
        read.attempts += 1
        if read.attempts >= retry.STORE_ATTEMPTS:
            message = f"{read.path}: the store failed {read.attempts} times, last with: {error}"
            read.fetch._fail(FailedWork(message))
            return
        due = time.monotonic() + retry.store_pause_s(read.attempts)
        # The running number decides between equal times, since reads cannot be compared.
        heapq.heappush(self._later, (due, next(self._numbers), read))

    def _drop(self, connection: Connection) -> None:
        try:
            self._selector.unregister(connection.socket)
        except (KeyError, ValueError):
            pass  # it failed before it was registered
        connection.close()

    def _sweep(self) -> None:
        """Drops connections whose answer is late; their reads are retried."""
        now = time.monotonic()
        for pool in list(self._pools.values()):
            late = [connection for connection, (_, deadline) in pool.busy.items() if deadline < now]
            for connection in late:
                self._broken(connection, TimeoutError(f"no answer in {retry.STORE_ANSWER_S:g} s"))
            self._start(pool)

    def _waiting(self) -> "Iterator[_Read]":
        yield from self._new
        yield from (read for _, _, read in self._later)
        for pool in self._pools.values():
            yield from (read for read, _ in pool.queue)
            yield from (read for read, _ in pool.busy.values())

    def _tidy_up(self) -> None:
        # Else a thread in `Fetch.get` would wait for the whole of WAIT_S after an error in this one.
        for read in self._waiting():
            read.fetch._fail(FailedWork(f"{read.path}: the reader was closed before the object came"))
        for pool in self._pools.values():
            for connection in [*pool.busy, *pool.free]:
                connection.close()
        self._selector.close()
        self._wake.close()
        self._wake_end.close()


class _Read:
    """One range that is being read."""

    __slots__ = ("path", "offset", "length", "fetch", "number", "attempts", "was_stale")

    def __init__(self, path: str, offset: int, length: int, fetch: Fetch, number: int) -> None:
        self.path, self.offset, self.length, self.fetch, self.number = path, offset, length, fetch, number
        self.attempts, self.was_stale = 0, False


class _ConnectionPool:
    """The connections to one server, and what waits for them."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.queue: deque[tuple[_Read, bytes]] = deque()
        self.free: list[Connection] = []
        self.busy: dict[Connection, tuple[_Read, float]] = {}
        self.addresses: list[tuple[int, tuple[str, int]]] = []
        self._turn = 0

    def open(self) -> Connection:
        """A new connection, to each of the server's addresses by turns."""
        if not self.addresses:
            self.addresses = find_addresses(self.server)
        self._turn += 1
        return Connection(self.server, self.addresses[self._turn % len(self.addresses)])


def _start_of(content: bytes) -> str:
    return " ".join(content[:200].decode(errors="replace").split())
