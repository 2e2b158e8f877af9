"""Bags that were cut off, have no index or lie: read as far as they go and counted, or refused by name."""

import errno
import sqlite3
import struct
from pathlib import Path

import numpy as np
import pytest
import zstandard
from mcap.writer import CompressionType, IndexType

from pipelines.contract.errors import FailedWork
from pipelines.contract.native import Rejected
from pipelines.sources import bag
from pipelines.sources.bags.logs.blocks import Block, unpack
from pipelines.sources.bags.logs.inputs import bag_at, open_bag
from pipelines.sources.bags.logs.log import ByteSource, Log
from tests.pipelines.sources.test_bag import entry
from tests.support.inputs.bag_writers import MS, demonstration, rgb, write_mcap, write_ros1, write_rosbag2


def opened(path: Path) -> Log:
    return open_bag(bag_at(path, False))


def count(log: Log) -> int:
    return sum(1 for _ in log.messages(log.channels))


N = len(demonstration())


@pytest.mark.parametrize("compression", CompressionType)
def test_an_mcap_file_without_its_end_is_read_whole_and_says_so(tmp_path: Path, compression: CompressionType) -> None:
    log = opened(write_mcap(tmp_path / "a.mcap", demonstration(), compression, chunk_size=1000, close=False))
    # The writer holds a chunk back until it is full.
    assert N - 40 < count(log) <= N and len(log.damage) == 1


@pytest.mark.parametrize("compression", CompressionType)
def test_an_mcap_file_that_ends_in_a_chunk_gives_what_is_there(tmp_path: Path, compression: CompressionType) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 150, 150, 3), dtype=np.uint8)
    pictures = [rgb("/camera/image_raw", 50 * t * MS, picture) for t, picture in enumerate(noise)]
    path = write_mcap(tmp_path / "a.mcap", pictures, compression, chunk_size=1 << 21)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    log = opened(path)
    assert 5 < count(log) < 12
    assert any("inside a chunk" in text for text in log.damage)


def test_messages_outside_of_chunks_are_read(tmp_path: Path) -> None:
    log = opened(write_mcap(tmp_path / "a.mcap", demonstration(), use_chunking=False))
    assert count(log) == N


def test_messages_beside_chunks_are_read_too(tmp_path: Path) -> None:
    path = write_mcap(tmp_path / "a.mcap", demonstration(), chunk_size=2000)
    data = path.read_bytes()
    # The last message of the last topic again, behind the last chunk: the index knows nothing of it.
    *_, last = opened(path).messages(opened(path).channels)
    body = struct.pack("<HIQQ", last.channel, 0, last.time_ns + 1, last.time_ns + 1) + bytes(last.data)
    record = struct.pack("<BQ", 5, len(body)) + body
    start = int.from_bytes(data[-28:-20], "little")
    data_end = start - 13
    footer = struct.pack("<QQI", start + len(record), 0, 0)
    path.write_bytes(data[:data_end] + record + data[data_end:-28] + footer + data[-8:])
    log = opened(path)
    assert count(log) == N + 1 and log.damage == []


def test_a_file_without_indexes_of_messages_is_read(tmp_path: Path) -> None:
    log = opened(write_mcap(tmp_path / "a.mcap", demonstration(), index_types=IndexType.CHUNK))
    assert count(log) == N and log.damage == []


def test_a_ros1_bag_that_was_not_closed_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = write_ros1(tmp_path / "a.bag", demonstration())
    data = path.read_bytes()
    # The head of a recording that goes on: no index yet. Its fields are of one length, so the file stays aligned.
    path.write_bytes(data.replace(b"index_pos=" + data.split(b"index_pos=")[1][:8], b"index_pos=" + bytes(8))[:9000])
    log = opened(path)
    assert 5 < count(log) < N and len(log.damage) == 2


def test_an_episode_that_was_cut_off_says_so_and_counts_it(tmp_path: Path) -> None:
    path = write_mcap(tmp_path / "a.mcap", demonstration(), chunk_size=2000, close=False)
    (located,) = bag.find(str(path), entry()).episodes
    native = bag.read(located, entry())
    assert 10 < native.n_steps <= 20 and native.notes["bag/n_damages"] == 1
    assert native.inferred["damaged"].startswith("bag: a file was cut off")


@pytest.mark.parametrize("has_index", [True, False])
def test_a_chunk_that_was_changed_is_refused(tmp_path: Path, has_index: bool) -> None:
    path = write_mcap(tmp_path / "a.mcap", demonstration(), CompressionType.NONE, close=has_index, chunk_size=3000)
    data = bytearray(path.read_bytes())
    data[data.index(b"shoulder_pan_joint", 5000)] ^= 1
    path.write_bytes(data)
    with pytest.raises(Rejected, match="its checksum is not that of its bytes"):
        count(opened(path))


@pytest.mark.parametrize(
    ("packed", "size", "compression"),
    [
        (zstandard.compress(bytes(1 << 20)), 1000, "zstd"),
        (zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 20)), 1000, "zstd"),
        (bytes(100), 1 << 27, "lz4"),
        (bytes(100), 1 << 40, ""),
        (bytes(100), 100, "gzip"),
    ],
)
def test_a_chunk_that_lies_about_its_size_is_refused(
    tmp_path: Path, packed: bytes, size: int, compression: str
) -> None:
    path = tmp_path / "x"
    path.write_bytes(packed)
    with pytest.raises(Rejected):
        unpack(Block(offset=0, n_bytes=len(packed), size=size, compression=compression), ByteSource(path))


def test_channels_without_end_in_an_index_are_no_blow_up(tmp_path: Path) -> None:
    path = write_mcap(tmp_path / "a.mcap", demonstration())
    data = path.read_bytes()
    # A footer that points to a summary of 2^60 bytes before it.
    at = len(data) - 8 - 20
    path.write_bytes(data[:at] + struct.pack("<QQI", 1 << 60, 0, 0) + data[-8:])
    assert count(opened(path)) == N


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE messages; CREATE VIEW messages AS SELECT 1 AS id, 1 AS topic_id, 1 AS timestamp, x'00' AS data",
        "ALTER TABLE messages ADD COLUMN more BLOB GENERATED ALWAYS AS (zeroblob(1000000))",
    ],
)
def test_a_database_that_computes_what_is_read_is_refused(tmp_path: Path, statement: str) -> None:
    folder = write_rosbag2(tmp_path / "a", demonstration())
    (path,) = folder.glob("*.db3")
    file = sqlite3.connect(path)
    file.executescript(statement)
    file.close()
    with pytest.raises(Rejected, match="expected"):
        opened(folder)


def test_a_database_that_was_cut_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    folder = write_rosbag2(tmp_path / "a", demonstration())
    (path,) = folder.glob("*.db3")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3 // 4096 * 4096])
    log = opened(folder)
    assert np.clip(count(log), 5, N - 1) == count(log) and log.damage


def test_files_that_metadata_does_not_list_or_that_are_missing_are_refused(tmp_path: Path) -> None:
    folder = write_rosbag2(tmp_path / "a", demonstration())
    (path,) = folder.glob("*.db3")
    (folder / "b.db3").write_bytes(path.read_bytes())
    with pytest.raises(FailedWork, match="b.db3: expected only files that metadata.yaml lists"):
        bag.find(str(tmp_path), entry())
    path.rename(folder / "b.db3")
    with pytest.raises(FailedWork, match="expected a.db3, which metadata.yaml lists, found none"):
        bag.find(str(tmp_path), entry())


BY_TASK = {"stamp": "log", "episodes": {"by": "markers", "topic": "/task"}}


def test_a_topic_that_is_no_text_makes_its_bag_one_reject_and_the_others_are_found(tmp_path: Path) -> None:
    bad = write_mcap(tmp_path / "bad.mcap", demonstration(), use_chunking=False)
    bad.write_bytes(bad.read_bytes().replace(b"/gripper/state", b"/gripper\x80state"))
    with pytest.raises(Rejected, match="unreadable_bag.*record at byte"):
        opened(bad)
    write_mcap(tmp_path / "good.mcap", demonstration())
    found = bag.find(str(tmp_path), entry(bag=BY_TASK))
    assert [Path(located.reference.uri).name for located in found.episodes] == ["good.mcap"]
    assert [(reject.source_key, reject.reason) for reject in found.rejects] == [("bad.mcap", "unreadable_bag")]


def test_a_ros1_bag_whose_index_leads_beyond_all_files_is_read_without_it(tmp_path: Path) -> None:
    path = write_ros1(tmp_path / "bad.bag", demonstration())
    data = path.read_bytes()
    at = data.index(b"chunk_pos=") + len(b"chunk_pos=")
    path.write_bytes(data[:at] + b"\xff" * 8 + data[at + 8 :])
    log = opened(path)
    assert count(log) == N and len(log.damage) == 1


def test_a_disk_that_fails_for_a_while_is_no_fault_of_the_bag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mcap(tmp_path / "a.mcap", demonstration())

    def fails(*_):  # type: ignore[no-untyped-def]
        raise Rejected("unreadable_bag", "a chunk that cannot be read") from OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(bag, "find_cuts", fails)
    with pytest.raises(OSError, match="Input/output"):
        bag.find(str(tmp_path), entry(bag=BY_TASK))


def test_what_no_one_foresaw_in_a_bag_is_one_reject_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("bad", "good"):
        write_mcap(tmp_path / f"{name}.mcap", demonstration())
    find_cuts = bag.find_cuts

    def fails_on_the_first(*asked):  # type: ignore[no-untyped-def]
        monkeypatch.setattr(bag, "find_cuts", find_cuts)
        raise OverflowError("Python int too large to convert to C long")

    monkeypatch.setattr(bag, "find_cuts", fails_on_the_first)
    found = bag.find(str(tmp_path), entry(bag=BY_TASK))
    assert [Path(located.reference.uri).name for located in found.episodes] == ["good.mcap"]
    (reject,) = found.rejects
    assert reject.reason == "unreadable_bag" and "OverflowError" in reject.detail
