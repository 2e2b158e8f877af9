"""The evaluation as an HTML page: where a baseline is ahead, errors, error by step of the chunk, pictures."""

import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import numpy as np

from pipelines.contract.words import counted
from pipelines.pages.charts import lines
from pipelines.pages.page import cell, figure, folded, page, table_of_cells, verdict
from pipelines.storage.files import write_atomically
from trainers.evaluation.records import (
    PREDICTORS,
    ErrorCurves,
    Errors,
    EvaluationReport,
    GroupReport,
    OverallErrors,
    SlotErrors,
)

MOST_NAMED = 6
NAMES = {"policy": "policy", "repeat_state": "repeat the state", "mean_action": "training mean"}


def write_page(path: Path, report: EvaluationReport) -> None:
    """Writes the page. The pictures of chunks lie beside it and are shown from there: they are large."""
    title = f"{report.run} at step {report.step}"
    groups = sorted(report.groups, key=_gap, reverse=True)
    about = (
        f"Held-out episodes of {report.mixture}, {report.flow_steps} flow steps. Mean absolute error of action chunks, "
        "only where the robot has the slot and the episode has not ended; the lowest is bold. Groups in which a "
        "baseline is ahead come first."
    )
    empty = ", ".join(report.without_episodes)
    sections = [
        f"<h1>{escape(title)}</h1>{_verdict(groups, report)}<p>{escape(about)}</p>{_table(groups, report.overall)}",
        f'<p class="muted">Without held-out episodes: {escape(empty)}</p>' if empty else "",
        f"<h2>Error by step of the chunk</h2>{_charts(groups, 'step', 'normalized_error_by_step')}",
        "<h2>Error by open-loop horizon</h2><p>The mean over the steps up to one: what carrying out that many actions "
        f"before the next observation costs.</p>{_charts(groups, 'actions', 'normalized_error_by_horizon')}",
        _sweep(groups, report.flow_steps),
        f"<h2>Error of each slot</h2>{_slots(report.slots)}",
        *_pictures(report.plots, path.parent, [group.name for group in groups]),
    ]
    write_atomically(path, page(f"Evaluation of {Path(report.run).name}", sections).encode())


def _gap(group: GroupReport) -> float:
    """By how much the policy's normalized error exceeds the better baseline's; below 0 where the policy is ahead."""
    errors = group.normalized_error
    return errors.policy - min(errors.repeat_state, errors.mean_action)


def _verdict(groups: Sequence[GroupReport], report: EvaluationReport) -> str:
    """Whether the policy is better than the baselines, and where it is not."""
    behind = [group for group in groups if _gap(group) >= 0]
    worst = [f"{group.name}: {_gap(group):+.4f} against the better baseline" for group in behind[:MOST_NAMED]]
    if len(behind) > MOST_NAMED:
        worst.append(f"and {len(behind) - MOST_NAMED} more")
    if not behind:
        return verdict("good", f"Better than both baselines in all {counted(groups, 'group')} (normalized error).")
    kind: Literal["bad", "flag"] = "bad" if 2 * len(behind) > len(groups) else "flag"
    return verdict(
        kind, f"A baseline is ahead in {len(behind)} of {counted(groups, 'group')} (normalized error).", *worst
    )


def _table(groups: Sequence[GroupReport], overall: OverallErrors) -> str:
    rows = []
    for group in groups:
        gap = cell(f"{_gap(group):+.4f}", "wrong" if _gap(group) >= 0 else "")
        first = [cell(group.name), cell(str(group.samples)), cell(f"{group.flow_loss:.4f}"), gap]
        for unit, errors in group.rows():
            rows.append([*first, cell(unit), *_cells(errors)])
            first = [cell("")] * 4
    total = ("all groups, by share", "", f"{overall.flow_loss:.4f}", "", "normalized")
    rows.append([*(cell(text, "best") if text else cell("") for text in total), *_cells(overall.errors)])
    return table_of_cells(("group", "samples", "flow loss", "gap", "unit", *NAMES.values()), rows)


def _cells(errors: Errors) -> list[str]:
    """The errors as cells, the lowest bold."""
    return [cell(f"{error:.4f}", "best" if error == errors.best else "") for error in errors.values()]


def _charts(groups: Sequence[GroupReport], x_label: str, curves: str) -> str:
    """One chart a group: the errors of the policy and of the baselines, in units of the normalization."""
    return _row([(group.name, _chart(getattr(group, curves), x_label)) for group in groups])


def _chart(curves: ErrorCurves, x_label: str) -> str:
    def points(values: Sequence[float | None]) -> tuple[list[int], list[float]]:
        return [*range(1, len(values) + 1)], [np.nan if value is None else value for value in values]

    series = {NAMES[name]: points(getattr(curves, name)) for name in PREDICTORS}
    return lines(series, x_label, "error", width=340, height=220)


def _sweep(groups: Sequence[GroupReport], flow_steps: int) -> str:
    """Error against the number of flow steps, if it was asked for."""
    if not groups or not groups[0].flow_sweep:
        return ""
    charts = []
    for group in groups:
        swept = {**group.flow_sweep, flow_steps: group.normalized_error.policy}
        steps = sorted(swept)
        series = {"policy": (steps, [swept[step] for step in steps])}
        charts.append((group.name, lines(series, "flow steps", "error", width=340, height=220)))
    note = "One step goes to the mean of what may come, which this error favours; more steps draw one of it."
    return f"<h2>Error by number of flow steps</h2><p>{note}</p>{_row(charts)}"


def _row(charts: Sequence[tuple[str, str]]) -> str:
    return f'<div class="row">{"".join(figure(chart, name) for name, chart in charts)}</div>'


def _slots(slots: Mapping[str, Sequence[SlotErrors]]) -> str:
    """One table per norm key: each slot's error in its unit."""
    head = ("slot", "unit", *NAMES.values(), "policy, normalized")
    tables = []
    for key, rows in slots.items():
        cells = [
            [cell(str(row.slot)), cell(row.unit), *_cells(row.errors), cell(f"{row.normalized:.4f}")] for row in rows
        ]
        tables.append(f"<details><summary>{escape(key)}</summary>{table_of_cells(head, cells)}</details>")
    return "".join(tables)


def _pictures(folder: str | None, beside: Path, names: Sequence[str]) -> list[str]:
    """The pictures of predicted and true chunks, one a group, each opened and loaded on demand."""
    found = {path.stem: path for path in sorted(Path(folder).glob("*.png"))} if folder else {}
    if not found:
        return []
    places = {picture_name(name): place for place, name in enumerate(names)}
    order = sorted(found, key=lambda stem: places.get(stem, len(places)))
    shown = []
    for stem in order:
        source = quote(os.path.relpath(found[stem], beside))
        name = names[places[stem]] if stem in places else stem
        drawn = f'<img loading="lazy" alt="predicted and true chunks of {escape(name)}" src="{source}">'
        shown.append(folded(name, drawn))
    where = escape(os.path.relpath(found[order[0]].parent, beside))
    return [
        "<h2>Predicted and true chunks</h2><p class='muted'>Four samples of each group, slot by slot; the pictures lie "
        f"in {where}/ beside this page.</p>{''.join(shown)}"
    ]


def picture_name(group: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in group)
