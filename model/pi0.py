# ruff: noqa: F722
"""pi0: images and prompt form the prefix, state and noisy actions the suffix; the suffix predicts velocity.

The prefix never sees the suffix, so it runs first and leaves keys and values behind; training and sampling
then run the same suffix on top of it. Source: Black et al., "pi0: A Vision-Language-Action Flow Model for
General Robot Control"; conventions as in openpi.
"""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Bool, Float, PRNGKeyArray, Shaped

from model import flow
from model.arrays import Array
from model.attention import attention_mask, takes_cudnn, token_positions
from model.config import FLOW_STEPS, Pi0Config
from model.gemma import Cache, PrefixView, embed_text, gemma_specs, run_expert, run_prefix_cache
from model.inputs import CAMERAS, Observation, check_observation, check_shape, shrink_images, to_unit_range
from model.layers import Execution
from model.packing import PackedRows, Packing, place_images, place_tokens, valid_first
from model.params import ParameterSpec, Params, draw, fan_in, flatten, normal, prefixed, unflatten, zeros
from model.siglip import dense, encode_images, siglip_specs

# Parameters that meet activations as the second factor of a product, by openpi's names.
IN_ACTIVATION_TYPE = re.compile(
    r"^PaliGemma/(img/(Transformer/.*|head/)kernel$|llm/(layers/.*(/w|gating_einsum|linear|lora_[ab])$|.*/Dense_0/))"
)


@struct.dataclass
class Prefix:
    """What the suffix needs of the observation."""

    cache: Cache
    valid: Bool[Array, "b s"]


@struct.dataclass
class Suffix:
    """Tokens of the action expert; `cond` is the time for adaptive norms (pi05 only)."""

    tokens: Float[Array, "b s e"]
    starts_block: Bool[Array, " s"]
    cond: Float[Array, "b e"] | None


def param_specs(config: Pi0Config) -> dict[str, ParameterSpec]:
    """Declares every parameter under openpi's names."""
    width, expert = config.prefix.width, config.expert.width
    embedding = ParameterSpec(shape=(config.vocab_size, width), init=normal(width**-0.5))
    specs = prefixed("PaliGemma/img", siglip_specs(config.siglip, width))
    specs["PaliGemma/llm/embedder/input_embedding"] = embedding
    specs |= prefixed("PaliGemma/llm", gemma_specs(config.prefix, 0))
    specs |= prefixed("PaliGemma/llm", gemma_specs(config.expert, 1, adaptive=config.pi05))
    linears = {"action_in_proj": (config.action_dim, expert), "action_out_proj": (expert, config.action_dim)}
    if config.pi05:
        linears |= {"time_mlp_in": (expert, expert), "time_mlp_out": (expert, expert)}
    else:
        linears |= {
            "state_proj": (config.action_dim, expert),
            "action_time_mlp_in": (2 * expert, expert),
            "action_time_mlp_out": (expert, expert),
        }
    for name, shape in linears.items():
        specs[f"{name}/kernel"] = ParameterSpec(shape=shape, init=fan_in(shape[0]))
        specs[f"{name}/bias"] = ParameterSpec(shape=shape[1:], init=zeros)
    return specs


def init_params(config: Pi0Config, key: PRNGKeyArray) -> Params:
    """Draws float32 parameters."""
    return draw(param_specs(config), key)


def with_products_in(params: Params, dtype: str) -> Params:
    """Weights of products in another type; norms, biases, embeddings and the projections of state and actions stay.

    In the activations' type nothing changes, since each use casts them to it: the same results from half the bytes.
    Leaves that are None stay None.
    """
    flat = flatten(params)
    # Acting at batch 1 is bound by reading weights: 7.54 GB in place of 12.95, the same actions to the bit.
    cast = {n: leaf.astype(dtype) for n, leaf in flat.items() if leaf is not None and IN_ACTIVATION_TYPE.search(n)}
    return unflatten({**flat, **cast})


def loss_elements(
    config: Pi0Config,
    params: Params,
    observation: Observation,
    actions: Float[Array, "b h d"],
    noise: Float[Array, "b h d"],
    time: Float[Array, " b"],
) -> Float[Array, "b h d"]:
    """Squared velocity error per element, unreduced, so that the caller masks and averages."""
    noisy = flow.interpolate(noise, actions, time)
    predicted = velocity(config, params, observation, noisy, time)
    return jnp.square(predicted - flow.target_velocity(noise, actions))


def velocity(
    config: Pi0Config,
    params: Params,
    observation: Observation,
    noisy_actions: Float[Array, "b h d"],
    time: Float[Array, " b"],
) -> Float[Array, "b h d"]:
    """Predicted dx/dt at `noisy_actions` and flow time `time` (1 noise, 0 data)."""
    prefix = encode_prefix(config, params, observation)
    return suffix_velocity(config, params, prefix, observation.state, noisy_actions, time)


def sample_actions(
    config: Pi0Config,
    params: Params,
    observation: Observation,
    noise: Float[Array, "b h d"],
    num_steps: int = FLOW_STEPS,
    action_mask: Bool[Array, "b d"] | None = None,
) -> Float[Array, "b h d"]:
    """Walks from noise to actions; the prefix is computed once.

    With `action_mask`, slots that a robot lacks keep their noise: what was never trained there cannot move.
    """
    # Once for all Euler steps: no prefix token sees the suffix, so that its keys and values never change.
    prefix = encode_prefix(config, params, observation, by_index=True)

    def step(x: Float[Array, "b h d"], time: Float[Array, " b"]) -> Float[Array, "b h d"]:
        moved = suffix_velocity(config, params, prefix, observation.state, x, time)
        # The masked loss never trained the velocity there; walking along it would feed random values to the next steps.
        return moved if action_mask is None else moved * action_mask[:, None, :]

    return flow.integrate(step, noise, num_steps)


def encode_prefix(config: Pi0Config, params: Params, observation: Observation, *, by_index: bool = False) -> Prefix:
    """Runs images and prompt through the first expert: all of them under masks, or packed, or padding last.

    by_index: for acting, see `model.gemma.run_prefix_cache`.
    """
    check_observation(config, observation)
    if observation.packing is not None:
        tokens, rows = embed_packed(config, params, observation, observation.packing)
        valid = rows.valid
        view = PrefixView(positions=rows.positions, lengths=valid.sum(1, dtype=jnp.int32), rows=rows)
    else:
        tokens, valid = embed_prefix(config, params, observation)
        if takes_cudnn(config.attention, config.dtype, config.prefix.head_dim):
            # Valid tokens first, so that cuDNN gets lengths and no mask, of which it would compute a gradient.
            tokens, valid = valid_first(tokens, valid)
            view = PrefixView(positions=token_positions(valid), lengths=valid.sum(1, dtype=jnp.int32))
        else:
            mask = attention_mask(valid, prefix_blocks(valid.shape[1]))
            view = PrefixView(positions=token_positions(valid), mask=mask)
    llm = params["PaliGemma"]["llm"]
    cache = run_prefix_cache(llm, tokens.astype(config.dtype), view, how=execution(config), by_index=by_index)
    return Prefix(cache=cache, valid=valid)


def suffix_velocity(
    config: Pi0Config,
    params: Params,
    prefix: Prefix,
    state: Float[Array, "b d"],
    noisy_actions: Float[Array, "b h d"],
    time: Float[Array, " b"],
) -> Float[Array, "b h d"]:
    """Velocity from the prefix's cache, the state and the noisy actions."""
    out, _ = run_suffix(config, params, prefix, state, noisy_actions, time)
    # The last tokens only: pi0 has a state token before them, which predicts nothing, and pi05 has none.
    return dense(out[:, -config.horizon :].astype(jnp.float32), params["action_out_proj"])


def run_suffix(
    config: Pi0Config,
    params: Params,
    prefix: Prefix,
    state: Float[Array, "b d"],
    noisy_actions: Float[Array, "b h d"],
    time: Float[Array, " b"],
) -> tuple[Float[Array, "b s e"], Cache]:
    """The action expert's output after its final norm, and its own keys and values."""
    check_shape("actions", noisy_actions, (state.shape[0], config.horizon, config.action_dim))
    check_shape("time", time, (state.shape[0],))
    suffix = embed_suffix(config, params, state, noisy_actions, time)
    valid, starts_block = whole_sequence(prefix.valid, suffix.starts_block)
    rows = suffix.tokens.shape[1]
    return run_expert(
        params["PaliGemma"]["llm"],
        1,
        suffix.tokens.astype(config.dtype),
        attention_mask(valid, starts_block)[:, -rows:],
        token_positions(valid)[:, -rows:],
        past=prefix.cache,
        cond=suffix.cond,
        how=execution(config),
    )


def embed_prefix(
    config: Pi0Config, params: Params, observation: Observation
) -> tuple[Float[Array, "b s e"], Bool[Array, "b s"]]:
    """Tokens of the cameras that are there, in `CAMERAS` order, then of the prompt, with their mask."""
    pixels, there = stack_cameras(observation)
    batch = pixels.shape[0]
    images = embed_images(config, params, pixels.reshape(-1, *pixels.shape[2:]))
    text = embed_prompt(params, observation).astype(images.dtype)
    tokens = jnp.concatenate([images.reshape(batch, -1, images.shape[-1]), text], axis=1)
    return tokens, valid_tokens(config, there, observation.tokenized_prompt_mask)


def embed_packed(
    config: Pi0Config, params: Params, observation: Observation, packing: Packing
) -> tuple[Float[Array, "g p e"], PackedRows]:
    """Packed tokens: in each group the images that are there, then all prompts; and where they belong."""
    pixels, there = stack_cameras(observation)
    places = place_images(packing, there)
    packed = places.pack(pixels.reshape(packing.groups, -1, *pixels.shape[2:]))
    images = embed_images(config, params, packed.reshape(-1, *packed.shape[2:]))
    text = embed_prompt(params, observation).astype(images.dtype)
    groups = [array.reshape(packing.groups, -1, array.shape[-1]) for array in (images, text)]
    valid = valid_tokens(config, places.kept.reshape(there.shape), observation.tokenized_prompt_mask)
    rows = place_tokens(places, valid, config.siglip.tokens, config.max_tokens)
    return jnp.concatenate(groups, axis=1), rows


def stack_cameras(observation: Observation) -> tuple[Shaped[Array, "b n y x c"], Bool[Array, "b n"]]:
    """Pixels of all cameras of the observation, in `CAMERAS` order, and which are there."""
    names = [name for name in CAMERAS if name in observation.images]
    pixels = jnp.stack([observation.images[name] for name in names], axis=1)
    return pixels, jnp.stack([observation.image_masks[name] for name in names], axis=1)


def embed_images(config: Pi0Config, params: Params, images: Shaped[Array, "b y x c"]) -> Float[Array, "b s e"]:
    """Image tokens in the prefix's width, of pixels as `Observation` holds them."""
    pixels = to_unit_range(shrink_images(images, config.image_size))
    return encode_images(config.siglip, params["PaliGemma"]["img"], pixels, dtype=config.dtype, how=execution(config))


def embed_prompt(params: Params, observation: Observation) -> Float[Array, "b s e"]:
    """Text tokens in the prefix's width."""
    return embed_text(params["PaliGemma"]["llm"]["embedder"]["input_embedding"], observation.tokenized_prompt)


def valid_tokens(config: Pi0Config, there: Bool[Array, "b n"], prompt: Bool[Array, "b s"]) -> Bool[Array, "b t"]:
    """Which tokens of the unpacked prefix are no padding."""
    return jnp.concatenate([jnp.repeat(there, config.siglip.tokens, axis=1), prompt], axis=1)


def embed_suffix(
    config: Pi0Config,
    params: Params,
    state: Float[Array, "b d"],
    noisy_actions: Float[Array, "b h d"],
    time: Float[Array, " b"],
) -> Suffix:
    """State token and action tokens; the flow time enters the actions, or in pi05 the norms."""
    embedded_time = flow.time_embedding(time, config.expert.width)
    actions = dense(noisy_actions, params["action_in_proj"])
    if config.pi05:
        hidden = jax.nn.swish(dense(embedded_time, params["time_mlp_in"]))
        cond = jax.nn.swish(dense(hidden, params["time_mlp_out"]))
        return Suffix(tokens=actions, starts_block=jnp.arange(config.horizon) == 0, cond=cond)
    times = jnp.broadcast_to(embedded_time[:, None], actions.shape)
    # openpi's order, actions before time: published weights of action_time_mlp_in mean these rows.
    hidden = jax.nn.swish(dense(jnp.concatenate([actions, times], axis=-1), params["action_time_mlp_in"]))
    actions = dense(hidden, params["action_time_mlp_out"])
    state_token = dense(state, params["state_proj"])[:, None]
    tokens = jnp.concatenate([state_token, actions], axis=1)
    # The state is a block of its own, which does not see the noisy actions: three blocks, as in the paper.
    return Suffix(tokens=tokens, starts_block=jnp.arange(config.horizon + 1) < 2, cond=None)


def execution(config: Pi0Config) -> Execution:
    """How this config runs its layers."""
    return Execution(remat=config.remat, unroll=config.unroll, attention=config.attention)


def prefix_blocks(length: int) -> Bool[Array, " s"]:
    """Images and prompt are one block."""
    return jnp.zeros(length, bool)


def whole_sequence(
    prefix_valid: Bool[Array, "b p"], suffix_blocks: Bool[Array, " s"]
) -> tuple[Bool[Array, "b t"], Bool[Array, " t"]]:
    """Validity and block starts of prefix and suffix together; no suffix token is ever padding."""
    batch, length = prefix_valid.shape
    suffix_valid = jnp.ones((batch, suffix_blocks.shape[0]), bool)
    valid = jnp.concatenate([prefix_valid, suffix_valid], axis=1)
    return valid, jnp.concatenate([prefix_blocks(length), suffix_blocks])
