"""Reading RLDS from TFDS folders: which records there are, what is damaged, what the episodes hold."""

import io
import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.contract.errors import UsageError
from pipelines.contract.images import decode_image
from pipelines.contract.native import NativeEpisode, Rejected
from pipelines.mapping.adapters import Adapter, get_adapter
from pipelines.shards.tfrecord import scan_records
from pipelines.sources.rlds import find, find_part, read
from tests.support.inputs.native_files import bridge_features, picture, write_rlds

BRIDGE = get_adapter("bridge_orig")
TRAIN = "tiny-train.tfrecord-00000-of-00001"


def test_every_record_is_found_by_file_and_number(tmp_path: Path) -> None:
    splits = {"train": [bridge_features(0), bridge_features(1)], "val": [bridge_features(2)]}
    folder = write_rlds(tmp_path / "tiny/1.0.0", splits)
    found = find(str(tmp_path), BRIDGE)
    assert [located.reference.key for located in found.episodes] == [
        f"{TRAIN}#0",
        f"{TRAIN}#1",
        "tiny-val.tfrecord-00000-of-00001#0",
    ]
    assert found.episodes[2].reference.split == "val"
    assert found.episodes[0].reference.uri == str(folder / TRAIN)
    assert found.rejects == ()


def test_an_episode_has_its_steps_pictures_and_instruction(tmp_path: Path) -> None:
    write_rlds(tmp_path / "a", {"train": [bridge_features(3)]})
    native = read(find(str(tmp_path), BRIDGE).episodes[0], BRIDGE)
    assert native.n_steps == 12
    assert native.arrays["observation/state"].shape == (12, 7)
    assert native.frames["observation/image_0"][5] == picture(35)
    assert native.language == ("put the cup away",)
    assert native.is_terminal is True
    assert native.discount is not None and native.discount.tolist() == [1.0] * 12


def test_several_instructions_are_kept_once_each(tmp_path: Path) -> None:
    texts = [b"a"] * 6 + [b"b"] * 5 + [b""]
    write_rlds(tmp_path / "a", {"train": [bridge_features(0, language_instruction=texts)]})
    assert read(find(str(tmp_path), BRIDGE).episodes[0], BRIDGE).language == ("a", "b")


def test_a_truncated_file_keeps_its_whole_records_and_names_the_rest(tmp_path: Path) -> None:
    folder = write_rlds(tmp_path / "a", {"train": [bridge_features(i) for i in range(4)]})
    path = folder / TRAIN
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 5 // 8])
    found = find(str(tmp_path), BRIDGE)
    assert len(found.episodes) == 2
    assert [(reject.source_key, reject.reason) for reject in found.rejects] == [
        (f"{TRAIN}#2", "truncated_file"),
        (f"{TRAIN}#3", "truncated_file"),
    ]


def test_without_counts_the_rest_of_a_truncated_file_is_unknown(tmp_path: Path) -> None:
    folder = write_rlds(tmp_path / "a", {"train": [bridge_features(0), bridge_features(1)]}, info=False)
    path = folder / TRAIN
    path.write_bytes(path.read_bytes()[:-5])
    (reject,) = find(str(tmp_path), BRIDGE).rejects
    assert reject.source_key == f"{TRAIN}#1" and "how many more records the file held is unknown" in reject.detail


def test_a_flipped_bit_rejects_its_record(tmp_path: Path) -> None:
    folder = write_rlds(tmp_path / "a", {"train": [bridge_features(0)]})
    data = bytearray((folder / TRAIN).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / TRAIN).write_bytes(data)
    with pytest.raises(Rejected, match="corrupt_record.*fits its checksum"):
        read(find(str(tmp_path), BRIDGE).episodes[0], BRIDGE)


def test_a_record_that_is_no_rlds_episode_is_rejected(tmp_path: Path) -> None:
    write_rlds(tmp_path / "a", {"train": [{"image": [b"x"]}]})
    with pytest.raises(Rejected, match="no_steps"):
        read(find(str(tmp_path), BRIDGE).episodes[0], BRIDGE)


def test_values_that_do_not_divide_into_steps_are_rejected(tmp_path: Path) -> None:
    write_rlds(tmp_path / "a", {"train": [bridge_features(0, action=np.zeros(83, np.float32))]})
    with pytest.raises(Rejected, match="unequal_lengths: action: expected a multiple of 12"):
        read(find(str(tmp_path), BRIDGE).episodes[0], BRIDGE)


def promise(folder: Path, **lengths: list[int]) -> None:
    """Replaces what dataset_info.json says of the splits."""
    splits = [{"name": name, "shardLengths": [str(n) for n in ns]} for name, ns in lengths.items()]
    (folder / "dataset_info.json").write_text(json.dumps({"name": "tiny", "splits": splits}))


def test_missing_files_are_refused_in_a_line_with_counts(tmp_path: Path) -> None:
    """As where people fetch the first files of DROID's 2,048."""
    folder = write_rlds(tmp_path / "a", {"train": [bridge_features(0)]})
    (folder / TRAIN).rename(folder / "tiny-train.tfrecord-00001-of-02048")
    promise(folder, train=[2] * 2048)
    with pytest.raises(UsageError) as error:
        find(str(tmp_path), BRIDGE)
    assert str(error.value) == (
        f"{folder}: split train: expected 2048 files, found 1; 2047 are missing, with 4094 episodes: "
        "0, 2, 3, 4, ..., 2047. Fetch them, or give --partial to convert what is there"
    )


def test_a_part_of_a_dataset_is_taken_on_purpose_and_each_lost_record_counts(tmp_path: Path) -> None:
    folder = write_rlds(tmp_path / "a", {"train": [bridge_features(0)]})
    (folder / TRAIN).rename(folder / "tiny-train.tfrecord-00001-of-00003")
    promise(folder, train=[2, 1, 3])
    found = find_part(str(tmp_path), BRIDGE)
    assert [located.reference.key for located in found.episodes] == ["tiny-train.tfrecord-00001-of-00003#0"]
    assert {reject.reason for reject in found.rejects} == {"promised_missing"}
    assert [reject.source_key.removeprefix("tiny-train.tfrecord-") for reject in found.rejects] == [
        "00000-of-00003#0",
        "00000-of-00003#1",
        "00002-of-00003#0",
        "00002-of-00003#1",
        "00002-of-00003#2",
    ]


def test_missing_files_of_which_nothing_is_promised_are_one_reject_each(tmp_path: Path) -> None:
    folder = write_rlds(tmp_path / "a", {"train": [bridge_features(0)]}, info=False)
    (folder / TRAIN).rename(folder / "tiny-train.tfrecord-00001-of-00003")
    with pytest.raises(UsageError, match="expected 3 files, found 1; 2 are missing: 0, 2. Fetch them"):
        find(str(tmp_path), BRIDGE)
    rejects = find_part(str(tmp_path), BRIDGE).rejects
    assert [reject.reason for reject in rejects] == ["promised_missing"] * 2
    assert rejects[1].detail.endswith("expected the file, found none (how many records it holds is unknown)")


def test_a_split_that_is_promised_and_has_no_file_is_missing(tmp_path: Path) -> None:
    folder = write_rlds(tmp_path / "a", {"train": [bridge_features(0)]})
    promise(folder, train=[1], val=[2, 2])
    with pytest.raises(UsageError, match="split val: expected 2 files, found 0; 2 are missing, with 4 episodes: 0, 1"):
        find(str(tmp_path), BRIDGE)
    promise(folder, train=[1], val=[0])
    assert len(find(str(tmp_path), BRIDGE).episodes) == 1


@pytest.mark.parametrize("n_left", [0, 2])
def test_a_file_cut_at_the_end_of_a_record_loses_each_promised_record(tmp_path: Path, n_left: int) -> None:
    folder = write_rlds(tmp_path / "a", {"train": [bridge_features(i) for i in range(3)]})
    path = folder / TRAIN
    end = sum(list(scan_records(path))[n_left - 1]) + 4 if n_left else 0
    path.write_bytes(path.read_bytes()[:end])
    found = find(str(tmp_path), BRIDGE)
    assert len(found.episodes) == n_left
    assert [(reject.source_key, reject.reason) for reject in found.rejects] == [
        (f"{TRAIN}#{i}", "promised_missing") for i in range(n_left, 3)
    ]
    assert found.rejects[0].detail.endswith(f"expected 3 records, as dataset_info.json says, found {n_left}")


def test_splits_may_have_dashes(tmp_path: Path) -> None:
    folder = write_rlds(tmp_path / "a", {"train-robot_0": [bridge_features(0)]})
    found = find(str(folder), BRIDGE)
    assert [located.reference.split for located in found.episodes] == ["train-robot_0"]


def test_names_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    folder = write_rlds(tmp_path / "a", {"train": [bridge_features(0)]}, info=False)
    (folder / "tiny-train.tfrecord-00003-of-00003").write_bytes((folder / TRAIN).read_bytes())
    with pytest.raises(UsageError, match="split train: expected one number of files, found names of 1 and 3"):
        find(str(folder), BRIDGE)
    (folder / TRAIN).unlink()
    with pytest.raises(UsageError, match="split train: expected numbers below 3, found 3"):
        find(str(folder), BRIDGE)


def test_files_of_another_form_are_named(tmp_path: Path) -> None:
    (tmp_path / "tiny-train.array_record-00000-of-00001").write_bytes(b"x")
    with pytest.raises(UsageError, match="found files of another form, such as tiny-train.array_record-00000-of-00001"):
        find(str(tmp_path), BRIDGE)


METADATA = "episode_metadata/"


def read_one(tmp_path: Path, adapter: Adapter = BRIDGE, **features: Any) -> NativeEpisode:
    """Writes an episode of bridge_orig with more features (`__` stands for a slash; None removes one) and reads it."""
    changed = bridge_features(0) | {key.replace("__", "/"): value for key, value in features.items()}
    write_rlds(tmp_path / "a", {"train": [{key: value for key, value in changed.items() if value is not None}]})
    return read(find(str(tmp_path), adapter).episodes[0], adapter)


@pytest.mark.parametrize(
    ("features", "key"),
    [
        ({"file_path": [b"AUTOLab/success/x/trajectory.h5"]}, "AUTOLab/success/x/trajectory.h5"),
        ({"recording_folderpath": [b"AUTOLab/x/MP4"], "file_path": [b""]}, "AUTOLab/x/MP4"),
        ({"file_path": [b"/nfs/out.npy"], "episode_id": np.array([7])}, "/nfs/out.npy#7"),
        ({"episode_id": [b"IRIS+1"]}, "IRIS+1"),
        ({"episode_id": np.array([7])}, f"{TRAIN}#0"),
        ({}, f"{TRAIN}#0"),
    ],
)
def test_an_episode_has_the_name_that_the_dataset_gives_it(tmp_path: Path, features: dict[str, Any], key: str) -> None:
    native = read_one(tmp_path, **{METADATA + name: value for name, value in features.items()})
    assert native.reference.key == key and native.reference.split == "train"


def test_an_instruction_that_changes_is_the_text_of_its_steps(tmp_path: Path) -> None:
    texts = [b"open the drawer"] * 5 + [b""] * 2 + [b"b'put it in'"] * 5
    native = read_one(tmp_path, steps__language_instruction=texts)
    assert native.step_text == ("open the drawer",) * 5 + ("",) * 2 + ("put it in",) * 5
    assert native.language == ("open the drawer", "put it in")


def test_a_text_of_the_whole_episode_comes_before_those_of_its_steps(tmp_path: Path) -> None:
    adapter = replace(BRIDGE, language=("language_instruction", f"{METADATA}task"))
    texts = [b"open the drawer"] * 6 + [b"put it in"] * 6
    native = read_one(tmp_path, adapter, steps__language_instruction=texts, episode_metadata__task=[b"tidy up"])
    assert native.language == ("tidy up", "open the drawer", "put it in")
    assert native.step_text is not None and native.step_text[6] == "put it in"


def test_code_points_that_change_are_the_text_of_their_steps(tmp_path: Path) -> None:
    codes = np.zeros((12, 8), np.int64)
    codes[:6, :4], codes[6:, :3] = [ord(c) for c in "push"], [ord(c) for c in "tap"]
    features = {"steps/language_instruction": None, "steps/observation/instruction": codes.ravel()}
    native = read_one(tmp_path, get_adapter("language_table"), **features)
    assert native.step_text == ("push",) * 6 + ("tap",) * 6


def test_one_instruction_for_all_steps_is_no_text_of_steps(tmp_path: Path) -> None:
    native = read_one(tmp_path)
    assert (native.step_text, native.language, native.inferred) == (None, ("put the cup away",), {})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("episode_metadata/language_instruction", [b"b'wipe the table'"]),
        ("steps/observation/natural_language_instruction", [b"wipe the table"] * 12),
    ],
)
def test_an_instruction_under_another_key_is_found_and_said(tmp_path: Path, key: str, value: list[bytes]) -> None:
    native = read_one(tmp_path, **{"steps/language_instruction": [b"N/A"] * 12, key: value})
    shown = key.removeprefix("steps/")
    assert native.language == ("wipe the table",)
    assert native.inferred == {"language": f"instructions are taken from {shown}, which the entry does not name"}


@pytest.mark.parametrize(
    ("success", "expected"),
    [
        ({"success": [b"false"]}, 0),
        ({"success": [b"0"]}, 0),
        ({"success": np.array([1.0], np.float32)}, 1),
        ({"success": np.array([np.nan], np.float32)}, -1),
        ({"file_path": [b"AUTOLab/failure/x"]}, 0),
        ({"file_path": [b"AUTOLab/failure/x"], "success": [b"true"]}, 1),
        ({}, -1),
    ],
)
def test_success_is_what_the_metadata_says(tmp_path: Path, success: dict[str, Any], expected: int) -> None:
    assert read_one(tmp_path, **{METADATA + name: value for name, value in success.items()}).success == expected


def test_a_success_that_is_neither_yes_nor_no_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="foreign_flag"):
        read_one(tmp_path, episode_metadata__success=[b"almost"])


def test_a_feature_of_several_pictures_a_step_gives_a_camera_each(tmp_path: Path) -> None:
    pictures = [picture(i) for i in range(24)]
    native = read_one(tmp_path, steps__observation__image_0=pictures)
    assert sorted(native.frames) == ["observation/image_0[0]", "observation/image_0[1]"]
    assert native.frames["observation/image_0[1]"][3] == pictures[7]


def test_pictures_in_a_list_as_tfds_writes_it_are_found(tmp_path: Path) -> None:
    pictures = [picture(i) for i in range(24)]
    key = "steps/observation/images"
    features = {f"{key}/ragged_flat_values": pictures, f"{key}/ragged_row_lengths_0": np.full(12, 2)}
    native = read_one(tmp_path, **features)
    assert native.frames["observation/images[0]"][11] == pictures[22]
    features[f"{key}/ragged_row_lengths_0"] = np.array([1, 3] * 6)
    with pytest.raises(Rejected, match="unequal_lengths: observation/images: .*found 1 to 3 a step"):
        read_one(tmp_path / "other", **features)


def test_png_pictures_are_frames(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), 9, np.uint8)).save(stream, "PNG")
    native = read_one(tmp_path, steps__observation__image_0=[stream.getvalue()] * 12)
    frame = native.frames["observation/image_0"][2]
    assert isinstance(frame, bytes) and decode_image(frame)[0, 0].tolist() == [9, 9, 9]


def test_keys_that_are_named_as_cameras_and_hold_no_pictures_are_described(tmp_path: Path) -> None:
    native = read_one(
        tmp_path,
        steps__observation__image_0=[b"\x00\x01raw"] * 12,
        steps__observation__rgb_wrist=np.zeros(12 * 48, np.float32),
    )
    assert native.cameras_found == (
        "observation/image_0 (bytes that are no JPEG or PNG and begin b'\\x00\\x01raw'), "
        "observation/rgb_wrist (float32 [12, 48])"
    )
    assert read_one(tmp_path / "other").cameras_found == "observation/image_0"


def test_flags_of_unequal_lengths_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="unequal_lengths: expected one value a step of every RLDS flag.*discount 24"):
        read_one(tmp_path, steps__discount=np.ones(24, np.float32))


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        (zlib.compress(np.zeros(7, "<f4").tobytes()), ""),
        (zlib.compress(bytes(1 << 22)), "absurd_size: observation/state: .* unpacks to more"),
        (zlib.compress(np.arange(7, dtype="<f4").tobytes())[:-6], "corrupt_example: observation/state: .* cut off"),
        (zlib.compress(np.arange(7, dtype="<f4").tobytes())[:-4], "corrupt_example: observation/state: .* cut off"),
        (b"no zlib", "corrupt_example: observation/state"),
    ],
)
def test_packed_numbers_are_unpacked_within_limits(tmp_path: Path, packed: bytes, reason: str) -> None:
    adapter = replace(BRIDGE, compressed=("observation/state",))
    if reason:
        with pytest.raises(Rejected, match=reason):
            read_one(tmp_path, adapter, steps__observation__state=[packed] * 12)
    else:
        native = read_one(tmp_path, adapter, steps__observation__state=[packed] * 12)
        assert native.arrays["observation/state"].shape == (12, 7)


def test_a_folder_without_records_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="NAME-train.tfrecord-00000-of-00001, found none"):
        find(str(tmp_path), BRIDGE)
    with pytest.raises(UsageError, match="expected a folder, found nothing"):
        find(str(tmp_path / "nowhere"), BRIDGE)


def test_several_versions_must_be_told_apart(tmp_path: Path) -> None:
    for version in ("1.0.0", "2.0.0"):
        write_rlds(tmp_path / version, {"train": [bridge_features(0)]})
    with pytest.raises(UsageError, match="found several: 1.0.0, 2.0.0"):
        find(str(tmp_path), BRIDGE)


@pytest.mark.shared
def test_the_real_bridge_records_are_read(shared: Path) -> None:
    found = find(str(shared / "data/real/bridge_rlds"), BRIDGE)
    assert (len(found.episodes), found.rejects) == (50, ())
    native = read(found.episodes[0], BRIDGE)
    assert native.n_steps == 10
    assert native.language == ("put cup from counter or drying rack into sink",)
    assert native.is_terminal is False
    assert set(native.frames) == {f"observation/image_{i}" for i in range(4)}
