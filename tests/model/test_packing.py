"""Images that only some samples of a batch have: packed, they give what masking gives."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import policy
from model.config import Pi0Config
from model.inputs import CAMERAS, Observation, observation_from_batch
from model.packing import Packing, Places, fit_packing, place_images, place_tokens, valid_first
from model.published import check
from tests.support.small_policy import CONFIG, PARAMS

RNG = np.random.default_rng(3)
THERE = np.array([[1, 1, 1], [1, 0, 0], [0, 0, 1], [1, 0, 1]], bool)
SEEN = Observation(
    images={name: RNG.integers(0, 255, (4, 16, 16, 3), np.uint8) for name in CAMERAS},
    image_masks={name: THERE[:, index] for index, name in enumerate(CAMERAS)},
    tokenized_prompt=RNG.integers(1, 20, (4, 6)).astype(np.int32),
    tokenized_prompt_mask=np.arange(6) < np.array([[4], [6], [1], [3]]),
    state=RNG.normal(size=(4, 4)).astype(np.float32),
)
NOISE, ACTIONS = RNG.normal(size=(2, 4, 5, 4)).astype(np.float32)
TIME = np.array([0.1, 0.4, 0.7, 1.0], np.float32)
PACKINGS = (Packing(slots=7), Packing(slots=9), Packing(slots=4, groups=2))


def masks(there: list[list[int]]) -> dict[str, np.ndarray]:
    return {name: np.array(there, bool)[:, index] for index, name in enumerate(CAMERAS)}


def test_the_smallest_size_that_holds_the_batch_is_taken() -> None:
    there = [[1, 1, 1], [1, 0, 0], [0, 0, 1], [1, 0, 1]]  # 7 of 12, 4 and 3 in halves
    assert fit_packing(masks(there), sizes=12) == Packing(slots=7)
    assert fit_packing(masks(there), sizes=4) == Packing(slots=9)
    assert fit_packing(masks(there), groups=2, sizes=6) == Packing(slots=4, groups=2)
    assert fit_packing(masks(there), groups=4) is None  # the first sample alone needs all of its slots
    assert fit_packing(masks([[0, 0, 0]] * 4), sizes=12) == Packing(slots=1)


def test_samples_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="expected groups that divide 4 samples; found 3"):
        fit_packing(SEEN.image_masks, groups=3)
    with pytest.raises(ValueError, match="expected slots and groups of 1 or more; found 0 and 1"):
        Packing(slots=0)
    with pytest.raises(ValueError, match="packing: expected groups that divide the batch of 4; found 3"):
        velocity(SEEN.replace(packing=Packing(slots=3, groups=3)))


def test_more_images_than_promised_are_refused() -> None:
    fields = {field.name: getattr(SEEN, field.name) for field in dataclasses.fields(SEEN)} | {"drop_missing": False}
    assert observation_from_batch(**fields | {"packing": Packing(slots=7)}).packing == Packing(slots=7)
    with pytest.raises(ValueError, match="packing: expected at most 6 images in a group; found 7"):
        observation_from_batch(**fields | {"packing": Packing(slots=6)})


def test_images_take_the_slots_of_their_group_in_turn() -> None:
    places = place_images(Packing(slots=2, groups=2), jnp.array([[1, 0, 1], [0, 1, 0]], bool))
    np.testing.assert_array_equal(places.element, [[0, 2], [1, 3]])
    np.testing.assert_array_equal(places.slot, [[0, 2, 1], [2, 0, 2]])
    packed = places.pack(jnp.array([[10, 11, 12], [20, 21, 22]]))
    np.testing.assert_array_equal(packed, [[10, 12], [21, 0]])
    np.testing.assert_array_equal(places.unpack(packed), [[10, 0, 12], [0, 21, 0]])


def test_valid_tokens_come_first_in_their_row() -> None:
    images = place_images(Packing(slots=2), jnp.array([[0, 1], [1, 0]], bool))
    # Two tokens per image, two of text: rows are a a | b b | text; packed are row 0's b, row 1's a, both texts.
    valid = jnp.array([[0, 0, 1, 1, 1, 0], [1, 1, 0, 0, 1, 1]], bool)
    rows = place_tokens(images, valid, image_tokens=2, text_tokens=2)
    packed = jnp.array([[31, 32, 41, 42, 51, 52, 61, 62]])
    np.testing.assert_array_equal(rows.unpack(packed), [[31, 32, 51, 0, 0, 0], [41, 42, 61, 62, 0, 0]])
    np.testing.assert_array_equal(rows.pack(rows.unpack(packed)), [[31, 32, 41, 42, 51, 0, 61, 62]])
    np.testing.assert_array_equal(rows.valid, [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0]])
    np.testing.assert_array_equal(rows.positions, [[0, 1, 0, 1, 2, 0, 2, 3]])


def test_padding_moves_to_the_end() -> None:
    tokens, valid = valid_first(jnp.array([[[7], [8], [9]]]), jnp.array([[1, 0, 1]], bool))
    np.testing.assert_array_equal(tokens[..., 0], [[7, 9, 8]])
    np.testing.assert_array_equal(valid, [[1, 1, 0]])


def test_gradients_move_back_to_where_values_came_from() -> None:
    places = Places(element=jnp.array([[0, 2, 3]]), slot=jnp.array([[0, 3, 1]]))
    weights = jnp.array([[1.0, 10.0, 100.0]])
    gradient = jax.grad(lambda x: (places.pack(x) * weights).sum())(jnp.zeros((1, 3)))
    np.testing.assert_array_equal(gradient, [[1.0, 0.0, 10.0]])
    gradient = jax.grad(lambda x: (places.unpack(x) * weights).sum())(jnp.zeros((1, 3)))
    np.testing.assert_array_equal(gradient, [[1.0, 100.0, 0.0]])


@jax.jit
def velocity(seen: Observation) -> jax.Array:
    return policy.velocity(CONFIG, PARAMS, seen, NOISE, TIME)


def loss(params: policy.Params, seen: Observation, config: Pi0Config = CONFIG) -> jax.Array:
    return policy.loss_elements(config, params, seen, ACTIONS, NOISE, TIME).mean()


@pytest.mark.parametrize("packing", PACKINGS, ids=str)
def test_packing_gives_what_masking_gives(packing: Packing) -> None:
    np.testing.assert_allclose(velocity(SEEN.replace(packing=packing)), velocity(SEEN), atol=2e-6)


def test_packing_gives_the_gradients_of_masking() -> None:
    config = dataclasses.replace(CONFIG, remat="full")
    gradient = jax.jit(jax.grad(loss), static_argnums=2)
    masked = gradient(PARAMS, SEEN, CONFIG)
    packed = gradient(PARAMS, SEEN.replace(packing=Packing(slots=4, groups=2)), config)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), packed, masked)


def test_missing_images_have_no_influence_when_packed() -> None:
    packed = SEEN.replace(packing=Packing(slots=9))
    garbage = {name: np.where(THERE[:, i, None, None, None], SEEN.images[name], 99) for i, name in enumerate(CAMERAS)}
    np.testing.assert_array_equal(velocity(packed), velocity(packed.replace(images=garbage)))


def test_half_of_the_images_cost_about_half() -> None:
    half = SEEN.replace(packing=Packing(slots=6))
    flops: Callable[[Observation], float] = lambda seen: velocity.lower(seen).cost_analysis()["flops"]  # noqa: E731
    assert flops(half) < 0.7 * flops(SEEN)


@pytest.mark.shared
def test_the_recorded_case_agrees_when_packed(shared: Path) -> None:
    case = check.load_case(shared / "goldens/openpi/pi0_d18")
    there = np.stack(list(case.observation.image_masks.values()))
    packing = fit_packing(case.observation.image_masks, sizes=there.size)
    assert packing == Packing(slots=int(there.sum())) and not there.all()
    seen = case.observation.replace(packing=packing)
    inputs = [case.inputs[name] for name in ("actions", "noise", "time")]
    with jax.default_matmul_precision("highest"):
        found = np.asarray(jax.jit(policy.loss_elements, static_argnums=0)(case.config, case.params, seen, *inputs))
    bad = [row for row in check.compared(case, {"loss_elem": found}) if not row.ok]
    assert not bad, check.results_table(bad)
