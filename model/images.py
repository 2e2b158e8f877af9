# ruff: noqa: F722
"""Pictures of any size brought to the policy's size, on the device."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped


def resize_with_pad(images: Shaped[Array, "b y x c"], size: int) -> Shaped[Array, "b s s c"]:
    """Scales uint8 or [-1, 1] float images bilinearly (antialiased) into size x size, keeping their aspect,
    centred on black; an odd row or column of padding goes to the end. 480 x 640 to 224 gives 168 rows between
    28 black ones on either side."""
    batch, height, width, channels = images.shape
    ratio = max(height, width) / size
    rows, columns = int(height / ratio), int(width / ratio)
    resized = jax.image.resize(images.astype(jnp.float32), (batch, rows, columns, channels), "bilinear")
    if images.dtype == jnp.uint8:
        resized, black = jnp.clip(jnp.round(resized), 0, 255).astype(jnp.uint8), 0
    else:
        resized, black = jnp.clip(resized, -1.0, 1.0), -1.0
    top, left = (size - rows) // 2, (size - columns) // 2
    pads = ((0, 0), (top, size - rows - top), (left, size - columns - left), (0, 0))
    return jnp.pad(resized, pads, constant_values=black)
