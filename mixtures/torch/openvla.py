"""Samples for OpenVLA and OpenVLA-OFT: the RLDS frames that `RLDSBatchTransform` turns into tokens and pixels.

Read off openvla-oft's `prismatic/vla/datasets/datasets.py` and `rlds/utils/data_utils.py`: the frames of its own
loader, so that its own transform and collator follow unchanged.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixtures.mixture import Mixture
from mixtures.stream.batches import Batch
from mixtures.torch.fields import Missing, pick, pictures, statistics_of
from pipelines.shards.statistics import ArrayStatistics, NormStatistics


@dataclass(frozen=True, kw_only=True)
class OpenvlaPreset:
    """Makes for each sample {dataset_name, observation, task, action}, or what `transform` and `collate` make of those.

    observation: {image_primary, image_wrist: uint8 [1, 224, 224, 3], proprio: float32 [1, k]}; task:
    {language_instruction: bytes}; action: float32 [h, a], where h is NUM_ACTIONS_CHUNK.

    Values are normalized as BOUNDS_Q99 does: the 1st to the 99th percentile of the sample's pool become -1 to 1,
    clipped. Grippers of the action are not normalized but are 1 open and 0 closed, as in OpenVLA's standardized sets.
    slots: of the action, grippers among them; state_slots: of the proprioception. statistics: by pool, physical; see
    `openvla`. transform: an `RLDSBatchTransform`; collate: a `PaddedCollatorForActionPrediction`.
    """

    statistics: Mapping[str, NormStatistics]
    slots: Sequence[int] = tuple(range(7))
    gripper_slots: Sequence[int] = (6,)
    state_slots: Sequence[int] = tuple(range(7))
    cameras: Mapping[str, str] = field(
        default_factory=lambda: {"base_0_rgb": "image_primary", "left_wrist_0_rgb": "image_wrist"}
    )
    missing: Missing = "refuse"
    transform: Callable[[dict[str, Any]], Any] | None = None
    collate: Callable[[list[Any]], Any] | None = None

    def __call__(self, batch: Batch) -> Any:
        frames = self._frames(batch)
        samples = frames if self.transform is None else [self.transform(frame) for frame in frames]
        return samples if self.collate is None else self.collate(samples)

    def _frames(self, batch: Batch) -> list[dict[str, Any]]:
        images = pictures(batch, self.cameras, self.missing)
        physical = pick(batch, "action", "physical", self.slots, self.missing)
        action = self._normalize(batch, "action", physical, self.slots)
        for column in (list(self.slots).index(slot) for slot in self.gripper_slots):
            action[..., column] = 1 - physical[..., column]
        state = pick(batch, "state", "physical", self.state_slots, self.missing)
        proprio = self._normalize(batch, "state", state, self.state_slots)
        return [
            {
                "dataset_name": batch.dataset[i],
                "observation": {name: image[i][None] for name, image in images.items()} | {"proprio": proprio[i][None]},
                "task": {"language_instruction": text.encode()},
                "action": action[i],
            }
            for i, text in enumerate(batch.language)
        ]

    def _normalize(
        self, batch: Batch, name: str, values: NDArray[np.float32], slots: Sequence[int]
    ) -> NDArray[np.float32]:
        made = np.empty(values.shape, np.float32)
        for i, key in enumerate(batch.norm_key):
            made[i] = bounds_q99(values[i], getattr(self.statistics[key], name), slots)
        return made


def openvla(mixture: Mixture, **changes: Any) -> OpenvlaPreset:
    """The preset of a mixture, whose statistics of physical values it takes."""
    return OpenvlaPreset(statistics=mixture.absolute_statistics, **changes)


def bounds_q99(values: NDArray[Any], statistics: ArrayStatistics, slots: Sequence[int]) -> NDArray[np.float32]:
    """openvla-oft's BOUNDS_Q99 of values [..., k]: 0 for slots that never move."""
    chosen = list(slots)
    low, high = (statistics.quantiles[name][chosen] for name in ("q01", "q99"))
    scaled = np.clip(2 * (values - low) / (high - low + 1e-8) - 1, -1, 1)
    return np.where(statistics.min[chosen] == statistics.max[chosen], 0, scaled).astype(np.float32)


def dataset_statistics(mixture: Mixture, norm_key: str, preset: OpenvlaPreset) -> dict[str, Any]:
    """One entry of the `dataset_statistics.json` that OpenVLA's policies unnormalize with, of the preset's slots."""
    found = statistics_of(mixture, norm_key)
    action = _described(found.action, preset.slots, preset.gripper_slots)
    proprio = _described(found.state, preset.state_slots, ())
    return {
        "action": action,
        "proprio": proprio,
        "num_transitions": int(found.action.count[list(preset.slots)].max()),
    }


def _described(statistics: ArrayStatistics, slots: Sequence[int], grippers: Sequence[int]) -> dict[str, list[Any]]:
    chosen = list(slots)
    named = {name: getattr(statistics, name)[chosen] for name in ("mean", "std", "max", "min")}
    named |= {name: statistics.quantiles[name][chosen] for name in ("q01", "q99")}
    for column in (chosen.index(slot) for slot in grippers):
        _open_is_one(named, column)
    return {name: value.tolist() for name, value in named.items()} | {"mask": [s not in grippers for s in slots]}


def _open_is_one(named: dict[str, NDArray[np.float64]], column: int) -> None:
    """Turns a gripper's numbers over, which are fractions closed in our slots."""
    for name in ("mean", "min", "max", "q01", "q99"):
        named[name][column] = 1 - named[name][column]
    for low, high in (("min", "max"), ("q01", "q99")):
        named[low][column], named[high][column] = named[high][column], named[low][column]
