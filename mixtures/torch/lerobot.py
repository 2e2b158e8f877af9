"""The batches of LeRobot's policies: ACT, Diffusion, SmolVLA and pi0, as their `forward` reads them.

Read off LeRobot 0.6.1 (`policies/*/modeling_*.py`, `processor_*.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mixtures.mixture import Mixture
from mixtures.stream.batches import Batch
from mixtures.torch.fields import Missing, action_slots, camera_slot, pick, pictures, statistics_of
from mixtures.torch.tensors import as_tensors
from pipelines.shards.statistics import ArrayStatistics

Values = Literal["normalized", "physical"]
# A Hugging Face tokenizer with its options bound: texts -> {input_ids, attention_mask}, tensors [b, s].
Tokenize = Callable[[list[str]], Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class LerobotPreset:
    """Makes {observation.images.NAME, observation.state, action, action_is_pad, task, ...}.

    Pictures: float32 [b, 3, y, x] in 0 to 1. state: [b, k]; action: [b, h, k]; action_is_pad: bool [b, h], True behind
    the episode's end; task: texts. slots: of state and action, in their order; state_slots where the state has others.
    values: 'normalized' by the mixture, for policies whose normalization is IDENTITY; 'physical' where the policy's
    processor normalizes, see `dataset_stats`. image_size: (y, x) to resize to, bilinear with antialiasing.
    observed_steps: an axis of one observed step after the batch's, as Diffusion has it. camera_masks:
    `NAME_padding_mask`, as SmolVLA reads it. tokenize: adds observation.language.tokens and .attention_mask, of the
    texts with a newline at their end.
    """

    slots: Sequence[int]
    cameras: Mapping[str, str] = field(default_factory=lambda: {"base_0_rgb": "observation.images.base_0_rgb"})
    state_slots: Sequence[int] | None = None
    values: Values = "normalized"
    image_size: tuple[int, int] | None = None
    observed_steps: bool = False
    camera_masks: bool = False
    tokenize: Tokenize | None = None
    missing: Missing = "refuse"

    def __call__(self, batch: Batch) -> dict[str, Any]:
        state_slots = self.slots if self.state_slots is None else self.state_slots
        # A camera with a mask may be missing from a sample.
        found = pictures(batch, self.cameras, "pad" if self.camera_masks else self.missing)
        observed = {name: to_unit_range(image, self.image_size) for name, image in found.items()}
        observed["observation.state"] = as_tensors(pick(batch, "state", self.values, state_slots, self.missing))
        if self.observed_steps:
            observed = {name: value[:, None] for name, value in observed.items()}
        made = observed | {
            "action": as_tensors(pick(batch, "action", self.values, self.slots, self.missing)),
            "action_is_pad": as_tensors(~batch.chunk_mask),
            "task": batch.language,
        }
        return made | self._masks(batch) | self._tokens(batch.language)

    def _masks(self, batch: Batch) -> dict[str, Any]:
        if not self.camera_masks:
            return {}
        return {
            f"{name}_padding_mask": as_tensors(batch.camera_mask[:, camera_slot(camera)])
            for camera, name in self.cameras.items()
        }

    def _tokens(self, texts: list[str]) -> dict[str, Any]:
        if self.tokenize is None:
            return {}
        encoded = self.tokenize([text if text.endswith("\n") else f"{text}\n" for text in texts])
        return {
            "observation.language.tokens": torch.as_tensor(encoded["input_ids"]),
            "observation.language.attention_mask": torch.as_tensor(encoded["attention_mask"]).bool(),
        }


def act(mixture: Mixture, **changes: Any) -> LerobotPreset:
    """For `ACTPolicy.forward`. The mixture's horizon is the policy's `chunk_size`."""
    return _preset(mixture, changes)


def diffusion(mixture: Mixture, **changes: Any) -> LerobotPreset:
    """For `DiffusionPolicy.forward` with `n_obs_steps=1`, since a sample observes one step; horizon as the policy's."""
    return _preset(mixture, {"observed_steps": True, **changes})


def smolvla(mixture: Mixture, **changes: Any) -> LerobotPreset:
    """For `SmolVLAPolicy.forward`, which pads vectors and resizes pictures itself, and masks cameras by sample."""
    return _preset(mixture, {"camera_masks": True, **changes})


def pi0(mixture: Mixture, **changes: Any) -> LerobotPreset:
    """For `PI0Policy.forward`, which pads vectors itself and has no mask for a camera that only some samples lack."""
    return _preset(mixture, changes)


def _preset(mixture: Mixture, changes: Mapping[str, Any]) -> LerobotPreset:
    """The mixture's commanded slots and its cameras under LeRobot's names, unless changed."""
    given = {"cameras": {camera: f"observation.images.{camera}" for camera in mixture.cameras}, **changes}
    return LerobotPreset(**given if "slots" in given else {"slots": action_slots(mixture), **given})


def to_unit_range(image: NDArray[np.uint8], size: tuple[int, int] | None = None) -> torch.Tensor:
    """Pictures uint8 [b, y, x, c] as float32 [b, c, y, x] in 0 to 1, resized to (y, x) where one is given."""
    moved = torch.from_numpy(image).permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    scaled = moved.div_(255)
    if size is None or tuple(scaled.shape[2:]) == tuple(size):
        return scaled
    return torch.nn.functional.interpolate(scaled, size=size, mode="bilinear", antialias=True, align_corners=False)


def dataset_stats(
    mixture: Mixture, norm_key: str, slots: Sequence[int], state_slots: Sequence[int] | None = None
) -> dict[str, dict[str, torch.Tensor]]:
    """A pool's statistics of the physical values as LeRobot's processors take them (`dataset_stats`): float32 [k].

    They hold one pool; a mixture of several is normalized by the stream, or each robot's vectors would mean another
    thing. Raises UsageError for an unknown pool.
    """
    statistics = statistics_of(mixture, norm_key)
    return {
        "observation.state": _stats(statistics.state, slots if state_slots is None else state_slots),
        "action": _stats(statistics.action, slots),
    }


def _stats(statistics: ArrayStatistics, slots: Sequence[int]) -> dict[str, torch.Tensor]:
    named = {name: getattr(statistics, name) for name in ("mean", "std", "min", "max")}
    named |= {name: statistics.quantiles[name] for name in ("q01", "q99")}
    return {name: torch.from_numpy(value[list(slots)].astype(np.float32)) for name, value in named.items()}
