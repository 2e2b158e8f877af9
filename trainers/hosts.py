"""The processes of one run, one or many: joining, writing once, agreeing, and stopping after the same step."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils

from pipelines.contract.errors import FailedWork, UsageError

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def join(coordinator: str | None, process_count: int | None, process_index: int | None) -> None:
    """Joins the other processes of the run; without a coordinator, JAX asks the cluster (Slurm, TPU, Kubernetes).

    Call it before anything else touches a device. FailedWork if the others cannot be reached.
    """
    given = (coordinator, process_count, process_index)
    if any(value is not None for value in given) and None in given:
        raise UsageError("expected --coordinator HOST:PORT, --process-count and --process-index together")
    if jax.config.values["jax_platforms"] in (None, "", "cpu"):
        # Without it XLA has no way between processes of CPUs, and the first collective fails.
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(coordinator, process_count, process_index)
    except (RuntimeError, ValueError) as error:
        if coordinator is None:
            raise FailedWork(
                "--distributed: expected a cluster that says where its first process is (SLURM, TPU, GKE); found none "
                f"({error}). Start it by srun or in a JobSet, or give every process --coordinator HOST:PORT, "
                "--process-count and --process-index; on one machine, leave --distributed out"
            ) from error
        raise FailedWork(f"cannot join the other processes at {coordinator}: {error}") from error


def is_first() -> bool:
    """Whether this process writes what is written once."""
    return jax.process_index() == 0


def wait_for_all(point: str) -> None:
    """Returns when every process has come to this point."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(point)


def all_agree(holds: bool) -> bool:
    """Whether it holds in every process."""
    if jax.process_count() == 1:
        return holds
    return bool(np.all(multihost_utils.process_allgather(np.array(holds))))


@contextmanager
def stop_signals() -> Iterator[Callable[[], int]]:
    """Yields a function that returns the signal which asked this process to stop, or 0.

    SIGTERM and the first Ctrl-C are noted; a second Ctrl-C interrupts at once. Python delivers signals to the main
    thread only, so in another thread nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        # Only noted: an exception raised here could hit the middle of a write. The signal travels with the next batch
        # (`TrainBatch.stop_signal`), so that all processes leave the loop after the same step.
        received.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, note) for number in STOP_SIGNALS}
    try:
        yield lambda: received[0] if received else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
