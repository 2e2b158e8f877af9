"""Frames that are set upright, exchanged or chosen only when asked for."""

import numpy as np
import pytest

from pipelines.contract.frames import SwappedChannels, TurnedFrames

# Two rows of three pixels, numbered in reading order.
FRAME = np.repeat(np.arange(6, dtype=np.uint8).reshape(2, 3, 1), 3, axis=2)


@pytest.mark.parametrize(
    ("flip", "rotate", "upright"),
    [
        ("", 0, [[0, 1, 2], [3, 4, 5]]),
        ("vertical", 0, [[3, 4, 5], [0, 1, 2]]),
        ("horizontal", 0, [[2, 1, 0], [5, 4, 3]]),
        ("", 90, [[3, 0], [4, 1], [5, 2]]),
        ("", 180, [[5, 4, 3], [2, 1, 0]]),
        ("", 270, [[2, 5], [1, 4], [0, 3]]),
        ("vertical", 180, [[2, 1, 0], [5, 4, 3]]),
    ],
)
def test_frames_are_mirrored_then_turned_clockwise(flip: str, rotate: int, upright: list[list[int]]) -> None:
    frames = TurnedFrames([FRAME, FRAME + 10], flip, rotate)
    assert len(frames) == 2
    assert frames[0][..., 0].tolist() == upright
    assert frames[1:][0][..., 2].tolist() == (np.array(upright) + 10).tolist()
    assert frames[0].flags.c_contiguous


def test_red_and_blue_are_exchanged() -> None:
    frame = np.array([[[220, 40, 30]]], np.uint8)
    assert SwappedChannels([frame])[0].tolist() == [[[30, 40, 220]]]
