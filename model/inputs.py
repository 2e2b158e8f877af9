# ruff: noqa: F722
"""What a policy sees: cameras, prompt tokens and state, with their checks."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Bool, Float, Int, Shaped

from model.arrays import Array
from model.config import PolicyConfig
from model.packing import Packing

CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")  # also the order of their tokens


@struct.dataclass
class Observation:
    """One batch of inputs.

    `images` holds per camera uint8 pixels or float32 in [-1, 1], square, of the model's size or a multiple of it, from
    which they are averaged down. A camera may be left out of `images` and
    `image_masks`: the result is the one that a False mask gives, without its cost. `state` is normalized.
    `packing` says how many images are there at most, so that images which only some samples lack cost nothing either
    (see `model.packing`); pi0-small computes them all the same.
    """

    images: Mapping[str, Shaped[Array, "b y x c"]]
    image_masks: Mapping[str, Bool[Array, " b"]]
    tokenized_prompt: Int[Array, "b s"]
    tokenized_prompt_mask: Bool[Array, "b s"]
    state: Float[Array, "b d"]
    packing: Packing | None = struct.field(pytree_node=False, default=None)


def observation_from_batch(
    *,
    images: Mapping[str, np.ndarray],
    image_masks: Mapping[str, np.ndarray],
    tokenized_prompt: np.ndarray,
    tokenized_prompt_mask: np.ndarray,
    state: np.ndarray,
    drop_missing: bool = True,
    packing: Packing | None = None,
) -> Observation:
    """Collects host arrays; with `drop_missing`, cameras that no sample of the batch has are left out.

    The base camera stays if none is there, so that an image-free batch keeps a valid form. `packing` comes from
    `model.packing.fit_packing(image_masks)`; each set of cameras and each packing is one compilation. ValueError if
    more images are there than it promises.
    """
    names = [name for name in CAMERAS if name in images]
    unknown = sorted(set(images) - set(CAMERAS))
    if unknown:
        raise ValueError(f"images: expected cameras {', '.join(CAMERAS)}; found {', '.join(unknown)}")
    present = [name for name in names if np.any(image_masks[name])]
    kept = (present or names[:1]) if drop_missing else names
    there = np.stack([np.asarray(image_masks[name], bool) for name in kept], axis=1)
    if packing is not None:
        most = there.reshape(packing.groups, -1).sum(1).max()
        if most > packing.slots:
            raise ValueError(f"packing: expected at most {packing.slots} images in a group; found {most}")
    return Observation(
        images={name: images[name] for name in kept},
        image_masks={name: np.asarray(image_masks[name], bool) for name in kept},
        tokenized_prompt=np.asarray(tokenized_prompt, np.int32),
        tokenized_prompt_mask=np.asarray(tokenized_prompt_mask, bool),
        state=np.asarray(state, np.float32),
        packing=packing,
    )


def to_unit_range(image: Shaped[Array, "b y x c"]) -> Float[Array, "b y x c"]:
    """Maps uint8 pixels to [-1, 1] (0 to -1, 255 to 1); float images pass through."""
    if image.dtype == jnp.uint8:
        return image.astype(jnp.float32) / 255.0 * 2.0 - 1.0
    return image


def shrink_images(images: Shaped[Array, "b y x c"], size: int) -> Shaped[Array, "b size size c"]:
    """Averages squares of pixels where pictures are a multiple of the model's size: uint8 rounded, or float32."""
    batch, side, _, channels = images.shape
    factor = side // size
    if factor == 1:
        return images
    # Whole numbers, and rows before columns, take a fifth of the time that a mean of floats over both takes on a CPU.
    wide = jnp.float32 if images.dtype != jnp.uint8 else jnp.int16 if factor <= 11 else jnp.int32
    rows = images.reshape(batch, size, factor, side * channels).astype(wide).sum(2, dtype=wide)
    total = rows.reshape(batch, size, size, factor, channels).sum(3, dtype=wide)
    count = factor * factor
    return total / count if wide is jnp.float32 else ((total + count // 2) // count).astype(jnp.uint8)


def check_observation(config: PolicyConfig, observation: Observation) -> None:
    """Raises ValueError naming the input, what was expected and what was found."""
    batch = observation.state.shape[0]
    size = config.image_size
    if set(observation.images) != set(observation.image_masks):
        raise ValueError(
            f"image_masks: expected one per image ({', '.join(sorted(observation.images))}); "
            f"found {', '.join(sorted(observation.image_masks))}"
        )
    if not observation.images or set(observation.images) - set(CAMERAS):
        raise ValueError(
            f"images: expected some of {', '.join(CAMERAS)}; found {', '.join(sorted(observation.images)) or 'none'}"
        )
    for name, image in observation.images.items():
        side = max(image.shape[1:2], default=0)
        # Pictures a whole number of times as large are averaged down: see `shrink_images`.
        check_shape(f"images[{name}]", image, (batch, *(side if side and side % size == 0 else size,) * 2, 3))
        check_shape(f"image_masks[{name}]", observation.image_masks[name], (batch,))
    groups = 1 if observation.packing is None else observation.packing.groups
    if batch % groups:
        raise ValueError(f"packing: expected groups that divide the batch of {batch}; found {groups}")
    check_shape("state", observation.state, (batch, config.action_dim))
    check_shape("tokenized_prompt", observation.tokenized_prompt, (batch, config.max_tokens))
    check_shape("tokenized_prompt_mask", observation.tokenized_prompt_mask, (batch, config.max_tokens))


def check_shape(name: str, array: Shaped[Array, "*shape"] | np.ndarray, expected: tuple[int, ...]) -> None:
    """Raises ValueError unless `array` has the expected shape."""
    if tuple(array.shape) != expected:
        raise ValueError(f"{name}: expected shape {expected}; found {tuple(array.shape)}")
