"""The report of an agreement: the numbers as JSON, as lines for a terminal, and as one HTML page with plots."""

import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from matplotlib.figure import Figure

from annotation_tools.agreement.agree import OVERLAPS, TOLERANCES_S, Agreement, IntervalEstimate, PairAgreement

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .25rem .7rem; border-bottom: 1px solid #ccc; }
th { text-align: left; } td { font-variant-numeric: tabular-nums; } .bad { color: #a40000; font-weight: 600; }
svg { max-width: 100%; height: auto; }
"""


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """The least agreement that is asked of every pair; None asks nothing. f1: of boundaries at 0.25 s."""

    f1: float | None = None
    kappa: float | None = None
    alpha: float | None = None


def find_shortfalls(agreement: Agreement, thresholds: Thresholds) -> list[str]:
    """Says which agreement lies under its threshold; one that cannot be computed does too."""
    found = []
    for pair in agreement.pairs:
        f1 = pair.boundary_f1[TOLERANCES_S[0]]
        for name, estimate, least in (("boundary F1", f1, thresholds.f1), ("kappa", pair.kappa, thresholds.kappa)):
            if least is not None and not estimate.value >= least:
                found.append(f"{pair.a} and {pair.b}: {name} {estimate.value:.3f}, expected {least} or more")
    if thresholds.alpha is not None and not agreement.alpha.value >= thresholds.alpha:
        found.append(f"Krippendorff's alpha {agreement.alpha.value:.3f}, expected {thresholds.alpha} or more")
    return found


def rows_of(pair: PairAgreement) -> list[tuple[str, IntervalEstimate]]:
    """The statistics of a pair by name, in the order of the report."""
    rows = [("boundary offset, s", pair.offset_s)]
    for tolerance in TOLERANCES_S:
        rows += [
            (f"boundary precision, {tolerance} s", pair.boundary_precision[tolerance]),
            (f"boundary recall, {tolerance} s", pair.boundary_recall[tolerance]),
            (f"boundary F1, {tolerance} s", pair.boundary_f1[tolerance]),
        ]
    rows += [("segment IoU", pair.segment_iou)]
    rows += [(f"segment F1@{round(100 * overlap)}", pair.segment_f1[overlap]) for overlap in OVERLAPS]
    return [*rows, ("label agreement", pair.label_agreement), ("Cohen's kappa", pair.kappa)]


def to_json(agreement: Agreement, shortfalls: Sequence[str]) -> dict[str, Any]:
    """The agreement as a JSON object; numbers that cannot be computed are null."""
    return {"schema": "embodimix.agreement/v1", **_plain(asdict(agreement)), "shortfalls": list(shortfalls)}


def to_lines(agreement: Agreement) -> list[str]:
    """The agreement for a terminal: value and 95 % interval."""
    lines = []
    for pair in agreement.pairs:
        lines.append(f"{pair.a} and {pair.b}, {pair.n_episodes} episodes")
        lines += [f"  {name:<28}{estimate}" for name, estimate in rows_of(pair)]
    lines.append(f"Krippendorff's alpha, all annotators: {agreement.alpha}")
    for drift in agreement.drifts:
        lines.append(
            f"drift of {drift.annotator}: boundary F1 {drift.f1[0]:.3f} -> {drift.f1[1]:.3f}, "
            f"offset {drift.offset_s[0]:+.3f} s -> {drift.offset_s[1]:+.3f} s"
        )
    return lines


def to_html(agreement: Agreement, shortfalls: Sequence[str], title: str) -> str:
    """One page that needs nothing else: tables, and plots as SVG."""
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title><style>{_STYLE}</style>",
        f"<h1>{html.escape(title)}</h1>",
        *(f"<p class=bad>{html.escape(line)}</p>" for line in shortfalls),
        f"<p>Krippendorff's alpha over all annotators: <b>{agreement.alpha}</b>. Brackets hold 95 % intervals from "
        "resampling episodes.</p>",
    ]
    for pair in agreement.pairs:
        body = "".join(f"<tr><td>{name}<td>{estimate}" for name, estimate in rows_of(pair))
        names = f"{html.escape(pair.a)} and {html.escape(pair.b)}"
        parts.append(f"<h2>{names}, {pair.n_episodes} episodes</h2><table>{body}</table>{_bars(pair)}")
    if agreement.drifts:
        body = "".join(
            f"<tr><td>{html.escape(d.annotator)}<td>{d.f1[0]:.3f}<td>{d.f1[1]:.3f}<td>{d.offset_s[0]:+.3f}"
            f"<td>{d.offset_s[1]:+.3f}"
            for d in agreement.drifts
        )
        head = "<tr><th>annotator<th>F1, earlier half<th>F1, later half<th>offset s, earlier<th>offset s, later"
        parts.append(f"<h2>Drift</h2><table>{head}{body}</table>")
    return "\n".join(parts) + "\n"


def _bars(pair: PairAgreement) -> str:
    rows = [(name, estimate) for name, estimate in rows_of(pair) if not name.startswith("boundary offset")]
    figure = Figure(figsize=(8, 0.32 * len(rows) + 0.8), layout="constrained")
    axes = figure.subplots()
    for row, (_, estimate) in enumerate(rows):
        axes.plot([estimate.low, estimate.high], [row, row], color="#2a5d9f", linewidth=6, alpha=0.35)
        axes.plot([estimate.value], [row], "o", color="#2a5d9f")
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.invert_yaxis()
    axes.set_xlim(min([0.0, *(e.low for _, e in rows if e.low < 0)]), 1.02)
    axes.grid(axis="x", alpha=0.4)
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg")
    return drawn.getvalue()[drawn.getvalue().index("<svg") :]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and value != value else value
