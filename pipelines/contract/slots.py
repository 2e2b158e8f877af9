"""What slots are made of: parts of a robot, cameras, control modes, and the keys that name what vectors mean.

    part      joint modes      end-effector modes        pi18/v1   pi32/v1
    arm0      rad or rad/s     m, m, m, rad, rad, rad    0-5       0-5, 18
    gripper0  0 open, 1 closed                           6         6
    arm1      as arm0                                    7-12      7-12, 19
    gripper1  as gripper0                                13        13
    base      m/s, m/s, rad/s                            14-16     14-16
    torso     m                                          17        17
    waist     rad                                                  20-23
    head      rad                                                  24-26

arm0 is the left arm seen from behind the robot, or the only arm. In both layouts a lone 7-joint arm uses slots 0-6 for
its joints and 7 for its gripper; a nonholonomic base uses 14 (linear) and 15 (angular). Dims 0-15 agree with openpi's
published layout, so that its weights can be used. The layouts themselves are data, see `pipelines.contract.layouts`.
"""

from typing import Literal, get_args

# The layout of robots and mixtures that name none.
LAYOUT = "pi18/v1"
# Units of vectors whose source states its scale: m, rad and s.
METRIC = "metric"

ControlMode = Literal["joint_position", "joint_velocity", "ee_delta", "ee_absolute"]
CONTROL_MODES: tuple[str, ...] = get_args(ControlMode)

Part = Literal["arm0", "gripper0", "arm1", "gripper1", "base", "torso", "waist", "head"]
PARTS: tuple[str, ...] = get_args(Part)

Camera = Literal["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"]
CAMERAS: tuple[str, ...] = get_args(Camera)
IMAGE_SIZE = 224


def is_joint_mode(control_mode: str) -> bool:
    """Says whether arm slots hold joint angles or rates rather than end-effector poses."""
    return control_mode.startswith("joint")


def norm_key(robot: str, control_mode: str, units: str = METRIC, layout: str = LAYOUT) -> str:
    """Names the statistics that normalize this robot's vectors in this control mode, these units and this layout.

    units: `metric`, or the adapter entry's name where the source's scale is not known; such values share statistics
    with no other source.

    >>> norm_key("franka", "joint_position")
    'franka/joint_position/pi18/v1'
    >>> norm_key("franka", "ee_delta", "viola")
    'franka/ee_delta/pi18/v1/viola'
    """
    key = f"{robot}/{control_mode}/{layout}"
    return key if units == METRIC else f"{key}/{units}"


def layout_of(norm_key: str) -> str:
    """The layout that a norm key, or a pool of it, names; the default one where it names none.

    >>> layout_of("franka/ee_delta/pi18/v1/viola"), layout_of("openarm_dual/joint_position/pi32/v1@15hz")
    ('pi18/v1', 'pi32/v1')
    """
    # A layout's name has two components: `pi18/v1`.
    return "/".join(norm_key.partition("@")[0].split("/")[2:4]) or LAYOUT


def units_of(norm_key: str) -> str:
    """The units that a norm key, or a pool of it, names.

    >>> units_of("franka/joint_position/pi18/v1"), units_of("franka/ee_delta/pi18/v1/viola")
    ('metric', 'viola')
    """
    return "/".join(norm_key.partition("@")[0].split("/")[4:]) or METRIC
