# ruff: noqa: F722
"""Gemma's decoder for one expert: a stack of layers that may attend to what earlier experts left behind."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Bool, Float, Int

from model.arrays import Array
from model.attention import apply_rope, attend
from model.config import GemmaConfig
from model.layers import PLAIN, Execution, narrow_weights, whole_weights
from model.packing import PackedRows
from model.params import ParameterSpec, Params, fan_in, normal, zeros

EPS = 1e-6


@struct.dataclass
class Cache:
    """Keys (rotated) and values, of one layer or of all stacked."""

    k: Float[Array, "*l b t m k"]
    v: Float[Array, "*l b t m k"]


def gemma_specs(config: GemmaConfig, index: int, *, adaptive: bool = False) -> dict[str, ParameterSpec]:
    """Declares the parameters of expert `index`; the names end in `_1` for the action expert."""
    tail = f"_{index}" if index else ""
    depth, width, mlp, rank = config.depth, config.width, config.mlp_dim, config.lora_rank
    heads, kv_heads, head_dim = config.heads, config.kv_heads, config.head_dim
    specs: dict[str, ParameterSpec] = {}

    def weight(name: str, shape: tuple[int, ...], inputs: int, lora: str) -> None:
        specs[name] = ParameterSpec(shape=(depth, *shape), init=fan_in(inputs))
        if rank:
            specs[f"{lora}_a"] = ParameterSpec(shape=(depth, *shape[:-1], rank), init=normal(0.01))
            specs[f"{lora}_b"] = ParameterSpec(shape=(depth, *shape[:-2], rank, shape[-1]), init=normal(0.01))

    attention_shapes: tuple[tuple[str, tuple[int, ...], int], ...] = (
        # Shapes and names are openpi's, so that its checkpoints load by name and shape.
        ("q_einsum", (heads, width, head_dim), width),
        ("kv_einsum", (2, kv_heads, width, head_dim), width),
        ("attn_vec_einsum", (heads, head_dim, width), heads * head_dim),
    )
    for name, shape, inputs in attention_shapes:
        weight(f"layers/attn/{name}{tail}/w", shape, inputs, f"layers/attn/{name}{tail}/lora")
    mlp_shapes: tuple[tuple[str, tuple[int, ...], int], ...] = (
        ("gating_einsum", (2, width, mlp), width),
        ("linear", (mlp, width), mlp),
    )
    for name, shape, inputs in mlp_shapes:
        weight(f"layers/mlp{tail}/{name}", shape, inputs, f"layers/mlp{tail}/{name}_lora")
    for name in ("pre_attention_norm", "pre_ffw_norm"):
        specs |= _norm_specs(f"layers/{name}{tail}", width, (depth,), adaptive)
    return specs | _norm_specs(f"final_norm{tail}", width, (), adaptive)


def _norm_specs(name: str, width: int, lead: tuple[int, ...], adaptive: bool) -> dict[str, ParameterSpec]:
    if not adaptive:
        return {f"{name}/scale": ParameterSpec(shape=(*lead, width), init=zeros)}
    return {
        f"{name}/Dense_0/kernel": ParameterSpec(shape=(*lead, width, 3 * width), init=zeros),
        f"{name}/Dense_0/bias": ParameterSpec(shape=(*lead, 3 * width), init=zeros),
    }


def embed_text(table: Float[Array, "v e"], tokens: Int[Array, "b s"]) -> Float[Array, "b s e"]:
    """Looks tokens up and scales them by sqrt(width)."""
    # Gemma scales text embeddings; image tokens are not scaled, as in openpi and PaliGemma.
    return table[tokens] * jnp.sqrt(jnp.float32(table.shape[1]))


def run_expert(
    params: Params,
    index: int,
    tokens: Float[Array, "b s e"],
    mask: Bool[Array, "b s t"],
    positions: Int[Array, "b s"],
    *,
    past: Cache | None = None,
    cond: Float[Array, "b e"] | None = None,
    how: Execution = PLAIN,
) -> tuple[Float[Array, "b s e"], Cache]:
    """Runs all layers and the final norm; returns its output and its own keys and values.

    Keys are those of `past` followed by the tokens' own, which is the column order of `mask`.
    """
    layers = narrow_weights(expert_layers(params["layers"], index), tokens.dtype)

    def body(
        x: Float[Array, "b s e"], layer_and_past: tuple[Params, Cache | None]
    ) -> tuple[Float[Array, "b s e"], Cache]:
        layer, seen = layer_and_past
        layer = whole_weights(layer)
        normed, gate = rms_norm(x, layer["pre_attention_norm"], cond)
        own = keys_values(layer, normed, positions)
        x = residual(x, attention(layer, normed, mask, positions, own, seen, how), gate)
        normed, gate = rms_norm(x, layer["pre_ffw_norm"], cond)
        return residual(x, feed_forward(layer["mlp"], normed), gate), own

    x, own = how.scan(body, tokens, (layers, past))
    normed, _ = rms_norm(x, params[f"final_norm{_tail(index)}"], cond)
    return normed, own


@struct.dataclass
class PrefixView:
    """What the tokens of the prefix see of each other, and where they stand.

    Either `mask` says it, or `lengths` does: each sample's valid tokens come first. With `rows` the tokens are
    packed, and `lengths` are those of the samples' rows.
    """

    positions: Int[Array, "g p"]
    mask: Bool[Array, "b s s"] | None = None
    lengths: Int[Array, " b"] | None = None
    rows: PackedRows | None = None


def run_prefix_cache(
    params: Params,
    tokens: Float[Array, "g p e"],
    view: PrefixView,
    *,
    how: Execution = PLAIN,
    by_index: bool = False,
) -> Cache:
    """Keys and values of the first expert, a row per sample, without the work that nothing later reads.

    Of the last layer only its norm, keys and values matter: its queries, attention output and MLP, and the
    final norm, reach neither loss nor action and have zero gradient.

    by_index: the loop picks each layer out of the stack, where otherwise it gets a copy of all but the last one. At
    full size the copy is 7.5 GB for every request. Only without a gradient: that of a picked layer is an array of the
    whole stack's size, and the backward pass would add one up for every layer.
    """
    layers = narrow_weights(expert_layers(params["layers"], 0), tokens.dtype)
    rows, positions = view.rows, view.positions

    def own_keys_values(layer: Params, x: Float[Array, "g p e"]) -> tuple[Float[Array, "g p e"], Cache]:
        normed, _ = rms_norm(x, layer["pre_attention_norm"], None)
        own = keys_values(layer, normed, positions)
        return normed, own if rows is None else jax.tree.map(rows.unpack, own)

    def body(x: Float[Array, "g p e"], layer: Params) -> tuple[Float[Array, "g p e"], Cache]:
        layer = whole_weights(layer)
        normed, own = own_keys_values(layer, x)
        query = queries(layer, normed, positions)
        query = query if rows is None else rows.unpack(query)
        mixed = attend(query, own.k, own.v, view.mask, how.attention, view.lengths)
        x = x + attention_out(layer, mixed if rows is None else rows.pack(mixed))
        normed, _ = rms_norm(x, layer["pre_ffw_norm"], None)
        return x + feed_forward(layer["mlp"], normed), own

    if by_index:
        numbers = jnp.arange(jax.tree.leaves(layers)[0].shape[0] - 1)
        x, own = how.scan(lambda x, i: body(x, jax.tree.map(lambda p: p[i], layers)), tokens, numbers)
    else:
        x, own = how.scan(body, tokens, jax.tree.map(lambda p: p[:-1], layers))
    # Skipped work of the last layer is 4.6 % of a forward pass.
    last = jax.tree.map(lambda p: p[-1], {name: layers[name] for name in ("pre_attention_norm", "kv_einsum")})
    _, final = own_keys_values(whole_weights(last), x)
    return jax.tree.map(lambda seen, end: jnp.concatenate([seen, end[None]]), own, final)


def expert_layers(layers: Params, index: int) -> Params:
    """Picks one expert's stacked layers and drops the `_1` from its names."""
    tail = _tail(index)
    return {
        "q_einsum": layers["attn"][f"q_einsum{tail}"],
        "kv_einsum": layers["attn"][f"kv_einsum{tail}"],
        "attn_vec_einsum": layers["attn"][f"attn_vec_einsum{tail}"],
        "mlp": layers[f"mlp{tail}"],
        "pre_attention_norm": layers[f"pre_attention_norm{tail}"],
        "pre_ffw_norm": layers[f"pre_ffw_norm{tail}"],
    }


def rms_norm(
    x: Float[Array, "b s e"], params: Params, cond: Float[Array, "b e"] | None
) -> tuple[Float[Array, "b s e"], Float[Array, "b 1 e"] | None]:
    """x / rms(x) * (1 + scale), in float32; adaptive: scale, shift and a residual gate come from `cond`."""
    wide = x.astype(jnp.float32)
    normed = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + EPS)
    if "scale" in params:
        # Published scales are offsets from 1; without the 1 the velocity is off by 0.92 (docs/model.md).
        return (normed * (1.0 + params["scale"])).astype(x.dtype), None
    assert cond is not None, "adaptive norms take the flow time"
    projection = params["Dense_0"]
    modulation = cond.astype(x.dtype) @ projection["kernel"].astype(x.dtype) + projection["bias"].astype(x.dtype)
    scale, shift, gate = jnp.split(modulation[:, None, :], 3, axis=-1)
    return (normed * (1.0 + scale) + shift).astype(x.dtype), gate


def residual(
    x: Float[Array, "b s e"], update: Float[Array, "b s e"], gate: Float[Array, "b 1 e"] | None
) -> Float[Array, "b s e"]:
    return x + update if gate is None else x + gate * update


def keys_values(layer: Params, x: Float[Array, "b s e"], positions: Int[Array, "b s"]) -> Cache:
    """Rotated keys, and values, of one layer."""
    k, v = project(x, layer["kv_einsum"], "bse,cmek->cbsmk", "bse,cmer->cbsmr", "cbsmr,cmrk->cbsmk")
    return Cache(k=apply_rope(k, positions), v=v)


def attention(
    layer: Params,
    x: Float[Array, "b s e"],
    mask: Bool[Array, "b s t"],
    positions: Int[Array, "b s"],
    own: Cache,
    past: Cache | None,
    how: Execution,
) -> Float[Array, "b s e"]:
    """Queries from `x` over the keys of `past` and `own`."""
    keys = own if past is None else jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), past, own)
    mixed = attend(queries(layer, x, positions), keys.k, keys.v, mask, how.attention)
    return attention_out(layer, mixed)


def queries(layer: Params, x: Float[Array, "b s e"], positions: Int[Array, "b s"]) -> Float[Array, "b s n k"]:
    """Rotated queries of one layer."""
    query = project(x, layer["q_einsum"], "bse,nek->bsnk", "bse,ner->bsnr", "bsnr,nrk->bsnk")
    return apply_rope(query, positions)


def attention_out(layer: Params, mixed: Float[Array, "b s n k"]) -> Float[Array, "b s e"]:
    """The linear layer out of heads.

    The adapter is openpi's: (sum over heads of x A)(sum over heads of B). openpi derives both einsums by renaming one
    letter of 'BTNH,NHD->BTD' (lora.py), so that the head's letter is missing from the first one's output; the sum of
    (x A) B over heads would be another function of the same published weights.
    """
    return project(mixed, layer["attn_vec_einsum"], "bsnk,nke->bse", "bsnk,nkr->bsr", "bsr,nre->bse")


def project(
    x: Float[Array, "b s *e"], params: Params, product: str, down: str, up: str
) -> Float[Array, "*c b s f"] | Float[Array, "*c b s m k"]:
    """An einsum with `w`, plus a low-rank path where adapters are present."""
    out = jnp.einsum(product, x, params["w"].astype(x.dtype))
    if "lora_a" in params:
        low = jnp.einsum(down, x, params["lora_a"].astype(x.dtype))
        out = out + jnp.einsum(up, low, params["lora_b"].astype(x.dtype))
    return out


def feed_forward(params: Params, x: Float[Array, "b s e"]) -> Float[Array, "b s e"]:
    """gelu(x gate) * (x up), then down; tanh-GELU."""
    # tanh-GELU, as Gemma was trained: exact GELU moves the velocity by 2e-4, within bfloat16's noise but not float32's.
    gate = jax.nn.gelu(_linear(x, params, "gating_einsum", 0), approximate=True)
    return _linear(gate * _linear(x, params, "gating_einsum", 1), params, "linear", None)


def _linear(x: Float[Array, "b s e"], params: Params, name: str, part: int | None) -> Float[Array, "b s f"]:
    def pick(key: str) -> Float[Array, "i o"]:
        return (params[key] if part is None else params[key][part]).astype(x.dtype)

    out = x @ pick(name)
    if f"{name}_lora_a" in params:
        out = out + (x @ pick(f"{name}_lora_a")) @ pick(f"{name}_lora_b")
    return out


def _tail(index: int) -> str:
    return f"_{index}" if index else ""
