"""Plans without the datasets: from published sizes in the spec, or from statistics files alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mixtures.groups.selection import walk
from mixtures.groups.tree import GroupFacts, limits_of, share_out
from mixtures.reports.plan import MixturePlan
from mixtures.specs.spec import Entry, MixtureSpec, Node, Sizes
from pipelines.contract.document import SpecError
from pipelines.shards.statistics import load_statistics


def plan_published(spec: MixtureSpec, draws: int | None) -> MixturePlan:
    """A plan without the datasets: from the sizes in the spec, or else from their statistics files.

    Raises SpecError for a dataset that has neither.
    """
    draws = draws or spec.draws
    facts = []
    for path, node in walk(spec.root):
        members: dict[str, list[_Published]] = {}
        for published in (published for entry in node.entries for published in _published(entry, node)):
            members.setdefault(published.label, []).append(published)
        facts += [_facts(path, label, parts) for label, parts in sorted(members.items())]
    tree, groups = share_out(spec, facts, draws)
    return MixturePlan(
        name=spec.name,
        path=str(spec.path),
        seed=spec.seed,
        draws=draws,
        tree=tree,
        groups=groups,
        is_published=True,
        stage=spec.stage,
    )


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
        label="@".join(values[key] for key in node.weighting.group_by),
        entry=entry,
        robot=robot,
        steps=min(sizes.steps, entry.cap_steps or sizes.steps),
        episodes=sizes.episodes,
        control_hz=sizes.control_hz,
    )


def _facts(path: str, label: str, parts: Sequence[_Published]) -> GroupFacts:
    steps = [part.steps for part in parts]
    known = [part for part in parts if part.control_hz > 0]
    steps_of: dict[str, int] = {}
    episodes_of: dict[str, int] = {}
    for part in parts:
        dataset = "/".join(Path(part.entry.path).parts[-2:])
        steps_of[dataset] = steps_of.get(dataset, 0) + part.steps
        episodes_of[dataset] = episodes_of.get(dataset, 0) + part.episodes
    return GroupFacts(
        name=f"{path}/{label}" if path else label,
        node_path=path,
        n_steps=sum(steps),
        n_episodes=sum(part.episodes for part in parts),
        n_validation_episodes=0,
        n_validation_steps=0,
        hours=sum(part.steps / part.control_hz for part in known) / 3600,
        **limits_of([part.entry for part in parts], steps),
        robot=tuple(sorted({part.robot for part in parts})),
        control_hz=tuple(sorted({part.control_hz for part in known})),
        norm_keys=(),
        datasets=tuple(steps_of),
        dataset_steps=tuple(steps_of.values()),
        dataset_episodes=tuple(episodes_of.values()),
        language=None,
        segments=None,
        cameras={},
        slots=(),
    )
