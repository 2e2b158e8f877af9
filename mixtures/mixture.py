"""An opened mixture: its groups and shares, what each split holds, merged statistics, and its lock."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixtures.actions import Normalizer
from mixtures.compiled import Table, cache_folder, open_table
from mixtures.document import SpecError
from mixtures.groups import Group, SplitIndex, leaf_of, split_index, summarize_group
from mixtures.locks import compare_locks, make_lock
from mixtures.relative import relative_statistics
from mixtures.selection import Grouped, select_groups
from mixtures.spec import Entry, Node, Spec, load_spec
from mixtures.weights import Branch, Leaf, resolve_shares
from pipelines.errors import EmbodimixError, FailedWork, UsageError, nearest
from pipelines.slots import CAMERAS
from pipelines.statistics import NormStatistics, load_statistics, merge_statistics, save_statistics


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """A spec with its datasets open; see `open_mixture`. tree: what the groups' shares follow from.

    statistics: by norm key, merged over the datasets; absolute_statistics: the same where actions are relative.
    """

    spec: Spec
    draws: int | None
    tables: tuple[Table, ...]
    tree: Branch
    groups: tuple[Group, ...]
    splits: Mapping[str, SplitIndex]
    statistics: Mapping[str, NormStatistics]
    absolute_statistics: Mapping[str, NormStatistics]
    parts: Mapping[str, Mapping[str, tuple[int, ...]]]
    normalizer: Normalizer

    @property
    def horizon(self) -> int:
        return self.spec.action.horizon

    @cached_property
    def cameras(self) -> tuple[str, ...]:
        """The camera slots that any dataset has."""
        return tuple(camera for camera in CAMERAS if any(camera in table.cameras for table in self.tables))

    @cached_property
    def probabilities(self) -> NDArray[np.float64]:
        """Share of all draws of each group, float64 [g]."""
        return np.array([group.probability for group in self.groups])

    def group_index(self, name: str) -> int:
        """The index of a group. Raises UsageError with the nearest names."""
        names = [group.name for group in self.groups]
        if name not in names:
            raise UsageError(f"mixture {self.spec.name!r} has no group {name!r}. {nearest(name, names)}")
        return names.index(name)

    def action_mean(self, norm_key: str) -> NDArray[np.float64]:
        """The mean physical action of a norm key, float64 [18]."""
        return self.absolute_statistics[norm_key].action.mean

    def normalize_state(self, norm_keys: Sequence[str], state: Any, state_mask: Any) -> NDArray[np.float32]:
        """See `Normalizer.normalize_state`."""
        return self.normalizer.normalize_state(norm_keys, state, state_mask)

    def normalize_action(
        self, norm_keys: Sequence[str], action: Any, state: Any, state_mask: Any, action_mask: Any
    ) -> NDArray[np.float32]:
        """See `Normalizer.normalize_action`."""
        return self.normalizer.normalize_action(norm_keys, action, state, state_mask, action_mask)

    def unnormalize_action(
        self, norm_keys: Sequence[str], action: Any, state: Any, state_mask: Any, action_mask: Any
    ) -> NDArray[np.float32]:
        """See `Normalizer.unnormalize_action`."""
        return self.normalizer.unnormalize_action(norm_keys, action, state, state_mask, action_mask)

    def unnormalize_batch_action(self, batch: Any, action: Any) -> NDArray[np.float32]:
        """`unnormalize_action` for the samples of a batch."""
        masks = batch.state_mask, batch.action_mask
        return self.unnormalize_action(batch.norm_key, action, batch.state_physical, *masks)

    def save_statistics(self, path: Path) -> None:
        """Writes the statistics that this mixture normalizes with."""
        save_statistics(path, self.statistics, self.spec.action.normalization)

    def lock(self) -> dict[str, Any]:
        """Everything that decides what is drawn and how it is normalized, as JSON; see `mixtures.locks`."""
        return make_lock(self)

    def check_lock(self, lock: Mapping[str, Any]) -> None:
        """Raises FailedWork that lists every difference where the mixture is no longer the one that was locked."""
        differences = compare_locks(lock, json.loads(json.dumps(self.lock())))
        if differences:
            listed = "\n  ".join(differences)
            raise FailedWork(
                f"{self.spec.path}: the mixture is not the one that was locked:\n  {listed}\n"
                "Restore the datasets and the spec, or lock it anew and start a new run."
            )


def open_mixture(
    path: str | Path, *, draws: int | None = None, root: str | None = None, cache: str | Path | None = None,
    statistics: Path | None = None,
) -> Mixture:  # fmt: skip
    """Opens a mixture spec: reads it, opens and compiles its datasets' indices, resolves groups, shares, statistics.

    draws: samples that training will draw, for max_epochs, in place of the spec's. root: where relative dataset paths
    start, in place of the spec's. cache: the folder of compiled indices (see `cache_folder`). statistics: a
    statistics file whose norm keys replace the merged ones, so that post-training normalizes as pretraining did.

    Raises UsageError for mistakes in the spec (with file, line and column), FailedWork for datasets that are missing,
    incomplete or changed.
    """
    spec = load_spec(path, root)
    cache = cache_folder(cache)
    tables = _open_tables(spec, cache)
    grouped = select_groups(spec, tables)
    draws = draws or spec.draws
    tree = _tree_of(spec, grouped, draws)
    groups = _shared_out(tree, grouped)
    numbers = {id(table): i for i, table in enumerate(tables.values())}
    keys = sorted({key for group in groups for key in group.norm_keys})
    absolute = _merged_statistics(spec, tables, keys)
    parts = {key: _parts(key, tables.values()) for key in keys}
    used = dict(absolute)
    if spec.action.mode == "relative_to_first_state":
        used = relative_statistics(absolute, tuple(tables.values()), parts, spec.action.horizon, cache)
    if statistics is not None:
        used |= {key: value for key, value in load_statistics(statistics).items() if key in used}
    action = spec.action
    return Mixture(
        spec=spec, draws=draws, tables=tuple(tables.values()), tree=tree, groups=groups,
        splits={
            "train": split_index([group.train for group in grouped], numbers),
            "validation": split_index([group.validation for group in grouped], numbers),
        },
        statistics=used, absolute_statistics=absolute, parts=parts,
        normalizer=Normalizer(statistics=used, parts=parts, mode=action.mode, normalization=action.normalization),
    )  # fmt: skip


def _tree_of(spec: Spec, grouped: Sequence[Grouped], draws: int | None) -> Branch:
    by_node: dict[int, list[Leaf]] = {}
    for group in grouped:
        by_node.setdefault(id(group.node), []).append(leaf_of(group, draws))
    return share_tree(spec.root, by_node)


def _shared_out(tree: Branch, grouped: Sequence[Grouped]) -> tuple[Group, ...]:
    """Gives every group its share."""
    shares = {share.name: share for share in resolve_shares(tree)}
    all_steps = sum(int(part.counts.sum()) for group in grouped for part in group.train)
    return tuple(summarize_group(group, shares[group.name], all_steps) for group in grouped)


def share_tree(node: Node, leaves: Mapping[int, Sequence[Leaf]]) -> Branch:
    """The tree of shares of a spec; leaves: the numbers of the groups of each node, by the node's `id`."""
    inner = tuple(share_tree(child, leaves) for child in node.nodes)
    return Branch(
        name=node.name, alpha=node.weighting.alpha, share=node.share, multiplier=node.multiplier,
        children=(*leaves.get(id(node), ()), *inner),
    )  # fmt: skip


def _open_tables(spec: Spec, cache: Path) -> dict[tuple[str, str], Table]:
    tables: dict[tuple[str, str], Table] = {}
    for entry in spec.root.all_entries():
        if (entry.path, entry.split) not in tables:
            tables[entry.path, entry.split] = _open_table(entry, cache)
    return tables


def _open_table(entry: Entry, cache: Path) -> Table:
    try:
        return open_table(entry.path, entry.split, cache)
    except UsageError as error:
        raise SpecError(entry.mark, str(error)) from error
    except EmbodimixError as error:
        raise FailedWork(f"{entry.mark}: {error}{_near_folders(Path(entry.path))}") from error


def _near_folders(path: Path) -> str:
    """Folders beside the first part of a path that does not exist, as the end of an error sentence."""
    missing = path
    while not missing.parent.is_dir() and missing.parent != missing:
        missing = missing.parent
    if missing.exists() or not missing.parent.is_dir():
        return ""
    folders = [p.name for p in missing.parent.iterdir() if p.is_dir()]
    return f". In {missing.parent}: {nearest(missing.name, folders)}" if folders else f". {missing.parent} is empty"


def _merged_statistics(
    spec: Spec, tables: Mapping[tuple[str, str], Table], keys: Sequence[str]
) -> dict[str, NormStatistics]:
    """The statistics of all datasets of a mixture, merged by norm key. Raises FailedWork where some are missing."""
    loaded: dict[str, dict[str, NormStatistics]] = {}
    for entry in spec.root.all_entries():
        file = Path(entry.path) / "statistics.json"
        if entry.path not in loaded:
            loaded[entry.path] = load_statistics(file)
        missing = set(tables[entry.path, entry.split].vocabularies["norm_key"]) - set(loaded[entry.path])
        if missing:
            raise FailedWork(f"{entry.mark}: {file}: expected statistics of {', '.join(sorted(missing))}, found none")
    merged = merge_statistics(list(loaded.values()))
    return {key: merged[key] for key in keys}


def _parts(norm_key: str, tables: Iterable[Table]) -> dict[str, tuple[int, ...]]:
    """The action slots of each part of the robots of a norm key: all that any episode names."""
    parts: dict[str, set[int]] = {}
    for table in tables:
        if norm_key not in table.vocabularies["norm_key"]:
            continue
        mine = table.codes("norm_key") == table.vocabularies["norm_key"].index(norm_key)
        for code in np.unique(table.codes("parts")[mine]):
            for part, slots in json.loads(table.vocabularies["parts"][code]).items():
                parts.setdefault(part, set()).update(slots)
    return {part: tuple(sorted(slots)) for part, slots in parts.items()}
