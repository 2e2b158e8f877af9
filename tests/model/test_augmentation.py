"""Changes of training pictures, held against what openpi's own `preprocess_observation` made of the same numbers.

`tests/support/foreign/openpi_augmentation.npz` holds its inputs and outputs (openpi 15a9616 with augmax 0.4.1): six
pictures of 24 x 24 and three of 224 x 224, of which 200 pixels are kept, and what augmax drew for each.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.augmentation import (
    PictureChanges,
    change_pictures,
    draw_changes,
    from_hue_saturation_value,
    hue_saturation_value,
    sample_keys,
    with_contrast,
)
from model.config import CameraAugmentation
from tests.support.checkout import ROOT

COLOURS = CameraAugmentation(brightness=0.3, contrast=0.4, hue=0.1)
OF_CAMERA = {
    "base": CameraAugmentation(crop=0.95, rotation_deg=5.0, brightness=0.3, contrast=0.4, hue=0.1),
    "wrist": COLOURS,
}
RECORDED = np.load(ROOT / "tests/support/foreign/openpi_augmentation.npz")


def recorded_changes(name: str) -> PictureChanges:
    table = RECORDED[f"{name}_changes"]
    return PictureChanges(
        offset=jnp.asarray(table[:, :2]),
        angle_rad=table[:, 2],
        brightness=table[:, 3],
        contrast=table[:, 4],
        hue=table[:, 5],
        recoloured=table[:, 6] > 0,
    )


@pytest.mark.parametrize("camera", ["base", "wrist"])
def test_small_pictures_change_as_openpi_changes_them(camera: str) -> None:
    pixels = RECORDED["small"].astype(np.float32) / 255
    changed = change_pictures(OF_CAMERA[camera], pixels, recorded_changes(f"small_{camera}"))
    np.testing.assert_allclose(changed * 2 - 1, RECORDED[f"small_{camera}"], atol=2e-5)


@pytest.mark.parametrize("camera", ["base", "wrist"])
def test_full_size_pictures_change_as_openpi_changes_them(camera: str) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (3, 224, 224, 3)).astype(np.float32) / 255
    changed = change_pictures(OF_CAMERA[camera], pixels, recorded_changes(f"large_{camera}"))
    at = RECORDED["large_at"]
    np.testing.assert_allclose(changed[:, at[:, 0], at[:, 1]] * 2 - 1, RECORDED[f"large_{camera}"], atol=3e-4)


def test_what_is_drawn_stays_within_the_limits_and_fills_them() -> None:
    keys = sample_keys(jax.random.key(0), jnp.int32(3), 2000)
    drawn = draw_changes(OF_CAMERA["base"], keys, 224)
    for values, most in (
        (drawn.offset, 6.0),
        (drawn.angle_rad, np.deg2rad(5)),
        (drawn.brightness, 0.3),
        (drawn.contrast, 0.4),
        (drawn.hue, 0.1),
    ):
        assert 0.99 * most < np.abs(values).max() <= most
        assert abs(np.mean(values)) < 0.05 * most
    assert abs(float(drawn.recoloured.mean()) - 0.5) < 0.03


def test_a_samples_key_follows_from_its_position_alone() -> None:
    seed = jax.random.key(0)
    late, early = sample_keys(seed, jnp.int32(1), 4), sample_keys(seed, jnp.int32(0), 8)
    np.testing.assert_array_equal(jax.random.key_data(late), jax.random.key_data(early)[4:])


def test_hues_are_those_of_the_colour_circle() -> None:
    rgb = jnp.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0.5, 0.5, 0.5], [0, 0, 0]], jnp.float32)
    hue, saturation, value = hue_saturation_value(rgb)
    np.testing.assert_allclose(hue, [0, 1 / 3, 2 / 3, 1 / 6, 0, 0], atol=1e-6)
    np.testing.assert_allclose(saturation, [1, 1, 1, 1, 0, 0])
    np.testing.assert_allclose(value, [1, 1, 1, 1, 0.5, 0])
    np.testing.assert_allclose(from_hue_saturation_value(hue - 1, saturation, value), rgb, atol=1e-6)


def test_a_contrast_of_zero_changes_nothing_and_others_keep_black_grey_and_white() -> None:
    value = jnp.linspace(0, 1, 11).reshape(1, 1, 11)
    np.testing.assert_allclose(with_contrast(value, jnp.zeros((1, 1, 1))), value, atol=1e-7)
    stretched = with_contrast(value, jnp.full((1, 1, 1), 0.4))[0, 0]
    np.testing.assert_allclose(stretched[jnp.array([0, 5, 10])], [0, 0.5, 1], atol=1e-6)
    assert stretched[4] < 0.4 and stretched[6] > 0.6


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="crop: expected a number above 0, at most 1; found 1.5"):
        CameraAugmentation(crop=1.5)
    with pytest.raises(ValueError, match="brightness: expected 0 to below 1; found 1"):
        CameraAugmentation(brightness=1)


@pytest.mark.parametrize("name", ["crop", "recoloured_share"])
def test_parts_of_pictures_are_above_zero(name: str) -> None:
    for wrong in (0.0, -0.5):
        with pytest.raises(ValueError, match=f"{name}: expected a number above 0, at most 1; found {wrong}"):
            CameraAugmentation(**{name: wrong})
