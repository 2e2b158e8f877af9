"""Which picture a row of a LeRobot dataset gets: by time stamps, with every row without one counted."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.contract.embodiments import get_embodiment
from pipelines.contract.episode import DroppedSteps
from pipelines.contract.native import NativeEpisode, Rejected
from pipelines.mapping.adapters import get_adapter
from pipelines.mapping.to_slots import to_episode
from pipelines.mapping.validate import find_fault
from pipelines.sources.lerobot import find, read
from tests.support.inputs.lerobot_writer import (
    CAMERA,
    Columns,
    first_joint,
    make_rows,
    meta_row,
    numbers_shown,
    video_path,
    write_v2,
    write_v3,
    write_video,
)
from trainers.main import main

SO100 = get_adapter("lerobot_so100")


def read_one(root: Path, number: int = 0) -> NativeEpisode:
    return read(find(str(root), SO100).episodes[number], SO100)


def read_with_video(
    tmp_path: Path, columns: Columns, numbers: list[int], times_s: list[float] | None = None, fps: int = 10
) -> NativeEpisode:
    """An episode whose video holds frames of these numbers at these times."""
    root = write_v2(tmp_path, [columns])
    write_video(video_path(root, 0), numbers, times_s, fps)
    return read_one(root)


def test_frames_that_were_lost_inside_lose_their_rows_and_shift_no_other(tmp_path: Path) -> None:
    there = [0, 1, 2, 3, 6, *range(7, 30)]
    native = read_with_video(tmp_path, make_rows(0, 30), there, [n / 10 for n in there])
    assert native.dropped == (DroppedSteps(start=4, end=6, reason="missing_frames"),)
    assert numbers_shown(native.frames[CAMERA]) == there
    assert first_joint(native.arrays) == [n / 10 for n in there]
    assert native.notes == {"time_error_s": 0.0}


def test_rows_cut_out_of_an_episode_get_the_pictures_of_their_times(tmp_path: Path) -> None:
    columns = {name: values[20:30] for name, values in make_rows(0, 40).items()}
    native = read_with_video(tmp_path, columns, list(range(40)))
    assert numbers_shown(native.frames[CAMERA]) == list(range(20, 30))


def test_a_long_video_over_few_rows_whose_times_begin_at_0_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="unequal_clocks.*expected frames for 20 rows, found 40"):
        read_with_video(tmp_path, make_rows(0, 20), list(range(40)))


def test_a_video_that_films_on_for_a_moment_is_matched_by_time(tmp_path: Path) -> None:
    native = read_with_video(tmp_path, make_rows(0, 20), list(range(23)))
    assert numbers_shown(native.frames[CAMERA]) == list(range(20))


def test_a_video_whose_clock_begins_later_is_read_from_its_start_and_that_is_stated(tmp_path: Path) -> None:
    native = read_with_video(tmp_path, make_rows(0, 5), [0, 1, 2, 3, 4], [1.0, 1.1, 1.2, 1.3, 1.4])
    assert numbers_shown(native.frames[CAMERA]) == [0, 1, 2, 3, 4]
    assert "the rows' clock begins -1.000 s after the video's" in native.inferred["row_clock"]


def test_rows_that_begin_a_period_late_with_as_many_frames_are_read_from_their_start(tmp_path: Path) -> None:
    columns = make_rows(0, 5)
    native = read_with_video(tmp_path, columns | {"timestamp": columns["timestamp"] + np.float32(0.1)}, [0, 1, 2, 3, 4])
    assert numbers_shown(native.frames[CAMERA]) == [0, 1, 2, 3, 4]
    assert "0.100 s after the video's" in native.inferred["row_clock"]


def test_a_camera_that_began_late_loses_the_rows_before(tmp_path: Path) -> None:
    there = list(range(2, 30))
    native = read_with_video(tmp_path, make_rows(0, 30), there, [n / 10 for n in there])
    assert native.dropped == (DroppedSteps(start=0, end=2, reason="missing_frames"),)
    assert numbers_shown(native.frames[CAMERA]) == there


def test_jittered_times_pair_with_the_nearest_frame_and_the_largest_error_is_noted(tmp_path: Path) -> None:
    times = [0.0, 0.11, 0.195, 0.3, 0.38]
    native = read_with_video(tmp_path, make_rows(0, 5), [0, 1, 2, 3, 4], times)
    assert numbers_shown(native.frames[CAMERA]) == [0, 1, 2, 3, 4]
    assert native.notes["time_error_s"] == pytest.approx(0.02, abs=1e-5)


def test_clocks_that_run_apart_do_not_pass_as_pairs(tmp_path: Path) -> None:
    columns = make_rows(0, 40)
    columns["timestamp"] = (np.arange(40) / 10 * 1.03).astype(np.float32)
    native = read_with_video(tmp_path, columns, list(range(40)))
    episode = to_episode(native, SO100, get_embodiment("so100"), ["base_0_rgb"])
    fault = find_fault(episode)
    assert fault is not None and fault[0] in ("missing_frames", "truncated_video")


def test_a_rate_of_29_97_is_that_of_30(tmp_path: Path) -> None:
    columns = make_rows(0, 40, fps=30)
    root = write_v2(tmp_path, [columns], fps=30)
    write_video(video_path(root, 0), range(40), [i * 1.001 / 30 for i in range(40)], 30)
    native = read_one(root)
    assert numbers_shown(native.frames[CAMERA]) == list(range(40))


def test_repeated_times_are_kept_as_they_are_and_stated(tmp_path: Path) -> None:
    columns = make_rows(0, 5)
    times = np.array([0.0, 0.1, 0.1, 0.3, 0.4])
    native = read_with_video(tmp_path, columns | {"timestamp": times}, [0, 1, 2, 3, 4])
    assert native.timestamp_s is not None and native.timestamp_s.tolist() == times.tolist()
    assert numbers_shown(native.frames[CAMERA]) == [0, 1, 2, 3, 4]
    assert "repeat or go back were kept" in native.inferred["times"]
    episode = to_episode(native, SO100, get_embodiment("so100"), ["base_0_rgb"])
    assert episode.timestamp_s.tolist() == times.tolist()


def test_repeated_times_do_not_say_which_of_more_frames_are_the_rows(tmp_path: Path) -> None:
    columns = make_rows(0, 5) | {"timestamp": np.array([0.0, 0.1, 0.1, 0.3, 0.4])}
    with pytest.raises(Rejected, match="wrong_times.*which of 6 frames belong to 5 rows"):
        read_with_video(tmp_path, columns, [0, 1, 2, 3, 4, 5])


def test_times_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="wrong_times"):
        read_with_video(tmp_path, make_rows(0, 3) | {"timestamp": np.array([0.0, np.nan, 0.2])}, [0, 1, 2])


def test_without_times_rows_come_at_the_rate_and_that_is_stated(tmp_path: Path) -> None:
    columns = make_rows(0, 4)
    del columns["timestamp"]
    native = read_with_video(tmp_path, columns, [0, 1, 2, 3])
    assert native.timestamp_s is not None and native.timestamp_s.tolist() == [0.0, 0.1, 0.2, 0.3]
    assert "no column timestamp" in native.inferred["times"]


def test_the_frames_of_a_neighbour_are_never_taken(tmp_path: Path) -> None:
    """The second episode has a row more than its stretch of the video, which the first frame of the third follows."""
    rows = [meta_row(0, 0, 10), meta_row(1, 10, 20), meta_row(2, 30, 10)]
    rows[1][f"videos/{CAMERA}/to_timestamp"] = 2.9
    rows[2][f"videos/{CAMERA}/from_timestamp"] = 2.9
    rows[2][f"videos/{CAMERA}/to_timestamp"] = 3.9
    files = {0: [make_rows(0, 10, 0), make_rows(1, 20, 10), make_rows(2, 10, 30)]}
    root = write_v3(tmp_path, rows, files, 39)
    native = read_one(root, 1)
    assert numbers_shown(native.frames[CAMERA]) == list(range(10, 29))
    assert native.dropped == (DroppedSteps(start=19, end=20, reason="truncated_video"),)
    assert numbers_shown(read_one(root, 2).frames[CAMERA]) == list(range(29, 39))


def test_a_shared_video_whose_clock_begins_at_1_s_is_judged_by_all_its_episodes(tmp_path: Path) -> None:
    rows = [meta_row(0, 0, 20), meta_row(1, 20, 20)]
    root = write_v3(tmp_path, rows, {0: [make_rows(0, 20, 0), make_rows(1, 20, 20)]}, 1)
    path = root / f"videos/{CAMERA}/chunk-000/file-000.mp4"
    write_video(path, range(40), [1.0 + i / 10 for i in range(40)])
    assert numbers_shown(read_one(root, 1).frames[CAMERA]) == list(range(20, 40))
    assert "begins 1.000 s after" in read_one(root, 0).inferred["video_clock"]


def test_check_finds_times_that_do_not_rise_and_rejects_name_every_lost_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From files to findings: one episode with a repeated time, one whose video ends a frame early."""
    back = make_rows(0, 30) | {"timestamp": np.r_[np.arange(15), np.arange(14, 29)] / 10}
    root = write_v2(tmp_path / "in", [back, make_rows(1, 30, 30)])
    write_video(video_path(root, 1), range(29))
    out = ["--name", "a", "--version", "1.0.0", "--adapter", "lerobot_so100", "--units", "degrees", "--workers", "1"]
    assert main(["convert", "lerobot", str(root), str(tmp_path / "out"), *out]) == 0
    dataset = tmp_path / "out/a/1.0.0"
    rejects = pq.read_table(dataset / "rejects.parquet").to_pylist()
    assert [(r["source_key"], r["level"], r["start"], r["end"], r["reason"]) for r in rejects] == [
        ("episode_000001", "steps", 29, 30, "truncated_video")
    ]
    assert rejects[0]["detail"] == "a video that ends before its episode does, or cannot be read"
    capsys.readouterr()
    assert main(["check", str(dataset)]) == 1
    assert "times that do not rise" in capsys.readouterr().out
