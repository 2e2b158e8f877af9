"""What native numbers mean: rotations of every form to roll, pitch, yaw; grippers of every kind to 0 open, 1 closed."""

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.native import Rejected
from pipelines.mapping.adapters import PartSource
from pipelines.mapping.part_units import FIRST_ANGLE, scale_translation, to_slot_units

Floats = NDArray[np.float64]
# A relative gripper command beyond this share of the way closes; below the mirrored share it opens.
_CLOSES = 0.55


def convert_part(x: Floats, source: PartSource) -> Floats:
    """Returns [t, k] in the slots' units: rotations as roll, pitch, yaw in rad; grippers 0 open, 1 closed."""
    if source.open is not None and source.closed is not None:
        closedness = (x - source.open) / (source.closed - source.open) + 0.0  # No negative zero.
        closedness = closedness.mean(axis=1, keepdims=True)
        if source.relative:
            return relative_to_absolute(closedness)
        return np.clip(closedness, 0.0, 1.0) if source.clip else closedness
    x = x * np.asarray(source.scale)
    if source.offset != 0.0:
        x = x + np.asarray(source.offset)
    first_angle = 0 if source.form == "joints" else FIRST_ANGLE
    if source.degrees:
        x = np.concatenate([x[:, :first_angle], np.deg2rad(x[:, first_angle:])], axis=1)
    x = to_slot_units(x, source.form, source.units)
    if source.form == "matrix":
        return scale_translation(matrix_to_pose(x), source.units)
    if source.form in ("xyz_quat_xyzw", "xyz_quat_wxyz", "xyz_rotvec", "xyz_euler_zyx", "xyz_euler_zxy"):
        x = np.concatenate([x[:, :3], to_rpy(x[:, 3:], source.form)], axis=1)
    if source.wrap:
        x = np.concatenate([x[:, :first_angle], wrap_angles(x[:, first_angle:])], axis=1)
    return x


def wrap_angles(angle_rad: Floats) -> Floats:
    """Returns the same angles within -pi..pi; those that lie there already keep every bit.

    >>> wrap_angles(np.array([-6.25, 0.5])).round(4)
    array([0.0332, 0.5   ])
    """
    turn = 2 * np.pi
    return np.where(np.abs(angle_rad) > np.pi, angle_rad - turn * np.round(angle_rad / turn), angle_rad)


def turns_between(before: NDArray, after: NDArray) -> Floats:
    """Returns [n], the angle (rad, 0..pi) of the rotation from roll, pitch, yaw `before` to `after`, [n, 3] each.

    Near pitch +-90 degrees roll and yaw jump though the rotation hardly changes; this is what the arm really turns.
    """
    # The trace of R1' R2 is the sum of the products of their elements, and 1 + 2 cos(angle).
    trace = (_rotation_matrix(before) * _rotation_matrix(after)).sum(axis=1)
    return np.arccos(np.clip((trace - 1) / 2, -1.0, 1.0))


def _rotation_matrix(rpy: NDArray) -> Floats:
    """Rz(yaw) Ry(pitch) Rx(roll) by rows, [n, 9]: extrinsic x, y, z, as scipy's as_euler("xyz")."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(rpy.astype(np.float64)).T, np.sin(rpy.astype(np.float64)).T
    return np.stack(
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr]
        + [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr]
        + [-sp, cp * sr, cp * cr],
        axis=1,
    )


def relative_to_absolute(closedness: Floats) -> Floats:
    """Turns commands to open (0), close (1) or stay (about 0.5) into the commanded state, [t, 1] each.

    Before its first command a gripper is in the other state; without any command it is open.

    >>> relative_to_absolute(np.array([[0.5], [1.0], [0.5], [0.0]]))[:, 0]
    array([0., 1., 1., 0.])
    """
    commands = np.where(closedness > _CLOSES, 1.0, np.where(closedness < 1 - _CLOSES, 0.0, np.nan))
    given = np.flatnonzero(~np.isnan(commands[:, 0]))
    if not len(given):
        return np.zeros_like(closedness)
    latest = np.searchsorted(given, np.arange(len(commands)), side="right") - 1
    states = commands[given[np.maximum(latest, 0)]]
    return np.where((latest < 0)[:, None], 1.0 - states, states)


def matrix_to_pose(matrix: Floats) -> Floats:
    """Returns xyz and roll, pitch, yaw [t, 6] of flat 4x4 poses, by rows or, as Franka's library gives them, columns.

    Raises Rejected where a matrix is no pose.
    """
    from scipy.spatial.transform import Rotation

    poses = matrix.reshape(-1, 4, 4)
    bottom = np.array([0.0, 0.0, 0.0, 1.0])
    if not np.allclose(poses[:, 3], bottom, atol=1e-3):
        poses = poses.transpose(0, 2, 1)
    rotation = poses[:, :3, :3]
    is_rotation = np.allclose(rotation @ rotation.transpose(0, 2, 1), np.eye(3), atol=1e-2)
    if not np.allclose(poses[:, 3], bottom, atol=1e-3) or not is_rotation:
        raise Rejected("bad_rotation", "expected 4x4 matrices of a pose, found others")
    return np.concatenate([poses[:, :3, 3], Rotation.from_matrix(rotation).as_euler("xyz")], axis=1)


def to_rpy(rotation: Floats, form: str) -> Floats:
    """Returns roll, pitch, yaw (extrinsic xyz, rad) [t, 3] of quaternions, rotation vectors or other angles.

    Raises Rejected where a quaternion has no length.
    """
    # scipy takes 0.4 s to import; most adapters need none of it.
    from scipy.spatial.transform import Rotation

    if form == "xyz_rotvec":
        return Rotation.from_rotvec(rotation).as_euler("xyz")
    if form == "xyz_euler_zyx":
        return rotation[:, ::-1]
    if form == "xyz_euler_zxy":
        return Rotation.from_euler("zxy", rotation).as_euler("xyz")
    quaternion = rotation if form == "xyz_quat_xyzw" else np.roll(rotation, -1, axis=1)
    if not (np.linalg.norm(quaternion, axis=1) > 1e-6).all():
        raise Rejected("bad_rotation", "a quaternion of length zero")
    return Rotation.from_quat(quaternion).as_euler("xyz")
