"""What a policy must beat: repeating the state, and the mean action of the training data."""

import numpy as np
from numpy.typing import NDArray

from mixtures.mixture import Mixture
from mixtures.stream.batches import Batch
from pipelines.contract.units import holds_position


def repeat_state(mixture: Mixture, batch: Batch) -> NDArray[np.float32]:
    """Actions [b, h, d] in physical units that keep the robot as it is.

    A slot that commands a position holds the position that was measured; a slot that commands a change or a
    speed (delta and velocity modes, the base) stays at zero; a position that is not measured takes the training mean.
    """
    held = np.zeros(batch.action_mask.shape, np.float32)
    for row, key in enumerate(batch.norm_key):
        position = holds_position(key.split("/")[1], mixture.parts[key], mixture.n_slots)
        known = position & batch.state_mask[row]
        held[row] = np.where(known, batch.state_physical[row], np.where(position, mixture.action_mean(key), 0.0))
    return _repeated(held, batch)


def mean_action(mixture: Mixture, batch: Batch) -> NDArray[np.float32]:
    """The mean action of the training data of each sample's norm key, [b, h, d] in physical units."""
    means = np.stack([mixture.action_mean(key) for key in batch.norm_key]).astype(np.float32)
    return _repeated(means, batch)


def _repeated(action: NDArray[np.float32], batch: Batch) -> NDArray[np.float32]:
    masked = action * batch.action_mask
    return np.repeat(masked[:, None], batch.chunk_mask.shape[1], axis=1)
