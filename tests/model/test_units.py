"""Single layers and input steps against recorded numbers."""

import json
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import gemma, pi0
from model.attention import apply_rope, attention_mask, token_positions
from model.config import config_from_params, named_config
from model.params import flatten
from model.siglip import layer_norm
from model.tokenizer import state_bins
from pipelines.contract.images import letterbox

pytestmark = pytest.mark.shared
Arrays = Mapping[str, np.ndarray]
SIZES = ("480x640", "180x320", "256x256", "224x224", "720x1280", "360x200", "100x100", "241x333")


@pytest.fixture(scope="module")
def units(shared: Path) -> Arrays:
    return dict(np.load(shared / "goldens/openpi/units.npz"))


def test_rms_norm_down_to_small_inputs(units: Arrays) -> None:
    found, gate = gemma.rms_norm(jnp.asarray(units["rms_x"]), {"scale": units["rms_scale"]}, None)
    np.testing.assert_allclose(found, units["rms_out"], rtol=2e-6, atol=1e-7)
    assert gate is None


def test_adaptive_rms_norm_gives_output_and_gate(units: Arrays) -> None:
    dense = {"Dense_0": {"kernel": units["ada_kernel"], "bias": units["ada_bias"]}}
    with jax.default_matmul_precision("highest"):
        found, gate = gemma.rms_norm(jnp.asarray(units["rms_x"]), dense, jnp.asarray(units["ada_cond"]))
    np.testing.assert_allclose(found, units["ada_out"], rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(gate, units["ada_gate"], rtol=1e-5, atol=2e-6)


def test_layer_norm(units: Arrays) -> None:
    params = {"scale": units["ln_scale"], "bias": units["ln_bias"]}
    np.testing.assert_allclose(layer_norm(jnp.asarray(units["rms_x"]), params), units["ln_out"], rtol=1e-5, atol=2e-6)


def test_gelu_is_the_tanh_form(units: Arrays) -> None:
    width = units["gelu_x"].shape[0]
    unit = {"gating_einsum": jnp.stack([jnp.eye(width)] * 2), "linear": jnp.eye(width)}
    x = jnp.asarray(units["gelu_x"])[None, None]
    found = gemma.feed_forward(unit, x)  # gelu(x) * x
    np.testing.assert_allclose(found[0, 0], units["gelu_out"] * units["gelu_x"], atol=2e-6)


def test_feed_forward(units: Arrays) -> None:
    params = {"gating_einsum": units["ff_gating"], "linear": units["ff_linear"]}
    with jax.default_matmul_precision("highest"):
        found = gemma.feed_forward(params, jnp.asarray(units["ff_x"]))
    np.testing.assert_allclose(found, units["ff_out"], rtol=1e-4, atol=1e-5)


def test_low_rank_adapters_add_their_product(units: Arrays) -> None:
    scale = float(units["lora_alpha"]) / float(units["lora_rank"])
    params = {"w": units["lora_w"], "lora_a": units["lora_a"], "lora_b": scale * units["lora_b"]}
    with jax.default_matmul_precision("highest"):
        found = gemma.project(jnp.asarray(units["lora_x"]), params, "bse,nek->bsnk", "bse,ner->bsnr", "bsnr,nrk->bsnk")
    np.testing.assert_allclose(found, units["lora_out"], rtol=1e-4, atol=1e-5)


def test_masks_and_positions(units: Arrays) -> None:
    valid, starts = jnp.asarray(units["mask_input"]), jnp.asarray(units["mask_ar"])
    np.testing.assert_array_equal(attention_mask(valid, starts), units["mask_out"])
    np.testing.assert_array_equal(token_positions(valid), units["mask_positions"])


def test_rope_at_the_published_head_size(shared: Path) -> None:
    case = np.load(shared / "goldens/openpi/rope_256.npz")
    found = apply_rope(jnp.asarray(case["x"]), jnp.asarray(case["positions"]))
    np.testing.assert_allclose(found, case["out"], atol=2e-4)


@pytest.fixture(scope="module")
def pictures(shared: Path) -> Arrays:
    return dict(np.load(shared / "goldens/openpi/resize_with_pad.npz"))


@pytest.mark.parametrize("size", SIZES)
def test_converted_pictures_equal_what_openpis_client_sends(pictures: Arrays, size: str) -> None:
    np.testing.assert_array_equal(letterbox(pictures[f"in/{size}"]), pictures[f"client_pil_u8/{size}"])


@pytest.mark.parametrize("height, width, rows", [(240, 424, 126), (480, 641, 167), (480, 640, 168), (360, 1, 224)])
def test_a_letterboxed_picture_has_the_rows_of_openpis_client(height: int, width: int, rows: int) -> None:
    image_tools = pytest.importorskip("openpi_client.image_tools")
    picture = np.random.default_rng(0).integers(1, 256, (height, width, 3), np.uint8)
    found = letterbox(picture)
    assert int(found.any(axis=(1, 2)).sum()) == rows
    if width > 1:  # openpi-client cannot resize to no columns; here one is kept
        np.testing.assert_array_equal(found, image_tools.resize_with_pad(picture, 224, 224))


def test_state_bins_equal_the_recorded_ones(shared: Path) -> None:
    case = np.load(shared / "goldens/openpi/norm_stats.npz")
    np.testing.assert_array_equal(state_bins(case["pi05_state"]), case["pi05_state_bins"])


@pytest.mark.parametrize("name, file", [("pi0", "pi0"), ("pi05", "pi05"), ("pi0-lora", "pi0_lora")])
def test_the_full_size_tree_is_the_published_one(shared: Path, name: str, file: str) -> None:
    recorded = json.loads((shared / f"goldens/fullsize_{file}_shapes.json").read_text())
    config = named_config(name, action_dim=32)
    tree = jax.eval_shape(lambda key: pi0.init_params(config, key), jax.random.key(0))
    found = {key: [list(leaf.shape), str(leaf.dtype)] for key, leaf in flatten(tree).items()}
    assert found == recorded
    shapes = {key: tuple(shape) for key, (shape, _) in recorded.items()}
    derived = config_from_params(
        shapes, dtype="bfloat16", remat="full", max_tokens=config.max_tokens, horizon=config.horizon
    )
    assert derived == config


@pytest.mark.parametrize("action_dim, count", [(32, 3_238_048_528), (18, 3_238_005_506)])
def test_the_full_size_has_the_published_count(action_dim: int, count: int) -> None:
    config = named_config("pi0", action_dim=action_dim)
    tree = jax.eval_shape(lambda key: pi0.init_params(config, key), jax.random.key(0))
    assert sum(leaf.size for leaf in flatten(tree).values()) == count
