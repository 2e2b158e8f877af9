"""Waiting for what happens: other work on the machine can make anything slow."""

import subprocess
import time
from collections.abc import Callable
from typing import Any

LIMIT_S = 600.0


def wait_for(happened: Callable[[], Any], process: subprocess.Popen[Any] | None = None) -> None:
    """Returns when it happened; fails when it does not, or when the process that should do it ends before."""
    end = time.monotonic() + LIMIT_S
    while not happened():
        assert process is None or process.poll() is None, f"ended by itself with {process.returncode}"
        assert time.monotonic() < end, "no progress"
        time.sleep(0.005)
