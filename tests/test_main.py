"""The embodimix command: exit codes and messages."""

import os
import subprocess
import sys

import pytest

import trainers.main
from pipelines.errors import nearest


def test_an_unknown_option_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        trainers.main.main(["mix", "plan", "spec.yaml", "--colour"])
    assert exit_.value.code == 2
    assert "--colour" in capsys.readouterr().err


def test_no_command_is_wrong_use() -> None:
    with pytest.raises(SystemExit) as exit_:
        trainers.main.main([])
    assert exit_.value.code == 2


def test_nearest_offers_the_likely_spelling() -> None:
    assert nearest("fraka", ["franka", "ur5e"]) == "Did you mean 'franka'?"


def test_nearest_lists_everything_when_nothing_is_near() -> None:
    assert nearest("zzz", ["franka", "ur5e"]) == "Known: franka, ur5e."


def test_a_reader_who_has_seen_enough_is_no_error() -> None:
    schema = [sys.executable, "-m", "trainers.main", "mix", "schema"]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(schema, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
