"""The plan as an HTML page: its table, flags, shares, epochs, the sweep over alpha, and what the groups hold."""

from html import escape

import numpy as np
from numpy.typing import NDArray

from mixtures.groups.shares import resolve_shares, with_alpha
from mixtures.mixture import Mixture
from mixtures.reports.plan import (
    DATASET_HEADER,
    HEADER,
    NO_DRAWS,
    POOL_HEADER,
    MixturePlan,
    dataset_rows,
    flag_sentences,
    parts_in_words,
    pool_rows,
    row,
)
from pipelines.contract.errors import UsageError
from pipelines.pages.charts import bars, histogram, legend, lines, sparkline
from pipelines.pages.page import page, table

MOST_BARS = 40
MOST_LINES = 8
MOST_GROUPS = 24
SAMPLED_STEPS = 2000
ALPHAS = np.linspace(0, 1, 41)


def plan_page(plan: MixturePlan, mixture: Mixture | None) -> str:
    """The page of a plan. mixture: the opened mixture, None for a plan from published sizes."""
    sections = [_head(plan), table(HEADER, [row(plan, group) for group in plan.groups]), _flags(plan)]
    sections += [_datasets(plan), _pools(plan), _shares(plan)]
    if plan.draws is not None:
        sections.append(_epochs(plan))
    sections.append(_sweep(plan))
    if mixture is not None:
        sections += [_coverage(plan), _labels(plan), _lengths(mixture), _slots(plan, mixture)]
    return page(f"Plan of {plan.name}", sections)


def _head(plan: MixturePlan) -> str:
    steps = sum(group.n_steps for group in plan.groups)
    hours = sum(group.hours for group in plan.groups)
    drawn = "" if plan.draws is None else f", {plan.draws:,} draws"
    source = "From published sizes and statistics, without filters and held-out episodes." if plan.is_published else ""
    stage = f", stage {plan.stage}" if plan.stage else ""
    return (
        f"<h1>{escape(plan.name)}{stage}</h1><p class='muted'>{len(plan.groups)} groups, {steps:,} steps, "
        f"{hours:,.1f} h, seed {plan.seed}{drawn}. {escape(plan.path)}. {source}</p>"
    )


def _flags(plan: MixturePlan) -> str:
    items = "".join(f"<p class='flag'>{escape(sentence)}</p>" for sentence in flag_sentences(plan))
    if plan.draws is None:
        items += f"<p class='muted'>{escape(NO_DRAWS)}</p>"
    return f"<h2>Flags</h2>{items or '<p>Nothing looks wrong.</p>'}"


def _datasets(plan: MixturePlan) -> str:
    return f"<h2>Shares by dataset</h2>{table(DATASET_HEADER, dataset_rows(plan))}"


def _pools(plan: MixturePlan) -> str:
    return f"<h2>Pools of statistics</h2>{table(POOL_HEADER, pool_rows(plan))}" if plan.pools else ""


def _shares(plan: MixturePlan) -> str:
    groups = sorted(plan.groups, key=lambda group: -group.probability)[:MOST_BARS]
    chart = bars(
        [group.name for group in groups],
        {"part of steps": [100 * g.raw_share for g in groups], "share of draws": [100 * g.probability for g in groups]},
        unit=" %",
    )
    return f"<h2>Shares{_of(len(groups), plan)}</h2>{chart}"


def _epochs(plan: MixturePlan) -> str:
    assert plan.draws is not None
    epochs = {group.name: group.effective_epochs(plan.draws) for group in plan.groups}
    names = sorted(epochs, key=lambda name: -epochs[name])[:MOST_BARS]
    chart = bars(names, {"epochs": [epochs[name] for name in names]}, digits=3)
    return f"<h2>Effective epochs in {plan.draws:,} draws{_of(len(names), plan)}</h2>{chart}"


def _sweep(plan: MixturePlan) -> str:
    """Shares under other alphas, for the groups that gain or hold the most."""
    shares = np.array([_final(plan, alpha) for alpha in ALPHAS])
    largest = np.argsort(-shares.max(axis=0))[:MOST_LINES]
    names = [plan.groups[i].name for i in largest]
    chart = lines(
        {name: (ALPHAS, 100 * shares[:, i]) for name, i in zip(names, largest, strict=True)},
        "alpha (0 uniform, 1 in proportion)",
        "share of draws, %",
        width=620,
        height=320,
        mark=plan.tree.alpha,
    )
    caption = f"{legend(names)}. The grey line is this mixture's alpha, {plan.tree.alpha:g}."
    return f"<h2>Shares by alpha</h2><figure>{chart}<figcaption>{caption}</figcaption></figure>"


def _final(plan: MixturePlan, alpha: float) -> list[float]:
    try:
        return [share.final for share in resolve_shares(with_alpha(plan.tree, alpha))]
    except UsageError:  # bounds that cannot be met at this alpha leave a gap in the lines
        return [float("nan")] * len(plan.groups)


def _coverage(plan: MixturePlan) -> str:
    groups = plan.groups[:MOST_BARS]
    spoken = {
        "language": [100 * (g.language or 0) for g in groups],
        "segments": [100 * (g.segments or 0) for g in groups],
    }
    chart = bars([group.name for group in groups], spoken, unit=" %", digits=0)
    return f"<h2>Language and segments, part of the steps{_of(len(groups), plan)}</h2>{chart}"


def _labels(plan: MixturePlan) -> str:
    """What the segments of each group are: who made them, of which kinds, how long, how many sentences."""
    header = (
        "group",
        "steps with text %",
        "sentences",
        "instructions",
        "median s",
        "kinds, % of steps",
        "by, % of steps",
    )
    rows = [
        (
            group.name,
            f"{100 * found.texts:.0f}",
            f"{found.sentences:,}",
            f"{found.instructions:,}",
            "-" if found.median_s is None else f"{found.median_s:.1f}",
            parts_in_words(found.kinds),
            parts_in_words(found.sources),
        )
        for group, found in ((group, group.labels) for group in plan.groups)
        if found is not None
    ]
    return f"<h2>Segments and their sentences</h2>{table(header, rows)}"


def _lengths(mixture: Mixture) -> str:
    index = mixture.splits["train"]
    steps, seconds = [], []
    for number, source in enumerate(mixture.tables):
        rows = index.row[index.table == number]
        steps.append(source.n_steps_of[rows])
        seconds.append(source.n_steps_of[rows] / source.control_hz[rows])
    charts = histogram(np.concatenate(steps), "steps") + histogram(np.concatenate(seconds), "seconds")
    return f"<h2>Episode lengths</h2><div class='row'>{charts}</div>"


def _slots(plan: MixturePlan, mixture: Mixture) -> str:
    """Histograms of the physical actions of each group, slot by slot, over some of its steps."""
    order = sorted(range(len(plan.groups)), key=lambda i: -plan.groups[i].probability)[:MOST_GROUPS]
    parts = []
    for i in order:
        group = plan.groups[i]
        action = _sampled_actions(mixture, i)
        cells = "".join(
            f"<figure>{sparkline(action[:, slot])}<figcaption>{slot}: {action[:, slot].min():.2g} .. "
            f"{action[:, slot].max():.2g}</figcaption></figure>"
            for slot in group.slots
        )
        parts.append(f"<p>{escape(group.name)}</p><div class='row'>{cells}</div>")
    about = f"physical units, {SAMPLED_STEPS:,} steps of each group at most"
    return f"<h2>Actions by slot{_of(len(order), plan)}</h2><p class='muted'>{about}</p>{''.join(parts)}"


def _sampled_actions(mixture: Mixture, group: int) -> NDArray[np.float32]:
    index = mixture.splits["train"]
    size = int(index.sizes[group])
    chosen = np.linspace(0, size - 1, min(size, SAMPLED_STEPS)).astype(np.int64)
    episode, step = index.locate(np.full(len(chosen), group), chosen)
    action = np.empty((len(chosen), mixture.tables[0].action.shape[1]), np.float32)
    for number in np.unique(index.table[episode]):
        mine, source = index.table[episode] == number, mixture.tables[number]
        action[mine] = source.action[source.first_step[index.row[episode[mine]]] + step[mine]]
    return action


def _of(shown: int, plan: MixturePlan) -> str:
    return "" if shown == len(plan.groups) else f" ({shown} of {len(plan.groups)} groups)"
