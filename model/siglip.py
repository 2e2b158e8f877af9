# ruff: noqa: F722
"""The image encoder: SigLIP's vision transformer without pooling, and the linear head into Gemma's width."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, PRNGKeyArray

from model.arrays import Array
from model.attention import attend
from model.config import Attention, DType, SiglipConfig
from model.layers import PLAIN, Execution, narrow_weights, whole_weights
from model.params import ParameterSpec, Params, fan_in, ones, prefixed, zeros

EPS = 1e-6


def siglip_specs(config: SiglipConfig, out_width: int) -> dict[str, ParameterSpec]:
    """Declares the parameters; a leading axis of length `depth` is the layer."""
    width, mlp, depth, patch = config.width, config.mlp_dim, config.depth, config.patch_size
    specs = {
        "embedding/kernel": ParameterSpec(shape=(patch, patch, 3, width), init=fan_in(patch * patch * 3)),
        "embedding/bias": ParameterSpec(shape=(width,), init=zeros),
        "pos_embedding": ParameterSpec(shape=(1, config.tokens, width), init=sincos_2d),
        "Transformer/encoder_norm/scale": ParameterSpec(shape=(width,), init=ones),
        "Transformer/encoder_norm/bias": ParameterSpec(shape=(width,), init=zeros),
        "head/kernel": ParameterSpec(shape=(width, out_width), init=fan_in(width)),
        "head/bias": ParameterSpec(shape=(out_width,), init=zeros),
    }
    return specs | prefixed("Transformer/encoderblock", block_specs(depth, width, mlp, config.heads))


def block_specs(depth: int, width: int, mlp: int, heads: int) -> dict[str, ParameterSpec]:
    """Declares `depth` stacked pre-norm encoder blocks."""
    specs = {}
    for norm in ("LayerNorm_0", "LayerNorm_1"):
        specs[f"{norm}/scale"] = ParameterSpec(shape=(depth, width), init=ones)
        specs[f"{norm}/bias"] = ParameterSpec(shape=(depth, width), init=zeros)
    attention = "MultiHeadDotProductAttention_0/"
    for name in ("query", "key", "value"):
        specs[f"{attention}{name}/kernel"] = ParameterSpec(
            shape=(depth, width, heads, width // heads), init=fan_in(width)
        )
        specs[f"{attention}{name}/bias"] = ParameterSpec(shape=(depth, heads, width // heads), init=zeros)
    specs[f"{attention}out/kernel"] = ParameterSpec(shape=(depth, heads, width // heads, width), init=fan_in(width))
    specs[f"{attention}out/bias"] = ParameterSpec(shape=(depth, width), init=zeros)
    for name, inputs, outputs in (("Dense_0", width, mlp), ("Dense_1", mlp, width)):
        specs[f"MlpBlock_0/{name}/kernel"] = ParameterSpec(shape=(depth, inputs, outputs), init=fan_in(inputs))
        specs[f"MlpBlock_0/{name}/bias"] = ParameterSpec(shape=(depth, outputs), init=zeros)
    return specs


def sincos_2d(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "1 s e"]:
    """A starting position embedding that distinguishes row and column: a quarter of the width each of
    sin and cos of row and column. Learned from there on. A width not divisible by 4 is filled with zeros."""
    _, tokens, width = shape
    side, quarter = round(tokens**0.5), width // 4
    rates = 1.0 / 100.0 ** (np.arange(quarter) / max(quarter, 1))
    rows, columns = np.divmod(np.arange(tokens), side)
    waves = [wave(place[:, None] * rates) for place in (rows, columns) for wave in (np.sin, np.cos)]
    table = np.concatenate([*waves, np.zeros((tokens, width - 4 * quarter))], axis=1)
    return jnp.asarray(table[None], jnp.float32)


def encode_images(
    config: SiglipConfig,
    params: Params,
    images: Float[Array, "b y x c"],
    *,
    dtype: DType = "float32",
    how: Execution = PLAIN,
) -> Float[Array, "b s e"]:
    """Turns images in [-1, 1] into tokens, row-major over patches. Patches and positions are float32."""
    x = patch_tokens(config.patch_size, params["embedding"], images) + params["pos_embedding"]
    x = x.astype(dtype)

    x = run_blocks(params["Transformer"]["encoderblock"], x, None, how)
    return dense(layer_norm(x, params["Transformer"]["encoder_norm"]), params["head"])


def run_blocks(
    layers: Params, x: Float[Array, "b s e"], mask: Bool[Array, "b 1 s"] | None, how: Execution
) -> Float[Array, "b s e"]:
    """Runs pre-norm blocks: x + attention(norm(x)), then x + mlp(norm(x))."""

    def block(x: Float[Array, "b s e"], layer: Params) -> tuple[Float[Array, "b s e"], None]:
        layer = whole_weights(layer)
        normed = layer_norm(x, layer["LayerNorm_0"])
        attention = layer["MultiHeadDotProductAttention_0"]
        x = x + multi_head_attention(attention, normed, normed, mask, how.attention)
        return x + mlp(layer["MlpBlock_0"], layer_norm(x, layer["LayerNorm_1"])), None

    return how.scan(block, x, narrow_weights(layers, x.dtype))[0]


def patch_tokens(patch: int, embedding: Params, images: Float[Array, "b y x c"]) -> Float[Array, "b s e"]:
    """A convolution with stride = kernel, as a product over each patch's rows and pixels."""
    batch, height, width, channels = images.shape
    rows = images.reshape(batch * height // patch, patch, width // patch, patch * channels)
    kernel = embedding["kernel"].reshape(patch, patch * channels, -1)
    tokens = jnp.einsum("brsk,rke->bse", rows, kernel)
    return tokens.reshape(batch, -1, tokens.shape[-1]) + embedding["bias"]


def layer_norm(x: Float[Array, "*b e"], params: Params, eps: float = EPS) -> Float[Array, "*b e"]:
    """LayerNorm, float32 inside."""
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(variance + eps) * params["scale"] + params["bias"]
    return normed.astype(x.dtype)


def dense(x: Float[Array, "*b e"], params: Params) -> Float[Array, "*b f"]:
    """A linear layer in the dtype of `x`."""
    return add_bias(x @ params["kernel"].astype(x.dtype), params["bias"])


def add_bias(x: Float[Array, "*b"], bias: Float[Array, "*f"]) -> Float[Array, "*b"]:
    """Adds in float32: the bias's gradient is a sum over all tokens, too long for bfloat16."""
    return (x.astype(jnp.float32) + bias).astype(x.dtype)


def multi_head_attention(
    params: Params,
    x: Float[Array, "b s e"],
    seen: Float[Array, "b t f"],
    mask: Bool[Array, "b r t"] | None,
    kernel: Attention,
) -> Float[Array, "b s e"]:
    """Queries from `x`, keys and values from `seen`, all with biases."""
    query, key, value = (
        split_heads(params[name], source) for name, source in (("query", x), ("key", seen), ("value", seen))
    )
    return join_heads(params["out"], attend(query, key, value, mask, kernel))


def split_heads(params: Params, x: Float[Array, "b s e"]) -> Float[Array, "b s n k"]:
    """A linear layer into heads."""
    return add_bias(jnp.einsum("bse,enk->bsnk", x, params["kernel"].astype(x.dtype)), params["bias"])


def join_heads(params: Params, x: Float[Array, "b s n k"]) -> Float[Array, "b s e"]:
    """A linear layer out of heads."""
    return add_bias(jnp.einsum("bsnk,nke->bse", x, params["kernel"].astype(x.dtype)), params["bias"])


def mlp(params: Params, x: Float[Array, "b s e"]) -> Float[Array, "b s e"]:
    """Two linear layers with tanh-GELU between."""
    return dense(jax.nn.gelu(dense(x, params["Dense_0"]), approximate=True), params["Dense_1"])
