"""A local chat-completions endpoint that answers as a test lets it, well or badly."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

Reply = tuple[int, bytes, dict[str, str]]


class Endpoint:
    """A local server that speaks the chat protocol, as well as a test lets it: `behave(number, question)` replies."""

    def __init__(self, behave: Callable[[int, dict[str, Any]], Reply]) -> None:
        self.questions: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        outer, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.questions.append(question)
                    outer.headers.append(dict(self.headers))
                    number = len(outer.questions)
                assert self.path == "/v1/chat/completions"
                status, body, headers = behave(number, question)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(BrokenPipeError):  # The client has given up on a slow answer.
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def endpoint() -> Iterator[Callable[..., Endpoint]]:
    opened: list[Endpoint] = []

    def make(behave: Callable[[int, dict[str, Any]], Reply]) -> Endpoint:
        opened.append(Endpoint(behave))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def completion(text: str) -> Reply:
    body = {"choices": [{"message": {"content": text}}], "usage": {"prompt_tokens": 1000, "completion_tokens": 100}}
    return 200, json.dumps(body).encode(), {}
