"""Progress of long work on standard error: a bar in a terminal, else a line every ten seconds; nothing when quiet."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

LINE_EVERY_S = 10.0
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {unit}s [{elapsed}<{remaining}{postfix}]"
_LINE = "{desc}: {n_fmt} of {total_fmt} {unit}s, {percentage:.0f} %, {elapsed} so far, {remaining} left{postfix}"
_COUNT = "{desc}: {n_fmt} {unit}s, {elapsed} so far{postfix}"
Item = TypeVar("Item")
_quiet = False


def set_quiet(quiet: bool) -> None:
    """Whether this process shows no progress at all (`-q`)."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Whether `-q` was given."""
    return _quiet


def phase(sentence: str) -> None:
    """Says which part of the work begins, for parts that have no count."""
    if not _quiet:
        print(sentence, file=sys.stderr, flush=True)


def progress_bar(total: int | None, unit: str, what: str, *, shown: bool = True, initial: int = 0) -> "tqdm[Any]":
    """A bar of `total` units, None unknown; `update(n)` as tqdm's. what: stands before it.

    Where standard error is no terminal, each report is a line of its own: logs of a cluster keep no carriage returns.
    """
    if _quiet or not shown:
        return tqdm(total=total, initial=initial, disable=True)
    options: dict[str, Any] = {"total": total, "initial": initial, "unit": unit, "desc": what}
    if sys.stderr.isatty():
        form = _COUNT if total is None else _BAR
        return tqdm(**options, file=sys.stderr, dynamic_ncols=True, bar_format=form)
    form = _COUNT if total is None else _LINE
    lines: Any = _Lines(sys.stderr)
    return tqdm(**options, file=lines, bar_format=form, mininterval=LINE_EVERY_S, maxinterval=LINE_EVERY_S, miniters=1)


def with_progress(items: Iterable[Item], total: int, unit: str, what: str, *, shown: bool = True) -> Iterator[Item]:
    """The items, with a bar that counts them."""
    with progress_bar(total, unit, what, shown=shown) as bar:
        for item in items:
            yield item
            bar.update()


class _Lines:
    """A text file to which each of tqdm's redrawings is a line."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._last = file, ""

    def write(self, text: str) -> None:
        line = text.strip("\r\n ")
        if line and line != self._last:  # tqdm draws the end twice
            self._file.write(f"{line}\n")
            self._last = line

    def flush(self) -> None:
        self._file.flush()
