"""Plans: the numbers, the flags, the explanation, and plans from published sizes."""

import json
from pathlib import Path

import pytest

from tests.support.inputs.mixture_data import make_episode, write_dataset, write_spec
from trainers.main import main


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plan")
    write_dataset(root, "a", [make_episode(i, task=["fold", "sort"][i % 2]) for i in range(7)])
    write_dataset(
        root, "b", [make_episode(i, robot="ur5e", language=(), task="", missing=["base_0_rgb"]) for i in (8, 9)]
    )
    return write_spec(
        root,
        "groups:\n  - {name: own, share: 0.75, datasets: [{path: a/1.0.0}]}\n"
        "  - {name: other, datasets: [{path: b/1.0.0}]}\n",
    )


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBODIMIX_CACHE", str(tmp_path))


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["mix", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_the_json_plan_holds_shares_draws_and_epochs(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = json.loads(run(capsys, "plan", spec, "--draws", 96, "--json"))
    assert (plan["schema"], plan["n_episodes"], plan["n_steps"]) == ("embodimix.plan/v1", 9, 108)
    fold, sort, other = plan["groups"]
    assert [group["name"] for group in plan["groups"]] == ["own/fold@arx", "own/sort@arx", "other/untitled@ur5e"]
    assert fold["share"] + sort["share"] == pytest.approx(0.75)
    assert (other["expected_draws"], other["effective_epochs"]) == (pytest.approx(24), pytest.approx(1))
    assert other["cameras"] == {"base_0_rgb": 0.0, "left_wrist_0_rgb": 1.0, "right_wrist_0_rgb": 0.0}
    assert other["flags"] == ["unlabelled: 100% of the steps have no language"]
    assert fold["raw_share"] == pytest.approx(48 / 108)


def test_the_table_names_every_group_and_its_flags(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = run(capsys, "plan", spec, "--draws", 1000)
    lines = table.splitlines()
    assert lines[0] == "test: 3 groups, seed 0"
    assert lines[4].split() == [
        "other/untitled@ur5e",
        "2",
        "24",
        "0.00067",
        "22.22",
        "25.00",
        "250",
        "10.4",
        "0",
        "100",
        ".L.",
        "0-6",
        "10",
        "0",
        "0",
        "0.6",
        "proposal",
        "100",
    ]
    assert "! other/untitled@ur5e: over 4 epochs: each step is drawn 10.4 times" in lines


def test_an_explanation_goes_down_the_tree(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "plan", spec, "--explain", "own/sort@arx")
    assert "n = 36; weight = 1 * n ** 0.43" in text
    assert "own: 75.0000% of the level above, fixed in the spec" in text
    with pytest.raises(SystemExit):
        main(["mix", "plan"])
    assert main(["mix", "plan", str(spec), "--explain", "own/srot@arx"]) == 2
    assert "Did you mean 'own/sort@arx'" in capsys.readouterr().err


def test_statistics_alone_are_enough_for_a_plan(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = json.loads(run(capsys, "plan", spec, "--published", "--json"))
    assert [(group["name"], group["n_steps"]) for group in plan["groups"]] == [("own/a@arx", 84), ("other/b@ur5e", 24)]
    assert plan["is_published"] is True


def test_a_mistake_in_the_spec_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = write_spec(tmp_path, "datasets: [{pth: a}]\n")
    assert main(["mix", "plan", str(bad)]) == 2
    assert f"{bad}:3:13: unknown key 'pth' in a dataset. Did you mean 'path' or 'split'?" in capsys.readouterr().err


def test_a_published_plan_needs_sizes_or_statistics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = write_spec(tmp_path, "datasets: [{path: none/1.0.0}]\n")
    assert main(["mix", "plan", str(bad), "--published"]) == 2
    assert "mixture.yaml:3:19: expected `sizes` in the spec or" in capsys.readouterr().err


def test_without_draws_the_plan_says_what_it_could_not_check(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "plan", spec, "--html", spec.parent / "plan.html")
    draws, prompts = text.splitlines()[-2:]
    assert draws.startswith("Not checked without a number of draws: epochs of each group")
    assert prompts.startswith("Not checked without a model: prompts that are longer than it reads")
    page = (spec.parent / "plan.html").read_text()
    assert "Not checked without a number of draws" in page and "Nothing looks wrong" not in page
    assert "number of draws" not in run(capsys, "plan", spec, "--draws", 96)
    assert "Not checked" not in run(capsys, "plan", spec, "--draws", 96, "--model", "tiny")


def test_a_flag_of_many_groups_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path, "a", [make_episode(i, task=f"task {i}") for i in range(5)])
    spec = write_spec(tmp_path, "datasets: [{path: a/1.0.0}]\n")
    flags = [line for line in run(capsys, "plan", spec, "--draws", 6000).splitlines() if line.startswith("! ")]
    assert flags == ["! 5 groups: over 4 epochs: task 0@arx, task 1@arx, task 2@arx and 2 more"]


def test_a_share_in_percent_is_offered_as_a_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = write_spec(tmp_path, "groups: [{name: a, share: 10, datasets: [{path: a/1.0.0}]}]\n")
    assert main(["mix", "plan", str(spec)]) == 2
    assert "(above 0, at most 1), found '10'. Did you mean 0.1?" in capsys.readouterr().err
