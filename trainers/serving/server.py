"""A policy server that the public openpi-client talks to: websocket, msgpack arrays, and a page on how it does."""

import asyncio
import hmac
import http
import json
import logging
import signal
import sys
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response

from pipelines.contract.errors import EmbodimixError, FailedWork, UsageError
from trainers.robots import Robot, find_robot, open_loop_steps
from trainers.serving.acting import Actor
from trainers.serving.messages import pack, unpack
from trainers.serving.observations import KeyNames, read_look

SCHEMA = "embodimix.serve/v1"
REMEMBERED = 1000
MAX_MESSAGE_BYTES = 64 * 2**20
PERCENTILES = (50, 95, 99)
LOGGER = logging.getLogger("embodimix.serve")


@dataclass(frozen=True, kw_only=True)
class ServerRequest:
    """What the command asks for.

    robot: norm key, or its beginning, of observations that do not name a robot. execute: actions of a chunk to send,
    0 for the open-loop horizon of the robot's rate. names: client's keys by what they mean. api_key: what a client must
    show, None for no key.
    """

    run: Path
    robot: str | None = None
    execute: int = 0
    control_hz: float | None = None
    prompt: str | None = None
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    flow_steps: int = 10
    seed: int = 0
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Milliseconds of one answered request: of the policy alone, and from its message to its answer sent."""

    infer_ms: float
    total_ms: float


class PolicyServer:
    """One policy, any number of connections; requests are computed one after another, in a thread of their own."""

    def __init__(self, request: ServerRequest, actor: Actor) -> None:
        if request.flow_steps < 1 or not 0 <= request.execute <= actor.config.policy.horizon:
            raise UsageError(
                f"expected --flow-steps of at least 1 and --execute from 1 to {actor.config.policy.horizon}, the "
                f"horizon; found {request.flow_steps} and {request.execute}"
            )
        self._request, self._actor = request, actor
        self._names = KeyNames(given=request.names)
        self._robot = find_robot(actor.robots, request.robot) if request.robot or len(actor.robots) == 1 else None
        self._timings: deque[Timing] = deque(maxlen=REMEMBERED)
        self._since = time.time()
        self._counts = {"asked": 0, "answered": 0, "refused": 0, "failed": 0, "connections": 0}
        self._last_error = ""
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="policy")

    async def run(self) -> None:
        """Serves until SIGTERM or Ctrl-C; a request that is being computed is still answered."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        server = await self.start()
        port = port_of(server)
        print(json.dumps(self.metadata() | {"port": port}), flush=True)
        print(f"robots: ws://{self._request.host}:{port}  page: http://{self._request.host}:{port}/", file=sys.stderr)
        if self._request.api_key is None and self._request.host not in ("127.0.0.1", "::1", "localhost"):
            print("WARNING: whoever reaches this port gets actions; --api-key-file asks for a key", file=sys.stderr)
        await stop.wait()
        await self.finish(server)

    async def start(self) -> Server:
        """Opens the port. FailedWork if it is taken. A browser's pages cannot connect: they name an origin."""
        try:
            return await serve(
                self._talk,
                self._request.host,
                self._request.port,
                compression=None,
                max_size=MAX_MESSAGE_BYTES,
                process_request=self._page,
                origins=[None],
                close_timeout=3,
                logger=LOGGER,
            )
        except OSError as error:
            raise FailedWork(f"cannot listen on {self._request.host}:{self._request.port}: {error}") from error

    async def finish(self, server: Server) -> None:
        """Answers what is being computed, takes nothing new, and closes every connection as going away."""
        async with self._turn:
            server.close()
        await server.wait_closed()
        self._thread.shutdown()

    def metadata(self) -> dict[str, Any]:
        """What a client learns when it connects."""
        return {
            "schema": SCHEMA,
            "run": str(self._request.run),
            "step": self._actor.step,
            "model": self._actor.config.model,
            "cameras": list(self._actor.cameras),
            "flow_steps": self._request.flow_steps,
            "horizon": self._actor.config.policy.horizon,
            "robot": None if self._robot is None else self._robot.norm_key,
            "robots": {key: self._told_of(robot) for key, robot in self._actor.robots.items()},
        }

    def report(self) -> dict[str, Any]:
        """Counts since the start, and percentiles of the last thousand answers in milliseconds."""
        timings = list(self._timings)
        return self._counts | {
            "uptime_s": round(time.time() - self._since, 1),
            "last_error": self._last_error,
            "latency_ms": {
                name: {f"p{p}": float(np.percentile([getattr(t, name) for t in timings], p)) for p in PERCENTILES}
                for name in ("infer_ms", "total_ms")
            }
            if timings
            else {},
        }

    def answer(self, data: bytes | str) -> dict[str, Any]:
        """Actions for one message. UsageError says what is wrong with the message."""
        if isinstance(data, str):
            raise UsageError("observation: expected a binary msgpack message; found text")
        message = unpack(data)
        robot = self._robot_of(message)
        look = read_look(
            message,
            robot,
            cameras=self._actor.cameras,
            state_mask=self._actor.state_mask(robot),
            names=self._names,
            prompt=self._request.prompt,
        )
        return {"actions": self._actor.act(robot, look)[: self._executed(robot)]}

    async def _talk(self, connection: ServerConnection) -> None:
        """The protocol of openpi: metadata first, then an answer per observation; text is an error's message."""
        self._counts["connections"] += 1
        previous_ms = None
        try:
            await connection.send(pack(self.metadata()))
            async for data in connection:
                self._counts["asked"] += 1
                async with self._turn:
                    previous_ms = await self._reply(connection, data, previous_ms)
        except ConnectionClosed:
            pass  # A client that goes away is the usual end.
        finally:
            self._counts["connections"] -= 1

    async def _reply(self, connection: ServerConnection, data: bytes | str, previous_ms: float | None) -> float | None:
        began = time.perf_counter()
        try:
            answer = await asyncio.get_running_loop().run_in_executor(self._thread, self.answer, data)
        except EmbodimixError as error:
            self._counts["refused"] += 1
            self._last_error = str(error)
            await connection.send(str(error))
            return previous_ms
        except RuntimeError as error:  # of the device: told to the client, and the server goes on
            self._counts["failed"] += 1
            self._last_error = f"the policy failed: {error}"
            LOGGER.exception("the policy failed")
            await connection.send(self._last_error)
            return previous_ms
        infer_ms = 1000 * (time.perf_counter() - began)
        timing = {"infer_ms": infer_ms} | ({} if previous_ms is None else {"prev_total_ms": previous_ms})
        await connection.send(pack(answer | {"server_timing": timing, "policy_timing": {"infer_ms": infer_ms}}))
        total_ms = 1000 * (time.perf_counter() - began)
        self._counts["answered"] += 1
        self._timings.append(Timing(infer_ms=infer_ms, total_ms=total_ms))
        return total_ms

    def _page(self, connection: ServerConnection, request: HttpRequest) -> Response | None:
        """Answers plain HTTP: /healthz, /report.json and the page; a websocket goes on to `_talk`."""
        if request.headers.get("Upgrade", "").lower() == "websocket":
            shown = request.headers.get("Authorization", "")
            key = self._request.api_key
            if key is not None and not hmac.compare_digest(shown.encode(), f"Api-Key {key}".encode()):
                return connection.respond(http.HTTPStatus.UNAUTHORIZED, "expected the server's API key\n")
            return None
        if request.path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if request.path == "/report.json":
            return _response("application/json", json.dumps(self.metadata() | self.report()))
        if request.path == "/":
            from trainers.serving.page import render

            return _response("text/html; charset=utf-8", render(self.metadata(), self.report()))
        return connection.respond(http.HTTPStatus.NOT_FOUND, "expected /, /healthz or /report.json\n")

    def _robot_of(self, message: Any) -> Robot:
        named = message.get("robot") if isinstance(message, Mapping) else None
        if named is not None:
            return find_robot(self._actor.robots, str(named))
        if self._robot is None:
            raise UsageError(
                f"observation: expected robot, one of {', '.join(self._actor.robots)}, or `--robot` at the server"
            )
        return self._robot

    def _executed(self, robot: Robot) -> int:
        return self._request.execute or open_loop_steps(self._control_hz(robot), self._actor.config.policy.horizon)

    def _control_hz(self, robot: Robot) -> float:
        return self._request.control_hz or robot.control_hz[0]

    def _told_of(self, robot: Robot) -> dict[str, Any]:
        return {
            "control_hz": self._control_hz(robot),
            "open_loop_steps": self._executed(robot),
            "state": robot.slot_names(self._actor.state_mask(robot)),
            "action": robot.slot_names(self._actor.action_mask(robot)),
        }


def serve_run(request: ServerRequest) -> None:
    """Loads the run's newest policy, compiles it and serves it until a signal."""
    actor = Actor(request.run, flow_steps=max(request.flow_steps, 1), seed=request.seed)
    server = PolicyServer(request, actor)
    actor.warm_up()
    asyncio.run(server.run())


def port_of(server: Server) -> int:
    """The port that a started server listens on."""
    return next(iter(server.sockets)).getsockname()[1]


def _response(kind: str, text: str) -> Response:
    body = text.encode()
    headers = Headers({"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close"})
    return Response(200, "OK", headers, body)
