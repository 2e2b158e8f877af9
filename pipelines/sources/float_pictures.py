"""Pictures stored as floating-point numbers, of which the source does not say whether they are 0..1 or 0..255."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.episode import Image
from pipelines.contract.native import Rejected

# Resizing leaves values this far outside of the range.
_ROUNDING = 1e-3
_BY_VALUES = "floating-point pictures are read by the values of each episode: up to 1 as 0..1, from 2 on as 0..255"


class FloatFrames(Sequence[Image]):
    """Frames float [t, y, x, 3] as uint8; what their numbers mean is decided once, over the whole episode.

    A dark frame of 0..255 alone looks like one of 0..1, so that a decision for each frame would flicker. Nothing is
    read before the first frame is asked for. stated: 1 or 255 where the entry states it, else 0. Raises Rejected
    where the numbers do not say, or contradict what is stated.
    """

    def __init__(self, frames: Sequence[Any], where: str, stated: int = 0) -> None:
        self._frames = frames
        self._where = where
        self._greatest = float(stated)
        self.is_stated = bool(stated)

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            # A part must be read as the whole is: it may hold the dark frames only.
            return [self[i] for i in range(*index.indices(len(self)))]
        if not self._greatest:
            self._greatest = decide_scale(self._frames, self._where)
        return to_uint8(self._frames[index], self._greatest, self._where)


def note_floats(frames: Mapping[str, Sequence[Image]]) -> dict[str, str]:
    """The note of an episode whose pictures' range was inferred; nothing where it was known."""
    is_guessed = any(isinstance(camera, FloatFrames) and not camera.is_stated for camera in frames.values())
    return {"picture_range": _BY_VALUES} if is_guessed else {}


def decide_scale(frames: Iterable[NDArray], where: str) -> float:
    """Returns 1.0 where the frames of an episode are 0..1, 255.0 where they are 0..255.

    All values are examined. Greatest value 2 or more: 0..255. Greatest value up to 1, and some value that is no whole
    number: 0..1. All zero: 255, black either way. Only 0 and 1, or a greatest value between 1 and 2: Rejected, since
    it may be either.
    """
    greatest, is_whole = 0.0, True
    for frame in frames:
        _check_range(frame, 255.0, where)
        greatest = max(greatest, float(frame.max(initial=0.0)))
        is_whole = is_whole and bool((frame == np.round(frame)).all())
        if greatest >= 2:
            return 255.0
    if greatest == 0:
        return 255.0
    if greatest <= 1 + _ROUNDING and not is_whole:
        return 1.0
    raise Rejected(
        "unreadable_frame",
        f"{where}: expected pictures of 0..1 or 0..255, found numbers up to {greatest:.6g} that may be either; "
        "say which with `range: 1` or `range: 255` at the camera in the adapter entry",
    )


def to_uint8(frame: NDArray, greatest: float, where: str) -> NDArray[np.uint8]:
    """Returns the frame as uint8, rounded. Raises Rejected for numbers outside of 0..`greatest`.

    >>> to_uint8(np.array([0.0, 0.5, 1.0]), 1.0, "camera").tolist()
    [0, 128, 255]
    """
    _check_range(frame, greatest, where)
    scaled = frame.astype(np.float64) * (255.0 / greatest)
    return np.clip(np.round(scaled), 0, 255).astype(np.uint8)


def _check_range(frame: NDArray, greatest: float, where: str) -> None:
    low, high = float(frame.min(initial=0.0)), float(frame.max(initial=0.0))
    if not (-_ROUNDING * greatest <= low and high <= greatest * (1 + _ROUNDING)):
        found = f"found numbers from {low:.6g} to {high:.6g}"
        raise Rejected("unreadable_frame", f"{where}: expected a picture of numbers from 0 to {greatest:g}, {found}")
