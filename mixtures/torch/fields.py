"""What presets take from a batch: chosen slots and cameras, and what becomes of a sample that lacks one of them."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mixtures.mixture import Mixture
from mixtures.stream.batches import Batch
from pipelines.contract.errors import UsageError, nearest
from pipelines.contract.slots import CAMERAS
from pipelines.shards.statistics import NormStatistics

# A trainer whose batch has no mask would learn that a robot's missing arm stands still, or that a camera went dark.
Missing = Literal["refuse", "pad"]


def action_slots(mixture: Mixture) -> tuple[int, ...]:
    """The slots that the mixture's robots command, ascending. Raises UsageError where they differ by robot."""
    by_pool = {
        pool: tuple(sorted(i for slots in parts.values() for i in slots)) for pool, parts in mixture.parts.items()
    }
    if len(set(by_pool.values())) != 1:
        found = "; ".join(f"{pool}: {list(slots)}" for pool, slots in by_pool.items())
        raise UsageError(f"expected robots that command the same slots, found {found}. Choose the slots yourself")
    return next(iter(by_pool.values()))


def statistics_of(mixture: Mixture, norm_key: str) -> NormStatistics:
    """A pool's statistics of the values as recorded, physical and absolute. Raises UsageError for an unknown one."""
    if norm_key not in mixture.absolute_statistics:
        raise UsageError(f"no pool {norm_key!r}. {nearest(norm_key, mixture.absolute_statistics)}")
    return mixture.absolute_statistics[norm_key]


def pick(
    batch: Batch, name: Literal["state", "action"], values: str, slots: Sequence[int], missing: Missing
) -> NDArray[np.float32]:
    """Chosen slots of a batch's vectors, [b, k] or [b, h, k], in the order of `slots`; 0 where a sample lacks one.

    values: 'normalized' or 'physical'. Without a copy where all slots in a row are wanted and nothing is missing.
    Raises UsageError for a sample that lacks a slot, unless missing is 'pad'.
    """
    found = getattr(batch, name if values == "normalized" else f"{name}_physical")
    lacking = ~getattr(batch, f"{name}_mask")[:, list(slots)]
    run = list(slots) == list(range(slots[0], slots[0] + len(slots)))
    picked = found[..., slots[0] : slots[0] + len(slots)] if run else found[..., list(slots)]
    if not lacking.any():
        return picked
    if missing == "refuse":
        row, column = np.argwhere(lacking)[0]
        raise UsageError(
            f"{batch.names[row]}: expected slot {slots[column]} of {name}, which {batch.norm_key[row]} does not have. "
            "Choose slots that all robots of the mixture have, or fill with zeros by missing='pad'"
        )
    return np.where(lacking[:, None] if name == "action" else lacking, np.float32(0), picked)


def pictures(batch: Batch, cameras: Mapping[str, str], missing: Missing) -> dict[str, NDArray[np.uint8]]:
    """The pictures of some cameras under the trainer's names, uint8 [b, y, x, c], without a copy.

    cameras: from our camera slots to those names. Raises UsageError for a sample without a picture, unless missing is
    'pad': then it is black.
    """
    found = {}
    for camera, name in cameras.items():
        slot = camera_slot(camera)
        there = batch.camera_mask[:, slot]
        if missing == "refuse" and not there.all():
            row = int(np.argmin(there))
            raise UsageError(
                f"{batch.names[row]}: expected a picture of {camera}, which this sample lacks, and the trainer's batch "
                "has no mask for it. Leave the camera out, filter the mixture, or take black pictures by missing='pad'"
            )
        found[name] = batch.images[:, slot]
    return found


def camera_slot(camera: str) -> int:
    """The index of a camera in a batch's images. Raises UsageError for another name."""
    if camera not in CAMERAS:
        raise UsageError(f"expected a camera of {', '.join(CAMERAS)}; found {camera!r}")
    return CAMERAS.index(camera)


def padded(values: NDArray[Any], width: int) -> NDArray[Any]:
    """The last axis filled with zeros up to a width. Raises UsageError where it is wider."""
    lacking = width - values.shape[-1]
    if lacking < 0:
        raise UsageError(f"expected at most {width} dims, found {values.shape[-1]}: the trainer's model is too narrow")
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, lacking)]) if lacking else values
