"""A policy server for the public openpi-client: websocket, msgpack arrays, and a status page.

Reading a message, computing its answer and sending it are three steps. Only the second one has a queue that all clients
share; the first runs beside it, and the third has a deadline, so that no client delays another by more than one
computation, whatever it sends and whether or not it reads.
"""

import asyncio
import hmac
import json
import logging
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response
from websockets.protocol import State

from model.config import FLOW_STEPS
from pipelines.contract.errors import EmbodimixError, FailedWork, UsageError
from trainers.robots import Robot, find_robot, open_loop_steps
from trainers.serving.acting import Actor, NotFinite, chosen_devices
from trainers.serving.asked_model import AnswerCounts, AskedModel, Conversation, Said
from trainers.serving.clients import native_units
from trainers.serving.engine import Engine
from trainers.serving.health import Health
from trainers.serving.limits import DEFAULT, Limits, cut
from trainers.serving.messages import pack, unpack
from trainers.serving.metrics import CONTENT_TYPE, render_metrics
from trainers.serving.native_units import NativeUnits, sent_actions
from trainers.serving.observations import KeyNames, RobotObservation, read_observation

SCHEMA = "embodimix.serve/v1"
REMEMBERED = 1000
LARGE_MESSAGE_BYTES = 4 * 2**20
PERCENTILES = (50, 95, 99)
LOCAL = ("127.0.0.1", "::1", "localhost")
LOGGER = logging.getLogger("embodimix.serve")
Asked = tuple[Robot, RobotObservation]
Answered = tuple[np.ndarray, float]


@dataclass(frozen=True, kw_only=True)
class ServerRequest:
    """The options of one server.

    robot: norm key, or its beginning, of observations that do not name a robot. execute: actions of a chunk to send,
    0 for the open-loop horizon of the robot's rate. names: client's keys by what they mean; ignored: patterns of those
    that mean nothing. client: the preset that these are from; units: the adapter entry whose numbers robots send and
    get, 'policy' for the slots' own, None for the preset's. api_key: what a client must show, None for no key.
    high_level: a model that says each robot's next step, the prompts that clients send being tasks to it; asked again
    after high_level_every_s.
    """

    run: Path
    robot: str | None = None
    execute: int = 0
    control_hz: float | None = None
    prompt: str | None = None
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    client: str | None = None
    units: str | None = None
    together: int = 1
    devices: tuple[int, ...] = ()
    flow_steps: int = FLOW_STEPS
    seed: int = 0
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    high_level: AskedModel | None = None
    high_level_every_s: float = 1.0
    limits: Limits = DEFAULT

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise UsageError(f"--port: expected 0 to 65535; found {self.port}")
        if self.flow_steps < 1:
            raise UsageError(f"--flow-steps: expected at least 1; found {self.flow_steps}")
        if not 1 <= self.together <= self.limits.connections:
            raise UsageError(f"--together: expected 1 to {self.limits.connections}; found {self.together}")
        if self.control_hz is not None and not 0 < self.control_hz < float("inf"):
            raise UsageError(f"--control-hz: expected a positive number; found {self.control_hz}")


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Milliseconds of one answered request: of the policy alone, and from its message to its answer sent."""

    infer_ms: float
    total_ms: float


@dataclass(kw_only=True)
class ServerCounts:
    """What happened since the start; connections are those that are open now."""

    asked: int = 0
    answered: int = 0
    refused: int = 0
    failed: int = 0
    dropped: int = 0
    connections: int = 0


class PolicyServer:
    """One policy and any number of robots, up to the limit of connections."""

    def __init__(self, request: ServerRequest, actor: Actor) -> None:
        horizon = actor.config.policy.horizon
        if not 0 <= request.execute <= horizon:
            raise UsageError(f"--execute: expected 1 to {horizon}, the horizon; found {request.execute}")
        self._request, self._actor, self._limits = request, actor, request.limits
        self._names = KeyNames(given=request.names, ignored=request.ignored)
        self._robot = find_robot(actor.robots, request.robot) if request.robot or len(actor.robots) == 1 else None
        self._timings: deque[Timing] = deque(maxlen=REMEMBERED)
        self._since, self._counts, self._health = time.monotonic(), ServerCounts(), Health()
        self._last_error, self._device_failed = "", False
        self._engine: Engine[Asked, Answered] = Engine(
            self._answers, devices=actor.n_devices, together=request.together
        )
        # Threads of their own: one client that waits for the model must not keep others' messages from being read.
        self._asking = ThreadPoolExecutor(request.limits.connections, thread_name_prefix="high-level")
        self._answers_of_model = AnswerCounts()
        self._natives: dict[str, NativeUnits | None] = {}
        if self._robot is not None:
            self._native(self._robot)  # names what does not fit before a robot asks
        self._under_way, self._idle, self._stopping = 0, asyncio.Event(), False
        self._idle.set()

    async def run(self) -> bool:
        """Serves until SIGTERM or Ctrl-C, then answers pending requests. False if they did not end in time.

        A second signal ends the process at once.
        """
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def on_signal(number: int) -> None:
            if stop.is_set():
                # A hung computation cannot be interrupted, and a normal exit waits for its thread.
                os._exit(128 + number)
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal, number)
        server = await self.start()
        port = port_of(server)
        print(json.dumps(self.metadata() | {"port": port}), flush=True)
        print(f"robots: ws://{self._request.host}:{port}  page: http://{self._request.host}:{port}/", file=sys.stderr)
        if self._request.api_key is None and self._request.host not in LOCAL:
            print(
                "WARNING: any client that reaches this port gets actions; --api-key-file requires a key",
                file=sys.stderr,
            )
        await stop.wait()
        return await self.finish(server)

    async def start(self) -> Server:
        """Opens the port. FailedWork if it is taken. A browser's pages cannot connect: they name an origin."""
        try:
            return await serve(
                self._talk,
                self._request.host,
                self._request.port,
                compression=None,
                max_size=self._limits.message_bytes,
                # By default 16 messages of each client wait in memory, half a gigabyte of pictures.
                max_queue=1,
                process_request=self._page,
                origins=[None],
                close_timeout=3,
                logger=LOGGER,
            )
        except OSError as error:
            raise FailedWork(f"cannot listen on {self._request.host}:{self._request.port}: {error}") from error

    async def finish(self, server: Server) -> bool:
        """Answers pending requests, accepts no new ones, and closes every connection as going away.

        Returns False if a computation, or a connection, did not end before the deadline; the caller must then end the
        process, since Python waits for threads that will not return.
        """
        self._stopping = True
        try:
            async with asyncio.timeout(self._limits.close_s):
                await self._idle.wait()
                server.close()
                await server.wait_closed()
        except TimeoutError:
            return False
        finally:
            server.close()
            self._engine.close()
            self._asking.shutdown(wait=False, cancel_futures=True)
        return True

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
            "robots": {key: self._described(robot) for key, robot in self._actor.robots.items()},
            "high_level": None if self._request.high_level is None else self._request.high_level.client.model,
        }

    def report(self) -> dict[str, Any]:
        """Counts since the start, and percentiles of the last thousand answers in milliseconds."""
        timings = list(self._timings)
        return asdict(self._counts) | {
            "uptime_s": round(time.monotonic() - self._since, 1),
            "last_error": self._last_error,
            "unhealthy": self.unhealthy(),
            "cut_prompts": self._actor.cut_prompts,
            **self._health.report(),
            "high_level_answers": None if self._request.high_level is None else self._answers_of_model.as_json(),
            "latency_ms": {
                name: {f"p{p}": float(np.percentile([getattr(t, name) for t in timings], p)) for p in PERCENTILES}
                for name in ("infer_ms", "total_ms")
            }
            if timings
            else {},
        }

    def unhealthy(self) -> str:
        """Why a robot should not count on an answer now; empty if it can."""
        if self._stopping:
            return "the server is stopping"
        if self._engine.busy_s > self._limits.busy_s:
            return f"a computation has been running for {self._engine.busy_s:.0f} s"
        return f"the last computation failed: {self._last_error}" if self._device_failed else ""

    def read(self, data: bytes | str) -> tuple[Robot, RobotObservation]:
        """The robot and the observation of one message. UsageError says what is wrong with the message."""
        if isinstance(data, str):
            raise UsageError("observation: expected a binary msgpack message; found text")
        message = unpack(data)
        robot = self._robot_of(message)
        form = self._actor.form(robot, self._native(robot))
        observation = read_observation(message, form, names=self._names, default_prompt=self._request.prompt)
        self._health.state(robot.norm_key, form.outside(observation.state))
        return robot, observation

    def answer(self, data: bytes | str) -> dict[str, Any]:
        """Actions for one message, without a connection or a queue. UsageError as for `read`; NotFinite."""
        robot, observation = self.read(data)
        return {"actions": self._sent(robot, self._actor.act(robot, observation))}

    def _sent(self, robot: Robot, chunk: np.ndarray) -> np.ndarray:
        """The part of a chunk that a robot carries out, in its own units."""
        mask = self._actor.action_mask(robot)
        return sent_actions(chunk[: self._executed(robot)], robot, mask, self._native(robot))

    def _native(self, robot: Robot) -> NativeUnits | None:
        """The robot's own numbers; None for the slots' own. UsageError where an entry does not fit the robot."""
        if robot.norm_key not in self._natives:
            self._natives[robot.norm_key] = native_units(
                robot, self._actor.config.policy.action_dim, self._request.units, self._request.client
            )
        return self._natives[robot.norm_key]

    async def _talk(self, connection: ServerConnection) -> None:
        """The protocol of openpi: metadata first, then an answer per observation; text is an error's message."""
        self._counts.connections += 1
        previous_ms, conversation = None, self._conversation()
        try:
            await self._send(connection, pack(self.metadata()))
            async for data in connection:
                if self._stopping:
                    break
                # Counted from reading to sending, so that a stopping server ends only between two answers.
                with self._one_under_way():
                    previous_ms = await self._reply(connection, data, previous_ms, conversation)
                if len(data) > LARGE_MESSAGE_BYTES:
                    del data  # else it stays in memory until this client's next message
                    await self._engine.return_memory()
        except ConnectionClosed:
            pass  # A client that goes away is the usual end.
        finally:
            self._counts.connections -= 1

    @contextmanager
    def _one_under_way(self) -> Iterator[None]:
        self._counts.asked += 1
        self._under_way += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    def _conversation(self) -> Conversation | None:
        model = self._request.high_level
        if model is None:
            return None
        return Conversation(model, self._answers_of_model, self._request.high_level_every_s)

    async def _ask_model(
        self, conversation: Conversation | None, seen: RobotObservation
    ) -> tuple[RobotObservation, Said | None]:
        """The observation with the sentence of the step that a high-level model says, where there is one."""
        if conversation is None:
            return seen, None
        question = (seen.prompt, seen.state, seen.images, time.monotonic())
        said = await asyncio.get_running_loop().run_in_executor(self._asking, conversation.sentence, *question)
        return replace(seen, prompt=said.sentence), said

    async def _reply(
        self,
        connection: ServerConnection,
        data: bytes | str,
        previous_ms: float | None,
        conversation: Conversation | None = None,
    ) -> float | None:
        """Answers one message; returns the milliseconds that it took, or those of the one before if it was refused."""
        began = time.perf_counter()
        try:
            robot, observation = await self._engine.read(lambda: self.read(data))
            observation, said = await self._ask_model(conversation, observation)
            computed = await self._engine.compute(
                robot.norm_key, (robot, observation), lambda: connection.state is State.OPEN
            )
        except EmbodimixError as error:
            self._note_failure(str(error), failed=isinstance(error, NotFinite))
            await self._send(connection, self._last_error)
            return previous_ms
        except Exception as error:  # of the device, or an unforeseen message: the other clients must still be served
            # JAX's errors of a device are RuntimeErrors; only these make /healthz fail, since other faults are of one
            # message.
            self._device_failed = isinstance(error, RuntimeError)
            LOGGER.exception("the policy failed")
            self._note_failure(f"the policy failed: {error}", failed=True)
            await self._send(connection, self._last_error)
            return previous_ms
        if computed is None:
            return previous_ms
        self._device_failed = False
        actions, infer_ms = computed
        timing = {"infer_ms": infer_ms} | ({} if previous_ms is None else {"prev_total_ms": previous_ms})
        answer: dict[str, Any] = {"actions": actions, "server_timing": timing, "policy_timing": {"infer_ms": infer_ms}}
        if said is not None:
            answer["high_level"] = asdict(said)
        await self._send(connection, pack(answer))
        total_ms = 1000 * (time.perf_counter() - began)
        self._counts.answered += 1
        self._timings.append(Timing(infer_ms=infer_ms, total_ms=total_ms))
        self._health.answered(infer_ms, total_ms)
        return total_ms

    def _answers(self, device: int, asked: Sequence[Asked]) -> Sequence[Answered | Exception]:
        """Actions for robots of one kind, and the milliseconds that they took together."""
        began, robot = time.perf_counter(), asked[0][0]
        chunks: Sequence[np.ndarray | Exception]
        if len(asked) == 1:
            chunks = [self._actor.act(robot, asked[0][1], device)]
        else:
            chunks = self._actor.act_each(robot, [observation for _, observation in asked], device)
        infer_ms = 1000 * (time.perf_counter() - began)
        return [one if isinstance(one, Exception) else (self._sent(robot, one), infer_ms) for one in chunks]

    async def _send(self, connection: ServerConnection, message: bytes | str) -> None:
        """Sends, or drops a client that does not take it in time: its unread answers would stay in memory."""
        try:
            async with asyncio.timeout(self._limits.send_s):
                await connection.send(message)
        except TimeoutError:
            self._counts.dropped += 1
            # A clean close would wait for the bytes that this client does not read.
            connection.transport.abort()
            await connection.wait_closed()

    def _note_failure(self, message: str, *, failed: bool) -> None:
        self._last_error = cut(message, self._limits.error_chars)
        self._counts.failed += failed
        self._counts.refused += not failed
        (self._health.failed if failed else self._health.refused)()

    def _page(self, connection: ServerConnection, request: HttpRequest) -> Response | None:
        """Answers plain HTTP: /healthz, /report.json, /metrics and the page; a websocket is passed on to `_talk`."""
        url = urlsplit(request.path)
        if url.path == "/healthz":  # says nothing that a key should hide, and probes have none
            reason = self.unhealthy()
            status = HTTPStatus.SERVICE_UNAVAILABLE if reason else HTTPStatus.OK
            return connection.respond(status, f"{reason or 'OK'}\n")
        if not self._shows_key(request, url.query):
            return connection.respond(HTTPStatus.UNAUTHORIZED, "expected the server's API key\n")
        if request.headers.get("Upgrade", "").lower() == "websocket":
            # Refused before the handshake: each connection may hold two messages of 32 MiB, and all must stay under 2
            # GiB.
            full = self._counts.connections >= self._limits.connections
            if full or self._stopping:
                reason = f"{self._limits.connections} clients are connected" if full else "the server is stopping"
                return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, f"{reason}\n")
            return None
        if url.path == "/report.json":
            return _response("application/json", json.dumps(self.metadata() | self.report()))
        if url.path == "/metrics":
            return _response(CONTENT_TYPE, render_metrics(self.metadata(), self.report()))
        if url.path == "/":
            from trainers.serving.page import render

            return _response("text/html; charset=utf-8", render(self.metadata(), self.report()))
        return connection.respond(HTTPStatus.NOT_FOUND, "expected /, /healthz, /metrics or /report.json\n")

    def _shows_key(self, request: HttpRequest, query: str) -> bool:
        """Whether the key is in the header, as openpi-client sends it, or in the page's address (`?key=...`)."""
        key = self._request.api_key
        if key is None:
            return True
        shown = (request.headers.get("Authorization", ""), f"Api-Key {''.join(parse_qs(query).get('key', []))}")
        # In constant time: how long a plain comparison takes shows how much of a guessed key is right.
        return any(hmac.compare_digest(text.encode(), f"Api-Key {key}".encode()) for text in shown)

    def _robot_of(self, message: Any) -> Robot:
        named = message.get("robot") if isinstance(message, Mapping) else None
        if named is not None:
            # Looking for the nearest name takes time that grows with the square of its length.
            if not isinstance(named, str) or len(named) > self._limits.name_chars:
                raise UsageError(
                    f"observation: expected robot, a name of at most {self._limits.name_chars} characters; found "
                    f"{type(named).__name__}{f' of {len(named)}' if isinstance(named, str) else ''}"
                )
            return find_robot(self._actor.robots, named)
        if self._robot is None:
            raise UsageError(
                f"observation: expected robot, one of {', '.join(self._actor.robots)}, or `--robot` at the server"
            )
        return self._robot

    def _executed(self, robot: Robot) -> int:
        return self._request.execute or open_loop_steps(self._control_hz(robot), self._actor.config.policy.horizon)

    def _control_hz(self, robot: Robot) -> float:
        return self._request.control_hz or robot.control_hz[0]

    def _described(self, robot: Robot) -> dict[str, Any]:
        described = {
            "control_hz": self._control_hz(robot),
            "open_loop_steps": self._executed(robot),
            "state": robot.slot_names(self._actor.state_mask(robot), "state"),
            "action": robot.slot_names(self._actor.action_mask(robot), "action"),
        }
        try:
            native = self._native(robot)
        except UsageError as error:  # of a robot that asks for it, and of no other
            return described | {"refused": str(error)}
        if native is None:
            return described
        return described | {"units": native.name, "state": native.state.names(), "action": native.action.names()}


def serve_run(request: ServerRequest) -> None:
    """Loads the run's newest policy, compiles it and serves it until a signal."""
    actor = Actor.of_run(
        request.run,
        flow_steps=request.flow_steps,
        seed=request.seed,
        devices=chosen_devices(request.devices),
        together=request.together,
    )
    server = PolicyServer(request, actor)
    actor.warm_up()
    if not asyncio.run(server.run()):
        print(f"stopped; pending requests did not end within {request.limits.close_s:g} s", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)  # a normal exit would wait for the thread that does not return


def port_of(server: Server) -> int:
    """The port that a started server listens on."""
    return next(iter(server.sockets)).getsockname()[1]


def _response(kind: str, text: str) -> Response:
    body = text.encode()
    headers = Headers({"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close"})
    return Response(200, "OK", headers, body)
