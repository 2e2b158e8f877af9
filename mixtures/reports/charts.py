"""Small SVG charts and the HTML page around them; no drawing library needed."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import ArrayLike

COLOURS = ("#2563eb", "#f59e0b", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#be185d", "#65a30d")
STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; color: #1f2937; margin: 2rem auto; max-width: 1180px; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p { margin: .3rem 0; } .muted { color: #6b7280; } .flag { color: #b45309; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
th { text-align: right; color: #6b7280; font-weight: 600; border-bottom: 1px solid #d1d5db; padding: 3px 8px; }
td { text-align: right; padding: 2px 8px; border-bottom: 1px solid #f3f4f6; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 14rem; }
.wide { overflow-x: auto; } .row { display: flex; flex-wrap: wrap; gap: 18px; align-items: flex-start; }
.sample { margin: .3rem 0 1.4rem; }
figure { margin: 0; } figcaption { color: #6b7280; font-size: 12px; max-width: 480px; }
svg text { font: 11px system-ui, sans-serif; fill: #374151; } img { display: block; border-radius: 3px; }
"""


def page(title: str, sections: Sequence[str]) -> str:
    """A whole HTML page that needs nothing else."""
    body = "\n".join(sections)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table; the first column to the left."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def bars(labels: Sequence[str], series: Mapping[str, Sequence[float]], unit: str = "", digits: int = 2) -> str:
    """Horizontal bars, one of each series for every label."""
    width, left, thick = 760, 250, 11
    high = max((value for values in series.values() for value in values), default=0) or 1.0
    step = thick * len(series) + 7
    parts = [_legend(list(series), left)] if len(series) > 1 else []
    for i, label in enumerate(labels):
        top = 22 + i * step
        middle = top + thick * len(series) / 2 + 4
        parts.append(f'<text x="{left - 6}" y="{middle}" text-anchor="end">{escape(_short(label))}</text>')
        for j, values in enumerate(series.values()):
            length = (width - left - 90) * values[i] / high
            y = top + j * thick
            parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{thick - 1}" fill="{COLOURS[j]}"/>')
            parts.append(f'<text x="{left + length + 4:.1f}" y="{y + 9}">{values[i]:.{digits}f}{escape(unit)}</text>')
    return _svg(width, 30 + len(labels) * step, parts)


def lines(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]],
    x_label: str,
    y_label: str,
    width: int = 480,
    height: int = 260,
    dashed: Sequence[str] = (),
    mark: float | None = None,
) -> str:
    """Lines over one pair of axes, not drawn where y is NaN. mark: an x to draw a vertical line at.

    dashed: names of series to dash, in the colours of the others, in order.
    """
    xs = np.concatenate([np.asarray(x, float) for x, _ in series.values()])
    ys = np.concatenate([np.asarray(y, float) for _, y in series.values()])
    frame = _Frame(width, height, (xs.min(), xs.max()), (np.nanmin(ys), np.nanmax(ys)))
    parts = [frame.axes(x_label, y_label)]
    if mark is not None:
        at = frame.x(mark)
        parts.append(f'<line x1="{at}" x2="{at}" y1="{frame.top}" y2="{frame.bottom}" stroke="#9ca3af"/>')
    solid = [name for name in series if name not in dashed]
    for name, (across, up) in series.items():
        place = dashed.index(name) if name in dashed else solid.index(name)
        points = " ".join(f"{frame.x(a)},{frame.y(b)}" for a, b in _points(across, up) if b == b)
        dash = ' stroke-dasharray="4 3"' if name in dashed else ""
        colour = COLOURS[place % len(COLOURS)]
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"{dash}/>')
    return _svg(width, height, parts)


def histogram(values: ArrayLike, label: str, width: int = 380, height: int = 190, bins: int = 30) -> str:
    """How many of the values fall into each of equal ranges."""
    counts, edges = np.histogram(np.asarray(values, float), bins)
    frame = _Frame(width, height, (edges[0], edges[-1]), (0, max(counts.max(), 1)))
    parts = [frame.axes(label, "count")]
    for count, a, b in zip(counts, edges[:-1], edges[1:], strict=True):
        x, y = frame.x(a), frame.y(count)
        size = f'width="{max(frame.x(b) - x - 1, 1):.1f}" height="{frame.bottom - y:.1f}"'
        parts.append(f'<rect x="{x}" y="{y}" {size} fill="{COLOURS[0]}"/>')
    return _svg(width, height, parts)


def sparkline(values: ArrayLike, width: int = 66, height: int = 26, bins: int = 22) -> str:
    """A histogram without axes."""
    counts, _ = np.histogram(np.asarray(values, float), bins)
    step, high = width / bins, max(counts.max(), 1)
    parts = [
        f'<rect x="{i * step:.1f}" y="{height * (1 - c / high):.1f}" width="{step - 0.4:.1f}" '
        f'height="{height * c / high:.1f}" fill="{COLOURS[0]}"/>'
        for i, c in enumerate(counts)
    ]
    return _svg(width, height, parts)


def legend(names: Sequence[str]) -> str:
    """The names of a chart's series beside their colours, as HTML."""
    return " ".join(
        f'<span style="white-space:nowrap"><span style="color:{COLOURS[i % len(COLOURS)]}">&#9632;</span> '
        f"{escape(name)}</span>"
        for i, name in enumerate(names)
    )


class _Frame:
    """Axes of a chart: data to pixels, ticks."""

    def __init__(self, width: int, height: int, xs: tuple[float, float], ys: tuple[float, float]) -> None:
        self.left, self.right, self.top, self.bottom = 64, width - 12, 10, height - 34
        self.xs, self.ys = _widened(xs), _widened(ys)

    def x(self, value: float) -> float:
        return round(self.left + (value - self.xs[0]) / (self.xs[1] - self.xs[0]) * (self.right - self.left), 1)

    def y(self, value: float) -> float:
        return round(self.bottom - (value - self.ys[0]) / (self.ys[1] - self.ys[0]) * (self.bottom - self.top), 1)

    def axes(self, x_label: str, y_label: str) -> str:
        parts = []
        for value in _ticks(*self.ys):
            y = self.y(value)
            parts.append(f'<line x1="{self.left}" x2="{self.right}" y1="{y}" y2="{y}" stroke="#e5e7eb"/>')
            parts.append(f'<text x="{self.left - 5}" y="{y + 4}" text-anchor="end">{value:.3g}</text>')
        for value in _ticks(*self.xs):
            place = f'x="{self.x(value)}" y="{self.bottom + 14}" text-anchor="middle"'
            parts.append(f"<text {place}>{value:.3g}</text>")
        middle = (self.left + self.right) / 2
        parts.append(f'<text x="{middle}" y="{self.bottom + 29}" text-anchor="middle">{escape(x_label)}</text>')
        turned = f"rotate(-90 11 {(self.top + self.bottom) / 2})"
        place = f'x="11" y="{(self.top + self.bottom) / 2}" text-anchor="middle" transform="{turned}"'
        return "".join([*parts, f"<text {place}>{escape(y_label)}</text>"])


def _points(x: ArrayLike, y: ArrayLike) -> Iterator[tuple[float, float]]:
    return zip(np.asarray(x, float).tolist(), np.asarray(y, float).tolist(), strict=True)


def _widened(ends: tuple[float, float]) -> tuple[float, float]:
    low, high = float(ends[0]), float(ends[1])
    return (low, high) if high - low > 1e-9 else (low - 0.5, high + 0.5)


def _ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers from low to high."""
    rough = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _legend(names: Sequence[str], left: float) -> str:
    parts = []
    for i, name in enumerate(names):
        x = left + i * 130
        parts.append(f'<rect x="{x}" y="4" width="10" height="10" fill="{COLOURS[i]}"/>')
        parts.append(f'<text x="{x + 14}" y="13">{escape(name)}</text>')
    return "".join(parts)


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    return f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}">{"".join(parts)}</svg>'


def _short(label: str, most: int = 38) -> str:
    return label if len(label) <= most else label[: most // 2 - 1] + "…" + label[-(most // 2) :]
