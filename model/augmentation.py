# ruff: noqa: F722
"""Random crops, turns and colours of training pictures, as openpi trains: what is drawn, and what it does to pixels.

The transforms are those of openpi's `preprocess_observation` with augmax 0.4.1, given the same numbers. Three things
of augmax are kept on purpose: it turns hues by up to 0.1 of the circle although openpi does not ask for it (the
default of `ColorJitter`); half of the pictures keep their colours (its `p`); and a saturation that openpi asks for is
drawn and then not used, so that there is no such setting here. Values may leave [0, 1] and are not clipped.

The random numbers are others than openpi's: there one key per sample serves all its cameras, here every camera has its
own. A key follows from the run's seed and the sample's position in the stream, so that a resumed run is exact.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from model.arrays import Array
from model.config import CameraAugmentation
from model.inputs import CAMERAS, Observation, to_unit_range

# Folded into the run's seed; no step's number, by which noise and flow time are drawn from the same seed.
STREAM = 0xFFFF_FFFF


@struct.dataclass
class PictureChanges:
    """What happens to each picture of a batch.

    offset: of the crop's centre from the picture's, pixels (y, x). angle_rad: counted from y to x. brightness,
    contrast: -1 to 1, 0 as it was. hue: in turns. recoloured: whether the last three are used.
    """

    offset: Float[Array, "b 2"]
    angle_rad: Float[Array, " b"]
    brightness: Float[Array, " b"]
    contrast: Float[Array, " b"]
    hue: Float[Array, " b"]
    recoloured: Bool[Array, " b"]


def sample_keys(seed: PRNGKeyArray, step: Int[Array, ""], batch: int) -> PRNGKeyArray:
    """A key for each sample of a step's batch, by its position in the stream."""
    position = jnp.uint32(step) * jnp.uint32(batch) + jnp.arange(batch, dtype=jnp.uint32)
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(seed, STREAM), position)


def augment(cameras: dict[str, CameraAugmentation], observation: Observation, keys: PRNGKeyArray) -> Observation:
    """Changes the pictures of every camera that `cameras` names; the others keep their bytes. keys: one per sample."""
    images = dict(observation.images)
    for number, name in enumerate(CAMERAS):
        if name in images and cameras[name].is_on:
            own_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
            pixels = to_unit_range(images[name]) / 2.0 + 0.5
            changes = draw_changes(cameras[name], own_keys, pixels.shape[1])
            images[name] = change_pictures(cameras[name], pixels, changes) * 2.0 - 1.0
    return dataclasses.replace(observation, images=images)


def draw_changes(config: CameraAugmentation, keys: PRNGKeyArray, side: int) -> PictureChanges:
    """Draws the changes of square pictures, evenly within the limits of `config`."""
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (7,), minval=-1.0, maxval=1.0))(keys)
    return PictureChanges(
        offset=uniform[:, :2] * (side - cropped_side(config, side)) / 2,
        angle_rad=jnp.deg2rad(config.rotation_deg * uniform[:, 2]),
        brightness=config.brightness * uniform[:, 3],
        contrast=config.contrast * uniform[:, 4],
        hue=config.hue * uniform[:, 5],
        recoloured=(uniform[:, 6] + 1.0) / 2.0 < config.recoloured_share,
    )


def cropped_side(config: CameraAugmentation, side: int) -> int:
    """Pixels of a side that a crop keeps: 212 of 224 at 0.95."""
    return int(side * config.crop)


def change_pictures(
    config: CameraAugmentation, pixels: Float[Array, "b y x c"], changes: PictureChanges
) -> Float[Array, "b y x c"]:
    """Applies changes to square pictures in [0, 1]; what lies outside the source is 0."""
    if config.moves_pixels:
        scale = cropped_side(config, pixels.shape[1]) / pixels.shape[1]
        pixels = jax.vmap(resample)(pixels, source_coordinates(pixels.shape[1], scale, changes))
    if config.changes_colours:
        pixels = jnp.where(changes.recoloured[:, None, None, None], recolour(pixels, changes), pixels)
    return pixels


def source_coordinates(side: int, scale: float, changes: PictureChanges) -> Float[Array, "b 2 y x"]:
    """Where each pixel comes from: about the centre it is turned, then shrunk to the crop, then moved with it."""
    centre = side / 2 - 0.5
    y, x = jnp.mgrid[0:side, 0:side] - centre
    sin, cos = (f(changes.angle_rad)[:, None, None] for f in (jnp.sin, jnp.cos))
    turned = jnp.stack([cos * y + sin * x, cos * x - sin * y], axis=1)
    return turned * scale + changes.offset[:, :, None, None] + centre


def resample(picture: Float[Array, "y x c"], source: Float[Array, "2 v u"]) -> Float[Array, "v u c"]:
    """Bilinear, each of the four neighbours counting 0 where it lies outside the picture."""
    low = jnp.floor(source)
    upper = source - low
    at = low.astype(jnp.int32)

    def tap(down: int, right: int) -> Float[Array, "v u c"]:
        weight = (upper[0] if down else 1.0 - upper[0]) * (upper[1] if right else 1.0 - upper[1])
        y, x = at[0] + down, at[1] + right
        inside = (y >= 0) & (y < picture.shape[0]) & (x >= 0) & (x < picture.shape[1])
        return picture[y, x] * jnp.where(inside, weight, 0.0)[..., None]

    return tap(0, 0) + tap(0, 1) + tap(1, 0) + tap(1, 1)


def recolour(pixels: Float[Array, "b y x c"], changes: PictureChanges) -> Float[Array, "b y x c"]:
    """Brightness and contrast change the value of hue, saturation and value; the hue turns."""
    hue, saturation, value = hue_saturation_value(pixels)
    brightness, contrast, turn = (
        number[:, None, None] for number in (changes.brightness, changes.contrast, changes.hue)
    )
    value = jnp.where(brightness < 0, value * (1 + brightness), value * (1 - brightness) + brightness)
    return from_hue_saturation_value(hue + turn, saturation, with_contrast(value, contrast))


def with_contrast(value: Float[Array, "b y x"], contrast: Float[Array, "b 1 1"]) -> Float[Array, "b y x"]:
    """Three straight pieces through (0, 0), (1/2, 1/2) and (1, 1): `slant` in the middle, 1 / slant at both ends."""
    slant = jnp.tan((contrast + 1.0) * (jnp.pi / 4))
    # Equal to (slant - slant^2) / (2 (1 - slant^2)), which has no value at slant 1.
    end = slant / (2.0 * (1.0 + slant))
    middle = slant * (value - 0.5) + 0.5
    return jnp.where(
        value < end, value / slant, jnp.where(value > 1.0 - end, value / slant + 1.0 - 1.0 / slant, middle)
    )


def hue_saturation_value(
    rgb: Float[Array, "*b c"],
) -> tuple[Float[Array, "*b"], Float[Array, "*b"], Float[Array, "*b"]]:
    """Hue in turns (red 0, green 1/3, blue 2/3), saturation and value in [0, 1]; grey has hue 0, black saturation 0."""
    value = rgb.max(-1)
    spread = value - rgb.min(-1)
    largest = rgb.argmax(-1)
    following, before = (jnp.take_along_axis(rgb, (largest[..., None] + k) % 3, axis=-1)[..., 0] for k in (1, 2))
    # Divided by 1 where the quotient is not used: a division by 0 would be NaN there.
    within = (following - before) / jnp.where(spread == 0, 1.0, spread)
    hue = jnp.where(spread == 0, 0.0, (2 * largest + within) / 6)
    return hue, jnp.where(value == 0, 0.0, spread / jnp.where(value == 0, 1.0, value)), value


def from_hue_saturation_value(
    hue: Float[Array, "*b"], saturation: Float[Array, "*b"], value: Float[Array, "*b"]
) -> Float[Array, "*b c"]:
    """Inverse of `hue_saturation_value`; hues of any number of turns."""
    sector = jnp.mod(jnp.array([5, 3, 1]) + hue[..., None] * 6, 6)
    share = jnp.clip(jnp.minimum(sector, 4 - sector), 0, 1)
    return value[..., None] * (1 - saturation[..., None] * share)
