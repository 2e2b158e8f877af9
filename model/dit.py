# ruff: noqa: F722
"""The DiT action expert: blocks whose norms the flow time shifts, scales and gates, starting as identity."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from model.arrays import Array
from model.attention import attend
from model.config import EncoderConfig
from model.gemma import Cache
from model.layers import Execution, narrow_weights, whole_weights
from model.params import ParameterSpec, Params, fan_in, prefixed, zeros
from model.siglip import dense, join_heads, mlp, multi_head_attention, split_heads

EPS = 1e-6
BRANCHES = 3  # self-attention, cross-attention, MLP: each has shift, scale and gate


def dit_specs(config: EncoderConfig, seen_width: int) -> dict[str, ParameterSpec]:
    """Declares the stacked blocks; the modulation starts at zero, so that every block starts as identity."""
    width, heads, head_dim, depth = config.width, config.heads, config.head_dim, config.depth
    specs = {
        "modulation/kernel": ParameterSpec(shape=(depth, width, 3 * BRANCHES * width), init=zeros),
        "modulation/bias": ParameterSpec(shape=(depth, 3 * BRANCHES * width), init=zeros),
    }
    for part, source in (("self", width), ("cross", seen_width)):
        for name, inputs in (("query", width), ("key", source), ("value", source)):
            specs[f"{part}/{name}/kernel"] = ParameterSpec(shape=(depth, inputs, heads, head_dim), init=fan_in(inputs))
            specs[f"{part}/{name}/bias"] = ParameterSpec(shape=(depth, heads, head_dim), init=zeros)
        specs[f"{part}/out/kernel"] = ParameterSpec(shape=(depth, heads, head_dim, width), init=fan_in(width))
        specs[f"{part}/out/bias"] = ParameterSpec(shape=(depth, width), init=zeros)
    for name, inputs, outputs in (("Dense_0", width, config.mlp_dim), ("Dense_1", config.mlp_dim, width)):
        specs[f"mlp/{name}/kernel"] = ParameterSpec(shape=(depth, inputs, outputs), init=fan_in(inputs))
        specs[f"mlp/{name}/bias"] = ParameterSpec(shape=(depth, outputs), init=zeros)
    final = {
        "kernel": ParameterSpec(shape=(width, 2 * width), init=zeros),
        "bias": ParameterSpec(shape=(2 * width,), init=zeros),
    }
    return prefixed("layers", specs) | prefixed("final_modulation", final)


def cross_cache(layers: Params, seen: Float[Array, "b t f"], how: Execution) -> Cache:
    """Keys and values of what the expert attends to, for all layers, computed once per observation."""

    def body(_: None, layer: Params) -> tuple[None, Cache]:
        layer = whole_weights(layer)
        return None, Cache(k=split_heads(layer["key"], seen), v=split_heads(layer["value"], seen))

    return how.scan(body, None, narrow_weights({name: layers["cross"][name] for name in ("key", "value")}, seen.dtype))[
        1
    ]


def run_dit(
    params: Params,
    tokens: Float[Array, "b h e"],
    cond: Float[Array, "b e"],
    cache: Cache,
    valid: Bool[Array, "b t"],
    how: Execution,
) -> Float[Array, "b h e"]:
    """Runs the blocks on action tokens, which all see each other, and the modulated norm at the end."""

    def block(x: Float[Array, "b s e"], layer_and_cache: tuple[Params, Cache]) -> tuple[Float[Array, "b s e"], None]:
        layer, seen = layer_and_cache
        layer = whole_weights(layer)
        shifts = jnp.split(dense(cond.astype(x.dtype), layer["modulation"])[:, None], 3 * BRANCHES, axis=-1)
        normed = modulated_norm(x, shifts[0], shifts[1])
        x = x + shifts[2] * multi_head_attention(layer["self"], normed, normed, None, how.attention)
        query = split_heads(layer["cross"]["query"], modulated_norm(x, shifts[3], shifts[4]))
        mixed = attend(query, seen.k, seen.v, valid[:, None], how.attention)
        x = x + shifts[5] * join_heads(layer["cross"]["out"], mixed)
        return x + shifts[8] * mlp(layer["mlp"], modulated_norm(x, shifts[6], shifts[7])), None

    x, _ = how.scan(block, tokens, (narrow_weights(params["layers"], tokens.dtype), cache))
    shift, scale = jnp.split(dense(cond.astype(x.dtype), params["final_modulation"])[:, None], 2, axis=-1)
    return modulated_norm(x, shift, scale)


def modulated_norm(
    x: Float[Array, "b s e"], shift: Float[Array, "b 1 e"], scale: Float[Array, "b 1 e"]
) -> Float[Array, "b s e"]:
    """LayerNorm without parameters of its own, times (1 + scale), plus shift."""
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(axis=-1, keepdims=True)
    normed = centred / jnp.sqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + EPS)
    return (normed * (1.0 + scale) + shift).astype(x.dtype)


def chunk_positions(horizon: int, width: int) -> Float[Array, "h e"]:
    """sin | cos of the position in the action chunk, periods log-spaced from 2 pi to 2 pi * 10000 steps."""
    rates = 10_000.0 ** (-np.arange(width // 2) / (width // 2))
    angle = np.arange(horizon)[:, None] * rates
    return jnp.asarray(np.concatenate([np.sin(angle), np.cos(angle)], axis=1), jnp.float32)
