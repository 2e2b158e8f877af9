"""Reading ALOHA and robomimic files."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipelines.contract.embodiments import get_embodiment
from pipelines.contract.errors import UsageError
from pipelines.contract.images import decode_jpeg
from pipelines.contract.native import Found, NativeEpisode, Rejected
from pipelines.mapping.adapters import get_adapter
from pipelines.mapping.to_slots import to_episode
from pipelines.sources import aloha, robomimic

ALOHA = get_adapter("aloha_hdf5")
ROBOMIMIC = get_adapter("robomimic")
T = 4


def write_aloha(path: Path, **changes: Any) -> Path:
    arrays: dict[str, Any] = {
        "observations/qpos": np.tile(np.arange(14) / 100, (T, 1)),
        "action": np.tile(np.arange(14) / 10, (T, 1)),
        "observations/images/cam_high": np.arange(T, dtype=np.uint8).repeat(8 * 8 * 3).reshape(T, 8, 8, 3),
    } | changes
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            if value is not None:
                file[key] = value
    return path


def write_robomimic(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": 10}})
        for name in ("demo_0", "demo_1"):
            demo = data.create_group(name)
            demo["actions"] = np.tile([1.0, 0, 0, 0, 0, 0.2, -1.0], (T, 1))
            demo["rewards"] = np.array([0.0, 0, 0, name == "demo_1"])
            demo["obs/robot0_eef_pos"] = np.full((T, 3), 0.1)
            demo["obs/robot0_eef_quat"] = np.tile([0, 0, np.sin(0.1), np.cos(0.1)], (T, 1))
            demo["obs/robot0_gripper_qpos"] = np.tile([0.03, -0.03], (T, 1))
            demo["obs/agentview_image"] = np.zeros((T, 8, 8, 3), np.uint8)
        file["mask/train"], file["mask/valid"] = np.array([b"demo_0"]), np.array([b"demo_1"])
    return path


def read_first(found: Found) -> NativeEpisode:
    return aloha.read(found.episodes[0], ALOHA)


def test_an_aloha_file_fills_both_arms(tmp_path: Path) -> None:
    write_aloha(tmp_path / "episode_0.hdf5")
    native = read_first(aloha.find(str(tmp_path), ALOHA))
    episode = to_episode(native, ALOHA, get_embodiment("trossen_dual"), ["base_0_rgb"], task="fold the towel")
    assert episode.state[0, :14].tolist() == pytest.approx(
        [0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.94, 0.07, 0.08, 0.09, 0.10, 0.11, 0.12, 0.87]
    )
    assert episode.action[0, 6] == pytest.approx(0.4)
    assert (episode.language, episode.control_hz) == (("fold the towel",), 50.0)
    assert [int(frame[0, 0, 0]) for frame in episode.images["base_0_rgb"]] == [0, 1, 2, 3]


def test_the_first_camera_name_that_is_there_counts(tmp_path: Path) -> None:
    top = {"observations/images/cam_high": None, "observations/images/top": np.full((T, 8, 8, 3), 7, np.uint8)}
    write_aloha(tmp_path / "episode_0.hdf5", **top)
    native = read_first(aloha.find(str(tmp_path), ALOHA))
    episode = to_episode(native, ALOHA, get_embodiment("trossen_dual"), ["base_0_rgb"])
    assert episode.images["base_0_rgb"][2][0, 0, 0] == 7


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"action": None}, "missing_key"),
        ({"observations/qpos": np.zeros((T - 1, 14))}, "unequal_lengths"),
        ({"observations/images/cam_high": np.zeros((T - 1, 8, 8, 3), np.uint8)}, "missing_frames"),
        ({"compress_len": np.zeros((2, T))}, "unequal_lengths"),
    ],
)
def test_a_damaged_aloha_file_is_rejected(tmp_path: Path, changes: dict, reason: str) -> None:
    write_aloha(tmp_path / "episode_0.hdf5", **changes)
    with pytest.raises(Rejected) as error:
        read_first(aloha.find(str(tmp_path), ALOHA))
    assert error.value.reason == reason


def test_a_truncated_aloha_file_is_rejected(tmp_path: Path) -> None:
    path = write_aloha(tmp_path / "episode_0.hdf5")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(Rejected, match="unreadable_hdf5"):
        read_first(aloha.find(str(tmp_path), ALOHA))


def test_robomimic_demonstrations_keep_their_masks_as_splits(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "low_dim.hdf5")
    found = robomimic.find(str(path), ROBOMIMIC)
    assert [(e.reference.key, e.reference.split) for e in found.episodes] == [
        ("low_dim.hdf5#demo_0", "train"),
        ("low_dim.hdf5#demo_1", "val"),
    ]
    native = robomimic.read(found.episodes[1], ROBOMIMIC)
    assert (native.success, native.control_hz) == (1, 10.0)
    episode = to_episode(native, ROBOMIMIC, get_embodiment("franka"), ["base_0_rgb"])
    assert episode.state[0, :7].tolist() == pytest.approx([0.1, 0.1, 0.1, 0, 0, 0.2, 0.25])
    assert episode.action[0, :7].tolist() == pytest.approx([0.05, 0, 0, 0, 0, 0.1, 0.0])


@pytest.mark.parametrize(("module", "adapter"), [(aloha, ALOHA), (robomimic, ROBOMIMIC)])
def test_a_folder_without_files_is_an_error(tmp_path: Path, module: Any, adapter: Any) -> None:
    with pytest.raises(UsageError, match="at or below it, found none"):
        module.find(str(tmp_path), adapter)


@pytest.mark.shared
def test_the_jpeg_sample_has_the_stored_pictures(shared: Path) -> None:
    found = aloha.find(str(shared / "data/sim/aloha_hdf5"), ALOHA)
    native = read_first(found)
    assert native.n_steps == 400 and sorted(native.frames) == ["cam_high", "cam_left_wrist", "cam_right_wrist"]
    with h5py.File(shared / "data/sim/aloha_hdf5/episode_0.hdf5") as file:
        row = file["observations/images/cam_left_wrist"][123]
        length = int(file["compress_len"][1, 123])
    assert native.frames["cam_left_wrist"][123] == row[:length].tobytes()
    assert decode_jpeg(native.frames["cam_left_wrist"][123]).shape == (180, 240, 3)
