"""Batches of mixed cameras on their way to the model: images that some samples lack are skipped where that pays."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from mixtures.stream.batches import Batch
from model import policy
from model.packing import Packing
from pipelines.contract.slots import CAMERAS
from tests.support.inputs.toy_mixture import ToyStream, open_toy_mixture, quick_compilation, settings
from trainers import batches
from trainers.config import RunConfig, resolve_config
from trainers.step import build_flow_loss

pytestmark = pytest.mark.usefixtures("quick_compilation")
__all__ = ["quick_compilation"]
THERE = np.array([[1, 1, 1], [1, 0, 0], [0, 0, 1], [1, 0, 0]], bool)


def config_of(**changes: object) -> RunConfig:
    return resolve_config(
        stage="pretrain",
        mixture=Path("toy.yaml"),
        horizon=4,
        cameras=CAMERAS,
        overrides=settings(batch_size=4, **changes),
    )


@pytest.fixture
def mixed(tmp_path: Path) -> Batch:
    (tmp_path / "toy.yaml").write_text("toy")
    batch = ToyStream(open_toy_mixture(tmp_path / "toy.yaml"), batch_size=4).batch_at(0)
    images = np.random.default_rng(0).integers(0, 255, batch.images.shape, np.uint8)
    return dataclasses.replace(batch, images=images, camera_mask=THERE)


def test_a_cpu_computes_all_images_under_masks(mixed: Batch) -> None:
    assert batches.build_batcher(config_of())(mixed).observation.packing is None


def test_parts_of_a_batch_are_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert batches.packs_images(config_of()) and not batches.packs_images(config_of(accumulate=2))


def test_packed_batches_have_the_loss_of_masked_ones(mixed: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of()
    masked = batches.build_batcher(config)(mixed)
    monkeypatch.setattr(batches, "packs_images", lambda config: True)
    packed = batches.build_batcher(config)(mixed)
    assert packed.observation.packing == Packing(slots=6, groups=1)  # 6 of 12 images
    params = policy.init_params(config.policy, jax.random.key(0))
    loss = jax.jit(build_flow_loss(config))
    np.testing.assert_allclose(*(loss(params, batch, jax.random.key(1)) for batch in (packed, masked)), rtol=1e-5)
