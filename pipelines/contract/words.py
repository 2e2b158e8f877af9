"""Numbers of things in a sentence."""

from collections.abc import Sized


def counted(n: int | Sized, noun: str, many: str = "") -> str:
    """A count with its noun, which one thing has in the singular. n: a number, or what is counted. many: the plural,
    where it is not the noun with an s.

    >>> counted(1, "episode"), counted(2048, "step"), counted([], "entry", "entries")
    ('1 episode', '2,048 steps', '0 entries')
    """
    count = n if isinstance(n, int) else len(n)
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"
