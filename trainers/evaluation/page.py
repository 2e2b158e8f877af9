"""The evaluation as one HTML page: errors beside baselines, error by step of the chunk, pictures of chunks."""

import base64
import html
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipelines.storage.files import write_atomically
from trainers.evaluation.plots import STYLES

CSS = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse } th, td { padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child { text-align: left } .best { font-weight: 700 }
img { max-width: 100% } .soft { color: #666 }
"""
PREDICTORS = ("policy", "repeat_state", "mean_action")


def write_page(path: Path, report: Mapping[str, Any]) -> None:
    """Writes the page; pictures are inside it, so that the file stands alone."""
    groups = [group for group in report["groups"] if group["samples"]]
    empty = [html.escape(group["name"]) for group in report["groups"] if not group["samples"]]
    body = [
        f"<h1>{html.escape(str(report['run']))} at step {report['step']}</h1>",
        f"<p>Held-out episodes of {html.escape(report['mixture'])}, {report['flow_steps']} flow steps. Mean absolute "
        "error of action chunks, only where the robot has the slot and the episode goes on; the lowest is bold.</p>",
        _table(groups, report["overall"]),
        f"<p class=soft>Without held-out episodes: {', '.join(empty)}</p>" if empty else "",
        "<h2>Error by step of the chunk</h2>",
        _image(_by_step(groups), "error by step of the chunk"),
        "<h2>Error by open-loop horizon</h2><p>The mean over the steps up to one: what carrying out that many actions "
        "before the next look costs.</p>",
        _image(_by_horizon(groups), "error by open-loop horizon"),
        *_sweep(groups, report),
        "<h2>Error of each slot</h2>",
        *_slots(report["slots"]),
    ]
    for picture in sorted(Path(report["plots"]).glob("*.png")) if report["plots"] else []:
        body += [f"<h2>{html.escape(picture.stem)}</h2>", _image(picture.read_bytes(), picture.stem)]
    title = f"Evaluation of {html.escape(Path(report['run']).name)}"
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{CSS}</style>"
    write_atomically(path, (head + "\n".join(body) + "</html>").encode())


def _table(groups: list[dict[str, Any]], overall: Mapping[str, float]) -> str:
    rows = ["<tr><th>group<th>samples<th>flow loss<th>unit<th>policy<th>repeat the state<th>training mean</tr>"]
    for group in groups:
        first = (html.escape(group["name"]), str(group["samples"]), f"{group['flow_loss']:.4f}")
        for unit, errors in {**group["error"], "normalized": group["normalized_error"]}.items():
            rows.append(_row(first, unit, errors))
            first = ("", "", "")
    rows.append(_row(("<b>all groups, by share</b>", "", f"{overall['flow_loss']:.4f}"), "normalized", overall))
    return f"<table>{''.join(rows)}</table>"


def _row(first: tuple[str, ...], unit: str, errors: Mapping[str, float]) -> str:
    best = min(errors[name] for name in PREDICTORS)
    cells = [f"<td{' class=best' if errors[name] == best else ''}>{errors[name]:.4f}" for name in PREDICTORS]
    return "<tr>" + "".join(f"<td>{cell}" for cell in (*first, html.escape(unit))) + "".join(cells) + "</tr>"


def _by_step(groups: list[dict[str, Any]]) -> bytes:
    def draw(axes: Any, group: dict[str, Any]) -> None:
        for name in PREDICTORS:
            _line(axes, group["normalized_error_by_step"][name], label=name.replace("_", " "), **STYLES[name])

    return _panels(groups, draw)


def _by_horizon(groups: list[dict[str, Any]]) -> bytes:
    def draw(axes: Any, group: dict[str, Any]) -> None:
        for name in PREDICTORS:
            errors = group["normalized_error_by_horizon"][name]
            _line(axes, [None, *errors], label=name.replace("_", " "), **STYLES[name])

    return _panels(groups, draw)


def _sweep(groups: list[dict[str, Any]], report: Mapping[str, Any]) -> list[str]:
    """Error against the number of flow steps, if it was asked for."""
    if not groups or not groups[0]["flow_sweep"]:
        return []

    def draw(axes: Any, group: dict[str, Any]) -> None:
        swept = {int(steps): error for steps, error in group["flow_sweep"].items()}
        swept[report["flow_steps"]] = group["normalized_error"]["policy"]
        steps = sorted(swept)
        axes.plot(steps, [swept[step] for step in steps], marker="o", label="policy", **STYLES["policy"])
        axes.set_xscale("log")
        axes.set_xticks(steps, [str(step) for step in steps])
        axes.minorticks_off()

    text = "error by number of flow steps"
    note = "One step goes to the mean of what may come, which this error favours; more steps draw one of it."
    return [f"<h2>{text.capitalize()}</h2><p>{note}</p>", _image(_panels(groups, draw), text)]


def _slots(slots: Mapping[str, list[dict[str, Any]]]) -> list[str]:
    """One table per norm key: each slot's error in its unit."""
    head = "<tr><th>slot<th>unit<th>policy<th>repeat the state<th>training mean<th>policy, normalized</tr>"
    tables = []
    for key, rows in slots.items():
        cells = "".join(
            _row((str(row["slot"]),), row["unit"], row).removesuffix("</tr>") + f"<td>{row['normalized']:.4f}</tr>"
            for row in rows
        )
        tables.append(f"<details><summary>{html.escape(key)}</summary><table>{head}{cells}</table></details>")
    return tables


def _line(axes: Any, values: list[float | None], **style: Any) -> None:
    known = [(step, value) for step, value in enumerate(values) if value is not None]
    axes.plot(*zip(*known, strict=True), **style)


def _panels(groups: list[dict[str, Any]], draw: Callable[[Any, dict[str, Any]], None]) -> bytes:
    """One panel a group, as a picture."""
    columns = min(len(groups), 4)
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(groups) :]:
        axes.set_visible(False)
    for axes, group in zip(panels, groups, strict=False):
        draw(axes, group)
        axes.set_title(group["name"], fontsize=7)
        axes.tick_params(labelsize=6)
        axes.set_ylim(bottom=0)
    figure.axes[0].legend(fontsize=6)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _image(png: bytes, text: str) -> str:
    return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
