"""Frames of a video file, decoded one after the other and never all held."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from pipelines.episode import Image
from pipelines.images import CorruptImage
from pipelines.native import Rejected


class VideoFrames(Sequence[Image]):
    """Frames 0 up to `n` of a video as uint8 [y, x, 3] RGB. Made for reading in order; going back opens it again.

    Raises Rejected when the file is no video or holds fewer than `n` frames; CorruptImage when one does not decode.
    """

    def __init__(self, path: Path, n: int) -> None:
        found = count_frames(path)
        if found < n:
            raise Rejected("truncated_video", f"{path}: expected {n} frames, found {found}")
        self._path = path
        self._n = n
        self._frames: Iterator[NDArray[np.uint8]] | None = None
        self._next = 0

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._n))]
        index = range(self._n)[index]
        if self._frames is None or index < self._next:
            self._frames, self._next = decode_frames(self._path), 0
        for frame in self._frames:
            self._next += 1
            if self._next == index + 1:
                return frame
        raise CorruptImage(f"{self._path}: frame {index}: expected {self._n} frames that decode, found {self._next}")


def count_frames(path: Path) -> int:
    """Counts the pictures in a video without decoding them. Raises Rejected when it cannot be opened."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise Rejected("truncated_video", f"{path}: expected a video stream, found none")
            return sum(1 for packet in container.demux(container.streams.video[0]) if packet.size)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise Rejected("truncated_video", f"{path}: expected a readable video: {error}") from error


def decode_frames(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Yields every frame as uint8 [y, x, 3] RGB. Raises CorruptImage where decoding fails."""
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise CorruptImage(f"{path}: expected frames that decode: {error}") from error
