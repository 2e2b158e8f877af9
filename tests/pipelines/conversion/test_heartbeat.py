"""Signs of work: on the machine's monotonic clock, in a private folder, through its removal."""

import shutil
import stat
import time
from pathlib import Path

import pytest

from pipelines.conversion import heartbeat
from pipelines.conversion.heartbeat import beat, end_heartbeat, heartbeat_path, last_beat_s
from pipelines.conversion.plan import Job
from pipelines.conversion.supervision import supervised
from pipelines.mapping.adapters import get_adapter


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setattr(heartbeat, "_last_beat_s", {})
    return Job(directory=str(tmp_path / "data"), name="d", version="1.0.0", adapter=get_adapter("bridge_orig"))


def test_a_beat_is_the_monotonic_time_in_a_folder_of_this_user_alone(job: Job) -> None:
    before = time.monotonic()
    beat(job)
    assert before <= (last_beat_s(job) or 0) <= time.monotonic()
    assert stat.S_IMODE(heartbeat_path(job).parent.stat().st_mode) == 0o700


def test_beats_go_on_when_the_folder_is_removed(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beat(job)
    shutil.rmtree(tmp_path / "caches")
    assert last_beat_s(job) is None
    monkeypatch.setattr(heartbeat, "_BEAT_S", 0.0)
    beat(job)
    assert last_beat_s(job) is not None


def test_at_most_one_beat_a_second_is_written(job: Job) -> None:
    beat(job)
    first = last_beat_s(job)
    beat(job)
    assert last_beat_s(job) == first


def test_what_is_no_time_is_no_sign_of_work(job: Job) -> None:
    beat(job)
    heartbeat_path(job).write_text("soon")
    assert last_beat_s(job) is None
    end_heartbeat(job)
    assert not heartbeat_path(job).exists()


def test_a_clock_that_is_set_forward_is_no_lack_of_progress(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor that gives up ends the process, and with it this test."""
    (Path(job.directory) / ".work" / "results").mkdir(parents=True)
    with supervised(job, {}, no_progress_s=5.0):
        monkeypatch.setattr(time, "time", lambda: 4e9)
        time.sleep(0.6)
        monkeypatch.setattr(time, "time", lambda: 0.0)
        time.sleep(0.6)


def test_a_disk_that_takes_no_beat_stops_no_work(job: Job, tmp_path: Path) -> None:
    (tmp_path / "caches").write_text("a file where the folder should be")
    beat(job)
    assert last_beat_s(job) is None
