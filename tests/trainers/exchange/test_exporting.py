"""A run as a folder for other programs: whose dims it holds, what normalizes them, and what LeRobot makes of it."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import trainers.main
from model.config import Pi0Config, pi0
from model.inputs import CAMERAS
from model.published.export import read_trained
from model.published.files import open_weights
from model.published.safetensors import read_safetensors
from pipelines.contract.errors import UsageError
from tests.support.checkout import ROOT
from tests.support.inputs.toy_mixture import NORM_KEYS, quick_compilation, train_toy
from trainers.exchange.dims import RobotDims, robot_dims
from trainers.exchange.exporting import openpi_norm_stats, own_dims
from trainers.exchange.importing import ImportRequest, import_checkpoint
from trainers.exchange.lerobot import check_lerobot_sizes
from trainers.robots import read_robots
from trainers.run import RunDirectory
from trainers.serving.acting import Actor
from trainers.serving.observations import RobotObservation

pytestmark = pytest.mark.usefixtures("quick_compilation")
__all__ = ["quick_compilation"]
LEROBOTS = [path for path in os.environ.get("EMBODIMIX_LEROBOT", "").split(":") if path]
OPENPIS = [path for path in os.environ.get("EMBODIMIX_OPENPI", "").split(":") if path]
# LeRobot's attention has eight heads whatever its config says, and its pictures patches of 14.
LEROBOTS_SIZES = {
    "policy__siglip__patch_size": 14,
    "policy__prefix__heads": 8,
    "policy__expert__heads": 8,
    "policy__max_tokens": 32,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, quick_compilation: Any) -> Path:
    return train_toy(tmp_path_factory.mktemp("run"), **LEROBOTS_SIZES)


def dims_of(run: Path, key: str) -> RobotDims:
    directory = RunDirectory(run)
    return robot_dims(directory, read_robots(directory.robots_path)[key])


def test_a_robot_keeps_its_own_dims_in_the_order_of_its_slots(run: Path) -> None:
    dims = dims_of(run, NORM_KEYS[1])
    assert dims.action_slots == (0, 1, 2, 3, 4, 5, 6, 14, 15)
    kernel = np.arange(18.0)[:, None] * np.ones((1, 2))
    flat = {
        "state_proj/kernel": kernel,
        "action_in_proj/kernel": kernel,
        "action_out_proj/kernel": kernel.T,
        "action_out_proj/bias": np.arange(18.0),
        "other": np.ones(3),
    }
    own = own_dims(flat, dims, keeps_rest=False, square=False)
    assert own["action_out_proj/bias"].tolist() == [0, 1, 2, 3, 4, 5, 6, 14, 15]
    assert own["action_in_proj/kernel"][:, 0].tolist() == own["action_out_proj/kernel"][1].tolist()
    assert own["state_proj/kernel"].shape == (9, 2) and own["other"].shape == (3,)
    rest = own_dims(flat, dims, keeps_rest=True, square=False)["action_out_proj/bias"].tolist()
    assert rest == [0, 1, 2, 3, 4, 5, 6, 14, 15, 7, 8, 9, 10, 11, 12, 13, 16, 17]


def test_openpi_maps_values_by_the_written_statistics_as_the_run_does(run: Path) -> None:
    dims = dims_of(run, NORM_KEYS[0])
    stats = openpi_norm_stats(dims)["norm_stats"]["actions"]
    x = np.random.default_rng(0).uniform(-1, 1, (5, 7))
    affine = dims.affine("action")
    expected = (x - affine.center) / affine.half_range
    mean, std, q01, q99 = (np.array(stats[name]) for name in ("mean", "std", "q01", "q99"))
    # transforms.py of openpi: Normalize, by deviations and by quantiles.
    np.testing.assert_allclose((x - mean) / (std + 1e-6), expected, atol=1e-12)
    np.testing.assert_allclose((x - q01) / (q99 - q01 + 1e-6) * 2.0 - 1.0, expected, atol=1e-9)


def test_the_folder_of_openpi_holds_parameters_and_statistics(run: Path, tmp_path: Path) -> None:
    assert trainers.main.main(["export", str(run), str(tmp_path / "out")]) == 0
    _, trained = read_trained(run)
    found = open_weights(tmp_path / "out", None).read_all()
    assert found.keys() == trained.keys()
    np.testing.assert_array_equal(found["action_in_proj/kernel"], trained["action_in_proj/kernel"])
    stats = json.loads((tmp_path / "out/assets/toy_arm_joint_position_pi18_v1/norm_stats.json").read_text())
    assert len(stats["norm_stats"]["state"]["mean"]) == 18
    assert stats["norm_stats"]["state"]["q01"][8] == -1.0  # a slot that the arm lacks stays as it is
    assert json.loads((tmp_path / "out/embodimix.json").read_text())["layout"] == "pi18/v1"


def test_lerobot_needs_to_know_the_robot(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", str(run), str(tmp_path / "out"), "--layout", "lerobot", "--any-size"]
    assert trainers.main.main(command) == 2
    assert "expected one of toy_arm/joint_position/pi18/v1, toy_base" in capsys.readouterr().err
    assert trainers.main.main([*command, "--robot", "toy_base"]) == 0
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["type"], config["chunk_size"], config["max_action_dim"]) == ("pi0", 4, 9)
    assert list(config["input_features"]) == ["observation.images.base_0_rgb", "observation.state"]
    steps = json.loads((tmp_path / "out/policy_preprocessor.json").read_text())["steps"]
    assert [step["registry_name"] for step in steps][-2:] == ["device_processor", "normalizer_processor"]
    stats = read_safetensors(tmp_path / "out" / steps[-1]["state_file"])
    affine = dims_of(run, NORM_KEYS[1]).affine("action")
    np.testing.assert_allclose(stats["action.std"] + np.float32(1e-8), affine.half_range, rtol=1e-6)


def test_sizes_that_lerobot_does_not_build_are_refused_by_name(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", str(run), str(tmp_path / "out"), "--layout", "lerobot", "--robot", "toy_base"]
    assert trainers.main.main(command) == 2
    error = capsys.readouterr().err
    assert "goes on with random weights" in error and "give --any-size" in error
    for size in (
        "siglip.depth 1 (27)",
        "prefix.width 16 (2048)",
        "expert.mlp_dim 16 (4096)",
        "vocab_size 1024 (257152)",
    ):
        assert size in error
    assert not (tmp_path / "out").exists()


def test_the_published_sizes_are_lerobots_with_either_expert() -> None:
    published = pi0()
    check_lerobot_sizes(published)
    check_lerobot_sizes(replace(published, pi05=True, action_dim=7))
    check_lerobot_sizes(replace(published, expert=published.prefix))
    with pytest.raises(UsageError, match=r"brackets: prefix.width 1024 \(2048\), prefix.mlp_dim 4096 \(16384\)\."):
        check_lerobot_sizes(replace(published, prefix=published.expert))


@pytest.mark.parametrize("python", LEROBOTS or [pytest.param("", marks=pytest.mark.skip("EMBODIMIX_LEROBOT unset"))])
def test_lerobot_acts_as_the_server_does_and_what_it_saves_comes_back(
    run: Path, tmp_path: Path, python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a physical state and pictures to physical actions, through LeRobot's own processors and policy."""
    folder = tmp_path / "out"
    command = ["export", str(run), str(folder), "--layout", "lerobot", "--robot", "toy_base", "--any-size"]
    assert trainers.main.main(command) == 0
    actor, key = Actor.of_run(run), jax.random.key(7)
    robot, dims = actor.robots[NORM_KEYS[1]], dims_of(run, NORM_KEYS[1])
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (2, 224, 224, 3), np.uint8)
    state = random.uniform(-1, 1, (2, 18)).astype(np.float32)
    prompts = ["push it", "lift it"]
    seen = [
        RobotObservation(images={"base_0_rgb": i}, state=s, prompt=p)
        for i, s, p in zip(images, state, prompts, strict=True)
    ]
    expected = actor.act_together(robot, seen, key)[:, :, list(dims.action_slots)]
    encoded = actor._prompts.encode(prompts, state, np.ones((2, 18), bool))
    noise = np.asarray(jax.random.normal(key, (2, 4, 18)))[:, :, list(dims.action_slots)]
    inputs, sizes = tmp_path / "in.npz", tmp_path / "sizes.json"
    np.savez(
        inputs,
        **{"image/base_0_rgb": images.transpose(0, 3, 1, 2).astype(np.float32) / 255.0},
        state_physical=state[:, list(dims.state_slots)],
        prompts=np.array(prompts),
        tokenized_prompt=encoded.ids,
        tokenized_prompt_mask=encoded.mask,
        noise=noise,
    )
    assert isinstance(actor.config.policy, Pi0Config)
    write_sizes(sizes, actor.config.policy)
    script = str(ROOT / "tests/support/foreign/foreign_lerobot.py")
    saved, imported = tmp_path / "saved", tmp_path / "imported"
    command = [python, script, str(folder), str(sizes), str(inputs), str(tmp_path / "found.npz"), str(saved)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr[-2000:]
    found = np.load(tmp_path / "found.npz")
    assert found["keys"].tolist() == found["loaded"].tolist()
    assert found["task"].tolist() == ["push it\n", "lift it\n"]
    np.testing.assert_allclose(found["physical"], expected, atol=1e-4)
    slots = dims.action_slots
    request = ImportRequest(
        checkpoint=saved,
        run=imported,
        robot="ur5e/joint_position",
        state_slots=dims.state_slots,
        action_slots=slots,
        siglip_heads=2,
    )
    import_checkpoint(request)
    again = Actor.of_run(imported)
    wide = np.zeros((2, 4, 32), np.float32)
    wide[:, :, list(slots)] = noise
    monkeypatch.setattr(jax.random, "normal", lambda *_: wide)
    states = np.pad(state, ((0, 0), (0, 14)))
    seen = [
        RobotObservation(images={"base_0_rgb": i}, state=s, prompt=p)
        for i, s, p in zip(images, states, prompts, strict=True)
    ]
    acted = again.act_together(next(iter(again.robots.values())), seen, key)[:, :, list(slots)]
    np.testing.assert_allclose(acted, found["physical"], atol=1e-4)


@pytest.mark.parametrize("python", OPENPIS or [pytest.param("", marks=pytest.mark.skip("EMBODIMIX_OPENPI unset"))])
def test_openpi_restores_the_folder_and_normalizes_as_the_run_does(run: Path, tmp_path: Path, python: str) -> None:
    folder, sizes, inputs = tmp_path / "out", tmp_path / "sizes.json", tmp_path / "in.npz"
    assert trainers.main.main(["export", str(run), str(folder), "--robot", "toy_base"]) == 0
    random, dims = np.random.default_rng(2), dims_of(run, NORM_KEYS[1])
    values = random.uniform(-1, 1, (6, 9))
    black = {f"image/{name}": np.zeros((1, 3, 224, 224), np.float32) for name in CAMERAS}
    np.savez(
        inputs,
        **black,
        **{f"image_mask/{name}": np.ones(1, bool) for name in CAMERAS},
        state=np.zeros((1, 9), np.float32),
        tokenized_prompt=np.ones((1, 8), np.int32),
        tokenized_prompt_mask=np.ones((1, 8), bool),
        sample_noise=random.normal(size=(1, 4, 9)).astype(np.float32),
        values=values,
    )
    policy = RunDirectory(run).read_config().policy
    assert isinstance(policy, Pi0Config)
    write_sizes(sizes, policy)
    script = str(ROOT / "tests/support/foreign/foreign_openpi.py")
    command = [python, script, str(folder), str(sizes), str(inputs), str(tmp_path / "found.npz")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr[-2000:]
    found, affine = np.load(tmp_path / "found.npz"), dims.affine("action")
    for name in ("z", "q"):
        np.testing.assert_allclose(found[f"actions_{name}"], (values - affine.center) / affine.half_range, atol=1e-9)
        np.testing.assert_allclose(found[f"back_{name}"], values, atol=1e-9)


def write_sizes(path: Path, config: Pi0Config) -> None:
    names = ("width", "depth", "mlp_dim", "head_dim", "heads")
    parts = {p: {n: getattr(getattr(config, p), n) for n in names} for p in ("prefix", "expert", "siglip")}
    path.write_text(json.dumps(parts | {"vocab_size": config.vocab_size}))
