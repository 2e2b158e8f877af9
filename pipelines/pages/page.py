"""The frame of every page: its style, headings, tables and pictures, all inside one HTML file.

Light and dark follow the reader's system; in a narrow window wide tables scroll by themselves; print is light.
Colours of charts are Okabe and Ito's, which colour-blind readers can distinguish.
"""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import Literal

_FOLDER = Path(__file__).parent


@cache
def palette() -> str:
    """The colours of every page, as CSS."""
    return (_FOLDER / "palette.css").read_text()


@cache
def _style() -> str:
    return palette() + (_FOLDER / "page.css").read_text()


@cache
def _script() -> str:
    return (_FOLDER / "page.js").read_text()


def page(title: str, sections: Sequence[str], head: str = "") -> str:
    """A whole HTML page that needs no other file. title: plain text; sections: markup. head: more of the head."""
    body = "\n".join(sections)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{head}<title>{escape(title)}</title>'
        f"<style>{_style()}</style></head>\n<body>\n<main>\n{body}\n</main>\n<script>{_script()}</script>\n</body></html>\n"
    )


def verdict(kind: Literal["good", "flag", "bad"], answer: str, *more: str) -> str:
    """The answer to what a page's reader asks, before everything else. answer, more: plain text."""
    rest = "".join(f"<p>{escape(sentence)}</p>" for sentence in more if sentence)
    return f'<div class="verdict {kind}"><p>{escape(answer)}</p>{rest}</div>'


def links(targets: Sequence[tuple[str, str]]) -> str:
    """Links to other pages: what they hold, and the path from this page; "" without any."""
    items = "".join(f'<li><a href="{escape(path)}">{escape(text)}</a></li>' for text, path in targets)
    return f'<ul class="links">{items}</ul>' if items else ""


def folded(summary: str, markup: str, *, is_open: bool = False) -> str:
    """Markup that opens on demand. summary: plain text."""
    return f"<details{' open' if is_open else ''}><summary>{escape(summary)}</summary>{markup}</details>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain text; a cell that holds a number stands to the right."""
    return table_of_cells(header, [[cell(text) for text in row] for row in rows])


def table_of_cells(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are markup already (see `cell`); the header is plain text.

    One that holds sentences is shown in a narrow window as a card for each row.
    """
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in header)
    holds_sentences = any('words">' in markup.partition(">")[0] + ">" for row in rows for markup in row)
    body = "\n".join(f"<tr>{_labelled(header, row) if holds_sentences else ''.join(row)}</tr>" for row in rows)
    kind = ' class="folds"' if holds_sentences else ""
    return scrolled(f"<table{kind}><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>", "table")


def _labelled(header: Sequence[str], cells: Sequence[str]) -> str:
    """Cells that say which column they are of, as a narrow window shows them."""
    named = zip(header, cells, strict=True)
    return "".join(f'<td data-label="{escape(name)}"{markup.removeprefix("<td")}' for name, markup in named)


@dataclass(frozen=True, kw_only=True)
class InteractiveRow:
    """A row that can be sorted and filtered. cells: markup, see `cell`. more: what a click on it opens, markup."""

    cells: Sequence[str]
    more: str = ""
    is_wrong: bool = False


def interactive_table(header: Sequence[str], rows: Sequence[InteractiveRow], what: str) -> str:
    """A table that sorts by its header and filters by words. what: its rows, such as `groups`.

    A narrow window shows each row as a card, on which a cell is called by its column.
    """
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in header)
    body = []
    for row in rows:
        kinds = "row-of wrong" if row.is_wrong else "row-of"
        body.append(f'<tr class="{kinds}">{_labelled(header, row.cells)}</tr>')
        if row.more:
            body.append(f'<tr class="more"><td colspan="{len(header)}">{row.more}</td></tr>')
    lines = "\n".join(body)
    kind = f'class="folds interactive" data-filter="{escape(what)}"'
    return scrolled(f"<table {kind}><thead><tr>{head}</tr></thead>\n<tbody>{lines}</tbody></table>", what)


def scrolled(markup: str, what: str) -> str:
    """Markup that scrolls by itself in a narrow window, by keys where it has the focus. what: it is, in a word."""
    return f'<div class="wide" tabindex="0" role="group" aria-label="{escape(what)}">{markup}</div>'


def cell(text: str, kind: str = "") -> str:
    """One cell of plain text. kind: classes of the style, such as `best` or `bad`.

    Numbers, names and sentences get theirs by themselves: a narrow window breaks no sentence after every word.

    >>> cell("1,024"), cell("bridge"), cell("0.5 %", "bad")
    ('<td class="number">1,024</td>', '<td>bridge</td>', '<td class="bad number">0.5 %</td>')
    >>> cell("fold the shirt@arx"), cell("one picture for 3 s while the robot moves")
    ('<td class="name">fold the shirt@arx</td>', '<td class="words">one picture for 3 s while the robot moves</td>')
    """
    is_number = re.fullmatch(r"[-+]?[\d,.]+(e[-+]?\d+)?( ?(%|ms|s|h|Hz|MB|GB))?", text) is not None
    by_length = "words" if len(text) > 32 else "name" if len(text) > 12 else ""
    classes = " ".join(filter(None, (kind, "number" if is_number else by_length)))
    return f'<td class="{classes}">{escape(text)}</td>' if classes else f"<td>{escape(text)}</td>"


def image(data: bytes, alt: str, *, kind: str = "png", width: int | None = None) -> str:
    """A picture inside the page. alt: what it shows, in words. kind: png or jpeg. width: in pixels."""
    size = f' width="{width}"' if width else ""
    return f'<img{size} alt="{escape(alt)}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def figure(markup: str, caption: str) -> str:
    """Markup with a caption of plain text below it."""
    return f"<figure>{markup}<figcaption>{escape(caption)}</figcaption></figure>"
