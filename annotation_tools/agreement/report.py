"""The report of an agreement: the numbers as JSON, as lines for a terminal, and as one HTML page with plots."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from annotation_tools.agreement.agree import OVERLAPS, TOLERANCES_S, Agreement, IntervalEstimate, PairAgreement
from pipelines.contract.words import counted
from pipelines.pages.charts import intervals
from pipelines.pages.page import page, table


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
        lines.append(f"{pair.a} and {pair.b}, {counted(pair.n_episodes, 'episode')}")
        lines += [f"  {name:<28}{estimate}" for name, estimate in rows_of(pair)]
    lines.append(f"Krippendorff's alpha, all annotators: {agreement.alpha}")
    for drift in agreement.drifts:
        lines.append(
            f"drift of {drift.annotator}: boundary F1 {drift.f1[0]:.3f} -> {drift.f1[1]:.3f}, "
            f"offset {drift.offset_s[0]:+.3f} s -> {drift.offset_s[1]:+.3f} s"
        )
    return lines


def to_html(agreement: Agreement, shortfalls: Sequence[str], title: str) -> str:
    """One page that needs nothing else: shortfalls first, then tables and charts."""
    parts = [
        f"<h1>{escape(title)}</h1>",
        *(f'<p class="bad">{escape(line)}</p>' for line in shortfalls),
        f"<p>Krippendorff's alpha over all annotators: <b>{agreement.alpha}</b>. Brackets hold 95 % intervals from "
        "resampling episodes.</p>",
    ]
    for pair in agreement.pairs:
        names = f"{escape(pair.a)} and {escape(pair.b)}"
        rows = [(name, str(estimate)) for name, estimate in rows_of(pair)]
        parts.append(
            f"<h2>{names}, "
            f"{counted(pair.n_episodes, 'episode')}</h2>{table(('statistic', 'value'), rows)}{_chart(pair)}"
        )
    if agreement.drifts:
        header = ("annotator", "F1, earlier half", "F1, later half", "offset s, earlier", "offset s, later")
        drifts = [
            (d.annotator, f"{d.f1[0]:.3f}", f"{d.f1[1]:.3f}", f"{d.offset_s[0]:+.3f}", f"{d.offset_s[1]:+.3f}")
            for d in agreement.drifts
        ]
        parts.append(f"<h2>Drift</h2>{table(header, drifts)}")
    return page(title, parts)


def _chart(pair: PairAgreement) -> str:
    """Every statistic but the offset, which is no part of 1, with its interval."""
    rows = [(name, e.value, e.low, e.high) for name, e in rows_of(pair) if not name.startswith("boundary offset")]
    return intervals(rows, low=min([0.0, *(low for _, _, low, _ in rows if low < 0)]))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and value != value else value
