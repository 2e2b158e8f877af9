"""Workers of the local runner: the memory that they set aside, what Beam says of failures, and who was killed."""

import gc
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest

from pipelines.contract.errors import FailedWork
from pipelines.conversion.graph import ConvertAll
from pipelines.conversion.launch import run_beam
from pipelines.conversion.plan import Job
from pipelines.jobs.beam_options import make_beam_options
from pipelines.jobs.local_workers import deaths_noted, is_foreseen, killed_by, settled
from pipelines.mapping.adapters import get_adapter

# Eight threads that live together and have memory; prints in how many arenas glibc keeps it.
COUNT_ARENAS = """
import ctypes, sys, threading
from pipelines.jobs.local_workers import limit_malloc_arenas
limit_malloc_arenas(1)

together, libc = threading.Barrier(8), ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
def work():
    libc.malloc(10_000)
    together.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
print(open(sys.argv[1]).read().count("<heap nr="))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone has arenas")
def test_the_threads_of_one_worker_share_two_arenas(tmp_path: Path) -> None:
    command = [sys.executable, "-c", COUNT_ARENAS, str(tmp_path / "arenas.xml")]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "2\n"


# Fills memory in small blocks, frees all but the last, and prints the MB that the process then has, before and after.
FREE_MOST = """
import gc
from pipelines.jobs.local_workers import limit_malloc_arenas, return_memory
def mb():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6
def work():
    global last
    blocks = [bytearray(60_000) for _ in range(5_000)]
    last = blocks[-1]
    return mb()
limit_malloc_arenas(1)
print(mb(), work(), return_memory() or mb())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone gives memory back")
def test_what_small_blocks_took_is_given_back_though_one_of_them_stays() -> None:
    printed = subprocess.run([sys.executable, "-c", FREE_MOST], check=True, capture_output=True, text=True).stdout
    before, during, after = map(float, printed.split())
    assert during > before + 250 and after < before + 30


def test_the_collector_passes_over_what_was_there_before() -> None:
    before = gc.get_freeze_count()
    with settled():
        assert gc.get_freeze_count() > before + 1000
    assert gc.get_freeze_count() == 0


@pytest.mark.parametrize("code, expected", [(137, "SIGKILL"), (-9, "SIGKILL"), (139, "SIGSEGV"), (130, ""), (1, "")])
def test_a_worker_that_a_signal_ended_is_told_from_one_that_ended_by_itself(code: int, expected: str) -> None:
    assert killed_by(f"Worker subprocess exited with return code {code}") == expected


def test_deaths_of_workers_are_noted_and_other_failures_of_threads_reported_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reported: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda failure: reported.append(str(failure.exc_value)))
    with deaths_noted() as deaths:
        for message in ("Worker subprocess exited with return code -15", "something else"):
            thread = threading.Thread(target=fail, args=(message,))
            thread.start()
            thread.join()
    assert (deaths, reported) == (["SIGTERM"], ["something else"])


def fail(message: str) -> None:
    raise RuntimeError(message)


def test_beam_tells_of_a_foreseen_failure_nothing_and_of_others_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for error in (FailedWork("the disk is gone"), KeyError("nobody foresaw this")):
        with pytest.raises(FailedWork, match=f"{error.args[0]}.*Finished shards are kept"):
            run_beam(Fails(error, tmp_path), make_beam_options((), 2))
        said = capsys.readouterr().err + caplog.text
        if isinstance(error, KeyError):
            assert said.count("Traceback (most recent call last)") >= 2
            assert "nobody foresaw this" in said
        else:
            assert said == ""


class Fails(ConvertAll):
    """A graph whose one step fails."""

    def __init__(self, error: Exception, output: Path) -> None:
        job = Job(directory=str(output), name="x", version="1.0.0", adapter=get_adapter("bridge_orig"))
        super().__init__(job, (), ())
        self.error = error

    def expand(self, pipeline: Any) -> Any:
        return pipeline | beam.Create([self.error]) | beam.Map(throw)


def throw(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    "last, foreseen",
    [
        ("pipelines.contract.errors.FailedWork: the disk is gone [while running 'x']", True),
        ("KeyError: 'bundle_260'", True),
        ("KeyError: 'action'", False),
        ("ValueError: pipelines.contract.errors", False),
    ],
)
def test_what_follows_a_failure_is_told_from_what_nobody_foresaw(last: str, foreseen: bool) -> None:
    told = f"Traceback (most recent call last):\n  File x\nKeyError: 'y'\n\nand then:\n\n{last}\n"
    assert is_foreseen(told) == foreseen
    assert not is_foreseen(last)
