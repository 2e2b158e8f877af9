"""What a policy must beat, and the units its errors are stated in."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mixtures.mixture import Mixture
from mixtures.stream.batches import Batch
from pipelines.contract.slots import N_SLOTS, is_joint_mode

UNITS = ("rad", "rad/s", "m", "m/s", "gripper")


def slot_units(control_mode: str, parts: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
    """The unit of each of the 18 action slots, '' where the robot has none; 'gripper' is the fraction closed.

    >>> slot_units("ee_delta", {"arm0": (0, 1, 2, 3, 4, 5), "gripper0": (6,)})[:8]
    ('m', 'm', 'm', 'rad', 'rad', 'rad', 'gripper', '')
    """
    units = [""] * N_SLOTS
    for part, slots in parts.items():
        for index, slot in enumerate(slots):
            units[slot] = _unit(part, index, len(slots), control_mode)
    return tuple(units)


def repeat_state(mixture: Mixture, batch: Batch) -> NDArray[np.float32]:
    """Actions [b, h, 18] in physical units that keep the robot as it is.

    A slot that commands a position holds the position that was measured; a slot that commands a change or a
    speed (delta and velocity modes, the base) stays at zero; a position that is not measured takes the training mean.
    """
    held = np.zeros(batch.action_mask.shape, np.float32)
    for row, key in enumerate(batch.norm_key):
        position = holds_position(key.split("/")[1], mixture.parts[key])
        known = position & batch.state_mask[row]
        held[row] = np.where(known, batch.state_physical[row], np.where(position, mixture.action_mean(key), 0.0))
    return _repeated(held, batch)


def mean_action(mixture: Mixture, batch: Batch) -> NDArray[np.float32]:
    """The mean action of the training data of each sample's norm key, [b, h, 18] in physical units."""
    means = np.stack([mixture.action_mean(key) for key in batch.norm_key]).astype(np.float32)
    return _repeated(means, batch)


def holds_position(control_mode: str, parts: Mapping[str, Sequence[int]]) -> NDArray[np.bool_]:
    """bool [18]: slots whose action is a position rather than a change or a speed.

    Grippers and the torso are positions in every mode, arms in joint_position and ee_absolute, bases never.
    """
    absolute = control_mode in ("joint_position", "ee_absolute")
    slots = [
        slot
        for part, of_part in parts.items()
        if part.startswith("gripper") or part == "torso" or (part.startswith("arm") and absolute)
        for slot in of_part
    ]
    return np.isin(np.arange(N_SLOTS), slots)


def _unit(part: str, index: int, count: int, control_mode: str) -> str:
    if part.startswith("gripper"):
        return "gripper"
    if part == "torso":
        return "m"
    if part == "base":
        return "rad/s" if index == count - 1 and count > 1 else "m/s"
    if is_joint_mode(control_mode):
        return "rad/s" if control_mode == "joint_velocity" else "rad"
    return "m" if index < 3 else "rad"


def _repeated(action: NDArray[np.float32], batch: Batch) -> NDArray[np.float32]:
    masked = action * batch.action_mask
    return np.repeat(masked[:, None], batch.chunk_mask.shape[1], axis=1)
