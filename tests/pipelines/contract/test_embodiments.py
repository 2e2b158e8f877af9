"""The embodiment registry: every robot's slots, and what is refused."""

import pytest

from pipelines.contract.embodiments import fit_parts, get_embodiment, load_embodiments, parse_embodiment, slot_mask
from pipelines.contract.errors import UsageError

SINGLE = {"arm0": "0-5", "gripper0": 6}


@pytest.mark.parametrize(
    ("robot", "n_state", "n_action", "hz"),
    [
        ("ur5e", 7, 7, 20),
        ("ur5e_dual", 14, 14, 20),
        ("franka", 8, 8, 20),
        ("franka_mobile", 9, 12, 50),
        ("trossen_dual", 14, 14, 50),
        ("arx_dual", 14, 14, 50),
        ("mobile_trossen", 14, 16, 50),
        ("mobile_arx", 14, 16, 50),
        ("mobile_fibocom", 14, 17, 50),
    ],
)
def test_joint_vectors_have_the_published_widths(robot: str, n_state: int, n_action: int, hz: float) -> None:
    embodiment = get_embodiment(robot)
    vectors = embodiment.vectors("joint_position")
    assert slot_mask(vectors.state).sum() == n_state
    assert slot_mask(vectors.action).sum() == n_action
    assert embodiment.control_hz == hz


def test_a_lone_arm_of_seven_joints_pushes_its_gripper_to_slot_7() -> None:
    vectors = get_embodiment("franka").vectors("joint_position")
    assert vectors.state == {"arm0": (0, 1, 2, 3, 4, 5, 6), "gripper0": (7,)}
    assert get_embodiment("franka").vectors("ee_delta").state == {"arm0": (0, 1, 2, 3, 4, 5), "gripper0": (6,)}


def test_a_base_is_commanded_and_not_sensed() -> None:
    vectors = get_embodiment("mobile_arx").vectors("joint_position")
    assert "base" not in vectors.state
    assert vectors.action["base"] == (14, 15)


def test_an_unknown_robot_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'fraka'.*Did you mean 'franka'"):
        get_embodiment("fraka")


def test_two_seven_joint_arms_with_hands_name_the_dims_left_over() -> None:
    arm = [f"joint_{i}" for i in range(1, 8)]
    hand = ["thumb", "index", "middle", "ring", "little", "palm"]
    with pytest.raises(UsageError) as error:
        fit_parts("gr1", {"arm0": arm, "gripper0": hand, "arm1": arm, "gripper1": hand})
    assert "arm0: joint_7; gripper0: index, middle, ring, little, palm; arm1: joint_7" in str(error.value)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"base": "flying"}, "base 'flying'"),
        ({"cameras": ["base_0"]}, "Did you mean 'base_0_rgb'"),
        ({"control_hz": 0}, "control_hz above 0"),
        ({"joint": {"state": {"arm0": "0-5", "gripper0": 7}, "action": SINGLE}}, "gripper0: expected slots"),
        ({"joint": {"state": {"arm0": "0-6", "arm1": "7-12"}, "action": SINGLE}}, r"left over are arm0: arm0\[6\]"),
        ({"joint": {"state": {"tail": "3"}, "action": SINGLE}}, "part 'tail' is unknown"),
        ({"joint": {"state": {"arm0": "0..5"}, "action": SINGLE}}, "expected slots such as 0-5"),
    ],
)
def test_a_wrong_entry_is_refused(entry: dict, message: str) -> None:
    joint = {"state": SINGLE, "action": SINGLE}
    good = {"description": "x", "control_hz": 10, "cameras": ["base_0_rgb"], "joint": joint}
    with pytest.raises(UsageError, match=message):
        parse_embodiment("x", good | entry)


def test_a_robot_refuses_a_control_mode_it_has_no_slots_for() -> None:
    with pytest.raises(UsageError, match="mobile_arx has no slots for control mode 'ee_delta'"):
        get_embodiment("mobile_arx").vectors("ee_delta")


def test_every_robot_loads() -> None:
    assert len(load_embodiments()) >= 12
