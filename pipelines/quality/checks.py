"""All checks of a stored dataset: each measures every episode by itself, then concludes from all of a norm key."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipelines.contract.errors import FailedWork
from pipelines.contract.words import counted
from pipelines.quality.cameras import conclude_views, measure_views
from pipelines.quality.contents import conclude_duplicates, conclude_language, measure_identity, measure_language
from pipelines.quality.findings import Finding, finding
from pipelines.quality.grippers import conclude_polarity, conclude_range, measure_grippers
from pipelines.quality.scale import Moves, Ratio, conclude_units, measure_moves, measure_ratios
from pipelines.quality.streams import (
    conclude_clock,
    conclude_far_values,
    conclude_stillness,
    measure_clock,
    measure_far_value,
    measure_stillness,
)
from pipelines.quality.tracking import conclude_lag, conclude_meaning, measure_tracking
from pipelines.shards.dataset import Dataset, ShardPaths
from pipelines.shards.stored_episodes import StoredEpisode, iter_shard

_SEVERITIES = ("error", "warning")


@dataclass(frozen=True, kw_only=True)
class Check:
    """measure: what one episode shows, None for nothing. conclude: each turns scope and measurements into findings.

    is_per_norm_key: whether conclusions are drawn for every norm key apart, or for the whole dataset.
    needs_vectors_only: whether it looks at state, action and times alone.
    """

    measure: Callable[[StoredEpisode], Any]
    conclude: tuple[Callable[[str, Sequence[Any]], list[Finding]], ...]
    is_per_norm_key: bool = True
    needs_vectors_only: bool = False


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What the checks found, errors first, and per norm key the measured ratio of motion to command."""

    findings: tuple[Finding, ...]
    ratios: Mapping[str, tuple[Ratio, ...]]

    def to_json(self) -> dict[str, Any]:
        ratios = {key: [asdict(ratio) for ratio in found] for key, found in self.ratios.items()}
        return {
            "findings": [finding.to_json(with_episodes=True) for finding in self.findings],
            "measured_ratios": ratios,
        }


def checks_of(dataset: Dataset) -> tuple[Check, ...]:
    """Every check there is."""
    return (
        Check(measure=measure_grippers, conclude=(conclude_polarity, conclude_range), needs_vectors_only=True),
        Check(measure=measure_tracking, conclude=(conclude_lag, conclude_meaning), needs_vectors_only=True),
        Check(measure=measure_moves, conclude=(conclude_units,), needs_vectors_only=True),
        Check(measure=measure_clock, conclude=(conclude_clock,), needs_vectors_only=True),
        Check(measure=measure_stillness, conclude=(conclude_stillness,)),
        Check(measure=lambda e: measure_far_value(e, dataset.statistics), conclude=(conclude_far_values,)),
        Check(measure=measure_identity, conclude=(conclude_duplicates,), is_per_norm_key=False),
        Check(measure=measure_language, conclude=(conclude_language,), is_per_norm_key=False),
        Check(measure=measure_views, conclude=(conclude_views,), is_per_norm_key=False),
    )


def check_dataset(dataset: Dataset, on_episode: Callable[[], object] = lambda: None) -> list[Finding]:
    """Returns the findings of `inspect_dataset`, errors first."""
    return list(inspect_dataset(dataset, on_episode).findings)


def inspect_vectors(dataset: Dataset, most_shards: int = 4) -> CheckReport:
    """Runs the checks that need no picture over the episodes of some shards, spread over the splits.

    So every conversion sees at its end whether grippers close the right way, units fit and streams belong together,
    at a cost that does not grow with the dataset.
    """
    every = [(split, files) for split in sorted(dataset.splits) for files in dataset.splits[split]]
    chosen = every[:: -(-len(every) // most_shards)] if every else []
    some: dict[str, tuple[ShardPaths, ...]] = {}
    for split, files in chosen:
        some[split] = (*some.get(split, ()), files)
    vectors = tuple(check for check in checks_of(dataset) if check.needs_vectors_only)
    return _inspect(replace(dataset, splits=some), vectors, lambda: None)


def inspect_dataset(dataset: Dataset, on_episode: Callable[[], object] = lambda: None) -> CheckReport:
    """Runs every check over every episode, one at a time.

    An episode or a shard that cannot be read is a finding that names it; the others are checked all the same.
    on_episode: is called after each episode.
    """
    return _inspect(dataset, checks_of(dataset), on_episode)


def _inspect(dataset: Dataset, checks: Sequence[Check], on_episode: Callable[[], object]) -> CheckReport:
    measured: list[dict[str, list[Any]]] = [defaultdict(list) for _ in checks]
    moves: dict[str, list[Moves]] = defaultdict(list)
    unreadable: list[str] = []
    whole = f"{dataset.name} {dataset.version}"
    for episode in _readable(dataset, unreadable):
        for check, by_scope in zip(checks, measured, strict=True):
            try:
                result = check.measure(episode)
            except (FailedWork, OSError) as error:
                unreadable.append(f"{episode.where} in {episode.shard.name}: {error}")
                continue
            if result is not None:
                by_scope[episode.norm_key if check.is_per_norm_key else whole].append(result)
            if isinstance(result, Moves):
                moves[episode.norm_key].append(result)
        on_episode()
    findings = [
        found
        for check, by_scope in zip(checks, measured, strict=True)
        for scope in sorted(by_scope)
        for conclude in check.conclude
        for found in conclude(scope, by_scope[scope])
    ]
    # Where the action is no target, the ratio of paths says nothing of units, and advice on them would mislead.
    mislabelled = {found.scope for found in findings if found.kind == "delta_as_absolute"}
    findings = [found for found in findings if found.kind != "scale" or found.scope not in mislabelled]
    findings += conclude_unreadable(whole, unreadable)
    return CheckReport(
        findings=tuple(sorted(findings, key=lambda found: _SEVERITIES.index(found.severity))),
        ratios={key: tuple(measure_ratios(found)) for key, found in sorted(moves.items())},
    )


def conclude_unreadable(scope: str, unreadable: Sequence[str]) -> list[Finding]:
    """What the shards hold can be read: a picture that cannot ends a training that draws it."""
    if not unreadable:
        return []
    advice = "Copy the shard again from where it was whole, or convert again without these episodes."
    evidence = f"{counted(unreadable, 'time')} an episode or a shard could not be read; the first: {unreadable[0]}"
    return [finding("unreadable", "error", scope, evidence, advice, unreadable)]


def _readable(dataset: Dataset, unreadable: list[str]) -> Iterator[StoredEpisode]:
    """Every episode whose shard has an index that can be read; the other shards are named in `unreadable`."""
    for split in sorted(dataset.splits):
        for files in dataset.splits[split]:
            try:
                yield from iter_shard(dataset, split, files)
            except (FailedWork, OSError, ValueError) as error:
                unreadable.append(f"{split}: index {files.sidecar.name}: {error}")
