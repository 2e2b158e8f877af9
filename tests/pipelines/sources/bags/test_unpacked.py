"""Files that rosbag2 compressed as a whole: the numbers of the plain ones, and no more bytes than there may be."""

from pathlib import Path

import numpy as np
import pytest
import zstandard
from mcap.writer import CompressionType

from pipelines.contract.native import Rejected
from pipelines.sources import bag
from pipelines.sources.bags.logs import unpacked
from pipelines.sources.bags.logs.inputs import bag_at, open_bag
from tests.pipelines.sources.test_bag import entry
from tests.support.inputs.bag_writers import MS, demonstration, rgb, write_mcap, write_rosbag2


@pytest.mark.parametrize(("storage", "version"), [("sqlite3", 8), ("mcap", 9)])
def test_a_packed_bag_is_read_as_a_plain_one(tmp_path: Path, storage: str, version: int) -> None:
    plain = write_rosbag2(tmp_path / "plain", demonstration(), storage, version)
    packed = write_rosbag2(tmp_path / "packed", demonstration(), storage, version, packed="FILE")
    assert [file.suffix for file in packed.iterdir() if file.suffix != ".yaml"] == [".zstd"]
    arrays = []
    for path in (plain, packed):
        (located,) = bag.find(str(path), entry()).episodes
        native = bag.read(located, entry())
        arrays.append(native.arrays)
        assert len(native.frames["/camera/image_raw"]) == native.n_steps and native.task == "lift the cube"
    assert arrays[0].keys() == arrays[1].keys()
    for key, values in arrays[0].items():
        np.testing.assert_array_equal(values, arrays[1][key])


def test_nothing_is_left_of_what_was_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = write_rosbag2(tmp_path / "packed", demonstration(), packed="FILE")
    rooms = tmp_path / "rooms"
    rooms.mkdir()
    monkeypatch.setattr(unpacked.tempfile, "tempdir", str(rooms))
    log = open_bag(bag_at(packed, False))
    assert list(rooms.iterdir())
    log.close()
    assert not list(rooms.iterdir())


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap.zstd"
    path.write_bytes(zstandard.compress(bytes(1 << 24)))
    with pytest.raises(Rejected, match="absurd_size"):
        unpacked.unpack_file(path, tmp_path / "a.mcap")


def test_a_file_that_was_cut_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frames = [rgb("/camera", t * MS, random.integers(0, 256, (64, 64, 3), np.uint8)) for t in range(100)]
    whole = write_mcap(tmp_path / "a.mcap", frames, CompressionType.NONE)
    path = tmp_path / "b.mcap.zstd"
    data = zstandard.compress(whole.read_bytes())
    path.write_bytes(data[: len(data) // 2])
    log = open_bag(bag_at(path, False))
    assert 20 < len(list(log.messages(log.channels))) < 60
    assert any("it ends after" in text for text in log.damage)


def test_a_file_of_other_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap.zstd"
    path.write_bytes(b"\x89MCAP0\r\n" + bytes(100))
    with pytest.raises(Rejected, match="expected Zstandard"):
        open_bag(bag_at(path, False))
