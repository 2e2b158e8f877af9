"""Tests of `pipelines.segments.propose`: where episodes are cut, what is said of the pieces."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.contract.episode import Episode, Segment
from pipelines.contract.slots import CONTROL_MODES
from pipelines.segments import propose
from pipelines.segments.motion import PartMotion
from pipelines.segments.propose import ProposeParameters, _starts_and_stops, motion_of, propose_segments
from tests.support.annotation_scores import boundary_f1, find_with_proposals
from tests.support.inputs.annotation_episodes import ONE_ARM, TWO_ARMS, Leg, episode_of

PICK = [
    Leg(duration_s=2.0, to={0: 0.3}),
    Leg(duration_s=1.6, to={2: -0.2}),
    Leg(duration_s=0.4, to={6: 1.0}),
    Leg(duration_s=2.0, to={2: 0.1}),
]


def said(episode: Episode) -> list[str]:
    return [segment.text for segment in propose_segments(episode)]


def times_s(episode: Episode) -> list[float]:
    return [round(segment.end / episode.control_hz, 2) for segment in propose_segments(episode)]


def test_a_pick_is_cut_at_the_stop_and_after_the_grasp() -> None:
    assert times_s(episode_of(PICK)) == [2.0, 4.0, 6.0]


def test_a_pick_is_told_in_plain_words() -> None:
    assert said(episode_of(PICK)) == ["move the arm forward", "move the arm down, close the gripper", "move the arm up"]


def test_the_rate_does_not_move_the_boundaries() -> None:
    at_5, at_50 = times_s(episode_of(PICK, control_hz=5)), times_s(episode_of(PICK, control_hz=50))
    np.testing.assert_allclose(at_5, at_50, atol=0.25)


def test_no_direction_is_invented_in_a_joint_mode() -> None:
    episode = episode_of(PICK, control_mode="joint_position")
    assert said(episode) == ["move the arm", "move the arm, close the gripper", "move the arm"]


def test_no_direction_is_invented_from_deltas_in_an_unknown_frame() -> None:
    episode = episode_of(PICK, control_mode="ee_delta")
    blind = dataclasses.replace(episode, state_mask=np.arange(18) == 6)
    assert said(blind) == ["move the arm", "move the arm, close the gripper", "move the arm"]


def test_two_arms_are_told_apart_and_united() -> None:
    legs = [
        Leg(duration_s=2, to={2: -0.2}),
        Leg(duration_s=0.4, to={6: 1.0}),
        Leg(duration_s=2, to={8: -0.3}),
        Leg(duration_s=2, to={2: 0.0, 9: 0.2}),
        Leg(duration_s=2, to={0: 0.2, 7: 0.2}),
    ]
    segments = propose_segments(episode_of(legs, parts=TWO_ARMS))
    assert [(segment.text, segment.arms) for segment in segments] == [
        ("move the left arm down, close the left gripper", ("arm0",)),
        ("move the right arm right", ("arm1",)),
        ("move both arms up", ("arm0", "arm1")),
        ("move both arms forward", ("arm0", "arm1")),
    ]


def test_a_driving_base_is_told() -> None:
    parts = {**ONE_ARM, "base": (14, 15, 16)}
    t = 120
    action = np.zeros((t, 18), np.float32)
    action[10:60, 14], action[70:110, 16] = 0.4, -0.5
    mask = np.isin(np.arange(18), [14, 15, 16])
    still = episode_of([Leg(duration_s=t / 20, to={})], parts=parts)
    episode = dataclasses.replace(still, action=action, action_mask=mask, state_mask=mask & False)
    assert said(episode) == ["drive forward", "turn right"]


def test_a_long_stop_is_an_idle_segment() -> None:
    legs = [Leg(duration_s=2, to={0: 0.3}), Leg(duration_s=2, to={}), Leg(duration_s=2, to={0: 0})]
    segments = propose_segments(episode_of(legs))
    assert [(segment.kind, segment.text, segment.arms) for segment in segments] == [
        ("subtask", "move the arm forward", ("arm0",)),
        ("idle", "hold still", ()),
        ("subtask", "move the arm back", ("arm0",)),
    ]


def test_a_grasp_that_is_tried_again_is_a_recovery() -> None:
    legs = [
        Leg(duration_s=2, to={2: -0.2}),
        Leg(duration_s=0.4, to={6: 1.0}),
        Leg(duration_s=0.6, to={}),
        Leg(duration_s=0.4, to={6: 0.0}),
        Leg(duration_s=0.8, to={1: 0.06}),
        Leg(duration_s=0.4, to={6: 1.0}),
        Leg(duration_s=2, to={2: 0.1}),
    ]
    segments = propose_segments(episode_of(legs))
    assert [segment.kind for segment in segments] == ["subtask", "recovery", "subtask"]
    assert segments[1].text == "open the gripper, move the arm left, close the gripper"


def regrasp(distance: float) -> list[Leg]:
    """A grasp that carries its arm over `distance` of slot 1 (m or rad), opens, and grasps again."""
    return [
        Leg(duration_s=2, to={2: -0.5}),
        Leg(duration_s=0.4, to={6: 1.0}),
        Leg(duration_s=0.6, to={1: distance}),
        Leg(duration_s=0.4, to={6: 0.0}),
        Leg(duration_s=0.8, to={2: -0.3}),
        Leg(duration_s=0.4, to={6: 1.0}),
        Leg(duration_s=2, to={2: 0.5}),
    ]


def kinds_of(distance: float, control_mode: str) -> set[str]:
    return {segment.kind for segment in propose_segments(episode_of(regrasp(distance), control_mode=control_mode))}


def test_what_was_carried_is_measured_in_m_for_poses_and_in_rad_for_joints() -> None:
    # The limits are 0.05 m and 0.25 rad: 0.12 of either is far for a pose and near for a joint.
    assert "recovery" in kinds_of(0.02, "ee_absolute") and "recovery" not in kinds_of(0.12, "ee_absolute")
    assert "recovery" in kinds_of(0.12, "joint_position") and "recovery" not in kinds_of(0.5, "joint_position")


def test_a_pick_and_place_is_no_recovery() -> None:
    legs = [*PICK, Leg(duration_s=1.5, to={1: 0.3}), Leg(duration_s=0.4, to={6: 0.0}), Leg(duration_s=2, to={2: 0.3})]
    assert {segment.kind for segment in propose_segments(episode_of(legs))} == {"subtask"}


def test_clear_boundaries_give_more_confidence_than_cuts_in_even_movement() -> None:
    t = np.arange(160)[:, None]
    even = episode_of([Leg(duration_s=8, to={})])
    even = dataclasses.replace(even, state=(t * 0.002 * (np.arange(18) == 0)).astype(np.float32))
    cut = [segment.confidence for segment in propose_segments(even)]
    assert cut == [0.5, 0.1, 0.1, 0.5]
    assert min(segment.confidence for segment in propose_segments(episode_of(PICK))) > 0.7


def test_an_episode_of_one_step_is_one_segment() -> None:
    segments = propose_segments(episode_of([Leg(duration_s=0.05, to={})]))
    assert [(segment.start, segment.end) for segment in segments] == [(0, 1)]


def test_the_same_episode_gives_the_same_segments() -> None:
    assert propose_segments(episode_of(PICK)) == propose_segments(episode_of(PICK))


def test_a_motion_that_is_measured_already_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    episode = episode_of(PICK)
    motion, expected = motion_of(episode), propose_segments(episode)
    monkeypatch.setattr(propose, "measure_motion", None)
    assert propose_segments(episode, motion=motion) == expected


def test_bounds_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 0 < shortest_s < target_s < longest_s, found 3.0, 2.0, 5.0"):
        ProposeParameters(shortest_s=3.0)


def covers_without_gaps(segments: tuple[Segment, ...], n_steps: int) -> bool:
    edges = [0, *(segment.end for segment in segments)]
    return [segment.start for segment in segments] == edges[:-1] and edges[-1] == n_steps


@settings(max_examples=80, deadline=None)
@given(
    n_steps=st.integers(1, 400),
    control_hz=st.floats(0.2, 120),
    seed=st.integers(0, 2**32 - 1),
    control_mode=st.sampled_from(CONTROL_MODES),
    scale=st.sampled_from([0.0, 1e-4, 0.01, 1.0]),
)
def test_any_episode_is_covered_by_segments_within_the_bounds(
    n_steps: int, control_hz: float, seed: int, control_mode: str, scale: float
) -> None:
    draw = np.random.default_rng(seed)
    walk = np.cumsum(draw.normal(0, scale, (n_steps, 18)), axis=0).astype(np.float32)
    parts = {**TWO_ARMS, "base": (14, 15, 16), "torso": (17,)}
    empty = episode_of([Leg(duration_s=n_steps, to={})], control_hz=1.0, parts=parts)
    episode = dataclasses.replace(empty, state=walk, action=walk, control_hz=control_hz, control_mode=control_mode)
    segments = propose_segments(episode)
    assert covers_without_gaps(segments, n_steps)
    lengths = np.array([segment.end - segment.start for segment in segments])
    if n_steps / control_hz >= 0.8:
        assert lengths.min() >= 0.4 * control_hz - 1e-6
        assert lengths.max() <= max(5.0 * control_hz, 1) + 1e-6
    assert all(0 <= segment.confidence <= 1 and segment.text for segment in segments)


@pytest.mark.parametrize("control_mode", ["ee_absolute", "ee_delta", "joint_position"])
@pytest.mark.parametrize("control_hz", [5, 10, 20, 50])
@pytest.mark.parametrize("two_arms", [False, True])
def test_known_boundaries_are_found_within_a_quarter_of_a_second(
    control_mode: str, control_hz: float, two_arms: bool
) -> None:
    assert boundary_f1(find_with_proposals, control_hz, control_mode, two_arms, 10) >= 0.9


def test_a_move_that_runs_from_the_first_step_has_no_start_of_its_own() -> None:
    speed = np.r_[np.ones(10), np.zeros(10), np.ones(3), np.zeros(7), np.ones(10)]
    part = PartMotion(
        part="arm0",
        path=np.zeros((40, 1)),
        velocity=np.zeros((40, 1)),
        speed=speed,
        still_speed=0.1,
        is_pose=False,
        is_measured=True,
    )
    # From step 0: no start. Three steps at 10 Hz are shorter than half a second.
    assert _starts_and_stops(part, 10.0) == [10, 23, 30]
