"""The sizes of a published pi0 policy, from the names and shapes of its arrays and what lies beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.config import GemmaConfig, Pi0Config, SiglipConfig, config_from_params
from model.published.files import orbax_folder, orbax_shapes, read_config_json
from model.published.huggingface import canonical_name
from model.published.safetensors import read_safetensors

Shapes = Mapping[str, tuple[int, ...]]
# PaliGemma's rows that count; Hugging Face pads them to 257,216.
VOCABULARY, PADDED = 257_152, 257_216
# SigLIP So400m has 16 heads of its 1152 wide layers, which no shape says; LeRobot builds no other.
SO400M_WIDTH, SO400M_HEADS = 1152, 16


def sizes_of_weights(path: Path, **overrides: Any) -> Pi0Config:
    """The config of an openpi folder, or of pi0 in a Hugging Face layout; overrides: what shapes do not say.

    ValueError where the file is no pi0 policy, or a size cannot be known.
    """
    folder = orbax_folder(path)
    if folder is not None:
        return config_from_params(orbax_shapes(folder), **overrides)
    shapes = {canonical_name(name): array.shape for name, array in read_safetensors(path).items()}
    return _from_torch(shapes, read_config_json(path), overrides)


def _from_torch(shapes: Shapes, config: Mapping[str, Any], overrides: dict[str, Any]) -> Pi0Config:
    for name in ("expert.layers.0.self_attn.q_proj.weight", "action_in_proj.weight"):
        if name not in shapes:
            raise ValueError(f"not a pi0 policy: {name} is missing; found {len(shapes)} other arrays")
    embedding = next(
        (n for n in ("text.embed_tokens.weight", "text.lm_head.weight", "lm_head.weight") if n in shapes), ""
    )
    rows = shapes[embedding][0] if embedding else VOCABULARY
    return Pi0Config(
        **{
            "siglip": _siglip(shapes, config, overrides.pop("siglip_heads", None)),
            "prefix": _gemma(shapes, "text."),
            "expert": _gemma(shapes, "expert."),
            "vocab_size": VOCABULARY if rows == PADDED else rows,
            "action_dim": shapes["action_in_proj.weight"][1],
            "pi05": "time_mlp_in.weight" in shapes,
            **overrides,
        }
    )


def _siglip(shapes: Shapes, config: Mapping[str, Any], heads: int | None) -> SiglipConfig:
    width, _, patch, _ = shapes["vision.embeddings.patch_embedding.weight"]
    tokens = shapes["vision.embeddings.position_embedding.weight"][0]
    stated = config.get("vlm_config", {}).get("vision_config", {}).get("num_attention_heads")
    found = heads or stated or (SO400M_HEADS if width == SO400M_WIDTH else None)
    if found is None:
        raise ValueError(
            f"SigLIP of width {width}: expected the number of its heads; no shape says it: --siglip-heads N"
        )
    return SiglipConfig(
        width=width,
        depth=_depth(shapes, "vision.encoder.layers."),
        mlp_dim=shapes["vision.encoder.layers.0.mlp.fc1.weight"][0],
        heads=found,
        patch_size=patch,
        image_size=patch * round(tokens**0.5),
    )


def _gemma(shapes: Shapes, part: str) -> GemmaConfig:
    layer = f"{part}layers.0."
    rows, width = shapes[f"{layer}self_attn.q_proj.weight"]
    # Every published pi0 has one head of keys and values, so that its rows are the size of a head.
    head_dim = shapes[f"{layer}self_attn.k_proj.weight"][0]
    return GemmaConfig(
        width=width,
        depth=_depth(shapes, f"{part}layers."),
        mlp_dim=shapes[f"{layer}mlp.gate_proj.weight"][0],
        heads=rows // head_dim,
        kv_heads=1,
        head_dim=head_dim,
    )


def _depth(shapes: Shapes, start: str) -> int:
    return len({name.removeprefix(start).partition(".")[0] for name in shapes if name.startswith(start)})
