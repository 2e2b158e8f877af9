"""The batches of openpi's trainers, JAX and PyTorch: what `openpi.models.model.Observation.from_dict` reads.

Read off openpi's `models/model.py`, `training/data_loader.py` and `transforms.py` (TokenizePrompt,
PadStatesAndActions), of 2025.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mixtures.stream.batches import Batch
from mixtures.torch.fields import padded
from mixtures.torch.tensors import as_tensors
from pipelines.contract.slots import CAMERAS

# `openpi.models.tokenizer.PaligemmaTokenizer(max_len).tokenize`: (prompt, state or None) -> (ids [s], mask [s]).
Tokenize = Callable[[str, NDArray[np.float32] | None], tuple[NDArray[Any], NDArray[Any]]]


@dataclass(frozen=True, kw_only=True)
class OpenpiPreset:
    """Makes {image: {camera: uint8 [b, 224, 224, 3]}, image_mask: {camera: bool [b]}, state, actions, ...}.

    state: float32 [b, action_dim]; actions: float32 [b, h, action_dim], both normalized by the mixture and filled with
    zeros, as openpi fills them. Images stay uint8: `from_dict` scales them to [-1, 1] (and moves the channels forward,
    in PyTorch), and a quarter of the bytes travel to it. tokenize: openpi's own tokenizer's `tokenize`. framework:
    'jax' for numpy arrays, 'torch' for tensors over the same memory. state_in_prompt: as pi0.5 takes it, the measured
    slots.
    """

    tokenize: Tokenize
    framework: Literal["jax", "torch"] = "torch"
    action_dim: int = 32
    state_in_prompt: bool = False

    def __call__(self, batch: Batch) -> dict[str, Any]:
        # openpi writes a robot's own dims into the prompt, before it fills them up.
        states = [
            state[mask] if self.state_in_prompt else None
            for state, mask in zip(batch.state, batch.state_mask, strict=True)
        ]
        prompts = [self.tokenize(text, state) for text, state in zip(batch.language, states, strict=True)]
        arrays = {
            "image": {camera: batch.images[:, i] for i, camera in enumerate(CAMERAS)},
            "image_mask": {camera: batch.camera_mask[:, i] for i, camera in enumerate(CAMERAS)},
            "state": padded(batch.state, self.action_dim),
            "actions": padded(batch.action, self.action_dim),
            "tokenized_prompt": np.stack([ids for ids, _ in prompts]),
            "tokenized_prompt_mask": np.stack([mask for _, mask in prompts]),
        }
        return arrays if self.framework == "jax" else as_tensors(arrays)
