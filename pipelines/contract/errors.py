"""The errors that the embodimix command reports without a traceback."""

import difflib
from collections.abc import Iterable


class EmbodimixError(Exception):
    """Base of errors with a message for the person at the keyboard: expected, found, what to do."""

    exit_code = 1


class UsageError(EmbodimixError):
    """The command, a spec or an option is wrong; nothing was written. Exit code 2."""

    exit_code = 2


class FailedWork(EmbodimixError):
    """Work was tried and failed, or a check has findings. Exit code 1."""


class MissingPath(FailedWork):
    """There is nothing at a path that a person named. Exit code 2."""

    exit_code = 2


def nearest(name: str, known: Iterable[str]) -> str:
    """Names the known spellings nearest to `name`, as the end of an error sentence.

    >>> nearest("fraka", ["franka", "ur5e"])
    "Did you mean 'franka'?"
    >>> nearest("zzz", ["franka", "ur5e"])
    'Known: franka, ur5e.'
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return "Did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "Known: " + ", ".join(names) + "."
