"""One kept HTTP/1.1 connection for reads that never blocks: once its socket is ready, it returns what arrived."""

import re
import socket
import ssl
from dataclasses import dataclass
from functools import lru_cache
from selectors import EVENT_READ, EVENT_WRITE

RECEIVE_BYTES = 1 << 18
MOST_HEAD_BYTES = 1 << 16
# What a store may send beyond the requested range: a page of error text, or a whole small object.
MOST_SPARE_BYTES = 1 << 26
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_RANGE = re.compile(rb"\r\ncontent-range:[ \t]*bytes[ \t]+(\d+)-(\d+)/(\d+|\*)", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection:[ \t]*close", re.IGNORECASE)
_END = b"\r\n\r\n"


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where a store answers."""

    host: str
    port: int
    is_secure: bool


@dataclass(frozen=True, kw_only=True)
class ContentRange:
    """Which bytes of an object an answer states to hold: `first` to `last`, both included; `total` None if unknown."""

    first: int
    last: int
    total: int | None

    def fault(self, offset: int, length: int, n_received: int) -> str:
        """What is wrong with an answer to `length` bytes at `offset`; "" where nothing is.

        >>> ContentRange(first=5, last=9, total=10).fault(5, 8, 5)
        ''
        >>> ContentRange(first=0, last=4, total=10).fault(5, 5, 5)
        'asked for bytes 5-9, answered bytes 0-4 of 10'
        """
        end = offset + length if self.total is None else min(offset + length, self.total)
        if (self.first, self.last + 1) == (offset, end) and n_received == end - offset:
            return ""
        total = "unknown" if self.total is None else self.total
        short = f" in {n_received} bytes" if n_received != self.last + 1 - self.first else ""
        return (
            f"asked for bytes {offset}-{offset + length - 1}, answered bytes {self.first}-{self.last} of {total}{short}"
        )


def parse_content_range(head: bytes) -> ContentRange | None:
    """Reads the header Content-Range out of an answer's head, which begins with the status line."""
    if (found := _RANGE.search(head)) is None:
        return None
    return ContentRange(first=int(found[1]), last=int(found[2]), total=None if found[3] == b"*" else int(found[3]))


@dataclass(frozen=True, kw_only=True)
class HttpResponse:
    """A whole answer. stays_open: whether the connection takes another request.

    content_range: which bytes of the object it states to hold.
    """

    status: int
    content: bytes
    stays_open: bool
    content_range: ContentRange | None = None


class Connection:
    """A connection that is being opened, free, or waiting for the answer to one request.

    Its user waits on `socket` for `events` (they change) and then calls `proceed`. Every failure is an OSError, after
    which the connection is of no use. is_fresh: whether no answer has come over it yet.
    """

    def __init__(self, server: Server, address: tuple[int, tuple[str, int]]) -> None:
        self.server = server
        self.events = EVENT_WRITE
        self.is_fresh = True
        self._is_open = False
        self._request = b""
        self._buffer = b""
        self._parts: list[bytes] = []
        self._left, self._status, self._stays_open = 0, 0, True
        self._most_bytes = MOST_SPARE_BYTES
        self._range: ContentRange | None = None
        family, endpoint = address
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._secure: ssl.SSLSocket | None = None
        self.socket.connect_ex(endpoint)

    @property
    def has_answer_begun(self) -> bool:
        return bool(self._buffer or self._status)

    def ask(self, request: bytes, n_bytes: int) -> None:
        """Sends the head of a request for `n_bytes`, now or once the connection is open."""
        self._most_bytes = n_bytes + MOST_SPARE_BYTES
        self._request, self._buffer, self._status = request, b"", 0
        if self._is_open:
            self._send()

    def proceed(self) -> HttpResponse | None:
        """Continues once the socket is ready; returns the answer when it is complete."""
        if not self._is_open:
            self._open()
            return None
        try:
            while True:
                data = self.socket.recv(RECEIVE_BYTES)
                if not data:
                    raise ConnectionError("the store closed the connection")
                answer = self._add(data)
                if answer is not None or self._secure is None:
                    return answer
        except (BlockingIOError, ssl.SSLWantReadError):
            return None

    def close(self) -> None:
        self.socket.close()

    def _open(self) -> None:
        failure = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failure:
            raise OSError(failure, f"cannot connect to {self.server.host}:{self.server.port}")
        if self.server.is_secure and not self._shakes_hands():
            return
        self._is_open, self.events = True, EVENT_READ
        if self._request:
            self._send()

    def _shakes_hands(self) -> bool:
        """Continues the TLS handshake; returns whether it is done."""
        if self._secure is None:
            self._secure = _tls().wrap_socket(
                self.socket, server_hostname=self.server.host, do_handshake_on_connect=False
            )
            self.socket = self._secure
        try:
            self._secure.do_handshake()
        except ssl.SSLWantReadError:
            self.events = EVENT_READ
            return False
        except ssl.SSLWantWriteError:
            self.events = EVENT_WRITE
            return False
        return True

    def _send(self) -> None:
        try:
            sent = self.socket.send(self._request)
        except (BlockingIOError, ssl.SSLWantWriteError) as error:
            raise ConnectionError("the store takes no request") from error
        if sent < len(self._request):
            raise ConnectionError("the store took half a request")

    def _add(self, data: bytes) -> HttpResponse | None:
        if self._status == 0:
            self._buffer += data
            end = self._buffer.find(_END)
            if end < 0:
                if len(self._buffer) > MOST_HEAD_BYTES:
                    raise ConnectionError("an answer without an end of its head")
                return None
            data = self._buffer[end + len(_END) :]
            self._read_head(self._buffer[: end + 2])
            self._parts = []
        self._parts.append(data)
        self._left -= len(data)
        if self._left > 0:
            return None
        self.is_fresh = False
        content = b"".join(self._parts)
        return HttpResponse(
            status=self._status, content=content, stays_open=self._stays_open, content_range=self._range
        )

    def _read_head(self, head: bytes) -> None:
        if not head.startswith(b"HTTP/1.") or not head[9:12].isdigit():
            raise ConnectionError(f"not an HTTP answer: {head[:40]!r}")
        self._status = int(head[9:12])
        length = _LENGTH.search(head)
        self._left = int(length[1]) if length else 0
        self._range = parse_content_range(head)
        # Before anything of it is kept: a store, or a host that poses as it, could fill the memory of a training run.
        if self._left > self._most_bytes:
            raise ConnectionError(f"an answer of {self._left} bytes, at most {self._most_bytes} were expected")
        if length is None and self._status < 300:
            raise ConnectionError("an answer that does not state its length")
        self._stays_open = length is not None and _CLOSES.search(head) is None


def find_addresses(server: Server) -> list[tuple[int, tuple[str, int]]]:
    """The addresses of a server: family and endpoint of each. Raises OSError where its name is not known."""
    found = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
    return [(family, endpoint) for family, _, _, _, endpoint in found]  # type: ignore[misc]


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()
