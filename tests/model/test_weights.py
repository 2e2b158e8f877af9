"""Published weight layouts, read and written."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import trainers.main
from model import pi0, siglip
from model.config import Pi0Config, config_from_params
from model.gemma import embed_text, run_expert
from model.params import Params, flatten, unflatten
from model.published.check import load_case
from model.published.export import export_params, merge_lora
from model.published.files import LAYOUTS, Layout
from model.published.safetensors import read_safetensors, write_safetensors
from model.published.weights import FRESH, SLOTS_FROM_OPENPI, load_params

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def recorded(shared: Path) -> dict[str, np.ndarray]:
    return dict(np.load(shared / "goldens/openpi/pi0_d32_params.npz"))


@pytest.fixture(scope="module")
def config(recorded: dict[str, np.ndarray]) -> Pi0Config:
    return config_from_params({name: array.shape for name, array in recorded.items()})


@pytest.fixture(scope="module")
def initial(config: Pi0Config) -> Params:
    return jax.jit(pi0.init_params, static_argnums=0)(config, jax.random.key(0))


@pytest.mark.parametrize(
    "source, layout",
    [
        ("orbax_tiny/trained/7", "openpi"),
        ("orbax_tiny/trained/7/params", "openpi"),
        ("orbax_tiny/released", "openpi"),
        ("hf_pi0_tiny", "hf-pi0"),
        ("hf_pi0_tiny/model.safetensors", "hf-pi0"),
    ],
)
def test_whole_policies_are_read_exactly(
    shared: Path, recorded: dict, config: Pi0Config, initial: Params, source: str, layout: str
) -> None:
    params, report = load_params(shared / "goldens" / source, config, initial)
    assert report.layout == layout and len(report.loaded) == 50
    assert report.fresh == report.unread == report.mismatched == ()
    for name, array in flatten(params).items():
        np.testing.assert_array_equal(array, recorded[name], err_msg=name)


@pytest.mark.parametrize("folder", ["hf_paligemma_tiny", "hf_paligemma_tiny_hubnames"])
def test_paligemma_fills_all_but_the_action_expert(
    shared: Path, config: Pi0Config, initial: Params, folder: str
) -> None:
    expected = dict(np.load(shared / "goldens/hf_paligemma_tiny/openpi_layout_params.npz"))
    params, report = load_params(shared / "goldens" / folder, config, initial)
    found, before = flatten(params), flatten(initial)
    assert set(report.loaded) == set(expected) and report.unread == ()
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected.get(name, before[name]), err_msg=name)


def test_paligemma_computes_what_transformers_does(shared: Path, config: Pi0Config, initial: Params) -> None:
    case = np.load(shared / "goldens/hf_paligemma_tiny/io.npz")
    params, _ = load_params(shared / "goldens/hf_paligemma_tiny", config, initial)
    llm = params["PaliGemma"]["llm"]
    with jax.default_matmul_precision("highest"):
        images = case["in_image_u8"].astype(np.float32) / 255.0 * 2.0 - 1.0
        tokens = siglip.encode_images(config.siglip, params["PaliGemma"]["img"], images)
        valid = jnp.asarray(case["in_text_mask"], bool)
        causal = jnp.tril(jnp.ones((valid.shape[1],) * 2, bool))[None] & valid[:, None, :]
        text = embed_text(llm["embedder"]["input_embedding"], case["in_text_ids"])
        out, _ = run_expert(llm, 0, text, causal, jnp.cumsum(valid, axis=1) - 1)
    np.testing.assert_allclose(tokens, case["projector_out"], atol=2e-5)
    np.testing.assert_allclose(out[valid], case["gemma_causal_last_hidden"][valid], atol=3e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_written_weights_read_back_bit_for_bit(
    tmp_path: Path, recorded: dict, config: Pi0Config, initial: Params, layout: Layout
) -> None:
    path = tmp_path / ("out.npz" if layout == "big_vision" else "out")
    export_params(config, unflatten(recorded), path, layout)
    params, report = load_params(path, config, initial)
    assert report.layout == layout
    assert len(report.loaded) == (50 if layout in ("openpi", "lerobot", "hf-pi0") else 32)
    for name in report.loaded:
        np.testing.assert_array_equal(flatten(params)[name], recorded[name], err_msg=name)


@pytest.mark.parametrize("layout, folder", [("hf-pi0", "hf_pi0_tiny"), ("hf-paligemma", "hf_paligemma_tiny_hubnames")])
def test_written_names_and_shapes_are_huggingfaces(
    shared: Path, tmp_path: Path, recorded: dict, config: Pi0Config, layout: Layout, folder: str
) -> None:
    export_params(config, unflatten(recorded), tmp_path / "out", layout)
    theirs = read_safetensors(shared / "goldens" / folder)
    ours = read_safetensors(tmp_path / "out")
    # Every version reads the hub's name of the image encoder; the recorded file has the one that later versions write.
    ours = {name if name in theirs else name.replace("vision_model.", ""): array for name, array in ours.items()}
    assert set(ours) | {"language_model.lm_head.weight"} == set(theirs) | {"language_model.lm_head.weight"}
    padded = {name for name in ours if ours[name].shape != theirs[name].shape}
    assert all(name.endswith(("embed_tokens.weight", "lm_head.weight")) for name in padded)
    written = json.loads((tmp_path / "out/config.json").read_text())
    original = json.loads((shared / "goldens" / folder / "config.json").read_text())
    assert written["model_type"] == original["model_type"]


def test_merged_adapters_compute_what_they_did(config: Pi0Config, shared: Path) -> None:
    ranks = {name: dataclasses.replace(getattr(config, name), lora_rank=3) for name in ("prefix", "expert")}
    adapted = dataclasses.replace(config, **ranks, horizon=4)
    flat = flatten(jax.jit(pi0.init_params, static_argnums=0)(adapted, jax.random.key(5)))
    # Ten times the size that they are drawn with, so that what they do is as large as what the weights do.
    flat = {name: 10 * array if "lora" in name else array for name, array in flat.items()}
    case = load_case(shared / "goldens/openpi/pi0_d32")
    inputs = case.inputs["actions"][:, :4], case.inputs["noise"][:, :4], case.inputs["time"]

    def loss(config: Pi0Config, params: Params) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            return pi0.loss_elements(config, params, case.observation, *inputs)

    merged = dataclasses.replace(config, horizon=4)
    with_adapters, without = loss(adapted, unflatten(flat)), loss(merged, unflatten(merge_lora(flat)))
    plain = loss(merged, unflatten({name: array for name, array in flat.items() if "lora" not in name}))
    np.testing.assert_allclose(without, with_adapters, atol=1e-6 * float(with_adapters.max()))
    assert float(jnp.abs(plain - with_adapters).mean()) > 0.1


def test_big_vision_bfloat16_without_a_name_is_understood(
    tmp_path: Path, recorded: dict, config: Pi0Config, initial: Params
) -> None:
    export_params(config, unflatten(recorded), tmp_path / "whole.npz", "big_vision")
    arrays = dict(np.load(tmp_path / "whole.npz"))
    key = "params/img/head/kernel"
    halved = np.asarray(jnp.asarray(arrays[key], jnp.bfloat16))
    np.savez(tmp_path / "half.npz", **{**arrays, key: halved.view("V2"), "opt/step": np.zeros(1)})
    params, report = load_params(tmp_path / "half.npz", config, initial)
    np.testing.assert_array_equal(params["PaliGemma"]["img"]["head"]["kernel"], halved.astype(np.float32))
    assert report.unread == ("opt/step",)


def test_the_slot_map_carries_the_shared_dims_and_reports_the_rest(
    shared: Path, recorded: dict, config: Pi0Config
) -> None:
    small = config_from_params({name: array.shape for name, array in recorded.items()})
    small = dataclasses.replace(small, action_dim=18)
    before = jax.jit(pi0.init_params, static_argnums=0)(small, jax.random.key(1))
    source = shared / "goldens/orbax_tiny/released"
    params, report = load_params(source, small, before, slot_map=SLOTS_FROM_OPENPI)
    into, out = params["action_in_proj"]["kernel"], params["action_out_proj"]["kernel"]
    np.testing.assert_array_equal(into[:16], recorded["action_in_proj/kernel"][:16])
    np.testing.assert_array_equal(into[16:], before["action_in_proj"]["kernel"][16:])
    np.testing.assert_array_equal(out[:, :16], recorded["action_out_proj/kernel"][:, :16])
    np.testing.assert_array_equal(params["action_out_proj"]["bias"][:16], recorded["action_out_proj/bias"][:16])
    assert len(report.dropped) == 4
    assert report.dropped[0].startswith("state_proj/kernel: dims [16, 17, 18, 19")
    assert report.dropped[0].endswith("slots [16, 17] initialised")


def test_a_slot_map_of_the_wrong_length_is_refused(shared: Path, config: Pi0Config, initial: Params) -> None:
    with pytest.raises(ValueError, match=r"expected 32 entries below 32; found \(0, -1\)"):
        load_params(shared / "goldens/orbax_tiny/released", config, initial, slot_map=(0, FRESH))


def test_every_mismatch_is_named(shared: Path, recorded: dict, config: Pi0Config, tmp_path: Path) -> None:
    small = dataclasses.replace(config, action_dim=18)
    before = jax.jit(pi0.init_params, static_argnums=0)(small, jax.random.key(1))
    with pytest.raises(ValueError) as error:
        load_params(shared / "goldens/hf_pi0_tiny", small, before)
    text = str(error.value)
    assert "give a slot map" in text
    for name in (
        "action_in_proj/kernel",
        "action_out_proj/bias",
        "action_out_proj/kernel",
        "state_proj/kernel",
    ):
        assert name in text
    assert "action_in_proj/kernel: expected (18, 32); found (32, 32)" in text


def test_a_missing_array_is_named_or_kept_when_asked(
    shared: Path, tmp_path: Path, config: Pi0Config, initial: Params
) -> None:
    theirs = dict(read_safetensors(shared / "goldens/hf_pi0_tiny"))
    del theirs["state_proj.bias"]
    theirs["normalize_inputs.buffer"] = np.zeros(3, np.float32)
    write_safetensors(tmp_path / "model.safetensors", theirs)
    with pytest.raises(ValueError, match="state_proj/bias: missing"):
        load_params(tmp_path, config, initial)
    _, report = load_params(tmp_path, config, initial, partial=True)
    assert report.fresh == ("state_proj/bias",) and report.unread == ("normalize_inputs.buffer",)
    assert "1 in the file, not read\n  normalize_inputs.buffer" in str(report)


def test_lerobots_names_and_a_tied_embedding_under_the_heads_name_are_understood(
    shared: Path, tmp_path: Path, recorded: dict, config: Pi0Config, initial: Params
) -> None:
    theirs = {f"model.{name}": array for name, array in read_safetensors(shared / "goldens/hf_pi0_tiny").items()}
    vlm = "model.paligemma_with_expert.paligemma."
    embedding = theirs.pop(vlm + "model.language_model.model.embed_tokens.weight")
    head = np.concatenate([embedding, np.zeros((64, embedding.shape[1]), np.float32)])
    write_safetensors(tmp_path / "model.safetensors", theirs | {vlm + "lm_head.weight": head})
    params, report = load_params(tmp_path, config, initial)
    assert report.layout == "lerobot" and len(report.loaded) == 50 and report.unread == ()
    for name, array in flatten(params).items():
        np.testing.assert_array_equal(array, recorded[name], err_msg=name)


def test_a_cut_safetensors_file_is_refused(shared: Path, tmp_path: Path) -> None:
    data = (shared / "goldens/hf_pi0_tiny/model.safetensors").read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(data[:-100])
    with pytest.raises(ValueError, match=f"expected {len(data)} bytes; found {len(data) - 100}"):
        read_safetensors(cut)


def test_other_files_are_refused(tmp_path: Path, config: Pi0Config, initial: Params) -> None:
    with pytest.raises(FileNotFoundError, match="found nothing"):
        load_params(tmp_path / "none", config, initial)
    with pytest.raises(ValueError, match="found none of these"):
        load_params(tmp_path, config, initial)


def test_the_command_exports_and_refuses_to_overwrite(
    shared: Path,
    tmp_path: Path,
    recorded: dict,
    config: Pi0Config,
    initial: Params,
    capsys: pytest.CaptureFixture,
) -> None:
    source = str(shared / "goldens/orbax_tiny/trained/7")
    command = ["export", source, str(tmp_path / "out"), "--layout", "hf-pi0"]
    assert trainers.main.main(command) == 0
    assert "model.safetensors: 50 arrays, 386,040 values" in capsys.readouterr().out
    params, _ = load_params(tmp_path / "out", config, initial)
    np.testing.assert_array_equal(params["state_proj"]["kernel"], recorded["state_proj/kernel"])
    assert trainers.main.main(command) == 2
    assert "exists; choose another path" in capsys.readouterr().err
