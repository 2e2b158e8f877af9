"""What columns are by the names that sources give them."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.inspection.description import Feature
from pipelines.inspection.roles import Block, blocks_of, is_used, side_of


def feature(key: str, *names: str, width: int = 0) -> Feature:
    n = width or len(names)
    return Feature(key=key, dtype="float32", width=n, names=names, low=-np.ones(n), high=np.ones(n))


def shown(blocks: list[Block]) -> list[tuple[str, int | None, str]]:
    return [(block.kind, block.arm, block.selector) for block in blocks]


def test_so101_has_five_joints_and_a_gripper() -> None:
    motors = [f"{name}.pos" for name in "shoulder_pan shoulder_lift elbow_flex wrist_flex wrist_roll gripper".split()]
    assert shown(blocks_of(feature("observation.state", *motors))) == [
        ("joints", None, "observation.state[0:5]"),
        ("gripper", None, "observation.state[5]"),
    ]


def test_aloha_calls_the_first_joint_of_an_arm_its_waist() -> None:
    names = [
        f"{side}_{n}" for side in ("left", "right") for n in ("waist", "shoulder", "elbow", "wrist_angle", "gripper")
    ]
    assert shown(blocks_of(feature("action", *names))) == [
        ("joints", 0, "action[0:4]"),
        ("gripper", 0, "action[4]"),
        ("joints", 1, "action[5:9]"),
        ("gripper", 1, "action[9]"),
    ]


def test_lekiwi_drives_by_speeds_beside_its_arm() -> None:
    names = ["arm_shoulder_pan.pos", "arm_wrist_roll.pos", "arm_gripper.pos", "x.vel", "y.vel", "theta.vel"]
    assert shown(blocks_of(feature("action", *names))) == [
        ("joints", None, "action[0:2]"),
        ("gripper", None, "action[2]"),
        ("base", None, "action[3:6]"),
    ]


def test_a_humanoid_has_hands_legs_and_a_waist() -> None:
    groups = [("left_arm", 7), ("left_hand", 6), ("left_leg", 6), ("neck", 3), ("waist", 3)]
    names = [f"{name}[{i}]" for name, n in groups for i in range(n)]
    assert shown(blocks_of(feature("observation.state", *names))) == [
        ("joints", 0, "observation.state[0:7]"),
        ("hand", 0, "observation.state[7:13]"),
        ("leg", 0, "observation.state[13:19]"),
        ("head", None, "observation.state[19:22]"),
        ("torso", None, "observation.state[22:25]"),
    ]


def test_a_pose_by_names_has_a_position_and_a_quaternion() -> None:
    names = ["x", "y", "z", "qx", "qy", "qz", "qw", "gripper"]
    assert [block.kind for block in blocks_of(feature("state", *names))] == ["position", "quaternion", "gripper"]


@pytest.mark.parametrize(
    ("key", "width", "kind"),
    [
        ("robot0_eef_rot_axis_angle", 3, "angles"),
        ("robot0_gripper_width", 1, "gripper"),
        ("observation/robot_state/joint_positions", 7, "joints"),
        ("action/cartesian_position", 6, "pose"),
        ("obs/robot0_eef_quat", 4, "quaternion"),
        ("proprio", 6, "vector"),
    ],
)
def test_a_key_says_what_its_columns_are_where_they_have_no_names(key: str, width: int, kind: str) -> None:
    assert [block.kind for block in blocks_of(feature(key, width=width))] == [kind]


def test_a_gripper_whose_joint_is_called_a_finger_is_a_gripper() -> None:
    assert [block.kind for block in blocks_of(feature("/gripper/state", "finger_joint"))] == ["gripper"]


def test_names_that_say_nothing_leave_it_to_the_key() -> None:
    assert [block.kind for block in blocks_of(feature("state", "motor_0", "value_1", "dim_2"))] == ["vector"]


def test_actions_are_known_by_their_key() -> None:
    keys = ("action", "command/joint_position", "observation.state", "leader_qpos", "obs/robot0_eef_pos")
    assert [side_of(feature(key, width=7)) for key in keys] == ["action", "action", "state", "action", "state"]


def test_what_goes_to_a_controller_of_ros2_control_is_a_command() -> None:
    """Its topics are called by the controller; one that a controller publishes is no command."""
    sent = feature("/arm_controller/joint_trajectory", "joint_1", "joint_2")
    commands = feature("/forward_position_controller/commands", width=6)
    published = feature("/arm_controller/state", "joint_1", "joint_2")
    sent = replace(sent, dtype="trajectory_msgs/msg/JointTrajectory")
    assert [(side_of(one), is_used(one)) for one in (sent, commands, published)] == [
        ("action", True),
        ("action", True),
        ("state", False),
    ]


@pytest.mark.parametrize(("key", "name"), [("/robotiq/position_cmd", ""), ("/js", "robotiq_85_left_knuckle_joint")])
def test_grippers_are_known_by_their_makers(key: str, name: str) -> None:
    assert [block.kind for block in blocks_of(feature(key, *([name] if name else []), width=1))] == ["gripper"]
