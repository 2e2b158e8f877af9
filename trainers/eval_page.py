"""The evaluation as one HTML page: errors beside baselines, error by step of the chunk, pictures of chunks."""

import base64
import html
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipelines.files import write_atomically
from trainers.plots import STYLES

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
        "<h2>Error by step of the chunk</h2>", _image(_by_step(groups), "error by step of the chunk"),
    ]  # fmt: skip
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
    columns = min(len(groups), 4)
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.4 * rows), layout="constrained")
    for axes, group in zip(figure.subplots(rows, columns, squeeze=False).flat, groups, strict=False):
        for name in PREDICTORS:
            errors = group["normalized_error_by_step"][name]
            known = [(step, error) for step, error in enumerate(errors) if error is not None]
            axes.plot(*zip(*known, strict=True), label=name.replace("_", " "), **STYLES[name])
        axes.set_title(group["name"], fontsize=7)
        axes.tick_params(labelsize=6)
        axes.set_ylim(bottom=0)
    figure.axes[0].legend(fontsize=6)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _image(png: bytes, text: str) -> str:
    return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
