"""Sequences of camera frames that are read only when asked for."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.episode import Image
from pipelines.contract.images import decode_image


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
        frame = self._frames[index]
        pixels = decode_image(frame) if isinstance(frame, bytes) else frame
        return np.ascontiguousarray(pixels[..., ::-1])
