"""A policy at the controls of the demo's robots: slots in, commands out, pictures as conversion stores them."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from trainers.demo.rollout import (
    Trial,
    ask_script,
    ask_task,
    command_of,
    distances,
    lifted_other,
    look,
    run_trials,
    state_vector,
)
from trainers.demo.script import demonstration
from trainers.demo.world import MOBILE_DUAL, UR5E, UR5E_DUAL, Body, Command, is_success, step
from trainers.serving.observations import RobotObservation

TASKS = [
    (UR5E, "lift_one_of_two", ("red", "blue")),
    (UR5E_DUAL, "lift_box", ()),
    (MOBILE_DUAL, "drive_and_lift_box", ()),
]


def slots_of(body: Body, joints: np.ndarray, gripper: np.ndarray, base: np.ndarray) -> np.ndarray:
    action = np.zeros(18, np.float32)
    for arm in range(body.n_arms):
        action[7 * arm : 7 * arm + 7] = [*joints[arm], gripper[arm]]
    action[14:17] = base
    return action


@pytest.mark.parametrize(("body", "task", "colours"), TASKS, ids=lambda value: getattr(value, "robot", None))
def test_demonstrated_actions_succeed_through_the_slots(body: Body, task: str, colours: tuple[str, ...]) -> None:
    recording = demonstration(body, task, colours, (4,))
    state = recording.states[0]
    for command in recording.commands:
        action = slots_of(body, command.joints, command.gripper, command.base)
        state = step(body, recording.scene, state, command_of(body, action))
    assert is_success(recording.scene, state)


def test_state_vector_puts_arms_and_grippers_into_their_slots() -> None:
    state = demonstration(UR5E_DUAL, "lift_box", (), (4,)).states[-1]
    vector = state_vector(UR5E_DUAL, state)
    np.testing.assert_allclose(vector[0:6], state.joints[0], rtol=1e-6)
    np.testing.assert_allclose(vector[7:13], state.joints[1], rtol=1e-6)
    np.testing.assert_allclose(vector[[6, 13]], state.gripper, rtol=1e-6)
    assert not vector[14:].any()


def test_cameras_are_letterboxed_as_in_the_shards() -> None:
    recording = demonstration(UR5E, "lift_one", ("red",), (4,))
    shown = look(UR5E, Trial(scene=recording.scene, state=recording.states[0], closest=(1.0,)))
    assert list(shown) == ["base_0_rgb", "left_wrist_0_rgb"]
    assert {picture.shape for picture in shown.values()} == {(224, 224, 3)}
    assert not shown["base_0_rgb"][:28].any() and shown["base_0_rgb"][28:196].all(axis=-1).mean() > 0.9


def test_lifting_what_the_sentence_does_not_mean_is_told_apart() -> None:
    recording = demonstration(UR5E, "lift_one_of_two", ("red", "blue"), (3,))
    meant = Trial(scene=recording.scene, state=recording.states[-1], closest=(0.0, 1.0))
    assert not lifted_other(meant)
    assert lifted_other(replace(meant, scene=replace(recording.scene, target=1)))


def test_the_script_asks_to_move_there_and_then_to_take() -> None:
    recording = demonstration(UR5E, "lift_one_of_two", ("red", "blue"), (3,))
    trials = [Trial(scene=recording.scene, state=state, closest=(1.0, 1.0)) for state in recording.states]
    asked = [ask_script(UR5E, trial, {}) for trial in trials]
    take = "take the red cube and lift it up"
    switch = asked.index(take)
    assert 0.2 < switch / len(asked) < 0.8
    assert set(asked[:switch]) == {"move the open gripper over the red cube"} and set(asked[switch:]) == {take}
    assert ask_task(UR5E, trials[0], {}) == "lift the red cube"


def test_the_script_waits_for_both_hands() -> None:
    recording = demonstration(UR5E_DUAL, "lift_box", (), (4,))
    trials = [Trial(scene=recording.scene, state=recording.states[k], closest=(1.0,)) for k in (0, -1)]
    assert [ask_script(UR5E_DUAL, trial, {}) for trial in trials] == [
        "move both open grippers over the box",
        "take the box with both hands and lift it up",
    ]


def test_a_hand_comes_nearest_to_the_thing_it_lifts() -> None:
    recording = demonstration(UR5E, "lift_one_of_two", ("red", "blue"), (3,))
    before, after = (distances(UR5E, recording.scene, recording.states[k]) for k in (0, -1))
    assert after[0] < 0.02 < before[0] and after[1] > 0.1


class ScriptedActor:
    """Answers each observation with the commands of a demonstration from the state it is shown on."""

    def __init__(self, body: Body, commands: list[Command]) -> None:
        self.config = SimpleNamespace(policy=SimpleNamespace(horizon=50))
        self._actions = [slots_of(body, command.joints, command.gripper, command.base) for command in commands]
        self.asked: list[tuple[str, int]] = []

    def act_together(self, robot: Any, observations: list[RobotObservation], key: Any) -> np.ndarray:
        start = 16 * len(self.asked)
        self.asked.append((observations[0].prompt, len(observations)))
        chunk = self._actions[start : start + 50]
        return np.stack([chunk + [self._actions[-1]] * (50 - len(chunk))] * len(observations))


def test_the_published_part_of_each_chunk_is_carried_out_before_the_next_observation() -> None:
    recording = demonstration(UR5E, "lift_one_of_two", ("red", "blue"), (4,))
    actor: Any = ScriptedActor(UR5E, list(recording.commands))
    start = Trial(scene=recording.scene, state=recording.states[0], closest=(1.0, 1.0))
    ends = run_trials(actor, None, UR5E, ask_task, [start, start], jax.random.key(0))  # type: ignore[arg-type]
    assert all(is_success(end.scene, end.state) for end in ends)
    assert actor.asked == [("lift the red cube", 2)] * 6  # 5 s at 20 Hz, 16 actions each
