# ruff: noqa: F722
"""The policy that a config names: one set of functions for every architecture."""

from __future__ import annotations

from types import ModuleType

from jaxtyping import Bool, Float, PRNGKeyArray

from model import pi0, pi0_small
from model.arrays import Array
from model.config import FLOW_STEPS, Pi0Config, PolicyConfig
from model.inputs import Observation
from model.params import Params, param_count

__all__ = [
    "Params",
    "init_params",
    "loss_elements",
    "param_count",
    "sample_actions",
    "serving_params",
    "velocity",
    "with_products_in",
]


def init_params(config: PolicyConfig, key: PRNGKeyArray) -> Params:
    """Draws float32 parameters."""
    return _architecture(config).init_params(config, key)


def serving_params(config: PolicyConfig, params: Params) -> Params:
    """Parameters for acting alone, same results from fewer bytes; see `model.pi0.with_products_in`."""
    return with_products_in(config, params, config.dtype)


def with_products_in(config: PolicyConfig, params: Params, dtype: str) -> Params:
    """Weights of products in `dtype`, see `model.pi0.with_products_in`. pi0-small's stay as they are."""
    return pi0.with_products_in(params, dtype) if isinstance(config, Pi0Config) else params


def loss_elements(
    config: PolicyConfig,
    params: Params,
    observation: Observation,
    actions: Float[Array, "b h d"],
    noise: Float[Array, "b h d"],
    time: Float[Array, " b"],
) -> Float[Array, "b h d"]:
    """Squared velocity error [b, h, d], unreduced; see `model.pi0.loss_elements`."""
    return _architecture(config).loss_elements(config, params, observation, actions, noise, time)


def velocity(
    config: PolicyConfig,
    params: Params,
    observation: Observation,
    noisy_actions: Float[Array, "b h d"],
    time: Float[Array, " b"],
) -> Float[Array, "b h d"]:
    """Predicted dx/dt [b, h, d]; see `model.pi0.velocity`."""
    return _architecture(config).velocity(config, params, observation, noisy_actions, time)


def sample_actions(
    config: PolicyConfig,
    params: Params,
    observation: Observation,
    noise: Float[Array, "b h d"],
    num_steps: int = FLOW_STEPS,
    action_mask: Bool[Array, "b d"] | None = None,
) -> Float[Array, "b h d"]:
    """Actions [b, h, d] from noise; see `model.pi0.sample_actions`."""
    return _architecture(config).sample_actions(config, params, observation, noise, num_steps, action_mask)


def _architecture(config: PolicyConfig) -> ModuleType:
    return pi0 if isinstance(config, Pi0Config) else pi0_small
