"""Frames of a video file, decoded one after the other and never all held."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from pipelines.contract.episode import Image
from pipelines.contract.images import CorruptImage, timed
from pipelines.contract.native import Rejected

_DECODE_ERRORS = (av.error.FFmpegError, OSError, ValueError)


class VideoFrames(Sequence[Image]):
    """Frames `first` up to `first + n` of a video as uint8 [y, x, 3] RGB.

    Made for reading in order; going back opens the file again. Raises Rejected when the file is no video or holds
    too few frames; CorruptImage when one does not decode.
    """

    def __init__(self, path: Path, n: int, first: int = 0, found: int | None = None) -> None:
        found = count_frames(path) if found is None else found
        if found < first + n:
            raise Rejected("truncated_video", f"{path}: expected {first + n} frames, found {found}")
        self._path = path
        self._first = first
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
            self._frames, self._next = decode_frames(self._path, self._first), 0
        with timed("decode"):
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
    except _DECODE_ERRORS as error:
        raise Rejected("truncated_video", f"{path}: expected a readable video: {error}") from error


def decode_frames(path: Path, first: int = 0) -> Iterator[NDArray[np.uint8]]:
    """Yields the frames from number `first` on as uint8 [y, x, 3] RGB. Raises CorruptImage where decoding fails."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            rate, base = stream.average_rate, stream.time_base
            if first and rate and base:
                container.seek(int(first / rate / base), stream=stream)
            for number, frame in enumerate(container.decode(stream)):
                if first and rate and base:
                    number = round(float((frame.pts - (stream.start_time or 0)) * base * rate))
                if number >= first:
                    yield frame.to_ndarray(format="rgb24")
    except _DECODE_ERRORS as error:
        raise CorruptImage(f"{path}: expected frames that decode: {error}") from error
