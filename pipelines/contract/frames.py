"""Sequences of camera frames that are read only when asked for."""

from collections.abc import Sequence

import numpy as np

from pipelines.contract.episode import Image
from pipelines.contract.images import decode_image


class Tail(Sequence[Image]):
    """The frames of `frames` from number `first` on, still read only when asked for."""

    def __init__(self, frames: Sequence[Image], first: int) -> None:
        self._frames = frames
        self._first = first

    def __len__(self) -> int:
        return len(self._frames) - self._first

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._frames[range(self._first, len(self._frames))[index]]


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
