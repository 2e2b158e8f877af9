"""The difference between two mixtures as an HTML page."""

from html import escape

from mixtures.reports.compare import MixtureComparison, comparison_cells
from pipelines.pages.charts import bars
from pipelines.pages.page import page, table

MOST_BARS = 40


def compare_page(comparison: MixtureComparison, draws: int | None) -> str:
    """The page of a comparison: what moved, group by group, and every difference in words."""
    title = f"From {comparison.old} to {comparison.new}"
    if not comparison.differences:
        return page(title, [f"<h1>{escape(title)}</h1><p>Both draw the same samples.</p>"])
    shown = comparison.groups[:MOST_BARS]
    chart = bars(
        [change.name for change in shown],
        {"before": [100 * c.old_share for c in shown], "after": [100 * c.new_share for c in shown]},
        unit=" %",
    )
    words = "".join(f"<p>{escape(sentence)}</p>" for sentence in comparison.differences)
    header, rows = comparison_cells(comparison, draws)
    return page(
        title,
        [
            f"<h1>{escape(title)}</h1>",
            f"<p>{100 * comparison.moved_share:.2f} % of all draws go to other groups than before.</p>",
            f"<h2>Shares of draws, largest changes first</h2>{chart}",
            f"<h2>Groups</h2>{table(header, rows)}",
            f"<h2>Everything that differs</h2>{words}",
        ],
    )
