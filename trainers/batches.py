"""From the stream's batches to the model's inputs: prompts as tokens, the mixture's cameras, and packed images."""

import hashlib
from collections.abc import Callable

import jax
import numpy as np

from mixtures.stream.batches import Batch
from model.config import Pi0Config
from model.inputs import Observation, observation_from_batch
from model.packing import Packing, fit_packing
from pipelines.contract.slots import CAMERAS
from trainers.config import RunConfig
from trainers.prompts import PromptEncoder
from trainers.step import TrainBatch


def build_batcher(config: RunConfig) -> Callable[..., TrainBatch]:
    """Returns the function (batch of the stream, stop signal or 0) -> host arrays for the step."""
    observe = build_observer(config)

    def to_train_batch(batch: Batch, stop_signal: int = 0) -> TrainBatch:
        return TrainBatch(
            observation=observe(batch),
            actions=batch.action,
            action_mask=batch.action_mask,
            chunk_mask=batch.chunk_mask,
            stop_signal=np.full(len(batch.action), stop_signal, np.int32),
        )

    return to_train_batch


def build_observer(config: RunConfig) -> Callable[[Batch], Observation]:
    """Returns the function from a batch of the stream to the policy's observation; images stay uint8."""
    prompts = PromptEncoder(config)

    def observe(batch: Batch) -> Observation:
        encoded = prompts.encode(batch.language, batch.state, batch.state_mask)
        slots = {camera: CAMERAS.index(camera) for camera in config.cameras}
        there = {camera: batch.camera_mask[:, slot] for camera, slot in slots.items()}
        return observation_from_batch(
            images={camera: batch.images[:, slot] for camera, slot in slots.items()},
            image_masks=there,
            tokenized_prompt=encoded.ids,
            tokenized_prompt_mask=encoded.mask,
            state=batch.state,
            drop_missing=False,  # one form of batch for the whole run: one compilation, or one per packing
            packing=_packing(there) if packs_images(config) else None,
        )

    return observe


def packs_images(config: RunConfig) -> bool:
    """Whether images that only some samples lack are skipped: the same result, and one compilation for each size.

    Not on a CPU, where models are so small that compiling takes longer than it saves; not where a batch is computed
    in parts, each of which may hold more than its share; and not with several processes, since each sees its own
    rows only while all must run one program.
    """
    alone = jax.process_count() == 1 and config.accumulate == 1
    return alone and isinstance(config.policy, Pi0Config) and jax.default_backend() != "cpu"


def _packing(there: dict[str, np.ndarray]) -> Packing | None:
    devices, rows = jax.local_device_count(), len(next(iter(there.values())))
    return fit_packing(there, groups=devices if rows % devices == 0 else 1)


def chain_names(chain: str, names: list[str]) -> str:
    """Extends a running hash by a batch's sample names: equal chains mean equal samples in equal order."""
    return hashlib.sha256("\n".join([chain, *names]).encode()).hexdigest()[:16]
