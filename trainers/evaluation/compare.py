"""Two runs on the same held-out samples: differences of their errors, with bootstrap intervals over episodes."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.errors import FailedWork, UsageError
from pipelines.storage.files import write_atomically
from trainers.evaluation.evaluate import EvaluationRequest, evaluate
from trainers.evaluation.records import EvaluationReport
from trainers.run import RunDirectory

SCHEMA = "embodimix.compare/v1"
RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Errors of this run and the other, their difference, and its 95 % interval."""

    this: float
    other: float
    difference: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Which run is better, if the interval leaves zero out."""
        if self.high < 0:
            return "other is better"
        return "this is better" if self.low > 0 else "no clear difference"


@dataclass(frozen=True, kw_only=True)
class ComparedGroup:
    """One group's held-out samples under both runs."""

    name: str
    samples: int
    difference: Difference


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two runs on the same samples. this, other: each run and its step. overall: over the groups by their shares."""

    this: str
    other: str
    mixture: str
    groups: tuple[ComparedGroup, ...]
    overall: Difference

    def to_json(self) -> dict[str, Any]:
        """The comparison as `embodimix eval --compare --json` prints it."""
        groups = [
            {"name": group.name, "samples": group.samples} | dataclasses.asdict(group.difference)
            for group in self.groups
        ]
        return {"schema": SCHEMA} | dataclasses.asdict(self) | {"groups": groups}


def compare_runs(request: EvaluationRequest, other: Path) -> Comparison:
    """Evaluates both runs on the first one's mixture (or `spec`) and writes RUN/eval/against_<other>.json.

    A difference is the other run's error minus this one's, in units of the normalization: below zero, the other one
    is better. UsageError if the mixture does not fit the other run.
    """
    if request.run.resolve() == other.resolve():
        raise UsageError(f"--compare {other}: expected another run than the one compared with")
    if request.spec is None:
        own = RunDirectory(request.run).read_config()
        request = dataclasses.replace(request, spec=Path(own.mixture), stage=own.stage)
    first, second = (evaluate(dataclasses.replace(request, run=run)) for run in (request.run, other))
    groups, resampled = [], []
    for group in first.report.groups:
        here, there = first.samples[group.name], second.samples[group.name]
        if here.names != there.names:
            raise FailedWork(f"group {group.name}: the runs were not evaluated on the same samples")
        means = resampled_means(np.subtract(there.error, here.error), episodes_of(here.names), request.seed)
        difference = _difference(float(np.mean(here.error)), float(np.mean(there.error)), means)
        groups.append(ComparedGroup(name=group.name, samples=group.samples, difference=difference))
        resampled.append(means)
    shares = np.array([group.share for group in first.report.groups])
    weights = shares / shares.sum()
    totals = [float(weights @ [getattr(group.difference, side) for group in groups]) for side in ("this", "other")]
    comparison = Comparison(
        this=_named(first.report),
        other=_named(second.report),
        mixture=first.report.mixture,
        groups=tuple(groups),
        overall=_difference(totals[0], totals[1], weights @ np.stack(resampled)),
    )
    path = request.run / "eval" / f"against_{other.resolve().name}.json"
    write_atomically(path, json.dumps(comparison.to_json(), indent=1).encode())
    return comparison


def resampled_means(values: NDArray[np.float64], episode: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """The mean in 2000 draws of as many episodes with replacement; steps of an episode are alike and stay together."""
    n = int(episode.max()) + 1
    sums, counts = np.bincount(episode, values, n), np.bincount(episode, minlength=n)
    chosen = np.random.default_rng(seed).integers(0, n, (RESAMPLES, n))
    return sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1)


def episodes_of(names: Sequence[str]) -> NDArray[np.int64]:
    """Numbers the episodes of samples named dataset/episode/step.

    >>> episodes_of(["d/b/0", "d/a/7", "d/b/3"])
    array([1, 0, 1])
    """
    return np.unique([name.rpartition("/")[0] for name in names], return_inverse=True)[1]


def render(comparison: Comparison) -> str:
    """The comparison as a table."""
    lines = [
        f"this:  {comparison.this}\nother: {comparison.other}\nheld-out episodes of {comparison.mixture}; "
        "errors in units of the normalization, intervals of 95 %",
        f"{'group':<40} {'this':>9} {'other':>9} {'difference':>11}  {'interval':<22}",
    ]
    rows = [(group.name, group.difference) for group in comparison.groups]
    for name, row in [*rows, ("all groups, by share", comparison.overall)]:
        lines.append(
            f"{name:<40} {row.this:>9.4f} {row.other:>9.4f} {row.difference:>+11.4f}  "
            f"[{row.low:+.4f}, {row.high:+.4f}]  {row.verdict}"
        )
    return "\n".join(lines)


def _difference(this: float, other: float, means: NDArray[np.float64]) -> Difference:
    low, high = np.quantile(means, [0.025, 0.975])
    return Difference(this=this, other=other, difference=other - this, low=float(low), high=float(high))


def _named(report: EvaluationReport) -> str:
    return f"{report.run} at step {report.step}"
