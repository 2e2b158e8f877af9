"""The groups of an opened mixture: what each holds, its numbers for the weights, and the index of its samples."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixtures.actions.pools import Pools
from mixtures.groups.label_coverage import Labels, labels_of
from mixtures.groups.selection import Grouped, Selected, has_language, walk
from mixtures.groups.shares import Branch, Leaf, Share, resolve_shares
from mixtures.specs.spec import Entry, MixtureSpec, Node
from pipelines.contract.document import SpecError
from pipelines.contract.errors import UsageError, nearest
from pipelines.contract.slots import CAMERAS


@dataclass(frozen=True, kw_only=True)
class GroupFacts:
    """One task-robot group. n_episodes and n_steps are what training draws from, after filters, caps and holding out.

    node_path: of the node that holds it. hours: of recorded time. multiplier: the mean, by steps, of its datasets'
    ones; min_share, max_epochs: the tightest of theirs. language: part of the steps whose episode has an instruction
    or task name; segments: part of the steps with a segment; None where unknown. cameras: part of the episodes that
    have each camera. slots: action slots in use. labels: what its segments say, None where unknown. norm_keys: the
    pools of statistics that normalize it. dataset_steps, dataset_episodes: of each of `datasets`.
    """

    name: str
    node_path: str
    n_episodes: int
    n_steps: int
    n_validation_episodes: int
    n_validation_steps: int
    hours: float
    multiplier: float
    min_share: float
    max_epochs: float | None
    robot: tuple[str, ...]
    control_hz: tuple[float, ...]
    norm_keys: tuple[str, ...]
    datasets: tuple[str, ...]
    dataset_steps: tuple[int, ...]
    dataset_episodes: tuple[int, ...]
    language: float | None
    segments: float | None
    cameras: Mapping[str, float]
    slots: tuple[int, ...]
    labels: Labels | None = None


@dataclass(frozen=True, kw_only=True)
class Group(GroupFacts):
    """A group with its share of all draws and how it came about; raw_share is its part of all steps."""

    share: Share
    raw_share: float

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


def share_out(spec: MixtureSpec, facts: Sequence[GroupFacts], draws: int | None) -> tuple[Branch, tuple[Group, ...]]:
    """Gives every group its share; returns the tree that the shares follow from, too.

    draws: samples that training will draw. Raises UsageError where max_epochs is used and draws is None, where bounds
    cannot be met, or where two groups have one name.
    """
    if draws is None:
        limited = next((entry for entry in spec.root.all_entries() if entry.max_epochs is not None), None)
        if limited:
            message = "max_epochs needs the number of draws; give `draws:` in the spec or --draws"
            raise SpecError(limited.mark, message)
    _check_bounds(spec, facts, draws)
    by_node: dict[str, list[GroupFacts]] = {}
    for group in _multiplied(spec, facts):
        by_node.setdefault(group.node_path, []).append(group)
    # Shares follow from the tree of the spec and not from a flat list: a fixed share binds what is below its node only.
    tree = _branch(spec.root, "", by_node, draws)
    shares = {share.name: share for share in resolve_shares(tree)}
    if len(shares) < len(facts):
        raise UsageError(f"{spec.path}: two groups have one name; give their parts other names than {list(shares)}")
    all_steps = sum(group.n_steps for group in facts)
    groups = (Group(**vars(group), share=shares[group.name], raw_share=group.n_steps / all_steps) for group in facts)
    return tree, tuple(groups)


def _check_bounds(spec: MixtureSpec, facts: Sequence[GroupFacts], draws: int | None) -> None:
    """Refuses a group whose min_share wants more draws than its max_epochs allows."""
    entries = {path: node.entries for path, node in walk(spec.root)}
    for group in facts:
        upper = _largest_share(group, draws)
        if group.min_share <= upper:
            continue
        # The entry that asks for the share, which may have it from a group above.
        entry = next(entry for entry in entries[group.node_path] if entry.min_share == group.min_share)
        raise SpecError(
            entry.mark,
            f"min_share {group.min_share:g} and max_epochs {group.max_epochs:g} of group {group.name!r} contradict "
            f"each other: {draws:,} draws of {group.n_steps:,} steps allow a share of {upper:.4g}. "
            "Lower min_share, raise max_epochs, or draw less",
        )


def _multiplied(spec: MixtureSpec, facts: Sequence[GroupFacts]) -> list[GroupFacts]:
    """The groups with the spec's factors on single groups."""
    names = [group.name for group in facts]
    for name, _, mark in spec.group_multipliers:
        if name not in names:
            raise SpecError(mark, f"no group is named {name!r}. {nearest(name, names)}")
    factors = {name: factor for name, factor, _ in spec.group_multipliers}
    return [replace(group, multiplier=group.multiplier * factors.get(group.name, 1.0)) for group in facts]


def _branch(node: Node, path: str, by_node: Mapping[str, Sequence[GroupFacts]], draws: int | None) -> Branch:
    own = [_leaf(group, node.weighting.count, draws) for group in by_node.get(path, ())] if node.entries else []
    inner = [_branch(child, f"{path}/{child.name}" if path else child.name, by_node, draws) for child in node.nodes]
    return Branch(
        name=node.name,
        alpha=node.weighting.alpha,
        share=node.share,
        multiplier=node.multiplier,
        children=(*own, *inner),
    )


def _leaf(group: GroupFacts, count: str, draws: int | None) -> Leaf:
    """The numbers of a group that decide its share."""
    upper = _largest_share(group, draws)
    counts = {"steps": group.n_steps, "hours": group.hours, "episodes": group.n_episodes}
    if counts[count] <= 0:
        raise UsageError(f"group {group.name!r}: expected its {count}, by which the spec counts, found none")
    return Leaf(
        name=group.name, count=float(counts[count]), multiplier=group.multiplier, lower=group.min_share, upper=upper
    )


def _largest_share(group: GroupFacts, draws: int | None) -> float:
    """The share that max_epochs allows a group."""
    if group.max_epochs is None or draws is None:
        return 1.0
    return min(group.max_epochs * group.n_steps / draws, 1.0)


def facts_of(group: Grouped, pools: Pools, numbers: Mapping[int, int], proposals: bool) -> GroupFacts:
    """A group's numbers. numbers: each table's number by its `id`. proposals: whether their phrases are texts."""
    train = group.train
    by_dataset: dict[str, list[int]] = {}
    for part in train:
        counts = by_dataset.setdefault(f"{part.table.name}/{part.table.version}", [0, 0])
        counts[0] += int(part.counts.sum())
        counts[1] += len(part.rows)
    n_episodes, n_steps = sum(len(part.rows) for part in train), _n_steps(train)
    cameras = np.sum([part.table.camera_mask[part.rows].sum(axis=0) for part in train], axis=0)
    slots = np.any([part.table.action_mask[part.rows].any(axis=0) for part in train], axis=0)
    spoken = sum(int(part.counts[has_language(part.table)[part.rows]].sum()) for part in train)
    segmented = sum(int(part.table.n_segmented[part.rows].sum()) for part in train)
    recorded = sum(int(part.table.n_steps_of[part.rows].sum()) for part in train)
    return GroupFacts(
        name=group.name,
        node_path=group.node_path,
        n_episodes=n_episodes,
        n_steps=n_steps,
        n_validation_episodes=sum(len(part.rows) for part in group.validation),
        n_validation_steps=_n_steps(group.validation),
        hours=_hours(train),
        **limits_of([part.entry for part in train], [int(part.counts.sum()) for part in train]),
        robot=_values(train, "robot"),
        norm_keys=tuple(sorted({name for part in train for name in _pools_of(part, pools, numbers)})),
        control_hz=tuple(sorted({float(hz) for part in train for hz in np.unique(part.table.control_hz[part.rows])})),
        datasets=tuple(by_dataset),
        dataset_steps=tuple(steps for steps, _ in by_dataset.values()),
        dataset_episodes=tuple(episodes for _, episodes in by_dataset.values()),
        language=spoken / n_steps,
        segments=segmented / recorded,
        cameras={camera: float(n / n_episodes) for camera, n in zip(CAMERAS, cameras, strict=True)},
        slots=tuple(np.flatnonzero(slots).tolist()),
        labels=labels_of(train, proposals),
    )


def limits_of(entries: Sequence[Entry], steps: Sequence[int]) -> dict[str, Any]:
    """The multiplier and bounds of a group that several entries make up, with so many steps of each."""
    epochs = [entry.max_epochs for entry in entries if entry.max_epochs is not None]
    weighted = sum(entry.multiplier * n for entry, n in zip(entries, steps, strict=True))
    return {
        "multiplier": weighted / sum(steps),
        "min_share": max(entry.min_share for entry in entries),
        "max_epochs": min(epochs) if epochs else None,
    }


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
    )


def _pools_of(part: Selected, pools: Pools, numbers: Mapping[int, int]) -> tuple[str, ...]:
    return pools.of_rows(numbers[id(part.table)], part.table, part.rows)


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
