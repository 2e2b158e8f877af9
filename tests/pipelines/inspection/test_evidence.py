"""What numbers say of units, grippers, rotations and control modes, and what they leave open."""

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.contract.episode import Reference
from pipelines.contract.native import NativeEpisode
from pipelines.inspection.description import Feature
from pipelines.inspection.evidence import (
    gripper_ends,
    has_unit_quaternion,
    is_gripper_like,
    joint_units,
    relate,
    rotation_form,
)
from pipelines.inspection.roles import Block

T = 50
PHASE = np.arange(T)[:, None] / 9


def block(low: float, high: float, key: str = "state", width: int = 6) -> Block:
    feature = Feature(key=key, dtype="f4", width=width, names=(), low=np.full(width, low), high=np.full(width, high))
    return Block(feature=feature, start=0, stop=width, kind="joints")


def episode(**arrays: NDArray) -> NativeEpisode:
    return NativeEpisode(reference=Reference(uri="a", key="a"), n_steps=T, arrays=arrays, frames={})


@pytest.mark.parametrize(("most", "value"), [(95.0, True), (2.9, False), (2048.0, "?"), (1.0, "?"), (0.02, "?")])
def test_joints_are_in_degrees_beyond_a_turn_and_open_where_either_fits(most: float, value: object) -> None:
    guess = joint_units([block(-most, most)])
    assert guess.value == value
    assert guess.why


@pytest.mark.parametrize(
    ("low", "high", "ends"),
    [(0.03, 0.97, (0, 1)), (-1, 1, (-1, 1)), (4.0, 96.0, (0, 100)), (0.0, 0.0812, (0, 0.0812))],
)
def test_a_gripper_runs_over_a_usual_scale_or_what_was_seen(low: float, high: float, ends: tuple[float, float]) -> None:
    assert gripper_ends(block(low, high, width=1)) == ends


def test_a_column_of_two_values_or_of_a_fraction_beside_joints_is_a_gripper() -> None:
    joints = np.sin(PHASE + np.arange(6))
    binary = np.where(PHASE % 2 < 1, 1.0, -1.0)
    fraction = 0.5 + 0.5 * np.sin(PHASE)
    for last, expected in ((binary, True), (fraction, True), (joints[:, :1], False)):
        assert is_gripper_like([episode(state=np.hstack([joints, last]))], "state", 6) is expected


def test_four_numbers_of_length_one_are_a_quaternion() -> None:
    rows = np.sin(PHASE + np.arange(4))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    pose = np.hstack([0.3 + 0.1 * np.sin(PHASE + np.arange(3)), unit])
    assert has_unit_quaternion([episode(state=pose)], "state", 3)
    assert not has_unit_quaternion([episode(state=np.hstack([pose[:, :3], rows]))], "state", 3)


def test_angles_longer_than_half_a_turn_are_no_rotation_vector() -> None:
    pose = block(-1, 1, "pose", width=3)
    rows = 2.5 * np.sin(PHASE + np.array([0.0, 0.4, 0.8]))
    assert rotation_form([episode(pose=rows)], pose, set()).value == "xyz_rpy"


def test_a_second_angle_beyond_a_quarter_turn_is_no_pitch() -> None:
    rows = np.hstack([0.1 * np.sin(PHASE), 2.0 + 0 * PHASE, 0 * PHASE])
    assert rotation_form([episode(pose=rows)], block(-1, 1, "pose", width=3), set()).value == "xyz_rotvec"


def test_small_angles_without_a_name_stay_a_question() -> None:
    rows = 0.2 * np.sin(PHASE + np.arange(3))
    assert rotation_form([episode(pose=rows)], block(-1, 1, "pose", width=3), set()).is_open


@pytest.mark.parametrize(("scale", "slope"), [(1.0, 1.0), (20.0, 20.0)])
def test_actions_that_follow_changes_are_deltas_of_a_known_slope(scale: float, slope: float) -> None:
    state = np.sin(PHASE + np.arange(6))
    action = np.concatenate([np.diff(state, axis=0), np.zeros((1, 6))]) * scale
    relation = relate([episode(state=state, action=action)], block(-1, 1), block(-1, 1, "action"))
    assert relation.kind == "delta"
    assert relation.slope == pytest.approx(slope)


def test_actions_that_are_the_next_state_are_absolute() -> None:
    state = np.sin(PHASE + np.arange(6))
    action = np.concatenate([state[2:], state[-1:], state[-1:]])
    assert relate([episode(state=state, action=action)], block(-1, 1), block(-1, 1, "action")).kind == "absolute"


def test_actions_that_follow_nothing_are_of_no_kind() -> None:
    rng = np.random.default_rng(0)
    state, action = np.sin(PHASE + np.arange(6)), rng.normal(size=(T, 6))
    assert relate([episode(state=state, action=action)], block(-1, 1), block(-1, 1, "action")).kind == ""


def test_columns_of_one_name_are_compared_whatever_their_order() -> None:
    state = np.cumsum(np.sin(PHASE * np.arange(1, 4)), axis=0)
    action = np.concatenate([state[1:], state[-1:]])[:, [2, 0, 1]]
    blocks = [named_block("state", ("a", "b", "c")), named_block("action", ("c", "a", "b"))]
    assert relate([episode(state=state, action=action)], *blocks).kind == "absolute"


def named_block(key: str, names: tuple[str, ...]) -> Block:
    n = len(names)
    feature = Feature(key=key, dtype="f4", width=n, names=names, low=np.zeros(n), high=np.ones(n))
    return Block(feature=feature, start=0, stop=n, kind="joints", is_named=True)
