"""What a policy must beat, and the units its errors are stated in."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mixtures.mixture import Mixture
from mixtures.stream.batches import Batch
from pipelines.contract.slots import N_SLOTS
from pipelines.contract.units import holds_position
from pipelines.contract.units import slot_units as units_of_slots

UNITS = ("rad", "rad/s", "m", "m/s", "gripper")


def slot_units(control_mode: str, parts: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
    """The unit of each of the 18 action slots, '' where the robot has none; 'gripper' is the fraction closed.

    >>> slot_units("ee_delta", {"arm0": (0, 1, 2, 3, 4, 5), "gripper0": (6,)})[:8]
    ('m', 'm', 'm', 'rad', 'rad', 'rad', 'gripper', '')
    """
    units = units_of_slots(control_mode, parts, "action")
    # Reports of earlier versions, which `eval --compare` reads, call the unit of grippers "gripper".
    return tuple("gripper" if units.get(slot) == "closed" else units.get(slot, "") for slot in range(N_SLOTS))


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


def _repeated(action: NDArray[np.float32], batch: Batch) -> NDArray[np.float32]:
    masked = action * batch.action_mask
    return np.repeat(masked[:, None], batch.chunk_mask.shape[1], axis=1)
