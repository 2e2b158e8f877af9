"""Ways of computing the loss that the benchmarks compare with, and what any of them costs in FLOP."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from model import flow, gemma, pi0, policy
from model.attention import apply_rope, attend, attention_mask, token_positions
from model.config import GemmaConfig, Pi0Config
from model.inputs import CAMERAS, Observation
from model.params import Params
from model.siglip import dense

Loss = Callable[..., jax.Array]


def everything_loss(
    config: Pi0Config,
    params: Params,
    seen: Observation,
    actions: jax.Array,
    noise: jax.Array,
    time_: jax.Array,
) -> jax.Array:
    """The loss by one joint pass: both experts through every layer, one attention over all tokens."""
    llm = params["PaliGemma"]["llm"]
    prefix, prefix_valid = pi0.embed_prefix(config, params, seen)
    suffix = pi0.embed_suffix(config, params, seen.state, flow.interpolate(noise, actions, time_), time_)
    valid, starts_block = pi0.whole_sequence(prefix_valid, suffix.starts_block)
    mask, positions = attention_mask(valid, starts_block), token_positions(valid)
    length = prefix.shape[1]
    places = (positions[:, :length], positions[:, length:])

    def body(streams: tuple, layers: tuple) -> tuple[tuple, None]:
        normed = [
            gemma.rms_norm(x, layer["pre_attention_norm"], None)[0] for x, layer in zip(streams, layers, strict=True)
        ]
        caches = [gemma.keys_values(*each) for each in zip(layers, normed, places, strict=True)]
        queries = [
            apply_rope(gemma.project(x, layer["q_einsum"], "bse,nek->bsnk", "", ""), place)
            for x, layer, place in zip(normed, layers, places, strict=True)
        ]
        k, v = (jnp.concatenate(parts, 1) for parts in zip(*[(c.k, c.v) for c in caches], strict=True))
        mixed = attend(jnp.concatenate(queries, 1), k, v, mask, config.attention)
        out = []
        for x, layer, part in zip(streams, layers, jnp.split(mixed, [length], axis=1), strict=True):
            x = x + gemma.project(part, layer["attn_vec_einsum"], "bsnk,nke->bse", "", "")
            out.append(x + gemma.feed_forward(layer["mlp"], gemma.rms_norm(x, layer["pre_ffw_norm"], None)[0]))
        return tuple(out), None

    streams = (prefix.astype(config.dtype), suffix.tokens.astype(config.dtype))
    layers = tuple(gemma.expert_layers(llm["layers"], index) for index in (0, 1))
    streams, _ = pi0.execution(config).scan(body, streams, layers)
    out, _ = gemma.rms_norm(streams[1], llm["final_norm_1"], None)
    predicted = dense(out[:, -config.horizon :].astype(jnp.float32), params["action_out_proj"])
    return jnp.square(predicted - flow.target_velocity(noise, actions))


def bucketed_loss(counts: np.ndarray) -> Loss:
    """The loss by one pass per number of cameras; sample i has the first `counts[i]` of them."""

    def loss(config: Any, params: Params, seen: Observation, *each: jax.Array) -> jax.Array:
        order, parts = [], []
        for count in np.unique(counts):
            rows = np.flatnonzero(counts == count)
            part, *numbers = jax.tree.map(lambda x, rows=rows: x[rows], (seen, *each))
            kept = CAMERAS[:count]
            part = part.replace(
                images={name: part.images[name] for name in kept},
                image_masks={name: part.image_masks[name] for name in kept},
            )
            parts.append(policy.loss_elements(config, params, part, *numbers))
            order.append(rows)
        return jnp.concatenate(parts)[np.argsort(np.concatenate(order))]

    return loss


def traced_flops(function: Callable, *inputs: Any) -> float:
    """FLOP of all products in a function as traced, two per multiply-add, loops counted as often as they run.

    XLA's own count takes the body of a loop once, and so misses most of a scan over layers.
    """
    return _flops(jax.make_jaxpr(function)(*inputs).jaxpr)


def _flops(jaxpr: core.Jaxpr) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            size = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2.0 * size * math.prod(equation.outvars[0].aval.shape)
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(inner):
                total += times * _flops(getattr(inner, "jaxpr", inner))
    return total


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)


def forward_flops(config: Pi0Config, cameras: int, *, lean: bool) -> float:
    """FLOP of one sample's forward pass: two per multiply-add in products with weights and in attention."""
    vit, tokens = config.siglip, config.siglip.tokens
    block = 4 * vit.width**2 + 2 * vit.width * vit.mlp_dim + 2 * tokens * vit.width
    patches = 3 * vit.patch_size**2 * vit.width + vit.width * config.prefix.width
    images = cameras * tokens * (vit.depth * block + patches)
    prefix = cameras * tokens + config.max_tokens
    suffix = config.horizon + (0 if config.pi05 else 1)
    seen = prefix if lean else prefix + suffix
    depth, heads = config.prefix.depth, config.prefix.heads * config.prefix.head_dim
    first = depth * (_gemma_weights(config.prefix) + 2 * seen * heads)
    if lean:
        kv = 2 * config.prefix.width * config.prefix.kv_heads * config.prefix.head_dim
        first -= _gemma_weights(config.prefix) + 2 * seen * heads - kv
    second = depth * (_gemma_weights(config.expert) + 2 * (prefix + suffix) * heads)
    width, dims = config.expert.width, config.action_dim
    ends = config.horizon * (2 * dims * width + (0 if config.pi05 else 3 * width**2)) + dims * width
    return 2.0 * (images + prefix * first + suffix * second + ends)


def _gemma_weights(config: GemmaConfig) -> int:
    attention = 2 * config.width * config.heads * config.head_dim
    return attention + 2 * config.width * config.kv_heads * config.head_dim + 3 * config.width * config.mlp_dim
