# ruff: noqa: F722
"""DistilBERT's text encoder: post-norm blocks over word and position embeddings."""

from __future__ import annotations

import re
from collections.abc import Mapping

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from model.arrays import Array
from model.config import DType, EncoderConfig
from model.layers import Execution, narrow_weights, whole_weights
from model.params import ParameterSpec, Params, normal, ones, prefixed, zeros
from model.siglip import dense, layer_norm, multi_head_attention

EPS = 1e-12
INIT = 0.02


def distilbert_specs(config: EncoderConfig, vocab_size: int, positions: int) -> dict[str, ParameterSpec]:
    """Declares the parameters; a leading axis of length `depth` is the layer."""
    width, heads, depth = config.width, config.heads, config.depth
    specs = {
        "embeddings/word": ParameterSpec(shape=(vocab_size, width), init=normal(INIT)),
        "embeddings/position": ParameterSpec(shape=(positions, width), init=normal(INIT)),
        "embeddings/norm/scale": ParameterSpec(shape=(width,), init=ones),
        "embeddings/norm/bias": ParameterSpec(shape=(width,), init=zeros),
    }
    layer = {}
    for name in ("query", "key", "value"):
        layer[f"attention/{name}/kernel"] = ParameterSpec(
            shape=(depth, width, heads, width // heads), init=normal(INIT)
        )
        layer[f"attention/{name}/bias"] = ParameterSpec(shape=(depth, heads, width // heads), init=zeros)
    layer["attention/out/kernel"] = ParameterSpec(shape=(depth, heads, width // heads, width), init=normal(INIT))
    layer["attention/out/bias"] = ParameterSpec(shape=(depth, width), init=zeros)
    for name, inputs, outputs in (("lin1", width, config.mlp_dim), ("lin2", config.mlp_dim, width)):
        layer[f"{name}/kernel"] = ParameterSpec(shape=(depth, inputs, outputs), init=normal(INIT))
        layer[f"{name}/bias"] = ParameterSpec(shape=(depth, outputs), init=zeros)
    for name in ("attention_norm", "output_norm"):
        layer[f"{name}/scale"] = ParameterSpec(shape=(depth, width), init=ones)
        layer[f"{name}/bias"] = ParameterSpec(shape=(depth, width), init=zeros)
    return specs | prefixed("layers", layer)


def encode_text(
    params: Params, tokens: Int[Array, "b s"], mask: Bool[Array, "b s"], *, dtype: DType, how: Execution
) -> Float[Array, "b s e"]:
    """Embeds words and positions from 0, then runs the blocks; padding is seen by no token."""
    embeddings = params["embeddings"]
    x = embeddings["word"][tokens] + embeddings["position"][: tokens.shape[1]]
    x = layer_norm(x, embeddings["norm"], EPS).astype(dtype)

    def block(x: Float[Array, "b s e"], layer: Params) -> tuple[Float[Array, "b s e"], None]:
        layer = whole_weights(layer)
        attended = multi_head_attention(layer["attention"], x, x, mask[:, None], how.attention)
        x = layer_norm(x + attended, layer["attention_norm"], EPS)
        hidden = jax.nn.gelu(dense(x, layer["lin1"]), approximate=False)
        return layer_norm(x + dense(hidden, layer["lin2"]), layer["output_norm"], EPS), None

    return how.scan(block, x, narrow_weights(params["layers"], x.dtype))[0]


def distilbert_from_huggingface(
    config: EncoderConfig, arrays: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Converts Hugging Face's DistilBERT arrays (with or without `distilbert.` before their names) to flat
    names of `distilbert_specs`; also returns the names that it does not use, such as the masked-word head.

    ValueError names an array that is missing.
    """
    named = {re.sub(r"^distilbert\.", "", name): array for name, array in arrays.items()}
    width, heads, read = config.width, config.heads, set()

    def take(name: str) -> np.ndarray:
        if name not in named:
            raise ValueError(f"DistilBERT weights: expected {name}; found {len(named)} other arrays")
        read.add(name)
        return np.asarray(named[name])

    def stack(name: str) -> np.ndarray:
        return np.stack([take(f"transformer.layer.{i}.{name}") for i in range(config.depth)])

    flat = {
        "embeddings/word": take("embeddings.word_embeddings.weight"),
        "embeddings/position": take("embeddings.position_embeddings.weight"),
        "embeddings/norm/scale": take("embeddings.LayerNorm.weight"),
        "embeddings/norm/bias": take("embeddings.LayerNorm.bias"),
    }
    for ours, theirs in (("query", "q_lin"), ("key", "k_lin"), ("value", "v_lin")):
        kernel = stack(f"attention.{theirs}.weight").transpose(0, 2, 1)
        flat[f"layers/attention/{ours}/kernel"] = kernel.reshape(-1, width, heads, width // heads)
        flat[f"layers/attention/{ours}/bias"] = stack(f"attention.{theirs}.bias").reshape(-1, heads, width // heads)
    out = stack("attention.out_lin.weight").transpose(0, 2, 1)
    flat["layers/attention/out/kernel"] = out.reshape(-1, heads, width // heads, width)
    flat["layers/attention/out/bias"] = stack("attention.out_lin.bias")
    for name in ("lin1", "lin2"):
        flat[f"layers/{name}/kernel"] = stack(f"ffn.{name}.weight").transpose(0, 2, 1)
        flat[f"layers/{name}/bias"] = stack(f"ffn.{name}.bias")
    for ours, theirs in (("attention_norm", "sa_layer_norm"), ("output_norm", "output_layer_norm")):
        flat[f"layers/{ours}/scale"] = stack(f"{theirs}.weight")
        flat[f"layers/{ours}/bias"] = stack(f"{theirs}.bias")
    return flat, sorted(set(named) - read)
