"""Plans without the datasets: from published sizes in the spec, or from statistics files alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mixtures.document import SpecError
from mixtures.groups import Group
from mixtures.mixture import share_tree
from mixtures.plan import Plan
from mixtures.selection import walk
from mixtures.spec import Entry, Node, Sizes, Spec
from mixtures.weights import Leaf, Share, resolve_shares
from pipelines.errors import UsageError
from pipelines.statistics import load_statistics


def plan_published(spec: Spec, draws: int | None) -> Plan:
    """A plan without the datasets: from the sizes in the spec, or else from their statistics files.

    Raises SpecError for a dataset that has neither.
    """
    draws = draws or spec.draws
    leaves: dict[int, list[Leaf]] = {}
    sources: dict[str, list[_Published]] = {}
    for path, node in walk(spec.root):
        members: dict[str, list[_Published]] = {}
        for entry in node.entries:
            for published in _published(entry, node):
                members.setdefault(published.label, []).append(published)
        for label, parts in sorted(members.items()):
            name = f"{path}/{label}" if path else label
            leaves.setdefault(id(node), []).append(_published_leaf(name, parts, node, draws))
            sources[name] = parts
    tree = share_tree(spec.root, leaves)
    all_steps = sum(part.steps for parts in sources.values() for part in parts)
    groups = tuple(_published_group(share, sources[share.name], all_steps) for share in resolve_shares(tree))
    return Plan(
        name=spec.name, path=str(spec.path), seed=spec.seed, draws=draws, tree=tree, groups=groups, is_published=True
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Published:
    """What is known of one dataset, or of one norm key of it, without its index."""

    label: str
    entry: Entry
    steps: int
    episodes: int
    control_hz: float
    robot: str


def _published(entry: Entry, node: Node) -> list[_Published]:
    """One record for a dataset with sizes in the spec, one per norm key for a dataset with a statistics file."""
    if entry.sizes is not None:
        return [_record(entry, node, entry.sizes, entry.robot or "unknown", "unknown")]
    file = Path(entry.path) / "statistics.json"
    if not file.exists():
        raise SpecError(entry.mark, f"expected `sizes` in the spec or {file}, found neither")
    return [
        _record(entry, node, Sizes(steps=value.n_steps, episodes=value.n_episodes), *key.split("/")[:2])
        for key, value in load_statistics(file).items()
    ]


def _record(entry: Entry, node: Node, sizes: Sizes, robot: str, control_mode: str) -> _Published:
    name = Path(entry.path).parts[-2] if len(Path(entry.path).parts) > 1 else entry.path
    values = {"dataset": name, "task": entry.task or name, "robot": robot, "control_mode": control_mode}
    return _Published(
        label="@".join(values[key] for key in node.weighting.group_by), entry=entry, robot=robot,
        steps=min(sizes.steps, entry.cap_steps or sizes.steps), episodes=sizes.episodes, control_hz=sizes.control_hz,
    )  # fmt: skip


def _published_leaf(name: str, parts: Sequence[_Published], node: Node, draws: int | None) -> Leaf:
    steps = np.array([part.steps for part in parts], np.float64)
    entries = [part.entry for part in parts]
    limits = [entry.max_epochs for entry in entries if entry.max_epochs is not None]
    if limits and draws is None:
        raise UsageError(f"{entries[0].mark}: max_epochs needs the number of draws; give `draws:` or --draws")
    upper = min(limits) * steps.sum() / draws if limits and draws else 1.0
    counted = node.weighting.count
    counts = {
        "steps": steps.sum(), "episodes": sum(part.episodes for part in parts),
        "hours": sum(part.steps / part.control_hz for part in parts if part.control_hz > 0) / 3600,
    }  # fmt: skip
    if counts[counted] == 0:
        needed = {"hours": "control_hz"}.get(counted, counted)
        raise SpecError(entries[0].mark, f"expected `sizes` with {needed} to count by {counted}, found none")
    multiplier = float(steps @ [entry.multiplier for entry in entries] / steps.sum())
    return Leaf(
        name=name, count=float(counts[counted]), multiplier=multiplier,
        lower=max(entry.min_share for entry in entries), upper=min(upper, 1.0),
    )  # fmt: skip


def _published_group(share: Share, parts: Sequence[_Published], all_steps: int) -> Group:
    steps = sum(part.steps for part in parts)
    known = [part for part in parts if part.control_hz > 0]
    return Group(
        share=share, raw_share=steps / all_steps, n_episodes=sum(part.episodes for part in parts), n_steps=steps,
        n_validation_episodes=0, n_validation_steps=0, hours=sum(part.steps / part.control_hz for part in known) / 3600,
        robot=tuple(sorted({part.robot for part in parts})),
        control_hz=tuple(sorted({part.control_hz for part in known})), norm_keys=(),
        datasets=tuple(dict.fromkeys("/".join(Path(part.entry.path).parts[-2:]) for part in parts)),
        language=None, segments=None, cameras={}, slots=(),
    )  # fmt: skip
