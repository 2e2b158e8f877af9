"""A policy server in a thread of the test, what a robot sends to it, and a client that never reads."""

import asyncio
import socket
import threading
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

from trainers.serving.acting import Actor
from trainers.serving.server import PolicyServer, ServerRequest, port_of

WAIT_S = 120.0  # Other work on the machine can make anything slow.
HANDSHAKE = (
    "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class ServerInThread:
    """A server in a thread of the test; `ended_in_time` is what its `finish` returned."""

    def __init__(self, actor: Actor, robot: str = "toy_arm", **options: Any) -> None:
        self.server = PolicyServer(ServerRequest(run=Path("runs/toy"), port=0, robot=robot, **options), actor)
        self.ended_in_time: bool | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),))
        self._thread.start()
        assert self._ready.wait(WAIT_S)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        listening = await self.server.start()
        self.port = port_of(listening)
        self._ready.set()
        await self._stop.wait()
        self.ended_in_time = await self.server.finish(listening)

    def get(self, path: str, **headers: str) -> str:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        with urllib.request.urlopen(request, timeout=WAIT_S) as response:
            return response.read().decode()

    def end(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=WAIT_S)
        assert not self._thread.is_alive()


class UnreadingClient:
    """Speaks just enough websocket to send messages, and takes nothing off its socket."""

    def __init__(self, port: int) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.connect(("127.0.0.1", port))
        self._socket.sendall(HANDSHAKE.encode())

    def send(self, data: bytes) -> None:
        """One binary frame, masked with zeros, as clients must mask."""
        self._socket.sendall(b"\x82" + bytes([0x80 | 127]) + len(data).to_bytes(8, "big") + bytes(4) + data)

    def close(self) -> None:
        self._socket.close()


def observation(**changes: Any) -> dict[str, Any]:
    """What the toy arm sends."""
    picture = np.full((48, 64, 3), 90, np.uint8)
    return {"images": {"base_0_rgb": picture}, "state": np.zeros(7), "prompt": "push it"} | changes
