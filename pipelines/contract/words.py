"""Numbers of things in a sentence."""

from collections.abc import Sized


def counted(n: int | Sized, one: str, many: str = "") -> str:
    """A count and its noun, with what agrees with it. n: a number, or what is counted. many: if not `one` and an s.

    >>> counted(1, "episode"), counted(2048, "step"), counted([], "episode has", "episodes have")
    ('1 episode', '2,048 steps', '0 episodes have')
    """
    count = n if isinstance(n, int) else len(n)
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def lasting(seconds: float) -> str:
    """A time in the unit in which it is a number that one can picture.

    >>> lasting(24), lasting(600), lasting(400_000)
    ('24 seconds', '10 minutes', '111 hours')
    """
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} seconds"
