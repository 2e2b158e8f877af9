"""What a mixture draws from: filters, caps and the validation split turned into lists of episodes and steps."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mixtures.groups.listed import find_rows_without_episode, match_listed, match_steps
from mixtures.index.compiling import KINDS, SOURCES
from mixtures.index.tables import CompiledTable
from mixtures.randomness import mix64
from mixtures.specs.filters import Filter
from mixtures.specs.grammar import EPISODE_LIMITS, GROUP_KEYS
from mixtures.specs.spec import Entry, KindRule, MixtureSpec, Node, Source, ValidationRule
from pipelines.contract.document import SpecError
from pipelines.contract.errors import nearest
from pipelines.contract.slots import CAMERAS

EPISODE_ID_DIGITS = 32
_VALIDATION_KEY = 0x76616C69646174


@dataclass(frozen=True, kw_only=True)
class Selected:
    """What an entry's filters and cap leave of its table.

    rows: episodes, int64 [e]. counts: usable steps of each, int64 [e], above 0. steps: the usable steps of all of
    them in order, int32 [sum of counts]; None where every step is usable.
    """

    entry: Entry
    table: CompiledTable
    rows: NDArray[np.int64]
    counts: NDArray[np.int64]
    steps: NDArray[np.int32] | None

    def take(self, chosen: NDArray[np.int64]) -> "Selected":
        """The part of it with the chosen episodes (indices into `rows`), in that order."""
        steps = self.steps
        if steps is not None:
            starts = np.cumsum(self.counts) - self.counts
            steps = steps[_ranges(starts[chosen], self.counts[chosen])]
        return Selected(
            entry=self.entry, table=self.table, rows=self.rows[chosen], counts=self.counts[chosen], steps=steps
        )


@dataclass(frozen=True, kw_only=True)
class Grouped:
    """One group: its name, the path of the node that holds it, and its train and validation episodes by entry."""

    name: str
    node_path: str
    train: tuple[Selected, ...]
    validation: tuple[Selected, ...]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The groups of a mixture. unplaced: episodes of stored validation splits that no group takes, by dataset."""

    groups: tuple[Grouped, ...]
    unplaced: Mapping[str, int]


def select_groups(spec: MixtureSpec, tables: Mapping[Source, CompiledTable]) -> Selection:
    """Every group of a mixture, in the order of the spec. tables: by source.

    Raises SpecError for a filter that names what no dataset has, and for a dataset of which nothing is left.
    """
    check_filter_values(spec, tables)
    groups: list[Grouped] = []
    unplaced: dict[str, int] = {}
    for path, node in walk(spec.root):
        selected = [select(entry, tables[entry.source], spec.kinds) for entry in node.entries]
        sources = [(entry, validation_source(entry, spec.validation)) for entry in node.entries]
        stored = [
            _select_stored(entry, tables[source], spec.kinds)
            for entry, source in sources
            if source is not None and source in tables
        ]
        held = {group.name: group.train for group in _group(path, node, [part for part in stored if len(part.rows)])}
        fixed = {validation_source(part.entry, spec.validation) for part in stored}
        for group in _group(path, node, selected):
            groups.append(_split(group, spec.validation, fixed, held.pop(group.name, ())))
        for part in (part for parts in held.values() for part in parts):
            label = f"{part.table.name}/{part.table.version}"
            unplaced[label] = unplaced.get(label, 0) + len(part.rows)
    return Selection(groups=tuple(groups), unplaced=unplaced)


def validation_source(entry: Entry, rule: ValidationRule) -> Source | None:
    """The stored split that serves an entry as validation, if the rule names one and the entry draws from another."""
    if rule.split is None or rule.split == entry.split:
        return None
    return entry.path, rule.split, entry.segments


def _select_stored(entry: Entry, table: CompiledTable, kinds: KindRule) -> Selected:
    """What an entry's filters leave of its stored validation split, which may be nothing; its cap is for training."""
    try:
        # A cap limits how much training sees of a dataset; of validation it would only make the numbers noisier.
        return select(replace(entry, cap_steps=None), table, kinds)
    except SpecError:
        none = np.empty(0, np.int64)
        return Selected(entry=entry, table=table, rows=none, counts=none, steps=None)


def walk(node: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    """Every node that holds entries, with its path of names."""
    if node.entries:
        yield path, node
    for child in node.nodes:
        yield from walk(child, f"{path}/{child.name}" if path else child.name)


def select(entry: Entry, table: CompiledTable, kinds: KindRule) -> Selected:
    """Applies the weights of kinds, an entry's filters, then its cap. Raises SpecError where nothing is left."""
    keep = np.ones(table.n_episodes, np.bool_)
    copies = kind_copies(kinds, table)
    usable: NDArray[np.bool_] | None = None if copies is None else copies > 0
    for rule in entry.filters:
        if rule.is_about_steps:
            chosen = matching_steps(rule, entry, table)
            usable = (chosen if rule.keep else ~chosen) & (True if usable is None else usable)
        else:
            chosen = matching_episodes(rule, entry, table)
            keep &= chosen if rule.keep else ~chosen
    # Filters become counts and lists of steps here, before anything is drawn: a draw that a filter would reject could
    # not be a pure function of its position.
    counts = table.n_steps_of.copy()
    if usable is not None:
        copies = usable.astype(np.uint8) if copies is None else np.where(usable, copies, 0)
        counts = np.diff(np.concatenate([[0], np.cumsum(copies, dtype=np.int64)])[table.first_step])
    rows = np.flatnonzero(keep & (counts > 0))
    if not len(rows):
        raise SpecError(entry.mark, _nothing_left(entry, table))
    if entry.cap_steps is not None:
        rows = _capped(rows, counts, entry.cap_steps, table)
    steps = None
    if copies is not None:
        rows_of_steps = _ranges(table.first_step[rows], table.n_steps_of[rows])
        rows_of_steps = np.repeat(rows_of_steps, copies[rows_of_steps])
        steps = (rows_of_steps - np.repeat(table.first_step[rows], counts[rows])).astype(np.int32)
    return Selected(entry=entry, table=table, rows=rows, counts=counts[rows], steps=steps)


def kind_copies(kinds: KindRule, table: CompiledTable) -> NDArray[np.uint8] | None:
    """How often each step stands among the usable ones by the weight of its kind, uint8 [t]; None for once each.

    A weight of 2.3 gives two copies, and a third to three tenths of the steps, always the same ones.
    """
    weights = np.array([kinds.subtask, kinds.recovery, kinds.idle, 1.0])
    if (weights == 1).all():
        return None
    kind = _of_segment(table, "kind", np.asarray(table.segment), len(KINDS))
    kind = np.where(table.is_idle, KINDS.index("idle"), kind)
    whole, part = np.floor(weights).astype(np.uint8)[kind], (weights % 1)[kind]
    # By the step's row and not by the seed: which steps have a further copy must be the same in every run of the
    # dataset.
    words = mix64(np.arange(table.n_steps, dtype=np.uint64)) >> np.uint64(11)
    return whole + (words.astype(np.float64) / 2**53 < part)


def matching_steps(rule: Filter, entry: Entry, table: CompiledTable) -> NDArray[np.bool_]:
    """The steps that a filter holds for, bool [t]; its conditions on episodes must hold for theirs."""
    if rule.predicate == "idle":
        return np.asarray(table.is_idle)
    segment = np.asarray(table.segment)
    if rule.predicate == "segment":
        return segment >= 0
    if rule.predicate == "recovery":
        return _of_segment(table, "kind", segment, len(KINDS)) == KINDS.index("recovery")
    chosen = np.repeat(matching_episodes(rule, entry, table), table.n_steps_of)
    for key, names in (("kind", KINDS), ("source", SOURCES)):
        if key in dict(rule.values):
            codes = [names.index(value) for value in dict(rule.values)[key]]
            chosen &= np.isin(_of_segment(table, key, segment, len(names)), codes)
    limits = dict(rule.limits)
    if "min_confidence" in limits:
        # In float32, as confidences are stored: 0.9 in float64 is above a stored 0.9, and would drop exactly the steps
        # it names.
        chosen &= _of_segment(table, "confidence", segment, -1) >= np.float32(limits["min_confidence"])
    if not limits.keys().isdisjoint(("from_step", "before_step", "last_steps")):
        step = np.arange(table.n_steps) - np.repeat(table.first_step[:-1], table.n_steps_of)
        chosen &= step >= limits.get("from_step", 0)
        chosen &= step < limits.get("before_step", np.inf)
        chosen &= step >= np.repeat(table.n_steps_of - limits.get("last_steps", np.inf), table.n_steps_of)
    if rule.listed and rule.listed.has_ranges:
        chosen &= match_steps(rule.listed, table)
    for one in rule.ranges:
        values = getattr(table, one.array)[:, one.slot]
        chosen &= (values >= one.low) & (values <= one.high)
    return chosen


def _of_segment(table: CompiledTable, column: str, segment: NDArray[np.int32], otherwise: float) -> NDArray[Any]:
    """A column of each step's segment [t]; `otherwise` for a step outside all segments."""
    # Steps outside all segments have number -1, which indexes the appended last value.
    return np.append(table.segments[column], np.array(otherwise, table.segments.dtype[column]))[segment]


def matching_episodes(rule: Filter, entry: Entry, table: CompiledTable) -> NDArray[np.bool_]:
    """The episodes that a filter holds for, bool [e]."""
    if rule.predicate == "success":
        return np.asarray(table.success) == 1
    if rule.predicate == "failure":
        return np.asarray(table.success) == 0
    if rule.predicate == "language":
        return has_language(table)
    chosen = np.ones(table.n_episodes, np.bool_)
    if rule.listed:
        chosen &= match_listed(rule.listed, table)[0]
    for limit, value in rule.limits:
        if limit in EPISODE_LIMITS:
            quantity = _QUANTITIES[limit.partition("_")[2]](table)
            chosen &= quantity >= value if limit.startswith("min_") else quantity <= value
    for attribute, values in rule.values:
        if attribute == "cameras":
            chosen &= table.camera_mask[:, [CAMERAS.index(camera) for camera in values]].all(axis=1)
        elif attribute in GROUP_KEYS:
            codes, vocabulary = attribute_codes(attribute, entry, table)
            chosen &= np.isin(codes, [code for code, value in enumerate(vocabulary) if value in values])
    return chosen


def _idle_part(table: CompiledTable) -> NDArray[np.float64]:
    idle = np.diff(np.concatenate([[0], np.cumsum(table.is_idle, dtype=np.int64)])[table.first_step])
    return idle / np.maximum(table.n_steps_of, 1)


_QUANTITIES: Mapping[str, Callable[[CompiledTable], NDArray[Any]]] = {
    "steps": lambda table: table.n_steps_of,
    "s": lambda table: table.n_steps_of / table.control_hz,
    "hz": lambda table: table.control_hz,
    "idle": _idle_part,
    "labelled": lambda table: table.n_segmented / np.maximum(table.n_steps_of, 1),
}


def attribute_codes(attribute: str, entry: Entry, table: CompiledTable) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Each episode's task, robot, dataset or control mode as an index into a vocabulary; int32 [e]."""
    constant = {"dataset": table.name, "task": entry.task}.get(attribute)
    if constant is not None:
        return np.zeros(table.n_episodes, np.int32), (constant,)
    return table.codes(attribute), table.vocabularies[attribute]


def has_language(table: CompiledTable) -> NDArray[np.bool_]:
    """The episodes with an instruction or a task name, bool [e]."""
    instructions = pc.fill_null(pc.list_value_length(table.languages), 0).to_numpy(zero_copy_only=False) > 0
    named = np.array([bool(task.strip()) for task in table.vocabularies["task"]], np.bool_)
    return instructions | named[table.codes("task")]


def check_filter_values(spec: MixtureSpec, tables: Mapping[Source, CompiledTable]) -> None:
    """Refuses a filter that names a robot, task, dataset or control mode that none of its datasets has."""
    known: dict[tuple[Filter, str], set[str]] = {}
    for rule, (n_rows, n_lost) in count_unmatched_rows(spec, tables).items():
        if rule.listed and n_lost == n_rows:
            keys = ", ".join(map(repr, next(iter(tables.values())).source_keys.to_pylist()[:2]))
            message = f"{rule.listed.path} names no episode of the datasets under this filter, whose keys are as {keys}"
            raise SpecError(rule.mark, message)
    for entry in spec.root.all_entries():
        table = tables[entry.source]
        for rule in entry.filters:
            for attribute in (key for key, _ in rule.values if key in GROUP_KEYS):
                _, vocabulary = attribute_codes(attribute, entry, table)
                known.setdefault((rule, attribute), set()).update(vocabulary)
    for (rule, attribute), names in known.items():
        for value in dict(rule.values)[attribute]:
            if value not in names:
                message = f"no dataset under this filter has {attribute} {value!r}. {nearest(value, names)}"
                raise SpecError(rule.mark, message)


def count_unmatched_rows(spec: MixtureSpec, tables: Mapping[Source, CompiledTable]) -> dict[Filter, tuple[int, int]]:
    """For each filter with a list from outside, its rows and how many of them name no episode of any of its datasets.

    Stored validation splits count, too, as far as they are open.
    """
    under: dict[Filter, dict[str, CompiledTable]] = {}
    for entry in spec.root.all_entries():
        sources = [source for source in (entry.source, validation_source(entry, spec.validation)) if source in tables]
        for rule in (rule for rule in entry.filters if rule.listed):
            under.setdefault(rule, {}).update({str(source): tables[source] for source in sources if source})
    return {rule: find_rows_without_episode(rule.listed, below) for rule, below in under.items() if rule.listed}


def episode_words(table: CompiledTable, purpose: str) -> NDArray[np.uint64]:
    """A random word per episode that depends on its id and the purpose alone, uint64 [e]."""
    ids = table.episode_ids
    if not len(ids):
        return np.empty(0, np.uint64)
    if pc.all(pc.equal(pc.binary_length(ids.cast(pa.large_binary())), EPISODE_ID_DIGITS)).as_py():
        raw = b"".join(bytes.fromhex(text)[:8] for text in ids.to_pylist())
    else:
        raw = b"".join(sha256(text.encode()).digest()[:8] for text in ids.to_pylist())
    # The purpose keeps uses apart: without it the episodes that a cap keeps would be those of another draw, too.
    key = int.from_bytes(sha256(purpose.encode()).digest()[:8], "little")
    return mix64(np.frombuffer(raw, "<u8").astype(np.uint64) ^ np.uint64(key))


def validation_words(table: CompiledTable) -> NDArray[np.uint64]:
    """A random word per episode that depends on its motion alone, uint64 [e]."""
    # Without the seed: a run with another seed would else train on what the first held out, and their scores would not
    # compare.
    return mix64(table.motion ^ np.uint64(_VALIDATION_KEY))


def _capped(rows: NDArray[np.int64], counts: NDArray[np.int64], cap: int, table: CompiledTable) -> NDArray[np.int64]:
    """The first of the rows, in a fixed random order, whose steps stay within the cap; at least one."""
    # A fixed random order: the first episodes of a dataset are often one operator's, and a larger cap must keep those
    # of a smaller one.
    order = rows[np.argsort(episode_words(table, "cap")[rows], kind="stable")]
    fits = np.searchsorted(np.cumsum(counts[order]), cap, side="right")
    return np.sort(order[: max(int(fits), 1)])


def _group(path: str, node: Node, selected: Sequence[Selected]) -> Iterator[Grouped]:
    """Divides a node's episodes by the values of `group_by`; groups in order of their values."""
    members: dict[tuple[str, ...], list[Selected]] = {}
    keys = node.weighting.group_by
    for part in selected:
        columns = [attribute_codes(key, part.entry, part.table) for key in keys]
        values, inverse = np.unique(
            np.stack([codes[part.rows] for codes, _ in columns], axis=1), axis=0, return_inverse=True
        )
        order = np.argsort(inverse.ravel(), kind="stable")
        edges = np.searchsorted(inverse.ravel()[order], np.arange(len(values) + 1))
        for i, row in enumerate(values):
            name = tuple(vocabulary[code] for code, (_, vocabulary) in zip(row, columns, strict=True))
            members.setdefault(name, []).append(part.take(order[edges[i] : edges[i + 1]]))
    # Sorted by value, so that groups and shares do not depend on the order of datasets in the file.
    for name, parts in sorted(members.items()):
        label = "@".join(value or "untitled" for value in name)
        yield Grouped(name=f"{path}/{label}" if path else label, node_path=path, train=tuple(parts), validation=())


def _split(
    group: Grouped, rule: ValidationRule, fixed: Collection[Source | None] = (), stored: tuple[Selected, ...] = ()
) -> Grouped:
    """Holds out episodes by their motion: words below the fraction, and the lowest up to the minimum; never all.

    Copies of one episode have one word, so they stay on one side. Of entries with a stored validation split, whose
    sources are `fixed`, nothing more is held out; `stored` are their episodes for this group.
    """
    divided = [part for part in group.train if validation_source(part.entry, rule) not in fixed]
    if (rule.fraction == 0 and rule.min_per_group == 0) or not divided:
        return replace(group, validation=stored)
    # By motion and not by id: ids of an episode that was converted twice, or trimmed, differ, and one copy in training
    # would make the other worthless for validation.
    joined = np.concatenate([validation_words(part.table)[part.rows] for part in divided])
    ordered = np.unique(joined)
    n_held = int((ordered < np.uint64(rule.fraction * 2**63) * np.uint64(2)).sum())
    fewest = rule.min_per_group - sum(len(part.rows) for part in stored)
    # A group never loses its last training episode: it would have a share and nothing to draw.
    n_rest = 0 if len(divided) < len(group.train) else 1
    n_held = min(max(n_held, fewest, 0), len(ordered) - n_rest)
    held = np.isin(joined, ordered[:n_held])
    train: list[Selected] = []
    validation: list[Selected] = list(stored)
    start = 0
    for part in group.train:
        if not any(part is other for other in divided):
            train.append(part)
            continue
        mine = held[start : start + len(part.rows)]
        start += len(part.rows)
        for parts, chosen in ((train, ~mine), (validation, mine)):
            if chosen.any():
                parts.append(part.take(np.flatnonzero(chosen)))
    return Grouped(name=group.name, node_path=group.node_path, train=tuple(train), validation=tuple(validation))


def _ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers start, start + 1, ... of every range, one after the other.

    >>> _ranges(np.array([10, 3]), np.array([2, 3])).tolist()
    [10, 11, 3, 4, 5]
    """
    before = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(starts - before, lengths)


def _nothing_left(entry: Entry, table: CompiledTable) -> str:
    by = f" after {', '.join(map(str, entry.filters))}" if entry.filters else ""
    return f"nothing is left of {table.name} {table.version} ({table.n_episodes} episodes, split {table.split}){by}"
