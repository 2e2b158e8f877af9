"""Sizes of the policies: frozen configs, the named ones, and reading them back from plain data."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

# Euler steps from noise to actions: the paper's and openpi's number, wherever no other is set.
FLOW_STEPS = 10
DType = Literal["float32", "bfloat16"]
Remat = Literal["none", "dots", "full"]
Attention = Literal["auto", "plain", "cudnn"]


@dataclass(frozen=True, kw_only=True)
class SiglipConfig:
    """Sizes of the image encoder."""

    width: int
    depth: int
    mlp_dim: int
    heads: int
    patch_size: int = 14
    image_size: int = 224

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"SigLIP width must be a multiple of heads; found {self.width} and {self.heads}")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size must be a multiple of patch_size; found {self.image_size} and {self.patch_size}"
            )

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def tokens(self) -> int:
        """Image tokens per camera."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True, kw_only=True)
class GemmaConfig:
    """Sizes of one expert; `lora_rank` 0 has no adapters, and alpha equals rank as in openpi's variants."""

    width: int
    depth: int
    mlp_dim: int
    heads: int
    kv_heads: int
    head_dim: int
    lora_rank: int = 0

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads must be a multiple of kv_heads; found {self.heads} and {self.kv_heads}")


@dataclass(frozen=True, kw_only=True)
class Pi0Config:
    """A pi0 policy. `pi05` replaces the state token and the time MLP by adaptive norms in the action expert.

    `dtype` is that of the activations; parameters stay float32. `remat` says what the backward pass
    recomputes: nothing, everything but products with weights ('dots'), or every layer ('full'). `unroll`
    layers run per step of the loop over layers.
    """

    siglip: SiglipConfig
    prefix: GemmaConfig
    expert: GemmaConfig
    vocab_size: int = 257_152
    action_dim: int = 18
    horizon: int = 50
    max_tokens: int = 48
    pi05: bool = False
    dtype: DType = "float32"
    remat: Remat = "none"
    unroll: int = 1
    attention: Attention = "auto"

    def __post_init__(self) -> None:
        for name in ("depth", "heads", "kv_heads", "head_dim"):
            if getattr(self.prefix, name) != getattr(self.expert, name):
                raise ValueError(
                    f"both experts need the same {name}, since they share attention; "
                    f"found {getattr(self.prefix, name)} and {getattr(self.expert, name)}"
                )

    @property
    def image_size(self) -> int:
        return self.siglip.image_size


@dataclass(frozen=True, kw_only=True)
class CameraAugmentation:
    """How far one camera's training pictures may be changed (`model.augmentation`); by default not at all.

    crop: share of each side that a random crop keeps, then enlarged again. rotation_deg: largest turn either way.
    brightness, contrast, hue: largest change either way, hue in turns; recoloured_share: of the pictures whose colours
    change at all.
    """

    crop: float = 1.0
    rotation_deg: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    hue: float = 0.0
    recoloured_share: float = 0.5

    def __post_init__(self) -> None:
        for name in ("crop", "recoloured_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a number above 0, at most 1; found {getattr(self, name)}")
        for name, most in (("rotation_deg", 180), ("brightness", 1), ("contrast", 1), ("hue", 0.5)):
            # At 1 a contrast is a step and a brightness one colour, and a slant of 0 or infinity gives NaN.
            if not 0 <= getattr(self, name) < most:
                raise ValueError(f"{name}: expected 0 to below {most}; found {getattr(self, name)}")

    @property
    def moves_pixels(self) -> bool:
        return self.crop < 1 or self.rotation_deg > 0

    @property
    def changes_colours(self) -> bool:
        return self.brightness > 0 or self.contrast > 0 or self.hue > 0

    @property
    def is_on(self) -> bool:
        return self.moves_pixels or self.changes_colours


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Sizes of a plain transformer stack: the text encoder, the observation encoder, the DiT expert."""

    width: int
    depth: int
    mlp_dim: int
    heads: int

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads; found {self.width} and {self.heads}")

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


@dataclass(frozen=True, kw_only=True)
class Pi0SmallConfig:
    """The ablation without a vision-language model: text encoder, one ViT per camera, observation encoder, and
    a DiT action expert that attends to what the encoder leaves. Settings as in `Pi0Config`."""

    text: EncoderConfig
    vit: SiglipConfig
    encoder: EncoderConfig
    expert: EncoderConfig
    vocab_size: int = 30_522
    text_positions: int = 512
    action_dim: int = 18
    horizon: int = 50
    max_tokens: int = 48
    dtype: DType = "float32"
    remat: Remat = "none"
    unroll: int = 1
    attention: Attention = "auto"

    def __post_init__(self) -> None:
        if self.max_tokens > self.text_positions:
            raise ValueError(
                f"max_tokens must be at most text_positions; found {self.max_tokens} and {self.text_positions}"
            )

    @property
    def image_size(self) -> int:
        return self.vit.image_size


PolicyConfig = Pi0Config | Pi0SmallConfig


def pi0() -> Pi0Config:
    """The published size: SigLIP So400m/14, Gemma 2B, a 300M action expert."""
    return Pi0Config(
        siglip=SiglipConfig(width=1152, depth=27, mlp_dim=4304, heads=16),
        prefix=GemmaConfig(width=2048, depth=18, mlp_dim=16_384, heads=8, kv_heads=1, head_dim=256),
        expert=GemmaConfig(width=1024, depth=18, mlp_dim=4096, heads=8, kv_heads=1, head_dim=256),
        dtype="bfloat16",
        remat="full",
    )


def pi05() -> Pi0Config:
    """pi0.5's structure at the published size."""
    return dataclasses.replace(pi0(), pi05=True, max_tokens=200)


def pi0_lora() -> Pi0Config:
    """The published size with low-rank adapters: rank 16 on Gemma, 32 on the action expert."""
    return _with_adapters(pi0(), 16, 32)


def pi05_lora() -> Pi0Config:
    """pi0.5 with the adapters of `pi0_lora`."""
    return _with_adapters(pi05(), 16, 32)


def tiny_lora() -> Pi0Config:
    """`tiny` with adapters, to try their commands."""
    return _with_adapters(tiny(), 4, 4)


def _with_adapters(full: Pi0Config, prefix_rank: int, expert_rank: int) -> Pi0Config:
    return dataclasses.replace(
        full,
        prefix=dataclasses.replace(full.prefix, lora_rank=prefix_rank),
        expert=dataclasses.replace(full.expert, lora_rank=expert_rank),
    )


def tiny() -> Pi0Config:
    """Small enough to learn from drawn pictures on two CPU cores in minutes."""
    return Pi0Config(
        siglip=SiglipConfig(width=64, depth=1, mlp_dim=128, heads=2, patch_size=32),
        prefix=GemmaConfig(width=64, depth=3, mlp_dim=128, heads=2, kv_heads=1, head_dim=32),
        expert=GemmaConfig(width=64, depth=3, mlp_dim=128, heads=2, kv_heads=1, head_dim=32),
        vocab_size=1024,
        max_tokens=32,
        unroll=4,
    )


def pi0_small() -> Pi0SmallConfig:
    """The 470M ablation: DistilBERT's sizes, ViT-S/16 per camera."""
    return Pi0SmallConfig(
        text=EncoderConfig(width=768, depth=6, mlp_dim=3072, heads=12),
        vit=SiglipConfig(width=384, depth=12, mlp_dim=1536, heads=6, patch_size=16),
        encoder=EncoderConfig(width=1024, depth=12, mlp_dim=4096, heads=16),
        expert=EncoderConfig(width=768, depth=12, mlp_dim=3072, heads=12),
        dtype="bfloat16",
        remat="full",
    )


def pi0_small_tiny() -> Pi0SmallConfig:
    """pi0-small's structure for two CPU cores."""
    sizes = EncoderConfig(width=64, depth=2, mlp_dim=128, heads=2)
    return Pi0SmallConfig(
        text=sizes,
        vit=SiglipConfig(width=64, depth=1, mlp_dim=128, heads=2, patch_size=32),
        encoder=sizes,
        expert=sizes,
        vocab_size=1024,
        max_tokens=32,
        text_positions=64,
        unroll=2,
    )


NAMED: Mapping[str, Callable[[], PolicyConfig]] = {
    "pi0": pi0,
    "pi05": pi05,
    "pi0-lora": pi0_lora,
    "pi05-lora": pi05_lora,
    "pi0-small": pi0_small,
    "tiny": tiny,
    "tiny-lora": tiny_lora,
    "pi0-small-tiny": pi0_small_tiny,
}


def named_config(name: str, **overrides: Any) -> PolicyConfig:
    """Returns a named config with top-level fields replaced; ValueError names the nearest choice."""
    if name not in NAMED:
        raise ValueError(f"unknown model {name!r}; {_nearest(name, NAMED)}")
    config = NAMED[name]()
    fields = [field.name for field in dataclasses.fields(config)]
    for key in overrides:
        if key not in fields:
            raise ValueError(f"model {name!r} has no setting {key!r}; {_nearest(key, fields)}")
    return dataclasses.replace(config, **overrides)


def config_from_dict(data: Mapping[str, Any]) -> PolicyConfig:
    """Reads back `dataclasses.asdict(config)`, for example from JSON."""
    kind, parts = (
        (Pi0Config, {"siglip": SiglipConfig, "prefix": GemmaConfig, "expert": GemmaConfig})
        if "prefix" in data
        else (
            Pi0SmallConfig,
            {"text": EncoderConfig, "vit": SiglipConfig, "encoder": EncoderConfig, "expert": EncoderConfig},
        )
    )
    return kind(**{**data, **{name: part(**data[name]) for name, part in parts.items()}})


def config_from_params(shapes: Mapping[str, tuple[int, ...]], **overrides: Any) -> Pi0Config:
    """Derives the config from flat parameter shapes in openpi's names.

    Shapes do not hold the horizon, the text length, the image size (square images are assumed) or the
    dtype; those come from `overrides` or the defaults. ValueError names the first missing parameter.
    """
    width_key = "PaliGemma/img/embedding/kernel"
    for key in (width_key, "PaliGemma/img/pos_embedding", "PaliGemma/llm/embedder/input_embedding"):
        if key not in shapes:
            raise ValueError(f"not pi0 parameters: {key} is missing; found {len(shapes)} names")
    patch, _, _, width = shapes[width_key]
    block = "PaliGemma/img/Transformer/encoderblock/"
    heads = shapes[block + "MultiHeadDotProductAttention_0/query/kernel"][2]
    depth, _, mlp_dim = shapes[block + "MlpBlock_0/Dense_0/kernel"]
    side = round(shapes["PaliGemma/img/pos_embedding"][1] ** 0.5)
    return Pi0Config(
        siglip=SiglipConfig(
            width=width, depth=depth, mlp_dim=mlp_dim, heads=heads, patch_size=patch, image_size=patch * side
        ),
        prefix=_gemma_from_params(shapes, ""),
        expert=_gemma_from_params(shapes, "_1"),
        vocab_size=shapes["PaliGemma/llm/embedder/input_embedding"][0],
        action_dim=shapes["action_in_proj/kernel"][0],
        pi05="time_mlp_in/kernel" in shapes,
        **overrides,
    )


def _gemma_from_params(shapes: Mapping[str, tuple[int, ...]], suffix: str) -> GemmaConfig:
    layers = "PaliGemma/llm/layers/"
    depth, heads, width, head_dim = shapes[f"{layers}attn/q_einsum{suffix}/w"]
    lora = shapes.get(f"{layers}attn/q_einsum{suffix}/lora_a")
    return GemmaConfig(
        width=width,
        depth=depth,
        mlp_dim=shapes[f"{layers}mlp{suffix}/linear"][1],
        heads=heads,
        kv_heads=shapes[f"{layers}attn/kv_einsum{suffix}/w"][2],
        head_dim=head_dim,
        lora_rank=lora[-1] if lora else 0,
    )


def _nearest(name: str, choices: Mapping[str, Any] | list[str]) -> str:
    close = difflib.get_close_matches(name, list(choices), n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}choices: {', '.join(choices)}"
