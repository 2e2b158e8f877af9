"""The difference between two mixtures as an HTML page."""

from html import escape

from mixtures.reports.compare import GroupChange, MixtureComparison, comparison_cells
from pipelines.contract.words import counted
from pipelines.pages.charts import bars
from pipelines.pages.page import InteractiveRow, cell, folded, interactive_table, page, table, verdict

MOST_BARS = 40
MOST_SENTENCES = 12
# Less than this of all draws is rounding.
SAME_SHARE = 1e-9


def compare_page(comparison: MixtureComparison, draws: int | None) -> str:
    """The page of a comparison: what moved in words and group by group; what is the same is folded."""
    title = f"From {comparison.old} to {comparison.new}"
    if not comparison.differences:
        return page(title, [f"<h1>{escape(title)}</h1>", verdict("good", "Both draw the same samples.")])
    header, cells = comparison_cells(comparison, draws)
    rows = list(zip(comparison.groups, cells, strict=True))
    moved = [(change, row) for change, row in rows if not _is_same(change)]
    same = [row for change, row in rows if _is_same(change)]
    chart = bars(
        [change.name for change, _ in moved[:MOST_BARS]],
        {
            "before": [100 * change.old_share for change, _ in moved[:MOST_BARS]],
            "after": [100 * change.new_share for change, _ in moved[:MOST_BARS]],
        },
        unit=" %",
    )
    sentences = comparison.differences
    hidden = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences[MOST_SENTENCES:])
    changed = [InteractiveRow(cells=[cell(text) for text in row]) for _, row in moved]
    return page(
        title,
        [
            f"<h1>{escape(title)}</h1>",
            verdict(
                "flag",
                f"{100 * comparison.moved_share:.2f} % of all draws go to other groups than before; {len(moved)} of "
                f"{counted(rows, 'group')} changed.",
                *sentences[:MOST_SENTENCES],
            ),
            folded(f"{len(sentences) - MOST_SENTENCES} more differences", hidden) if hidden else "",
            f"<h2>Groups that changed</h2>{interactive_table(header, changed, 'groups')}" if moved else "",
            f"<h2>Shares of draws, largest changes first</h2>{chart}" if moved else "",
            folded(f"{counted(same, 'group')} that did not change", table(header, same)) if same else "",
        ],
    )


def _is_same(change: GroupChange) -> bool:
    return abs(change.old_share - change.new_share) < SAME_SHARE and change.old_steps == change.new_steps
