"""The mixture spec `embodimix.mixture/v1` as data: a YAML file and all that it includes, checked and frozen.

The outermost file's `seed`, `language`, `validation`, `action`, `normalization`, `draws` and `stages` hold for the
whole mixture. An included file brings its groups, its `weighting` and its `filters`.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mixtures.specs.filters import Filter, parse_filters, resolve_path
from mixtures.specs.grammar import (
    MIXTURE,
    NAMED,
    SCHEMA,
    ActionMode,
    Normalization,
    PoolBy,
    RotationForm,
    Stage,
)
from mixtures.specs.named import PREFIX, find_spec
from mixtures.specs.stages import GroupChanges, changed, lay_over
from pipelines.contract.document import Mark, MarkedValue, SpecError, read_document
from pipelines.contract.errors import UsageError, describe_missing
from pipelines.contract.layouts import get_layout
from pipelines.contract.slots import LAYOUT
from pipelines.shards.dataset import INFO_FILE

# Where the schema of a document stands, below comments.
_HEAD_BYTES = 2000

Source = tuple[str, str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Weighting:
    """The power rule: a group of n counts weighs n ** alpha. Groups are the distinct values of `group_by`."""

    alpha: float = 0.43
    group_by: tuple[str, ...] = ("task", "robot")
    count: str = "steps"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Published sizes of a dataset, from which a plan can be made where the dataset itself is not available."""

    steps: int
    episodes: int = 0
    control_hz: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One split of one dataset in a mixture. `path` is absolute or a URI; `filters` run from the outer to the inner.

    segments: segment tables that overlay the dataset's own, later ones over earlier ones.
    """

    path: str
    mark: Mark
    split: str = "train"
    multiplier: float = 1.0
    cap_steps: int | None = None
    max_epochs: float | None = None
    min_share: float = 0.0
    task: str | None = None
    robot: str | None = None
    sizes: Sizes | None = None
    filters: tuple[Filter, ...] = ()
    segments: tuple[str, ...] = ()

    @property
    def source(self) -> Source:
        """What is opened for this entry; entries with one source share it."""
        return self.path, self.split, self.segments


@dataclass(frozen=True, kw_only=True)
class Node:
    """A named part of a mixture: either `entries` or `nodes` below it; `share` is its fixed share of its parent."""

    name: str
    mark: Mark
    weighting: Weighting
    share: float | None = None
    multiplier: float = 1.0
    entries: tuple[Entry, ...] = ()
    nodes: tuple["Node", ...] = ()

    def all_entries(self) -> tuple[Entry, ...]:
        """Every entry below this node, in the order of the file."""
        return self.entries + tuple(entry for node in self.nodes for entry in node.all_entries())


@dataclass(frozen=True, kw_only=True)
class KindRule:
    """How often steps of each kind are drawn beside steps outside all segments; idle steps count as idle everywhere."""

    subtask: float = 1.0
    recovery: float = 1.0
    idle: float = 1.0


@dataclass(frozen=True, kw_only=True)
class LanguageRule:
    """How often a sample's text is its segment's or its task's; a sample without a segment takes the task's.

    proposals: whether the motion phrase of a proposal counts as a segment's text.
    """

    segment: float = 0.5
    task: float = 0.5
    proposals: bool = False


@dataclass(frozen=True, kw_only=True)
class ValidationRule:
    """The part of the episodes that is held out; at least `min_per_group` of each group, never all of it.

    split: the stored split that is held out instead of a part of `train`, of datasets that have it.
    """

    fraction: float = 0.0
    min_per_group: int = 0
    split: str | None = None


@dataclass(frozen=True, kw_only=True)
class ActionRule:
    """The action chunk: its steps, absolute or relative to its first state, and how it is normalized.

    rate_hz: the rate that sources are resampled to, None for each source's own. rotation: of end-effector targets.
    """

    horizon: int = 50
    rate_hz: float | None = None
    mode: ActionMode = "absolute"
    normalization: Normalization = "quantile"
    rotation: RotationForm = "euler"

    @property
    def changes_actions(self) -> bool:
        """Whether chunks have other values than the recorded actions, so that they need statistics of their own."""
        return self.mode != "absolute" or self.rate_hz is not None or self.rotation != "euler"


@dataclass(frozen=True, kw_only=True)
class NormalizationRule:
    """Which steps share statistics: those of one norm key, or of one norm key and dataset.

    See `mixtures.actions.pools`.
    """

    by: PoolBy = "norm_key"


@dataclass(frozen=True, kw_only=True)
class MixtureSpec:
    """A whole mixture spec, includes read in. `root` is the node that holds everything.

    group_multipliers: factors on single groups' weights, by name, and where they stand. stage: the stage of training
    whose overrides are in it, None for the spec as it stands. layout: of the vectors that are drawn.
    """

    name: str
    path: Path
    seed: int
    root: Node
    draws: int | None = None
    language: LanguageRule = LanguageRule()
    kinds: KindRule = KindRule()
    corrupt_images: Literal["fail", "black"] = "fail"
    group_multipliers: tuple[tuple[str, float, Mark], ...] = ()
    validation: ValidationRule = ValidationRule()
    action: ActionRule = ActionRule()
    normalization: NormalizationRule = NormalizationRule()
    stage: Stage | None = None
    layout: str = LAYOUT

    @property
    def n_slots(self) -> int:
        """The width of the drawn vectors."""
        return get_layout(self.layout).n_slots


def _check_is_file(file: Path) -> None:
    """Raises UsageError for what is named in place of a spec: nothing, a dataset, another folder, an entry's file."""
    expected = f"{file}: expected a mixture spec, a YAML file,"
    if not file.exists():
        raise UsageError(f"{expected} found none; {describe_missing(file)}")
    if (file / INFO_FILE).exists():
        raise UsageError(f"{expected} found a dataset. Write a file that lists it: datasets: [{{path: {file}}}]")
    if file.is_dir():
        raise UsageError(f"{expected} found a folder. Name the file in it")
    # What is no plain file, such as a pipe, can be read only once.
    head = _head_of(file) if file.is_file() else ""
    if found := re.search(r"^schema: *(embodimix\.(?:registry|adapters|embodiments)/v\d+)", head, re.MULTILINE):
        raise UsageError(
            f"{expected} found {found[1]}, entries of robots and formats, which --adapter or --registry of "
            f"`embodimix convert` takes. A mixture begins with: schema: {SCHEMA}"
        )


def _head_of(file: Path) -> str:
    with file.open("rb") as opened:
        return opened.read(_HEAD_BYTES).decode(errors="replace")


def load_spec(path: str | Path, root: str | None = None, stage: Stage | None = None) -> MixtureSpec:
    """Reads a spec and all it includes, with what its `stages` change for `stage`. `root` replaces the file's own.

    path: a file, or `embodimix:NAME`; the datasets of a shipped spec are looked for from the working directory.
    Raises SpecError (a UsageError) with file, line and column: unknown keys and values with the nearest valid name,
    values out of range, cycles of include, shares over 1, groups without datasets or twice with one name.
    """
    file, root = _named(str(path), root)
    _check_is_file(file)
    written = read_document(file, MIXTURE, NAMED)
    layout = _layout(written)
    context = _Context(root=root, stack=(file.resolve(),), n_slots=get_layout(layout).n_slots)
    # Once without the stage: a path that a stage misspells would else silently change nothing.
    node = _mixture_node(written, file, context)
    document, changes = lay_over(written, stage)
    if document is not written:
        changes.check(_paths(node))
        node = _mixture_node(document, file, replace(context, changes=changes))
    values = {
        "language": LanguageRule(**_plain(document, "language")),
        "corrupt_images": document.plain("corrupt_images", "fail"),
        "kinds": KindRule(**_plain(document, "kinds")),
        "validation": ValidationRule(**{k: v for k, v in _plain(document, "validation").items() if k != "by"}),
        "action": ActionRule(**_plain(document, "action")),
        "normalization": NormalizationRule(**_plain(document, "normalization")),
    }
    if values["language"].segment + values["language"].task == 0:
        raise SpecError(document["language"].mark, "expected a weight above 0 for segment or task, found both 0")
    factors = document["group_multipliers"] if "group_multipliers" in document else None
    if factors is not None:
        values["group_multipliers"] = tuple((k, v.value, factors.key_marks[k]) for k, v in factors.value.items())
    name, seed, draws = document.plain("name"), document.plain("seed", 0), document.plain("draws")
    return MixtureSpec(name=name, path=file, seed=seed, root=node, draws=draws, stage=stage, layout=layout, **values)


def _layout(document: MarkedValue) -> str:
    """The layout that a spec names, else the default one. Raises SpecError for one that is unknown."""
    name: str = document.plain("layout", LAYOUT)
    try:
        return get_layout(name).name
    except UsageError as error:
        raise SpecError(document["layout"].mark, str(error)) from error


def _named(path: str, root: str | None) -> tuple[Path, str | None]:
    """The file of a spec that may be named as `embodimix:NAME`, and where its relative paths start."""
    if not path.startswith(PREFIX):
        return Path(path), root
    file, is_shipped = find_spec(path.removeprefix(PREFIX))
    return file, root or ("." if is_shipped else None)


def _paths(node: Node, path: str = "") -> list[str]:
    """The paths of all nodes below one."""
    inner = [(f"{path}/{child.name}" if path else child.name, child) for child in node.nodes]
    return [found for inner_path, child in inner for found in (inner_path, *_paths(child, inner_path))]


@dataclass(frozen=True, kw_only=True)
class _Context:
    """What an outer part of a spec hands down to an inner one.

    stack: the files being read, outermost first. root: where relative paths start, if an outer part sets it; base:
    where they start here. folder: that of the file being read. path: names of the nodes that lead here; changes: what
    the stage changes in nodes. n_slots: of the mixture's layout.
    """

    stack: tuple[Path, ...]
    n_slots: int
    root: str | None = None
    base: str = "."
    folder: str = "."
    weighting: Weighting = Weighting()
    filters: tuple[Filter, ...] = ()
    max_epochs: float | None = None
    min_share: float = 0.0
    path: str = ""
    changes: GroupChanges = GroupChanges()


def _mixture_node(document: MarkedValue, file: Path, context: _Context) -> Node:
    context = replace(
        context,
        folder=str(file.parent),
        base=context.root or resolve_path(document.plain("root", "."), str(file.parent)),
        weighting=_weighting(document, context.weighting),
        filters=context.filters + parse_filters(document, context.n_slots),
    )
    nodes = _nodes(document, file, context)
    entries = _entries(document, context)
    if not nodes and not entries:
        raise SpecError(document.mark, "expected `groups` or `datasets`, found neither")
    if nodes and entries:
        message = "expected either `groups` or `datasets`, found both; put these datasets in a group with a name"
        raise SpecError(document.key_marks["datasets"], message)
    _check_shares(nodes, document.key_marks.get("groups", document.mark))
    return Node(name="", mark=document.mark, weighting=context.weighting, nodes=nodes, entries=entries)


def _nodes(document: MarkedValue, file: Path, context: _Context) -> tuple[Node, ...]:
    nodes: list[Node] = []
    for item in document.plain("groups", []):
        path = f"{context.path}/{item.plain('name')}" if context.path else item.plain("name")
        if path in context.changes.left_out:
            continue
        item = changed(item, context.changes.overrides.get(path))
        node = _node(item, file, replace(context, path=path))
        twin = next((other for other in nodes if other.name == node.name), None)
        if twin:
            message = f"two groups are named {node.name!r}; the first is on line {twin.mark.line}"
            raise SpecError(item["name"].mark, message)
        nodes.append(node)
    if "groups" in document and not nodes:
        raise SpecError(
            document.key_marks["groups"], "the stage leaves out every group here; leave out what holds them"
        )
    return tuple(nodes)


def _node(item: MarkedValue, file: Path, context: _Context) -> Node:
    name = item.plain("name")
    holds = [key for key in ("include", "datasets", "groups") if key in item]
    if len(holds) != 1:
        found = " and ".join(holds) if holds else "none of them"
        raise SpecError(item.mark, f"group {name!r}: expected one of include, datasets or groups, found {found}")
    # An outer root wins over the included file's own, so that a shipped mixture works with datasets stored elsewhere.
    root = resolve_path(item.plain("root"), str(file.parent)) if "root" in item else context.root
    context = replace(
        context,
        root=root,
        base=root or context.base,
        weighting=_weighting(item, context.weighting),
        filters=context.filters + parse_filters(item, context.n_slots),
        max_epochs=item.plain("max_epochs", context.max_epochs),
        min_share=item.plain("min_share", context.min_share),
    )
    weighting = context.weighting
    nodes, entries = _nodes(item, file, context), _entries(item, context)
    if "include" in item:
        included = _included(item["include"], file, context)
        # The included spec keeps its own weighting below this node: its author chose it for these groups.
        nodes, entries, weighting = included.nodes, included.entries, included.weighting
    elif nodes:
        _check_shares(nodes, item.key_marks["groups"])
    return Node(
        name=name,
        mark=item.mark,
        weighting=weighting,
        share=item.plain("share"),
        multiplier=item.plain("multiplier", 1.0),
        nodes=nodes,
        entries=entries,
    )


def _included(include: MarkedValue, file: Path, context: _Context) -> Node:
    if include.value.startswith(PREFIX):
        try:
            path, is_shipped = find_spec(include.value.removeprefix(PREFIX))
        except UsageError as error:
            raise SpecError(include.mark, str(error)) from error
        # The folder of the package holds no datasets: those of a shipped spec lie where the including file's do.
        context = replace(context, root=context.root or context.base) if is_shipped else context
    else:
        path = Path(resolve_path(include.value, str(file.parent)))
    # By the real path: a link to an outer file is a circle, too.
    if path.resolve() in context.stack:
        chain = " -> ".join(p.name for p in (*context.stack, path))
        raise SpecError(include.mark, f"include goes in a circle: {chain}")
    if not path.is_file():
        raise SpecError(include.mark, f"expected a mixture spec to include, found no file {path}")
    inner = replace(context, stack=(*context.stack, path.resolve()))
    document = changed(read_document(path, MIXTURE, NAMED), context.changes.overrides.get(context.path), ("weighting",))
    return _mixture_node(document, path, inner)


def _entries(document: MarkedValue, context: _Context) -> tuple[Entry, ...]:
    entries = [_entry(item, context) for item in document.plain("datasets", [])]
    seen: dict[tuple[object, ...], Entry] = {}
    for entry in entries:
        # Filters are part of what a dataset is here: one half may be weighed apart from the other.
        rules = tuple(rule.rule for rule in entry.filters)
        other = seen.setdefault((*entry.source, rules), entry)
        if other is not entry:
            raise SpecError(entry.mark, f"the same dataset is listed twice; the first is on line {other.mark.line}")
    return tuple(entries)


def _entry(item: MarkedValue, context: _Context) -> Entry:
    plain = {key: item.plain(key) for key in item.value if key not in ("path", "filters", "sizes", "segments")}
    limits = {"max_epochs": context.max_epochs, "min_share": context.min_share}
    return Entry(
        path=resolve_path(item.plain("path"), context.base),
        mark=item["path"].mark,
        filters=context.filters + parse_filters(item, context.n_slots),
        segments=tuple(resolve_path(table.value, context.folder) for table in item.plain("segments", [])),
        sizes=Sizes(**_plain(item, "sizes")) if "sizes" in item else None,
        **(limits | plain),
    )


def _weighting(document: MarkedValue, inherited: Weighting) -> Weighting:
    if "weighting" not in document:
        return inherited
    item = document["weighting"]
    if "alpha" in item and "temperature" in item:
        raise SpecError(item["temperature"].mark, "expected either alpha or temperature, found both")
    alpha = item.plain("alpha", inherited.alpha)
    if "temperature" in item:
        alpha = alpha_from_temperature(item.plain("temperature"))
    group_by = tuple(key.value for key in item.plain("group_by", [])) or inherited.group_by
    if len(set(group_by)) < len(group_by):
        raise SpecError(item["group_by"].mark, f"expected each key once in group_by, found {', '.join(group_by)}")
    return Weighting(alpha=alpha, group_by=group_by, count=item.plain("count", inherited.count))


def _check_shares(nodes: tuple[Node, ...], mark: Mark) -> None:
    shares = [node.share for node in nodes if node.share is not None]
    total = sum(shares)
    listed = " + ".join(f"{share:g}" for share in shares)
    # Decimal shares such as 0.1 add up to 1 only within rounding.
    if total > 1 + 1e-9:
        raise SpecError(mark, f"expected fixed shares of at most 1 in all, found {listed} = {total:g}")
    free = [node.name for node in nodes if node.share is None]
    if nodes and not free and total < 1 - 1e-6:
        raise SpecError(mark, f"every group has a fixed share, so they must add up to 1; found {listed} = {total:g}")
    if free and total > 1 - 1e-9:
        raise SpecError(mark, f"the fixed shares take all draws and leave nothing for {', '.join(map(repr, free))}")


def _plain(document: MarkedValue, key: str) -> dict[str, Any]:
    return {name: located.value for name, located in document.plain(key, {}).items()}


def alpha_from_temperature(temperature: float) -> float:
    """The power that equals a sampling temperature: p ~ n ** (1 / T).

    >>> round(alpha_from_temperature(2.3256), 4)
    0.43
    """
    return 1.0 / temperature
