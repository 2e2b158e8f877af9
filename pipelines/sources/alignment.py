"""Streams with their own rates and clocks brought to one control rate, with a report of skew, gaps and lost frames."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.episode import DroppedSteps
from pipelines.contract.native import Rejected
from pipelines.contract.reject_reasons import RejectReason

Nanoseconds = NDArray[np.int64]
Floats = NDArray[np.float64]
# A command stream within this of the control rate is the clock itself; any other is resampled.
RATE_TOLERANCE = 0.1
# A pause longer than this many usual periods is a gap.
GAP_PERIODS = 1.5
# A frame belongs to a row whose time is at most this share of a frame's period away. Half a period would also pair
# streams whose clocks run apart, where the error takes every value; a quarter leaves half of such rows without a frame.
FRAME_TOLERANCE = 0.25
# Clocks of equal counts may run apart so far: 30 frames a second are often stored as 29.97.
CLOCK_DRIFT = 0.002
# Encoders that reorder frames let a video begin so many periods late, however many frames it has.
ENCODER_DELAY = 3


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


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Which frame belongs to which row.

    frames: int64 [t], -1 where no frame is near enough. error_s: the largest distance in time of a pair. shift_s: how
    much later the frames' clock begins than the rows', which was taken off; 0 where both are one clock.
    """

    frames: NDArray[np.int64]
    error_s: float
    shift_s: float = 0.0

    @property
    def n_lost(self) -> int:
        """Rows without a frame."""
        return int((self.frames < 0).sum())


def pair_frames(rows_s: Floats, frames_s: Floats, period_s: float) -> Pairing:
    """Pairs rows [t] with frames [n] by time; both times rise. period_s: of the frames.

    The times count as they are stated. Each clock is read from its own start only where that pairs more rows, and
    there are as many frames as rows, or no two times agree, or the start differs by an encoder's delay: a camera that
    began late and ended late has frames over at its end, which must not move all others forward. Clocks of equally
    many rows and frames may run apart by `CLOCK_DRIFT`.

    >>> pair_frames(np.array([0.0, 0.1, 0.2]), np.array([0.0, 0.2]), 0.1).frames
    array([ 0, -1,  1])
    >>> pair_frames(np.array([0.05, 0.1, 0.15]), np.array([0.0, 0.05, 0.1]), 0.05)
    Pairing(frames=array([0, 1, 2]), error_s=0.0, shift_s=-0.05)
    """
    stated = _nearest(rows_s, frames_s, period_s)
    shift_s = float(frames_s[0] - rows_s[0])
    if abs(shift_s) <= FRAME_TOLERANCE * period_s and stated.n_lost == 0:
        return stated
    own = replace(_nearest(rows_s, frames_s - shift_s, period_s), shift_s=shift_s)
    is_whole = len(rows_s) == len(frames_s) and own.n_lost == 0
    is_apart = stated.n_lost == len(rows_s) or abs(shift_s) <= (ENCODER_DELAY + FRAME_TOLERANCE) * period_s
    if own.n_lost < stated.n_lost and (is_whole or is_apart):
        stated = own
    if stated.n_lost and len(rows_s) == len(frames_s):
        apart = np.abs((rows_s - rows_s[0]) - (frames_s - frames_s[0]))
        if (apart <= CLOCK_DRIFT * (rows_s - rows_s[0]) + FRAME_TOLERANCE * period_s).all():
            return Pairing(frames=np.arange(len(rows_s)), error_s=_rounded(apart.max()), shift_s=shift_s)
    return stated


def _nearest(rows_s: Floats, frames_s: Floats, period_s: float) -> Pairing:
    after = np.clip(np.searchsorted(frames_s, rows_s), 1, max(len(frames_s) - 1, 1))
    before = after - 1
    after = np.minimum(after, len(frames_s) - 1)
    nearest = np.where(np.abs(frames_s[after] - rows_s) < np.abs(frames_s[before] - rows_s), after, before)
    errors = np.abs(frames_s[nearest] - rows_s)
    near = errors <= FRAME_TOLERANCE * period_s
    frames = np.where(near, nearest, -1).astype(np.int64)
    return Pairing(frames=frames, error_s=_rounded(errors[near].max(initial=0.0)))


def _rounded(seconds: float) -> float:
    """To a microsecond: below that, differences are those of float arithmetic."""
    return round(float(seconds), 6)


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Samples of numbers with their own clock: stamps (ns) that strictly increase, and values [n, k].

    is_interpolated: between two samples the values pass through those between; otherwise the last one holds, as for
    commands and grippers. turns: a full turn of each column [k] in its own unit, 0 where it is no angle: between two
    samples an angle goes the short way round. source: whose clock it is, for notes. lasts: its last sample holds to the
    end, as where a value is published only when it changes; otherwise for a usual period.
    """

    times: Nanoseconds
    values: Floats
    is_interpolated: bool
    source: str
    lasts: bool = False
    turns: Floats | None = None

    @property
    def end(self) -> int | None:
        """Until when (ns) it has a value; None for ever."""
        if self.lasts or (len(self.times) < 2 and not self.is_interpolated):
            return None
        return int(self.times[-1]) if self.is_interpolated else end_of_hold(self.times)


@dataclass(frozen=True, kw_only=True)
class Aligned:
    """Streams at the steps of one episode.

    grid: stamps of the steps (ns). arrays: per stream its values [t, k]. dropped: steps for which a command was given
    and some stream had not begun, or had ended. is_clock: whether the steps are the clock's own samples. notes: per
    stream and camera its gaps, lost samples and longest pause while the episode lasts, and the greatest and the mean
    age of a sample, in ms.
    """

    grid: Nanoseconds
    arrays: Mapping[str, Floats]
    dropped: tuple[DroppedSteps, ...]
    is_clock: bool
    notes: Mapping[str, float]


def align(
    streams: Mapping[str, Stream],
    cameras: Mapping[str, Nanoseconds],
    clock: Nanoseconds,
    control_hz: float,
    where: str,
) -> Aligned:
    """Brings streams to the steps of an episode, where each of them and each camera [n] has begun and not ended.

    clock: stamps of the commands. Raises Rejected (`no_overlap`) where there is no such time.
    """
    first, last = _span(streams, cameras)
    # Of an episode that is a stretch of a longer log, other streams go on.
    last = min(last, end_of_hold(clock))
    grid = make_grid(clock, first, last, control_hz)
    if len(grid) == 0:
        raise Rejected("no_overlap", f"{where}: expected streams that overlap in time, found none that do")
    begins_late = any(int(times[0]) == first for times in cameras.values())
    ends_early = any(end_of_hold(times) == last for times in cameras.values())
    return Aligned(
        grid=grid,
        arrays={
            key: interpolate_columns(stream.times, stream.values, grid, stream.turns)
            if stream.is_interpolated
            else hold(stream.times, stream.values, grid)
            for key, stream in streams.items()
        },
        dropped=lost_at_ends(
            clock,
            grid,
            control_hz,
            before="missing_frames" if begins_late else "no_overlap",
            after="missing_frames" if ends_early else "no_overlap",
        ),
        is_clock=np.array_equal(grid, clock[(clock >= grid[0]) & (clock <= grid[-1])]),
        notes=_note_streams({stream.source: stream.times for stream in streams.values()} | dict(cameras), grid),
    )


def end_of_hold(times: Nanoseconds) -> int:
    """Until when (ns) a stream that is held has a value: a period after its last sample."""
    return int(times[-1] + np.median(np.diff(times))) if len(times) > 1 else int(times[-1])


def check_pauses(times: Nanoseconds, longest_s: float, what: str) -> None:
    """Raises Rejected (`joint_gap`) where states are silent for longer: nothing is known of what was between."""
    longest = float(np.diff(times).max(initial=0) / 1e9)
    if longest > longest_s:
        raise Rejected("joint_gap", f"{what} every {longest_s:g} s, a gap is {longest:.2f} s")


def _span(streams: Mapping[str, Stream], cameras: Mapping[str, Nanoseconds]) -> tuple[int, int]:
    """From when to when (ns) every stream and camera has a value."""
    ends = [stream.end for stream in streams.values()] + [
        end_of_hold(times) if len(times) > 1 else None for times in cameras.values()
    ]
    begins = [int(stream.times[0]) for stream in streams.values()] + [int(times[0]) for times in cameras.values()]
    return max(begins), min((end for end in ends if end is not None), default=max(begins))


def _note_streams(stamps: Mapping[str, Nanoseconds], grid: Nanoseconds) -> dict[str, float]:
    notes: dict[str, float] = {}
    for name, times in stamps.items():
        # Only while the episode lasts: a camera that started a minute earlier has no gap in it.
        first = max(int(latest_index(times, grid[:1])[0]), 0)
        report = report_stream(times[first : int(np.searchsorted(times, grid[-1], side="right")) + 1])
        notes[f"{name}/n_gaps"] = report.n_gaps
        notes[f"{name}/n_lost"] = report.n_lost
        notes[f"{name}/longest_pause_ms"] = round(report.longest_pause_ms, 3)
    for name, times in stamps.items():
        age = grid - times[np.maximum(latest_index(times, grid), 0)]
        notes[f"{name}/skew_ms_max"] = round(float(age.max() / 1e6), 3)
        notes[f"{name}/skew_ms_mean"] = round(float(age.mean() / 1e6), 3)
    return notes


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


def lost_at_ends(
    command: Nanoseconds, grid: Nanoseconds, control_hz: float, *, before: RejectReason, after: RejectReason
) -> tuple[DroppedSteps, ...]:
    """The steps that commands were given for and the episode's grid lacks, at its start and its end.

    before, after: the reasons for those at the start and at the end.

    >>> command, grid = np.arange(0, 500, 50) * 1_000_000, np.arange(100, 500, 50) * 1_000_000
    >>> lost_at_ends(command, grid, 20.0, before="missing_frames", after="no_overlap")
    (DroppedSteps(start=0, end=2, reason='missing_frames'),)
    """
    period_ns = 1e9 / control_hz
    if np.isin(grid, command).all():
        n_before, n_after = int((command < grid[0]).sum()), int((command > grid[-1]).sum())
    else:
        n_before = max(0, int((int(grid[0]) - int(command[0])) / period_ns))
        n_after = max(0, int((int(command[-1]) - int(grid[-1])) / period_ns))
    behind = n_before + len(grid)
    lost = (
        DroppedSteps(start=0, end=n_before, reason=before),
        DroppedSteps(start=behind, end=behind + n_after, reason=after),
    )
    return tuple(stretch for stretch in lost if stretch.end > stretch.start)


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


def interpolate_columns(stamps: Nanoseconds, values: Floats, grid: Nanoseconds, turns: Floats | None = None) -> Floats:
    """Returns values [t, k] linear between samples; times relative to the grid's start keep their nanoseconds.

    turns: a full turn of each column [k], 0 where it is no angle. A sensor that gives a joint within one turn jumps
    from its one end to the other: between 3.1 and -3.1 rad lies 3.14, and not 0.

    >>> stamps, grid = np.array([0, 10]), np.array([0, 5, 10])
    >>> interpolate_columns(stamps, np.array([[3.1], [-3.1]]), grid, np.array([2 * np.pi]))[:, 0].round(4).tolist()
    [3.1, 3.1416, -3.1]
    """
    x = (stamps - grid[0]).astype(np.float64)
    at = (grid - grid[0]).astype(np.float64)
    if turns is None or not turns.any():
        return np.stack([np.interp(at, x, column) for column in values.T], axis=1)
    # A value that is no number would spoil all that come after it.
    is_angle = np.isfinite(values).all(axis=0) & (turns > 0)
    going_on = values.copy()
    for column in np.flatnonzero(is_angle):
        going_on[:, column] = np.unwrap(values[:, column], period=turns[column])
    # Back into the range of the sample before, so that a step at a sample has the sample's own number.
    wound = (going_on - values)[np.maximum(latest_index(stamps, grid), 0)]
    return interpolate_columns(stamps, going_on, grid) - wound
