"""What the policy promises beyond the recorded numbers: left-out cameras, padding, sampling, shapes."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import policy
from model.config import config_from_dict, config_from_params, named_config
from model.gemma import attention_out
from model.inputs import CAMERAS, Observation, observation_from_batch
from model.params import flatten
from tests.support.small_policy import CONFIG, GEMMA, PARAMS


def observation(batch: int = 2, cameras: tuple[str, ...] = CAMERAS) -> Observation:
    rng = np.random.default_rng(3)
    return Observation(
        images={name: rng.uniform(-1, 1, (batch, 16, 16, 3)).astype(np.float32) for name in cameras},
        image_masks={name: np.ones(batch, bool) for name in cameras},
        tokenized_prompt=rng.integers(1, 20, (batch, 6)).astype(np.int32),
        tokenized_prompt_mask=np.arange(6)[None] < np.array([[4]] * batch),
        state=rng.normal(size=(batch, 4)).astype(np.float32),
    )


def actions(batch: int = 2, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(batch, 5, 4)).astype(np.float32)


@jax.jit
def velocity_at(seen: Observation, noisy: jax.Array, time: jax.Array) -> jax.Array:
    return policy.velocity(CONFIG, PARAMS, seen, noisy, time)


def velocity_of(seen: Observation) -> jax.Array:
    return velocity_at(seen, actions(), np.array([0.3, 0.8], np.float32))


@partial(jax.jit, static_argnums=2)
def sample(seen: Observation, noise: jax.Array, steps: int) -> jax.Array:
    return policy.sample_actions(CONFIG, PARAMS, seen, noise, steps)


@pytest.mark.parametrize("missing", CAMERAS)
def test_leaving_a_camera_out_equals_masking_it(missing: str) -> None:
    full = observation()
    masked = full.replace(image_masks={**full.image_masks, missing: np.zeros(2, bool)})
    kept = [name for name in CAMERAS if name != missing]
    dropped = full.replace(
        images={name: full.images[name] for name in kept},
        image_masks={name: full.image_masks[name] for name in kept},
    )
    np.testing.assert_allclose(velocity_of(masked), velocity_of(dropped), atol=1e-5)


def test_a_camera_that_is_there_changes_the_result() -> None:
    full = observation()
    dark = full.replace(images={**full.images, CAMERAS[1]: -np.ones((2, 16, 16, 3), np.float32)})
    assert np.abs(velocity_of(full) - velocity_of(dark)).max() > 1e-3


def test_what_is_masked_has_no_influence() -> None:
    seen = observation()
    masks = {**seen.image_masks, CAMERAS[2]: np.array([True, False])}
    seen = seen.replace(image_masks=masks)
    garbage = seen.images[CAMERAS[2]].copy()
    garbage[1] = 7.0
    prompt = seen.tokenized_prompt.copy()
    prompt[:, 4:] = 19
    other = seen.replace(images={**seen.images, CAMERAS[2]: garbage}, tokenized_prompt=prompt)
    np.testing.assert_array_equal(velocity_of(seen), velocity_of(other))


def test_uint8_pixels_equal_their_unit_range() -> None:
    seen = observation()
    pixels = {name: np.full((2, 16, 16, 3), 51, np.uint8) for name in CAMERAS}
    floats = {name: np.full((2, 16, 16, 3), -0.6, np.float32) for name in CAMERAS}
    as_bytes = velocity_of(seen.replace(images=pixels))
    np.testing.assert_allclose(as_bytes, velocity_of(seen.replace(images=floats)), atol=1e-5)


def test_loss_is_the_squared_velocity_error() -> None:
    noise, target, time = actions(seed=1), actions(seed=2), np.array([0.25, 1.0], np.float32)
    noisy = np.stack([0.25 * noise[0] + 0.75 * target[0], noise[1]])
    predicted = velocity_at(observation(), noisy, time)
    loss = jax.jit(policy.loss_elements, static_argnums=0)(CONFIG, PARAMS, observation(), target, noise, time)
    np.testing.assert_allclose(loss, (predicted - (noise - target)) ** 2, rtol=1e-4, atol=1e-5)


def test_one_sampling_step_is_noise_minus_velocity() -> None:
    seen, noise = observation(), actions()
    step = velocity_at(seen, noise, np.ones(2, np.float32))
    np.testing.assert_allclose(sample(seen, noise, 1), noise - step, atol=1e-5)


def test_two_sampling_steps_meet_half_way() -> None:
    seen, noise = observation(), actions()
    half = noise - 0.5 * velocity_at(seen, noise, np.ones(2, np.float32))
    end = half - 0.5 * velocity_at(seen, half, np.full(2, 0.5, np.float32))
    np.testing.assert_allclose(sample(seen, noise, 2), end, atol=1e-5)


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("state", np.zeros((2, 7), np.float32), r"state: expected shape \(2, 4\); found \(2, 7\)"),
        ("tokenized_prompt", np.zeros((2, 9), np.int32), r"tokenized_prompt: expected shape \(2, 6\)"),
        ("images", {CAMERAS[0]: np.zeros((2, 8, 8, 3), np.uint8)}, "image_masks: expected one per image"),
    ],
)
def test_a_wrong_shape_names_the_input(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policy.velocity(CONFIG, PARAMS, observation().replace(**{field: value}), actions(), np.ones(2))


def test_a_wrong_image_size_names_the_camera() -> None:
    seen = observation(cameras=CAMERAS[:1])
    seen = seen.replace(images={CAMERAS[0]: np.zeros((2, 8, 16, 3), np.float32)})
    with pytest.raises(ValueError, match=r"images\[base_0_rgb\]: expected shape \(2, 16, 16, 3\); found"):
        policy.velocity(CONFIG, PARAMS, seen, actions(), np.ones(2))


def test_wrong_actions_are_named() -> None:
    with pytest.raises(ValueError, match=r"actions: expected shape \(2, 5, 4\); found \(2, 3, 4\)"):
        policy.velocity(CONFIG, PARAMS, observation(), np.zeros((2, 3, 4)), np.ones(2))


def test_cameras_that_no_sample_has_are_left_out() -> None:
    masks = {CAMERAS[0]: [True, True], CAMERAS[1]: [False, False], CAMERAS[2]: [False, True]}
    seen = observation()
    built = observation_from_batch(
        images=seen.images,
        image_masks={name: np.array(mask) for name, mask in masks.items()},
        tokenized_prompt=seen.tokenized_prompt,
        tokenized_prompt_mask=seen.tokenized_prompt_mask,
        state=seen.state,
    )
    assert list(built.images) == [CAMERAS[0], CAMERAS[2]]


def test_an_unknown_camera_is_refused() -> None:
    seen = observation()
    with pytest.raises(ValueError, match="expected cameras .* found front"):
        observation_from_batch(
            images={"front": seen.state},
            image_masks={"front": np.ones(2, bool)},
            tokenized_prompt=seen.tokenized_prompt,
            tokenized_prompt_mask=seen.tokenized_prompt_mask,
            state=seen.state,
        )


def test_an_unknown_name_or_setting_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'tiny'"):
        named_config("tinny")
    with pytest.raises(ValueError, match="did you mean 'horizon'"):
        named_config("tiny", horizont=10)


def test_a_config_survives_json_and_its_own_parameters() -> None:
    shapes = {name: leaf.shape for name, leaf in flatten(PARAMS).items()}
    assert config_from_dict(dataclasses.asdict(CONFIG)) == CONFIG
    assert config_from_params(shapes, horizon=5, max_tokens=6) == CONFIG


def test_serving_in_half_the_bytes_gives_the_very_same() -> None:
    lora = dataclasses.replace(GEMMA, lora_rank=2)
    config = dataclasses.replace(CONFIG, dtype="bfloat16", pi05=True, expert=lora)
    shapes = jax.eval_shape(lambda: policy.init_params(config, jax.random.key(0)))
    rng = np.random.default_rng(0)  # nothing is zero, as the adaptive norms' gates are at the start
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32), shapes)
    served = policy.serving_params(config, params)
    types = {name: str(leaf.dtype) for name, leaf in flatten(served).items()}
    assert types["PaliGemma/llm/layers/attn/q_einsum/w"] == types["PaliGemma/img/head/kernel"] == "bfloat16"
    assert types["PaliGemma/llm/embedder/input_embedding"] == types["action_in_proj/kernel"] == "float32"
    assert policy.param_count(served) == policy.param_count(params)
    time = np.array([0.3, 0.8], np.float32)
    velocity = jax.jit(policy.velocity, static_argnums=0)
    found = [velocity(config, weights, observation(), actions(), time) for weights in (params, served)]
    np.testing.assert_array_equal(*found)


def test_tiny_learns_one_batch() -> None:
    target, noise, time = jnp.asarray(actions()), jnp.asarray(actions(seed=9)), jnp.array([0.4, 0.9])

    def mean_loss(params: policy.Params) -> jax.Array:
        return policy.loss_elements(CONFIG, params, observation(), target, noise, time).mean()

    @jax.jit
    def descend(params: policy.Params) -> tuple[policy.Params, jax.Array]:
        loss, grads = jax.value_and_grad(mean_loss)(params)
        return jax.tree.map(lambda p, g: p - 0.05 * g, params, grads), loss

    params, first = descend(PARAMS)
    for _ in range(40):
        params, last = descend(params)
    assert last < 0.3 * first


def test_the_adapter_of_the_attention_output_is_openpis() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(1, 2, 3, 4)), rng.normal(size=(3, 4, 5))  # b s n k, n k e
    a, b = rng.normal(size=(3, 4, 2)), rng.normal(size=(3, 2, 5))  # n k r, n r e
    layer = {"attn_vec_einsum": {"w": w, "lora_a": a, "lora_b": b}}
    with jax.default_matmul_precision("highest"):
        found = attention_out(jax.tree.map(jnp.float32, layer), jnp.float32(x))
    low = np.einsum("BTNH,NHL->BTL", x, a)  # what openpi's Einsum._make_lora_eqns makes of BTNH,NHD->BTD
    expected = np.einsum("BTNH,NHD->BTD", x, w) + np.einsum("BTL,NLD->BTD", low, b)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_acting_copies_no_layers() -> None:
    wide = dataclasses.replace(GEMMA, width=128, mlp_dim=2048, depth=8)
    config = dataclasses.replace(CONFIG, prefix=wide, expert=dataclasses.replace(GEMMA, depth=8))
    params = jax.eval_shape(partial(policy.init_params, config), jax.random.key(0))
    sampler = jax.jit(partial(policy.sample_actions, config, num_steps=1))
    stack = params["PaliGemma"]["llm"]["layers"]["mlp"]["gating_einsum"]
    stack_bytes = 4 * int(np.prod(stack.shape))
    compiled = sampler.lower(params, observation(1), actions(1)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < stack_bytes / 2


def test_acting_computes_what_training_does() -> None:
    seen, noise = observation(), actions()
    one_step = noise - velocity_at(seen, noise, np.ones(2, np.float32))
    np.testing.assert_allclose(sample(seen, noise, 1), one_step, atol=1e-6)
