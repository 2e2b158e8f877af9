"""The whole way, with one task of MetaWorld: record, convert, train a few steps, roll out; here and behind a server."""

import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipelines.contract.errors import FailedWork, UsageError
from tests.support.inputs.toy_mixture import quick_compilation, settings
from tests.support.servers.policy_server import ServerInThread
from trainers.main import main
from trainers.serving.acting import Actor
from trainers.simulators.asking import AskScript, AskTask
from trainers.simulators.lanes import Lanes, Stage
from trainers.simulators.policies import Asked, LocalPolicy, RemotePolicy, noise_number
from trainers.simulators.rollouts import Episode, Outcome, RolloutRequest, begin, roll_out, task_results
from trainers.simulators.sawyer_world import M_A_STEP, METAWORLD, ROBOT, SawyerWorld, expert
from trainers.simulators.worlds import FIRST_ROLLOUT_SEED

pytestmark = pytest.mark.usefixtures("quick_compilation")
__all__ = ["quick_compilation"]
TASK = "drawer-open"
SPEC = """\
schema: embodimix.mixture/v1
name: mw
seed: 0
weighting: {rule: power, alpha: 0.43, group_by: [task, robot], count: steps}
groups: [{name: mw, datasets: [{path: data/mw/1.0.0}]}]
language: {segment: 0, task: 1}
validation: {fraction: 0.3, by: episode, min_per_group: 1}
action: {horizon: 16, mode: absolute, normalization: quantile}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, quick_compilation: dict[str, str]) -> Path:
    """A run of two steps on two demonstrations, made by the commands."""
    root = tmp_path_factory.mktemp("mw")
    (root / "mw.yaml").write_text(SPEC)
    options = ["--name", "mw", "--version", "1.0.0", "--adapter", "metaworld", "-q"]
    small = {"batch_size": 4, "policy.max_tokens": 16} | {
        name: value for name, value in settings().items() if name not in ("policy.horizon", "batch_size")
    }
    sets = [word for name, value in small.items() for word in ("--set", f"{name}={value}")]
    assert main(["record", "metaworld", TASK, str(root / "logs"), "--episodes", "2", "--processes", "1", "-q"]) == 0
    assert main(["convert", "zarr", str(root / "logs"), str(root / "data"), *options]) == 0
    train = ["train", "pretrain", str(root / "mw.yaml"), "--run", str(root / "run"), "--steps", "2", "-q"]
    assert main([*train, *sets]) == 0
    return root / "run"


def rolled(run: Path, out: Path, *options: str) -> int:
    return main(
        ["rollout", str(run), "--env", "metaworld", "--task", TASK, "--out", str(out), "--execute", "8"]
        + ["--flow-steps", "2", "--worlds", "2", "--processes", "0", "--max-steps", "20", "-q", *options]
    )


def read_lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "outcomes.jsonl").read_text().splitlines()]


def test_a_rollout_writes_outcomes_films_and_a_page_and_goes_on(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rolled(run, tmp_path, "--episodes", "2", "--videos", "1", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["results"][0]["episodes"] == 2 and printed["execute"] == 8 and printed["step"] == 2
    first = read_lines(tmp_path)
    assert {line["seed"] for line in first} == {FIRST_ROLLOUT_SEED, FIRST_ROLLOUT_SEED + 1}
    assert all(line["sentences"] == ["open the drawer"] and line["steps"] <= 20 for line in first)
    with av.open(tmp_path / f"videos/task_{TASK}_{FIRST_ROLLOUT_SEED}.mp4") as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(frames) == 6 and frames[0].shape == (224, 448, 3)  # 20 steps of 80 Hz at 20 Hz, and the end
    page = (tmp_path / "page.html").read_text()
    assert f"{TASK}, task (2)" in page and f"videos/task_{TASK}_{FIRST_ROLLOUT_SEED}.mp4" in page
    # More episodes and another way of asking: what is there stays, and a line that a kill cut is done again.
    (tmp_path / "outcomes.jsonl").write_text((tmp_path / "outcomes.jsonl").read_text() + '{"task": "dra')
    assert rolled(run, tmp_path, "--episodes", "3", "--ask", "task", "--ask", "script") == 0
    lines = read_lines(tmp_path)
    assert lines[:2] == first and len(lines) == 6
    said = {sentence for line in lines if line["condition"] == "script" for sentence in line["sentences"]}
    assert said == {"move the hand to the drawer's handle"}


def test_the_outcomes_of_another_policy_are_not_mixed_in(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rolled(run, tmp_path, "--episodes", "1") == 0
    assert rolled(run, tmp_path, "--episodes", "1", "--flow-steps", "3") == 2
    assert "flow_steps 2 there and 3 now. Name another --out" in capsys.readouterr().err


@pytest.fixture(scope="module")
def actor(run: Path) -> Actor:
    return Actor.of_run(run, flow_steps=2, together=4)


@pytest.fixture(scope="module")
def policy(actor: Actor) -> LocalPolicy:
    return LocalPolicy(actor, METAWORLD, execute=8, described={})


@pytest.fixture(scope="module")
def messages() -> list[dict[str, Any]]:
    """What three scenes look like."""
    world, seen = SawyerWorld(), []
    for seed in range(3):
        world.reset(TASK, seed)
        seen.append(dict(world.observe().message))
    world.close()
    return seen


def asked(messages: list[dict[str, Any]], *numbers: int) -> list[Asked]:
    return [Asked(message=messages[k], prompt="open the drawer", noise=noise_number(TASK, k, 0)) for k in numbers]


def test_an_answer_does_not_depend_on_who_else_asks(policy: LocalPolicy, messages: list[dict[str, Any]]) -> None:
    together = policy.act(asked(messages, 0, 1, 2))
    assert together[0].shape == (8, 4) and np.abs(together[0] - together[1]).max() > 1e-4
    (alone,) = policy.act(asked(messages, 1))
    assert np.allclose(alone, together[1], atol=1e-6)
    assert np.allclose(policy.act(asked(messages, 2, 0))[1], together[0], atol=1e-6)


@pytest.fixture
def server(actor: Actor) -> Iterator[ServerInThread]:
    running = ServerInThread(actor, "metaworld_sawyer", execute=8)
    yield running
    running.end()


def test_a_server_gives_the_same_actions_to_the_public_client(
    server: ServerInThread, policy: LocalPolicy, messages: list[dict[str, Any]]
) -> None:
    remote = RemotePolicy(f"127.0.0.1:{server.port}", METAWORLD, execute=0)
    question = asked(messages, 0)[0]
    (answered,) = remote.act([question])
    number = server.server._actor._number - 1
    (local,) = policy.act([replace(question, noise=number)])
    assert answered.shape == (8, 4) and np.allclose(answered, local, atol=1e-5)
    assert remote.view(messages[0]).images["base_0_rgb"].shape == (224, 224, 3)


def test_a_rollout_through_a_server_is_one_command(server: ServerInThread, tmp_path: Path) -> None:
    arguments = ["rollout", "--server", f"127.0.0.1:{server.port}", "--env", "metaworld", "--task", TASK]
    more = ["--episodes", "1", "--max-steps", "16", "--processes", "0", "--out", str(tmp_path), "-q"]
    assert main([*arguments, *more]) == 0
    (line,) = read_lines(tmp_path)
    assert line["steps"] == 16 and server.server.report()["answered"] == 2


def test_a_server_of_another_robot_is_refused(server: ServerInThread) -> None:
    other = replace(METAWORLD, robot="trossen_dual/joint_position")
    with pytest.raises(UsageError, match=f"expected trossen_dual/joint_position; it drives {ROBOT}"):
        RemotePolicy(f"127.0.0.1:{server.port}", other, execute=0)
    with pytest.raises(FailedWork, match="expected a policy server; found"):
        RemotePolicy("127.0.0.1:1", METAWORLD, execute=0)


def test_a_policy_of_another_rate_is_refused(actor: Actor) -> None:
    slow = replace(METAWORLD, control_hz=20.0)
    with pytest.raises(UsageError, match="expected actions for metaworld's 20 Hz; found 80 Hz"):
        LocalPolicy(actor, slow, execute=0, described={})


def test_an_expert_through_the_protocol_succeeds_and_ends_there() -> None:
    """Its commands as a policy would send them: the stage ends at the simulator's success, not at a chunk's end."""
    stage, world = Stage(METAWORLD, 500), SawyerWorld()
    stage.reset(TASK, 7, False)
    world.reset(TASK, 7)
    policy, acted = expert(TASK), None
    while acted is None or not acted.is_over:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its experts command more than the simulator takes
            command = np.clip(policy(world.observation), -1, 1)
        action = np.array([*(command[:3] * M_A_STEP), (command[3] + 1) / 2], np.float32)
        world.act(action)
        acted = stage.act(action[None])
    assert acted.is_success and world.success and 20 < acted.steps < 150
    more = stage.act(np.zeros((8, 4), np.float32))
    assert more.steps == acted.steps + 1  # over already: it stops behind the first action
    stage.close()
    world.close()


def test_what_a_world_raises_is_said(tmp_path: Path) -> None:
    with Lanes("metaworld", 10, 1, 1) as lanes:
        with pytest.raises(FailedWork, match="the simulator failed in `reset`: KeyError: 'no-such-task"):
            lanes.call("reset", {0: ("no-such-task", 0, False)})
        lanes.call("reset", {0: (TASK, 0, False)})  # and the world is still there


class FixedPolicy:
    """Stays where it is."""

    described: dict[str, Any] = {}

    def view(self, message: Any) -> Any:
        return None

    def act(self, asked: list[Asked]) -> list[np.ndarray]:
        return [np.zeros((8, 4), np.float32) for _ in asked]


def test_conditions_have_the_same_scenes_and_order_changes_no_outcome(tmp_path: Path) -> None:
    found = []
    for worlds, processes in ((3, 0), (2, 1)):
        request = RolloutRequest(
            simulator=METAWORLD,
            tasks=("reach",),
            conditions=("task", "script"),
            episodes=2,
            out=tmp_path / str(worlds),
            worlds=worlds,
            max_steps=8,
        )
        askers = {"task": AskTask(), "script": AskScript()}
        done = begin(request, {})
        with Lanes("metaworld", 8, worlds, processes) as lanes:
            found.append(sorted(roll_out(request, FixedPolicy(), askers, lanes, done), key=lambda o: o.episode.name))
    assert found[0] == found[1] and len(found[0]) == 4
    assert {outcome.episode.seed for outcome in found[0]} == {FIRST_ROLLOUT_SEED, FIRST_ROLLOUT_SEED + 1}


def test_success_has_wilsons_interval_for_each_task_and_for_all() -> None:
    def outcome(task: str, seed: int, success: bool) -> Outcome:
        episode = Episode(task=task, seed=seed, condition="task")
        return Outcome(episode=episode, success=success, steps=10 + seed, sentences=())

    rows = task_results([outcome("a", k, k < 8) for k in range(10)] + [outcome("b", k, False) for k in range(10)])
    assert [(row.task, row.episodes, row.successes, row.steps) for row in rows] == [
        ("a", 10, 8, 13.5),
        ("b", 10, 0, None),
        ("all", 20, 8, 13.5),
    ]
    assert (round(rows[0].low, 3), round(rows[0].high, 3)) == (0.49, 0.943)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "metaworld"], "expected RUN or --server HOST:PORT, one of them"),
        (["run", "--env", "metaworlds"], "no such simulator. Did you mean 'metaworld'?"),
        (["--env", "metaworld", "--server", "x:1"], "--server: expected --out DIR"),
        (["run", "--env", "metaworld", "--ask", "chooser"], "--ask chooser: expected --labels TABLE"),
        (["--env", "metaworld", "--server", "host", "--out", "o"], "--server host: expected HOST:PORT"),
    ],
)
def test_wrong_uses_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollout", *arguments]) == 2
    assert message in capsys.readouterr().err
