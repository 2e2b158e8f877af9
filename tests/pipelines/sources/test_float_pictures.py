"""Pictures of floating-point numbers: 0..1 and 0..255 are told apart, and what may be either is refused."""

import numpy as np
import pytest

from pipelines.contract.native import Rejected
from pipelines.sources.float_pictures import FloatFrames, decide_scale, to_uint8


def frames(*values: float, dtype: str = "float32") -> list[np.ndarray]:
    return [np.full((2, 2, 3), value, dtype) for value in values]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize(
    ("stored", "read"),
    [
        ([0.0, 10.0, 254.6, 255.0], [0, 10, 255, 255]),
        ([0.3, 0.9, 2.0], [0, 1, 2]),
        ([0.0, 0.25, 1.0], [0, 64, 255]),
        ([0.0, 0.0], [0, 0]),
    ],
)
def test_the_greatest_value_of_the_episode_decides(dtype: str, stored: list[float], read: list[int]) -> None:
    decoded = FloatFrames(frames(*stored, dtype=dtype), "camera")
    assert [int(frame[0, 0, 0]) for frame in decoded] == read
    assert decoded[0].dtype == np.uint8


def test_a_dark_frame_of_a_bright_episode_stays_dark() -> None:
    dark_first = FloatFrames(frames(0.5, 200.0), "camera")
    assert [int(frame[0, 0, 0]) for frame in dark_first[:1]] == [0]


@pytest.mark.parametrize(
    ("stored", "found"),
    [
        ([0.0, 1.0], "numbers up to 1 that may be either"),
        ([0.0, 1.5], "numbers up to 1.5 that may be either"),
        ([-1.0, 1.0], "found numbers from -1 to 0"),
        ([0.0, 300.0], "found numbers from 0 to 300"),
        ([0.0, float("nan")], "found numbers from nan to nan"),
    ],
)
def test_what_may_be_either_or_is_neither_is_refused(stored: list[float], found: str) -> None:
    with pytest.raises(Rejected, match=f"unreadable_frame: camera: .*{found}"):
        decide_scale(frames(*stored), "camera")


def test_a_stated_range_is_taken_and_compared() -> None:
    assert [int(f[0, 0, 0]) for f in FloatFrames(frames(0.0, 1.0), "camera", 1)] == [0, 255]
    assert [int(f[0, 0, 0]) for f in FloatFrames(frames(0.0, 1.0), "camera", 255)] == [0, 1]
    with pytest.raises(Rejected, match="from 0 to 1, found numbers from 0 to 2"):
        to_uint8(frames(2.0)[0], 1.0, "camera")
