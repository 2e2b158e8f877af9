"""Reading RLDS from TFDS folders: which records there are, what is damaged, what the episodes hold."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.contract.errors import UsageError
from pipelines.contract.native import Rejected
from pipelines.mapping.adapters import get_adapter
from pipelines.sources.rlds import find, read
from tests.support.native_files import bridge_features, picture, write_rlds

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


def test_a_missing_shard_file_is_an_error(tmp_path: Path) -> None:
    folder = write_rlds(tmp_path / "a", {"train": [bridge_features(0)]})
    (folder / TRAIN).rename(folder / "tiny-train.tfrecord-00001-of-00003")
    with pytest.raises(UsageError, match="split train: expected 3 files, found 1; missing: 0, 2"):
        find(str(tmp_path), BRIDGE)


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
