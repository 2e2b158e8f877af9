"""A document of headings, text, tables and pictures, written as Markdown and as one HTML page without other files."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from pipelines.shards.summaries import SlotSummary

STATE_COLOUR, ACTION_COLOUR = "#2563eb", "#f59e0b"
_BINS = 40
_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; color: #1f2937; margin: 2rem auto; max-width: 1180px; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; } p { margin: .3rem 0; white-space: pre-line; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; margin: .4rem 0; }
th { text-align: left; color: #6b7280; font-weight: 600; border-bottom: 1px solid #d1d5db; padding: 3px 9px; }
td { padding: 2px 9px; border-bottom: 1px solid #f3f4f6; vertical-align: top; } td.number { text-align: right; }
.wide { overflow-x: auto; } .row { display: flex; flex-wrap: wrap; gap: 12px; }
figure { margin: 0 0 .8rem; } figcaption { color: #6b7280; font-size: 12px; }
.frames { display: flex; gap: 4px; } .frames img { width: 150px; height: 150px; border-radius: 3px; }
svg text { font: 10px system-ui, sans-serif; fill: #6b7280; }
"""


@dataclass(frozen=True)
class Heading:
    """A section's title; level 1 is the document's."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class PageTable:
    """A table; cells are text, numbers stand to the right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """Pictures that only the HTML page shows: markup, and what it is."""

    markup: str
    caption: str


Block = Heading | Paragraph | PageTable | Figure


def to_markdown(blocks: Sequence[Block]) -> str:
    """The document without its figures."""
    return "\n\n".join(_markdown(block) for block in blocks if not isinstance(block, Figure)) + "\n"


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """The whole document as a page that needs nothing else."""
    body = "\n".join(_html(block) for block in blocks)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def frames_figure(jpegs: Sequence[bytes], caption: str) -> Figure:
    """A row of pictures."""
    images = "".join(f'<img src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">' for jpeg in jpegs)
    return Figure(f'<div class="frames">{images}</div>', caption)


def slots_figure(titles: Sequence[str], pairs: Sequence[tuple[SlotSummary, SlotSummary]], caption: str) -> Figure:
    """Small histograms, one per slot: the state filled, the action as a line."""
    plots = [_slot_plot(title, state, action) for title, (state, action) in zip(titles, pairs, strict=True)]
    return Figure(f'<div class="row">{"".join(plots)}</div>', caption)


def histogram_figure(values: Sequence[float], label: str) -> Figure:
    """One histogram of a list of numbers."""
    counts, edges = np.histogram(np.asarray(values, float), bins=30)
    return Figure(_plot(label, edges, [(counts, STATE_COLOUR, True)], width=420, height=110), "")


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return "#" * block.level + " " + block.text
    if isinstance(block, PageTable):
        lines = [block.header, ["---"] * len(block.header), *block.rows]
        return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)
    assert isinstance(block, Paragraph)
    return block.text


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{escape(block.text)}</h{block.level}>"
    if isinstance(block, PageTable):
        head = "".join(f"<th>{escape(cell)}</th>" for cell in block.header)
        rows = "\n".join("<tr>" + "".join(map(_html_cell, row)) + "</tr>" for row in block.rows)
        return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>'
    if isinstance(block, Figure):
        return f"<figure>{block.markup}<figcaption>{escape(block.caption)}</figcaption></figure>"
    return f"<p>{escape(block.text)}</p>"


def _html_cell(text: str) -> str:
    is_number = re.fullmatch(r"-?[\d,.]+(e[-+]?\d+)?%?", text) is not None
    return f'<td class="number">{escape(text)}</td>' if is_number else f"<td>{escape(text)}</td>"


def _slot_plot(title: str, state: SlotSummary, action: SlotSummary) -> str:
    seen = [summary for summary in (state, action) if summary.count]
    low, high = min(s.low for s in seen), max(s.high for s in seen)
    edges = np.linspace(low, high, _BINS + 1) if high > low else np.linspace(low - 0.5, low + 0.5, _BINS + 1)
    layers = [
        (s.histogram(edges), colour, fill)
        for s, colour, fill in ((state, STATE_COLOUR, True), (action, ACTION_COLOUR, False))
        if s.count
    ]
    return _plot(title, edges, layers)


def _plot(
    title: str,
    edges: NDArray[np.floating],
    layers: Sequence[tuple[NDArray[np.integer], str, bool]],
    width: int = 200,
    height: int = 92,
) -> str:
    """Histograms over the same edges, each scaled to its own highest bin; filled, or as an outline."""
    top, bottom = 16, height - 14
    step = width / (len(edges) - 1)
    parts = [f'<text x="0" y="10">{escape(title)}</text>']
    for counts, colour, is_filled in layers:
        tops = bottom - (bottom - top) * counts / max(int(counts.max()), 1)
        points = [f"{(i + side) * step:.1f},{y:.1f}" for i, y in enumerate(tops) for side in (0, 1)]
        path = " ".join([f"0,{bottom}", *points, f"{width},{bottom}"])
        style = f'fill="{colour}" fill-opacity="0.35"' if is_filled else f'fill="none" stroke="{colour}"'
        parts.append(f'<polyline points="{path}" {style}/>')
    parts.append(f'<text x="0" y="{height - 2}">{edges[0]:.3g}</text>')
    parts.append(f'<text x="{width}" y="{height - 2}" text-anchor="end">{edges[-1]:.3g}</text>')
    return f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}">{"".join(parts)}</svg>'
