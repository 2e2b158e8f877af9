"""Actions from noise: the one way in which evaluation, serving and the demo sample a policy."""

from typing import Any

import jax
import jax.numpy as jnp

from model import policy
from model.arrays import Array
from trainers.config import RunConfig
from trainers.step import TrainBatch

Tree = Any


def sample_masked(config: RunConfig, params: Tree, batch: TrainBatch, key: jax.Array, flow_steps: int) -> Array:
    """Normalized actions [b, h, d] from noise; slots that a robot lacks see what they saw in training.

    Trained on the masked loss, a policy never saw noise in those slots (`trainers.step.draw_noise`), so it must not see
    any here; trained on openpi's loss, it learned to take the noise away, so there it gets noise everywhere.
    key: one for all, or one for each sample, whose actions then do not depend on those beside it.
    """
    shape = batch.actions.shape
    if key.ndim:
        noise = jax.vmap(lambda own: jax.random.normal(own, shape[1:], jnp.float32))(key)
    else:
        noise = jax.random.normal(key, shape, jnp.float32)
    if config.loss == "openpi":
        return policy.sample_actions(config.policy, params, batch.observation, noise, flow_steps)
    noise = noise * batch.action_mask[:, None, :]
    return policy.sample_actions(
        config.policy, params, batch.observation, noise, flow_steps, action_mask=batch.action_mask
    )
