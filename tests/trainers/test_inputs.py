"""Every input moves every model's output, through the trainer's own path and the server's."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from mixtures.actions.normalizer import Normalizer
from mixtures.stream.batches import Batch
from pipelines.contract.slots import CAMERAS
from tests.support.inputs.toy_mixture import (
    HORIZON,
    NORM_KEYS,
    PARTS,
    SMALL,
    moved_params,
    quick_compilation,
    stream_batch,
    toy_statistics,
)
from trainers.batches import build_batcher
from trainers.config import RunConfig, flattened, resolve_config
from trainers.robots import Robot
from trainers.serving.acting import Actor
from trainers.serving.observations import RobotObservation
from trainers.step import build_flow_loss

pytestmark = pytest.mark.usefixtures("quick_compilation")
__all__ = ["quick_compilation"]
SIZES = {"width": 16, "depth": 1, "mlp_dim": 16, "heads": 2}
SMALL_ENCODERS = {
    "model": "pi0-small-tiny",
    "policy.text": SIZES,
    "policy.encoder": SIZES,
    "policy.expert": SIZES,
    "policy.vit": SIZES | {"patch_size": 112},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "pi0": SMALL | {"policy.max_tokens": 24},
    "pi05": SMALL | {"policy.max_tokens": 96, "policy.pi05": True},
    "pi0-lora": SMALL | {"policy.max_tokens": 24, "policy.prefix.lora_rank": 2, "policy.expert.lora_rank": 2},
    "pi0-small": SMALL_ENCODERS,
}


def config_of(variant: str, folder: Path) -> RunConfig:
    return resolve_config(
        stage="pretrain",
        mixture=folder / "toy.yaml",
        horizon=HORIZON,
        cameras=CAMERAS,
        overrides=flattened(VARIANTS[variant]),
    )


def with_other_picture(batch: Batch, camera: str) -> Batch:
    images = batch.images.copy()
    images[:, CAMERAS.index(camera)] = 255 - images[:, CAMERAS.index(camera)]
    return dataclasses.replace(batch, images=images)


def without_camera(batch: Batch, camera: str) -> Batch:
    mask = batch.camera_mask & (np.array(CAMERAS) != camera)
    return dataclasses.replace(batch, camera_mask=mask)


BATCH_CHANGES: dict[str, Callable[[Batch], Batch]] = {
    **{f"picture of {name}": lambda batch, name=name: with_other_picture(batch, name) for name in CAMERAS},
    **{f"mask of {name}": lambda batch, name=name: without_camera(batch, name) for name in CAMERAS},
    "state": lambda batch: dataclasses.replace(batch, state=-batch.state),
    "prompt": lambda batch: dataclasses.replace(batch, language=["open it", "close the drawer"]),
    "actions": lambda batch: dataclasses.replace(batch, action=batch.action + 0.5 * batch.action_mask[:, None]),
    "slots of the robot": lambda batch: dataclasses.replace(batch, action_mask=np.roll(batch.action_mask, 1, axis=1)),
    "end of the episode": lambda batch: dataclasses.replace(batch, chunk_mask=np.ones_like(batch.chunk_mask)),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_input_of_training_moves_the_loss(variant: str, tmp_path: Path) -> None:
    batch = stream_batch(tmp_path)
    config = config_of(variant, tmp_path)
    to_train_batch, params = build_batcher(config), moved_params(config)
    loss = jax.jit(build_flow_loss(config))
    key = jax.random.key(0)
    before = np.asarray(loss(params, to_train_batch(batch), key))
    changed = {name: change(batch) for name, change in BATCH_CHANGES.items()}
    moved = {
        name: np.abs(np.asarray(loss(params, to_train_batch(other), key)) - before) for name, other in changed.items()
    }
    moved["noise and flow time"] = np.abs(np.asarray(loss(params, to_train_batch(batch), jax.random.key(1))) - before)
    assert {name for name, by in moved.items() if by.max() < 1e-6} == set()


OBSERVATION_CHANGES: dict[str, Callable[[RobotObservation], RobotObservation]] = {
    **{
        f"picture of {camera}": lambda seen, camera=camera: dataclasses.replace(
            seen, images=dict(seen.images) | {camera: 255 - seen.images[camera]}
        )
        for camera in CAMERAS
    },
    **{
        f"no picture of {camera}": lambda seen, camera=camera: dataclasses.replace(
            seen, images={name: picture for name, picture in seen.images.items() if name != camera}
        )
        for camera in CAMERAS
    },
    "state": lambda seen: dataclasses.replace(seen, state=-seen.state),
    "prompt": lambda seen: dataclasses.replace(seen, prompt="close the drawer"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_input_of_serving_moves_the_actions(variant: str, tmp_path: Path) -> None:
    config = config_of(variant, tmp_path)
    robot = Robot(norm_key=NORM_KEYS[0], parts=PARTS[NORM_KEYS[0]], control_hz=(20.0,))
    actor = Actor(
        config=config,
        step=1,
        params=moved_params(config),
        robots={robot.norm_key: robot},
        normalizer=Normalizer(
            statistics={robot.norm_key: toy_statistics(1.0)[robot.norm_key]},
            parts={robot.norm_key: robot.parts},
            mode="absolute",
            normalization="quantile",
        ),
        flow_steps=2,
    )
    rng = np.random.default_rng(2)
    seen = RobotObservation(
        images={camera: rng.integers(0, 256, (224, 224, 3), np.uint8) for camera in CAMERAS},
        state=np.where(np.arange(18) < 7, 0.5, 0.0).astype(np.float32),
        prompt="push it",
    )
    before = actor.act_together(robot, [seen], jax.random.key(0))
    moved = {
        name: np.abs(actor.act_together(robot, [change(seen)], jax.random.key(0)) - before).max()
        for name, change in OBSERVATION_CHANGES.items()
    }
    moved["noise"] = np.abs(actor.act_together(robot, [seen], jax.random.key(1)) - before).max()
    assert {name for name, by in moved.items() if by < 1e-6} == set()
    assert actor.cut_prompts == 0
