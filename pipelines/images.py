"""Camera frames: decoding, letterboxing to 224x224 and JPEG encoding."""

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from pipelines.errors import FailedWork
from pipelines.slots import IMAGE_SIZE

JPEG_QUALITY = 95
# More than any camera of a robot gives; a picture that says more would take the memory of the whole worker.
MAX_PIXELS = 1 << 26
_JPEG_START = b"\xff\xd8"
_JPEG_END = b"\xff\xd9"
_PNG_START = b"\x89PNG"


Stage = Literal["decode", "resize", "encode"]


class CorruptImage(FailedWork):
    """A frame that is no readable picture."""


def to_jpeg(image: bytes | NDArray[np.uint8], size: int = IMAGE_SIZE, quality: int = JPEG_QUALITY) -> bytes:
    """Returns the frame as a JPEG of size x size.

    image: JPEG or PNG bytes, or uint8 [y, x, 3] RGB. A JPEG that has the size already is returned byte for byte;
    anything else is decoded, letterboxed and encoded (4:2:0). Raises CorruptImage.
    """
    if isinstance(image, bytes) and image.startswith(_JPEG_START) and _is_whole_at(image, size):
        return image
    with timed("decode"):
        pixels = decode_image(image) if isinstance(image, bytes) else image
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
        raise CorruptImage(f"expected a frame uint8 [y, x, 3], found {pixels.dtype} {list(pixels.shape)}")
    with timed("resize"):
        boxed = np.ascontiguousarray(letterbox(pixels, size))
    with timed("encode"):
        return simplejpeg.encode_jpeg(boxed, quality=quality, colorspace="RGB", colorsubsampling="420")


@contextmanager
def timed(stage: Stage) -> Iterator[None]:
    """Adds the time that the block takes to this thread's `codec_seconds`."""
    start = time.perf_counter()
    try:
        yield
    finally:
        spent = codec_seconds()
        _thread.spent = spent | {stage: spent[stage] + time.perf_counter() - start}


def codec_seconds() -> dict[Stage, float]:
    """The seconds that this thread has spent so far in decoding, resizing and encoding pictures."""
    return getattr(_thread, "spent", {"decode": 0.0, "resize": 0.0, "encode": 0.0})


def decode_jpeg(data: bytes) -> NDArray[np.uint8]:
    """Decodes a JPEG to RGB uint8 [y, x, 3]. Raises CorruptImage, also for a file that is cut off or absurdly large."""
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        if height * width > MAX_PIXELS:
            raise CorruptImage(f"expected at most {MAX_PIXELS} pixels, found a JPEG of {height} x {width}")
        return simplejpeg.decode_jpeg(data, "RGB")
    except ValueError as error:
        raise CorruptImage(f"expected a readable JPEG, found {len(data)} bytes: {error}") from error


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """Decodes JPEG or PNG bytes to RGB uint8 [y, x, 3]. Raises CorruptImage."""
    if data.startswith(_JPEG_START):
        return decode_jpeg(data)
    if not data.startswith(_PNG_START):
        raise CorruptImage(f"expected JPEG or PNG bytes, found {len(data)} bytes that begin with {data[:8]!r}")
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise CorruptImage(f"expected at most {MAX_PIXELS} pixels, found a PNG of {picture.size}")
            return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise CorruptImage(f"expected a readable PNG, found {len(data)} bytes: {error}") from error


def letterbox(image: NDArray[np.uint8], size: int = IMAGE_SIZE) -> NDArray[np.uint8]:
    """Scales a frame into size x size by bilinear filtering, its aspect kept, centred on black.

    >>> letterbox(np.full((2, 4, 3), 9, np.uint8), 4)[:, 0, 0]
    array([0, 9, 9, 0], dtype=uint8)
    """
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    from PIL import Image

    scale = size / max(height, width)
    new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
    resized = np.asarray(Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BILINEAR))
    if (new_height, new_width) == (size, size):
        return resized
    top, left = (size - new_height) // 2, (size - new_width) // 2
    boxed = np.zeros((size, size, 3), np.uint8)
    boxed[top : top + new_height, left : left + new_width] = resized
    return boxed


def _is_whole_at(data: bytes, size: int) -> bool:
    """Says whether a JPEG has size x size pixels in three colours and its end marker, without decoding it."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return False
    return (height, width) == (size, size) and colorspace == "YCbCr" and data.rstrip(b"\0").endswith(_JPEG_END)


_thread = threading.local()
BLACK_JPEG = to_jpeg(np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8))
