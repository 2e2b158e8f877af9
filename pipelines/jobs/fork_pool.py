"""Worker processes of a local run, forked from the launcher before it has threads: they share its modules and no lock.

Beam's local runner offers threads or fresh processes. Threads wait for Python's lock between two codecs (1.5 times one
worker on two cores, measured), and each fresh process loads Beam (two seconds and 250 MB more). Here the runner's
threads pass their work to processes that were forked before Beam was loaded (1.8 times one worker).
"""

import ctypes
import gc
import importlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing.process import BaseProcess
from typing import ParamSpec, TypeVar

from pipelines.contract.errors import FailedWork
from pipelines.jobs.cancelling import follow_launcher
from pipelines.jobs.local_workers import killed_worker_message

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# Loaded by a worker in any case; what the launcher has loaded already is in memory once.
_SHARED = ("PIL.Image", "pyarrow.compute")
# linux/prctl.h: the kernel kills a worker when its launcher dies, also by SIGKILL, which no handler sees.
_PR_SET_PDEATHSIG = 1
_EXITED_S = 5.0

_pool: ProcessPoolExecutor | None = None
_workers: Sequence[BaseProcess] = ()


def can_fork() -> bool:
    """Says whether worker processes can be forked here: on Linux, from a process that has no threads of Python and
    none of Beam's."""
    return sys.platform == "linux" and threading.active_count() == 1 and "apache_beam" not in sys.modules


@contextmanager
def forked_workers(n_workers: int, load: Callable[[], object]) -> Iterator[None]:
    """Has processes do what `in_worker` is called with while the block runs; an error that leaves it ends them at once.

    load: imports what the processes share. They end with this one, however it ends, and leave Ctrl-C to it.
    """
    global _pool, _workers
    for name in _SHARED:
        importlib.import_module(name)
    load()
    # The collector writes to the header of every object that it looks at, and a page that is written to is copied for
    # each process; frozen objects it leaves alone.
    gc.collect()
    gc.freeze()
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(n_workers, context, initializer=_begin, initargs=(os.getpid(),)) as pool:
        # The executor forks all of its processes at the first task: now, while this process still has one thread.
        pool.submit(os.getpid).result()
        _pool, _workers = pool, [each for each in multiprocessing.active_children() if each not in others]
        try:
            yield
        except BaseException:
            for worker in _workers:
                worker.kill()
            raise
        finally:
            _pool = None


def in_worker(work: Callable[Arguments, Result], *arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
    """Returns what a worker process makes of the call, or this thread where none was forked.

    Raises what the work raises, and FailedWork when a worker process was killed.
    """
    if (pool := _pool) is None:
        return work(*arguments, **options)
    try:
        return pool.submit(_work, partial(work, *arguments, **options)).result()
    except BrokenProcessPool as error:
        raise FailedWork(killed_worker_message(_how_ended(_workers))) from error


def _begin(launcher: int) -> None:
    # Ctrl-C reaches the whole group of processes; the launcher decides what ends, and when.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The launcher may have died before the kernel was asked.
    if os.getppid() != launcher:
        os._exit(1)
    follow_launcher()


def _work(work: Callable[[], Result]) -> Result:
    """Does the work; an error that cannot be pickled is sent to the launcher as its text."""
    try:
        return work()
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
        raise


def _how_ended(workers: Sequence[BaseProcess]) -> str:
    """The signal that ended the first worker; the executor then ends the others by SIGTERM."""
    end = time.monotonic() + _EXITED_S
    while any(worker.exitcode is None for worker in workers) and time.monotonic() < end:
        time.sleep(0.01)
    codes = [worker.exitcode or 0 for worker in workers]
    code = min(codes, key=lambda each: (each == -signal.SIGTERM, each == 0))
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"
