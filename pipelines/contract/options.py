"""Values of command-line options that are checked as they are parsed, for argparse's `type=`."""

import argparse


def positive(text: str) -> int:
    """A whole number of at least 1.

    >>> positive("8")
    8
    """
    return _whole(text, 1, None)


def not_negative(text: str) -> int:
    """A whole number of at least 0."""
    return _whole(text, 0, None)


def port(text: str) -> int:
    """A TCP port; 0 lets the system choose a free one."""
    return _whole(text, 0, 65535)


def _whole(text: str, least: int, most: int | None) -> int:
    expected = f"expected a whole number of at least {least}" + (f" and at most {most}" if most is not None else "")
    try:
        value = int(text.replace("_", ""))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{expected}, found {text!r}") from None
    if value < least or (most is not None and value > most):
        raise argparse.ArgumentTypeError(f"{expected}, found {text}")
    return value
