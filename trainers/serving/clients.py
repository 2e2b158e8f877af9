"""How the clients of openpi's examples name what they send, and in which units: presets of `serve --map`."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.contract.errors import UsageError
from pipelines.mapping.adapters import find_adapter
from trainers.robots import Robot
from trainers.serving.native_units import NativeUnits


@dataclass(frozen=True, kw_only=True)
class Client:
    """One kind of client. names: its keys by what they mean. ignored: keys that it sends and no policy here reads.

    units: control mode -> the adapter entry whose numbers it sends and expects.
    """

    names: Mapping[str, tuple[str, ...]]
    ignored: tuple[str, ...] = ()
    units: Mapping[str, str]


CLIENTS: Mapping[str, Client] = {
    # examples/droid/main.py: joints in rad, a gripper of 0 open, 1 closed; velocities as parts of the greatest step.
    "droid": Client(
        names={
            "base_0_rgb": ("observation/exterior_image_1_left",),
            "left_wrist_0_rgb": ("observation/wrist_image_left",),
            "state": ("observation/joint_position", "observation/gripper_position"),
        },
        ignored=("observation/exterior_image_2_left", "observation/cartesian_position"),
        units={"joint_position": "droid_raw", "joint_velocity": "droid_raw_joint_velocity"},
    ),
    # examples/aloha_real and aloha_sim: two arms of 6 joints in rad and a gripper of 1 open, 0 closed.
    "aloha": Client(
        names={
            "base_0_rgb": ("images/cam_high",),
            "left_wrist_0_rgb": ("images/cam_left_wrist",),
            "right_wrist_0_rgb": ("images/cam_right_wrist",),
            "state": ("state",),
        },
        ignored=("images/cam_low",),
        units={"joint_position": "aloha_hdf5"},
    ),
    # examples/libero/main.py: position, rotation vector, two fingers; robosuite's actions of -1 to 1.
    "libero": Client(
        names={
            "base_0_rgb": ("observation/image",),
            "left_wrist_0_rgb": ("observation/wrist_image",),
            "state": ("observation/state",),
        },
        units={"ee_delta": "libero_hdf5"},
    ),
}


def native_units(robot: Robot, n_slots: int, units: str | None, client: str | None) -> NativeUnits | None:
    """The numbers that a robot sends and gets; None for the slots' own (units 'policy', or neither given).

    UsageError where a client's robots are driven in another way than this one, or the entry does not fit.
    """
    if units == "policy" or (units is None and client is None):
        return None
    if units is None and client is not None:
        known = CLIENTS[client].units
        if robot.control_mode not in known:
            raise UsageError(
                f"--map {client}: expected a robot with {' or '.join(known)}, as that client's is; found "
                f"{robot.norm_key}. Name the entry of its numbers with --units, or `--units policy`"
            )
        units = known[robot.control_mode]
    assert units is not None
    return NativeUnits(find_adapter(units), robot, n_slots)
