"""pi0-small: its parts against plain numpy, its size, and what it shares with pi0."""

import dataclasses
from functools import partial
from math import erf
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import policy
from model.config import EncoderConfig, Pi0SmallConfig, SiglipConfig, config_from_dict, named_config
from model.distilbert import distilbert_specs, encode_text
from model.dit import chunk_positions
from model.inputs import CAMERAS, Observation
from model.layers import PLAIN
from model.params import flatten
from model.published.safetensors import write_safetensors
from model.published.weights import load_text_encoder
from tests.support.distilbert import huggingface_distilbert

SIZES = EncoderConfig(width=16, depth=2, mlp_dim=24, heads=2)
CONFIG = Pi0SmallConfig(
    text=SIZES,
    vit=SiglipConfig(width=16, depth=1, mlp_dim=24, heads=2, patch_size=8, image_size=16),
    encoder=SIZES,
    expert=SIZES,
    vocab_size=20,
    text_positions=8,
    action_dim=4,
    horizon=5,
    max_tokens=6,
)


@pytest.fixture(scope="module")
def params() -> policy.Params:
    """Parameters moved off their starting point, where every block of the expert is identity."""
    drawn = jax.jit(policy.init_params, static_argnums=0)(CONFIG, jax.random.key(0))
    leaves, tree = jax.tree.flatten(drawn)
    rng = np.random.default_rng(1)
    return tree.unflatten([leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves])


def observation() -> Observation:
    rng = np.random.default_rng(3)
    return Observation(
        images={name: rng.uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32) for name in CAMERAS},
        image_masks={name: np.ones(2, bool) for name in CAMERAS},
        tokenized_prompt=rng.integers(1, 20, (2, 6)).astype(np.int32),
        tokenized_prompt_mask=np.arange(6)[None] < np.array([[4], [6]]),
        state=rng.normal(size=(2, 4)).astype(np.float32),
    )


def actions() -> np.ndarray:
    return np.random.default_rng(5).normal(size=(2, 5, 4)).astype(np.float32)


@jax.jit
def velocity_of(params: policy.Params, seen: Observation) -> jax.Array:
    return policy.velocity(CONFIG, params, seen, actions(), jnp.array([0.3, 0.8]))


def test_it_has_470_million_parameters() -> None:
    config = named_config("pi0-small")
    tree = jax.eval_shape(partial(policy.init_params, config), jax.random.key(0))
    assert policy.param_count(tree) == 468_763_282
    assert policy.param_count(tree["text"]) == 66_362_880  # distilbert-base-uncased


def test_a_missing_camera_left_out_equals_masked(params: policy.Params) -> None:
    full = observation()
    masked = full.replace(image_masks={**full.image_masks, CAMERAS[1]: np.zeros(2, bool)})
    kept = (CAMERAS[0], CAMERAS[2])
    dropped = full.replace(
        images={name: full.images[name] for name in kept},
        image_masks={name: full.image_masks[name] for name in kept},
    )
    np.testing.assert_allclose(velocity_of(params, masked), velocity_of(params, dropped), atol=1e-5)
    assert np.abs(velocity_of(params, masked) - velocity_of(params, full)).max() > 1e-4


def test_padding_of_the_prompt_has_no_influence(params: policy.Params) -> None:
    seen = observation()
    prompt = seen.tokenized_prompt.copy()
    prompt[0, 4:] = 19
    other = seen.replace(tokenized_prompt=prompt)
    np.testing.assert_array_equal(velocity_of(params, seen), velocity_of(params, other))


def test_at_the_start_the_expert_ignores_the_observation() -> None:
    start = jax.jit(policy.init_params, static_argnums=0)(CONFIG, jax.random.key(0))
    seen = observation()
    blind = seen.replace(state=seen.state + 1.0)
    np.testing.assert_array_equal(velocity_of(start, seen), velocity_of(start, blind))


def test_every_parameter_that_is_read_gets_a_gradient(params: policy.Params) -> None:
    target = actions()

    def mean_loss(params: policy.Params) -> jax.Array:
        time = jnp.array([0.3, 0.8])
        return policy.loss_elements(CONFIG, params, observation(), target, -target, time).mean()

    grads = flatten(jax.jit(jax.grad(mean_loss))(params))
    silent = {name for name, grad in grads.items() if not np.any(np.abs(grad) > 1e-12)}
    assert silent == set()


def test_absent_slots_keep_their_noise_in_sampling(params: policy.Params) -> None:
    mask = np.array([[True, True, False, False]] * 2)
    sampled = jax.jit(partial(policy.sample_actions, CONFIG), static_argnums=3)(
        params, observation(), actions(), 2, action_mask=mask
    )
    np.testing.assert_array_equal(sampled[:, :, 2:], actions()[:, :, 2:])
    assert np.abs(sampled[:, :, :2] - actions()[:, :, :2]).max() > 1e-3


def test_its_config_survives_json() -> None:
    assert config_from_dict(dataclasses.asdict(CONFIG)) == CONFIG


def test_places_in_the_chunk_are_sines_then_cosines() -> None:
    np.testing.assert_allclose(
        chunk_positions(2, 4),
        [[0.0, 0.0, 1.0, 1.0], [np.sin(1), np.sin(0.01), np.cos(1), np.cos(0.01)]],
        rtol=1e-6,
    )


def distilbert_in_numpy(weights: dict[str, np.ndarray], ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """DistilBERT written from its paper and the Hugging Face names, for one sequence."""

    def weight(name: str) -> np.ndarray:
        return weights[f"distilbert.{name}"].astype(np.float64)

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weight(f"{name}.weight").T + weight(f"{name}.bias")

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * weight(f"{name}.weight") + weight(f"{name}.bias")

    x = weight("embeddings.word_embeddings.weight")[ids]
    x = norm(x + weight("embeddings.position_embeddings.weight")[: len(ids)], "embeddings.LayerNorm")
    for i in range(2):
        layer = f"transformer.layer.{i}."
        q, k, v = (linear(x, f"{layer}attention.{n}_lin").reshape(-1, 2, 8) for n in "qkv")
        scores = np.einsum("snk,tnk->nst", q, k) / np.sqrt(8) + np.where(mask, 0.0, -1e30)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        mixed = np.einsum("nst,tnk->snk", shares, v).reshape(-1, 16)
        x = norm(x + linear(mixed, f"{layer}attention.out_lin"), f"{layer}sa_layer_norm")
        hidden = linear(x, f"{layer}ffn.lin1")
        hidden = hidden * 0.5 * (1.0 + np.vectorize(erf)(hidden / np.sqrt(2.0)))
        x = norm(x + linear(hidden, f"{layer}ffn.lin2"), f"{layer}output_layer_norm")
    return x


def test_distilbert_weights_load_and_compute_what_numpy_does(tmp_path: Path, params: policy.Params) -> None:
    weights = huggingface_distilbert(np.random.default_rng(0))
    write_safetensors(tmp_path / "model.safetensors", {**weights, "vocab_projector.bias": np.zeros(3, np.float32)})
    loaded, report = load_text_encoder(tmp_path, CONFIG, params)
    ids, mask = observation().tokenized_prompt[0], observation().tokenized_prompt_mask[0]
    with jax.default_matmul_precision("highest"):
        found = encode_text(loaded["text"], ids[None], mask[None], dtype="float32", how=PLAIN)[0]
    expected = distilbert_in_numpy(weights, ids, mask)
    np.testing.assert_allclose(found[mask], expected[mask], atol=2e-4)
    assert report.unread == ("vocab_projector.bias",)
    assert set(report.loaded) == {f"text/{name}" for name in distilbert_specs(SIZES, 20, 8)}


def test_distilbert_of_another_size_is_refused(tmp_path: Path, params: policy.Params) -> None:
    weights = huggingface_distilbert(np.random.default_rng(0))
    weights["distilbert.embeddings.word_embeddings.weight"] = np.zeros((30, 16), np.float32)
    write_safetensors(tmp_path / "model.safetensors", weights)
    with pytest.raises(ValueError, match=r"text/embeddings/word: expected \(20, 16\); found \(30, 16\)"):
        load_text_encoder(tmp_path, CONFIG, params)
    del weights["distilbert.transformer.layer.1.ffn.lin2.bias"]
    write_safetensors(tmp_path / "model.safetensors", weights)
    with pytest.raises(ValueError, match="expected transformer.layer.1.ffn.lin2.bias"):
        load_text_encoder(tmp_path, CONFIG, params)
