"""Reading ALOHA files: cameras by name, JPEG rows with padding, colours, names of joints."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipelines.contract.embodiments import get_embodiment
from pipelines.contract.errors import UsageError
from pipelines.contract.images import CorruptImage, decode_jpeg
from pipelines.contract.native import NativeEpisode, Rejected
from pipelines.mapping.adapters import get_adapter, with_channels
from pipelines.mapping.cameras import CameraForm
from pipelines.mapping.to_slots import to_episode
from pipelines.sources import aloha
from tests.support.inputs.hdf5_files import T, jpeg, padded, write_aloha

ALOHA = get_adapter("aloha_hdf5")
TROSSEN = get_embodiment("trossen_dual")
# The order of act-plus-plus, which is not that of the alphabet, and a size of its own for every camera's pictures.
CAMERAS = {"cam_high": (60, 2), "cam_low": (100, 4), "cam_left_wrist": (140, 30), "cam_right_wrist": (180, 60)}


def read_first(folder: Path) -> NativeEpisode:
    return aloha.read(aloha.find(str(folder), ALOHA).episodes[0], ALOHA)


def four_cameras(path: Path, lengths: str = "stated") -> dict[str, list[bytes]]:
    """Writes four JPEG cameras; lengths: `stated` in the recorder's order, `wrong`, or `none`."""
    random = np.random.default_rng(0)
    coded = {}
    for camera, (level, noise) in CAMERAS.items():
        pictures = level + random.integers(-noise, noise + 1, (T, 32, 32, 3))
        coded[camera] = [jpeg(picture.clip(0, 255).astype(np.uint8), 50) for picture in pictures]
    table = np.array([[len(picture) for picture in pictures] for pictures in coded.values()])
    changes = {f"observations/images/{c}": padded(pictures, table.max()) for c, pictures in coded.items()}
    if lengths != "none":
        changes["compress_len"] = (table - (lengths == "wrong")).astype(np.float32)
    write_aloha(path, **changes)
    return coded


def test_an_aloha_file_fills_both_arms(tmp_path: Path) -> None:
    write_aloha(tmp_path / "episode_0.hdf5")
    native = read_first(tmp_path)
    episode = to_episode(native, ALOHA, TROSSEN, ["base_0_rgb"], task="fold the towel")
    assert episode.state[0, :14].tolist() == pytest.approx(
        [0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.94, 0.07, 0.08, 0.09, 0.10, 0.11, 0.12, 0.87]
    )
    assert episode.action[0, 6] == pytest.approx(0.4)
    assert (episode.language, episode.control_hz) == (("fold the towel",), 50.0)
    assert [int(frame[0, 0, 0]) for frame in episode.images["base_0_rgb"]] == [0, 1, 2, 3]


def test_the_first_camera_name_that_is_there_counts(tmp_path: Path) -> None:
    top = {"observations/images/cam_high": None, "observations/images/top": np.full((T, 8, 8, 3), 7, np.uint8)}
    write_aloha(tmp_path / "episode_0.hdf5", **top)
    episode = to_episode(read_first(tmp_path), ALOHA, TROSSEN, ["base_0_rgb"])
    assert episode.images["base_0_rgb"][2][0, 0, 0] == 7


@pytest.mark.parametrize("lengths", ["stated", "none"])
def test_every_camera_has_its_own_pictures_whatever_the_order_of_their_lengths(tmp_path: Path, lengths: str) -> None:
    coded = four_cameras(tmp_path / "episode_0.hdf5", lengths)
    native = read_first(tmp_path)
    assert {camera: list(frames) for camera, frames in native.frames.items()} == coded
    episode = to_episode(native, ALOHA, TROSSEN, ["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"])
    levels = {slot: int(decode_jpeg(frames[3]).mean() + 0.5) for slot, frames in episode.images.items()}
    assert levels == pytest.approx({"base_0_rgb": 60, "left_wrist_0_rgb": 140, "right_wrist_0_rgb": 180}, abs=3)


def test_a_picture_of_no_stated_length_is_corrupt(tmp_path: Path) -> None:
    four_cameras(tmp_path / "episode_0.hdf5", "wrong")
    with pytest.raises(CorruptImage, match="cam_high: frame 0: expected one of compress_len's"):
        read_first(tmp_path).frames["cam_high"][0]


@pytest.mark.parametrize("form", ["texts", "rows of any length"])
def test_jpegs_as_texts_or_rows_of_any_length_are_read(tmp_path: Path, form: str) -> None:
    coded = [jpeg(np.full((8, 8, 3), 50 * t, np.uint8)) for t in range(T)]
    path = write_aloha(tmp_path / "episode_0.hdf5", **{"observations/images/cam_high": None})
    with h5py.File(path, "a") as file:
        if form == "texts":  # As RoboTwin writes them.
            file["observations/images/cam_high"] = np.array(coded, f"S{max(map(len, coded))}")
        else:
            rows = file.create_dataset("observations/images/cam_high", (T,), dtype=h5py.vlen_dtype(np.uint8))
            for t, picture in enumerate(coded):
                rows[t] = np.frombuffer(picture, np.uint8)
    assert list(read_first(tmp_path).frames["cam_high"]) == coded


@pytest.mark.parametrize("stated", ["bgr", "cam_high=bgr", "base_0_rgb=bgr,cam_left_wrist=rgb"])
def test_pictures_that_were_encoded_as_bgr_are_turned_back(tmp_path: Path, stated: str) -> None:
    coded = [jpeg(np.tile(np.array([30, 40, 220], np.uint8), (16, 16, 1)))] * T  # The scene is red: (220, 40, 30).
    write_aloha(tmp_path / "episode_0.hdf5", **{"observations/images/cam_high": padded(coded, len(coded[0]))})
    native = read_first(tmp_path)
    for adapter, red in ((ALOHA, 30), (with_channels(ALOHA, stated), 220)):
        frame = to_episode(native, adapter, TROSSEN, ["base_0_rgb"]).images["base_0_rgb"][2]
        pixels = decode_jpeg(frame) if isinstance(frame, bytes) else frame
        assert abs(int(pixels[8, 8, 0]) - red) <= 3


def test_a_stated_order_of_colours_counts_more_than_the_entrys(tmp_path: Path) -> None:
    write_aloha(tmp_path / "episode_0.hdf5")
    swapped = replace(ALOHA, swapped_channels=("cam_high",))
    assert swapped.form_of("cam_high") == CameraForm()
    assert with_channels(swapped, "rgb").form_of("cam_high") == CameraForm(channels="rgb")
    frames = to_episode(read_first(tmp_path), with_channels(swapped, "rgb"), TROSSEN, ["base_0_rgb"]).images
    assert type(frames["base_0_rgb"]).__name__ == "Hdf5Frames"


@pytest.mark.parametrize(
    ("stated", "message"), [("grb", "'grb' is unknown"), ("cam_hihg=bgr", "Did you mean 'cam_high'")]
)
def test_a_wrong_order_of_colours_is_an_error(stated: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        with_channels(ALOHA, stated)


def test_names_that_list_the_right_arm_first_are_refused(tmp_path: Path) -> None:
    path = write_aloha(tmp_path / "episode_0.hdf5")
    sides = [[f"{side}_joint_{i}" for i in range(6)] + [f"{side}_gripper"] for side in ("left", "right")]
    for order, is_read in ((sides[0] + sides[1], True), (sides[1] + sides[0], False)):
        with h5py.File(path, "a") as file:
            file.attrs["joint_names"] = order
        native = read_first(tmp_path)
        assert native.dim_names["action"] == tuple(order)
        if is_read:
            assert to_episode(native, ALOHA, TROSSEN, ["base_0_rgb"]).n_steps == T
            continue
        with pytest.raises(Rejected, match="wrong_names: arm0: .*expected the left arm's dims, found the right arm's"):
            to_episode(native, ALOHA, TROSSEN, ["base_0_rgb"])


def test_float_pictures_are_read(tmp_path: Path) -> None:
    levels = np.array([0.0, 0.25, 0.5, 1.0], np.float32)
    write_aloha(
        tmp_path / "episode_0.hdf5",
        **{"observations/images/cam_high": np.broadcast_to(levels[:, None, None, None], (T, 8, 8, 3))},
    )
    native = read_first(tmp_path)
    assert [int(frame[0, 0, 0]) for frame in native.frames["cam_high"]] == [0, 64, 128, 255]
    assert list(native.inferred) == ["picture_range"]


def test_texts_of_steps_and_of_the_episode_are_read(tmp_path: Path) -> None:
    path = write_aloha(tmp_path / "episode_0.hdf5")
    with h5py.File(path, "a") as file:
        file["language_raw"] = [b"b'fold the towel'"]
        file["substep_reasonings"] = [b"grasp it", b"grasp it", b"", b"lay it down"]
    native = read_first(tmp_path)
    assert (native.language, native.task) == (("fold the towel",), "fold the towel")
    assert native.step_text == ("grasp it", "grasp it", "", "lay it down")


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
        read_first(tmp_path)
    assert error.value.reason == reason


def test_a_truncated_aloha_file_is_rejected(tmp_path: Path) -> None:
    path = write_aloha(tmp_path / "episode_0.hdf5")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(Rejected, match="unreadable_hdf5"):
        read_first(tmp_path)


def test_a_folder_without_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at or below it, found none"):
        aloha.find(str(tmp_path), ALOHA)


@pytest.mark.shared
def test_the_jpeg_sample_has_the_stored_pictures(shared: Path) -> None:
    native = read_first(shared / "data/sim/aloha_hdf5")
    assert native.n_steps == 400 and sorted(native.frames) == ["cam_high", "cam_left_wrist", "cam_right_wrist"]
    with h5py.File(shared / "data/sim/aloha_hdf5/episode_0.hdf5") as file:
        row = file["observations/images/cam_left_wrist"][123]
        length = int(file["compress_len"][1, 123])
    assert native.frames["cam_left_wrist"][123] == row[:length].tobytes()
    assert decode_jpeg(native.frames["cam_left_wrist"][123]).shape == (180, 240, 3)
