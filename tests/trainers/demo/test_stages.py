"""Stages of the demo: run once, side by side, logged, and loud when they fail."""

import json
from pathlib import Path

import pytest

from pipelines.contract.errors import FailedWork, UsageError
from trainers.demo import main_job
from trainers.demo.main_job import Demo, demo_code_hash
from trainers.demo.stages import Runner, Stage


def stage(name: str, *arguments: str, output: Path | None = None) -> Stage:
    return Stage(name=name, title=name, arguments=arguments, output=output)


def test_output_goes_to_its_file_and_seconds_are_kept(tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text('{"a": 1}')
    runner = Runner(tmp_path / "stages", n_stages=1)
    runner.run([stage("format", "json.tool", "--compact", str(tmp_path / "in.json"), output=tmp_path / "out.json")])
    assert (tmp_path / "out.json").read_text() == '{"a":1}\n'
    assert list(json.loads((tmp_path / "stages/times.json").read_text())) == ["format"]


def test_a_done_stage_is_not_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.json").write_text("{}")
    for _ in range(2):
        Runner(tmp_path / "stages", n_stages=1).run([stage("format", "json.tool", str(tmp_path / "in.json"))])
        (tmp_path / "in.json").unlink(missing_ok=True)
    assert "format: done before" in capsys.readouterr().out


def test_a_failing_stage_names_its_log_and_shows_its_end(tmp_path: Path) -> None:
    runner = Runner(tmp_path / "stages", n_stages=2)
    with pytest.raises(FailedWork, match="(?s)broken failed with exit code.*missing.json.*broken.log"):
        runner.run([stage("broken", "json.tool", str(tmp_path / "missing.json"))])
    assert runner.seconds == {}


def test_no_more_stages_run_side_by_side_than_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runner = Runner(tmp_path / "stages", n_stages=3)
    runner.run([stage(name, "timeit", "-n1", "-r1") for name in "abc"], width=2)
    begun = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert begun == ["a", "b", "c"] and set(runner.seconds) == {"a", "b", "c"}


def test_the_command_is_shown_as_a_person_types_it() -> None:
    assert stage("x", "trainers.main", "mix", "plan", "a b.yaml").shown == "embodimix mix plan 'a b.yaml'"


def test_demo_refuses_a_folder_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("do not delete")
    with pytest.raises(UsageError, match="expected an empty folder or an earlier demo"):
        Demo(out=tmp_path).run()
    assert (tmp_path / "thesis.txt").exists()


def test_demo_with_other_options_starts_afresh(tmp_path: Path) -> None:
    Demo(out=tmp_path, seed=1)._begin()
    (tmp_path / "data").mkdir()
    (tmp_path / "notes.txt").write_text("kept")
    Demo(out=tmp_path, seed=1)._begin()
    assert (tmp_path / "data").exists()
    Demo(out=tmp_path, seed=2)._begin()
    assert not (tmp_path / "data").exists() and (tmp_path / "notes.txt").exists()
    assert "seed: 2" in (tmp_path / "pretrain.yaml").read_text()


def test_the_code_hash_reads_every_package(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = demo_code_hash()
    hashes = set()
    for package in main_job.PACKAGES:
        monkeypatch.setattr(main_job, "PACKAGES", (package,))
        hashes.add(demo_code_hash())
    assert len(hashes | {whole}) == 6  # a package that is not found would hash like any other that is not found
