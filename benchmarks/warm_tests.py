"""A process that has imported third-party packages once, and forks a child for each run of pytest.

Most of a short test run is the import of JAX, Arrow and their like; of our own code it imports nothing, so that every
child reads the files as they are then. It answers each line of JSON on its standard input with a line on its output:

    {"tests": ["tests/model/test_flow.py"], "timeout_s": 60}  ->  {"status": 0}

`status` is pytest's exit status, or null where the tests took longer: seconds of the child's processor time, so that
a busy machine judges as an idle one does, or six times as many on the clock, for tests that wait for ever.
"""

import contextlib
import importlib
import json
import os
import resource
import select
import signal
import sys
from collections.abc import Sequence

# Neither Beam nor TensorFlow: they start threads, after which a fork is unsafe and local conversions behave otherwise.
PRELOADED = (
    *("av", "flax", "flax.linen", "h5py", "hypothesis", "jax", "jax.numpy", "matplotlib.figure", "numpy", "optax"),
    *("orbax.checkpoint", "PIL.Image", "pyarrow.dataset", "pyarrow.parquet", "pytest", "scipy.spatial.transform"),
    *("selenium.webdriver", "simplejpeg", "starlette.testclient", "tensorboardX", "websockets", "yaml", "zarr"),
)
# A changed bound of a loop may ask for all memory there is.
_MOST_MEMORY = 12 << 30
_WAIT = 6


def run_forked(tests: Sequence[str], timeout_s: float) -> int | None:
    """The exit status of pytest on `tests` in a child of this process; None where it took longer than `timeout_s`."""
    if (child := os.fork()) == 0:
        _become_pytest(tests, timeout_s)
    handle = os.pidfd_open(child)
    try:
        finished = bool(select.select([handle], [], [], _WAIT * timeout_s)[0])
    finally:
        os.close(handle)
    # Also after success: servers and workers that a test left behind must not outlive its checkout's contents.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status if finished and status != -signal.SIGXCPU else None


def _become_pytest(tests: Sequence[str], timeout_s: float) -> None:
    status = 1
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_DATA, (_MOST_MEMORY, _MOST_MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (int(timeout_s), int(timeout_s) + 5))
        silence = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(silence, descriptor)
        import pytest

        status = int(pytest.main(["-x", "-q", "--no-header", "-p", "no:cacheprovider", *tests]))
    finally:
        os._exit(status)


def main() -> int:
    """Serves until standard input ends."""
    for name in PRELOADED:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps({"status": run_forked(request["tests"], request["timeout_s"])}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
