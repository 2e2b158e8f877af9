"""The errors that the embodimix command reports without a traceback."""

import difflib
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class EmbodimixError(Exception):
    """Base of errors with a message for the person at the keyboard: expected, found, what to do."""

    exit_code = 1


class UsageError(EmbodimixError):
    """The command, a spec or an option is wrong; nothing was written. Exit code 2."""

    exit_code = 2


class FailedWork(EmbodimixError):
    """Work was tried and failed, or a check has findings. Exit code 1."""


class MissingPath(FailedWork):
    """What a person named a path for is not there. Exit code 2."""

    exit_code = 2


# More names than fit on a few lines tell nobody which one was meant.
_MOST_NAMES = 12


def draft_advice(source: str = "INPUT") -> str:
    """What to do where no entry, robot or format of an input is known, as a sentence."""
    command = f"embodimix inspect {shlex.quote(source)} --draft my.yaml"
    return f"To see what is there, and to draft an entry of your own: {command}"


@contextmanager
def advising(source: str) -> Iterator[None]:
    """Adds what to do to the error of a reader that finds no file of its format."""
    try:
        yield
    except UsageError as error:
        if not str(error).endswith("found none"):
            raise
        raise UsageError(f"{error}. {draft_advice(source)}") from error


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
    if len(names) > _MOST_NAMES:
        return f"None of {len(names)} known names is near."
    return "Known: " + ", ".join(names) + "."


def describe_missing(path: Path) -> str:
    """Says which part of a path that is not there is missing, and which names beside it are nearest."""
    there = next(parent for parent in path.absolute().parents if parent.is_dir())
    missing = path.absolute().relative_to(there).parts[0]
    beside = [item.name for item in there.iterdir() if not item.name.startswith(".")] or ["nothing"]
    return f"{there} has no {missing!r}. {nearest(missing, beside)}"
