"""What training may change about its inputs: every option moves the gradients, none moves a measurement."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from model.inputs import CAMERAS
from pipelines.contract.errors import UsageError
from tests.support.inputs.toy_mixture import HORIZON, moved_params, quick_compilation, settings, stream_batch
from trainers.batches import build_batcher, disturbed
from trainers.config import AUGMENTATIONS, RunConfig, from_yaml, resolve_config, resumed, to_yaml
from trainers.step import build_flow_loss, build_gradients, new_state

pytestmark = pytest.mark.usefixtures("quick_compilation")
__all__ = ["quick_compilation"]
OPTIONS: dict[str, dict[str, Any]] = {
    "crop": {"augmentation.base_0_rgb.crop": 0.8},
    "rotation": {"augmentation.base_0_rgb.rotation_deg": 20.0},
    "brightness": {"augmentation.base_0_rgb.brightness": 0.5, "augmentation.base_0_rgb.recoloured_share": 1.0},
    "contrast": {"augmentation.left_wrist_0_rgb.contrast": 0.5, "augmentation.left_wrist_0_rgb.recoloured_share": 1.0},
    "hue": {"augmentation.right_wrist_0_rgb.hue": 0.3, "augmentation.right_wrist_0_rgb.recoloured_share": 1.0},
    "state noise": {"augmentation.state_noise": 0.5},
    "state dropout": {"augmentation.state_dropout": 1.0},
    "prompt dropout": {"augmentation.prompt_dropout": 1.0},
}


def config_of(folder: Path, **changes: Any) -> RunConfig:
    overrides = settings(batch_size=2) | {"policy.max_tokens": 24} | changes
    return resolve_config(
        stage="pretrain", mixture=folder / "toy.yaml", horizon=HORIZON, cameras=CAMERAS, overrides=overrides
    )


def loss_of_step(config: RunConfig, folder: Path) -> float:
    state = new_state(config, moved_params(config))
    batch = build_batcher(config, training=True)(stream_batch(folder))
    _, loss, _ = jax.jit(build_gradients(config))(state, batch, jax.random.key(config.seed))
    return float(loss)


@pytest.fixture(scope="module")
def plain_loss(tmp_path_factory: pytest.TempPathFactory, quick_compilation: dict[str, str]) -> float:
    folder = tmp_path_factory.mktemp("plain")
    return loss_of_step(config_of(folder), folder)


@pytest.mark.parametrize("option", OPTIONS)
def test_each_option_moves_the_loss_of_training_and_no_measurement(
    option: str, tmp_path: Path, plain_loss: float
) -> None:
    config = config_of(tmp_path, **OPTIONS[option])
    assert abs(loss_of_step(config, tmp_path) - plain_loss) > 1e-5
    params, batch = moved_params(config), stream_batch(tmp_path)
    measured = [
        jax.jit(build_flow_loss(one))(params, build_batcher(one)(batch), jax.random.key(0))
        for one in (config, config_of(tmp_path))
    ]
    np.testing.assert_array_equal(*measured)


def test_with_all_options_off_the_step_is_the_same_program(tmp_path: Path) -> None:
    off = config_of(tmp_path, **{"augmentation.base_0_rgb.recoloured_share": 1.0})
    texts = []
    for config in (off, config_of(tmp_path)):
        state = jax.eval_shape(lambda config=config: new_state(config, moved_params_shape(config)))
        batch = build_batcher(config, training=True)(stream_batch(tmp_path))
        texts.append(jax.jit(build_gradients(config)).lower(state, batch, jax.random.key(0)).as_text())
    assert texts[0] == texts[1]
    assert "floor" not in texts[0]


def moved_params_shape(config: RunConfig) -> Any:
    from model import policy

    return policy.init_params(config.policy, jax.random.key(0))


def test_parts_of_a_batch_change_as_the_whole_does(tmp_path: Path) -> None:
    changes = OPTIONS["crop"] | OPTIONS["hue"]
    whole = loss_of_step(config_of(tmp_path, **changes), tmp_path)
    np.testing.assert_allclose(loss_of_step(config_of(tmp_path, accumulate=2, **changes), tmp_path), whole, rtol=1e-5)


def test_noise_leaves_slots_that_are_not_measured_at_zero(tmp_path: Path) -> None:
    batch = stream_batch(tmp_path)
    config = config_of(tmp_path, **OPTIONS["state noise"])
    moved = disturbed(config, batch).state
    assert (moved[~batch.state_mask] == 0).all() and (moved[batch.state_mask] != batch.state[batch.state_mask]).all()
    np.testing.assert_array_equal(moved, disturbed(config, batch).state)


def test_other_positions_get_other_noise(tmp_path: Path) -> None:
    batch = stream_batch(tmp_path)
    config = config_of(tmp_path, **OPTIONS["state noise"])
    later = dataclasses.replace(batch, position=batch.position + 2)
    assert (disturbed(config, later).state != disturbed(config, batch).state)[batch.state_mask].all()


def test_dropout_empties_its_share_of_samples(tmp_path: Path) -> None:
    batch = stream_batch(tmp_path)
    many = dataclasses.replace(
        batch,
        position=np.arange(400),
        state=np.ones((400, 18), np.float32),
        state_mask=np.ones((400, 18), bool),
        language=["push it"] * 400,
    )
    config = config_of(tmp_path, **{"augmentation.state_dropout": 0.25, "augmentation.prompt_dropout": 0.1})
    dropped = disturbed(config, many)
    assert 70 < (dropped.state == 0).all(1).sum() < 130
    assert 20 < dropped.language.count("") < 60


def test_full_sizes_train_as_openpi_does_and_small_ones_without(tmp_path: Path) -> None:
    def default(model: str) -> Any:
        return resolve_config(
            stage="pretrain", mixture=tmp_path / "m.yaml", horizon=50, cameras=CAMERAS, overrides={"model": model}
        ).augmentation

    assert default("pi05") == AUGMENTATIONS["openpi"] and default("pi0-small-tiny") == AUGMENTATIONS["none"]
    assert not AUGMENTATIONS["openpi"].left_wrist_0_rgb.moves_pixels


def test_a_run_keeps_its_augmentation(tmp_path: Path) -> None:
    config = config_of(tmp_path, **OPTIONS["crop"])
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert from_yaml(tmp_path / "config.yaml") == config
    with pytest.raises(UsageError, match=r"--resume: augmentation.base_0_rgb.crop is 0.8 .* found 0.9"):
        resumed(config, {"augmentation.base_0_rgb.crop": 0.9}, tmp_path)


def test_a_setting_out_of_range_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="augmentation.base_0_rgb: crop: expected a number above 0"):
        config_of(tmp_path, **{"augmentation.base_0_rgb.crop": 2.0})
