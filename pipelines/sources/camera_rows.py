"""Which frame of a video each row of an episode shows, and what becomes of rows that have none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.episode import DroppedSteps
from pipelines.contract.native import Rejected
from pipelines.contract.reject_reasons import RejectReason
from pipelines.sources.video import VideoClock

# Rates further apart than this are different rates; containers that count whole milliseconds are up to 3 % off.
RATE_TOLERANCE = 0.05


@dataclass(frozen=True, kw_only=True)
class CameraRows:
    """Which frame of a camera's video each row shows.

    frames: int64 [t], numbers of frames, -1 for none. why: the reason to give for rows that have none. error_s: the
    largest distance in time of a row and its frame. inferred: what was concluded about the clocks.
    """

    frames: NDArray[np.int64]
    clock: VideoClock
    why: RejectReason
    error_s: float = 0.0
    inferred: Mapping[str, str] = field(default_factory=dict)


def keep_paired(
    cameras: Sequence[CameraRows], n_rows: int, where: str
) -> tuple[NDArray[np.int64], tuple[DroppedSteps, ...]]:
    """Returns the rows for which every camera has a frame, and the stretches of those that are left out.

    Raises Rejected where no row is left.
    """
    lost: dict[RejectReason, NDArray[np.bool_]] = {}
    for camera in cameras:
        lost[camera.why] = lost.get(camera.why, np.zeros(n_rows, np.bool_)) | (camera.frames < 0)
    if not lost:
        return np.arange(n_rows), ()
    kept, dropped = drop_rows(lost)
    if not len(kept):
        raise Rejected(cameras[0].why, f"{where}: expected a frame for each row, found none for any of {n_rows} rows")
    return kept, dropped


def drop_rows(lost: Mapping[RejectReason, NDArray[np.bool_]]) -> tuple[NDArray[np.int64], tuple[DroppedSteps, ...]]:
    """Returns the rows that are left, and every stretch that is not, by the reasons that its rows [t] are lost for.

    >>> drop_rows({"missing_frames": np.array([False, True, True, False])})
    (array([0, 3]), (DroppedSteps(start=1, end=3, reason='missing_frames'),))
    """
    dropped: list[DroppedSteps] = []
    gone = np.zeros(len(next(iter(lost.values()))), np.bool_)
    for reason, rows in lost.items():
        new = rows & ~gone
        edges = np.flatnonzero(np.diff(np.concatenate([[0], new.astype(np.int8), [0]]))).tolist()
        pairs = zip(edges[::2], edges[1::2], strict=True)
        dropped += [DroppedSteps(start=start, end=end, reason=reason) for start, end in pairs]
        gone |= rows
    return np.flatnonzero(~gone), tuple(sorted(dropped, key=lambda stretch: stretch.start))
