"""What looks wrong with a mixture as a whole: pools that disagree, data that occur twice, a group per sentence."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from mixtures.actions.pools import Pool, dataset_labels
from mixtures.groups.selection import count_unmatched_rows, validation_source, walk
from mixtures.groups.tree import Group
from mixtures.mixture import Mixture
from mixtures.specs.spec import Entry, Source
from pipelines.contract.units import Quantity, describe_unit
from pipelines.contract.words import counted
from pipelines.shards.statistics import quantities_of

# Groups of so few episodes are sentences rather than tasks, where a dataset has so many of them.
FEW_EPISODES = 10
MANY_GROUPS = 10
# Two datasets of one pool whose motion differs by more than this in at least two like slots hold other units, or other
# robots: metres and millimetres differ by 1000, radians and degrees by 57, controller units by 10 to 50.
MOST_APART = {"delta_m": 4.0, "delta_rad": 4.0, "joint_rad_s": 4.0}
MOST_APART_OF_POSITIONS = 8.0
# A slot that moves less is at rest, which shows nothing of its unit.
AT_REST = {"delta_m": 0.0005, "delta_rad": 0.002}
AT_REST_OTHERS = 0.01
# Part of the smaller dataset's episodes from which on copies are no accident (robots that stand still look alike).
COPIES = 0.05


def find_in_mixture(mixture: Mixture) -> tuple[str, ...]:
    """Everything that looks wrong beyond single groups, one sentence each."""
    return (
        *find_sentences(mixture.groups, [node.weighting.group_by for _, node in walk(mixture.spec.root)]),
        *find_namesakes(mixture),
        *find_copies(mixture),
        *find_unmatched_rows(mixture),
        *(sentence for pool in mixture.pools.pools for sentence in find_scales(mixture, pool)),
        *(
            f"{name}: {counted(n, 'episode')} of its validation split left out, of no group of the mixture"
            for name, n in mixture.unplaced.items()
        ),
    )


def dataset_shares(groups: Sequence[Group]) -> dict[str, tuple[float, float]]:
    """By dataset its part of all steps and its share of all draws; inside a group every step is equally likely."""
    steps: dict[str, float] = {}
    draws: dict[str, float] = {}
    for group in groups:
        for name, n in zip(group.datasets, group.dataset_steps, strict=True):
            steps[name] = steps.get(name, 0.0) + n
            draws[name] = draws.get(name, 0.0) + group.probability * n / group.n_steps
    total = sum(steps.values())
    return {name: (steps[name] / total, draws[name]) for name in steps}


def find_sentences(groups: Sequence[Group], group_by: Sequence[Sequence[str]]) -> Iterator[str]:
    """Datasets of which nearly every episode is a group of its own, because each has its own sentence."""
    if not any("task" in keys for keys in group_by):
        return
    for name, (raw, final) in dataset_shares(groups).items():
        episodes = [n for g in groups for d, n in zip(g.datasets, g.dataset_episodes, strict=True) if d == name]
        if len(episodes) >= MANY_GROUPS and sum(episodes) < FEW_EPISODES * len(episodes):
            yield (
                f"{name}: its {counted(sum(episodes), 'episode makes', 'episodes make')} "
                f"{counted(episodes, 'group')}, about one a sentence, which "
                f"gives it {final:.0%} of the draws for {raw:.0%} of the steps; `task: NAME` at the dataset makes them "
                "one group"
            )


def find_unmatched_rows(mixture: Mixture) -> Iterator[str]:
    """Lists from outside of which some rows name no episode."""
    by_split = {(table.path, table.split): table for table in mixture.tables}
    sources = [source for entry in mixture.spec.root.all_entries() for source in _sources_of(entry, mixture)]
    tables = {source: by_split[source[:2]] for source in sources if source[:2] in by_split}
    for rule, (n_rows, n_lost) in count_unmatched_rows(mixture.spec, tables).items():
        if n_lost and rule.listed:
            yield f"{rule.listed.path}: {n_lost:,} of {n_rows:,} rows name no episode of the datasets under the filter"


def _sources_of(entry: Entry, mixture: Mixture) -> list[Source]:
    held = validation_source(entry, mixture.spec.validation)
    return [entry.source] if held is None else [entry.source, held]


def find_namesakes(mixture: Mixture) -> Iterator[str]:
    """Datasets of one name and version in several folders, which reports and audits show as one."""
    paths: dict[str, set[str]] = {}
    for table in mixture.tables:
        paths.setdefault(f"{table.name}/{table.version}", set()).add(table.path)
    for name, folders in paths.items():
        if len(folders) > 1:
            yield (
                f"{len(folders)} datasets are called {name} and are shown as one: {', '.join(sorted(folders))}; "
                "convert one of them under another `--name`"
            )


def find_copies(mixture: Mixture) -> Iterator[str]:
    """Datasets, or parts of one in several groups, that hold the same episodes, known by their motion."""
    train = _episodes(mixture, "train")
    for (one, other), shared in _shared(train).items():
        if shared >= COPIES * min(len(train[one]), len(train[other])):
            yield f"{one} and {other} hold {shared:,} of the same episodes, drawn as two each; leave one of them out"
    seen = np.unique(np.concatenate([np.empty(0, np.uint64), *train.values()]))
    for name, words in _episodes(mixture, "validation").items():
        if copied := int(np.isin(words, seen).sum()):
            yield f"{name}: {copied:,} of {len(words):,} held-out episodes are copies of episodes that are trained on"


def _shared(words: Mapping[str, NDArray[np.uint64]]) -> Counter[tuple[str, str]]:
    """How many words every two of several sets share, for those that share any."""
    names = list(words)
    every = np.concatenate([np.empty(0, np.uint64), *words.values()])
    owner = np.repeat(np.arange(len(names)), [len(words[name]) for name in names])
    order = np.argsort(every, kind="stable")
    edges = np.flatnonzero(np.diff(every[order], prepend=~every[order][:1], append=~every[order][-1:]))
    counts: Counter[tuple[str, str]] = Counter()
    for a, b in zip(edges[:-1], edges[1:], strict=True):
        if b - a > 1:
            counts.update((names[i], names[j]) for i, j in combinations(sorted(owner[order[a:b]].tolist()), 2))
    return counts


def find_scales(mixture: Mixture, pool: Pool) -> Iterator[str]:
    """Datasets of one pool that move so differently that their units cannot be the same."""
    members = {name: np.array(values) for name, values in mixture.members[pool.name].items()}
    sides = [quantities_of(pool.norm_key, mixture.parts[pool.name], side) for side in ("state", "action")]
    for offset, quantities in zip((0, mixture.n_slots), sides, strict=True):
        for quantity in dict.fromkeys(quantities.values()):
            if quantity == "gripper":
                continue
            slots = [offset + slot for slot, other in quantities.items() if other == quantity]
            yield from _apart(members, slots, quantity, pool, "action" if offset else "state")


def _apart(
    members: Mapping[str, NDArray[np.float64]], slots: Sequence[int], quantity: Quantity, pool: Pool, side: str
) -> Iterator[str]:
    floor = AT_REST.get(quantity, AT_REST_OTHERS)
    for one, other in combinations(members, 2):
        a, b = members[one][slots], members[other][slots]
        moving = (a > floor) & (b > floor)
        if moving.sum() < 2:
            continue
        ratio = float(np.median(a[moving] / b[moving]))
        if max(ratio, 1 / ratio) > MOST_APART.get(quantity, MOST_APART_OF_POSITIONS):
            large, small = (one, other) if ratio > 1 else (other, one)
            yield (
                f"pool {pool.name}: the {side} of {large} moves {max(ratio, 1 / ratio):.0f} times as far as that of "
                f"{small} ({describe_unit(quantity)}); check the units of both, or set `normalization: {{by: dataset}}`"
            )


def _episodes(mixture: Mixture, split: str) -> dict[str, NDArray[np.uint64]]:
    """The words of motion of a split's episodes, each once, by dataset and, where a spec has several, by part of it."""
    index = mixture.splits[split]
    found: dict[str, list[NDArray[np.uint64]]] = {}
    labels = dataset_labels(mixture.tables)
    has_parts = len({group.node_path for group in mixture.groups}) > 1
    for number, group in enumerate(mixture.groups):
        a, b = index.group_edges[number : number + 2]
        for table_number in np.unique(index.table[a:b]).tolist():
            table = mixture.tables[table_number]
            rows = index.row[a:b][index.table[a:b] == table_number]
            name = labels[table_number] + (f" ({table.split})" if table.split != "train" else "")
            name += f" in {group.node_path!r}" if has_parts else ""
            found.setdefault(name, []).append(table.motion[rows])
    return {name: np.unique(np.concatenate(words)) for name, words in found.items()}
