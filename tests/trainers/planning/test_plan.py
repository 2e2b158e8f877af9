"""The plan of a run: counts, bytes and work against known numbers, and epochs that add up."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jax import ShapeDtypeStruct
from jax.sharding import AbstractMesh

from tests.support.inputs.toy_mixture import open_toy_mixture
from trainers.config import RunConfig, resolve_config
from trainers.mesh import AXES
from trainers.planning.plan import ParameterCounts, TrainPlan, device_bytes, plan_training, render


def plan_of(tmp_path: Path, **overrides: Any) -> TrainPlan:
    (tmp_path / "toy.yaml").write_text("toy")
    config: RunConfig = resolve_config(
        stage="pretrain",
        mixture=tmp_path / "toy.yaml",
        horizon=50,
        overrides=overrides,
        cameras=("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"),
    )
    return plan_training(config, open_toy_mixture(tmp_path / "toy.yaml"), device_tflops=400.0)


def test_the_full_size_has_the_published_numbers(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, model="pi0", steps=1000, batch_size=32)
    assert plan.parameters == ParameterCounts(trained=3_238_005_506, frozen=0)
    gib = plan.device_gib
    assert gib["parameters"] * 2**30 / 1e9 == pytest.approx(12.95, abs=0.01)
    assert sum(gib.values()) * 2**30 / 1e9 == pytest.approx(64.8, abs=0.1)
    forward = 4.04 * (1 - 0.046)  # nothing reads the last layer's work on the prefix
    assert plan.sample_tflop == pytest.approx(4 * forward, rel=0.005)  # recomputed in the backward pass
    assert plan.hours == pytest.approx(32_000 * 4 * forward / 400 / 3600, rel=0.005)
    assert "3,238,005,506 parameters train" in render(plan)
    assert "prompts: not counted without the model's --tokenizer" in render(plan)
    assert json.loads(json.dumps(plan.to_json()))["groups"][0]["name"] == "push"


def test_frozen_parameters_have_no_gradient(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, freeze=["*/img/*"])
    assert plan.parameters.frozen > 0
    assert plan.device_gib["gradients"] < plan.device_gib["parameters"]


def test_adapters_of_the_full_size_leave_room_on_a_card_of_24_gb(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, model="pi0-lora", batch_size=8)
    assert plan.parameters == ParameterCounts(trained=467_996_418, frozen=2_819_996_672)
    held = {name: round(size, 2) for name, size in plan.device_gib.items()}
    assert held == {"parameters": 7.98, "gradients": 1.74, "optimizer": 3.49, "moving_average": 1.74}


def test_draws_and_epochs_follow_the_shares(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, steps=100, batch_size=50)
    assert [(group.draws, group.epochs) for group in plan.groups] == [(2500, 0.005)] * 2


def test_split_arrays_count_in_part() -> None:
    mesh = AbstractMesh((1, 4), AXES)
    tree = {"large": ShapeDtypeStruct((2048, 1024), np.float32), "small": ShapeDtypeStruct((10,), np.float32)}
    assert device_bytes(mesh, tree) == 2048 * 1024 + 40
