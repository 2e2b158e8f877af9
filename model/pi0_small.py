# ruff: noqa: F722
"""pi0-small: the ablation without a vision-language model, an encoder and a decoder.

A ViT of its own per camera and a DistilBERT text encoder make tokens; a transformer encodes them together
with the state; a DiT action expert attends to the result and predicts velocity. The flow is pi0's. Source:
Black et al., the pi0 paper's non-VLM baseline; sizes that it does not state are settings of `Pi0SmallConfig`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Bool, Float, PRNGKeyArray

from model import flow
from model.arrays import Array
from model.config import FLOW_STEPS, Pi0SmallConfig
from model.distilbert import distilbert_specs, encode_text
from model.dit import chunk_positions, cross_cache, dit_specs, run_dit
from model.gemma import Cache
from model.inputs import CAMERAS, Observation, check_observation, check_shape, shrink_images, to_unit_range
from model.layers import Execution
from model.params import ParameterSpec, Params, draw, fan_in, ones, prefixed, zeros
from model.siglip import block_specs, dense, encode_images, layer_norm, run_blocks, siglip_specs


@struct.dataclass
class Context:
    """What the action expert needs of the observation."""

    cache: Cache
    valid: Bool[Array, "b t"]


def param_specs(config: Pi0SmallConfig) -> dict[str, ParameterSpec]:
    """Declares every parameter."""
    width, expert = config.encoder.width, config.expert.width
    specs = prefixed("text", distilbert_specs(config.text, config.vocab_size, config.text_positions))
    for name in CAMERAS:
        specs |= prefixed(f"vit/{name}", siglip_specs(config.vit, width))
    blocks = block_specs(config.encoder.depth, width, config.encoder.mlp_dim, config.encoder.heads)
    specs |= prefixed("encoder/blocks", blocks)
    specs["encoder/norm/scale"] = ParameterSpec(shape=(width,), init=ones)
    specs["encoder/norm/bias"] = ParameterSpec(shape=(width,), init=zeros)
    specs |= prefixed("expert", dit_specs(config.expert, width))
    for name, inputs, outputs in (
        ("text_proj", config.text.width, width),
        ("state_proj", config.action_dim, width),
        ("action_in_proj", config.action_dim, expert),
        ("time_mlp_in", expert, expert),
        ("time_mlp_out", expert, expert),
        ("action_out_proj", expert, config.action_dim),
    ):
        specs[f"{name}/kernel"] = ParameterSpec(shape=(inputs, outputs), init=fan_in(inputs))
        specs[f"{name}/bias"] = ParameterSpec(shape=(outputs,), init=zeros)
    return specs


def init_params(config: Pi0SmallConfig, key: PRNGKeyArray) -> Params:
    """Draws float32 parameters."""
    return draw(param_specs(config), key)


def loss_elements(
    config: Pi0SmallConfig,
    params: Params,
    observation: Observation,
    actions: Float[Array, "b h d"],
    noise: Float[Array, "b h d"],
    time: Float[Array, " b"],
) -> Float[Array, "b h d"]:
    """Squared velocity error per element, unreduced."""
    noisy = flow.interpolate(noise, actions, time)
    predicted = velocity(config, params, observation, noisy, time)
    return jnp.square(predicted - flow.target_velocity(noise, actions))


def velocity(
    config: Pi0SmallConfig,
    params: Params,
    observation: Observation,
    noisy_actions: Float[Array, "b h d"],
    time: Float[Array, " b"],
) -> Float[Array, "b h d"]:
    """Predicted dx/dt at `noisy_actions` and flow time `time` (1 noise, 0 data)."""
    return decode(config, params, encode(config, params, observation), noisy_actions, time)


def sample_actions(
    config: Pi0SmallConfig,
    params: Params,
    observation: Observation,
    noise: Float[Array, "b h d"],
    num_steps: int = FLOW_STEPS,
    action_mask: Bool[Array, "b d"] | None = None,
) -> Float[Array, "b h d"]:
    """Walks from noise to actions; the observation is encoded once. Slots outside `action_mask` keep their
    noise."""
    context = encode(config, params, observation)

    def step(x: Float[Array, "b h d"], time: Float[Array, " b"]) -> Float[Array, "b h d"]:
        moved = decode(config, params, context, x, time)
        return moved if action_mask is None else moved * action_mask[:, None, :]

    return flow.integrate(step, noise, num_steps)


def encode(config: Pi0SmallConfig, params: Params, observation: Observation) -> Context:
    """Cameras that are there, prompt and state, encoded together; then the expert's keys and values of them."""
    check_observation(config, observation)
    how = execution(config)
    names = [name for name in CAMERAS if name in observation.images]
    images: list[Array] = [
        encode_images(
            config.vit,
            params["vit"][name],
            to_unit_range(shrink_images(observation.images[name], config.image_size)),
            dtype=config.dtype,
            how=how,
        )
        for name in names
    ]
    prompt_mask = observation.tokenized_prompt_mask
    text = encode_text(params["text"], observation.tokenized_prompt, prompt_mask, dtype=config.dtype, how=how)
    state = dense(observation.state, params["state_proj"])[:, None].astype(config.dtype)
    x: Array = jnp.concatenate([*images, dense(text, params["text_proj"]), state], axis=1)
    seen = [jnp.repeat(observation.image_masks[name][:, None], config.vit.tokens, 1) for name in names]
    valid = jnp.concatenate([*seen, prompt_mask, jnp.ones_like(prompt_mask[:, :1])], axis=1)
    x = run_blocks(params["encoder"]["blocks"], x, valid[:, None], how)
    x = layer_norm(x, params["encoder"]["norm"])
    return Context(cache=cross_cache(params["expert"]["layers"], x, how), valid=valid)


def decode(
    config: Pi0SmallConfig,
    params: Params,
    context: Context,
    noisy_actions: Float[Array, "b h d"],
    time: Float[Array, " b"],
) -> Float[Array, "b h d"]:
    """Velocity from the encoded observation and the noisy actions."""
    check_shape("actions", noisy_actions, (context.valid.shape[0], config.horizon, config.action_dim))
    check_shape("time", time, (context.valid.shape[0],))
    embedded = flow.time_embedding(time, config.expert.width)
    hidden = jax.nn.swish(dense(embedded, params["time_mlp_in"]))
    cond = jax.nn.swish(dense(hidden, params["time_mlp_out"]))
    tokens = dense(noisy_actions, params["action_in_proj"]) + chunk_positions(config.horizon, config.expert.width)
    out = run_dit(params["expert"], tokens.astype(config.dtype), cond, context.cache, context.valid, execution(config))
    return dense(out.astype(jnp.float32), params["action_out_proj"])


def execution(config: Pi0SmallConfig) -> Execution:
    """How this config runs its layers."""
    return Execution(remat=config.remat, unroll=config.unroll, attention=config.attention)
