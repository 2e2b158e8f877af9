"""All checks of a stored dataset: each measures every episode by itself, then concludes from all of a norm key."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.quality.cameras import conclude_views, measure_views
from pipelines.quality.contents import conclude_duplicates, conclude_language, measure_identity, measure_language
from pipelines.quality.findings import Finding
from pipelines.quality.grippers import conclude_polarity, measure_grippers
from pipelines.quality.scale import conclude_units, measure_moves
from pipelines.quality.streams import (
    conclude_clock,
    conclude_far_values,
    conclude_stillness,
    measure_clock,
    measure_far_value,
    measure_stillness,
)
from pipelines.quality.tracking import conclude_lag, conclude_meaning, measure_tracking
from pipelines.shards.dataset import Dataset
from pipelines.shards.stored_episodes import StoredEpisode, iter_stored

_SEVERITIES = ("error", "warning")


@dataclass(frozen=True, kw_only=True)
class Check:
    """measure: what one episode shows, None for nothing. conclude: each turns scope and measurements into findings.

    is_per_norm_key: whether conclusions are drawn for every norm key apart, or for the whole dataset.
    """

    measure: Callable[[StoredEpisode], Any]
    conclude: tuple[Callable[[str, Sequence[Any]], list[Finding]], ...]
    is_per_norm_key: bool = True


def checks_of(dataset: Dataset) -> tuple[Check, ...]:
    """Every check there is."""
    return (
        Check(measure=measure_grippers, conclude=(conclude_polarity,)),
        Check(measure=measure_tracking, conclude=(conclude_lag, conclude_meaning)),
        Check(measure=measure_moves, conclude=(conclude_units,)),
        Check(measure=measure_clock, conclude=(conclude_clock,)),
        Check(measure=measure_stillness, conclude=(conclude_stillness,)),
        Check(measure=lambda e: measure_far_value(e, dataset.statistics), conclude=(conclude_far_values,)),
        Check(measure=measure_identity, conclude=(conclude_duplicates,), is_per_norm_key=False),
        Check(measure=measure_language, conclude=(conclude_language,), is_per_norm_key=False),
        Check(measure=measure_views, conclude=(conclude_views,), is_per_norm_key=False),
    )


def check_dataset(dataset: Dataset, on_episode: Callable[[], object] = lambda: None) -> list[Finding]:
    """Runs every check over every episode, one at a time; returns the findings, errors first.

    on_episode: is called after each episode. Raises CorruptImage or CorruptRecord for a shard that cannot be read.
    """
    checks = checks_of(dataset)
    measured: list[dict[str, list[Any]]] = [defaultdict(list) for _ in checks]
    whole = f"{dataset.name} {dataset.version}"
    for episode in iter_stored(dataset):
        for check, by_scope in zip(checks, measured, strict=True):
            result = check.measure(episode)
            if result is not None:
                by_scope[episode.norm_key if check.is_per_norm_key else whole].append(result)
        on_episode()
    findings = [
        finding
        for check, by_scope in zip(checks, measured, strict=True)
        for scope in sorted(by_scope)
        for conclude in check.conclude
        for finding in conclude(scope, by_scope[scope])
    ]
    return sorted(findings, key=lambda finding: _SEVERITIES.index(finding.severity))
