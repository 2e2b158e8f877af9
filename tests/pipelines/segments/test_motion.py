"""Tests of `pipelines.segments.motion`: gripper events, stillness, smoothing."""

import numpy as np
import pytest

from pipelines.contract.episode import Episode
from pipelines.segments.motion import GripperEvent, Motion, idle_in, measure_motion, runs, smooth
from tests.support.inputs.annotation_episodes import ONE_ARM, Leg, episode_of


def motion_of(episode: Episode) -> Motion:
    masks = (episode.state_mask, episode.action_mask)
    return measure_motion(episode.state, episode.action, masks, episode.parts, episode.control_mode, episode.control_hz)


def gripper_motion(gripper: list[float], control_hz: float = 10.0) -> Motion:
    values = np.zeros((len(gripper), 18), np.float32)
    values[:, 6] = gripper
    mask = np.arange(18) == 6
    return measure_motion(values, values, (mask, mask), {"gripper0": (6,)}, "joint_position", control_hz)


def test_a_ramp_keeps_its_values_when_smoothed_up_to_its_ends() -> None:
    np.testing.assert_allclose(smooth(np.arange(6.0), 3), [0, 1, 2, 3, 4, 5])


def test_smoothing_takes_the_centred_mean() -> None:
    np.testing.assert_allclose(smooth(np.array([0.0, 0, 3, 0, 0]), 3), [0, 1, 1, 1, 0])


def test_runs_of_one_value() -> None:
    assert runs(np.array([7, 7])) == [(0, 2)]


def test_a_gripper_that_closes_is_one_event() -> None:
    motion = gripper_motion([0, 0, 0, 0, 1, 1, 1, 1, 1])
    assert motion.events == (GripperEvent(part="gripper0", start=4, end=5, closes=True),)


def test_an_event_ends_when_the_measured_gripper_has_arrived() -> None:
    commanded = np.zeros((12, 18), np.float32)
    measured = commanded.copy()
    commanded[4:, 6] = 1
    measured[:, 6] = [0, 0, 0, 0, 0, 0.2, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5]
    mask = np.arange(18) == 6
    motion = measure_motion(measured, commanded, (mask, mask), {"gripper0": (6,)}, "ee_delta", 10.0)
    assert motion.events == (GripperEvent(part="gripper0", start=4, end=7, closes=True),)


def test_chatter_shorter_than_the_debounce_is_no_event() -> None:
    assert gripper_motion([0, 0, 0, 1, 1, 0, 0, 1, 0, 0, 0, 0]).events == ()


def test_a_gripper_that_hovers_between_the_thresholds_stays_what_it_was() -> None:
    events = gripper_motion([0, 0, 0, 1, 1, 1, 0.5, 0.4, 0.5, 0.6, 1, 1]).events
    assert [(event.start, event.closes) for event in events] == [(3, True)]


def test_a_gripper_that_hardly_moves_never_acts() -> None:
    assert gripper_motion([0, 0, 0, 0.1, 0.1, 0.1, 0, 0, 0]).events == ()


def test_steps_without_movement_for_half_a_second_are_idle() -> None:
    episode = episode_of([Leg(duration_s=1, to={0: 0.3}), Leg(duration_s=1, to={}), Leg(duration_s=1, to={0: 0})])
    idle = motion_of(episode).is_idle
    assert idle[22:38].all() and not idle[:17].any() and not idle[43:].any()


def test_a_short_stop_is_not_idle() -> None:
    legs = [Leg(duration_s=1, to={0: 0.3}), Leg(duration_s=0.2, to={}), Leg(duration_s=1, to={0: 0})]
    assert not motion_of(episode_of(legs)).is_idle.any()


def test_a_closing_gripper_is_not_idle() -> None:
    assert not motion_of(episode_of([Leg(duration_s=0.8, to={6: 1.0})])).is_idle[3:13].any()


def test_a_commanded_base_is_not_idle_although_its_state_is_masked_off() -> None:
    state, action = np.zeros((40, 18), np.float32), np.zeros((40, 18), np.float32)
    action[:, 14] = 0.3
    masks = (np.zeros(18, bool), np.arange(18) == 14)
    assert not idle_in(measure_motion(state, action, masks, {"base": (14,)}, "joint_position", 20.0)).any()


def test_nothing_is_idle_where_no_part_can_be_read() -> None:
    zeros, none = np.zeros((40, 18), np.float32), np.zeros(18, bool)
    assert not idle_in(measure_motion(zeros, zeros, (none, none), ONE_ARM, "ee_delta", 20.0)).any()


def test_an_angle_that_wraps_is_no_movement() -> None:
    state = np.zeros((40, 18), np.float32)
    state[:, 3] = np.where(np.arange(40) % 2, np.pi - 1e-4, -np.pi + 1e-4)
    mask = np.arange(18) < 6
    motion = measure_motion(state, state, (mask, mask), {"arm0": ONE_ARM["arm0"]}, "ee_absolute", 20.0)
    assert idle_in(motion).all()


def test_deltas_tell_the_speed_where_no_pose_is_measured() -> None:
    action = np.zeros((30, 18), np.float32)
    action[:, 0] = 0.01
    masks = (np.zeros(18, bool), np.arange(18) < 6)
    motion = measure_motion(action * 0, action, masks, {"arm0": ONE_ARM["arm0"]}, "ee_delta", 10.0)
    np.testing.assert_allclose(motion.parts[0].speed, 0.1, rtol=1e-5)


def test_a_control_rate_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="control_hz: expected more than 0, found 0"):
        gripper_motion([0.0, 1.0], control_hz=0)
