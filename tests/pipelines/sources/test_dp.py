"""Reading Diffusion Policy and UMI replay buffers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from pipelines.contract.embodiments import get_embodiment
from pipelines.contract.errors import FailedWork, UsageError
from pipelines.contract.images import decode_jpeg
from pipelines.contract.native import Rejected
from pipelines.mapping.adapters import get_adapter
from pipelines.mapping.to_slots import to_episode
from pipelines.sources.dp import find, read

DP = get_adapter("dp_replay")
UMI = get_adapter("umi")
ENDS = [3, 8]


def write_buffer(path: Path, ends: list[int] = ENDS, chunks: int = 8, **data: Any) -> Path:
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.create_array("meta/episode_ends", data=np.array(ends, np.int64))
    arrays: dict[str, Any] = {
        "state": np.tile([0.1, 0.2, 0.3, 0, 0, 0.2, 0.25], (8, 1)),
        "timestamp": np.arange(8) * 0.1,
        "action": np.tile([0.1, 0.2, 0.3, 0, 0.1, 0, 1.0], (8, 1)),
        "img": np.arange(8, dtype=np.uint8)[:, None, None, None] * np.full((1, 8, 8, 3), 10, np.uint8),
    } | data
    for key, value in arrays.items():
        value = np.asarray(value)
        group.create_array(f"data/{key}", data=value, chunks=(min(chunks, len(value)), *value.shape[1:]))
    return path


def test_episodes_are_cut_at_their_ends(tmp_path: Path) -> None:
    write_buffer(tmp_path / "a.zarr")
    found = find(str(tmp_path), DP)
    assert [(e.reference.key, e.place) for e in found.episodes] == [("a.zarr#0", (0, 3)), ("a.zarr#1", (3, 8))]
    native = read(found.episodes[1], DP)
    episode = to_episode(native, DP, get_embodiment("ur5e"), ["base_0_rgb"], task="push")
    assert episode.n_steps == 5
    assert episode.state[0, :7].tolist() == pytest.approx([0.1, 0.2, 0.3, 0, 0, 0.2, 0.25])
    assert episode.action[0, :7].tolist() == pytest.approx([0.1, 0.2, 0.3, 0, 0.1, 0, 1.0])
    shown = [decode_jpeg(frame)[100, 100, 0] for frame in episode.images["base_0_rgb"]]
    assert np.abs(np.array(shown, int) - [30, 40, 50, 60, 70]).max() <= 1
    assert episode.timestamp_s.tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_times_are_those_of_the_buffer_if_they_rise_and_of_the_control_rate_if_not(tmp_path: Path) -> None:
    uneven, falling = [0, 0.1, 0.3, 1.0, 1.1, 1.25, 1.3, 1.5], [0, 0.1, 0.2, 5.0, 4.0, 3.0, 2.0, 1.0]
    for name, times in (("uneven", uneven), ("falling", falling)):
        write_buffer(tmp_path / f"{name}.zarr", timestamp=np.array(times))
    told = {e.reference.key: read(e, DP).timestamp_s for e in find(str(tmp_path), DP).episodes}
    assert told["uneven.zarr#1"].tolist() == uneven[3:]
    assert told["falling.zarr#1"] is None


def test_umis_action_is_the_next_pose(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    pose = np.arange(8)[:, None] / 100
    write_buffer(
        path,
        camera0_rgb=np.zeros((8, 8, 8, 3), np.uint8),
        robot0_eef_pos=np.repeat(pose, 3, 1),
        robot0_eef_rot_axis_angle=np.zeros((8, 3)),
        robot0_gripper_width=np.full((8, 1), 0.02),
    )
    native = read(find(str(path), UMI).episodes[0], UMI)
    episode = to_episode(native, UMI, get_embodiment("single_arm"), ["left_wrist_0_rgb"])
    assert episode.state[:, 0].tolist() == pytest.approx([0.0, 0.01, 0.02])
    assert episode.action[:, 0].tolist() == pytest.approx([0.01, 0.02, 0.02])
    assert episode.action[0, 6] == pytest.approx(0.75)


@pytest.mark.parametrize("ends", [[3, 3], [5, 2], [-1, 4]])
def test_ends_that_do_not_increase_are_an_error(tmp_path: Path, ends: list[int]) -> None:
    write_buffer(tmp_path / "a.zarr", ends=ends)
    with pytest.raises(FailedWork, match="expected numbers that increase"):
        find(str(tmp_path), DP)


def test_an_array_that_is_too_short_rejects_its_episodes(tmp_path: Path) -> None:
    write_buffer(tmp_path / "a.zarr", ends=[3, 9])
    found = find(str(tmp_path), DP)
    assert read(found.episodes[0], DP).n_steps == 3
    with pytest.raises(Rejected, match="unequal_lengths.*expected 9 rows, found 8"):
        read(found.episodes[1], DP)


def test_a_store_that_is_no_buffer_is_an_error(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "a.zarr", mode="w")
    with pytest.raises(FailedWork, match="expected a replay buffer with meta/episode_ends"):
        find(str(tmp_path), DP)
    with pytest.raises(UsageError, match="expected a folder, found nothing"):
        find(str(tmp_path / "nowhere"), DP)


@pytest.mark.shared
def test_the_sample_buffer_is_read(shared: Path) -> None:
    found = find(str(shared / "data/sim/dp_zarr"), DP)
    natives = [read(located, DP) for located in found.episodes]
    assert [native.n_steps for native in natives] == [48, 45, 47, 46]
    assert sorted(natives[0].frames) == ["img", "wrist_img"]
