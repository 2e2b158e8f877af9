"""Small charts whose values show on hovering and by the arrow keys; no drawing library needed."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Okabe and Ito, "Color Universal Design" (2008), without their black and their yellow, which is lost on white.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#7a6a00", "#808080")
# Seen on white and on black alike.
_GRID, _MARK = "#9ca3af55", "#9ca3af"
# Axes on which only whole numbers mean something.
_COUNTS = frozenset({"step", "steps", "actions", "requests", "count"})


def bars(labels: Sequence[str], series: Mapping[str, Sequence[float]], unit: str = "", digits: int = 2) -> str:
    """Horizontal bars, one of each series for every label, as a table that reads without its bars, too."""
    high = max((value for values in series.values() for value in values), default=0) or 1.0
    rows = []
    for i, label in enumerate(labels):
        drawn = "".join(
            f'<div class="bar"><i style="width:{78 * max(values[i], 0) / high:.2f}%;background:{COLOURS[j]}"></i>'
            f'<span title="{escape(label)}, {escape(name)}">{values[i]:.{digits}f}{escape(unit)}</span></div>'
            for j, (name, values) in enumerate(series.items())
        )
        rows.append(f'<tr><th scope="row">{escape(label)}</th><td>{drawn}</td></tr>')
    head = legend(list(series)) if len(series) > 1 else ""
    return f'<p>{head}</p><table class="bars"><tbody>{"".join(rows)}</tbody></table>'


def lines(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]],
    x_label: str,
    y_label: str,
    width: int = 480,
    height: int = 260,
    dashed: Sequence[str] = (),
    mark: float | None = None,
    y_range: tuple[float, float] | None = None,
    dots: Mapping[str, float] | None = None,
) -> str:
    """Lines over one pair of axes, not drawn where y is NaN. mark: an x to draw a vertical line at.

    dashed: names of series to dash, in the colours of the others, in order. y_range: the ends of the axis, by default
    those of the values; what lies beyond is drawn at them. dots: a value of some series, marked at the axis.
    """
    xs = np.concatenate([np.asarray(x, float) for x, _ in series.values()])
    ys = np.concatenate([np.asarray(y, float) for _, y in series.values()])
    frame = _Frame(width, height, (xs.min(), xs.max()), y_range or (np.nanmin(ys), np.nanmax(ys)))
    parts = [frame.axes(x_label, y_label)]
    if mark is not None:
        at = frame.x(mark)
        parts.append(f'<line x1="{at}" x2="{at}" y1="{frame.top}" y2="{frame.bottom}" stroke="{_MARK}"/>')
    solid = [name for name in series if name not in dashed]
    for name, (across, up) in series.items():
        place = dashed.index(name) if name in dashed else solid.index(name)
        low, high = frame.ys
        points = " ".join(f"{frame.x(a)},{frame.y(min(max(b, low), high))}" for a, b in _points(across, up) if b == b)
        dash = ' stroke-dasharray="4 3"' if name in dashed else ""
        colour = COLOURS[place % len(COLOURS)]
        line = f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"{dash}'
        parts.append(f"{line} {_values(name, across, up)}><title>{escape(name)}</title></polyline>")
        if " " not in points and points:
            # A line of one point would not be seen.
            left, top = points.split(",")
            parts.append(f'<circle r="2.5" fill="{colour}" cx="{left}" cy="{top}"/>')
        if dots and name in dots:
            y = frame.y(min(max(dots[name], low), high))
            parts.append(f'<circle r="3.5" fill="{colour}" cx="{frame.left}" cy="{y}"/>')
    ends = f'data-x="{escape(x_label)}" data-axis="{frame.left} {frame.right} {frame.xs[0]:.9g} {frame.xs[1]:.9g}"'
    return _telling(width, height, parts, f"{y_label} by {x_label}: {', '.join(series)}", ends)


def histogram(values: ArrayLike, label: str, width: int = 380, height: int = 190, bins: int = 30) -> str:
    """How many of the values fall into each of equal ranges."""
    counts, edges = np.histogram(np.asarray(values, float), bins)
    frame = _Frame(width, height, (edges[0], edges[-1]), (0, max(counts.max(), 1)))
    parts = [frame.axes(label, "count")]
    for count, a, b in zip(counts, edges[:-1], edges[1:], strict=True):
        x, y = frame.x(a), frame.y(count)
        size = f'width="{max(frame.x(b) - x - 1, 1):.1f}" height="{frame.bottom - y:.1f}"'
        said = f'data-say="{a:.3g} to {b:.3g}: {count}"'
        parts.append(f'<rect x="{x}" y="{y}" {size} fill="{COLOURS[0]}" {said}/>')
    return _telling(width, height, parts, f"histogram of {label}")


def sparkline(values: ArrayLike, width: int = 66, height: int = 26, bins: int = 22) -> str:
    """A histogram without axes."""
    counts, _ = np.histogram(np.asarray(values, float), bins)
    step, high = width / bins, max(counts.max(), 1)
    parts = [
        f'<rect x="{i * step:.1f}" y="{height * (1 - c / high):.1f}" width="{step - 0.4:.1f}" '
        f'height="{height * c / high:.1f}" fill="{COLOURS[0]}"/>'
        for i, c in enumerate(counts)
    ]
    return svg(width, height, parts, "histogram")


def outlines(
    title: str,
    edges: NDArray[np.floating],
    layers: Sequence[tuple[NDArray[np.integer], bool]],
    width: int = 200,
    height: int = 92,
) -> str:
    """Histograms over the same edges [k + 1], each scaled to its own highest bin; filled, or as an outline.

    layers: counts [k] and whether they are filled; the n-th has the n-th colour.
    """
    top, bottom = 16, height - 14
    step = width / (len(edges) - 1)
    parts = [f'<text x="0" y="10">{escape(title)}</text>']
    for (counts, is_filled), colour in zip(layers, COLOURS, strict=False):
        tops = bottom - (bottom - top) * counts / max(int(counts.max()), 1)
        points = [f"{(i + side) * step:.1f},{y:.1f}" for i, y in enumerate(tops) for side in (0, 1)]
        path = " ".join([f"0,{bottom}", *points, f"{width},{bottom}"])
        style = f'fill="{colour}" fill-opacity="0.35"' if is_filled else f'fill="none" stroke="{colour}"'
        parts.append(f'<polyline points="{path}" {style}/>')
    parts.append(f'<text x="0" y="{height - 2}">{edges[0]:.3g}</text>')
    parts.append(f'<text x="{width}" y="{height - 2}" text-anchor="end">{edges[-1]:.3g}</text>')
    return svg(width, height, parts, f"{title}, {edges[0]:.3g} to {edges[-1]:.3g}")


def intervals(rows: Sequence[tuple[str, float, float, float]], low: float = 0.0, high: float = 1.0) -> str:
    """Values with their intervals, a row each: name, value, lower and upper end; nan draws nothing."""
    width, left, step = 760, 200, 20
    frame = _Frame(width, 34 + len(rows) * step + 10, (low, high), (0, 1), left=left)
    parts = [frame.grid()]
    for i, (name, value, lower, upper) in enumerate(rows):
        y = 20 + i * step
        parts.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{escape(_short(name))}</text>')
        if value == value:
            said = f'data-say="{escape(name)}: {value:.3f} ({lower:.3f} to {upper:.3f})"'
            parts.append(f'<circle cx="{frame.x(value)}" cy="{y}" r="4" fill="{COLOURS[0]}" {said}/>')
        if lower == lower and upper == upper:
            ends = f'x1="{frame.x(lower)}" x2="{frame.x(upper)}" y1="{y}" y2="{y}"'
            parts.append(f'<line {ends} stroke="{COLOURS[0]}" stroke-width="6" stroke-opacity="0.35"/>')
    label = f"intervals of {', '.join(name for name, *_ in rows)}"
    return _telling(width, frame.bottom + 34, parts, label, 'data-rows="yes"')


def _telling(width: float, height: float, parts: Sequence[str], label: str, attributes: str = "") -> str:
    """A chart whose values show at the pointer and by the arrow keys; it stays legible in a narrow window."""
    # No narrower than that, for its letters; beyond, the chart scrolls by itself.
    least = f'style="min-width:{min(width, 420):.0f}px;max-width:{width:.0f}px"'
    drawn = svg(width, height, [*parts, '<line class="at"/>'], label, f"{least} {attributes}")
    return f'<div class="chart" tabindex="0" role="group" aria-label="chart: {escape(label)}">{drawn}</div>'


def svg(width: float, height: float, parts: Sequence[str], label: str, attributes: str = "") -> str:
    """The element around the parts of a chart. label: what it shows, for those who do not see it."""
    named = f'role="img" aria-label="{escape(label)}" {attributes}'.strip()
    return f'<svg {named} width="{width}" height="{height}" viewBox="0 0 {width} {height}">{"".join(parts)}</svg>'


def legend(names: Sequence[str]) -> str:
    """The names of a chart's series beside their colours, as HTML."""
    return " ".join(
        f'<span class="legend"><span class="swatch" style="background:{COLOURS[i % len(COLOURS)]}"></span>'
        f"{escape(name)}</span>"
        for i, name in enumerate(names)
    )


class _Frame:
    """Axes of a chart: data to pixels, ticks."""

    def __init__(
        self, width: int, height: int, xs: tuple[float, float], ys: tuple[float, float], left: int = 64
    ) -> None:
        self.left, self.right, self.top, self.bottom = left, width - 12, 10, height - 34
        self.xs, self.ys = _widened(xs), _widened(ys)

    def x(self, value: float) -> float:
        return round(self.left + (value - self.xs[0]) / (self.xs[1] - self.xs[0]) * (self.right - self.left), 1)

    def y(self, value: float) -> float:
        return round(self.bottom - (value - self.ys[0]) / (self.ys[1] - self.ys[0]) * (self.bottom - self.top), 1)

    def grid(self) -> str:
        """Upright lines at round numbers of x, which stand below them."""
        parts = []
        for value, text in _ticks(*self.xs):
            x = self.x(value)
            parts.append(f'<line x1="{x}" x2="{x}" y1="{self.top}" y2="{self.bottom}" stroke="{_GRID}"/>')
            parts.append(f'<text x="{x}" y="{self.bottom + 14}" text-anchor="middle">{text}</text>')
        return "".join(parts)

    def axes(self, x_label: str, y_label: str) -> str:
        parts = []
        for value, text in _ticks(*self.ys, y_label):
            y = self.y(value)
            parts.append(f'<line x1="{self.left}" x2="{self.right}" y1="{y}" y2="{y}" stroke="{_GRID}"/>')
            parts.append(f'<text x="{self.left - 5}" y="{y + 4}" text-anchor="end">{text}</text>')
        for value, text in _ticks(*self.xs, x_label):
            place = f'x="{self.x(value)}" y="{self.bottom + 14}" text-anchor="middle"'
            parts.append(f"<text {place}>{text}</text>")
        middle = (self.left + self.right) / 2
        parts.append(f'<text x="{middle}" y="{self.bottom + 29}" text-anchor="middle">{escape(x_label)}</text>')
        turned = f"rotate(-90 11 {(self.top + self.bottom) / 2})"
        place = f'x="11" y="{(self.top + self.bottom) / 2}" text-anchor="middle" transform="{turned}"'
        return "".join([*parts, f"<text {place}>{escape(y_label)}</text>"])


def _points(x: ArrayLike, y: ArrayLike) -> Iterator[tuple[float, float]]:
    return zip(np.asarray(x, float).tolist(), np.asarray(y, float).tolist(), strict=True)


def _values(name: str, x: ArrayLike, y: ArrayLike) -> str:
    """What a line says of itself at each of its points; nothing where y is NaN."""
    there = [point for point in _points(x, y) if point[1] == point[1]]
    xs, ys = (" ".join(f"{point[axis]:.5g}" for point in there) for axis in (0, 1))
    return f'data-name="{escape(name)}" data-x="{xs}" data-y="{ys}"'


def _widened(ends: tuple[float, float]) -> tuple[float, float]:
    low, high = float(ends[0]), float(ends[1])
    beside = 0.5 * abs(low) or 0.5
    return (low, high) if high - low > 1e-9 else (low - beside, high + beside)


def _ticks(low: float, high: float, label: str = "") -> list[tuple[float, str]]:
    """Three to seven round numbers from low to high, each with its text: as short as it can be and still its own.

    Between counts, such as steps, there is nothing: label, of the axis, says whether these are counts.

    >>> _ticks(21.18, 21.22)
    [(21.18, '21.18'), (21.19, '21.19'), (21.2, '21.2'), (21.21, '21.21'), (21.22, '21.22')]
    """
    rough = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    step = max(step, 1.0) if label in _COUNTS else step
    first = math.ceil(low / step - 1e-9)
    values = [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]
    for digits in range(3, 10):
        texts = [f"{value:.{digits}g}" for value in values]
        if len(set(texts)) == len(texts):
            break
    return [(round(value, 12), text) for value, text in zip(values, texts, strict=True)]


def _short(label: str, most: int = 38) -> str:
    return label if len(label) <= most else label[: most // 2 - 1] + "…" + label[-(most // 2) :]
