"""The plan as an HTML page: what looks wrong, every group with its explanation and samples, and what they hold."""

import shlex
from collections.abc import Mapping
from html import escape

import numpy as np
from numpy.typing import NDArray

from mixtures.groups.shares import Branch, Leaf, resolve_shares, with_alpha
from mixtures.mixture import Mixture
from mixtures.reports.plan import (
    DATASET_HEADER,
    HEADER,
    POOL_HEADER,
    MixturePlan,
    dataset_rows,
    explain_share,
    flag_column,
    flag_sentences,
    hours_of,
    parts_in_words,
    pool_rows,
    row,
)
from mixtures.reports.preview import first_draws, sample_section
from mixtures.stores.arrow import is_remote
from pipelines.contract.errors import UsageError
from pipelines.contract.words import counted
from pipelines.pages.charts import COLOURS, bars, histogram, legend, lines, sparkline
from pipelines.pages.page import InteractiveRow, cell, folded, interactive_table, page, table, verdict

MOST_BARS = 400
MOST_SENTENCES = 6
MOST_LINES = 8
MOST_GROUPS = 24
SAMPLED_STEPS = 2000
ALPHAS = np.linspace(0, 1, 41)


def plan_page(plan: MixturePlan, mixture: Mixture | None, n_samples: int = 1) -> str:
    """The page of a plan. mixture: the opened mixture, None for a plan from published sizes.

    n_samples: real samples to show of every group; none where a dataset is remote, since each takes a download.
    """
    samples = {} if mixture is None else _samples(mixture, n_samples)
    sections = [_head(plan), _verdict(plan), _groups(plan, samples), _tree(plan), _datasets(plan), _pools(plan)]
    sections.append(_shares(plan))
    if plan.draws is not None:
        sections.append(_epochs(plan))
    sections.append(_sweep(plan))
    if mixture is not None:
        sections += [_coverage(plan), _labels(plan), _lengths(mixture), _slots(plan, mixture)]
    return page(f"Plan of {plan.name}", sections)


def _head(plan: MixturePlan) -> str:
    steps = sum(group.n_steps for group in plan.groups)
    drawn = "" if plan.draws is None else f", {counted(plan.draws, 'draw')}"
    source = "From published sizes and statistics, without filters and held-out episodes." if plan.is_published else ""
    stage = f", stage {plan.stage}" if plan.stage else ""
    return (
        f"<h1>{escape(plan.name)}{stage}</h1><p class='muted'>{counted(plan.groups, 'group')}, "
        f"{counted(steps, 'step')}, {hours_of(plan.groups)} h, seed {plan.seed}{drawn}. {escape(plan.path)}. "
        f"{source}</p>"
    )


def _verdict(plan: MixturePlan) -> str:
    """Which groups are wrong and why; what could not be checked stands there, too."""
    wrong = [group for group in plan.groups if plan.flags(group)]
    sentences = flag_sentences(plan)
    if not sentences:
        answer = "Nothing looks wrong." if not plan.unchecked else "Nothing looks wrong in what could be checked."
        return verdict("flag" if plan.unchecked else "good", answer, *plan.unchecked)
    groups = (
        f"{len(wrong)} of {counted(plan.groups, 'group looks', 'groups look')} wrong"
        if wrong
        else "No single group looks wrong"
    )
    more = f", and {counted(plan.findings, 'finding')} on the whole" if plan.findings else ""
    hidden = sentences[MOST_SENTENCES:]
    rest = "".join(f"<p>{escape(sentence)}</p>" for sentence in hidden)
    return verdict("bad", f"{groups}{more}.", *sentences[:MOST_SENTENCES], *plan.unchecked) + (
        folded(f"{len(hidden)} more", rest) if hidden else ""
    )


def _groups(plan: MixturePlan, samples: Mapping[str, str]) -> str:
    """Every group: wrong cells are red, a click opens how its share was computed and what a sample looks like."""
    rows = []
    for group in plan.groups:
        flags = plan.flags(group)
        wrong = {flag_column(flag) for flag in flags}
        cells = [
            cell(text, "wrong" if name in wrong else "") for name, text in zip(HEADER, row(plan, group), strict=True)
        ]
        why = "".join(f"<p class='bad'>{escape(flag)}</p>" for flag in flags)
        explained = escape("\n".join(explain_share(group, plan.draws)))
        command = escape(f"embodimix browse {shlex.quote(plan.path)}")
        look = "" if plan.is_published else f"<p class='muted'>Its episodes: <code>{command}</code></p>"
        more = f"{why}<pre>{explained}</pre>{samples.get(group.name, '')}{look}"
        rows.append(InteractiveRow(cells=cells, more=more, is_wrong=bool(flags)))
    return f"<h2>Groups</h2>{interactive_table(HEADER, rows, 'groups')}"


def _samples(mixture: Mixture, n_samples: int) -> dict[str, str]:
    if not n_samples or any(is_remote(table.path) for table in mixture.tables):
        return {}
    return {
        group.name: "".join(sample_section(batch, i, mixture) for i in range(len(batch.step)))
        for group, batch in first_draws(mixture, n_samples)
    }


def _tree(plan: MixturePlan) -> str:
    """The tree of shares: what each node of the spec gets of all draws, down to its groups."""
    final = {group.name: group.probability for group in plan.groups}
    return f"<h2>Tree of shares</h2>{_branch(plan.tree, final, 0)}"


def _branch(branch: Branch, final: Mapping[str, float], depth: int) -> str:
    items = []
    for child in sorted(branch.children, key=lambda child: -_part(child, final)):
        part = _part(child, final)
        bar = f'<span class="node"><i style="width:{100 * part:.2f}%;background:{COLOURS[0]}"></i></span>'
        said = f"{bar} <b>{100 * part:.2f} %</b> {escape(child.name)}"
        if isinstance(child, Leaf):
            items.append(f"<li>{said}</li>")
            continue
        fixed = " <span class='muted'>fixed in the spec</span>" if child.share is not None else ""
        inside = _branch(child, final, depth + 1)
        items.append(
            f"<li><details{' open' if depth == 0 else ''}><summary>{said}{fixed}</summary>{inside}</details></li>"
        )
    return f'<ul class="tree">{"".join(items)}</ul>'


def _part(node: Branch | Leaf, final: Mapping[str, float]) -> float:
    return final[node.name] if isinstance(node, Leaf) else sum(final[leaf.name] for leaf in node.leaves())


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
    return f"<h2>Effective epochs in {counted(plan.draws, 'draw')}{_of(len(names), plan)}</h2>{chart}"


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
    caption = f"{legend(names)}<br>The grey line is this mixture's alpha, {plan.tree.alpha:g}."
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
    return "" if shown == len(plan.groups) else f" ({shown} of {counted(plan.groups, 'group')})"
