"""Rotations of end-effector targets without jumps: unwrapped Euler angles, and rotation vectors from the first state.

Roll, pitch and yaw jump by 2 pi at +-pi though the hand hardly turns, and near pitch +-90 degrees roll and yaw turn
fast against each other. A rotation vector relative to the first state is smooth but half a turn away from it.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
TURN = 2 * np.pi


def wrap_angle(angle: Floats) -> Floats:
    """The same angle in (-pi, pi]; angles that are there already stay as they are, bit for bit.

    >>> wrap_angle(np.array([4.0, -4.0, 1.0])).round(4).tolist()
    [-2.2832, 2.2832, 1.0]
    """
    inside = (angle > -np.pi) & (angle <= np.pi)
    return np.where(inside, angle, np.pi - (np.pi - angle) % TURN)


def unwrap_chunk(action: Floats, start: Floats) -> Floats:
    """The same angles [b, h, k], each at most half a turn from the one before it, the first from `start` [b, k].

    Only whole turns are added, so that angles which do not jump stay as they are, bit for bit.

    >>> unwrap_chunk(np.array([[[3.1], [-3.1], [-3.0]]]), np.array([[3.0]])).round(4).ravel().tolist()
    [3.1, 3.1832, 3.2832]
    """
    before = np.concatenate([start[:, None], action[:, :-1]], axis=1)
    # Whole turns alone: anything finer would change angles that the source stored without a jump.
    turns = -np.round((action - before) / TURN)
    return action + TURN * np.cumsum(turns, axis=1)


def euler_to_relative(target: Floats, state: Floats) -> Floats:
    """Rotation vectors [b, h, 3] that turn the orientation of state [b, 3] into the targets' [b, h, 3], in rad.

    Roll, pitch, yaw are as stored: R = Rz(yaw) Ry(pitch) Rx(roll). The vector's axes are those of the robot's base, as
    the axes of relative positions are: R_target = exp(vector) R_state.
    """
    from scipy.spatial.transform import Rotation

    b, h = target.shape[:2]
    first = Rotation.from_euler("xyz", np.repeat(state, h, axis=0))
    turned = Rotation.from_euler("xyz", target.reshape(-1, 3)) * first.inv()
    return turned.as_rotvec().reshape(b, h, 3)


def relative_to_euler(vector: Floats, state: Floats) -> Floats:
    """The inverse of `euler_to_relative`: roll, pitch, yaw [b, h, 3] in (-pi, pi].

    Every orientation has two sets of angles (roll + pi, pi - pitch, yaw + pi is the other). The one nearer to the
    angles of the step before is taken, so that a source whose pitch passes 90 degrees gets back what it stated.
    """
    from scipy.spatial.transform import Rotation

    b, h = vector.shape[:2]
    first = Rotation.from_euler("xyz", np.repeat(state, h, axis=0))
    matrices = (Rotation.from_rotvec(vector.reshape(-1, 3)) * first).as_matrix()
    principal = _euler_of(matrices).reshape(b, h, 3)
    other = wrap_angle(np.stack([principal[..., 0] + np.pi, np.pi - principal[..., 1], principal[..., 2] + np.pi], -1))
    found = np.empty_like(principal)
    before = state
    for step in range(h):
        options = np.stack([principal[:, step], other[:, step]])
        distance = np.abs(wrap_angle(options - before)).sum(axis=-1)
        found[:, step] = before = options[distance.argmin(axis=0), np.arange(b)]
    return found


def _euler_of(matrix: Floats) -> Floats:
    """Roll, pitch, yaw [n, 3] of matrices [n, 3, 3], with pitch within +-90 degrees.

    At exactly 90 degrees only roll and yaw together are determined; roll is 0 then. SciPy's form warns there.
    """
    pitch = np.arcsin(np.clip(-matrix[:, 2, 0], -1, 1))
    # There roll and yaw turn about one axis, and arctan2 of two zeros would give any split of their sum.
    is_upright = np.abs(matrix[:, 2, 0]) > 1 - 1e-12
    roll = np.where(is_upright, 0, np.arctan2(matrix[:, 2, 1], matrix[:, 2, 2]))
    yaw = np.where(
        is_upright, np.arctan2(-matrix[:, 0, 1], matrix[:, 1, 1]), np.arctan2(matrix[:, 1, 0], matrix[:, 0, 0])
    )
    return np.stack([roll, pitch, yaw], axis=1)
