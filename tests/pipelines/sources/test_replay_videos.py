"""Replay buffers whose cameras are MP4s beside them, as Diffusion Policy records a real robot."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from pipelines.contract.native import NativeEpisode, Rejected
from pipelines.mapping.adapters import Adapter, parse_adapter
from pipelines.sources import dp
from tests.support.inputs.lerobot_writer import numbers_shown, write_video

ENDS = [6, 10]
ENTRY: dict[str, Any] = {
    "title": "a recording of Diffusion Policy's",
    "format": "dp",
    "robot": "ur5e",
    "control_mode": "ee_absolute",
    "control_hz": 10,
    "units": "metric",
    "cameras": {"base_0_rgb": "camera_1"},
    "optional_cameras": {"left_wrist_0_rgb": "camera_3"},
    "state": {"arm0": {"from": "robot_eef_pose", "form": "xyz_rotvec"}},
    "action": {"arm0": {"from": "action", "form": "xyz_rotvec"}},
}


def entry(**changes: Any) -> Adapter:
    return parse_adapter("recording", ENTRY | changes)


def record(folder: Path, frames: int = 30, times: bool = True) -> Path:
    """As real_env.py leaves it: rows at 10 Hz with times of the clock on the wall, two cameras at 30 Hz an episode."""
    root = zarr.open_group(str(folder / "replay_buffer.zarr"), mode="w", zarr_format=2)
    data, meta = root.create_group("data"), root.create_group("meta")
    for key in ("robot_eef_pose", "action"):
        data.create_array(key, data=np.zeros((10, 6)), chunks=(4, 6), fill_value=1.0)
    stamps = np.concatenate([1700000000 + np.arange(6) / 10, 1700000050 + np.arange(4) / 10])
    if times:
        data.create_array("timestamp", data=stamps, chunks=(10,))
    meta.create_array("episode_ends", data=np.array(ENDS), chunks=(2,))
    for episode in range(2):
        for camera in (1, 3):
            write_video(folder / f"videos/{episode}/{camera}.mp4", range(frames), fps=30)
    return folder


def read(folder: Path, adapter: Adapter, number: int = 0) -> NativeEpisode:
    return dp.read(dp.find(str(folder), adapter).episodes[number], adapter)


@pytest.mark.parametrize(("number", "expected"), [(0, [0, 3, 6, 9, 12, 15]), (1, [0, 3, 6, 9])])
@pytest.mark.parametrize("times", [True, False])
def test_a_row_shows_the_frame_of_its_time_in_the_episode(
    tmp_path: Path, number: int, expected: list[int], times: bool
) -> None:
    native = read(record(tmp_path, times=times), entry(), number)
    assert numbers_shown(native.frames["camera_1"]) == expected
    assert numbers_shown(native.frames["camera_3"]) == expected and native.dropped == ()


def test_rows_behind_the_end_of_a_video_are_left_out_and_counted(tmp_path: Path) -> None:
    native = read(record(tmp_path, frames=10), entry())
    assert native.n_steps == 4 and len(native.arrays["action"]) == 4
    assert [(lost.start, lost.end, lost.reason) for lost in native.dropped] == [(4, 6, "truncated_video")]


def test_a_damaged_video_that_no_slot_uses_costs_nothing(tmp_path: Path) -> None:
    (record(tmp_path) / "videos/0/3.mp4").write_bytes(b"cut")
    native = read(tmp_path, entry(optional_cameras={}))
    assert list(native.frames) == ["camera_1"] and native.cameras_found == "camera_1, camera_3"
    with pytest.raises(Rejected, match="truncated_video"):
        read(tmp_path, entry())


def test_without_times_and_rate_no_frame_is_guessed(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="wrong_times: .* expected data/timestamp or an entry's rate"):
        read(record(tmp_path, times=False), _without_rate())


def _without_rate() -> Adapter:
    content = {key: value for key, value in ENTRY.items() if key != "control_hz"}
    return parse_adapter("recording", content)
