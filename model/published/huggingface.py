"""Hugging Face's names and orders of PaliGemma and pi0 weights, both ways."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np

from model.config import GemmaConfig, Pi0Config, SiglipConfig

Arrays = dict[str, np.ndarray]
Convert = Callable[[np.ndarray], np.ndarray]

# Key styles seen in published files, all mapped to one: `vision.`, `text.`, `expert.`, `projector.`.
STYLES = (
    (re.compile(r"^(model\.)?paligemma_with_expert\."), ""),
    (re.compile(r"^model\.(?=action_|state_proj|time_mlp)"), ""),
    (re.compile(r"^paligemma\."), ""),
    (re.compile(r"^model\.(?=language_model|vision_tower|multi_modal_projector)"), ""),
    (re.compile(r"^vision_tower\.(vision_model\.)?"), "vision."),
    (re.compile(r"^language_model\.(model\.)?"), "text."),
    (re.compile(r"^gemma_expert\.(model\.)?"), "expert."),
    (re.compile(r"^multi_modal_projector\.linear\."), "projector."),
)
# How `export` writes them: transformers' PaliGemma as on the hub, and pi0 as transformers and as LeRobot save it.
PALIGEMMA_STYLE = {
    "vision.": "vision_tower.vision_model.",
    "text.": "language_model.model.",
    "projector.": "multi_modal_projector.linear.",
}
PI0_STYLE = {
    # The name of PaliGemma on the hub, which every version of transformers reads; from 5.6 on they write it without.
    "vision.": "paligemma_with_expert.paligemma.model.vision_tower.vision_model.",
    "text.": "paligemma_with_expert.paligemma.model.language_model.model.",
    "projector.": "paligemma_with_expert.paligemma.model.multi_modal_projector.linear.",
    "expert.": "paligemma_with_expert.gemma_expert.model.",
}
# LeRobot's policies hold the network as `model`, in transformers' names of before version 5 for both encoders.
LEROBOT_STYLE = {
    "vision.": "model.paligemma_with_expert.paligemma.model.vision_tower.vision_model.",
    "text.": "model.paligemma_with_expert.paligemma.model.language_model.",
    "projector.": "model.paligemma_with_expert.paligemma.model.multi_modal_projector.linear.",
    "expert.": "model.paligemma_with_expert.gemma_expert.model.",
    "action_": "model.action_",
    "state_proj": "model.state_proj",
    "time_mlp": "model.time_mlp",
}
# Some files hold the tied embedding under the name of the output head alone.
EMBEDDING, HEADS = "text.embed_tokens.weight", ("lm_head.weight", "text.lm_head.weight")
# Output heads are tied to the embedding or unused; the expert reads no text.
INPUT_EMBEDDING = "PaliGemma/llm/embedder/input_embedding"
UNUSED = re.compile(r"(^|\.)lm_head\.weight$|^expert\.embed_tokens\.weight$|\.position_ids$")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One array in both layouts; `{}` in `theirs` is the layer, `part` the index on our second axis."""

    theirs: str
    ours: str
    read: Convert
    write: Convert
    part: int | None = None
    depth: int | None = None


def canonical_name(name: str) -> str:
    """Brings any published key style to the one that the rules use."""
    for pattern, replacement in STYLES:
        name = pattern.sub(replacement, name)
    return name


def styled_name(name: str, style: Mapping[str, str]) -> str:
    """Inverse of `canonical_name` for one style."""
    for short, long in style.items():
        if name.startswith(short):
            return long + name.removeprefix(short)
    return name


def from_huggingface(
    config: Pi0Config, theirs: Mapping[str, np.ndarray]
) -> tuple[dict[str, Callable[[], np.ndarray]], list[str]]:
    """What is there by our flat names, converted when it is read; also returns their names that no rule reads.

    Embedding rows beyond the config's vocabulary are padding and left out.
    """
    named = {canonical_name(name): array for name, array in theirs.items()}
    # LeRobot's files store the embedding only as the output head that it is tied to.
    for head in HEADS:
        if head in named:
            named.setdefault(EMBEDDING, named[head])
    ours: dict[str, Callable[[], np.ndarray]] = {}
    read: set[str] = set()
    for name, rules in _by_ours(config).items():
        keys = [key for rule in rules for key in _keys(rule)]
        if all(key in named for key in keys):
            # Hugging Face pads PaliGemma's 257,152 rows to 257,216.
            rows = config.vocab_size if name == INPUT_EMBEDDING else None
            ours[name] = partial(_gather, rules, named, rows)
            read.update(keys)
    return ours, sorted(name for name in set(named) - read if not UNUSED.search(name))


def to_huggingface(config: Pi0Config, ours: Mapping[str, np.ndarray], style: Mapping[str, str]) -> Arrays:
    """Converts our flat names to theirs, as far as `ours` has them."""
    theirs: Arrays = {}
    for name, rules in _by_ours(config).items():
        for rule in rules if name in ours else []:
            array = np.asarray(ours[name])
            for layer, key in enumerate(_keys(rule)):
                piece = array if rule.depth is None else array[layer]
                # Theirs has a file entry a layer, and apart for key and value, gate and up; ours is one array for all
                # layers.
                piece = piece if rule.part is None else piece[rule.part]
                theirs[styled_name(key, style)] = np.ascontiguousarray(rule.write(piece))
    return theirs


def unused_heads(config: Pi0Config, layout: str, embedding: np.ndarray) -> Arrays:
    """Output heads that no policy uses, without which a file is refused or reported as incomplete.

    That of the expert is zeros, that of Gemma, which LeRobot alone stores apart, the embedding that it is tied to.
    """
    zeros = np.zeros((config.vocab_size, config.expert.width), ml_dtypes.bfloat16)
    if layout == "hf-pi0":
        return {"paligemma_with_expert.gemma_expert.lm_head.weight": zeros}
    root = "model.paligemma_with_expert."
    return {f"{root}paligemma.lm_head.weight": embedding, f"{root}gemma_expert.lm_head.weight": zeros}


def huggingface_config(config: Pi0Config, layout: str) -> dict[str, Any]:
    """The `config.json` that belongs to exported weights."""
    vlm = {
        "architectures": ["PaliGemmaForConditionalGeneration"],
        "model_type": "paligemma",
        "hidden_size": config.prefix.width,
        "projection_dim": config.prefix.width,
        "tie_word_embeddings": True,
        "text_config": _text_config(config.prefix, config.vocab_size),
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": config.siglip.width,
            "intermediate_size": config.siglip.mlp_dim,
            "num_hidden_layers": config.siglip.depth,
            "num_attention_heads": config.siglip.heads,
            "patch_size": config.siglip.patch_size,
            "image_size": config.siglip.image_size,
            "num_image_tokens": config.siglip.tokens,
            "projection_dim": config.prefix.width,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-6,
            "vision_use_head": False,
        },
    }
    if layout == "hf-paligemma":
        return vlm
    return {
        "architectures": ["PI0ForConditionalGeneration"],
        "model_type": "pi0",
        "chunk_size": config.horizon,
        "max_action_dim": config.action_dim,
        "max_state_dim": config.action_dim,
        "vlm_config": vlm,
        "dit_config": _text_config(config.expert, config.vocab_size),
    }


def _text_config(config: GemmaConfig, vocab_size: int) -> dict[str, Any]:
    return {
        "model_type": "gemma",
        "hidden_size": config.width,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "use_bidirectional_attention": True,
        "vocab_size": vocab_size,
    }


def _by_ours(config: Pi0Config) -> dict[str, list[Rule]]:
    rules = [
        *_vision_rules(config.siglip),
        *_gemma_rules("text.", "", config.prefix, adaptive=False),
        *_gemma_rules("expert.", "_1", config.expert, adaptive=config.pi05),
        _rule(EMBEDDING, INPUT_EMBEDDING, _same, _same),
        *(rule for name in _linears(config) for rule in _dense(name, name)),
    ]
    grouped: dict[str, list[Rule]] = {}
    for rule in rules:
        grouped.setdefault(rule.ours, []).append(rule)
    return grouped


def _linears(config: Pi0Config) -> tuple[str, ...]:
    shared = ("action_in_proj", "action_out_proj")
    if config.pi05:
        return (*shared, "time_mlp_in", "time_mlp_out")
    return (*shared, "state_proj", "action_time_mlp_in", "action_time_mlp_out")


def _vision_rules(config: SiglipConfig) -> list[Rule]:
    width, heads, head_dim, depth = config.width, config.heads, config.head_dim, config.depth
    root, block = "PaliGemma/img/", "PaliGemma/img/Transformer/encoderblock/"
    layer, attention = "vision.encoder.layers.{}.", "MultiHeadDotProductAttention_0/"

    def split_heads(array: np.ndarray) -> np.ndarray:
        return array.T.reshape(width, heads, head_dim)

    rules = [
        _rule(
            "vision.embeddings.patch_embedding.weight",
            root + "embedding/kernel",
            lambda w: w.transpose(2, 3, 1, 0),
            lambda w: w.transpose(3, 2, 0, 1),
        ),
        _rule("vision.embeddings.patch_embedding.bias", root + "embedding/bias", _same, _same),
        _rule(
            "vision.embeddings.position_embedding.weight",
            root + "pos_embedding",
            lambda w: w[None],
            lambda w: w[0],
        ),
        *_norm("vision.post_layernorm", root + "Transformer/encoder_norm", None),
        *_dense("projector", root + "head"),
        *(rule for i in (0, 1) for rule in _norm(f"{layer}layer_norm{i + 1}", f"{block}LayerNorm_{i}", depth)),
        *(rule for i in (0, 1) for rule in _dense(f"{layer}mlp.fc{i + 1}", f"{block}MlpBlock_0/Dense_{i}", depth)),
        _rule(
            f"{layer}self_attn.out_proj.weight",
            f"{block}{attention}out/kernel",
            lambda w: w.T.reshape(heads, head_dim, width),
            lambda w: w.reshape(width, width).T,
            depth=depth,
        ),
        _rule(f"{layer}self_attn.out_proj.bias", f"{block}{attention}out/bias", _same, _same, depth=depth),
    ]
    for short, name in (("q", "query"), ("k", "key"), ("v", "value")):
        theirs, ours = f"{layer}self_attn.{short}_proj", f"{block}{attention}{name}"
        rules += [
            _rule(
                f"{theirs}.weight",
                f"{ours}/kernel",
                split_heads,
                lambda w: w.reshape(width, width).T,
                depth=depth,
            ),
            _rule(
                f"{theirs}.bias",
                f"{ours}/bias",
                lambda b: b.reshape(heads, head_dim),
                lambda b: b.reshape(width),
                depth=depth,
            ),
        ]
    return rules


def _gemma_rules(prefix: str, tail: str, config: GemmaConfig, *, adaptive: bool) -> list[Rule]:
    width, head_dim, depth = config.width, config.head_dim, config.depth
    layer, layers = f"{prefix}layers.{{}}.", "PaliGemma/llm/layers/"

    def head_rule(theirs: str, ours: str, heads: int, part: int | None) -> Rule:
        return _rule(
            f"{layer}self_attn.{theirs}_proj.weight",
            f"{layers}attn/{ours}{tail}/w",
            lambda w: w.reshape(heads, head_dim, width).transpose(0, 2, 1),
            lambda w: w.transpose(0, 2, 1).reshape(heads * head_dim, width),
            depth=depth,
            part=part,
        )

    def mlp_rule(theirs: str, ours: str, part: int | None) -> Rule:
        key = f"{layer}mlp.{theirs}_proj.weight"
        return _rule(key, f"{layers}mlp{tail}/{ours}", _transposed, _transposed, depth=depth, part=part)

    norms = (
        (f"{layer}input_layernorm", f"{layers}pre_attention_norm{tail}", depth),
        (f"{layer}post_attention_layernorm", f"{layers}pre_ffw_norm{tail}", depth),
        (f"{prefix}norm", f"PaliGemma/llm/final_norm{tail}", None),
    )
    rules = [
        head_rule("q", "q_einsum", config.heads, None),
        head_rule("k", "kv_einsum", config.kv_heads, 0),
        head_rule("v", "kv_einsum", config.kv_heads, 1),
        _rule(
            f"{layer}self_attn.o_proj.weight",
            f"{layers}attn/attn_vec_einsum{tail}/w",
            lambda w: w.T.reshape(config.heads, head_dim, width),
            lambda w: w.reshape(config.heads * head_dim, width).T,
            depth=depth,
        ),
        mlp_rule("gate", "gating_einsum", 0),
        mlp_rule("up", "gating_einsum", 1),
        mlp_rule("down", "linear", None),
    ]
    for theirs, ours, count in norms:
        if adaptive:
            rules += _dense(f"{theirs}.dense", f"{ours}/Dense_0", count)
        else:
            rules.append(_rule(f"{theirs}.weight", f"{ours}/scale", _same, _same, depth=count))
    return rules


def _dense(theirs: str, ours: str, depth: int | None = None) -> list[Rule]:
    return [
        _rule(f"{theirs}.weight", f"{ours}/kernel", _transposed, _transposed, depth=depth),
        _rule(f"{theirs}.bias", f"{ours}/bias", _same, _same, depth=depth),
    ]


def _norm(theirs: str, ours: str, depth: int | None) -> list[Rule]:
    return [
        _rule(f"{theirs}.weight", f"{ours}/scale", _same, _same, depth=depth),
        _rule(f"{theirs}.bias", f"{ours}/bias", _same, _same, depth=depth),
    ]


def _rule(
    theirs: str,
    ours: str,
    read: Convert,
    write: Convert,
    *,
    depth: int | None = None,
    part: int | None = None,
) -> Rule:
    return Rule(theirs=theirs, ours=ours, read=read, write=write, depth=depth, part=part)


def _keys(rule: Rule) -> list[str]:
    return [rule.theirs] if rule.depth is None else [rule.theirs.format(i) for i in range(rule.depth)]


def _gather(rules: list[Rule], named: Mapping[str, np.ndarray], rows: int | None) -> np.ndarray:
    def stacked(rule: Rule) -> np.ndarray:
        pieces = [rule.read(named[key]) for key in _keys(rule)]
        return pieces[0] if rule.depth is None else np.stack(pieces)

    if rules[0].part is None:
        return stacked(rules[0])[:rows]
    return np.stack([stacked(rule) for rule in sorted(rules, key=_part)], axis=1)


def _part(rule: Rule) -> int:
    assert rule.part is not None
    return rule.part


def _same(array: np.ndarray) -> np.ndarray:
    return array


def _transposed(array: np.ndarray) -> np.ndarray:
    return array.T
