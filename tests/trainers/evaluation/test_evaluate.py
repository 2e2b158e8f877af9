"""Evaluation: units, baselines, masked means by hand, and the report of a trained toy run."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipelines.contract.errors import UsageError
from pipelines.contract.units import key_units
from tests.support.evaluations import group_report
from tests.support.inputs.toy_mixture import NORM_KEYS, PARTS, open_toy_mixture, quick_compilation, stand_in, train_toy
from trainers.evaluation.baselines import mean_action, repeat_state
from trainers.evaluation.evaluate import EvaluationRequest, evaluate, render
from trainers.evaluation.measures import Predictions, by_slot, measure, overall
from trainers.evaluation.records import Errors, EvaluationReport, GroupReport, SlotErrors

pytestmark = pytest.mark.usefixtures("quick_compilation")
__all__ = ["quick_compilation"]


def test_units_follow_the_control_mode_and_the_parts() -> None:
    dual = {"arm0": range(6), "gripper0": (6,), "arm1": range(7, 13), "gripper1": (13,), "base": (14, 15, 16)}
    assert key_units("r/joint_position/pi18/v1", dual | {"torso": (17,)}, "action") == (
        *("rad",) * 6,
        "gripper",
        *("rad",) * 6,
        "gripper",
        "m/s",
        "m/s",
        "rad/s",
        "m",
    )
    pose, velocity = "r/ee_absolute/pi18/v1", "r/joint_velocity/pi18/v1"
    assert key_units(pose, {"arm0": range(6)}, "action")[:7] == ("m", "m", "m", "rad", "rad", "rad", "")
    assert key_units(velocity, {"arm0": range(7), "gripper0": (7,)}, "action")[5:9] == (
        "rad/s",
        "rad/s",
        "gripper",
        "",
    )
    assert key_units(velocity, {"arm0": range(7)}, "state")[0] == "rad"  # what is measured is a position all the same
    assert key_units("r/joint_position/pi18/v1", {"base": (14, 15)}, "action")[14:] == ("m/s", "rad/s", "", "")


def baseline_batch(norm_key: str, state_mask: Any) -> Any:
    slots = sorted(slot for part in PARTS[norm_key].values() for slot in part)
    return SimpleNamespace(
        norm_key=[norm_key],
        state_physical=np.full((1, 18), 0.25, np.float32),
        state_mask=state_mask[None],
        action_mask=np.isin(np.arange(18), slots)[None],
        chunk_mask=np.ones((1, 2), bool),
    )


def test_repeating_the_state_holds_positions_and_stops_the_base(tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text("toy")
    mixture = open_toy_mixture(tmp_path / "toy.yaml")
    unmeasured_gripper = np.arange(18) < 6
    action = repeat_state(mixture, baseline_batch(NORM_KEYS[1], unmeasured_gripper))
    expected = np.zeros(18, np.float32)
    expected[:6] = 0.25
    expected[6] = mixture.action_mean(NORM_KEYS[1])[6]  # not measured: the mean
    np.testing.assert_array_equal(action[0], np.stack([expected, expected]))


def test_the_mean_action_is_that_of_the_norm_key(tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text("toy")
    mixture = open_toy_mixture(tmp_path / "toy.yaml")
    action = mean_action(mixture, baseline_batch(NORM_KEYS[0], np.ones(18, bool)))
    np.testing.assert_allclose(action[0, 1, :7], mixture.action_mean(NORM_KEYS[0])[:7], rtol=1e-6)
    assert not action[0, :, 7:].any()


def predictions(norm_key: str = "arm") -> Predictions:
    true = np.zeros((1, 2, 3), np.float32)
    policy = np.array([[[1.0, 3.0, 100.0], [100.0, 100.0, 100.0]]], np.float32)
    return Predictions(
        names=["toy/e/0"],
        norm_keys=[norm_key],
        true=true,
        policy=policy,
        repeat_state=true + 2,
        mean_action=true + 4,
        counts=np.array([[[True, True, False], [False, False, False]]]),
        half_range=np.array([[1.0, 2.0, 1.0]]),
        units=np.array([["rad", "gripper", ""]]),
        flow_loss=np.array([0.5], np.float32),
        swept=np.zeros((1, 0)),
    )


def test_errors_of_a_slot_are_in_its_unit_over_all_groups() -> None:
    worse = dataclasses.replace(predictions(), policy=predictions().policy * 3)
    slots = by_slot([predictions(), worse, predictions("other")])
    assert slots["arm"] == (
        SlotErrors(slot=0, unit="rad", errors=errors(2.0), normalized=2.0),
        SlotErrors(slot=1, unit="gripper", errors=errors(6.0), normalized=3.0),
    )
    assert [row.errors.policy for row in slots["other"]] == [1.0, 3.0]


def errors(policy: float) -> Errors:
    return Errors(policy=policy, repeat_state=2.0, mean_action=4.0)


def test_errors_count_only_where_the_masks_say() -> None:
    report = measure("push", 1.0, predictions(), {})
    assert report.error == {"rad": errors(1.0), "gripper": errors(3.0)}
    assert report.normalized_error == Errors(policy=1.25, repeat_state=1.5, mean_action=3.0)
    assert report.normalized_error_by_step.policy == (1.25, None)
    assert report.normalized_error_by_horizon.policy == (1.25, 1.25)


def test_groups_count_by_their_share() -> None:
    def group(share: float, error: float) -> GroupReport:
        found = group_report("g", Errors(policy=error, repeat_state=1.0, mean_action=2.0), share=share)
        return dataclasses.replace(found, flow_loss=error)

    total = overall([group(0.3, 1.0), group(0.1, 5.0)])
    assert (*total.errors.values(), total.flow_loss) == pytest.approx((2.0, 1.0, 2.0, 2.0))
    with pytest.raises(UsageError, match="holds out no episodes; say `validation:"):
        overall([])


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch.setattr)


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory: pytest.TempPathFactory, quick_compilation: dict[str, str]) -> Path:
    return train_toy(tmp_path_factory.mktemp("evaluate"))


def test_a_run_is_evaluated_the_same_way_twice_and_drawn(toy_run: Path) -> None:
    request = EvaluationRequest(run=toy_run, samples=6, batch_size=4)
    before = evaluate(dataclasses.replace(request, plots=False)).report
    report = evaluate(request).report
    assert before.groups == report.groups
    assert EvaluationReport.from_json(json.loads((toy_run / "eval" / "step_1.json").read_text())) == report
    assert [(group.name, group.samples) for group in report.groups] == [("push", 6), ("lift", 6)]
    assert set(report.groups[1].error) == {"rad", "rad/s", "m/s", "gripper"}
    assert {path.name for path in (toy_run / "eval" / "step_1").iterdir()} == {"push.png", "lift.png"}
    assert "all groups, by share" in render(report)


def test_the_error_is_swept_over_flow_steps_and_drawn(toy_run: Path) -> None:
    report = evaluate(EvaluationRequest(run=toy_run, samples=6, batch_size=4, flow_sweep=(2,))).report
    ten = [np.mean(of_samples_of(toy_run, group.name)) for group in report.groups]
    one = evaluate(EvaluationRequest(run=toy_run, samples=6, batch_size=4, flow_steps=2, plots=False)).report
    for group, same, other in zip(report.groups, one.groups, ten, strict=True):
        assert group.flow_sweep == {2: pytest.approx(np.mean(of_samples_of(toy_run, same.name)))}
        assert group.flow_sweep[2] != other
    page = (toy_run / "eval" / "step_1.html").read_text()
    assert "Error by number of flow steps" in page and f"<summary>{NORM_KEYS[1]}</summary>" in page
    with pytest.raises(UsageError, match="--flow-sweep: expected positive numbers"):
        evaluate(EvaluationRequest(run=toy_run, flow_sweep=(0,)))


def of_samples_of(run: Path, group: str) -> list[float]:
    return json.loads((run / "eval" / "step_1.samples.json").read_text())[group]["error"]


def test_more_samples_than_there_are_count_once(toy_run: Path) -> None:
    report = evaluate(EvaluationRequest(run=toy_run, samples=1000, batch_size=8, plots=False)).report
    assert [group.samples for group in report.groups] == [30, 30]
    assert report.plots is None


def test_wrong_requests_are_named(toy_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--samples: expected a positive number; found 0"):
        evaluate(EvaluationRequest(run=toy_run, samples=0))
    with pytest.raises(UsageError, match="expected a run directory with config.yaml"):
        evaluate(EvaluationRequest(run=tmp_path / "nothing"))
