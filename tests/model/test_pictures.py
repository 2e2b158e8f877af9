"""Pictures that are larger than the model's are averaged down, whatever the model."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from model import policy
from model.config import EncoderConfig, GemmaConfig, Pi0Config, Pi0SmallConfig, PolicyConfig, SiglipConfig
from model.inputs import CAMERAS, Observation, shrink_images


def test_a_quarter_of_the_width_is_the_mean_of_sixteen_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    found = shrink_images(jnp.asarray(pixels), 56)
    # Pillow's box filter rounds after rows and again after columns, so that it is one off here and there.
    boxed = np.stack(
        [np.asarray(Image.fromarray(picture).resize((56, 56), Image.Resampling.BOX)) for picture in pixels]
    )
    means = pixels.reshape(3, 56, 4, 56, 4, 3).mean((2, 4))
    assert found.dtype == jnp.uint8
    np.testing.assert_array_equal(found, np.floor(means + 0.5))
    assert np.abs(np.asarray(found, int) - np.stack(boxed)).max() == 1


def test_bright_pixels_do_not_overflow_at_any_factor() -> None:
    for side, size in ((224, 16), (22, 2), (24, 2)):
        white = jnp.full((1, side, side, 3), 255, jnp.uint8)
        np.testing.assert_array_equal(shrink_images(white, size), np.full((1, size, size, 3), 255))


def test_pixels_of_floats_are_averaged_and_pictures_of_the_right_size_stay() -> None:
    pixels = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(shrink_images(pixels, 2)[0, :, :, 0], [[2.5, 4.5], [10.5, 12.5]])
    assert shrink_images(pixels, 4) is pixels


def seen(side: int) -> Observation:
    pixels = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    return Observation(
        images={CAMERAS[0]: jnp.asarray(pixels.repeat(side // 16, 1).repeat(side // 16, 2))},
        image_masks={CAMERAS[0]: jnp.ones(2, bool)},
        tokenized_prompt=jnp.ones((2, 4), jnp.int32),
        tokenized_prompt_mask=jnp.ones((2, 4), bool),
        state=jnp.zeros((2, 4)),
    )


GEMMA = GemmaConfig(width=8, depth=1, mlp_dim=12, heads=2, kv_heads=1, head_dim=4)
PLAIN = EncoderConfig(width=8, depth=1, mlp_dim=12, heads=2)
VIT = SiglipConfig(width=8, depth=1, mlp_dim=12, heads=2, patch_size=8, image_size=16)
SIZES: dict[str, Any] = {"vocab_size": 9, "action_dim": 4, "horizon": 3, "max_tokens": 4}
POLICIES = (
    Pi0Config(siglip=VIT, prefix=GEMMA, expert=GEMMA, **SIZES),
    Pi0SmallConfig(text=PLAIN, vit=VIT, encoder=PLAIN, expert=PLAIN, **SIZES),
)


@pytest.mark.parametrize("config", POLICIES, ids=["pi0", "pi0-small"])
def test_enlarged_pictures_mean_the_same_to_a_policy(config: PolicyConfig) -> None:
    params = policy.init_params(config, jax.random.key(0))
    velocity = jax.jit(partial(policy.velocity, config))
    near, far = (velocity(params, seen(side), jnp.ones((2, 3, 4)), jnp.full(2, 0.5)) for side in (16, 64))
    np.testing.assert_allclose(near, far, rtol=1e-6)


def test_pictures_that_are_no_multiple_of_the_size_are_refused() -> None:
    odd = seen(16).replace(images={CAMERAS[0]: jnp.zeros((2, 24, 24, 3), jnp.uint8)})
    with pytest.raises(ValueError, match=r"expected shape \(2, 16, 16, 3\); found \(2, 24, 24, 3\)"):
        jax.eval_shape(lambda: policy.velocity(POLICIES[0], {}, odd, jnp.ones((2, 3, 4)), jnp.full(2, 0.5)))
