# ruff: noqa: F722
"""Attention: which token sees which, where each stands, and the weighted sum itself."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

ROPE_BASE = 10_000.0


def attention_mask(valid: Bool[Array, "b s"], starts_block: Bool[Array, " s"]) -> Bool[Array, "b s s"]:
    """True where the query (row) may see the key (column).

    Tokens are bidirectional inside a block and see all blocks before it; a True in `starts_block` opens a
    new block. Padding is masked as row and as column. Two image tokens, state, and two action tokens,

        valid        = [1 1 1 1 1]
        starts_block = [0 0 1 1 0]

    give

        1 1 0 0 0      image
        1 1 0 0 0      image
        1 1 1 0 0      state sees images and itself
        1 1 1 1 1      action sees all
        1 1 1 1 1      action

    and with valid = [1 0 1 1 1] row 1 and column 1 become 0.
    """
    block = jnp.cumsum(starts_block)
    sees = block[None, :] <= block[:, None]
    return sees[None] & valid[:, :, None] & valid[:, None, :]


def token_positions(valid: Bool[Array, "b s"]) -> Int[Array, "b s"]:
    """Place of each token among the valid ones: [1 0 1 1] gives [0 0 1 2].

    Padding takes no place, which is why leaving a camera out equals masking it.
    """
    return jnp.cumsum(valid, axis=1) - 1


def apply_rope(x: Float[Array, "b s n k"], positions: Int[Array, "b s"]) -> Float[Array, "b s n k"]:
    """Rotates halves (i, i + k/2) by position * 10000^(-2i/k); float32 inside."""
    half = x.shape[-1] // 2
    timescale = ROPE_BASE ** (jnp.arange(half, dtype=jnp.float32) / half)
    angle = positions[..., None, None].astype(jnp.float32) / timescale
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)


def attend(
    query: Float[Array, "b s n k"],
    key: Float[Array, "b t m k"],
    value: Float[Array, "b t m k"],
    mask: Bool[Array, "b s t"] | None = None,
) -> Float[Array, "b s n k"]:
    """Softmax attention with scale k^-0.5; n query heads share m key heads. Logits and softmax in float32."""
    batch, rows, heads, head_dim = query.shape
    groups = key.shape[2]
    query = (query * head_dim**-0.5).reshape(batch, rows, groups, heads // groups, head_dim)
    logits = jnp.einsum("bsmgk,btmk->bmgst", query, key, preferred_element_type=jnp.float32)
    if mask is not None:
        logits = jnp.where(mask[:, None, None], logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("bmgst,btmk->bsmgk", weights, value).reshape(batch, rows, heads, head_dim)
