"""Forked worker processes: the same bytes as threads, errors in their words, and an end whenever the launcher ends."""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import workers_for
from pipelines.conversion.launch import convert
from pipelines.jobs import fork_pool, local_workers
from pipelines.jobs.fork_pool import can_fork, in_worker
from pipelines.jobs.local_workers import descendants
from tests.pipelines.conversion.test_convert import command, hash_files, make_conversion
from tests.pipelines.conversion.test_faults import FOLDER, is_running, kill
from tests.support.inputs.native_files import bridge_features, write_rlds
from tests.support.waiting import LIMIT_S, wait_for

N_SHARDS = 6

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    episodes = [bridge_features(i, t=60) for i in range(24)]
    return write_rlds(tmp_path_factory.mktemp("source") / "tiny", {"train": episodes})


@pytest.fixture(scope="module")
def hashes(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What threads write."""
    root = tmp_path_factory.mktemp("reference")
    convert(make_conversion(source, root, n_shards=N_SHARDS, n_workers=2))
    return hash_files(root / FOLDER)


def launch(source: Path, root: Path) -> subprocess.Popen[str]:
    """Starts a conversion in two worker processes, at the head of a process group as a shell starts it."""
    in_two = command(source, root, "--shards", str(N_SHARDS), "--workers", "2")
    return subprocess.Popen(in_two, stderr=subprocess.PIPE, text=True, start_new_session=True)


def launch_and_wait(source: Path, root: Path) -> tuple[subprocess.Popen[str], list[int], int]:
    """A conversion that is writing: the launcher, both workers, and one that writes."""
    launcher, writing = launch(source, root), list[int]()
    wait_for(lambda: writing.extend(writers(root)) or writing, launcher)
    return launcher, descendants(launcher.pid), writing[0]


def finish(source: Path, root: Path) -> dict[str, str]:
    """Runs the conversion to its end; returns what it wrote."""
    launcher = launch(source, root)
    _, said = launcher.communicate()
    assert launcher.returncode == 0, said
    return hash_files(root / FOLDER)


def writers(root: Path) -> list[int]:
    """The processes that write a shard at this moment, as their temporary files tell."""
    return [int(path.name.split(".")[-3]) for path in root.glob(f"{FOLDER}/.tiny-train.tfrecord-*.tmp")]


def test_two_processes_without_beam_write_what_threads_write(
    source: Path, hashes: dict[str, str], tmp_path: Path
) -> None:
    launcher = launch(source, tmp_path)
    loaded: dict[int, str] = {}

    def look() -> bool:
        for pid in writers(tmp_path):
            with contextlib.suppress(OSError):  # It has ended.
                loaded[pid] = Path(f"/proc/{pid}/maps").read_text()
        return launcher.poll() is not None

    wait_for(look)
    assert launcher.returncode == 0
    assert hash_files(tmp_path / FOLDER) == hashes
    assert 1 <= len(loaded) <= 2 and launcher.pid not in loaded
    assert not [pid for pid, libraries in loaded.items() if "simplejpeg" not in libraries or "grpc" in libraries]


def test_a_worker_that_is_killed_while_it_writes_is_told_and_loses_nothing(
    source: Path, hashes: dict[str, str], tmp_path: Path
) -> None:
    launcher, both, writer = launch_and_wait(source, tmp_path)
    kill(writer)
    _, said = launcher.communicate()
    assert launcher.returncode == 1
    assert "a worker process was killed (SIGKILL); if memory ran out, use fewer --workers. Finished shards" in said
    assert "Traceback" not in said
    assert not any(is_running(pid) for pid in both)
    assert not (tmp_path / FOLDER / "dataset_info.json").exists()
    assert finish(source, tmp_path) == hashes


def test_workers_end_with_a_launcher_that_is_killed(source: Path, hashes: dict[str, str], tmp_path: Path) -> None:
    launcher, both, _ = launch_and_wait(source, tmp_path)
    kill(launcher.pid)
    launcher.wait()
    assert len(both) == 2
    wait_for(lambda: not any(is_running(pid) for pid in both))
    assert finish(source, tmp_path) == hashes


def test_ctrl_c_ends_the_workers_between_two_episodes_and_leaves_a_quiet_folder(
    source: Path, hashes: dict[str, str], tmp_path: Path
) -> None:
    launcher, both, _ = launch_and_wait(source, tmp_path)
    os.killpg(launcher.pid, signal.SIGINT)
    _, said = launcher.communicate()
    assert (launcher.returncode, "interrupted; run the same command again to continue" in said) == (130, True)
    assert "Traceback" not in said
    assert not any(is_running(pid) for pid in both)
    assert not list((tmp_path / FOLDER).rglob("*.tmp"))
    assert finish(source, tmp_path) == hashes


# Called in a process of its own, since this one has threads that no fork survives.
CALL = """
import os, signal, sys
from pipelines.contract.errors import FailedWork
from pipelines.jobs.fork_pool import can_fork, forked_workers, in_worker

class Wordy(Exception):
    def __init__(self, reason, detail):
        super().__init__(f"{reason}: {detail}")

def fail(): raise FailedWork("the disk is gone")
def fail_wordily(): raise Wordy("so", "what")
def crash(): os.kill(os.getpid(), signal.SIGSEGV)
def give_up(): os._exit(3)
def add(a, b=0): return a + b, os.getpid()

assert can_fork()
with forked_workers(2, lambda: None):
    try:
        print(in_worker(eval(sys.argv[1])) if len(sys.argv) < 3 else in_worker(add, 1, b=2) == (3, os.getpid()))
    except BaseException as error:
        print(type(error).__name__, error)
"""


def call(*arguments: str, code: str = CALL) -> str:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=LIMIT_S).stdout


@pytest.mark.parametrize(
    "work, expected",
    [
        ("fail", "FailedWork the disk is gone"),
        ("fail_wordily", "RuntimeError Wordy: so: what"),
        ("crash", "FailedWork a worker process was killed (SIGSEGV); if memory ran out, use fewer --workers"),
        ("give_up", "FailedWork a worker process was killed (exit status 3); if memory ran out, use fewer --workers"),
    ],
)
def test_what_a_worker_raises_reaches_the_launcher(work: str, expected: str) -> None:
    assert call(work).strip() == expected


LEAVE = """
import sys, threading, time
from pathlib import Path
from pipelines.contract.errors import FailedWork
from pipelines.jobs.fork_pool import forked_workers, in_worker
from pipelines.jobs.cancelling import allow_writers, cancel_writers, check_not_cancelled

def write(begun):
    Path(begun).touch()
    while sys.argv[2] == "deaf" or not check_not_cancelled("out"):
        time.sleep(0.01)

def write_in_worker():
    try:
        in_worker(write, sys.argv[1])
    except FailedWork as error:
        print(error)

allow_writers("out")
writer = threading.Thread(target=write_in_worker)
try:
    with forked_workers(2, lambda: None):
        writer.start()
        while not Path(sys.argv[1]).exists():
            time.sleep(0.01)
        if sys.argv[2] == "deaf":
            raise KeyboardInterrupt
        cancel_writers("out", 0)
        writer.join()
except KeyboardInterrupt:
    writer.join()
"""


def test_a_worker_is_called_off_with_its_launcher(tmp_path: Path) -> None:
    said = call(str(tmp_path / "begun"), "listens", code=LEAVE)
    assert said == "out: this part was left undone, since another one failed\n"


def test_a_worker_that_does_not_listen_is_ended_when_the_launcher_leaves(tmp_path: Path) -> None:
    assert "a worker process was killed (SIGKILL)" in call(str(tmp_path / "begun"), "deaf", code=LEAVE)


def test_work_is_done_in_another_process_where_there_is_one_and_here_where_not() -> None:
    assert call("add", "in another").strip() == "False"
    assert in_worker(os.getpid) == os.getpid()


def test_nobody_forks_beside_threads_or_beam(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not can_fork()  # Beam is loaded here.
    monkeypatch.delitem(sys.modules, "apache_beam")
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    assert can_fork()
    monkeypatch.setattr(threading, "active_count", lambda: 2)
    assert not can_fork()


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, [("arenas", 1), ("processes", 3)]),
        ({"workers": 1}, [("arenas", 1)]),
        ({"input": "gs://bucket/in"}, [("arenas", 3)]),
        ({"output_root": "s3://bucket/out"}, [("arenas", 3)]),
        ({"beam_options": ["--runner=FnApiRunner"]}, [("arenas", 3)]),
        ({"can_fork": False}, [("arenas", 3)]),
    ],
)
def test_workers_are_processes_where_these_help_and_threads_elsewhere(
    changes: dict[str, Any], expected: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {"format": "rlds", "input": "in", "output_root": "out", "workers": 3, "beam_options": []} | changes
    made: list[tuple[str, int]] = []
    monkeypatch.setattr(fork_pool, "can_fork", lambda: changes.get("can_fork", True))
    monkeypatch.setattr(fork_pool, "forked_workers", lambda n, _: nullcontext(made.append(("processes", n))))
    monkeypatch.setattr(local_workers, "limit_malloc_arenas", lambda n: made.append(("arenas", n)))
    with workers_for(argparse.Namespace(**wanted)):
        assert made == expected
