"""Comparing two runs: episodes are resampled whole, and the verdict follows from the interval."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trainers.evaluation.compare
from pipelines.contract.errors import UsageError
from trainers.evaluation.compare import compare, episodes_of, render, resampled_means
from trainers.evaluation.evaluate import EvaluationRequest
from trainers.evaluation.page import write_page


def test_steps_of_an_episode_stay_together() -> None:
    episode = episodes_of(["d/a/0", "d/a/1", "d/b/0", "d/b/1"])
    means = resampled_means(np.array([0.0, 0.0, 1.0, 1.0]), episode, seed=0)
    assert set(means) == {0.0, 0.5, 1.0}  # never a mixture of single steps
    assert means.mean() == pytest.approx(0.5, abs=0.03)


def test_longer_episodes_weigh_more() -> None:
    means = resampled_means(np.array([0.0, 0.0, 0.0, 1.0]), np.array([0, 0, 0, 1]), seed=0)
    assert set(means) == {0.0, 0.25, 1.0}


def fake_report(run: Path, tmp_path: Path, errors: list[float]) -> dict[str, Any]:
    path = tmp_path / f"{run.name}.json"
    names = [f"d/e{number}/0" for number in range(len(errors))]
    path.write_text(json.dumps({"push": {"names": names, "error": errors}}))
    return {
        "run": str(run),
        "step": 9,
        "mixture": "toy",
        "sample_errors": str(path),
        "groups": [{"name": "push", "samples": len(errors), "share": 1.0}, {"name": "none", "samples": 0}],
    }


def test_a_clear_difference_is_called_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = {"worse": [0.5, 0.6, 0.7, 0.8], "better": [0.2, 0.3, 0.3, 0.4]}
    monkeypatch.setattr(
        trainers.evaluation.compare,
        "evaluate",
        lambda request: fake_report(request.run, tmp_path, errors[request.run.name]),
    )
    (tmp_path / "worse" / "eval").mkdir(parents=True)
    report = compare(EvaluationRequest(run=tmp_path / "worse", spec=tmp_path / "m.yaml"), tmp_path / "better")
    assert report["overall"]["difference"] == pytest.approx(-0.35)
    assert report["overall"]["high"] < 0
    assert "other is better" in render(report)
    assert json.loads((tmp_path / "worse" / "eval" / "against_better.json").read_text()) == report


def test_a_run_is_not_compared_with_itself(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected another run than the one compared with"):
        compare(EvaluationRequest(run=tmp_path / "a", spec=tmp_path / "m.yaml"), tmp_path / "." / "a")


def test_the_page_shows_errors_beside_baselines(tmp_path: Path) -> None:
    errors = {"policy": 0.1234, "repeat_state": 0.5, "mean_action": 0.75}
    group = {
        "name": "push <it>",
        "samples": 3,
        "share": 1.0,
        "flow_loss": 0.25,
        "error": {"rad": errors},
        "normalized_error": errors,
        "normalized_error_by_step": {name: [0.1, None] for name in errors},
        "normalized_error_by_horizon": {name: [0.1, 0.1] for name in errors},
        "flow_sweep": {"1": 0.3, "20": 0.1},
    }
    report = {
        "run": "runs/a",
        "step": 9,
        "mixture": "toy",
        "flow_steps": 10,
        "plots": None,
        "groups": [group, {"name": "lift", "samples": 0}],
        "overall": errors | {"flow_loss": 0.25},
        "slots": {"arm/joint_position/pi18/v1": [{"slot": 6, "unit": "gripper", "normalized": 0.9} | errors]},
    }
    write_page(tmp_path / "page.html", report)
    page = (tmp_path / "page.html").read_text()
    assert "push &lt;it&gt;" in page and "<td class=best>0.1234" in page and "held-out episodes: lift" in page
    assert "<td>6<td>gripper<td class=best>0.1234" in page and "<td>0.9000" in page
    assert page.count("data:image/png") == 3  # by step, by horizon, by flow steps
