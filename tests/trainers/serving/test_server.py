"""The policy server: a conversation with the public client, native units, and mistakes named without ending it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openpi_client import msgpack_numpy
from openpi_client.websocket_client_policy import WebsocketClientPolicy

from pipelines.contract.errors import FailedWork, UsageError
from pipelines.shards.statistics import summarize_episode
from tests.support.inputs.toy_mixture import HORIZON, NORM_KEYS, quick_compilation, toy_statistics, train_toy
from tests.support.servers.policy_server import WAIT_S, ServerInThread, observation
from trainers.robots import find_robot, open_loop_steps, read_robots, state_range
from trainers.serving import messages
from trainers.serving.acting import Actor
from trainers.serving.cli import run_serve
from trainers.serving.observations import KeyNames, read_observation
from trainers.serving.server import PolicyServer, ServerRequest

pytestmark = pytest.mark.usefixtures("quick_compilation")
__all__ = ["quick_compilation"]
ARM, BASE = NORM_KEYS


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory: pytest.TempPathFactory, quick_compilation: dict[str, str]) -> Path:
    return train_toy(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="module")
def actor(toy_run: Path) -> Actor:
    return Actor.of_run(toy_run, flow_steps=2)


@pytest.fixture
def running(actor: Actor) -> Iterator[ServerInThread]:
    running = ServerInThread(actor)
    yield running
    running.end()


def test_the_public_client_converses(running: ServerInThread) -> None:
    client = WebsocketClientPolicy("127.0.0.1", running.port)
    told = client.get_server_metadata()
    assert (told["robot"], told["step"], told["cameras"]) == (ARM, 1, ["base_0_rgb"])
    assert told["robots"][ARM]["action"] == [*(f"arm0[{index}] (rad)" for index in range(6)), "gripper0 (gripper)"]
    first, second = client.infer(observation()), client.infer(observation(robot="toy_base", state=np.zeros(9)))
    assert first["actions"].shape == (HORIZON, 7) and second["actions"].shape == (HORIZON, 9)
    assert first["actions"].dtype == np.float32 and np.isfinite(first["actions"]).all()
    assert set(first["server_timing"]) == {"infer_ms"}
    assert second["server_timing"]["prev_total_ms"] >= first["server_timing"]["infer_ms"]


def test_a_wrong_observation_is_explained_and_the_conversation_goes_on(running: ServerInThread) -> None:
    client = WebsocketClientPolicy("127.0.0.1", running.port)
    with pytest.raises(RuntimeError, match=r"expected 7 numbers \(arm0\[0\] \(rad\), .*found shape \[3\]"):
        client.infer(observation(state=np.zeros(3)))
    assert client.infer(observation())["actions"].shape == (HORIZON, 7)
    report = json.loads(running.get("/report.json"))
    assert (report["answered"], report["refused"], report["connections"]) == (1, 1, 1)


def test_the_page_shows_latency_counts_and_robots(running: ServerInThread) -> None:
    assert running.get("/healthz") == "OK\n"
    assert "No request yet" in running.get("/")
    WebsocketClientPolicy("127.0.0.1", running.port).infer(observation())
    page = running.get("/")
    assert "p50" in page and "p95" in page and "p99" in page and "Answered 1, refused 0, failed 0, dropped 0" in page
    assert ARM in page and "20 Hz" in page and "Model tiny" in page
    assert "arm0[0-5] (rad), gripper0 (gripper), base[0] (m/s), base[1] (rad/s)" in page
    assert set(json.loads(running.get("/report.json"))["latency_ms"]["infer_ms"]) == {"p50", "p95", "p99"}
    metrics = running.get("/metrics")
    assert 'embodimix_requests_total{outcome="answered"} 1' in metrics and "embodimix_healthy 1" in metrics
    assert json.loads(running.get("/report.json"))["states"] == 1
    with pytest.raises(urllib.error.HTTPError, match="404"):
        running.get("/other")


def test_a_failing_policy_is_told_and_counted(actor: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    running = ServerInThread(actor)
    try:
        client = WebsocketClientPolicy("127.0.0.1", running.port)
        with monkeypatch.context() as patch:
            patch.setattr(actor, "act", lambda *_: (_ for _ in ()).throw(RuntimeError("device lost")))
            with pytest.raises(RuntimeError, match="the policy failed: device lost"):
                client.infer(observation())
        assert client.infer(observation())["actions"].shape == (HORIZON, 7)
    finally:
        running.end()


def test_a_key_is_asked_for_where_one_is_set_and_browsers_are_kept_out(actor: Actor) -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    running = ServerInThread(actor, api_key="secret")
    try:
        with pytest.raises(InvalidStatus, match="401"):
            WebsocketClientPolicy("127.0.0.1", running.port, api_key="wrong")
        assert WebsocketClientPolicy("127.0.0.1", running.port, api_key="secret").get_server_metadata()["step"] == 1
        headers = {"Authorization": "Api-Key secret"}
        with pytest.raises(InvalidStatus, match="403"):
            connect(f"ws://127.0.0.1:{running.port}", origin="http://evil.example", additional_headers=headers)
    finally:
        running.end()


def test_a_taken_port_is_named(actor: Actor, running: ServerInThread) -> None:
    server = PolicyServer(ServerRequest(run=Path("run"), port=running.port), actor)
    with pytest.raises(FailedWork, match=f"cannot listen on 127.0.0.1:{running.port}"):
        asyncio.run(server.start())


def test_a_terminated_server_answers_and_ends_well(toy_run: Path, quick_compilation: dict[str, str]) -> None:
    command = [
        sys.executable,
        "-m",
        "trainers.main",
        "serve",
        str(toy_run),
        "--robot",
        "toy_arm",
        "--port",
        "0",
        "--flow-steps",
        "500",
    ]
    process = subprocess.Popen(command, env=os.environ | quick_compilation, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    port = json.loads(process.stdout.readline())["port"]
    client = WebsocketClientPolicy("127.0.0.1", port)
    client._ws.send(client._packer.pack(observation()))
    while not json.loads(urllib.request.urlopen(f"http://127.0.0.1:{port}/report.json").read())["asked"]:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    answer = client._ws.recv(timeout=WAIT_S)
    assert msgpack_numpy.unpackb(answer)["actions"].shape == (HORIZON, 7)
    assert process.wait(timeout=WAIT_S) == 0


def test_actions_are_absolute_and_in_native_units(actor: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor, "_sample", lambda *_: np.full((1, HORIZON, 18), 0.5, np.float32))
    robot = actor.robots[BASE]
    message = observation(state=np.arange(9) / 10)
    seen = read_observation(message, actor.form(robot), names=KeyNames(given={}))
    slots = [*range(7), 14, 15]
    np.testing.assert_array_equal(seen.state[slots], np.arange(9, dtype=np.float32) / 10)
    affine = toy_statistics(scale=1.0)[BASE].action.affine("quantile")
    expected = (affine.center + 0.5 * affine.half_range)[slots]
    np.testing.assert_allclose(actor.act(robot, seen), np.tile(expected, (HORIZON, 1)), rtol=1e-5)


def test_the_same_seed_gives_the_same_actions(toy_run: Path, actor: Actor) -> None:
    robot = actor.robots[ARM]
    seen = read_observation(observation(), actor.form(robot), names=KeyNames(given={}))
    first, again = (Actor.of_run(toy_run, flow_steps=2, seed=3).act(robot, seen) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, Actor.of_run(toy_run, flow_steps=2, seed=4).act(robot, seen))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": {"base_rgb": np.zeros((4, 4, 3), np.uint8)}}, "'images/base_rgb' means nothing here. Did"),
        ({"images": {}}, "expected at least one picture of images/base_0_rgb; found none"),
        ({"images": {"base_0_rgb": np.zeros((4, 4), np.uint8)}}, r"found uint8 \[4, 4\]"),
        ({"images": {"base_0_rgb": np.zeros((4, 4, 3), np.int32)}}, "expected uint8, or floats in .*; found int32"),
        ({"images": {"base_0_rgb": np.full((4, 4, 3), 200.0)}}, r"expected floats in \[0, 1\], or uint8; found other"),
        ({"images": {"base_0_rgb": b"\xff\xd8broken"}}, "base_0_rgb: expected a readable JPEG"),
        ({"images": {"base_0_rgb": [[1], [2, 3]]}}, "found lists of unequal length"),
        ({"state": np.full(7, np.nan)}, "found a number that is not finite"),
        ({"state": "home"}, "expected 7 numbers .*; found str"),
        ({"prompt": 7}, "expected prompt, a sentence; found int"),
        ({"robot": "toy_leg"}, "robot 'toy_leg': the run was not trained on it. Known: toy_arm"),
    ],
)
def test_a_wrong_observation_says_what_was_expected(actor: Actor, change: dict[str, Any], message: str) -> None:
    server = PolicyServer(ServerRequest(run=Path("run"), robot="toy_arm"), actor)
    with pytest.raises(UsageError, match=message):
        server.answer(msgpack_numpy.packb(observation(**change)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("text", "expected a binary msgpack message"),
        (b"\xc1", "expected a msgpack message"),
        (b"\x01", "expected a map of images"),
        (
            msgpack_numpy.msgpack.packb({"state": {b"__ndarray__": True, b"data": b"", b"dtype": "O", b"shape": [1]}}),
            "an array of object",
        ),
        (
            msgpack_numpy.msgpack.packb({"state": {b"__ndarray__": True, b"data": b"", b"dtype": "f4", b"shape": [9]}}),
            "cannot reshape",
        ),
    ],
)
def test_a_message_that_is_none_is_refused(actor: Actor, data: Any, message: str) -> None:
    server = PolicyServer(ServerRequest(run=Path("run"), robot="toy_arm"), actor)
    with pytest.raises(UsageError, match=message):
        server.answer(data)


def test_pictures_come_in_the_forms_that_clients_send(actor: Actor) -> None:
    robot, picture = actor.robots[ARM], np.full((224, 224, 3), 51, np.uint8)
    for sent in (picture, picture.transpose(2, 0, 1), picture / 255):
        sample = observation(images={"base_0_rgb": sent})
        seen = read_observation(sample, actor.form(robot), names=KeyNames(given={}))
        np.testing.assert_array_equal(seen.images["base_0_rgb"], picture)


def test_a_client_may_use_its_own_names(actor: Actor) -> None:
    names = KeyNames(given={"base_0_rgb": ("observation/exterior_image_1_left",), "state": ("joints", "gripper")})
    message = {
        "observation/exterior_image_1_left": np.zeros((224, 224, 3), np.uint8),
        "joints": np.arange(6) / 10,
        "gripper": np.float64(0.5),
    }
    robot = actor.robots[ARM]
    seen = read_observation(message, actor.form(robot), names=names, default_prompt="lift it")
    np.testing.assert_allclose(seen.state[:7], [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5])
    assert seen.prompt == "lift it"
    with pytest.raises(UsageError, match="--map base: expected a camera, state or prompt. Did you mean"):
        KeyNames(given={"base": ("x",)})


def test_our_messages_are_the_clients_byte_for_byte() -> None:
    message = {"a": np.arange(6, dtype=np.int16).reshape(2, 3), "b": np.float32(1.5), "c": [True, "text", None]}
    assert messages.pack(message) == msgpack_numpy.packb(message)
    read = messages.unpack(msgpack_numpy.packb(message))
    np.testing.assert_array_equal(read["a"], message["a"])
    assert (read["b"], read["b"].dtype, read["c"]) == (1.5, np.float32, message["c"])


def test_robots_are_found_by_the_beginning_of_their_norm_key(toy_run: Path) -> None:
    robots = read_robots(toy_run / "robots.json")
    assert robots[BASE].parts["base"] == (14, 15) and robots[BASE].control_hz == (20.0,)
    assert find_robot(robots, "toy_base/joint_position").norm_key == BASE
    with pytest.raises(
        UsageError, match="no robot is named: expected one of toy_arm/.*; name one of them with --robot"
    ):
        find_robot(robots, None)


def test_open_loop_horizons_are_the_published_ones() -> None:
    assert [open_loop_steps(hz, 50) for hz in (50.0, 20.0)] == [25, 16]
    assert (open_loop_steps(50.0, 10), open_loop_steps(0.5, 50)) == (10, 1)


def test_wrong_uses_of_the_command_are_named(toy_run: Path, actor: Actor, tmp_path: Path) -> None:
    from trainers.main import build_parser

    def parsed(*arguments: str) -> Any:
        return build_parser().parse_args(["serve", str(toy_run), *arguments])

    with pytest.raises(UsageError, match="--map state: expected NAME=KEY"):
        run_serve(parsed("--map", "state"))
    with pytest.raises(UsageError, match="--api-key-file .*none"):
        run_serve(parsed("--api-key-file", str(tmp_path / "none")))
    with pytest.raises(UsageError, match="--execute: expected 1 to 4, the horizon; found 9"):
        PolicyServer(ServerRequest(run=toy_run, execute=9, flow_steps=2), actor)


def test_a_robots_range_is_that_of_its_data_and_a_margin_of_its_unit() -> None:
    values = np.zeros((100, 18), np.float32)
    values[:, 0], values[:, 1] = np.linspace(-0.5, 0.5, 100), np.linspace(-10, 10, 100)
    values[:, 2], values[:, 3] = 40.0, 0.5
    mask = np.arange(18) < 4
    seen = summarize_episode("r/ee_delta/pi18/v1", values, values, mask, mask).state
    low, high = state_range(seen, ("rad", "m", "native", "gripper", *[""] * 14))
    np.testing.assert_allclose(low[:5], [-0.5 - np.pi, -30.0, 0.0, -0.5, 0.0], atol=1e-6)
    np.testing.assert_allclose(high[:5], [0.5 + np.pi, 30.0, 80.0, 1.5, 0.0], atol=1e-6)
