"""Retries of reads that fail temporarily (networks and their disks), after growing pauses; then an error by name.

Two policies, for two kinds of reader. Files of a source are read by a worker that holds nothing else up, so pauses are
long enough for a file server to come back (10 s in all). Ranges of object stores are read by the hundred beside a
running training, and stores throttle single requests briefly: five attempts within 3 s.
"""

import errno
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from pipelines.contract.errors import FailedWork
from pipelines.contract.native import UNREADABLE, Rejected
from pipelines.contract.reject_reasons import RejectReason

Result = TypeVar("Result")
PAUSES_S = (0.5, 2.0, 8.0)
STORE_ATTEMPTS = 5
STORE_FIRST_PAUSE_S = 0.2
# How long a store may take to answer one request.
STORE_ANSWER_S = 20.0
_TEMPORARY = frozenset(
    {
        errno.EIO,
        errno.EAGAIN,
        errno.EBUSY,
        errno.ETIMEDOUT,
        errno.ESTALE,
        errno.EREMOTEIO,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENETRESET,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EPIPE,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
    }
)


def with_retries(work: Callable[[], Result], what: str) -> Result:
    """Returns what `work` does, which may be repeated. Raises FailedWork that names `what` when it keeps failing."""
    for pause_s in PAUSES_S:
        try:
            return work()
        except OSError as error:
            if transient_cause(error) is None:
                raise
            time.sleep(pause_s)
    try:
        return work()
    except OSError as error:
        if transient_cause(error) is None:
            raise
        raise FailedWork(f"{what}: failed {len(PAUSES_S) + 1} times, the last time with: {error}") from error


def store_pause_s(attempts: int) -> float:
    """How long to wait before an object store is asked again, after so many failed attempts.

    >>> [store_pause_s(n) for n in (1, 2, 3, 4)]
    [0.2, 0.4, 0.8, 1.6]
    """
    return STORE_FIRST_PAUSE_S * 2.0 ** (attempts - 1)


def with_store_retries(read: Callable[[], Result], what: str) -> Result:
    """Runs a read of an object store again while the store fails; then raises FailedWork that names it.

    What is missing or forbidden stays so, and fails at once.
    """
    for attempt in range(1, STORE_ATTEMPTS + 1):
        try:
            return read()
        except (FileNotFoundError, PermissionError) as error:
            raise FailedWork(f"{what}: expected an object that may be read, found: {error}") from error
        except OSError as error:
            if attempt == STORE_ATTEMPTS:
                raise FailedWork(f"{what}: the store failed {STORE_ATTEMPTS} times, last with: {error}") from error
            time.sleep(store_pause_s(attempt))
    raise AssertionError("the loop returns or raises")


def transient_cause(error: BaseException | None) -> OSError | None:
    """Returns what is behind an error if it may be temporary, and None where the bytes themselves are wrong.

    Libraries that read files put the number into the text: HDF5 says `errno = 5`.
    """
    while error is not None:
        if isinstance(error, OSError):
            stated = re.search(r"errno = (\d+)", str(error))
            number = int(stated[1]) if stated else error.errno
            if number in _TEMPORARY or isinstance(error, (ConnectionError, TimeoutError)) or _is_of_a_store(error):
                return error
        error = error.__cause__
    return None


def _is_of_a_store(error: OSError) -> bool:
    """Beam's file systems have one error for everything; what is missing or forbidden stays so."""
    final = r"40[0134]|not found|no such|forbidden|denied|permission|credential"
    return type(error).__name__ == "BeamIOError" and not re.search(final, str(error), re.IGNORECASE)


@contextmanager
def faults_named(where: object, reason: RejectReason) -> Iterator[None]:
    """Raises Rejected with this reason for whatever a library raises on the bytes of one input, so that it alone is
    left out. Faults that have a name already pass; what may be temporary, named or not, is raised as it came."""
    try:
        yield
    except (Rejected, *UNREADABLE) as error:
        if passing := transient_cause(error):
            raise passing from error
        if isinstance(error, Rejected):
            raise
        raise Rejected(reason, f"{where}: {type(error).__name__}: {error}") from error
