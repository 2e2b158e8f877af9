"""How often and how long object stores are waited for."""

import time
from collections.abc import Callable
from typing import TypeVar

from pipelines.contract.errors import FailedWork

Result = TypeVar("Result")
ATTEMPTS = 5
FIRST_DELAY_S = 0.2
ANSWER_S = 20.0


def delay_s(attempts: int) -> float:
    """How long to wait after so many failed attempts."""
    return FIRST_DELAY_S * 2 ** (attempts - 1)


def with_store_retries(read: Callable[[], Result], what: str) -> Result:
    """Runs a read again, after growing delays, while the store fails; then raises FailedWork that names it."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return read()
        except (FileNotFoundError, PermissionError) as error:
            raise FailedWork(f"{what}: expected an object that may be read, found: {error}") from error
        except OSError as error:
            if attempt == ATTEMPTS:
                raise FailedWork(f"{what}: the store failed {ATTEMPTS} times, last with: {error}") from error
            time.sleep(delay_s(attempt))
    raise AssertionError("the loop returns or raises")
