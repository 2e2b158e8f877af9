"""Sequences of camera frames that are read only when asked for."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.episode import Image
from pipelines.contract.images import decode_image
from pipelines.contract.native import Rejected


class Chosen(Sequence[Image]):
    """Some of the frames of `frames`, by their numbers and in that order, still read only when asked for."""

    def __init__(self, frames: Sequence[Image], numbers: Sequence[int] | NDArray[np.int64]) -> None:
        self._frames = frames
        self._numbers = [int(number) for number in numbers]

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return Chosen(self._frames, self._numbers[index])
        return self._frames[self._numbers[index]]


class SwappedChannels(Sequence[Image]):
    """The frames of `frames` with red and blue exchanged, for sources that stored BGR."""

    def __init__(self, frames: Sequence[Image]) -> None:
        self._frames = frames

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return SwappedChannels(self._frames[index])
        return np.ascontiguousarray(_pixels(self._frames[index])[..., ::-1])


class CroppedFrames(Sequence[Image]):
    """A rectangle of each of the frames of `frames`. crop: its top, left, height and width in pixels.

    Reading raises Rejected where it does not lie inside of a frame.
    """

    def __init__(self, frames: Sequence[Image], crop: Sequence[int]) -> None:
        self._frames = frames
        self._crop = crop

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return CroppedFrames(self._frames[index], self._crop)
        pixels = _pixels(self._frames[index])
        top, left, height, width = self._crop
        if top + height > pixels.shape[0] or left + width > pixels.shape[1]:
            expected = f"expected at least {top + height} rows and {left + width} columns to crop"
            raise Rejected("wrong_dims", f"{expected}, found a picture of {pixels.shape[0]}x{pixels.shape[1]}")
        return np.ascontiguousarray(pixels[top : top + height, left : left + width])


class TurnedFrames(Sequence[Image]):
    """The frames of `frames` set upright: first mirrored along an axis, then turned clockwise.

    flip: `vertical` (rows in reverse order), `horizontal` (columns), or empty. rotate: 0, 90, 180 or 270 degrees.
    """

    def __init__(self, frames: Sequence[Image], flip: str, rotate: int) -> None:
        self._frames = frames
        self._flip = flip
        self._rotate = rotate

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return TurnedFrames(self._frames[index], self._flip, self._rotate)
        pixels = _pixels(self._frames[index])
        if self._flip:
            pixels = np.flip(pixels, 0 if self._flip == "vertical" else 1)
        return np.ascontiguousarray(np.rot90(pixels, -self._rotate // 90))


def _pixels(frame: Image) -> NDArray[np.uint8]:
    return decode_image(frame) if isinstance(frame, bytes) else frame
