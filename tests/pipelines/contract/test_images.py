"""Frames: what is copied, what is decoded, and where the black bars lie."""

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from pipelines.contract.images import BLACK_JPEG, CorruptImage, decode_image, decode_jpeg, letterbox, to_jpeg


def jpeg_of(pixels: np.ndarray) -> bytes:
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=90, colorspace="RGB")


def gray(height: int, width: int, level: int = 128) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def test_a_jpeg_of_the_target_size_is_returned_byte_for_byte() -> None:
    jpeg = jpeg_of(gray(224, 224))
    assert to_jpeg(jpeg) is jpeg


def test_a_wide_frame_is_scaled_and_centred_on_black() -> None:
    boxed = letterbox(gray(240, 320, 200))
    assert boxed.shape == (224, 224, 3)
    assert boxed[:, 100, 0].tolist() == [0] * 28 + [200] * 168 + [0] * 28


def test_a_tall_frame_gets_bars_left_and_right() -> None:
    assert letterbox(gray(4, 2, 9), 4)[2, :, 1].tolist() == [0, 9, 9, 0]


def test_a_small_frame_is_enlarged() -> None:
    assert letterbox(gray(64, 64, 7)).tolist() == gray(224, 224, 7).tolist()


def test_a_larger_jpeg_is_encoded_again_at_the_target_size() -> None:
    pixels = decode_jpeg(to_jpeg(jpeg_of(gray(448, 448, 90))))
    assert pixels.shape == (224, 224, 3)
    assert abs(pixels.astype(int) - 90).max() <= 1


@pytest.mark.parametrize("shape", [(256, 256), (90, 161), (333, 100), (1, 7)])
def test_a_jpeg_becomes_what_its_decoded_pixels_become(shape: tuple[int, int]) -> None:
    jpeg = jpeg_of(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8))
    assert to_jpeg(jpeg) == to_jpeg(decode_jpeg(jpeg)) == to_jpeg(letterbox(decode_jpeg(jpeg)))


def test_an_array_is_encoded_with_its_channels_in_order() -> None:
    red = np.zeros((224, 224, 3), np.uint8)
    red[..., 0] = 255
    assert decode_jpeg(to_jpeg(red))[100, 100].tolist() == [254, 0, 0]


def test_a_view_with_its_channels_reversed_is_encoded() -> None:
    blue = np.zeros((224, 224, 3), np.uint8)
    blue[..., 2] = 255
    assert decode_jpeg(to_jpeg(blue[..., ::-1]))[100, 100].tolist() == [254, 0, 0]


def test_png_bytes_are_read() -> None:
    file = io.BytesIO()
    Image.fromarray(gray(3, 2, 40)).save(file, "png")
    assert decode_image(file.getvalue()).tolist() == gray(3, 2, 40).tolist()


def test_the_black_jpeg_is_black_and_of_the_target_size() -> None:
    assert decode_jpeg(BLACK_JPEG).max() == 0
    assert decode_jpeg(BLACK_JPEG).shape == (224, 224, 3)


@pytest.mark.parametrize("cut", [20, 400, -2])
def test_a_cut_off_jpeg_of_the_target_size_is_refused(cut: int) -> None:
    with pytest.raises(CorruptImage, match="expected a readable JPEG"):
        to_jpeg(jpeg_of(gray(224, 224))[:cut])


@pytest.mark.parametrize("data", [b"", b"GIF89a...", b"\x89PNG\r\n\x1a\n", b"\x89PNG", b"\xff\xd8"])
def test_bytes_that_are_no_picture_are_refused(data: bytes) -> None:
    with pytest.raises(CorruptImage, match="expected"):
        to_jpeg(data)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4), (0, 4, 3)])
def test_arrays_that_are_no_frame_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(CorruptImage, match="expected a frame uint8"):
        to_jpeg(np.zeros(shape, np.uint8))


def test_a_grayscale_jpeg_of_the_target_size_becomes_three_colours() -> None:
    jpeg = simplejpeg.encode_jpeg(np.zeros((224, 224, 1), np.uint8), colorspace="GRAY", colorsubsampling="Gray")
    assert simplejpeg.decode_jpeg_header(to_jpeg(jpeg))[2] == "YCbCr"


def test_a_small_file_that_claims_to_be_a_huge_picture_is_refused() -> None:
    jpeg = bytearray(to_jpeg(np.zeros((16, 16, 3), np.uint8), size=16))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = b"\x75\x30\x75\x30"
    with pytest.raises(CorruptImage, match="expected at most 67108864 pixels, found a JPEG of 30000 x 30000"):
        to_jpeg(bytes(jpeg))
