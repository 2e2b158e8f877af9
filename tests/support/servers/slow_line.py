"""A line to a real server that is slow, throttles and breaks: a proxy that passes requests on as they are."""

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked", re.IGNORECASE)
# A whole object, as the stores' own clients ask for it.
_DOWNLOAD = re.compile(rb"GET /(\S*alt=media|[^/? ]+/[^? ]+(\?x-id=GetObject)? )")
_END = b"\r\n\r\n"
GATHER_S = 60.0


class SlowLine:
    """Passes requests on to a port of this machine.

    latency_s: before every answer. throttles, breaks: how many of the next requests for objects or ranges of them get
    `busy_status`, or half an answer. gather: none of these is answered before so many were there at once. n_requests,
    most_at_once: what came through. It passes on no bodies of requests.
    """

    def __init__(self, port: int) -> None:
        self.target, self.latency_s, self.busy_status = port, 0.0, 503
        self.throttles = self.breaks = self.gather = self.n_requests = self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link: socket.socket) -> None:
        try:
            with link, socket.create_connection(("127.0.0.1", self.target)) as server:
                while self._pass_on(link, server):
                    pass
        except OSError:
            return  # one of both went away

    def _pass_on(self, link: socket.socket, server: socket.socket) -> bool:
        head = _read_until(link, _END)
        if not head:
            return False
        act = self._next_act(b"range: bytes=" in head.lower() or _DOWNLOAD.match(head) is not None)
        try:
            time.sleep(self.latency_s)
            if act == "busy":
                link.sendall(b"HTTP/1.1 %d Busy\r\nContent-Length: 8\r\n\r\nslowdown" % self.busy_status)
                return True
            server.sendall(head)
            answer = _read_answer(server, has_content=not head.startswith(b"HEAD"))
            link.sendall(answer[: len(answer) // 2] if act == "break" else answer)
            return act != "break"
        finally:
            with self._lock:
                self._at_once -= 1

    def _next_act(self, is_read: bool) -> str:
        with self._lock:
            self.n_requests += 1
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            self._lock.notify_all()
            if is_read:
                self._lock.wait_for(lambda: self.most_at_once >= self.gather, GATHER_S)
            if is_read and self.throttles:
                self.throttles -= 1
                return "busy"
            if is_read and self.breaks:
                self.breaks -= 1
                return "break"
            return "pass"


@contextmanager
def slow_line(port: int) -> Iterator[SlowLine]:
    """A line to a port while the block lasts."""
    line = SlowLine(port)
    try:
        yield line
    finally:
        line.close()


def _read_answer(server: socket.socket, has_content: bool) -> bytes:
    answer = _read_until(server, _END)
    head = answer[: answer.index(_END)]
    length = _LENGTH.search(head)
    if not has_content or head[9:12] in (b"204", b"304"):
        return answer
    if length:
        missing = int(length[1]) - (len(answer) - len(head) - len(_END))
        while missing > 0:
            part = _receive(server)
            missing -= len(part)
            answer += part
    elif _CHUNKED.search(head):
        while not answer.endswith(b"0\r\n\r\n"):
            answer += _receive(server)
    return answer


def _read_until(link: socket.socket, end: bytes) -> bytes:
    data = b""
    while end not in data:
        part = link.recv(1 << 16)
        if not part:
            return b""
        data += part
    return data


def _receive(link: socket.socket) -> bytes:
    part = link.recv(1 << 18)
    if not part:
        raise ConnectionError("the server closed the connection")
    return part
