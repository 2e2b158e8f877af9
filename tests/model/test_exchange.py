"""Weights that other programs load and save: openpi, LeRobot, transformers' pi0, each in an environment of its own.

EMBODIMIX_OPENPI, EMBODIMIX_LEROBOT and EMBODIMIX_TRANSFORMERS name Python interpreters that have them, several with ':'
between; `docs/model.md` says how to make them. Recorded truth are the actions that openpi sampled of the same weights.
"""

import dataclasses
import json
import os
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from model import pi0
from model.config import Pi0Config
from model.inputs import CAMERAS
from model.params import flatten, unflatten
from model.published.check import load_case
from model.published.export import export_params
from model.published.weights import load_params
from tests.support.checkout import ROOT

pytestmark = pytest.mark.shared
LEROBOTS = [path for path in os.environ.get("EMBODIMIX_LEROBOT", "").split(":") if path]
OPENPIS = [path for path in os.environ.get("EMBODIMIX_OPENPI", "").split(":") if path]
TRANSFORMERS = [path for path in os.environ.get("EMBODIMIX_TRANSFORMERS", "").split(":") if path]


def run(python: str, script: str, *arguments: Path) -> None:
    command = [python, str(ROOT / "tests/support/foreign" / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr[-2000:]


def inputs_of(case: Any, path: Path) -> Path:
    """The case's inputs as torch programs take them: images [b, c, y, x] in [0, 1]."""
    images = {f"image/{name}": np.asarray(case.observation.images[name], np.float32) / 255.0 for name in CAMERAS}
    arrays = {name: image.transpose(0, 3, 1, 2) for name, image in images.items()}
    arrays |= {f"image_mask/{name}": np.asarray(case.observation.image_masks[name]) for name in CAMERAS}
    for name in ("tokenized_prompt", "tokenized_prompt_mask", "state"):
        arrays[name] = np.asarray(getattr(case.observation, name))
    np.savez(path, sample_noise=case.inputs["sample_noise"], **arrays)
    return path


def write_lerobot_config(folder: Path, kind: str, config: Pi0Config, max_tokens: int) -> None:
    pictures = {f"observation.images.{name}": {"type": "VISUAL", "shape": [3, 224, 224]} for name in CAMERAS}
    content = {
        "type": kind,
        "input_features": pictures | {"observation.state": {"type": "STATE", "shape": [32]}},
        "output_features": {"action": {"type": "ACTION", "shape": [32]}},
        "device": "cpu",
        "chunk_size": 50,
        "tokenizer_max_length": max_tokens,
    }
    (folder / "config.json").write_text(json.dumps(content))


def write_sizes(path: Path, config: Pi0Config) -> Path:
    names = ("width", "depth", "mlp_dim", "head_dim", "heads", "lora_rank")
    parts = {p: {n: getattr(getattr(config, p), n, 0) for n in names} for p in ("prefix", "expert", "siglip")}
    path.write_text(json.dumps(parts | {"vocab_size": config.vocab_size}))
    return path


@pytest.mark.parametrize("python", LEROBOTS or [pytest.param("", marks=pytest.mark.skip("EMBODIMIX_LEROBOT unset"))])
@pytest.mark.parametrize("name, kind", [("pi0_d32", "pi0"), ("pi05_d32", "pi05")])
def test_lerobot_loads_every_key_samples_the_same_and_is_read_back(
    shared: Path, tmp_path: Path, python: str, name: str, kind: str
) -> None:
    case = load_case(shared / "goldens/openpi" / name)
    config, folder, saved = case.config, tmp_path / "out", tmp_path / "saved"
    export_params(config, case.params, folder, "lerobot")
    write_lerobot_config(folder, kind, config, case.config.max_tokens)
    sizes, inputs = write_sizes(tmp_path / "sizes.json", config), inputs_of(case, tmp_path / "in.npz")
    run(python, "foreign_lerobot.py", folder, sizes, inputs, tmp_path / "found.npz", saved)
    found = np.load(tmp_path / "found.npz")
    assert found["keys"].tolist() == found["loaded"].tolist() and len(found["keys"]) in (124, 129)
    np.testing.assert_allclose(found["actions"], case.outputs["sample_actions_steps10"], atol=1e-4)
    assert_read_back(saved, config, flatten(case.params), "lerobot")


@pytest.mark.parametrize(
    "python", TRANSFORMERS or [pytest.param("", marks=pytest.mark.skip("EMBODIMIX_TRANSFORMERS unset"))]
)
def test_transformers_loads_every_key_samples_the_same_and_is_read_back(
    shared: Path, tmp_path: Path, python: str
) -> None:
    case = load_case(shared / "goldens/openpi/pi0_d32")
    folder, saved = tmp_path / "out", tmp_path / "saved"
    export_params(case.config, case.params, folder, "hf-pi0")
    inputs = inputs_of(case, tmp_path / "in.npz")
    run(python, "foreign_transformers.py", folder, inputs, tmp_path / "found.npz", saved)
    found = np.load(tmp_path / "found.npz")
    assert found["missing"].tolist() == found["unexpected"].tolist() == []
    np.testing.assert_allclose(found["actions"], case.outputs["sample_actions_steps10"], atol=1e-4)
    assert_read_back(saved, case.config, flatten(case.params), "hf-pi0")


@pytest.mark.parametrize("python", OPENPIS or [pytest.param("", marks=pytest.mark.skip("EMBODIMIX_OPENPI unset"))])
@pytest.mark.parametrize("name", ["pi0_d32", "pi05_d32"])
def test_openpi_restores_every_key_and_samples_the_same(shared: Path, tmp_path: Path, python: str, name: str) -> None:
    case = load_case(shared / "goldens/openpi" / name)
    export_params(case.config, case.params, tmp_path / "out", "openpi")
    sizes, inputs = write_sizes(tmp_path / "sizes.json", case.config), inputs_of(case, tmp_path / "in.npz")
    run(python, "foreign_openpi.py", tmp_path / "out", sizes, inputs, tmp_path / "found.npz")
    found = np.load(tmp_path / "found.npz")
    assert int(found["keys"]) == len(flatten(case.params))
    np.testing.assert_allclose(found["actions"], case.outputs["sample_actions_steps10"], atol=1e-4)


def with_adapters(config: Pi0Config, params: Any) -> tuple[Pi0Config, dict[str, Any]]:
    """The same policy with adapters of rank 4, whose values follow from their names' order alone."""
    ranks = {name: dataclasses.replace(getattr(config, name), lora_rank=4) for name in ("prefix", "expert")}
    adapted, random = dataclasses.replace(config, **ranks), np.random.default_rng(0)
    shapes = flatten(jax.eval_shape(lambda: pi0.init_params(adapted, jax.random.key(0))))
    drawn = {
        name: random.normal(0, 0.2, shapes[name].shape).astype(np.float32) for name in sorted(shapes) if "lora" in name
    }
    return adapted, unflatten(dict(flatten(params)) | drawn)


def test_adapters_act_as_openpi_recorded(shared: Path) -> None:
    """tests/support/foreign/openpi_adapters.npz: openpi's actions of that policy, by the test below."""
    case = load_case(shared / "goldens/openpi/pi0_d32")
    config, params = with_adapters(case.config, case.params)
    with jax.default_matmul_precision("highest"):
        sample = jax.jit(partial(pi0.sample_actions, config))
        found = sample(params, case.observation, case.inputs["sample_noise"])
    expected = np.load(ROOT / "tests/support/foreign/openpi_adapters.npz")["actions"]
    assert np.abs(expected - case.outputs["sample_actions_steps10"]).mean() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("python", OPENPIS or [pytest.param("", marks=pytest.mark.skip("EMBODIMIX_OPENPI unset"))])
def test_openpi_restores_adapters_and_samples_what_was_recorded(shared: Path, tmp_path: Path, python: str) -> None:
    case = load_case(shared / "goldens/openpi/pi0_d32")
    config, params = with_adapters(case.config, case.params)
    export_params(config, params, tmp_path / "out", "openpi")
    sizes, inputs = write_sizes(tmp_path / "sizes.json", config), inputs_of(case, tmp_path / "in.npz")
    run(python, "foreign_openpi.py", tmp_path / "out", sizes, inputs, tmp_path / "found.npz")
    found = np.load(tmp_path / "found.npz")
    assert int(found["keys"]) == len(flatten(params)) == 70
    expected = np.load(ROOT / "tests/support/foreign/openpi_adapters.npz")["actions"]
    np.testing.assert_allclose(found["actions"], expected, atol=1e-5)


def assert_read_back(saved: Path, config: Pi0Config, expected: dict[str, Any], layout: str) -> None:
    """What the other program saved is read, every array of it."""
    initial = jax.eval_shape(lambda: pi0.init_params(config, jax.random.key(0)))
    params, report = load_params(saved, config, initial, draw=lambda names: {})
    assert report.layout == layout and report.fresh == report.unread == ()
    for name, array in flatten(params).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
