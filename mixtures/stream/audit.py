"""The audit of a running stream: what was drawn beside what the mixture promises, window by window."""

import math
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixtures.mixture import Mixture
from mixtures.stream.batches import Batch

WINDOW = 100_000
MIN_EXPECTED = 5.0
ALARM_P = 1e-6


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """One window of draws against the planned shares.

    p_value: the chance of so large a deviation in independent draws with the planned shares; exact counts come out
    near 1. off_by: the largest difference of a share, of worst_group. excess_repeats: draws of steps that were drawn
    more often than whole epochs allow. data_wait: part of the time that training waited for data.
    """

    start: int
    draws: int
    chi_square: float
    degrees: int
    p_value: float
    off_by: float
    worst_group: str
    excess_repeats: int
    data_wait: float

    @property
    def is_alarming(self) -> bool:
        """Whether what was drawn is not what was planned."""
        return self.p_value < ALARM_P or self.excess_repeats > 0

    def __str__(self) -> str:
        verdict = "NOT what the mixture plans" if self.is_alarming else "what the mixture plans"
        return (
            f"audit: {self.draws:,} draws from position {self.start:,} are {verdict}: chi-square {self.chi_square:.1f} "
            f"over {self.degrees} degrees, p {self.p_value:.2g}; {self.worst_group} is off by "
            f"{100 * self.off_by:.3f} points; {self.excess_repeats} excess repeats; waited {self.data_wait:.1%}"
        )


class Audit:
    """Counts the batches of training as they come, from their own names and groups alone.

    window: draws of a report. A host audits the rows that it gets.
    """

    def __init__(self, mixture: Mixture, window: int = WINDOW) -> None:
        self.names = [group.name for group in mixture.groups]
        self.shares = mixture.probabilities
        self.sizes = np.array([group.n_steps for group in mixture.groups])
        self.window = window
        self._start: int | None = None
        self._wait_s = 0.0
        self._begin()

    def add(self, batch: Batch, wait_s: float = 0.0) -> AuditReport | None:
        """Counts a batch, for which training waited `wait_s`; returns a report where a window is full."""
        if self._start is None:
            self._start = int(batch.position[0])
        self._counts += np.bincount(batch.group, minlength=len(self.shares))
        self._samples.update(zip(batch.group.tolist(), batch.names, strict=True))
        self._wait_s += wait_s
        return self.report() if self._counts.sum() >= self.window else None

    def report(self) -> AuditReport | None:
        """The report of what came since the last one, None for nothing; a new window begins."""
        if self._start is None:
            return None
        draws = int(self._counts.sum())
        statistic, degrees, p_value = chi_square(self._counts, self.shares)
        deviation = np.abs(self._counts / draws - self.shares)
        worst = int(deviation.argmax())
        elapsed_s = max(time.perf_counter() - self._began_s, 1e-9)
        report = AuditReport(
            start=self._start,
            draws=draws,
            chi_square=statistic,
            degrees=degrees,
            p_value=p_value,
            off_by=float(deviation[worst]),
            worst_group=self.names[worst],
            excess_repeats=self._excess_repeats(),
            data_wait=min(self._wait_s / elapsed_s, 1.0),
        )
        self._begin()
        return report

    def _begin(self) -> None:
        self._counts = np.zeros(len(self.shares), np.int64)
        self._samples: Counter[tuple[int, str]] = Counter()
        self._start, self._wait_s = None, 0.0
        self._began_s = time.perf_counter()

    def _excess_repeats(self) -> int:
        """A window that holds `d` draws of a group of `n` steps touches at most d // n + 2 of its epochs."""
        allowed = self._counts // self.sizes + 2
        return sum(max(times - int(allowed[group]), 0) for (group, _), times in self._samples.items())


def chi_square(counts: NDArray[np.int64], shares: NDArray[np.float64]) -> tuple[float, int, float]:
    """Pearson's statistic of counts against shares, its degrees of freedom, and its p-value.

    Groups that expect fewer than five draws are taken together. The p-value is Wilson and Hilferty's approximation.
    """
    expected = shares * counts.sum()
    rare = expected < MIN_EXPECTED
    observed, wanted = counts[~rare].astype(np.float64), expected[~rare]
    if expected[rare].sum() > 0:
        observed, wanted = np.append(observed, counts[rare].sum()), np.append(wanted, expected[rare].sum())
    degrees = len(wanted) - 1
    if degrees < 1:
        return 0.0, 0, 1.0
    statistic = float(((observed - wanted) ** 2 / wanted).sum())
    spread = 2 / (9 * degrees)
    score = ((statistic / degrees) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)
    return statistic, degrees, 0.5 * math.erfc(score / math.sqrt(2))
