"""The clients of openpi's examples, with the observations that those send, and robots' own units."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openpi_client import msgpack_numpy
from openpi_client.websocket_client_policy import WebsocketClientPolicy

from mixtures.actions.normalizer import Normalizer
from model.inputs import CAMERAS
from pipelines.contract.embodiments import get_embodiment
from pipelines.contract.errors import UsageError
from pipelines.mapping.adapters import FORMS, Adapter, get_adapter, load_adapters
from pipelines.mapping.forms import convert_part
from pipelines.shards.statistics import summarize_episode
from tests.support.inputs.toy_mixture import HORIZON, moved_params, quick_compilation, settings
from tests.support.servers.policy_server import WAIT_S, ServerInThread
from trainers.config import resolve_config
from trainers.robots import Robot
from trainers.serving.acting import Actor, NotFinite
from trainers.serving.clients import CLIENTS
from trainers.serving.engine import Engine
from trainers.serving.native_units import NativeUnits
from trainers.serving.observations import RobotObservation
from trainers.serving.server import PolicyServer, ServerRequest

pytestmark = pytest.mark.usefixtures("quick_compilation")
__all__ = ["quick_compilation"]
ONE_ARM = {"arm0": tuple(range(6)), "gripper0": (6,)}
ROBOTS = {
    "droid": Robot(
        norm_key="franka/joint_velocity/pi18/v1",
        parts={"arm0": tuple(range(7)), "gripper0": (7,)},
        control_hz=(15.0,),
    ),
    "aloha": Robot(
        norm_key="trossen_dual/joint_position/pi18/v1",
        parts=ONE_ARM | {"arm1": tuple(range(7, 13)), "gripper1": (13,)},
        control_hz=(50.0,),
    ),
    "libero": Robot(norm_key="franka/ee_delta/pi18/v1", parts=ONE_ARM, control_hz=(20.0,)),
}
PICTURE = np.random.default_rng(0).integers(256, size=(224, 224, 3), dtype=np.uint8)
# As src/openpi/policies/*_policy.py make them, and examples/simple_client/main.py sends them.
EXAMPLES: dict[str, dict[str, Any]] = {
    "droid": {
        "observation/exterior_image_1_left": PICTURE,
        "observation/wrist_image_left": PICTURE,
        "observation/joint_position": np.linspace(0, 0.9, 7),
        "observation/gripper_position": np.array([0.25]),
        "prompt": "do something",
    },
    "aloha": {
        "state": np.ones((14,)),
        "images": dict.fromkeys(
            ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist"), PICTURE.transpose(2, 0, 1)
        ),
        "prompt": "do something",
    },
    "libero": {
        "observation/state": np.array([0.1, 0.2, 0.3, 0.0, 0.0, 0.5, 0.03, -0.03]),
        "observation/image": PICTURE,
        "observation/wrist_image": PICTURE,
        "prompt": "do something",
    },
}
# Canonical: joints and turns as they are, grippers 0 open, 1 closed.
STATES = {
    "droid": [*np.linspace(0, 0.9, 7), 0.25],
    "aloha": [1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 0],
    "libero": [0.1, 0.2, 0.3, 0.0, 0.0, 0.5, 0.25],
}
COMMANDS = {
    "droid": ([3, -3, 0, 0, 0, 0, 1.5, 1], [1, -1, 0, 0, 0, 0, 0.5, 1]),
    "aloha": ([0.5] * 6 + [0] + [-0.5] * 6 + [1], [0.5] * 6 + [1] + [-0.5] * 6 + [0]),
    "libero": ([0.05, 0, -0.025, 0, 0, 0.25, 0], [1, 0, -0.5, 0, 0, 0.5, -1]),
}


@pytest.fixture(scope="module")
def actor(quick_compilation: dict[str, str]) -> Actor:
    """One policy that knows the robots of all three clients; it acts by numbers that mean nothing."""
    config = resolve_config(
        stage="pretrain",
        mixture=Path("toy.yaml"),
        horizon=HORIZON,
        cameras=CAMERAS,
        overrides=settings() | {"policy.max_tokens": 24},
    )
    values = np.random.default_rng(1).uniform(-1, 1, (200, 18)).astype(np.float32)
    statistics = {}
    for robot in ROBOTS.values():
        mask = np.isin(np.arange(18), [slot for slots in robot.parts.values() for slot in slots])
        statistics[robot.norm_key] = summarize_episode(robot.norm_key, values, values, mask, mask)
    robots = {robot.norm_key: robot for robot in ROBOTS.values()}
    normalizer = Normalizer(
        statistics=statistics,
        parts={key: robot.parts for key, robot in robots.items()},
        mode="absolute",
        normalization="quantile",
    )
    return Actor(
        config=config,
        step=1,
        params=moved_params(config),
        robots=robots,
        normalizer=normalizer,
        flow_steps=2,
        together=4,
    )


def server_for(client: str, actor: Actor, **options: Any) -> PolicyServer:
    preset = CLIENTS[client]
    request = ServerRequest(
        run=Path("run"),
        robot=ROBOTS[client].norm_key,
        names=preset.names,
        ignored=preset.ignored,
        client=client,
        **options,
    )
    return PolicyServer(request, actor)


@pytest.mark.parametrize("client", CLIENTS)
def test_an_examples_observation_is_read(client: str, actor: Actor) -> None:
    robot, seen = server_for(client, actor).read(msgpack_numpy.packb(EXAMPLES[client]))
    assert robot == ROBOTS[client] and seen.prompt == "do something"
    assert set(seen.images) == set(CLIENTS[client].names) & set(CAMERAS)
    np.testing.assert_array_equal(seen.images["base_0_rgb"], PICTURE)
    slots = [slot for slots in robot.parts.values() for slot in slots]
    np.testing.assert_allclose(seen.state[slots], STATES[client], atol=1e-6)


@pytest.mark.parametrize("client", CLIENTS)
def test_an_examples_robot_gets_its_own_units(client: str, actor: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    command, expected = COMMANDS[client]
    monkeypatch.setattr(actor, "act", lambda *_: np.tile(np.float32(command), (HORIZON, 1)))
    answer = server_for(client, actor, execute=2).answer(msgpack_numpy.packb(EXAMPLES[client]))
    assert answer["actions"].dtype == np.float32
    np.testing.assert_allclose(answer["actions"], [expected, expected], atol=1e-6)


def test_the_slots_own_units_are_sent_where_they_are_asked_for(actor: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor, "act", lambda *_: np.zeros((HORIZON, 8), np.float32))
    server = server_for("droid", actor, units="policy")
    assert "units" not in server.metadata()["robots"][ROBOTS["droid"].norm_key]
    assert server_for("droid", actor).metadata()["robots"][ROBOTS["droid"].norm_key]["units"] == (
        "droid_raw_joint_velocity"
    )


def test_a_client_of_another_kind_of_robot_is_refused(actor: Actor) -> None:
    with pytest.raises(UsageError, match="--map aloha: expected a robot with joint_position, as that client's is"):
        PolicyServer(ServerRequest(run=Path("run"), robot=ROBOTS["libero"].norm_key, client="aloha", names={}), actor)
    with pytest.raises(UsageError, match="--units aloha_hdf5: expected an entry of franka"):
        PolicyServer(ServerRequest(run=Path("run"), robot=ROBOTS["libero"].norm_key, units="aloha_hdf5"), actor)


@pytest.mark.parametrize("prompt", [b"do it", np.asarray("do it"), "do it"])
def test_prompts_come_as_text_bytes_or_numpys_text(prompt: Any, actor: Actor) -> None:
    message = EXAMPLES["droid"] | {"prompt": prompt, "session_id": "a1", "observation/exterior_image_2_left": PICTURE}
    assert server_for("droid", actor).read(msgpack_numpy.packb(message))[1].prompt == "do it"


def test_keys_that_are_not_named_stay_an_error(actor: Actor) -> None:
    message = msgpack_numpy.packb(EXAMPLES["droid"] | {"observation/joint_positions": np.zeros(7)})
    with pytest.raises(UsageError, match="'observation/joint_positions' means nothing here"):
        server_for("droid", actor).read(message)


def test_prompts_in_other_bytes_are_refused(actor: Actor) -> None:
    with pytest.raises(UsageError, match="expected prompt, a sentence in UTF-8"):
        server_for("droid", actor).read(msgpack_numpy.packb(EXAMPLES["droid"] | {"prompt": b"\xff"}))


def test_degrees_and_percent_go_in_and_out_as_the_entry_has_them() -> None:
    parts = {"arm0": tuple(range(5)), "gripper0": (6,)}
    robot = Robot(norm_key="so100/joint_position/pi18/v1", parts=parts, control_hz=(30.0,))
    native = NativeUnits(get_adapter("lerobot_so100"), robot, 18)
    state = native.state_to_slots(np.array([90.0, -45, 0, 0, 180, 100]))
    np.testing.assert_allclose(state[[0, 1, 4, 6]], [np.pi / 2, -np.pi / 4, np.pi, 0])
    chunk = np.zeros((1, 18), np.float32)
    chunk[0, [0, 4, 6]] = np.pi / 2, -np.pi, 1.0
    np.testing.assert_allclose(native.action_from_slots(chunk), [[90, 0, 0, 0, -180, 0]], atol=1e-4)


def seen(level: int) -> RobotObservation:
    pictures = dict.fromkeys(CAMERAS, np.full((224, 224, 3), level, np.uint8))
    return RobotObservation(images=pictures, state=np.full(18, level / 255, np.float32), prompt="push it")


def test_robots_computed_together_get_what_each_gets_alone(actor: Actor) -> None:
    robot = ROBOTS["aloha"]
    actor._number = 0
    together = actor.act_each(robot, [seen(10), seen(120), seen(250)])
    actor._number = 0
    for level, chunk in zip((10, 120, 250), together, strict=True):
        np.testing.assert_allclose(actor.act(robot, seen(level)), chunk, atol=2e-5)


def test_one_chunk_that_is_not_finite_spoils_no_others(actor: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    sampled = np.zeros((2, HORIZON, 18), np.float32)
    sampled[1] = np.nan
    monkeypatch.setattr(actor, "_sample", lambda *_: sampled)
    good, bad = actor.act_each(ROBOTS["aloha"], [seen(0), seen(1)])
    assert np.isfinite(good).all() and isinstance(bad, NotFinite)


def test_requests_that_wait_are_computed_together_by_kind() -> None:
    computed: list[tuple[str, ...]] = []
    go_on = threading.Event()

    def compute(device: int, items: Any) -> list[str]:
        computed.append(tuple(items))
        assert go_on.wait(WAIT_S)
        return [item.upper() for item in items]

    async def ask() -> list[str | None]:
        engine: Engine[str, str] = Engine(compute, together=2)
        kinds = {"a": "arm", "b": "arm", "x": "base", "c": "arm", "d": "arm", "gone": "arm"}
        asked = [
            asyncio.create_task(engine.compute(kind, item, lambda item=item: item != "gone"))
            for item, kind in kinds.items()
        ]
        await asyncio.sleep(0)
        go_on.set()
        answers = await asyncio.gather(*asked)
        engine.close()
        return answers

    assert asyncio.run(ask()) == ["A", "B", "X", "C", "D", None]
    assert computed == [("a",), ("b", "c"), ("x",), ("d",)]


def test_devices_share_the_robots() -> None:
    both = threading.Barrier(2, timeout=WAIT_S)

    def compute(device: int, items: Any) -> list[int]:
        both.wait()
        return [device for _ in items]

    async def ask() -> set[int | None]:
        engine: Engine[str, int] = Engine(compute, devices=2)
        answers = await asyncio.gather(*(engine.compute("arm", item, lambda: True) for item in "ab"))
        engine.close()
        return set(answers)

    assert asyncio.run(ask()) == {0, 1}


def test_several_public_clients_at_once_are_each_answered(actor: Actor) -> None:
    running = ServerInThread(
        actor, robot=ROBOTS["aloha"].norm_key, names=CLIENTS["aloha"].names, ignored=("images/cam_low",), together=4
    )
    answers: list[np.ndarray] = []

    def talk() -> None:
        client = WebsocketClientPolicy("127.0.0.1", running.port)
        answers.extend(client.infer(EXAMPLES["aloha"])["actions"] for _ in range(2))

    threads = [threading.Thread(target=talk) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    running.end()
    assert len(answers) == 8 and all(np.isfinite(answer).all() for answer in answers)


def turns_round(adapter: Adapter) -> bool:
    sources = adapter.action.values()
    named = any(one.names for one in (*adapter.state.values(), *sources))
    awkward = any(one.relative or one.form == "matrix" for one in sources)
    return bool(sources) and not named and not awkward


def test_an_entry_that_picks_dims_by_name_is_refused() -> None:
    adapter = get_adapter("lerobot_openarm")
    vectors = get_embodiment(adapter.robot).vectors(adapter.control_mode)
    key = f"{adapter.robot}/{adapter.control_mode}/pi32/v1"
    robot = Robot(
        norm_key=key, parts={part: tuple(vectors.action[part]) for part in adapter.action}, control_hz=(30.0,)
    )
    with pytest.raises(UsageError, match="the entry picks dims by name and states no order"):
        NativeUnits(adapter, robot, 32)


@pytest.mark.parametrize("entry", [name for name, one in load_adapters().items() if turns_round(one)])
def test_what_a_robot_gets_converts_back_into_what_the_policy_meant(entry: str) -> None:
    adapter = get_adapter(entry)
    slots = get_embodiment(adapter.robot).vectors(adapter.control_mode).action
    parts = {part: tuple(slots[part]) for part in adapter.action}
    robot = Robot(norm_key=f"{adapter.robot}/{adapter.control_mode}/pi18/v1", parts=parts, control_hz=(10.0,))
    native = NativeUnits(adapter, robot, 32)
    meant = np.random.default_rng(0).uniform(0.05, 0.6, (4, 32)).astype(np.float32)
    sent = native.action_from_slots(meant).astype(np.float64)
    for part, source in adapter.action.items():
        back = convert_part(sent[:, list(native.action.columns[part])], source)
        numbers = [parts[part][i] for i in FORMS[source.form][1]] if source.form in FORMS else list(parts[part])
        np.testing.assert_allclose(back, meant[:, numbers], atol=1e-5)
