"""The worked examples of docs/torch.md: short, of names that exist, and run by the trainers' own code where that is.

EMBODIMIX_LEROBOT_PYTHON names an interpreter with LeRobot, PyTorch, diffusers and this project's own requirements;
EMBODIMIX_OPENPI one with openpi, as docs/model.md makes it, and the same requirements (the first of several).
"""

import ast
import os
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from mixtures.mixture import open_mixture
from mixtures.stream.batches import Stream
from pipelines.contract.slots import CAMERAS
from tests.support.checkout import ROOT
from tests.support.inputs.mixture_data import make_episode, write_dataset, write_spec
from tests.support.small_sentencepiece import write_small_sentencepiece

TITLES = (
    "LeRobot ACT",
    "LeRobot Diffusion",
    "LeRobot SmolVLA",
    "LeRobot pi0",
    "openpi, JAX",
    "openpi, PyTorch",
    "OpenVLA-OFT",
    "GR00T",
)
PYTHON = os.environ.get("EMBODIMIX_LEROBOT_PYTHON")
OPENPI = os.environ.get("EMBODIMIX_OPENPI", "").split(":")[0]
SPEC = "weighting: {alpha: 0.43}\ndatasets: [{path: a/1.0.0}]\naction: {horizon: 8}\n"


def example(title: str) -> str:
    """The code under a heading."""
    section = (ROOT / "docs/torch.md").read_text().split(f"### {title}\n")[1]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found
    return found[1]


@pytest.mark.parametrize("title", TITLES)
def test_examples_are_short_and_import_what_exists(title: str) -> None:
    code = example(title)
    assert code.count("\n") <= 40
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("mixtures"):
            path = ROOT / str(node.module).replace(".", "/")
            for name in node.names:
                module = path / f"{name.name}.py" if path.is_dir() else path.with_suffix(".py")
                assert path.is_dir() and module.exists() or name.name in module.read_text(), name.name


@pytest.mark.skipif(not PYTHON, reason="needs EMBODIMIX_LEROBOT_PYTHON, an interpreter with LeRobot")
@pytest.mark.parametrize("title", ["LeRobot ACT", "LeRobot Diffusion"])
@pytest.mark.slow
def test_lerobots_policies_train_a_step(tmp_path: Path, title: str) -> None:
    write_dataset(tmp_path, "a", [make_episode(i) for i in range(4)])
    write_spec(tmp_path, SPEC)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "EMBODIMIX_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [str(PYTHON), "-c", example(title)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert re.fullmatch(r"loss \d+\.\d{4}\n", done.stdout), done.stdout


@pytest.mark.skipif(not OPENPI, reason="EMBODIMIX_OPENPI unset")
@pytest.mark.slow
def test_openpis_own_code_trains_a_step_on_the_streams_batch(tmp_path: Path) -> None:
    write_dataset(tmp_path, "a", [make_episode(i) for i in range(4)])
    spec = write_spec(tmp_path, SPEC.replace("horizon: 8", "horizon: 50"))
    (tmp_path / "example.py").write_text(example("openpi, JAX"))
    write_small_sentencepiece(tmp_path / "words.model")
    given = run_foreign(OPENPI, "foreign_openpi_trainer.py", tmp_path, "example.py", "words.model")
    assert np.isfinite(given["loss"]) and given["loss"] > 0
    with Stream(open_mixture(spec, cache=tmp_path / "cache"), batch_size=2) as stream:
        batch = stream.batch_at(0)
    np.testing.assert_array_equal(given["state"][:, :18], batch.state)
    np.testing.assert_array_equal(given["actions"][..., :18], batch.action)
    for i, camera in enumerate(CAMERAS):
        np.testing.assert_array_equal(given[f"mask/{camera}"], batch.camera_mask[:, i])
        pixels = given[f"image/{camera}"] * 127.5 + 127.5
        np.testing.assert_allclose(pixels, batch.images[:, i], atol=1e-4)
    assert given["tokenized_prompt_mask"].any(axis=1).all()


def run_foreign(python: str, script: str, folder: Path, *arguments: str) -> dict[str, np.ndarray]:
    """What a script of tests/support, run in a folder by an interpreter of its own, writes to its last argument."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "EMBODIMIX_CACHE": str(folder / "cache")}
    command = [python, str(ROOT / "tests/support/foreign" / script), *arguments, str(folder / "given.npz")]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(np.load(folder / "given.npz"))


@pytest.mark.skipif(find_spec("lerobot") is None, reason="needs LeRobot in this interpreter")
def test_lerobots_vision_language_policies_prepare_the_batches(tmp_path: Path) -> None:
    """SmolVLA's and pi0's own preparation, without their billions of weights."""
    from types import SimpleNamespace

    import torch
    from lerobot.policies.pi0.modeling_pi0 import PI0Policy
    from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

    from mixtures.torch import lerobot

    write_dataset(tmp_path, "a", [make_episode(i) for i in range(4)])
    mixture = open_mixture(write_spec(tmp_path, SPEC), cache=tmp_path / "cache")
    with Stream(mixture, batch_size=4) as stream:
        batch = stream.batch_at(0)
    expected = torch.from_numpy(batch.images[:, 0]).permute(0, 3, 1, 2).float() / 255 * 2 - 1

    policy = SimpleNamespace(parameters=lambda: iter([torch.zeros(1)]))
    for owner, preset, prepare in (
        (SmolVLAPolicy, lerobot.smolvla(mixture), "prepare_images"),
        (PI0Policy, lerobot.pi0(mixture), "_preprocess_images"),
    ):
        made = preset(batch)
        policy.config = SimpleNamespace(
            image_features=list(preset.cameras.values()),
            resize_imgs_with_padding=None,
            image_resolution=(224, 224),
            max_state_dim=32,
            max_action_dim=32,
            empty_cameras=0,
        )
        images, masks = getattr(owner, prepare)(policy, made)
        torch.testing.assert_close(images[0], expected)
        assert [mask.tolist() for mask in masks] == [[True] * 4] * 2
        state, action = owner.prepare_state(policy, made), owner.prepare_action(policy, made)
        assert (state.shape, action.shape) == ((4, 32), (4, 8, 32))
        torch.testing.assert_close(action[..., :7], torch.from_numpy(batch.action[..., :7]))
