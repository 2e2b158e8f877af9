"""Truth values as foreign files write them: booleans, numbers and words; one parser for every reader."""

import math
import numbers
from collections.abc import Iterable
from typing import Any

from pipelines.contract.native import Rejected

_YES = frozenset({"true", "t", "yes", "y", "1", "1.0", "success", "successful", "succeeded"})
_NO = frozenset({"false", "f", "no", "n", "0", "0.0", "failure", "failed", "fail"})
_UNKNOWN = frozenset({"", "none", "null", "nan", "unknown", "-1"})


def parse_flag(value: Any) -> int:
    """Returns 1 for yes, 0 for no, -1 where the source does not know (None, NaN, an empty text, -1).

    Arrays and lists of one value count as that value. Raises Rejected (`foreign_flag`) for any other form: a word or
    number that is read in the wrong sense turns failures into successes, and nothing shows it later.

    >>> [parse_flag(x) for x in (True, "false", b"1", 0.0, float("nan"), None)]
    [1, 0, 1, 0, -1, -1]
    """
    value = _single(value)
    if value is None:
        return -1
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, numbers.Real):
        return _parse_number(float(value))
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if isinstance(value, str):
        return _parse_word(value)
    raise _foreign(value)


def _single(value: Any) -> Any:
    """The one value of an array or a list; numpy's scalars as Python's."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    while isinstance(value, Iterable) and not isinstance(value, (str, bytes, dict)):
        values = list(value)
        if len(values) != 1:
            raise _foreign(value)
        value = values[0]
    return value


def _parse_number(value: float) -> int:
    if math.isnan(value) or value == -1:
        return -1
    if value not in (0.0, 1.0):
        raise _foreign(value)
    return int(value)


def _parse_word(text: str) -> int:
    word = text.strip().lower()
    for words, flag in ((_YES, 1), (_NO, 0), (_UNKNOWN, -1)):
        if word in words:
            return flag
    raise _foreign(text)


def _foreign(value: Any) -> Rejected:
    return Rejected("foreign_flag", f"expected a truth value such as true, 0 or 'yes', found {str(value)[:80]!r}")
