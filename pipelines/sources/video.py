"""Frames of a video file by their own time stamps, decoded one after the other and never all held."""

import functools
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from pipelines.contract.episode import Image
from pipelines.contract.errors import FailedWork
from pipelines.contract.images import CorruptImage, timed
from pipelines.contract.native import Rejected, check_frames_size

_DECODE_ERRORS = (av.error.FFmpegError, OSError, ValueError)


@dataclass(frozen=True, kw_only=True)
class VideoClock:
    """When a video shows its frames.

    times_s: float64 [n], presentation times as the container states them, rising; the first need not be 0.
    pts: int64 [n], the same in the stream's own unit; None where the container stores none, and times are even.
    """

    times_s: NDArray[np.float64]
    pts: NDArray[np.int64] | None

    @property
    def rate_hz(self) -> float:
        """Frames a second by the usual pause between two; 0 for a single frame.

        Not the mean over the file, which a few lost frames change.
        """
        return 1 / float(np.median(np.diff(self.times_s))) if len(self.times_s) > 1 else 0.0


class FramesInOrder(Sequence[Image]):
    """Frames [t], uint8 [y, x, 3] RGB, that a decoder yields in rising order; going back begins to decode again.

    numbers: int64 [t], the decoder's number of each. where: names the source in errors. Raises CorruptImage where the
    decoder yields no frame of a number.
    """

    def __init__(self, where: str, numbers: NDArray[np.int64]) -> None:
        self._where = where
        self._numbers = numbers
        self._frames: Iterator[tuple[int, NDArray[np.uint8]]] | None = None
        self._last: tuple[int, NDArray[np.uint8]] = (-1, np.zeros((0, 0, 3), np.uint8))

    def _decode_from(self, number: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yields numbers and frames in rising order, beginning at or before `number`."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        wanted = int(self._numbers[index])
        if self._frames is None or wanted < self._last[0]:
            self._frames, self._last = self._decode_from(wanted), (-1, self._last[1])
        with timed("decode"):
            while self._last[0] < wanted:
                found = next(self._frames, None)
                if found is None:
                    raise CorruptImage(f"{self._where}: expected a frame {wanted} that decodes, found none")
                self._last = found
        if self._last[0] != wanted:
            raise CorruptImage(f"{self._where}: expected frame {wanted}, found frame {self._last[0]}")
        return self._last[1]


class VideoFrames(FramesInOrder):
    """Frames of a video by their numbers [t], as uint8 [y, x, 3] RGB.

    Made for reading in order; going back opens the file again. Raises CorruptImage when a frame does not decode.
    """

    def __init__(self, path: Path, numbers: NDArray[np.int64], clock: VideoClock) -> None:
        super().__init__(str(path), numbers)
        self._path = path
        self._clock = clock

    def _decode_from(self, number: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        return decode_frames(self._path, self._clock, number)


def read_clock(path: Path) -> VideoClock:
    """Returns the times of a video's frames, without decoding one.

    Raises Rejected when the file is no readable video, FailedWork when this machine has no decoder for it.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise Rejected("truncated_video", f"{path}: expected a readable video: {error}") from error
    if not stat.S_ISREG(status.st_mode):
        # Opening a FIFO or a device waits for a writer for ever.
        raise Rejected("unsafe_file", f"{path}: expected a video file, found no regular file")
    return _read_clock(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=64)
def _read_clock(path: Path, mtime_ns: int, size: int) -> VideoClock:
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise Rejected("truncated_video", f"{path}: expected a video stream, found none")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise FailedWork(
                    f"{path}: expected a codec that PyAV decodes, found one that it does not know. "
                    "Install a build of PyAV and FFmpeg with it, or encode the video again as H.264"
                )
            check_frames_size(str(path), (1, stream.height or 0, stream.width or 0, 3))
            # Packets that an edit list cuts off are stored and never shown.
            packets = [packet for packet in container.demux(stream) if packet.size and not packet.is_discard]
            stamps = [packet.pts for packet in packets]
            base, rate = stream.time_base, stream.average_rate
    except _DECODE_ERRORS as error:
        raise Rejected("truncated_video", f"{path}: expected a readable video: {error}") from error
    if not stamps:
        raise Rejected("truncated_video", f"{path}: expected a video with frames, found none")
    if base is None or any(pts is None for pts in stamps):
        return VideoClock(times_s=np.arange(len(stamps), dtype=np.float64) / float(rate or 1), pts=None)
    pts = np.unique(np.array(stamps, np.int64))
    return VideoClock(times_s=np.asarray(pts * float(base), np.float64), pts=pts)


def decode_frames(path: Path, clock: VideoClock, first: int = 0) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yields numbers and frames uint8 [y, x, 3] RGB from number `first` on.

    Raises CorruptImage where decoding fails.
    """
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            if first and clock.pts is not None:
                container.seek(int(clock.pts[first]), stream=stream)
            previous = -1
            for frame in container.decode(stream):
                number = _number_of(frame, clock, previous)
                if number > first and previous < 0 and first:
                    # Some containers seek to a key frame that lies behind: then from the beginning.
                    yield from _decode_all(path, clock, first)
                    return
                previous = number
                if number >= first:
                    yield number, np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
            if first and previous < 0:
                yield from _decode_all(path, clock, first)
    except _DECODE_ERRORS as error:
        raise CorruptImage(f"{path}: expected frames that decode: {error}") from error


def _decode_all(path: Path, clock: VideoClock, first: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    for number, frame in decode_frames(path, clock):
        if number >= first:
            yield number, frame


def _number_of(frame: av.VideoFrame, clock: VideoClock, previous: int) -> int:
    """The frame's number by its time stamp, which stays right after a seek and past frames that do not decode."""
    if clock.pts is None or frame.pts is None:
        return previous + 1
    number = int(np.searchsorted(clock.pts, frame.pts))
    if number >= len(clock.pts) or clock.pts[number] != frame.pts:
        raise ValueError(f"a frame at {frame.pts} that no packet announces")
    return number
