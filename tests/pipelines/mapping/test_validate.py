"""What bars an episode from a dataset."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.contract.embodiments import get_embodiment, slot_mask
from pipelines.contract.episode import DroppedSteps, Episode, Reference
from pipelines.mapping.validate import find_fault, find_loss, judged_quantities

T = 5


def make_episode(robot: str = "ur5e", control_mode: str = "joint_position", t: int = T) -> Episode:
    vectors = get_embodiment(robot).vectors(control_mode)
    return Episode(
        reference=Reference(uri="u", key="k"),
        robot=robot,
        control_mode=control_mode,
        control_hz=20.0,
        state=np.zeros((t, 18), np.float32),
        action=np.zeros((t, 18), np.float32),
        timestamp_s=np.arange(t) / 20,
        state_mask=slot_mask(vectors.state),
        action_mask=slot_mask(vectors.action),
        parts=dict(vectors.action),
        images={"base_0_rgb": [b""] * t},
        dataset_cameras=("base_0_rgb",),
        task="x",
        language=("x",),
        success=1,
        is_terminal=True,
        reward=np.zeros(t, np.float32),
        discount=np.ones(t, np.float32),
        is_idle=np.zeros(t, bool),
    )


def with_value(episode: Episode, side: str, step: int, slot: int, value: float) -> Episode:
    values = getattr(episode, side).copy()
    values[step, slot] = value
    return replace(episode, **{side: values})


def test_a_plain_episode_has_no_fault() -> None:
    assert find_fault(make_episode()) is None


def test_one_step_is_no_episode() -> None:
    assert find_fault(make_episode(t=1)) == ("one_step", "expected at least 2 steps, found 1")


def test_an_episode_without_a_camera_is_named() -> None:
    assert find_fault(replace(make_episode(), images={})) == (
        "no_camera",
        "expected at least one of base_0_rgb, found none",
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_found(value: float) -> None:
    fault = find_fault(with_value(make_episode(), "action", 3, 2, value))
    assert fault == ("non_finite", f"action: step 3, slot 2: expected a finite number, found {value}")


@pytest.mark.parametrize(
    ("robot", "mode", "side", "slot", "value", "reason"),
    [
        ("ur5e", "joint_position", "action", 0, 4.0, "absurd_jump"),
        ("ur5e", "joint_position", "state", 1, 90.0, "absurd_value"),
        ("ur5e", "joint_position", "action", 6, 7.0, "absurd_value"),
        ("widowx", "ee_delta", "action", 0, 1.5, "absurd_value"),
        ("widowx", "ee_delta", "action", 3, 7.0, "absurd_value"),
        ("widowx", "ee_delta", "state", 2, 0.9, "absurd_jump"),
        ("mobile_fibocom", "joint_position", "action", 14, 8.0, "absurd_value"),
        ("franka_mobile", "joint_position", "action", 17, 1.0, "absurd_jump"),
        ("franka", "joint_velocity", "action", 2, 40.0, "absurd_value"),
    ],
)
def test_what_no_robot_does_is_found(robot: str, mode: str, side: str, slot: int, value: float, reason: str) -> None:
    fault = find_fault(with_value(make_episode(robot, mode), side, 2, slot, value))
    assert fault is not None and fault[0] == reason and f"slot {slot}" in fault[1]


@pytest.mark.parametrize(
    ("robot", "mode", "side", "slot", "value"),
    [
        ("ur5e", "joint_position", "action", 0, 0.6),
        ("franka", "joint_velocity", "action", 2, 3.0),
        ("widowx", "ee_delta", "state", 3, 2 * np.pi - 0.1),
        ("widowx", "ee_delta", "state", 6, -0.007),
        ("mobile_fibocom", "joint_position", "action", 16, 2.0),
    ],
)
def test_what_robots_do_passes(robot: str, mode: str, side: str, slot: int, value: float) -> None:
    assert find_fault(with_value(make_episode(robot, mode), side, 2, slot, value)) is None


def test_a_joint_in_degrees_is_asked_about() -> None:
    fault = find_fault(with_value(make_episode(), "state", 0, 1, -95.0))
    assert fault is not None and fault[1].endswith("found -95; are these degrees?")


def test_a_joint_in_servo_ticks_is_asked_about() -> None:
    fault = find_fault(with_value(make_episode(), "state", 0, 1, 2048.0))
    assert fault is not None and fault[1].endswith("found 2048; are these raw servo ticks?")


@pytest.mark.parametrize("units", ["aloha_own", "zeta"])
def test_of_actions_in_a_source_s_own_units_only_grippers_are_judged(units: str) -> None:
    parts = {"arm0": (0, 1, 2, 3, 4, 5), "gripper0": (6,)}
    assert judged_quantities("joint_position", parts, "action", units) == {6: "gripper"}
    assert sorted(judged_quantities("joint_position", parts, "state", units)) == [0, 1, 2, 3, 4, 5, 6]
    assert sorted(judged_quantities("joint_position", parts, "action", "metric")) == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("robot", "mode", "side", "slot", "low", "high"),
    [
        ("ur5e", "joint_position", "action", 0, -25.125, 25.125),
        ("ur5e", "joint_position", "state", 6, -0.5, 1.5),
        ("franka", "joint_velocity", "action", 2, -30.0, 30.0),
        ("widowx", "ee_delta", "state", 0, -10.0, 10.0),
        ("widowx", "ee_delta", "state", 3, -12.5625, 12.5625),
        ("widowx", "ee_delta", "action", 0, -1.0, 1.0),
        ("widowx", "ee_delta", "action", 3, -6.28125, 6.28125),
        ("mobile_fibocom", "joint_position", "action", 14, -5.0, 5.0),
        ("mobile_fibocom", "joint_position", "action", 16, -10.0, 10.0),
        ("franka_mobile", "joint_position", "action", 17, -2.0, 3.0),
    ],
)
def test_the_ends_of_every_limit_are_allowed_and_what_is_beyond_is_not(
    robot: str, mode: str, side: str, slot: int, low: float, high: float
) -> None:
    """Angles end at multiples of 2 pi, less than 0.01 beyond these numbers."""
    for value, beyond in ((low, low - 0.01), (high, high + 0.01)):
        episode = make_episode(robot, mode)
        getattr(episode, side)[:, slot] = value
        assert find_fault(episode) is None
        getattr(episode, side)[:, slot] = beyond
        fault = find_fault(episode)
        assert fault is not None and fault[0] == "absurd_value" and f"slot {slot}" in fault[1]


def lost(start: int, end: int, reason: str = "missing_frames") -> DroppedSteps:
    return DroppedSteps(start=start, end=end, reason=reason)


def loss(n_steps: int, *dropped: DroppedSteps, hz: float = 20.0, **notes: float) -> tuple[str, str] | None:
    named = {f"{stream}/longest_pause_ms": ms for stream, ms in notes.items()}
    return find_loss(n_steps, dropped, np.arange(n_steps) / hz, named, hz)


def test_an_episode_that_loses_more_than_a_tenth_is_rejected_by_what_it_lost() -> None:
    assert loss(90, lost(90, 100)) is None
    assert loss(89, lost(89, 99), lost(99, 100, "truncated_video")) == (
        "missing_frames",
        "expected to lose at most 10% of the steps, found 11 of 100 lost (missing_frames 10, truncated_video 1)",
    )


def test_one_lost_step_is_never_too_much_and_steps_left_out_on_purpose_do_not_count() -> None:
    assert loss(3, lost(3, 4)) is None
    assert loss(3, lost(0, 1, "first_step"), lost(4, 5)) is None
    assert loss(3, lost(3, 5)) is not None


def test_the_share_that_may_be_lost_can_be_declared() -> None:
    assert find_loss(13, [lost(13, 103)], np.arange(13) / 20, {}, 20.0, max_loss=0.9) is None


def test_a_hole_in_the_steps_is_named() -> None:
    episode = make_episode()
    assert find_fault(replace(episode, timestamp_s=np.array([0, 0.05, 0.54, 0.59, 0.64]))) is None
    assert find_fault(replace(episode, timestamp_s=np.array([0, 0.05, 0.60, 0.65, 0.70]))) == (
        "holes",
        "steps: expected samples at most 0.50 s apart, found a hole of 0.55 s",
    )


def test_a_hole_in_any_stream_is_named() -> None:
    assert loss(90, base_0_rgb=480.0, gripper=100.0) is None
    fault = loss(90, base_0_rgb=100.0, gripper=510.0)
    assert fault == ("holes", "gripper: expected samples at most 0.50 s apart, found a hole of 0.51 s")


def test_lost_steps_inside_an_episode_without_a_clock_are_a_hole() -> None:
    assert loss(190, lost(100, 109)) is None
    assert loss(190, lost(100, 110)) is not None
    assert loss(190, lost(190, 200)) is None


def test_one_lost_step_of_a_slow_episode_is_no_hole() -> None:
    assert loss(29, lost(10, 11), hz=3.0) is None
    assert loss(28, lost(10, 12), hz=3.0) is not None


def test_a_slow_stream_has_longer_periods() -> None:
    assert loss(9, hz=1.0) is None
    assert loss(9, hz=1.0, base_0_rgb=1600.0) is not None
