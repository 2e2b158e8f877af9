"""The threads of this process that write an output: counted, and called off when their run has failed; with the
processes that it forked.

Beam's local runner reports the first failure while other threads are still at work; whoever gets the error must find
a quiet folder.
"""

import mmap
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.contract.errors import FailedWork

_changed = threading.Condition()
_at_work: Counter[str] = Counter()
_called_off: set[str] = set()
# Memory that forked processes share: whether their launcher called its writers off.
_shared = mmap.mmap(-1, 1)
_obeys = False


@contextmanager
def at_work(output: str) -> Iterator[None]:
    """Counts a writer of `output` while the block runs. Raises FailedWork when writers were called off."""
    with _changed:
        check_wanted(output)
        _at_work[output] += 1
    try:
        yield
    finally:
        with _changed:
            _at_work[output] -= 1
            _changed.notify_all()


def check_wanted(output: str) -> None:
    """Raises FailedWork when another writer's failure has ended the run; long work asks between two episodes."""
    if output in _called_off or (_obeys and _shared[0]):
        raise FailedWork(f"{output}: this part was left undone, since another one failed")


def obey_launcher() -> None:
    """From now on, writers of this process are called off with those of the process that forked it."""
    global _obeys
    _obeys = True


def call_in(output: str) -> None:
    """Lets writers of `output` begin, whatever an earlier run in this process came to."""
    with _changed:
        _called_off.discard(output)
        _shared[0] = False


def call_off(output: str, timeout_s: float) -> bool:
    """Has the writers of `output` end at their next episode and waits for them; says whether all have ended."""
    with _changed:
        _called_off.add(output)
        _shared[0] = True
        return _changed.wait_for(lambda: not _at_work[output], timeout_s)
