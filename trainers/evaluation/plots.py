"""Pictures of predicted and true action chunks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from trainers.evaluation.measures import Predictions

SHOWN_SAMPLES = 4
STYLES: dict[str, dict[str, Any]] = {
    "true": {"color": "black", "linewidth": 2.0},
    "policy": {"color": "tab:red", "linewidth": 1.5},
    "repeat_state": {"color": "tab:blue", "linestyle": "dotted"},
    "mean_action": {"color": "tab:gray", "linestyle": "dashed"},
}


def plot_chunks(path: Path, title: str, predictions: Predictions) -> None:
    """Draws some samples side by side, one row per action slot, in physical units, up to the episode's end."""
    longest = np.argsort(-predictions.counts.any(axis=2).sum(axis=1), kind="stable")
    samples = longest[:SHOWN_SAMPLES].tolist()
    slots = np.flatnonzero(predictions.counts[samples].any(axis=(0, 1))).tolist()
    figure = Figure(figsize=(3.2 * len(samples), 1.3 * len(slots) + 0.8), layout="constrained")
    axes = figure.subplots(len(slots), len(samples), squeeze=False, sharex=True)
    for column, sample in enumerate(samples):
        axes[0, column].set_title(_short(predictions.names[sample]), fontsize=7)
        for row, slot in enumerate(slots):
            _draw(axes[row, column], predictions, sample, slot)
            if column == 0:
                axes[row, 0].set_ylabel(f"slot {slot}\n{predictions.units[sample, slot]}", fontsize=7)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), fontsize=7)
    figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(path)


def _draw(axes: Any, predictions: Predictions, sample: int, slot: int) -> None:
    valid = predictions.counts[sample, :, slot]
    axes.tick_params(labelsize=6)
    for name, style in STYLES.items():
        values = getattr(predictions, name)[sample, :, slot]
        axes.plot(np.flatnonzero(valid), values[valid], label=name.replace("_", " "), **style)


def _short(name: str) -> str:
    """Shortens a content hash inside a sample name to eight letters."""
    dataset, _, rest = name.partition("/")
    episode, _, step = rest.rpartition("/")
    return f"{dataset} {episode[:8]} step {step}"
