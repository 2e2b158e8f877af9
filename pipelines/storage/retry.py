"""Reads that fail for a moment, of networks and their disks: tried again after growing pauses, then failed by name."""

import errno
import re
import time
from collections.abc import Callable
from typing import TypeVar

from pipelines.contract.errors import FailedWork

Result = TypeVar("Result")
PAUSES_S = (0.5, 2.0, 8.0)
_FOR_A_MOMENT = frozenset(
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


def transient_cause(error: BaseException | None) -> OSError | None:
    """Returns what is behind an error if it may pass by itself, and None where the bytes themselves are wrong.

    Libraries that read files tell the number in the text: HDF5 says `errno = 5`.
    """
    while error is not None:
        if isinstance(error, OSError):
            told = re.search(r"errno = (\d+)", str(error))
            number = int(told[1]) if told else error.errno
            if number in _FOR_A_MOMENT or isinstance(error, (ConnectionError, TimeoutError)) or _is_of_a_store(error):
                return error
        error = error.__cause__
    return None


def _is_of_a_store(error: OSError) -> bool:
    """Beam's file systems have one error for everything; what is missing or forbidden stays so."""
    final = r"40[0134]|not found|no such|forbidden|denied|permission|credential"
    return type(error).__name__ == "BeamIOError" and not re.search(final, str(error), re.IGNORECASE)
