"""No client takes the policy server from the others: what is sent, not read, too large or malformed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from openpi_client import msgpack_numpy
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from websockets.exceptions import ConnectionClosed, InvalidStatus

from pipelines.contract.errors import EmbodimixError, UsageError
from tests.support.inputs.toy_mixture import HORIZON, NORM_KEYS, quick_compilation, train_toy
from tests.support.servers.policy_server import WAIT_S, ServerInThread, UnreadingClient, observation
from trainers.serving.acting import Actor
from trainers.serving.limits import DEFAULT, Limits
from trainers.serving.server import PolicyServer, ServerRequest

pytestmark = pytest.mark.usefixtures("quick_compilation")
__all__ = ["quick_compilation"]
ARM = NORM_KEYS[0]


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory: pytest.TempPathFactory, quick_compilation: dict[str, str]) -> Path:
    return train_toy(tmp_path_factory.mktemp("availability"))


@pytest.fixture(scope="module")
def actor(toy_run: Path) -> Actor:
    actor = Actor.of_run(toy_run, flow_steps=2)
    actor.warm_up()
    return actor


@pytest.fixture
def serving(actor: Actor) -> Iterator[Callable[..., ServerInThread]]:
    """Starts servers with the limits that a test gives, and ends them."""
    started: list[ServerInThread] = []

    def start(**limits: Any) -> ServerInThread:
        started.append(ServerInThread(actor, limits=Limits(**limits)))
        return started[-1]

    yield start
    for server in started:
        server.end()


@pytest.fixture
def reader(actor: Actor) -> PolicyServer:
    return PolicyServer(ServerRequest(run=Path("run"), robot="toy_arm"), actor)


def count(server: ServerInThread, name: str) -> int:
    return json.loads(server.get("/report.json"))[name]


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def health(server: ServerInThread) -> tuple[int, str]:
    try:
        return 200, server.get("/healthz")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_client_that_does_not_read_delays_nobody_and_is_dropped(
    serving: Callable[..., ServerInThread], actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor, "act", lambda *_: np.zeros((HORIZON, 1_000_000), np.float32))  # fills every buffer
    server = serving(send_s=1.0)
    silent = UnreadingClient(server.port)
    silent.send(msgpack_numpy.packb(observation()))
    wait_until(lambda: count(server, "asked") == 1)
    other = WebsocketClientPolicy("127.0.0.1", server.port)
    assert len(other.infer(observation())["actions"]) == HORIZON
    wait_until(lambda: count(server, "dropped") == 1)
    silent.close()


def test_a_client_with_a_queue_waits_behind_the_others(
    serving: Callable[..., ServerInThread], actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[str] = []
    monkeypatch.setattr(
        actor, "act", lambda _, seen, *__: (time.sleep(0.2), turns.append(seen.prompt), np.zeros((HORIZON, 7)))[2]
    )
    server = serving()
    flooding = UnreadingClient(server.port)
    for _ in range(20):
        flooding.send(msgpack_numpy.packb(observation(prompt="flood")))
    wait_until(lambda: len(turns) >= 1)
    other = WebsocketClientPolicy("127.0.0.1", server.port)
    before = len(turns)
    other.infer(observation(prompt="mine"))
    assert turns[before:].index("mine") <= 2  # the one under way, and one that was asked for before
    flooding.close()


def test_no_more_clients_than_the_limit_are_taken(serving: Callable[..., ServerInThread]) -> None:
    server = serving(connections=1)
    first = WebsocketClientPolicy("127.0.0.1", server.port)
    with pytest.raises(InvalidStatus, match="503"):
        WebsocketClientPolicy("127.0.0.1", server.port)
    first._ws.close()
    wait_until(lambda: count(server, "connections") == 0)
    assert WebsocketClientPolicy("127.0.0.1", server.port).infer(observation())["actions"].shape == (HORIZON, 7)


def test_a_message_beyond_the_limit_ends_its_client_alone(serving: Callable[..., ServerInThread]) -> None:
    server = serving(message_bytes=100_000)
    other = WebsocketClientPolicy("127.0.0.1", server.port)
    with pytest.raises(ConnectionClosed, match="1009"):
        WebsocketClientPolicy("127.0.0.1", server.port).infer(observation(prompt="x" * 200_000))
    assert other.infer(observation())["actions"].shape == (HORIZON, 7)


def png_header(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes(9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": "x" * 5000}, "expected a prompt of at most 4096 characters; found 5000"),
        ({"prompt": "x" * 10_000_000}, "expected a msgpack message"),
        ({"x" * 60_000: 1}, "expected keys of at most 200 characters"),
        ({"robot": "x" * 60_000}, "expected robot, a name of at most 200 characters; found str of 60000"),
        ({"robot": 7}, "expected robot, a name of at most 200 characters; found int"),
        ({"images": {"base_0_rgb": png_header(60_000, 60_000)}}, "at most 16777216 pixels; found a picture of 60000 x"),
        ({"images": {"base_0_rgb": b"\x89PNG"}}, "expected a readable PNG, found 4 bytes"),
        ({"state": [0, 0, 0, 1e38, 0, 0, 0]}, r"arm0\[3\] \(rad\): expected -4.* to 4.*; found 1e\+38"),
        ({"state": [0, 0, 0, 0, 0, 0, 40.0]}, r"gripper0 \(gripper\): expected -\d.* to \d.*; found 40"),
        ({"state": [10**400] * 7}, "expected a msgpack message|expected 7 numbers"),
        ({"state": {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {"i": {"j": 1}}}}}}}}}}}, "maps at most 8 deep"),
        ({"state": np.zeros((7, 7))}, r"found shape \[7, 7\]"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else str(value)[:20],
)
def test_what_is_too_large_is_refused_by_name_and_at_once(
    reader: PolicyServer, change: dict[str, Any], message: str
) -> None:
    try:
        data = msgpack_numpy.packb(observation(**change))
    except OverflowError:
        return  # openpi-client cannot send it either
    began = time.monotonic()
    with pytest.raises(UsageError, match=message) as refused:
        reader.read(data)
    assert time.monotonic() - began < 5 and len(str(refused.value)) < 1000


def malformed() -> Iterator[bytes]:
    """Messages that no client means: cut ones, flipped ones, deep ones, and arrays of what are no numbers."""
    whole, random = msgpack_numpy.packb(observation()), np.random.default_rng(0)
    yield from (whole[:length] for length in range(0, 60))
    for _ in range(200):
        flipped = bytearray(whole)
        flipped[random.integers(0, 160)] = random.integers(0, 256)
        yield bytes(flipped)
    yield b"\x81\xa1a" * 2000 + b"\x01"
    yield b"\x91" * 5000 + b"\x01"
    yield msgpack.packb(msgpack.Timestamp(1))
    for dtype in ("O", "S8", "V4", "M8[s]", "c16", "(2,3)f4", "f4,i4", "f4" * 5000, "", 7, None, "<f3"):
        array = {b"__ndarray__": True, b"data": b"12345678", b"dtype": dtype, b"shape": [2]}
        yield msgpack.packb(observation(state=array) | {"images": {}})
    for shape in ([2**62, 2**62], [-1, -1], "x", None, [1.5], [2] * 200):
        array = {b"__ndarray__": True, b"data": b"12345678", b"dtype": "f4", b"shape": shape}
        yield msgpack.packb(observation(state=array) | {"images": {}})


def test_every_malformed_message_is_answered_by_text(reader: PolicyServer) -> None:
    refused = 0
    for data in malformed():
        try:
            reader.read(data)
        except EmbodimixError as error:
            refused += 1
            assert str(error)
    assert refused > 100


def test_an_answer_that_is_not_finite_is_never_sent(
    serving: Callable[..., ServerInThread], actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serving()
    client = WebsocketClientPolicy("127.0.0.1", server.port)
    with monkeypatch.context() as patch:
        patch.setattr(actor, "_sample", lambda *_: np.full((1, HORIZON, 18), np.nan, np.float32))
        with pytest.raises(RuntimeError, match="expected finite actions; the policy computed others"):
            client.infer(observation())
    assert client.infer(observation())["actions"].shape == (HORIZON, 7)
    assert (count(server, "failed"), count(server, "answered")) == (1, 1)


def test_an_errors_text_is_cut(
    serving: Callable[..., ServerInThread], actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serving()

    def fail(*_: Any) -> np.ndarray:
        raise RuntimeError("x" * 1_000_000)

    monkeypatch.setattr(actor, "act", fail)
    with pytest.raises(RuntimeError, match="more characters") as error:
        WebsocketClientPolicy("127.0.0.1", server.port).infer(observation())
    assert len(str(error.value)) < 2000 and len(server.get("/")) < 20_000


def test_health_tells_a_stuck_and_a_failing_policy(
    serving: Callable[..., ServerInThread], actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, go_on = serving(busy_s=0.2), threading.Event()
    client = WebsocketClientPolicy("127.0.0.1", server.port)
    with monkeypatch.context() as patch:
        patch.setattr(actor, "act", lambda *_: (go_on.wait(WAIT_S), np.zeros((HORIZON, 7)))[1])
        asking = threading.Thread(target=client.infer, args=(observation(),))
        asking.start()
        wait_until(lambda: health(server)[0] == 503)
        assert "a computation has been running for" in health(server)[1]
        go_on.set()
        asking.join()
        wait_until(lambda: health(server) == (200, "OK\n"))
        patch.setattr(actor, "act", lambda *_: (_ for _ in ()).throw(RuntimeError("device lost")))
        with pytest.raises(RuntimeError, match="device lost"):
            client.infer(observation())
    assert health(server) == (503, "the last computation failed: the policy failed: device lost\n")
    client.infer(observation())
    assert health(server) == (200, "OK\n")


def test_a_computation_that_never_ends_does_not_keep_the_server(
    serving: Callable[..., ServerInThread], actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, go_on = serving(close_s=0.5), threading.Event()
    monkeypatch.setattr(actor, "act", lambda *_: (go_on.wait(WAIT_S), np.zeros((HORIZON, 7)))[1])
    silent = UnreadingClient(server.port)
    silent.send(msgpack_numpy.packb(observation()))
    wait_until(lambda: count(server, "asked") == 1)
    server.end()
    go_on.set()
    silent.close()
    assert server.ended_in_time is False


def test_a_terminated_server_ends_whatever_its_clients_do(toy_run: Path, quick_compilation: dict[str, str]) -> None:
    command = [sys.executable, "-m", "trainers.main", "serve", str(toy_run), "--robot", "toy_arm", "--port", "0"]
    process = subprocess.Popen(command, env=os.environ | quick_compilation, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    port = json.loads(process.stdout.readline())["port"]
    clients = [UnreadingClient(port) for _ in range(3)]
    for _ in range(5):
        clients[0].send(msgpack_numpy.packb(observation()))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=WAIT_S) == 0
    for client in clients:
        client.close()


def test_memory_of_large_messages_is_returned(serving: Callable[..., ServerInThread]) -> None:
    server = serving()
    picture = np.zeros((2000, 4000, 3), np.uint8)
    clients = [WebsocketClientPolicy("127.0.0.1", server.port) for _ in range(8)]
    clients[0].infer(observation(images={"base_0_rgb": picture}))
    before = resident_bytes()
    for client in clients:
        client.infer(observation(images={"base_0_rgb": picture}))
    wait_until(lambda: resident_bytes() - before < 60 * 2**20)  # eight messages are 192 MB


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_the_page_and_the_report_ask_for_the_key_and_health_does_not(actor: Actor) -> None:
    server = ServerInThread(actor, api_key="secret")
    try:
        assert health(server)[0] == 200
        for path in ("/", "/report.json"):
            with pytest.raises(urllib.error.HTTPError, match="401"):
                server.get(path)
            assert ARM in server.get(f"{path}?key=secret")
            assert ARM in server.get(path, Authorization="Api-Key secret")
    finally:
        server.end()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": 99_999}, "--port: expected 0 to 65535; found 99999"),
        ({"flow_steps": 0}, "--flow-steps: expected at least 1; found 0"),
        ({"control_hz": 0.0}, "--control-hz: expected a positive number; found 0.0"),
    ],
)
def test_a_wrong_option_is_named_before_the_policy_is_loaded(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ServerRequest(run=Path("run"), **options)


def test_the_limits_bound_the_memory_of_all_clients() -> None:
    assert 2 * DEFAULT.connections * DEFAULT.message_bytes == 2 * 2**30
