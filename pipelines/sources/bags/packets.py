"""Video packets of camera topics (foxglove.CompressedVideo, FFMPEGPacket), decoded one after the other."""

from collections.abc import Iterator, Mapping
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from pipelines.contract.images import MAX_PIXELS, CorruptImage
from pipelines.contract.native import Rejected
from pipelines.sources.bags.logs.log import Log
from pipelines.sources.bags.messages import want
from pipelines.sources.bags.topics import Pictures
from pipelines.sources.video import FramesInOrder

PACKETS = frozenset(
    {
        "foxglove.CompressedVideo",
        "foxglove_msgs/msg/CompressedVideo",
        "ffmpeg_image_transport_msgs/msg/FFMPEGPacket",
    }
)
# An episode may begin between two key frames; encoders of cameras place one every few seconds.
KEY_FRAME_LEAD_S = 10.0
# Names of encoders, as FFMPEGPacket states them, and of formats, as CompressedVideo does.
_CODECS = {
    "h264": "h264",
    "h265": "hevc",
    "hevc": "hevc",
    "libx264": "h264",
    "libx265": "hevc",
}
_FIELDS = want("format", "encoding", "data")
_DECODE_ERRORS = (av.error.FFmpegError, ValueError, OSError)


class PacketFrames(FramesInOrder):
    """Frames of a topic of packets by their numbers in it, as uint8 [y, x, 3] RGB; made for reading in order.

    keys: bool [n], packets that can be decoded without those before. Raises CorruptImage where a packet gives no frame.
    """

    def __init__(self, log: Log, pictures: Pictures, numbers: NDArray[np.int64], keys: NDArray[np.bool_]) -> None:
        super().__init__(f"{pictures.topic}: packets", numbers)
        self._log, self._pictures, self._keys = log, pictures, keys

    def _decode_from(self, number: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        return self._decoded(int(np.flatnonzero(self._keys[: number + 1])[-1]))

    def _decoded(self, first: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yields packets' numbers and frames; a packet's time stamp, its number, shows which packet a frame is of."""
        decoder = None
        try:
            for number in range(first, len(self._pictures.at)):
                codec, data = read_packet(self._log, self._pictures, number)
                if decoder is None:
                    decoder = av.CodecContext.create(codec, "r")
                    # One thread holds no frames back.
                    decoder.thread_type = "NONE"
                yield from _frames_of(decoder, _packet(data, number))
            if decoder is not None:
                yield from _frames_of(decoder, None)
        except _DECODE_ERRORS as error:
            raise CorruptImage(f"{self._pictures.topic}: expected packets that decode: {error}") from error


def find_keys(log: Log, pictures: Pictures) -> NDArray[np.bool_]:
    """Which packets can be decoded first: those with a picture of their own. Raises Rejected for an unknown codec."""
    return np.array([is_key(*read_packet(log, pictures, i)) for i in range(len(pictures.at))], np.bool_)


def read_packet(log: Log, pictures: Pictures, number: int) -> tuple[str, bytes]:
    """Returns FFmpeg's name of the codec, and a packet's bytes."""
    fields: Mapping[str, Any] = pictures.read(pictures.message(log, number), _FIELDS)
    stated = str(fields.get("format") or fields.get("encoding") or "")
    # ffmpeg_image_transport states the encoder, or since 2025 codec and pixel formats: `hevc;yuv420p;bgr8;bgr8`.
    name = stated.split(";")[0].split("_")[0].lower()
    if name not in _CODECS:
        raise Rejected("unreadable_frame", f"{pictures.topic}: expected H.264 or H.265, found {stated[:80]!r}")
    return _CODECS[name], bytes(fields.get("data", b""))


def is_key(codec: str, data: bytes) -> bool:
    """Whether a packet holds a picture that needs none before it.

    By the types of its units behind start codes: 5 in H.264, 16 to 21 in H.265.
    """
    at = data.find(b"\0\0\1")
    while at >= 0 and at + 3 < len(data):
        unit = data[at + 3]
        kind = unit & 0x1F if codec == "h264" else (unit >> 1) & 0x3F
        if kind == 5 if codec == "h264" else 16 <= kind <= 21:
            return True
        if kind in ((1,) if codec == "h264" else tuple(range(10))):
            return False
        at = data.find(b"\0\0\1", at + 3)
    return False


def _packet(data: bytes, number: int) -> av.Packet:
    packet = av.Packet(data)
    packet.pts = packet.dts = number
    return packet


def _frames_of(decoder: Any, packet: av.Packet | None) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    for frame in decoder.decode(packet):
        if frame.width * frame.height > MAX_PIXELS:
            raise CorruptImage(f"expected at most {MAX_PIXELS} pixels, found {frame.width} x {frame.height}")
        yield int(frame.pts), np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
