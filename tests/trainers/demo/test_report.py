"""The demo's own checks and its page, on results made up here."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.contract.images import to_jpeg
from tests.support.evaluations import evaluation_report, group_report
from trainers.demo.ablation import ablation_markdown, ablation_rows
from trainers.demo.logs import PLANS
from trainers.demo.outcomes import PlannedShare, RolloutOutcome
from trainers.demo.report import write_report
from trainers.demo.results import Kept, Results, Shown, findings
from trainers.evaluation.records import Errors, EvaluationReport

WRITTEN = sum(series.episodes + len(series.flaws) for series in PLANS["full"])
FLAWED = sum(len(series.flaws) for series in PLANS["full"])


def evaluation(policy: float, *names: str, unit: str = "rad") -> EvaluationReport:
    errors = Errors(policy=policy, repeat_state=0.4, mean_action=0.5)
    return evaluation_report("run", *(group_report(name, errors, unit=unit) for name in names))


def outcome(successes: int, condition: str = "task", lifted_other: int = 0) -> RolloutOutcome:
    return RolloutOutcome(
        task="a",
        robot="x",
        condition=condition,
        episodes=8,
        successes=successes,
        went_to_meant=7,
        lifted_other=lifted_other,
    )


@pytest.fixture
def good() -> Results:
    falling = np.column_stack([np.arange(20), np.linspace(1.0, 0.1, 20)])
    jpeg = to_jpeg(np.full((224, 224, 3), 128, np.uint8))
    shown = Shown(
        dataset="in_house",
        robot="ur5e",
        control_mode="joint_position",
        control_hz=20.0,
        task="lift the <red> cube",
        n_steps=40,
        frames={"base_0_rgb": (jpeg,) * 6},
        segments=((0.0, 1.2, "reach", "subtask"), (1.2, 2.0, "hold still", "idle")),
    )
    group = PlannedShare(name="in_house/a@x", n_episodes=3, n_steps=90, raw_share=0.5, share=0.4, effective_epochs=2.0)
    rejects = tuple((f"episode {k}", "non_finite", "action: found nan") for k in range(FLAWED))
    return Results(
        quick=False,
        seconds={"pretrain": 12.5},
        kept=(Kept(name="in_house", episodes=WRITTEN - FLAWED, steps=900, robots=("ur5e",), rejects=rejects),),
        shown=(shown,),
        plan=(group,),
        drawn={"in_house/a@x": 0.41},
        task_groups=("in_house/a@x",),
        losses={"pretrained": falling, "posttrained": falling},
        evals={
            "pretrained": evaluation(0.3, "b@y", "in_house/a@x"),
            "posttrained": evaluation(0.1, "b@y", "in_house/a@x"),
        },
        rollouts={
            "pretrained": [outcome(2, lifted_other=1)],
            "posttrained": [outcome(6)],
        },
    )


def test_good_results_have_no_findings(good: Results) -> None:
    assert findings(good) == []
    rows = [(row.group, row.is_task, row.policies) for row in good.errors]
    both = {"pretrained": 0.3, "posttrained": 0.1}
    assert rows == [("in_house/a@x", True, both), ("b@y", False, both)]


def test_a_policy_that_loses_to_a_baseline_is_a_finding(good: Results) -> None:
    evals = dict(good.evals) | {name: evaluation(0.45, "b@y") for name in good.evals}
    assert findings(replace(good, evals=evals)) == [
        "b@y: expected the pretrained policy below 0.400, the better baseline; found 0.450"
    ]


def test_post_training_that_does_not_help_is_a_finding(good: Results) -> None:
    evals = dict(good.evals) | {"posttrained": evaluation(0.35, "b@y", "in_house/a@x")}
    assert findings(replace(good, evals=evals)) == [
        "in_house/a@x: expected the post-trained policy below 0.300, the pretrained one; found 0.350"
    ]


def test_a_lost_episode_is_a_finding(good: Results) -> None:
    kept = (replace(good.kept[0], episodes=good.kept[0].episodes - 1),)
    found = f"{WRITTEN - FLAWED - 1} kept and {FLAWED} rejected"
    assert findings(replace(good, kept=kept)) == [
        f"episodes: expected {WRITTEN}, as many as were written; found {found}"
    ]


def test_a_loss_that_rises_is_a_finding_also_in_a_quick_demo(good: Results) -> None:
    rising = good.losses["pretrained"][::-1]
    quick = replace(good, quick=True, losses=dict(good.losses) | {"posttrained": rising})
    assert "posttrained: the loss did not fall" in findings(quick)
    assert not any("baseline" in fault for fault in findings(quick))


def test_the_page_is_one_file_and_escapes_what_it_shows(good: Results, tmp_path: Path) -> None:
    page = write_report(tmp_path / "report.html", good, ["a fault"]).read_text()
    assert "lift the &lt;red&gt; cube" in page and "<red>" not in page
    assert "a fault" in page and "41.0 %" in page and "75 %" in page and "data:image/jpeg;base64," in page
    assert "<svg" in page and 'src="http' not in page and "<link" not in page
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]


def test_the_page_says_where_post_training_forgot_and_where_a_unit_is_behind(good: Results, tmp_path: Path) -> None:
    def with_metres(policy: float, in_metres: float, of_task: float) -> EvaluationReport:
        metres = Errors(policy=in_metres, repeat_state=0.4, mean_action=0.5)
        other, task = evaluation(policy, "b@y").groups[0], evaluation(of_task, "in_house/a@x").groups[0]
        return evaluation_report("run", replace(other, error={"m": metres}), task)

    evals = {"pretrained": with_metres(0.3, 0.45, 0.3), "posttrained": with_metres(0.6, 0.45, 0.1)}
    results = replace(good, evals=evals)
    assert findings(results) == []
    page = write_report(tmp_path / "report.html", results, []).read_text()
    assert "in 1 of 1 other groups a baseline is ahead of it" in page
    assert "ahead of the pretrained policy in: b@y (m)." in page


def test_the_ablation_has_a_row_per_policy_and_way_of_asking(good: Results, tmp_path: Path) -> None:
    evals = dict(good.evals) | {run: evaluation(0.2, "b@y", "in_house/a@x") for run in ("segments", "scratch")}
    asked = [outcome(5), outcome(7, "script"), outcome(4, "high_level")]
    elsewhere = replace(outcome(0), robot="z")
    rollouts = dict(good.rollouts) | {"segments": asked, "scratch": [outcome(1)]}
    rollouts = {run: [*outcomes, elsewhere] for run, outcomes in rollouts.items()}
    results = replace(good, evals=evals, rollouts=rollouts)
    rows = ablation_rows(results)
    assert [(row.policy, row.condition, row.successes, row.episodes, row.error) for row in rows] == [
        ("pretrained", "task", 2, 8, 0.3),
        ("posttrained", "task", 6, 8, 0.1),
        ("segments", "task", 5, 8, 0.2),
        ("segments", "script", 7, 8, 0.2),
        ("segments", "high_level", 4, 8, 0.2),
        ("scratch", "task", 1, 8, 0.2),
    ]
    cells = "| from scratch, task sentences | the task's sentence | 1/8 | 2-47 % | 88 % | 0 % | 0.200 |"
    assert cells in ablation_markdown(rows).splitlines()
    page = write_report(tmp_path / "report.html", results, []).read_text()
    assert "<td class=number>1/8</td><td class=number>2-47 %</td>" in page and "segment language are good for" in page
