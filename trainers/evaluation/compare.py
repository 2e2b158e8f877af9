"""Two runs on the same held-out samples: differences of their errors, with bootstrap intervals over episodes."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.errors import FailedWork, UsageError
from pipelines.storage.files import write_atomically
from trainers.evaluation.evaluate import EvaluationRequest, evaluate
from trainers.run import RunDirectory

SCHEMA = "embodimix.compare/v1"
RESAMPLES = 2000


def compare(request: EvaluationRequest, other: Path) -> dict[str, Any]:
    """Evaluates both runs on the first one's mixture (or `spec`) and writes RUN/eval/against_<other>.json.

    A difference is the other run's error minus this one's, in units of the normalization: below zero, the other one
    is better. UsageError if the mixture does not fit the other run.
    """
    if request.run.resolve() == other.resolve():
        raise UsageError(f"--compare {other}: expected another run than the one compared with")
    if request.spec is None:
        own = RunDirectory(request.run).read_config()
        request = dataclasses.replace(request, spec=Path(own.mixture), stage=own.stage)
    reports = [evaluate(dataclasses.replace(request, run=run)) for run in (request.run, other)]
    samples = [json.loads(Path(report["sample_errors"]).read_text()) for report in reports]
    groups, resampled, shares = [], [], []
    for group in reports[0]["groups"]:
        if not group["samples"]:
            continue
        first, second = (of_run[group["name"]] for of_run in samples)
        if first["names"] != second["names"]:
            raise FailedWork(f"group {group['name']}: the runs were not evaluated on the same samples")
        difference = np.array(second["error"]) - np.array(first["error"])
        means = resampled_means(difference, episodes_of(first["names"]), request.seed)
        errors = [float(np.mean(of_run["error"])) for of_run in (first, second)]
        groups.append({"name": group["name"], "samples": group["samples"]} | _row(errors, means))
        resampled.append(means)
        shares.append(group["share"])
    weights = np.array(shares) / np.sum(shares)
    totals = [float(weights @ [group[side] for group in groups]) for side in ("this", "other")]
    report = {
        "schema": SCHEMA,
        "this": _named(reports[0]),
        "other": _named(reports[1]),
        "mixture": reports[0]["mixture"],
        "groups": groups,
        "overall": _row(totals, weights @ np.stack(resampled)),
    }
    path = request.run / "eval" / f"against_{other.resolve().name}.json"
    write_atomically(path, json.dumps(report, indent=1).encode())
    return report


def resampled_means(values: NDArray[np.float64], episode: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """The mean in 2000 draws of as many episodes with replacement; steps of an episode are alike and stay together."""
    n = int(episode.max()) + 1
    sums, counts = np.bincount(episode, values, n), np.bincount(episode, minlength=n)
    chosen = np.random.default_rng(seed).integers(0, n, (RESAMPLES, n))
    return sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1)


def episodes_of(names: list[str]) -> NDArray[np.int64]:
    """Numbers the episodes of samples named dataset/episode/step.

    >>> episodes_of(["d/b/0", "d/a/7", "d/b/3"])
    array([1, 0, 1])
    """
    return np.unique([name.rpartition("/")[0] for name in names], return_inverse=True)[1]


def render(report: Mapping[str, Any]) -> str:
    """The comparison as a table."""
    lines = [
        f"this:  {report['this']}\nother: {report['other']}\nheld-out episodes of {report['mixture']}; "
        "errors in units of the normalization, intervals of 95 %",
        f"{'group':<40} {'this':>9} {'other':>9} {'difference':>11}  {'interval':<22}",
    ]
    for row in [*report["groups"], {"name": "all groups, by share"} | report["overall"]]:
        worse = "this is better" if row["low"] > 0 else "no clear difference"
        verdict = "other is better" if row["high"] < 0 else worse
        lines.append(
            f"{row['name']:<40} {row['this']:>9.4f} {row['other']:>9.4f} {row['difference']:>+11.4f}  "
            f"[{row['low']:+.4f}, {row['high']:+.4f}]  {verdict}"
        )
    return "\n".join(lines)


def _row(errors: list[float], means: NDArray[np.float64]) -> dict[str, float]:
    low, high = np.quantile(means, [0.025, 0.975])
    difference = errors[1] - errors[0]
    return {"this": errors[0], "other": errors[1], "difference": difference, "low": float(low), "high": float(high)}


def _named(report: Mapping[str, Any]) -> str:
    return f"{report['run']} at step {report['step']}"
