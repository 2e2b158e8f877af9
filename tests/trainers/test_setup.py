"""How a run starts: published weights for each kind of policy, and what is refused before anything is written."""

from pathlib import Path

import jax
import numpy as np
import pytest

from model.params import flatten
from model.published.safetensors import write_safetensors
from pipelines.contract.errors import UsageError
from tests.support.distilbert import huggingface_distilbert
from tests.support.inputs.toy_mixture import quick_compilation
from trainers.config import RunConfig, resolve_config
from trainers.mesh import single_device_mesh, with_placement
from trainers.setup import abstract_state, fresh_state

pytestmark = pytest.mark.usefixtures("quick_compilation")
__all__ = ["quick_compilation"]
TINY_TEXT = {"width": 64, "mlp": 128, "vocab": 1024, "positions": 64, "depth": 2}


def small_config(folder: Path) -> RunConfig:
    return resolve_config(
        stage="pretrain",
        mixture=folder / "mixture.yaml",
        horizon=4,
        cameras=("base_0_rgb",),
        overrides={"model": "pi0-small-tiny", "weights": str(folder), "steps": 1},
    )


def test_weights_of_pi0_small_are_those_of_distilbert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = huggingface_distilbert(np.random.default_rng(0), **TINY_TEXT)
    write_safetensors(tmp_path / "model.safetensors", weights)
    config, mesh = small_config(tmp_path), single_device_mesh()
    state = fresh_state(config, mesh, with_placement(mesh, abstract_state(config)))
    found = flatten(jax.device_get(state.params))["text/embeddings/word"]
    np.testing.assert_array_equal(found, weights["distilbert.embeddings.word_embeddings.weight"])
    assert "(hf-distilbert): 20 parameters read" in capsys.readouterr().err


def test_weights_that_are_no_distilbert_are_refused(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", {"lm_head.weight": np.zeros((2, 2), np.float32)})
    config, mesh = small_config(tmp_path), single_device_mesh()
    with pytest.raises(UsageError, match="--weights: DistilBERT weights: expected transformer.layer|expected embedd"):
        fresh_state(config, mesh, with_placement(mesh, abstract_state(config)))
