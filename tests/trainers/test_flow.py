"""The way from stored shards through the real stream to a resumed, evaluated run."""

import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from mixtures.mixture import open_mixture
from tests.support.inputs.stored_episodes import make_episode, store_dataset
from tests.support.inputs.toy_mixture import quick_compilation, settings
from trainers.evaluation.evaluate import EvaluationRequest, evaluate
from trainers.metrics import read_metrics
from trainers.robots import find_robot
from trainers.run import RunDirectory
from trainers.serving.acting import Actor
from trainers.serving.observations import RobotObservation
from trainers.setup import TrainingRequest, read_best
from trainers.train import train

pytestmark = pytest.mark.usefixtures("quick_compilation")
__all__ = ["quick_compilation"]
SPEC = """schema: embodimix.mixture/v1
name: toy
seed: 3
groups:
  - name: all
    datasets:
      - {path: toy/1.0.0}
validation: {fraction: 0.2, by: episode, min_per_group: 1}
action: {horizon: 10, mode: relative_to_first_state, normalization: quantile}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    (tmp_path / "toy" / "1.0.0").mkdir(parents=True)
    store_dataset(tmp_path / "toy" / "1.0.0", {"train": [[make_episode(number, t=8) for number in range(8)]]})
    (tmp_path / "mixture.yaml").write_text(SPEC)
    return tmp_path / "mixture.yaml"


def test_shards_train_resume_and_are_evaluated(tmp_path: Path, spec: Path) -> None:
    def run_training(name: str, **changes: Any) -> None:
        overrides = settings(batch_size=4, optimizer__decay_steps=4) if not changes.get("resume") else {}
        overrides["steps"] = changes.pop("steps")
        train(
            TrainingRequest(
                stage="pretrain", spec=spec, run=tmp_path / name, overrides=overrides, show_progress=False, **changes
            )
        )

    run_training("whole", steps=4)
    run_training("parts", steps=2)
    run_training("parts", steps=4, resume=True)
    whole, parts = (read_best(RunDirectory(tmp_path / name))[2] for name in ("whole", "parts"))
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    chains = [read_metrics(tmp_path / name / "metrics.jsonl")[-1]["batches"] for name in ("whole", "parts")]
    assert chains[0] == chains[1]
    config = RunDirectory(tmp_path / "whole").read_config()
    assert (config.policy.horizon, config.cameras) == (10, ("base_0_rgb", "left_wrist_0_rgb"))
    report = evaluate(EvaluationRequest(run=tmp_path / "whole", samples=6, batch_size=6)).report
    assert set(report.groups[0].error) == {"rad", "gripper"}
    serves_without_the_data(tmp_path / "whole", spec)


def serves_without_the_data(run: Path, spec: Path) -> None:
    """The policy acts from the run directory alone; its relative actions are added to the state that it is shown."""
    mixture = open_mixture(spec)
    shutil.rmtree(spec.parent / "toy")
    actor = Actor.of_run(run, flow_steps=1)
    robot = find_robot(actor.robots, None)
    state_mask, action_mask = actor.state_mask(robot), actor.action_mask(robot)
    state = np.where(state_mask, 0.3, 0).astype(np.float32)
    actor._sample = lambda *_: np.full((1, 10, 18), 0.25, np.float32)
    actions = actor.act(robot, RobotObservation(images={}, state=state, prompt="go"))
    expected = mixture.unnormalize_action(
        [robot.norm_key], np.full((1, 10, 18), 0.25), state[None], state_mask[None], action_mask[None]
    )
    np.testing.assert_array_equal(actions, expected[0][:, action_mask])
    assert robot.units("action")[0] == "rad" and robot.control_hz == tuple(mixture.groups[0].control_hz)
