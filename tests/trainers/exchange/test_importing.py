"""Checkpoints of openpi and LeRobot as runs: the same actions, the same normalization, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import trainers.main
from model.published.check import load_case
from model.published.export import export_params
from model.published.safetensors import write_safetensors
from pipelines.contract.errors import UsageError
from tests.support.foreign.openpi_checkpoint import import_request as request
from tests.support.foreign.openpi_checkpoint import openpi_folder, write_vocabulary
from trainers.exchange.importing import _lerobot_relative, import_checkpoint
from trainers.exchange.statistics import read_lerobot
from trainers.sampling import sample_masked
from trainers.serving.acting import Actor
from trainers.step import TrainBatch

PADDED = 32


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many pieces as the recorded models embed."""
    return write_vocabulary(tmp_path_factory.mktemp("words"))


@pytest.mark.shared
def test_an_openpi_checkpoint_acts_and_normalizes_as_openpi_does(
    shared: Path, tmp_path: Path, vocabulary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = import_checkpoint(request(openpi_folder(shared, tmp_path / "pi0"), tmp_path / "run", vocabulary))
    assert (imported.layout, imported.norm_key, imported.unread) == ("openpi", "ur5e/joint_position/pi18/v1", ())
    actor = Actor.of_run(tmp_path / "run")
    case = load_case(shared / "goldens/openpi/pi0_d32")
    noise = case.inputs["sample_noise"]
    monkeypatch.setattr(jax.random, "normal", lambda *_: noise)
    mask = np.zeros((len(noise), PADDED), bool)
    mask[:, :7] = True
    batch = TrainBatch(
        observation=case.observation,
        actions=noise,
        action_mask=mask,
        chunk_mask=np.ones(noise.shape[:2], bool),
        stop_signal=np.zeros(len(noise), np.int32),
    )
    with jax.default_matmul_precision("highest"):
        found = sample_masked(actor.config, actor._params[0], batch, jax.random.key(0), 10)
    np.testing.assert_allclose(found, case.outputs["sample_actions_steps10"], atol=1e-4)
    truth = np.load(shared / "goldens/openpi/norm_stats.npz")
    assert_normalizes(actor, truth["data"][:50], truth["norm_z"])


@pytest.mark.shared
def test_quantiles_are_openpis_when_asked_for(shared: Path, tmp_path: Path, vocabulary: Path) -> None:
    checkpoint = openpi_folder(shared, tmp_path / "pi0")
    import_checkpoint(request(checkpoint, tmp_path / "run", vocabulary, normalization="quantile"))
    truth = np.load(shared / "goldens/openpi/norm_stats.npz")
    assert_normalizes(Actor.of_run(tmp_path / "run"), truth["data"][:50], truth["norm_q"])


def assert_normalizes(actor: Actor, values: np.ndarray, expected: np.ndarray) -> None:
    """Values [t, 7] become the expected ones as state and as actions, and come back."""
    key, t = "ur5e/joint_position/pi18/v1", len(values)
    wide = np.zeros((t, PADDED))
    wide[:, :7] = values
    mask = np.zeros((t, PADDED), bool)
    mask[:, :7] = True
    normalizer = actor._normalizer
    state = normalizer.normalize_state([key] * t, wide, mask)
    np.testing.assert_allclose(state[:, :7], expected, atol=1e-5)
    assert not state[:, 7:].any()
    chunk = normalizer.normalize_action([key] * t, wide[:, None], wide, mask, mask)
    np.testing.assert_allclose(chunk[:, 0, :7], expected, atol=1e-5)
    back = normalizer.unnormalize_action([key] * t, chunk, wide, mask, mask)
    np.testing.assert_allclose(back[:, 0, :7], values, atol=1e-5)


@pytest.mark.shared
def test_what_openpi_does_not_say_is_asked_for(shared: Path, tmp_path: Path, vocabulary: Path) -> None:
    checkpoint = openpi_folder(shared, tmp_path / "pi0")
    with pytest.raises(UsageError, match="do not say --horizon and --actions"):
        import_checkpoint(request(checkpoint, tmp_path / "run", vocabulary, horizon=None, actions=None))
    with pytest.raises(UsageError, match=r"state: expected the 14 dims of trossen_dual.*found statistics of 7 dims"):
        import_checkpoint(request(checkpoint, tmp_path / "run", vocabulary, robot="trossen_dual/joint_position"))
    with pytest.raises(UsageError, match="expected norm statistics in .*assets; found lab"):
        import_checkpoint(request(checkpoint, tmp_path / "run", vocabulary, asset="trossen"))
    assert not (tmp_path / "run").exists()


@pytest.mark.shared
def test_dims_go_to_the_slots_that_are_named(shared: Path, tmp_path: Path, vocabulary: Path) -> None:
    """A gripper that comes first: dim 0 is slot 6, and the rows of the weights move with it."""
    slots = (6, 0, 1, 2, 3, 4, 5)
    checkpoint = openpi_folder(shared, tmp_path / "pi0")
    import_checkpoint(request(checkpoint, tmp_path / "run", vocabulary, state_slots=slots, action_slots=slots))
    actor = Actor.of_run(tmp_path / "run")
    recorded = np.load(shared / "goldens/openpi/pi0_d32_params.npz")
    for name in ("state_proj", "action_in_proj"):
        kernel = np.asarray(actor._params[0][name]["kernel"])
        np.testing.assert_array_equal(kernel[list(slots)], recorded[f"{name}/kernel"][:7])
        np.testing.assert_array_equal(kernel[7:], recorded[f"{name}/kernel"][7:])
    bias = np.asarray(actor._params[0]["action_out_proj"]["bias"])
    np.testing.assert_array_equal(bias[list(slots)], recorded["action_out_proj/bias"][:7])
    stats = json.loads((shared / "goldens/openpi/norm_stats.json").read_text())["norm_stats"]["actions"]
    statistics = actor._normalizer.statistics["ur5e/joint_position/pi18/v1"]
    np.testing.assert_allclose(statistics.action.affine().center[list(slots)], stats["mean"], rtol=1e-12)


def lerobot_folder(shared: Path, folder: Path, **changes: Any) -> Path:
    case = load_case(shared / "goldens/openpi/pi0_d32")
    export_params(case.config, case.params, folder, "lerobot")
    features = {"observation.images.top": {"type": "VISUAL", "shape": [3, 480, 640]}}
    features["observation.state"] = {"type": "STATE", "shape": [7]}
    config = {
        "type": "pi0",
        "chunk_size": 50,
        "tokenizer_max_length": 48,
        "input_features": features,
        "output_features": {"action": {"type": "ACTION", "shape": [7]}},
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(config))
    write_processor(folder, {"STATE": "MEAN_STD", "ACTION": "QUANTILES"})
    return folder


def write_processor(folder: Path, modes: dict[str, str], **extra: Any) -> None:
    step = {
        "registry_name": "normalizer_processor",
        "config": {"eps": 1e-8, "norm_map": modes},
        "state_file": "n.safetensors",
    }
    steps = [{"registry_name": name, "config": {}} for name in extra.get("others", ("to_batch_processor",))] + [step]
    (folder / "policy_preprocessor.json").write_text(json.dumps({"name": "policy_preprocessor", "steps": steps}))
    numbers = {"mean": 1.0, "std": 2.0, "q01": -1.0, "q99": 3.0, "min": -9.0, "max": 9.0}
    arrays = {
        f"{n}.{k}": np.full(7, v, np.float32) for n in ("observation.state", "action") for k, v in numbers.items()
    }
    write_safetensors(folder / "n.safetensors", arrays)


@pytest.mark.shared
def test_a_lerobot_checkpoint_says_its_own_settings(shared: Path, tmp_path: Path, vocabulary: Path) -> None:
    checkpoint = lerobot_folder(shared, tmp_path / "pi0")
    changes = {"horizon": None, "actions": None, "siglip_heads": 4}
    imported = import_checkpoint(request(checkpoint, tmp_path / "run", vocabulary, **changes))
    assert (imported.layout, imported.cameras) == ("lerobot", {"base_0_rgb": "observation.images.top"})
    actor = Actor.of_run(tmp_path / "run")
    statistics = actor._normalizer.statistics["ur5e/joint_position/pi18/v1"]
    assert statistics.state.affine().center[:7].tolist() == [1.0] * 7
    np.testing.assert_allclose(statistics.state.affine().half_range[:7], 2.0 + 1e-8, rtol=1e-12)
    assert statistics.action.affine().center[:7].tolist() == [1.0] * 7  # (q01 + q99) / 2
    assert statistics.action.affine().half_range[:7].tolist() == [2.0] * 7
    assert (statistics.state.min[0], statistics.state.max[0]) == (-9.0, 9.0)
    kernel = np.asarray(actor._params[0]["action_in_proj"]["kernel"])
    np.testing.assert_array_equal(
        kernel, np.load(shared / "goldens/openpi/pi0_d32_params.npz")["action_in_proj/kernel"]
    )


@pytest.mark.shared
def test_lerobot_checkpoints_that_mean_something_else_are_refused(
    shared: Path, tmp_path: Path, vocabulary: Path
) -> None:
    plain = {"horizon": None, "actions": None, "siglip_heads": 4}
    folder = lerobot_folder(shared, tmp_path / "pi0")
    with pytest.raises(UsageError, match="LeRobot's checkpoints say --horizon themselves"):
        import_checkpoint(request(folder, tmp_path / "run", vocabulary, **plain | {"horizon": 50}))
    with pytest.raises(UsageError, match="expected the number of its heads; no shape says it"):
        import_checkpoint(request(folder, tmp_path / "run", vocabulary, **plain | {"siglip_heads": None}))
    write_processor(folder, {"STATE": "MEAN_STD", "ACTION": "MEAN_STD"}, others=("crop_processor",))
    with pytest.raises(UsageError, match="step 'crop_processor' is not known here"):
        import_checkpoint(request(folder, tmp_path / "run", vocabulary, **plain))
    (folder / "policy_preprocessor.json").unlink()
    with pytest.raises(UsageError, match="Checkpoints of before LeRobot 0.4"):
        import_checkpoint(request(folder, tmp_path / "run", vocabulary, **plain))
    relative = lerobot_folder(shared, tmp_path / "relative", use_relative_actions=True, action_feature_names=None)
    with pytest.raises(UsageError, match=r"expected the arms' dims relative and no others, \(True, .*False\)"):
        import_checkpoint(request(relative, tmp_path / "run", vocabulary, **plain))


def test_a_mode_of_normalization_without_its_numbers_is_refused(tmp_path: Path) -> None:
    write_processor(tmp_path, {"STATE": "MEAN_STD", "ACTION": "TANH"})
    with pytest.raises(UsageError, match="action: expected numbers for LeRobot's TANH; found mean"):
        read_lerobot(tmp_path, {})


@pytest.mark.shared
def test_the_command_makes_a_run_that_is_served_and_not_resumed(
    shared: Path, tmp_path: Path, vocabulary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, run = openpi_folder(shared, tmp_path / "pi0"), tmp_path / "run"
    shutil.copy(vocabulary, checkpoint / "vocab.txt")
    command = ["import", str(checkpoint), str(run), "--robot", "ur5e/joint_position"]
    assert trainers.main.main(command) == 2
    assert "do not say --horizon and --actions" in capsys.readouterr().err
    assert trainers.main.main([*command, "--horizon", "50", "--actions", "relative"]) == 0
    assert f"tokenizer: {checkpoint / 'vocab.txt'}" in capsys.readouterr().out
    assert trainers.main.main(["eval", str(run)]) == 2
    assert "was imported and has no mixture of its own; name one with --spec" in capsys.readouterr().err


@pytest.mark.shared
def test_a_robot_whose_joints_are_not_in_the_order_of_slots_needs_theirs(
    shared: Path, tmp_path: Path, vocabulary: Path
) -> None:
    checkpoint = openpi_folder(shared, tmp_path / "pi0")
    message = r"in which order .* say the slot of each with --state-slots \(0,1,2,3,4,5,18,6,7,8,9,10,11,12,19,13 is"
    with pytest.raises(UsageError, match=message):
        import_checkpoint(request(checkpoint, tmp_path / "run", vocabulary, robot="openarm_dual/joint_position"))


def test_dims_without_a_name_are_relative_and_those_of_excluded_joints_are_not() -> None:
    said: dict[str, Any] = {"output_features": {"action": {"shape": [4]}}, "relative_exclude_joints": ["gripper"]}
    assert _lerobot_relative(said) == (True,) * 4
    said["action_feature_names"] = ["shoulder", "Left_Gripper"]
    assert _lerobot_relative(said) == (True, False, True, True)
