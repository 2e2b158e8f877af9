"""A policy at the controls of the demo's robots: slots in, commands out, pictures as conversion stores them."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.demo_script import demonstration
from pipelines.demo_world import MOBILE_DUAL, UR5E, UR5E_DUAL, Body, is_success, step
from trainers.demo_rollout import Trial, command_of, lifted_other, look, state_vector

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
    shown = look(UR5E, Trial(scene=recording.scene, state=recording.states[0]))
    assert list(shown) == ["base_0_rgb", "left_wrist_0_rgb"]
    assert {picture.shape for picture in shown.values()} == {(224, 224, 3)}
    assert not shown["base_0_rgb"][:28].any() and shown["base_0_rgb"][28:196].all(axis=-1).mean() > 0.9


def test_lifting_what_the_sentence_does_not_mean_is_told_apart() -> None:
    recording = demonstration(UR5E, "lift_one_of_two", ("red", "blue"), (3,))
    meant = Trial(scene=recording.scene, state=recording.states[-1])
    assert not lifted_other(meant)
    assert lifted_other(replace(meant, scene=replace(recording.scene, target=1)))
