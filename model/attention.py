# ruff: noqa: F722
"""Attention: which token sees which, where each stands, and the weighted sum itself."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

from model.arrays import Array
from model.config import Attention

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
    """Position of each token among the valid ones: [1 0 1 1] gives [0 0 1 2].

    Padding takes no position, which is why leaving a camera out equals masking it.
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
    mask: Bool[Array, "b r t"] | None = None,
    kernel: Attention = "auto",
    lengths: Int[Array, " b"] | None = None,
) -> Float[Array, "b s n k"]:
    """Softmax attention with scale k^-0.5; n query heads share m key heads. Logits and softmax in float32.

    The mask has one row per query, or one for all (r = s or 1). `lengths` instead of it says that each row's valid
    tokens come first, and how many they are; padding then gives some finite value.
    `kernel` 'cudnn' never holds the logits in memory and needs an NVIDIA GPU and 16-bit activations; 'auto'
    takes it where it can and 'plain' elsewhere. Both agree to the precision of the activations.
    """
    if takes_cudnn(kernel, query.dtype, query.shape[-1]):
        return _attend_cudnn(query, key, value, mask, lengths)
    if lengths is not None:
        mask = jnp.arange(key.shape[1]) < lengths[:, None, None]
    batch, rows, heads, head_dim = query.shape
    groups = key.shape[2]
    query = (query * head_dim**-0.5).reshape(batch, rows, groups, heads // groups, head_dim)
    logits = jnp.einsum("bsmgk,btmk->bmgst", query, key, preferred_element_type=jnp.float32)
    if mask is not None:
        # Not -inf: the rows of padding see nothing, and a softmax over -inf alone is NaN, which a gradient spreads.
        logits = jnp.where(mask[:, None, None], logits, jnp.finfo(jnp.float32).min)
    # Logits in float32, as openpi has them.
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("bmgst,btmk->bsmgk", weights, value).reshape(batch, rows, heads, head_dim)


def takes_cudnn(kernel: Attention, dtype: DTypeLike, head_dim: int) -> bool:
    """Whether `attend` uses cuDNN: when asked to, or where backend, dtype and head size are what it is made for."""
    if kernel != "auto" or jax.default_backend() != "gpu":
        return kernel == "cudnn"
    capability = _cuda_capability(jax.devices()[0])
    # cuDNN's limits of head size by generation; Gemma's heads have 256.
    largest = 256 if capability >= 9.0 else 128
    # Dtypes are compared as dtypes: the config's "bfloat16" is not equal to the scalar type jnp.bfloat16.
    half = jnp.dtype(dtype) in (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16))
    return half and capability >= 8.0 and head_dim <= largest and head_dim % 8 == 0


def _cuda_capability(device: jax.Device) -> float:
    """The CUDA compute capability, such as 9.0; 0.0 for a device that has none (ROCm says 'gfx942')."""
    try:
        return float(getattr(device, "compute_capability", 0))
    except ValueError:
        return 0.0


def _attend_cudnn(
    query: Float[Array, "b s n k"],
    key: Float[Array, "b t m k"],
    value: Float[Array, "b t m k"],
    mask: Bool[Array, "b r t"] | None,
    lengths: Int[Array, " b"] | None,
) -> Float[Array, "b s n k"]:
    """cuDNN's flash attention, without a mask, by lengths, or with a mask as a bias.

    Lengths are better than a mask where they say enough: no bias is read, and none gets a gradient. What cuDNN
    leaves in the rows of padding is replaced by zeros. With a bias its backward pass wants even lengths, so that
    odd ones (a state token and 50 actions) get one more row and column, which nothing sees.
    """
    cudnn = partial(jax.nn.dot_product_attention, implementation="cudnn")
    if lengths is not None:
        out = cudnn(query, key, value, query_seq_lengths=lengths, key_value_seq_lengths=lengths)
        return jnp.where((jnp.arange(query.shape[1]) < lengths[:, None])[..., None, None], out, 0)
    if mask is None:
        return cudnn(query, key, value)
    rows, columns = query.shape[1], key.shape[1]
    mask = jnp.broadcast_to(mask, (mask.shape[0], rows, columns))
    more_rows, more_columns = rows % 2, columns % 2
    mask = jnp.pad(mask, ((0, 0), (0, more_rows), (0, more_columns)))
    query = jnp.pad(query, ((0, 0), (0, more_rows), (0, 0), (0, 0)))
    key, value = (jnp.pad(x, ((0, 0), (0, more_columns), (0, 0), (0, 0))) for x in (key, value))
    return cudnn(query, key, value, mask=mask[:, None])[:, :rows]
