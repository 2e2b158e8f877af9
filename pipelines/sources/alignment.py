"""Streams with their own rates and clocks brought to one control rate, with a report of skew, gaps and lost frames."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Nanoseconds = NDArray[np.int64]
Floats = NDArray[np.float64]
# A command stream within this of the control rate is the clock itself; any other is resampled.
RATE_TOLERANCE = 0.1
# A pause longer than this many usual periods is a gap.
GAP_PERIODS = 1.5


@dataclass(frozen=True, kw_only=True)
class StreamReport:
    """What one stream is like: its usual period, its longest pause, how often it paused, samples lost in pauses."""

    period_ms: float
    longest_pause_ms: float
    n_gaps: int
    n_lost: int


def report_stream(stamps: Nanoseconds) -> StreamReport:
    """Measures a stream's stamps, ns, strictly increasing.

    >>> report_stream(np.array([0, 10, 20, 50, 60]) * 1_000_000)
    StreamReport(period_ms=10.0, longest_pause_ms=30.0, n_gaps=1, n_lost=2)
    """
    if len(stamps) < 2:
        return StreamReport(period_ms=0.0, longest_pause_ms=0.0, n_gaps=0, n_lost=0)
    pauses = np.diff(stamps) / 1e6
    period = float(np.median(pauses))
    gaps = pauses[pauses > GAP_PERIODS * period]
    lost = int((np.round(gaps / period) - 1).sum())
    return StreamReport(period_ms=period, longest_pause_ms=float(pauses.max()), n_gaps=len(gaps), n_lost=lost)


def make_grid(command: Nanoseconds, first: int, last: int, control_hz: float) -> Nanoseconds:
    """Returns the stamps of the episode's steps, within `first` and `last` (ns): where every stream has begun.

    The command stream itself is the grid where it runs at the control rate, so that every action is a command as it
    was given; otherwise the grid is even at the control rate.
    """
    inside = command[(command >= first) & (command <= last)]
    if len(inside) > 1:
        rate = 1e9 / float(np.median(np.diff(inside)))
        if abs(rate / control_hz - 1) <= RATE_TOLERANCE:
            return inside
    start = max(first, int(command[0]))
    n = int((last - start) * control_hz / 1e9) + 1 if last >= start else 0
    return start + np.round(np.arange(n) * 1e9 / control_hz).astype(np.int64)


def latest_index(stamps: Nanoseconds, grid: Nanoseconds) -> NDArray[np.int64]:
    """Returns, for every grid time, the number of the last sample that is not in the future; -1 before the first.

    >>> latest_index(np.array([0, 10, 20]), np.array([-1, 9, 10, 25]))
    array([-1,  0,  1,  2])
    """
    return np.searchsorted(stamps, grid, side="right") - 1


def hold(stamps: Nanoseconds, values: Floats, grid: Nanoseconds) -> Floats:
    """Returns the last value not in the future [t, k]: for commands, and for grippers, which must not pass through
    widths that they never had when they switch."""
    return values[latest_index(stamps, grid)]


def interpolate(stamps: Nanoseconds, values: Floats, grid: Nanoseconds) -> Floats:
    """Returns values [t, k] linear between samples; times relative to the grid's start keep their nanoseconds."""
    x = (stamps - grid[0]).astype(np.float64)
    at = (grid - grid[0]).astype(np.float64)
    return np.stack([np.interp(at, x, column) for column in values.T], axis=1)
