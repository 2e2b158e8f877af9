"""What changed between two mixtures, and what it does to shares and epochs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixtures.locks import compare_locks, read_lock
from mixtures.mixture import open_mixture
from mixtures.reports.terminal import align
from mixtures.specs.grammar import Stage


@dataclass(frozen=True, kw_only=True)
class GroupChange:
    """One group before and after; a side where it does not exist has share and steps 0."""

    name: str
    old_share: float
    new_share: float
    old_steps: int
    new_steps: int

    def epochs(self, draws: int) -> tuple[float, float]:
        """How often each step is drawn in so many draws, before and after."""
        old = self.old_share * draws / self.old_steps if self.old_steps else 0.0
        return old, self.new_share * draws / self.new_steps if self.new_steps else 0.0


@dataclass(frozen=True, kw_only=True)
class MixtureComparison:
    """All groups of both mixtures, those whose share changes most first, and everything that differs in words."""

    old: str
    new: str
    groups: tuple[GroupChange, ...]
    differences: tuple[str, ...]

    @property
    def moved_share(self) -> float:
        """The part of all draws that goes to other groups than before, 0 to 1."""
        return sum(abs(change.new_share - change.old_share) for change in self.groups) / 2


def compare_mixtures(old: Mapping[str, Any], new: Mapping[str, Any], old_name: str, new_name: str) -> MixtureComparison:
    """Compares two locks."""
    before, after = ({group["name"]: group for group in lock["groups"]} for lock in (old, new))
    changes = [
        GroupChange(
            name=name,
            old_share=before.get(name, {}).get("probability", 0.0),
            new_share=after.get(name, {}).get("probability", 0.0),
            old_steps=before.get(name, {}).get("n_steps", 0),
            new_steps=after.get(name, {}).get("n_steps", 0),
        )
        for name in {**before, **after}
    ]
    changes.sort(key=lambda change: -abs(change.new_share - change.old_share))
    return MixtureComparison(
        old=old_name, new=new_name, groups=tuple(changes), differences=tuple(compare_locks(old, new))
    )


def load_lock(
    path: str, root: str | None = None, draws: int | None = None, stage: Stage | None = None
) -> dict[str, Any]:
    """The lock of a spec (*.yaml, which is opened) or of a lock file (*.json). Raises UsageError for other JSON."""
    if not path.endswith(".json"):
        return open_mixture(path, root=root, draws=draws, stage=stage).lock()
    return read_lock(Path(path))


def render(comparison: MixtureComparison, draws: int | None) -> str:
    """The comparison as text for a terminal."""
    if not comparison.differences:
        return f"{comparison.old} and {comparison.new} draw the same samples."
    header, rows = comparison_cells(comparison, draws)
    moved = f"{100 * comparison.moved_share:.2f} % of all draws go to other groups than before."
    return "\n".join([*align(header, rows), moved, *(f"- {sentence}" for sentence in comparison.differences)])


def comparison_cells(comparison: MixtureComparison, draws: int | None) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The header and the rows of a table of the groups; with epochs where the number of draws is known."""
    header: tuple[str, ...] = ("group", "share before", "share after", "change", "steps before", "steps after")
    rows: list[tuple[str, ...]] = [
        (
            change.name,
            f"{100 * change.old_share:.3f} %",
            f"{100 * change.new_share:.3f} %",
            f"{100 * (change.new_share - change.old_share):+.3f}",
            f"{change.old_steps:,}",
            f"{change.new_steps:,}",
        )
        for change in comparison.groups
    ]
    if draws is not None:
        header += ("epochs before", "epochs after")
        rows = [
            row + tuple(f"{epochs:.3g}" for epochs in change.epochs(draws))
            for row, change in zip(rows, comparison.groups, strict=True)
        ]
    return header, rows
