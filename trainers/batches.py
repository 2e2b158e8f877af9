"""From the stream's batches to the model's inputs: prompts as tokens, the mixture's cameras, and packed images."""

import dataclasses
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

DISTURBANCE = 0xD157  # keeps these draws apart from others of the same seed and position


def build_batcher(config: RunConfig, *, training: bool = False) -> Callable[..., TrainBatch]:
    """Returns the function (batch of the stream, stop signal or 0) -> host arrays for the step.

    training: with the run's noise and dropout of states and prompts; measurements are made without.
    """
    observe = build_observer(config)
    disturbs = training and config.augmentation.changes_numbers_or_words

    def to_train_batch(batch: Batch, stop_signal: int = 0) -> TrainBatch:
        batch = disturbed(config, batch) if disturbs else batch
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


def disturbed(config: RunConfig, batch: Batch) -> Batch:
    """States with noise, and without; empty prompts: as `config.augmentation` has them, by each sample's position.

    Here and not in the compiled step, since pi0.5 reads its state as words of the prompt.
    """
    settings, slots = config.augmentation, batch.state.shape[1]
    # All numbers are drawn whatever is switched on, so that one option does not change what another one does.
    drawn = [np.random.default_rng((config.seed, DISTURBANCE, position)) for position in batch.position.tolist()]
    shares = np.stack([random.random(2) for random in drawn])
    noise = np.stack([random.standard_normal(slots, np.float32) for random in drawn])
    state = batch.state + np.float32(settings.state_noise) * noise * batch.state_mask
    state[shares[:, 0] < settings.state_dropout] = 0.0
    kept = shares[:, 1] >= settings.prompt_dropout
    language = [text if kept[row] else "" for row, text in enumerate(batch.language)]
    return dataclasses.replace(batch, state=state.astype(np.float32), language=language)


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
