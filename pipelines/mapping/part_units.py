"""The units that a source's numbers may have, and which dims of a part they are about."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.errors import UsageError

# How much of a slot's unit, m or rad (or these per second), one of them is.
LENGTHS = {"m": 1.0, "cm": 0.01, "mm": 0.001}
ANGLES = {"rad": 1.0, "degrees": np.pi / 180}
# Of the slots of a pose, the first that holds an angle.
FIRST_ANGLE = 3
# Forms of an arm whose angles are stored as such; of a quaternion or a matrix no unit is to be stated.
_WITH_ANGLES = ("joints", "xyz_yaw", "xyz_rpy", "xyz_rotvec", "xyz_euler_zyx", "xyz_euler_zxy")


def parse_units(where: str, part: str, form: str, stated: Sequence[str]) -> tuple[str, ...]:
    """Checks the units that an entry states for a part. Raises UsageError for two of a kind, and for a kind that the
    part's numbers do not have."""
    if part.startswith("gripper") and stated:
        raise UsageError(f"{where}: units: a gripper's are its values `open` and `closed`; found {', '.join(stated)}")
    has_lengths = form != "joints"
    has_angles = form in _WITH_ANGLES or part == "base"
    for kind, known, has in (("lengths", LENGTHS, has_lengths), ("angles", ANGLES, has_angles)):
        found = [unit for unit in stated if unit in known]
        if len(found) > 1:
            raise UsageError(f"{where}: units: expected one unit of {kind}, found {' and '.join(found)}")
        if found and not has:
            raise UsageError(f"{where}: units: {form} of {part} has no {kind}, found {found[0]}")
    return tuple(stated)


def to_slot_units(x: NDArray[np.float64], form: str, units: Sequence[str]) -> NDArray[np.float64]:
    """Returns native dims [t, k] in m and rad (or these per second), as far as they are such numbers.

    Lengths of a matrix are left to `scale_translation`, since they are known only when it is a pose.

    >>> to_slot_units(np.array([[1500.0, 0, 0, 0, 0, 180]]), "xyz_rpy", ("mm", "degrees")).round(4)
    array([[1.5   , 0.    , 0.    , 0.    , 0.    , 3.1416]])
    """
    n = x.shape[1]
    # A base drives straight on (and sideways) and turns, the last dim; a torso is a length.
    first = {"joints": 0, "value": max(n - 1, 1)}.get(form, FIRST_ANGLE)
    is_angle = np.arange(n) >= first
    length = next((LENGTHS[unit] for unit in units if unit in LENGTHS), 1.0)
    angle = next((ANGLES[unit] for unit in units if unit in ANGLES), 1.0)
    if form == "matrix":
        return x
    return x * np.where(is_angle, angle, length) if (length, angle) != (1.0, 1.0) else x


def scale_translation(pose: NDArray[np.float64], units: Sequence[str]) -> NDArray[np.float64]:
    """Returns poses [t, 6] of matrices with x, y, z in m."""
    length = next((LENGTHS[unit] for unit in units if unit in LENGTHS), 1.0)
    return pose * np.array([length] * FIRST_ANGLE + [1.0] * (pose.shape[1] - FIRST_ANGLE))
