"""The groups of an opened mixture: what each holds, its numbers for the weights, and the index of its samples."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixtures.selection import Grouped, Selected, has_language
from mixtures.weights import Leaf, Share
from pipelines.errors import UsageError
from pipelines.slots import CAMERAS


@dataclass(frozen=True, kw_only=True)
class Group:
    """One task-robot group. n_episodes and n_steps are what training draws from, after filters, caps and holding out.

    share: its share of all draws and how it came about. raw_share: its part of all steps. hours: of recorded time.
    language: part of the steps whose episode has an instruction or task name; segments: part of the steps with a
    segment; None where unknown. cameras: part of the episodes that have each camera. slots: action slots in use.
    """

    share: Share
    raw_share: float
    n_episodes: int
    n_steps: int
    n_validation_episodes: int
    n_validation_steps: int
    hours: float
    robot: tuple[str, ...]
    control_hz: tuple[float, ...]
    norm_keys: tuple[str, ...]
    datasets: tuple[str, ...]
    language: float | None
    segments: float | None
    cameras: Mapping[str, float]
    slots: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.share.name

    @property
    def probability(self) -> float:
        return self.share.final

    def effective_epochs(self, draws: int) -> float:
        """How often each of its steps is drawn on average in so many draws of the mixture."""
        return self.probability * draws / self.n_steps


@dataclass(frozen=True, kw_only=True)
class SplitIndex:
    """The samples of one split, by group: e episodes in the order of the groups, u usable steps.

    group_edges: where each group's episodes begin, int64 [g + 1]. table, row: where an episode stands, int32 and
    int64 [e]. edges: where an episode's usable steps begin, int64 [e + 1]. steps: the step of each usable one, int32
    [u], or None where every step is usable.
    """

    group_edges: NDArray[np.int64]
    table: NDArray[np.int32]
    row: NDArray[np.int64]
    edges: NDArray[np.int64]
    steps: NDArray[np.int32] | None

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Usable steps of each group, int64 [g]."""
        return np.diff(self.edges[self.group_edges])

    def locate(self, group: NDArray[np.int64], index: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Episode (index into `row`) and step of the index-th usable step of each group; int64 [b] both."""
        usable = self.edges[self.group_edges[group]] + index
        episode = np.searchsorted(self.edges, usable, side="right") - 1
        step = usable - self.edges[episode] if self.steps is None else self.steps[usable].astype(np.int64)
        return episode, step


def leaf_of(group: Grouped, draws: int | None) -> Leaf:
    """The numbers of a group that decide its share.

    The multiplier of a group that several datasets make up is their mean by steps; of their bounds the tightest hold.
    Raises UsageError for max_epochs where the number of draws is not known.
    """
    steps = np.array([part.counts.sum() for part in group.train], np.float64)
    entries = [part.entry for part in group.train]
    multiplier = float(steps @ [entry.multiplier for entry in entries] / steps.sum())
    limits = [entry.max_epochs for entry in entries if entry.max_epochs is not None]
    if limits and draws is None:
        limited = next(entry for entry in entries if entry.max_epochs is not None)
        raise UsageError(f"{limited.mark}: max_epochs needs the number of draws; give `draws:` in the spec or --draws")
    upper = min(min(limits) * steps.sum() / draws, 1.0) if limits and draws else 1.0
    counts = {
        "steps": steps.sum(), "hours": _hours(group.train), "episodes": sum(len(part.rows) for part in group.train)
    }  # fmt: skip
    lower = max(entry.min_share for entry in entries)
    return Leaf(
        name=group.name, count=float(counts[group.node.weighting.count]), multiplier=multiplier, lower=lower,
        upper=float(upper),
    )  # fmt: skip


def summarize_group(group: Grouped, share: Share, all_steps: int) -> Group:
    """A group's numbers for people and for the stream. all_steps: training steps of the whole mixture."""
    train = group.train
    n_episodes = sum(len(part.rows) for part in train)
    n_steps = _n_steps(train)
    cameras = np.sum([part.table.camera_mask[part.rows].sum(axis=0) for part in train], axis=0)
    slots = np.any([part.table.action_mask[part.rows].any(axis=0) for part in train], axis=0)
    spoken = sum(int(part.counts[has_language(part.table)[part.rows]].sum()) for part in train)
    segmented = sum(int(part.table.n_segmented[part.rows].sum()) for part in train)
    recorded = sum(int(part.table.n_steps_of[part.rows].sum()) for part in train)
    return Group(
        share=share, raw_share=n_steps / all_steps, n_episodes=n_episodes, n_steps=n_steps,
        n_validation_episodes=sum(len(part.rows) for part in group.validation),
        n_validation_steps=_n_steps(group.validation), hours=_hours(train), robot=_values(train, "robot"),
        control_hz=tuple(sorted({float(hz) for part in train for hz in np.unique(part.table.control_hz[part.rows])})),
        norm_keys=_values(train, "norm_key"),
        datasets=tuple(dict.fromkeys(f"{part.table.name}/{part.table.version}" for part in train)),
        language=spoken / n_steps, segments=segmented / recorded,
        cameras={camera: float(n / n_episodes) for camera, n in zip(CAMERAS, cameras, strict=True)},
        slots=tuple(np.flatnonzero(slots).tolist()),
    )  # fmt: skip


def split_index(groups: Sequence[Sequence[Selected]], numbers: Mapping[int, int]) -> SplitIndex:
    """Lines up the episodes of all groups. numbers: each table's number by its `id`."""
    parts = [part for group in groups for part in group]
    n_episodes = [sum(len(part.rows) for part in group) for group in groups]
    counts = _join([part.counts for part in parts], np.int64)
    steps = None
    if any(part.steps is not None for part in parts):
        steps = _join([_steps(part) for part in parts], np.int32)
    return SplitIndex(
        group_edges=np.concatenate([[0], np.cumsum(n_episodes)]).astype(np.int64),
        table=_join([np.full(len(part.rows), numbers[id(part.table)]) for part in parts], np.int32),
        row=_join([part.rows for part in parts], np.int64),
        edges=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        steps=steps,
    )  # fmt: skip


def _steps(part: Selected) -> NDArray[np.int32]:
    if part.steps is not None:
        return part.steps
    before = np.cumsum(part.counts) - part.counts
    return (np.arange(part.counts.sum()) - np.repeat(before, part.counts)).astype(np.int32)


def _join(arrays: Iterable[NDArray[Any]], kind: Any) -> NDArray[Any]:
    return np.concatenate([np.empty(0, kind), *arrays]).astype(kind)


def _n_steps(parts: Sequence[Selected]) -> int:
    return sum(int(part.counts.sum()) for part in parts)


def _hours(parts: Sequence[Selected]) -> float:
    return float(sum((part.counts / part.table.control_hz[part.rows]).sum() for part in parts) / 3600)


def _values(parts: Sequence[Selected], attribute: str) -> tuple[str, ...]:
    return tuple(
        sorted({part.table.vocabularies[attribute][c] for part in parts for c in np.unique(_codes(part, attribute))})
    )


def _codes(part: Selected, attribute: str) -> NDArray[np.int32]:
    return part.table.codes(attribute)[part.rows]
