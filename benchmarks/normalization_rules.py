"""The rule of scales beside openpi's and LeRobot's: python -m benchmarks.normalization_rules DATASET...

Per dataset and rule: the largest normalized action; the part of all squared actions that slots take which move in less
than 1 % of the steps; and how much two glitches (one value a turn away, twice) change the scale of the slots that move.
The public rules are written from their definitions: openpi (x - q01) / (q99 - q01 + 1e-6) * 2 - 1 and
(x - mean) / (std + 1e-6); LeRobot the same with 1e-8, where a range of 0 becomes 1e-8.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.shards.dataset import Dataset
from pipelines.shards.scales import affine_of
from pipelines.shards.sidecar import read_sidecar
from pipelines.shards.statistics import quantities_of
from pipelines.shards.summaries import summarize_slot

Floats = NDArray[np.float64]
# Center and half range of one slot's values, by what the slot holds.
Scale = Callable[[Floats, str], tuple[float, float]]
GLITCH = 2 * np.pi
RARE = 0.01


def quantile(eps: float, replaces: bool) -> Scale:
    """The 1st to the 99th percentile as -1 to 1; eps is added to the range, or replaces a range of 0."""

    def scale(values: Floats, quantity: str) -> tuple[float, float]:
        low, high = np.quantile(values, (0.01, 0.99))
        width = (high - low or eps) if replaces else high - low + eps
        return low + width / 2, width / 2

    return scale


def deviation(eps: float) -> Scale:
    """Mean 0 and deviation 1."""
    return lambda values, quantity: (float(values.mean()), float(values.std()) + eps)


def ours(rule: str) -> Scale:
    """A rule of `pipelines.shards.scales`, quantile map."""

    def scale(values: Floats, quantity: str) -> tuple[float, float]:
        found = affine_of([summarize_slot(values.astype(np.float32))], [quantity], "quantile", rule)  # type: ignore[arg-type]
        return float(found.center[0]), float(found.half_range[0])

    return scale


RULES: dict[str, Scale] = {
    "openpi quantile": quantile(1e-6, replaces=False),
    "openpi mean/std": deviation(1e-6),
    "LeRobot quantiles": quantile(1e-8, replaces=True),
    "LeRobot mean/std": deviation(1e-8),
    "span/v1": ours("span/v1"),
    "tails/v2": ours("tails/v2"),
}


def read_actions(folder: Path) -> list[tuple[Floats, list[str]]]:
    """By norm key the used slots' physical actions [t, d], and what they hold."""
    dataset = Dataset.open(folder)
    columns = ("norm_key", "parts", "action", "action_mask")
    rows = [
        row
        for files in dataset.splits.values()
        for one in files
        for row in read_sidecar(one.sidecar, columns).select(columns).to_pylist()
    ]
    found = []
    for key in sorted({row["norm_key"] for row in rows}):
        mine = [row for row in rows if row["norm_key"] == key]
        mask = np.any([row["action_mask"] for row in mine], axis=0)
        values = np.concatenate([np.array(row["action"], np.float64).reshape(-1, 18) for row in mine])
        held = quantities_of(key, json.loads(mine[0]["parts"]), "action")
        found.append((values[:, mask], [held.get(slot, "") for slot in np.flatnonzero(mask).tolist()]))
    return found


def measure(values: Floats, quantities: Sequence[str], scale: Scale) -> tuple[float, float, float]:
    """The largest normalized value, the rare slots' part of all squares, the largest change of a scale by glitches."""
    maps = [scale(column, quantity) for column, quantity in zip(values.T, quantities, strict=True)]
    normalized = np.stack([(column - c) / h for column, (c, h) in zip(values.T, maps, strict=True)])
    usual = np.median(values, axis=0)
    is_rare = (np.abs(values - usual) > 1e-6).mean(axis=0) < RARE
    squares = (normalized**2).sum(axis=1)
    changes = [1.0]
    for column, quantity, (_, before) in zip(values.T, quantities, maps, strict=True):
        if np.quantile(column, 0.99) - np.quantile(column, 0.01) > 0.05 and quantity != "gripper":
            spoiled = np.concatenate([column, [GLITCH, -GLITCH]])
            changes.append(scale(spoiled, quantity)[1] / before)
    return float(np.abs(normalized).max()), float(squares[is_rare].sum() / squares.sum()), max(changes)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", type=Path, nargs="+", metavar="DATASET", help="<root>/<name>/<version>")
    arguments = parser.parse_args()
    print("| dataset | rule | largest action | rare slots, part of squares | scale after two glitches |")
    print("|---|---|---|---|---|")
    for folder in arguments.datasets:
        for values, quantities in read_actions(folder):
            for name, scale in RULES.items():
                largest, rare, change = measure(values, quantities, scale)
                what = f"{folder.parent.name}, {len(values):,} steps"
                print(f"| {what} | {name} | {largest:,.3g} | {rare:.0%} | x {change:.2f} |")


if __name__ == "__main__":
    main()
