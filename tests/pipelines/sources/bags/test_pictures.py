"""Pictures of ROS's encodings, against OpenCV's numbers."""

from typing import Any

import numpy as np
import pytest

from pipelines.contract.images import CorruptImage
from pipelines.sources.bags.pictures import read_raw

# cv2.cvtColor of OpenCV 4.12 with COLOR_YUV2RGB_UYVY of u, y0, v, y1 = 90, 16, 240, 235.
UYVY, UYVY_RGB = [90, 16, 240, 235], [[[179, 0, 0], [255, 179, 178]]]
MOSAIC = [[10, 20, 30, 40], [50, 60, 70, 80], [90, 100, 110, 120], [130, 140, 150, 160]]


def message(pixels: Any, encoding: str, width: int, padding: int = 0) -> dict[str, Any]:
    rows = np.asarray(pixels, np.uint8)
    rows = np.pad(rows.reshape(len(rows), -1), ((0, 0), (0, padding)), constant_values=99)
    sizes = {"height": len(rows), "width": width, "step": rows.shape[1], "encoding": encoding}
    return {**sizes, "data": memoryview(rows.tobytes())}


@pytest.mark.parametrize(
    ("encoding", "pixel", "expected"),
    [
        ("rgb8", [1, 2, 3], [1, 2, 3]),
        ("bgr8", [1, 2, 3], [3, 2, 1]),
        ("rgba8", [1, 2, 3, 4], [1, 2, 3]),
        ("bgra8", [1, 2, 3, 4], [3, 2, 1]),
        ("mono8", [7], [7, 7, 7]),
    ],
)
def test_colours_come_in_rgb_whatever_their_order(encoding: str, pixel: list[int], expected: list[int]) -> None:
    assert read_raw(message([[pixel, pixel]], encoding, 2, padding=5)).tolist() == [[expected, expected]]


def test_yuv422_has_the_colours_that_opencv_gives_it() -> None:
    u, y0, v, y1 = UYVY
    assert read_raw(message([UYVY], "yuv422", 2)).tolist() == UYVY_RGB
    assert read_raw(message([[y0, u, y1, v]], "yuv422_yuy2", 2)).tolist() == UYVY_RGB


@pytest.mark.parametrize(
    ("encoding", "pixel"),
    # The pixel at row 1, column 1, as OpenCV's bilinear COLOR_Bayer??2RGB gives it; the mosaic is a plane, so each
    # colour is the mean of its neighbours.
    [("bayer_rggb8", 60), ("bayer_bggr8", 60), ("bayer_grbg8", 60), ("bayer_gbrg8", 60)],
)
def test_a_mosaic_of_a_plane_stays_the_plane(encoding: str, pixel: int) -> None:
    assert read_raw(message(MOSAIC, encoding, 4))[1, 1].tolist() == [pixel] * 3


def test_a_mosaic_has_each_colour_where_its_name_says() -> None:
    red_only = np.zeros((4, 4), np.uint8)
    red_only[0::2, 0::2] = 200
    assert read_raw(message(red_only, "bayer_rggb8", 4))[2, 2].tolist() == [200, 0, 0]
    assert read_raw(message(red_only, "bayer_bggr8", 4))[2, 2].tolist() == [0, 0, 200]
    assert read_raw(message(red_only, "bayer_grbg8", 4))[2, 2].tolist() == [0, 200, 0]


@pytest.mark.parametrize("change", [{"height": 10**6}, {"width": 10**6}, {"step": 1}, {"height": 0}, {"height": 3}])
def test_sizes_that_the_bytes_do_not_hold_are_no_picture(change: dict[str, int]) -> None:
    with pytest.raises(CorruptImage, match="expected a picture"):
        read_raw(message([[[1, 2, 3]] * 2] * 2, "rgb8", 2) | change)
