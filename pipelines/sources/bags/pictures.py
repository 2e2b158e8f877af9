"""Pictures of camera topics: JPEG and PNG as they are, raw images of ROS's encodings in RGB."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.episode import Image
from pipelines.contract.images import MAX_PIXELS, CorruptImage, to_jpeg
from pipelines.contract.native import Rejected
from pipelines.sources.bags.logs.log import Log
from pipelines.sources.bags.messages import want
from pipelines.sources.bags.topics import Pictures

Pixels = NDArray[np.uint8]
COMPRESSED = frozenset(
    {"sensor_msgs/msg/CompressedImage", "foxglove_msgs/msg/CompressedImage", "foxglove.CompressedImage"}
)
RAW = frozenset({"sensor_msgs/msg/Image", "foxglove_msgs/msg/RawImage", "foxglove.RawImage"})
_COMPRESSED_FIELDS = want("data")
_RAW_FIELDS = want("height", "width", "encoding", "step", "data")
_DEPTH = re.compile(r"16UC1|32FC1|mono16|depth", re.IGNORECASE)
# Bytes a pixel, and which of them are red, green and blue.
_PACKED: Mapping[str, tuple[int, tuple[int, int, int]]] = {
    "rgb8": (3, (0, 1, 2)),
    "bgr8": (3, (2, 1, 0)),
    "rgba8": (4, (0, 1, 2)),
    "bgra8": (4, (2, 1, 0)),
    "mono8": (1, (0, 0, 0)),
    "8UC1": (1, (0, 0, 0)),
}
# Where the first red pixel lies: row and column. ROS names the colours of the first row, then of the second.
_BAYER = {"bayer_rggb8": (0, 0), "bayer_grbg8": (0, 1), "bayer_gbrg8": (1, 0), "bayer_bggr8": (1, 1)}
# Of four bytes that hold two pixels: first and second brightness, then the two colour differences.
_YUV = {"yuv422": (1, 3, 0, 2), "uyvy": (1, 3, 0, 2), "yuv422_yuy2": (0, 2, 1, 3), "yuyv": (0, 2, 1, 3)}


class TopicPictures(Sequence[Image]):
    """The pictures of a topic by their numbers in it, read when asked for.

    is_plain: upright and in RGB, so that they become JPEGs of the target size; others stay as they are, JPEG or PNG
    bytes or uint8 [y, x, 3].
    Raises CorruptImage for a message that holds no picture, Rejected for one that holds depth.
    """

    def __init__(self, log: Log, pictures: Pictures, numbers: NDArray[np.int64], is_plain: bool = True) -> None:
        self._log, self._pictures, self._numbers, self._is_plain = log, pictures, numbers, is_plain
        # As numbers of Python, since those of an array are slow to take one by one.
        self._places = list(zip(numbers.tolist(), pictures.at[numbers].tolist(), strict=True))
        self._decode: Callable[[Mapping[str, Any]], Image] = read_compressed if _is_compressed(pictures) else read_raw
        self._wanted = _COMPRESSED_FIELDS if _is_compressed(pictures) else _RAW_FIELDS
        self._has_repeats = bool((np.diff(numbers) == 0).any())
        self._last: tuple[int, Image] = (-1, b"")

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return TopicPictures(self._log, self._pictures, self._numbers[index], self._is_plain)
        number, at = self._places[index]
        # A camera slower than the control rate shows one picture for several steps.
        if number != self._last[0]:
            data = self._log.read_at(at)
            try:
                picture = self._decode(self._pictures.read(data, self._wanted))
                # Encoded once, and not again for every step that shows it.
                is_shared = self._is_plain and (self._has_repeats or not isinstance(picture, bytes))
                self._last = number, to_jpeg(picture) if is_shared else picture
            except CorruptImage as error:
                raise CorruptImage(f"{self._pictures.topic}: picture {number}: {error}") from error
        return self._last[1]


def check_pictures(log: Log, pictures: Pictures) -> None:
    """Looks at a topic's first picture. Raises Rejected where it holds depth, or an encoding that is not read."""
    if not len(pictures.times):
        return
    fields = pictures.read(pictures.message(log, 0), want("format", "encoding"))
    stated = str(fields.get("format", fields.get("encoding", "")))
    if "compressedDepth" in stated or _DEPTH.search(stated.split(";")[0]):
        raise Rejected("unreadable_frame", f"{pictures.topic}: expected colours, found depth ({stated}); take it out")
    if not _is_compressed(pictures) and stated not in (*_PACKED, *_BAYER, *_YUV):
        known = ", ".join((*_PACKED, *_BAYER, *_YUV))
        raise Rejected("unreadable_frame", f"{pictures.topic}: expected an encoding of {known}; found {stated[:80]!r}")


def _is_compressed(pictures: Pictures) -> bool:
    return pictures.type in COMPRESSED


def read_compressed(fields: Mapping[str, Any]) -> bytes:
    """The bytes of a CompressedImage; whether they are JPEG or PNG, their own head says."""
    data = fields.get("data")
    if not isinstance(data, (bytes, memoryview)):
        raise CorruptImage("expected bytes of a picture, found none")
    return bytes(data)


def read_raw(fields: Mapping[str, Any]) -> Pixels:
    """The pixels [y, x, 3] in RGB of a sensor_msgs/Image. Raises CorruptImage where its sizes contradict its bytes."""
    height, width, step = (int(fields.get(key, 0)) for key in ("height", "width", "step"))
    encoding, data = str(fields.get("encoding", "")), fields.get("data", b"")
    n = _PACKED[encoding][0] if encoding in _PACKED else 2 if encoding in _YUV else 1
    if not 0 < height * width <= MAX_PIXELS or step < width * n or height * step > len(data):
        found = f"{height} x {width} in rows of {step} bytes, {len(data)} in all"
        raise CorruptImage(f"expected a picture of {encoding[:40]!r}, found {found}")
    rows = np.frombuffer(data, np.uint8, height * step).reshape(height, step)[:, : width * n]
    if encoding in _PACKED:
        return np.ascontiguousarray(rows.reshape(height, width, n)[..., list(_PACKED[encoding][1])])
    if encoding in _BAYER:
        return demosaic(rows, *_BAYER[encoding])
    if encoding in _YUV and width % 2 == 0:
        return yuv_to_rgb(rows.reshape(height, width // 2, 4)[..., list(_YUV[encoding])])
    raise CorruptImage(f"expected an encoding of colours, found {encoding[:40]!r} of {height} x {width}")


def yuv_to_rgb(quads: Pixels) -> Pixels:
    """Pictures [y, x/2, 4] of two brightnesses, U and V each, to [y, x, 3]: BT.601 in the range of video, as OpenCV."""
    luma = np.maximum(quads[..., :2].astype(np.float32) - 16.0, 0.0) * 1.164
    u, v = (quads[..., i, None].astype(np.float32) - 128.0 for i in (2, 3))
    rgb = np.stack([luma + 1.596 * v, luma - 0.813 * v - 0.391 * u, luma + 2.018 * u], axis=-1)
    height, half = quads.shape[:2]
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8).reshape(height, 2 * half, 3)


def demosaic(mosaic: Pixels, red_row: int, red_column: int) -> Pixels:
    """A Bayer mosaic [y, x] to [y, x, 3]: each colour that a pixel lacks is the mean of its nearest neighbours'.

    red_row, red_column: where the first red pixel lies, 0 or 1.
    """
    if min(mosaic.shape) < 2:
        raise CorruptImage(f"expected a mosaic of 2 x 2 pixels or more, found {list(mosaic.shape)}")
    x = np.pad(mosaic, 1, mode="reflect").astype(np.uint16)
    beside, above = x[1:-1, :-2] + x[1:-1, 2:], x[:-2, 1:-1] + x[2:, 1:-1]
    corners = x[:-2, :-2] + x[:-2, 2:] + x[2:, :-2] + x[2:, 2:]
    two = (beside + 1) // 2, (above + 1) // 2
    cross, corner = (beside + above + 2) // 4, (corners + 2) // 4
    rgb = np.empty((*mosaic.shape, 3), np.uint8)
    own = mosaic
    for row in (0, 1):
        for column in (0, 1):
            at = np.s_[row::2, column::2]
            if (row, column) in ((red_row, red_column), (1 - red_row, 1 - red_column)):
                mine, other = (0, 2) if (row, column) == (red_row, red_column) else (2, 0)
                rgb[(*at, mine)], rgb[(*at, 1)], rgb[(*at, other)] = own[at], cross[at], corner[at]
            else:
                # Green, in a row of red beside it or of blue.
                near, far = (0, 2) if row == red_row else (2, 0)
                rgb[(*at, near)], rgb[(*at, 1)], rgb[(*at, far)] = two[0][at], own[at], two[1][at]
    return rgb
