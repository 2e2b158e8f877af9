"""One optimizer step: the state it moves, the batch it reads, the masked flow loss, and what it reports."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from model import flow, policy
from model.arrays import Array
from model.augmentation import augment, sample_keys
from model.inputs import Observation
from trainers.config import Loss, RunConfig
from trainers.optimizer import build_optimizer, merge_params, move_average, split_params

Tree = Any


@struct.dataclass
class TrainState:
    """What a checkpoint holds of the computation.

    step: int32 [], optimizer steps done. trained and frozen: the parameters, split. ema: the moving average of
    `trained`, or None.
    """

    step: jax.Array
    trained: Tree
    frozen: Tree
    optimizer: Tree
    ema: Tree | None

    @property
    def params(self) -> Tree:
        return merge_params(self.trained, self.frozen)

    @property
    def best_params(self) -> Tree:
        """The parameters to act with: the moving average where there is one."""
        return self.params if self.ema is None else merge_params(self.ema, self.frozen)


@struct.dataclass
class TrainBatch:
    """One batch being sent to the device.

    actions: float32 [b, h, d] normalized. action_mask: bool [b, d]. chunk_mask: bool [b, h], True inside the episode.
    stop_signal: int32 [b], the signal that asked the process which read these rows to stop, or 0; carried along so
    that of many processes all learn of it at the same step.
    """

    observation: Observation
    actions: Array
    action_mask: Array
    chunk_mask: Array
    stop_signal: Array


@struct.dataclass
class StepReport:
    """Numbers of one step: scalars, and the loss of each sample, float32 [b]. stop_signal: of any process, or 0."""

    loss: Array
    sample_loss: Array
    grad_norm: Array
    update_norm: Array
    param_norm: Array
    stop_signal: Array


def new_state(config: RunConfig, params: Tree) -> TrainState:
    """The state before the first step: fresh optimizer, the average equal to the parameters."""
    trained, frozen = split_params(params, config.freeze)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        trained=trained,
        frozen=policy.with_products_in(config.policy, frozen, config.frozen_dtype),
        optimizer=build_optimizer(config.optimizer).init(trained),
        # A copy: the step gives its input's memory away, and two names of one array would be given twice.
        ema=jax.tree.map(jnp.copy, trained) if config.optimizer.ema_decay else None,
    )


def element_weights(loss: Loss, action_mask: Array, chunk_mask: Array) -> Array:
    """float32 [b, h, d]: the weight of each squared error; the loss is their weighted mean.

    'masked': each step inside the episode counts the same, shared out among the robot's own slots, so that
    a 17-slot robot does not outweigh a 7-slot one beyond the mixture's shares. 'openpi': all ones.

        action_mask [1 1 0 0], chunk_mask [1 1 0]  ->  .5 .5 0 0
                                                       .5 .5 0 0
                                                        0  0 0 0
    """
    b, d = action_mask.shape
    if loss == "openpi":
        return jnp.ones((b, chunk_mask.shape[1], d), jnp.float32)
    slots = action_mask.astype(jnp.float32)
    # Shared out, else a step of a 17-slot robot would weigh 2.4 times one of a 7-slot robot, beyond the mixture's
    # shares.
    slots = slots / jnp.maximum(slots.sum(-1, keepdims=True), 1.0)
    return chunk_mask.astype(jnp.float32)[:, :, None] * slots[:, None, :]


def draw_noise(key: Array, batch: TrainBatch, loss: Loss, time_shift: float = 1.0) -> tuple[Array, Array]:
    """Returns noise [b, h, d] and flow time [b]; with the masked loss, slots that a robot lacks get no noise."""
    noise_key, time_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, batch.actions.shape, jnp.float32)
    if loss == "masked":
        noise = noise * batch.action_mask[:, None, :]
    return noise, flow.sample_time(time_key, batch.actions.shape[0], time_shift)


def build_train_step(config: RunConfig) -> Callable[..., tuple[TrainState, StepReport]]:
    """Returns the pure function (state, batch, seed key, learning rate) -> (state, report).

    Noise, flow time and changes of pictures follow from (seed, step) alone, so a resumed run is exact.
    """
    optimizer, gradients = build_optimizer(config.optimizer), build_gradients(config)

    def train_step(state: TrainState, batch: TrainBatch, seed: jax.Array, rate: Array) -> tuple[TrainState, StepReport]:
        grads, loss, sample_loss = gradients(state, batch, seed)
        directions, optimizer_state = optimizer.update(grads, state.optimizer, state.trained)
        # The rate is an argument, so that schedules of other lengths share one compiled step.
        updates = jax.tree.map(lambda direction: -rate * direction, directions)
        trained = optax.apply_updates(state.trained, updates)
        ema = state.ema
        if ema is not None:
            ema = move_average(ema, trained, config.optimizer.ema_decay, state.step)
        report = StepReport(
            loss=loss,
            sample_loss=sample_loss,
            grad_norm=optax.tree.norm(grads),
            update_norm=optax.tree.norm(updates),
            param_norm=optax.tree.norm(trained),
            stop_signal=batch.stop_signal.max(),
        )
        state = dataclasses.replace(state, step=state.step + 1, trained=trained, optimizer=optimizer_state, ema=ema)
        return state, report

    return train_step


def build_flow_loss(config: RunConfig) -> Callable[[Tree, TrainBatch, Array], Array]:
    """Returns the function (params, batch, key) -> loss of each sample [b], without a gradient."""

    def flow_loss(params: Tree, batch: TrainBatch, key: Array) -> Array:
        noise, time = draw_noise(key, batch, config.loss, config.flow_time_shift)
        weights = element_weights(config.loss, batch.action_mask, batch.chunk_mask)
        squared = policy.loss_elements(config.policy, params, batch.observation, batch.actions, noise, time)
        return _sample_mean(squared, weights)

    return flow_loss


def build_gradients(config: RunConfig) -> Callable[..., tuple[Tree, Array, Array]]:
    """Returns the function (state, batch, seed key) -> (gradients, loss, loss of each sample) of its next step."""

    def gradients(state: TrainState, batch: TrainBatch, seed: jax.Array) -> tuple[Tree, Array, Array]:
        # The step is folded in: with the seed alone, every step would learn to remove one and the same noise.
        picture_keys = None
        if config.augmentation.changes_pictures:
            picture_keys = sample_keys(seed, state.step, batch.actions.shape[0])
        return _gradients(config, state, batch, jax.random.fold_in(seed, state.step), picture_keys)

    return gradients


def _gradients(
    config: RunConfig, state: TrainState, batch: TrainBatch, key: Array, picture_keys: Array | None
) -> tuple[Tree, Array, Array]:
    """Gradients of the weighted mean over the whole batch, its loss, and each sample's, part by part."""
    noise, time = draw_noise(key, batch, config.loss, config.flow_time_shift)
    weights = element_weights(config.loss, batch.action_mask, batch.chunk_mask)
    # The weights of the whole batch, not of a part: a mean of the parts' means would weigh short episodes differently
    # with every --accumulate.
    total = jnp.maximum(weights.sum(), 1e-6)

    def part_loss(trained: Tree, part: tuple[Any, ...]) -> tuple[Array, Array]:
        observation, actions, part_noise, part_time, part_weights, part_keys = part
        # Of a part, not of the batch: changed pictures are float32, four times the bytes of those that were sent.
        if part_keys is not None:
            observation = augment(config.augmentation.cameras, observation, part_keys)
        params = merge_params(trained, state.frozen)
        squared = policy.loss_elements(config.policy, params, observation, actions, part_noise, part_time)
        return (squared * part_weights).sum() / total, _sample_mean(squared, part_weights)

    gradient = jax.value_and_grad(part_loss, has_aux=True)
    whole = (batch.observation, batch.actions, noise, time, weights, picture_keys)
    if config.accumulate == 1:
        (loss, sample_loss), grads = gradient(state.trained, whole)
        return grads, loss, sample_loss
    return _accumulated(partial(gradient, state.trained), whole, state.trained, config.accumulate)


def _accumulated(
    gradient: Callable[[Any], Any], whole: tuple[Any, ...], trained: Tree, parts: int
) -> tuple[Tree, Array, Array]:
    """Adds up over `parts` parts, each taking every parts-th sample, so that all devices work on every part."""
    # Every parts-th sample rather than one run of samples after another: samples are split over devices in runs, so
    # that a run of them would lie on a few devices while the others waited.
    split = jax.tree.map(lambda array: array.reshape(-1, parts, *array.shape[1:]).swapaxes(0, 1), whole)

    def add(carry: tuple[Tree, jax.Array], part: tuple[Any, ...]) -> tuple[tuple[Tree, jax.Array], Array]:
        (loss, sample_loss), grads = gradient(part)
        return (jax.tree.map(jnp.add, carry[0], grads), jnp.add(carry[1], loss)), sample_loss

    start = (jax.tree.map(jnp.zeros_like, trained), jnp.zeros((), jnp.float32))
    (grads, loss), sample_loss = jax.lax.scan(add, start, split)
    return grads, loss, sample_loss.swapaxes(0, 1).reshape(-1)


def _sample_mean(squared: Array, weights: Array) -> Array:
    return (squared * weights).sum((1, 2)) / jnp.maximum(weights.sum((1, 2)), 1e-6)
