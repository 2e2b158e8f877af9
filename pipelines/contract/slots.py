"""The 18 slots of layout `pi18/v1`, the three cameras, and the control modes.

    slots   part      joint modes      end-effector modes
    0-5     arm0      rad or rad/s     m, m, m, rad, rad, rad
    6       gripper0  0 open, 1 closed
    7-12    arm1      as arm0
    13      gripper1  as gripper0
    14-16   base      m/s, m/s, rad/s
    17      torso     m

arm0 is the left arm seen from behind the robot, or the only arm. A lone 7-joint arm uses slots 0-6 for its
joints and 7 for its gripper; a nonholonomic base uses 14 (linear) and 15 (angular). Dims 0-15 agree with
openpi's published layout, so that its weights can be used.
"""

from typing import Literal, get_args

LAYOUT = "pi18/v1"
# Units of vectors whose source states its scale: m, rad and s.
METRIC = "metric"
N_SLOTS = 18

ControlMode = Literal["joint_position", "joint_velocity", "ee_delta", "ee_absolute"]
CONTROL_MODES: tuple[str, ...] = get_args(ControlMode)

Part = Literal["arm0", "gripper0", "arm1", "gripper1", "base", "torso"]
PARTS: tuple[str, ...] = get_args(Part)

Camera = Literal["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"]
CAMERAS: tuple[str, ...] = get_args(Camera)
IMAGE_SIZE = 224


def is_joint_mode(control_mode: str) -> bool:
    """Says whether arm slots hold joint angles or rates rather than end-effector poses."""
    return control_mode.startswith("joint")


def norm_key(robot: str, control_mode: str, units: str = METRIC) -> str:
    """Names the statistics that normalize this robot's vectors in this control mode and these units.

    units: `metric`, or the adapter entry's name where the source's scale is not known; such values share statistics
    with no other source.

    >>> norm_key("franka", "joint_position")
    'franka/joint_position/pi18/v1'
    >>> norm_key("franka", "ee_delta", "viola")
    'franka/ee_delta/pi18/v1/viola'
    """
    key = f"{robot}/{control_mode}/{LAYOUT}"
    return key if units == METRIC else f"{key}/{units}"


def units_of(norm_key: str) -> str:
    """The units that a norm key names.

    >>> units_of("franka/joint_position/pi18/v1"), units_of("franka/ee_delta/pi18/v1/viola")
    ('metric', 'viola')
    """
    _, _, *layout = norm_key.split("/")
    return "/".join(layout).removeprefix(LAYOUT).removeprefix("/") or METRIC
