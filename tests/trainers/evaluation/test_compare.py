"""Comparing two runs: episodes are resampled whole, and the verdict follows from the interval."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import trainers.evaluation.compare
from pipelines.contract.errors import UsageError
from tests.support.evaluations import evaluation_report, group_report
from trainers.evaluation.compare import compare_runs, episodes_of, render, resampled_means
from trainers.evaluation.evaluate import EvaluationRequest
from trainers.evaluation.page import write_page
from trainers.evaluation.records import Errors, Evaluation, EvaluationReport, SampleErrors, SlotErrors


def test_steps_of_an_episode_stay_together() -> None:
    episode = episodes_of(["d/a/0", "d/a/1", "d/b/0", "d/b/1"])
    means = resampled_means(np.array([0.0, 0.0, 1.0, 1.0]), episode, seed=0)
    assert set(means) == {0.0, 0.5, 1.0}  # never a mixture of single steps
    assert means.mean() == pytest.approx(0.5, abs=0.03)


def test_longer_episodes_weigh_more() -> None:
    means = resampled_means(np.array([0.0, 0.0, 0.0, 1.0]), np.array([0, 0, 0, 1]), seed=0)
    assert set(means) == {0.0, 0.25, 1.0}


def fake_evaluation(run: Path, errors: list[float]) -> Evaluation:
    names = tuple(f"d/e{number}/0" for number in range(len(errors)))
    group = group_report("push", Errors(policy=1.0, repeat_state=1.0, mean_action=1.0), samples=len(errors))
    return Evaluation(
        report=evaluation_report(str(run), group, without_episodes=("none",)),
        samples={"push": SampleErrors(names=names, error=tuple(errors))},
    )


def test_a_clear_difference_is_called_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = {"worse": [0.5, 0.6, 0.7, 0.8], "better": [0.2, 0.3, 0.3, 0.4]}
    monkeypatch.setattr(
        trainers.evaluation.compare, "evaluate", lambda request: fake_evaluation(request.run, errors[request.run.name])
    )
    (tmp_path / "worse" / "eval").mkdir(parents=True)
    found = compare_runs(EvaluationRequest(run=tmp_path / "worse", spec=tmp_path / "m.yaml"), tmp_path / "better")
    assert found.overall.difference == pytest.approx(-0.35)
    assert found.overall.high < 0
    assert "other is better" in render(found)
    written = json.loads((tmp_path / "worse" / "eval" / "against_better.json").read_text())
    assert written == json.loads(json.dumps(found.to_json()))
    assert set(written["groups"][0]) == {"name", "samples", "this", "other", "difference", "low", "high"}


def test_a_run_is_not_compared_with_itself(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected another run than the one compared with"):
        compare_runs(EvaluationRequest(run=tmp_path / "a", spec=tmp_path / "m.yaml"), tmp_path / "." / "a")


def made_up_report() -> EvaluationReport:
    errors = Errors(policy=0.1234, repeat_state=0.5, mean_action=0.75)
    group = replace(group_report("push <it>", errors, samples=3), flow_sweep={1: 0.3, 20: 0.1})
    row = SlotErrors(slot=6, unit="gripper", errors=errors, normalized=0.9)
    report = evaluation_report("runs/a", group, without_episodes=("lift",))
    return replace(report, slots={"arm/joint_position/pi18/v1": (row,)})


def test_the_page_shows_errors_beside_baselines(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", made_up_report())
    page = (tmp_path / "page.html").read_text()
    assert "push &lt;it&gt;" in page and '<td class="best number">0.1234</td>' in page
    assert "held-out episodes: lift" in page and "<td>gripper</td>" in page and ">0.9000</td>" in page
    assert page.count('<svg role="img"') == 3  # by step, by horizon, by flow steps


def test_a_report_is_read_back_from_its_json() -> None:
    report = made_up_report()
    written = json.loads(json.dumps(report.to_json()))
    assert EvaluationReport.from_json(written) == report
    assert written["groups"][1] == {"name": "lift", "samples": 0}
    assert written["groups"][0]["flow_sweep"] == {"1": 0.3, "20": 0.1}
    assert written["overall"] == {"policy": 0.1234, "repeat_state": 0.5, "mean_action": 0.75, "flow_loss": 0.25}
