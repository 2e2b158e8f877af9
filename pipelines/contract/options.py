"""How commands and the values of their options are declared, for argparse."""

import argparse
from typing import Any


def add_command(commands: Any, name: str, about: str, epilog: str, description: str = "") -> argparse.ArgumentParser:
    """Adds a command to the subparsers `commands`: no abbreviations, and an epilog with examples as it is written.

    about: its line in the list of commands. description: of its own help; `about` as a sentence by default.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=about,
        description=description or about[0].upper() + about[1:] + ".",
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


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
