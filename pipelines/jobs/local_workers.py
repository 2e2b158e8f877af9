"""Workers of Beam's local runner: their memory, their error messages, detecting a killed one and ending all."""

import ctypes
import gc
import logging
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from pipelines.contract.errors import EmbodimixError

# The runner has no callback for a worker that died: its thread raises this text, which only the hook for uncaught
# exceptions of threads sees.
_EXITED = re.compile(r"Worker subprocess exited with return code (-?\d+)")

_FORESEEN = re.compile(r"pipelines\.|KeyError: 'bundle_\d+'$")

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
# Chunks, and all pictures of an episode: of fresh memory the kernel clears each page, which takes as long as a checksum
# of it.
_KEPT_BLOCK_BYTES, _KEPT_BYTES = 16 << 20, 128 << 20


@contextmanager
def deaths_noted() -> Iterator[list[str]]:
    """Yields a list that gets the name of the signal whenever one ends a worker process, such as SIGKILL.

    Ctrl-C, which reaches the launcher as well, does not count, nor does a worker that ends by itself.
    """
    deaths: list[str] = []
    report = threading.excepthook

    def note(failure: threading.ExceptHookArgs) -> None:
        if name := killed_by(str(failure.exc_value)):
            deaths.append(name)
        else:
            report(failure)

    threading.excepthook = note
    try:
        yield deaths
    finally:
        threading.excepthook = report


def killed_by(message: str) -> str:
    """The name of the signal in the runner's words on a worker's end; "" where there is none.

    >>> killed_by("Worker subprocess exited with return code 137")
    'SIGKILL'
    """
    exited = _EXITED.search(message)
    code = int(exited[1]) if exited else 0
    number = -code if code < 0 else code - 128  # A shell between the two adds 128.
    if number not in set(signal.Signals) or number == signal.SIGINT:
        return ""
    return signal.Signals(number).name


def report_failures_once() -> None:
    """From now on, Beam does not print the way through its own code three times for a failure that has a message.

    The caller of the pipeline prints that message. Unforeseen errors are printed in full. Beam's threads may
    print when a run has ended, so nothing puts this back.
    """
    from apache_beam.runners.worker import sdk_worker

    for module in ("common", "worker.sdk_worker"):
        logging.getLogger(f"apache_beam.runners.{module}").addFilter(_is_unforeseen)
    vars(sdk_worker)["print"] = _print_unforeseen


def _print_unforeseen(text: str, file: TextIO) -> None:
    if not is_foreseen(text):
        print(text, file=file)


def _is_unforeseen(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, EmbodimixError) and not is_foreseen(record.getMessage())


def is_foreseen(text: str) -> bool:
    """Whether a text is a traceback that ends in one of our own errors, or in what follows one: while it shuts down,
    Beam has forgotten the bundles that another worker was about to end.

    >>> is_foreseen("Traceback (most recent call last):\\n  File ...\\npipelines.errors.FailedWork: no room")
    True
    >>> is_foreseen("Traceback (most recent call last):\\n  File ...\\nKeyError: 'x'")
    False
    """
    errors = re.findall(r"^[\w.]+: .*", text, re.MULTILINE) if "Traceback (most recent call last)" in text else []
    return bool(errors) and _FORESEEN.match(errors[-1]) is not None


def killed_worker_message(how: str) -> str:
    """The message for a worker process that ended by a signal or without an answer."""
    return f"a worker process was killed ({how}); if memory ran out, use fewer --workers"


def limit_malloc_arenas(n_threads: int) -> None:
    """Has the C library set memory aside for so many threads that work and one more, and Arrow none at all.

    By itself glibc does so for each of the many threads of Beam's runner, which keeps some 25 MB; other C libraries
    do not, and are left alone. Arrow's own allocators keep some 20 MB per process. It counts only before threads run
    and Arrow is loaded.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    if set_option := getattr(ctypes.CDLL(None), "mallopt", None):
        set_option(_M_ARENA_MAX, n_threads + 1)
        set_option(_M_MMAP_THRESHOLD, _KEPT_BLOCK_BYTES)
        set_option(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def return_memory() -> None:
    """Gives freed memory back to the system, where the C library can: glibc keeps what large blocks once took."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


@contextmanager
def settled() -> Iterator[None]:
    """While the block runs, the collector of cycles passes over what is there already: modules, mostly Beam's, which
    it would look through again and again."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def end_processes() -> None:
    """Kills every process that this one started, and theirs; one that writes to the end would outlive its launcher."""
    for pid in descendants("self"):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def descendants(pid: int | str) -> list[int]:
    """The processes that one started, and those that they started; without those that end while it looks."""
    below: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []  # It ended while it was looked for.
    for thread in threads:
        try:
            below += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
        except OSError:
            continue
    return [each for child in below for each in (child, *descendants(child))]
