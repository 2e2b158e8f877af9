"""Samples for GR00T N1.6 and later: the fields of `gr00t.data.types.VLAStepData`, which its processor takes.

Read off Isaac-GR00T's `gr00t/data/types.py` and `dataset/sharded_single_step_dataset.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mixtures.mixture import Mixture
from mixtures.stream.batches import Batch
from mixtures.torch.fields import camera_slot, statistics_of
from pipelines.contract.errors import UsageError
from pipelines.shards.statistics import ArrayStatistics

Parts = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class GrootPreset:
    """Makes for each sample the arguments of a VLAStepData: {images, states, actions, text, embodiment, metadata}.

    images: by view a list of one uint8 [224, 224, 3]; a view that a sample lacks is left out, and GR00T's processor
    names it. states: by part float32 [1, k]; actions: by part float32 [n, k]; both physical, since the processor
    normalizes them with the embodiment's statistics (`part_statistics`). Actions end with the episode, so that n may be
    less than the horizon: the processor fills them up and masks what it filled. metadata: {norm_key}.
    parts: by pool, as the mixture has them. embodiments: by pool, the EmbodimentTag to train under.
    """

    parts: Mapping[str, Parts]
    embodiments: Mapping[str, Any]
    views: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, batch: Batch) -> list[dict[str, Any]]:
        return [self._step(batch, i) for i in range(len(batch.names))]

    def _step(self, batch: Batch, i: int) -> dict[str, Any]:
        key = batch.norm_key[i]
        if key not in self.embodiments:
            raise UsageError(f"{batch.names[i]}: expected an embodiment tag for {key}, found {list(self.embodiments)}")
        action = batch.action_physical[i, batch.chunk_mask[i]]
        here = {view: camera_slot(camera) for camera, view in self.views.items()}
        return {
            "images": {view: [batch.images[i, slot]] for view, slot in here.items() if batch.camera_mask[i, slot]},
            "states": {
                part: batch.state_physical[i : i + 1, list(slots)]
                for part, slots in self.parts[key].items()
                if batch.state_mask[i, list(slots)].all()
            },
            # GR00T has no mask for steps behind the end, which it never draws, but one for a chunk that is too short.
            "actions": {part: action[:, list(slots)] for part, slots in self.parts[key].items()},
            "text": batch.language[i],
            "embodiment": self.embodiments[key],
            "metadata": {"norm_key": key},
        }


def groot(mixture: Mixture, embodiments: Mapping[str, Any], **changes: Any) -> GrootPreset:
    """The preset of a mixture: its parts, and its cameras under their own names. embodiments: by norm key or pool."""
    unknown = set(embodiments) - set(mixture.parts)
    if unknown:
        raise UsageError(f"expected pools of {sorted(mixture.parts)}, found {sorted(unknown)}")
    given = {"views": {camera: camera for camera in mixture.cameras}, **changes}
    return GrootPreset(parts=mixture.parts, embodiments=embodiments, **given)


def part_statistics(mixture: Mixture, norm_key: str) -> dict[str, dict[str, dict[str, list[float]]]]:
    """A pool's statistics by part, as GR00T's processor takes one embodiment's: {state, action: {part: {min, ...}}}."""
    found = statistics_of(mixture, norm_key)
    return {
        name: {part: _described(getattr(found, name), slots) for part, slots in mixture.parts[norm_key].items()}
        for name in ("state", "action")
    }


def _described(statistics: ArrayStatistics, slots: tuple[int, ...]) -> dict[str, list[float]]:
    named = {name: getattr(statistics, name) for name in ("min", "max", "mean", "std")}
    named |= {name: statistics.quantiles[name] for name in ("q01", "q99")}
    return {name: np.asarray(value)[list(slots)].tolist() for name, value in named.items()}
