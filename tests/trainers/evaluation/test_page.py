"""Tests of the evaluation's page: groups by their gap, small whatever its pictures weigh."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.evaluations import evaluation_report, group_report
from trainers.evaluation.page import write_page
from trainers.evaluation.records import Errors


def errors(policy: float) -> Errors:
    return Errors(policy=policy, repeat_state=0.4, mean_action=0.5)


def test_groups_behind_a_baseline_come_first(tmp_path: Path) -> None:
    groups = [group_report(name, errors(policy)) for name, policy in (("good", 0.1), ("bad", 0.9), ("close", 0.41))]
    write_page(tmp_path / "eval.html", evaluation_report("runs/a", *groups))
    page = (tmp_path / "eval.html").read_text()
    assert "A baseline is ahead in 2 of 3 groups" in page and "bad: +0.5000 against the better baseline" in page
    rows = page[page.index("<tbody>") :]
    assert rows.index(">bad<") < rows.index(">close<") < rows.index(">good<")
    write_page(tmp_path / "eval.html", evaluation_report("runs/a", groups[0]))
    assert "Better than both baselines in all 1 group" in (tmp_path / "eval.html").read_text()


@pytest.mark.parametrize("n_groups", [3, 90])
def test_the_page_is_small_and_shows_its_pictures_from_beside_it(tmp_path: Path, n_groups: int) -> None:
    folder = tmp_path / "eval" / "step_9"
    folder.mkdir(parents=True)
    groups = [group_report(f"task {n}@x", errors(0.1)) for n in range(n_groups)]
    for n in range(n_groups):
        (folder / f"task_{n}_x.png").write_bytes(b"0" * 500_000)
    write_page(tmp_path / "eval" / "step_9.html", replace(evaluation_report("r", *groups), plots=str(folder)))
    page = (tmp_path / "eval" / "step_9.html").read_text()
    assert len(page.encode()) < 1e6
    assert page.count('src="step_9/task_') == n_groups and "lie in step_9/ beside this page" in page
