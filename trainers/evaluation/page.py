"""The evaluation as one HTML page: errors beside baselines, error by step of the chunk, pictures of chunks."""

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipelines.storage.files import write_atomically
from trainers.evaluation.plots import STYLES
from trainers.evaluation.records import PREDICTORS, Errors, EvaluationReport, GroupReport, OverallErrors, SlotErrors

CSS = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse } th, td { padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child { text-align: left } .best { font-weight: 700 }
img { max-width: 100% } .soft { color: #666 }
"""


def write_page(path: Path, report: EvaluationReport) -> None:
    """Writes the page; pictures are inside it, so that the file stands alone."""
    groups = report.groups
    empty = ", ".join(html.escape(name) for name in report.without_episodes)
    body = [
        f"<h1>{html.escape(report.run)} at step {report.step}</h1>",
        f"<p>Held-out episodes of {html.escape(report.mixture)}, {report.flow_steps} flow steps. Mean absolute "
        "error of action chunks, only where the robot has the slot and the episode goes on; the lowest is bold.</p>",
        _table(groups, report.overall),
        f"<p class=soft>Without held-out episodes: {empty}</p>" if empty else "",
        "<h2>Error by step of the chunk</h2>",
        _image(_by_step(groups), "error by step of the chunk"),
        "<h2>Error by open-loop horizon</h2><p>The mean over the steps up to one: what carrying out that many actions "
        "before the next observation costs.</p>",
        _image(_by_horizon(groups), "error by open-loop horizon"),
        *_sweep(groups, report.flow_steps),
        "<h2>Error of each slot</h2>",
        *_slots(report.slots),
    ]
    for picture in sorted(Path(report.plots).glob("*.png")) if report.plots else []:
        body += [f"<h2>{html.escape(picture.stem)}</h2>", _image(picture.read_bytes(), picture.stem)]
    title = f"Evaluation of {html.escape(Path(report.run).name)}"
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{CSS}</style>"
    write_atomically(path, (head + "\n".join(body) + "</html>").encode())


def _table(groups: Sequence[GroupReport], overall: OverallErrors) -> str:
    rows = ["<tr><th>group<th>samples<th>flow loss<th>unit<th>policy<th>repeat the state<th>training mean</tr>"]
    for group in groups:
        first = (html.escape(group.name), str(group.samples), f"{group.flow_loss:.4f}")
        for unit, errors in group.rows():
            rows.append(_row(first, unit, errors))
            first = ("", "", "")
    rows.append(_row(("<b>all groups, by share</b>", "", f"{overall.flow_loss:.4f}"), "normalized", overall.errors))
    return f"<table>{''.join(rows)}</table>"


def _row(first: tuple[str, ...], unit: str, errors: Errors) -> str:
    cells = [f"<td{' class=best' if error == errors.best else ''}>{error:.4f}" for error in errors.values()]
    return "<tr>" + "".join(f"<td>{cell}" for cell in (*first, html.escape(unit))) + "".join(cells) + "</tr>"


def _by_step(groups: Sequence[GroupReport]) -> bytes:
    def draw(axes: Any, group: GroupReport) -> None:
        for name in PREDICTORS:
            _line(axes, getattr(group.normalized_error_by_step, name), label=name.replace("_", " "), **STYLES[name])

    return _panels(groups, draw)


def _by_horizon(groups: Sequence[GroupReport]) -> bytes:
    def draw(axes: Any, group: GroupReport) -> None:
        for name in PREDICTORS:
            errors = getattr(group.normalized_error_by_horizon, name)
            _line(axes, [None, *errors], label=name.replace("_", " "), **STYLES[name])

    return _panels(groups, draw)


def _sweep(groups: Sequence[GroupReport], flow_steps: int) -> list[str]:
    """Error against the number of flow steps, if it was asked for."""
    if not groups or not groups[0].flow_sweep:
        return []

    def draw(axes: Any, group: GroupReport) -> None:
        swept = {**group.flow_sweep, flow_steps: group.normalized_error.policy}
        steps = sorted(swept)
        axes.plot(steps, [swept[step] for step in steps], marker="o", label="policy", **STYLES["policy"])
        axes.set_xscale("log")
        axes.set_xticks(steps, [str(step) for step in steps])
        axes.minorticks_off()

    text = "error by number of flow steps"
    note = "One step goes to the mean of what may come, which this error favours; more steps draw one of it."
    return [f"<h2>{text.capitalize()}</h2><p>{note}</p>", _image(_panels(groups, draw), text)]


def _slots(slots: Mapping[str, Sequence[SlotErrors]]) -> list[str]:
    """One table per norm key: each slot's error in its unit."""
    head = "<tr><th>slot<th>unit<th>policy<th>repeat the state<th>training mean<th>policy, normalized</tr>"
    tables = []
    for key, rows in slots.items():
        cells = "".join(
            _row((str(row.slot),), row.unit, row.errors).removesuffix("</tr>") + f"<td>{row.normalized:.4f}</tr>"
            for row in rows
        )
        tables.append(f"<details><summary>{html.escape(key)}</summary><table>{head}{cells}</table></details>")
    return tables


def _line(axes: Any, values: Sequence[float | None], **style: Any) -> None:
    known = [(step, value) for step, value in enumerate(values) if value is not None]
    axes.plot(*zip(*known, strict=True), **style)


def _panels(groups: Sequence[GroupReport], draw: Callable[[Any, GroupReport], None]) -> bytes:
    """One panel a group, as a picture."""
    columns = min(len(groups), 4)
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(groups) :]:
        axes.set_visible(False)
    for axes, group in zip(panels, groups, strict=False):
        draw(axes, group)
        axes.set_title(group.name, fontsize=7)
        axes.tick_params(labelsize=6)
        axes.set_ylim(bottom=0)
    figure.axes[0].legend(fontsize=6)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _image(png: bytes, text: str) -> str:
    return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
