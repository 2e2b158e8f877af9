"""Pairing rows with frames by time."""

import numpy as np
import pytest

from pipelines.sources.alignment import (
    Stream,
    StreamReport,
    _note_streams,
    end_of_hold,
    interpolate_columns,
    pair_frames,
    report_stream,
)


def pair(rows: list[float], frames: list[float], period_s: float = 0.1) -> tuple[list[int], float, float]:
    pairing = pair_frames(np.array(rows), np.array(frames), period_s)
    return pairing.frames.tolist(), pairing.error_s, pairing.shift_s


@pytest.mark.parametrize(
    ("rows", "frames", "expected"),
    [
        ([0.0, 0.1, 0.2], [0.0, 0.1, 0.2], [0, 1, 2]),
        ([0.0, 0.1, 0.2], [0.0, 0.1], [0, 1, -1]),
        ([0.0, 0.1, 0.2], [0.1, 0.2], [-1, 0, 1]),
        ([0.1, 0.2], [0.0, 0.1, 0.2, 0.3], [1, 2]),
        ([0.0, 0.03, 0.1], [0.0, 0.1], [0, -1, 1]),
        ([0.0, 0.1], [0.0], [0, -1]),
        ([5.0], [0.0], [0]),
    ],
)
def test_a_row_has_the_frame_of_its_time(rows: list[float], frames: list[float], expected: list[int]) -> None:
    assert pair(rows, frames)[0] == expected


def test_the_largest_distance_of_a_pair_is_the_error() -> None:
    assert pair([0.0, 0.1, 0.2], [0.0, 0.12, 0.2]) == ([0, 1, 2], 0.02, 0.0)


def test_each_clock_has_its_own_start_only_where_that_pairs_more() -> None:
    assert pair([0.1, 0.2, 0.3], [0.0, 0.1, 0.2]) == ([0, 1, 2], 0.0, -0.1)
    assert pair([2.0, 2.1, 2.2], [0.0, 0.1]) == ([0, 1, -1], 0.0, -2.0)
    assert pair([0.0, 0.1, 0.2, 0.3], [0.2, 0.3]) == ([-1, -1, 0, 1], 0.0, 0.0)


def test_clocks_of_equal_counts_may_drift_by_a_thousandth_and_no_further() -> None:
    rows = np.arange(600) / 10
    assert pair_frames(rows, rows * 1.001, 0.1).frames.tolist() == list(range(600))
    assert pair_frames(rows, rows * 1.001, 0.1).error_s == pytest.approx(0.0599)
    assert pair_frames(rows, rows * 1.03, 0.1).n_lost > 250


def test_half_of_the_rows_are_lost_where_clocks_run_apart() -> None:
    rows, frames = np.arange(400) / 10, np.arange(500) / 10 * 0.91
    assert 150 < pair_frames(rows, frames, 0.091).n_lost < 250


TENTHS_NS = np.arange(0, 1_000_000_000, 100_000_000)


def stream(times: np.ndarray, **changes: bool) -> Stream:
    return Stream(times=times, values=np.zeros((len(times), 1)), source="x", **{"is_interpolated": False} | changes)


def test_only_a_value_that_lasts_or_the_single_one_holds_for_ever() -> None:
    assert stream(TENTHS_NS).end == end_of_hold(TENTHS_NS)
    assert stream(TENTHS_NS, is_interpolated=True).end == TENTHS_NS[-1]
    assert stream(TENTHS_NS[:1], is_interpolated=True).end == 0
    assert stream(TENTHS_NS[:1]).end is None and stream(TENTHS_NS, lasts=True).end is None


def test_a_gap_up_to_the_last_step_is_counted_and_one_behind_it_is_not() -> None:
    camera = np.delete(np.arange(0, 1_000_000_000, 10_000_000), range(83, 90))
    assert _note_streams({"c": camera}, TENTHS_NS)["c/n_lost"] == 7
    assert _note_streams({"c": camera}, TENTHS_NS[:9])["c/n_lost"] == 0


def test_a_single_stamp_has_no_period() -> None:
    assert report_stream(TENTHS_NS[:1]) == StreamReport(period_ms=0.0, longest_pause_ms=0.0, n_gaps=0, n_lost=0)


def test_a_joint_that_passes_the_end_of_its_range_goes_the_short_way() -> None:
    stamps = np.arange(0, 500, 100)
    joint = np.array([3.0, 3.1, -3.1, -3.0, 3.12])  # over the end, on, and back
    length = np.array([0.0, 4.0, -4.0, 0.0, 4.0])  # no angle: in mm, it does go from 4 to -4
    values, turns = np.stack([joint, length], axis=1), np.array([2 * np.pi, 0.0])
    grid = np.arange(0, 401, 50)
    moved = interpolate_columns(stamps, values, grid, turns)
    np.testing.assert_array_equal(moved[::2], values)
    half = (2 * np.pi - 6.2) / 2
    back = -3.0 - (2 * np.pi - 6.12) / 2
    np.testing.assert_allclose(moved[1::2, 0], [3.05, 3.1 + half, -3.05, back], atol=1e-12)
    np.testing.assert_array_equal(moved[1::2, 1], [2.0, 0.0, -2.0, 2.0])


def test_a_value_that_is_no_number_spoils_no_other() -> None:
    values = np.array([[0.0], [np.nan], [1.0], [2.0]])
    moved = interpolate_columns(np.arange(4), values, np.arange(4), np.array([2 * np.pi]))
    np.testing.assert_array_equal(moved, values)
