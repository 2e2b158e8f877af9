"""Progress is a bar in a terminal, a line at most every ten seconds elsewhere, and nothing when quiet."""

import io
import os
import pty
import subprocess
import sys
import termios
from collections.abc import Iterator

import pytest

from pipelines.contract import progress


@pytest.fixture(autouse=True)
def loud() -> Iterator[None]:
    progress.set_quiet(False)
    yield
    progress.set_quiet(False)


def test_a_log_gets_whole_lines_and_few(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    assert list(progress.with_progress(range(5000), 5000, "episode", "convert x")) == list(range(5000))
    lines = log.getvalue().splitlines()
    assert len(lines) <= 3 and "\r" not in log.getvalue()
    assert lines[-1].startswith("convert x: 5000 of 5000 episodes, 100 %")


def test_slow_work_reports_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    with progress.progress_bar(3, "shard", "index") as bar:
        bar.update()
        assert "index: 1 of 3 shards, 33 %" in log.getvalue()


def test_quiet_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    progress.set_quiet(True)
    progress.phase("scanning")
    list(progress.with_progress(range(9), 9, "episode", "check"))
    assert log.getvalue() == ""


def test_a_terminal_gets_a_bar() -> None:
    code = "from pipelines.contract.progress import with_progress; list(with_progress(range(9), 9, 'episode', 'check'))"
    control, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    subprocess.run([sys.executable, "-c", code], stderr=terminal, check=True)
    os.close(terminal)
    shown = os.read(control, 1 << 16).decode()
    assert "check: 100%|" in shown and "9/9 episodes" in shown and "\r" in shown
