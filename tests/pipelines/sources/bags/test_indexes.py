"""Indexes that are read once for all episodes of a file: the same messages, only of the same bytes, within limits."""

import os
from pathlib import Path

import pytest

from pipelines.sources.bags.logs import inputs, mcap_files, ros1_files
from pipelines.sources.bags.logs.blocks import Index
from pipelines.sources.bags.logs.indexes import KeptIndexes
from pipelines.sources.bags.logs.inputs import Bag, open_bag
from pipelines.sources.bags.logs.log import ByteSource, Log
from tests.support.inputs.bag_writers import demonstration, write_mcap, write_ros1


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One item for each time that an index was read of a file."""
    done: list[str] = []
    for module in (mcap_files, ros1_files):
        read = module.read_index

        def noted(source: ByteSource, read=read) -> Index:  # type: ignore[no-untyped-def]
            done.append(source.name)
            return read(source)

        monkeypatch.setattr(module, "read_index", noted)
    monkeypatch.setattr(inputs, "_INDEXES", KeptIndexes())
    return done


def open_file(path: Path) -> Log:
    return open_bag(Bag(path=path, files=(path,)))


def content(log: Log) -> list[bytes]:
    try:
        return [bytes(message.data) for message in log.messages(log.channels.keys())]
    finally:
        log.close()


@pytest.mark.parametrize("kind", ["mcap", "mcap without an index", "ros1"])
def test_an_index_is_read_once_and_leads_to_the_same_messages(tmp_path: Path, reads: list[str], kind: str) -> None:
    if kind == "ros1":
        path = write_ros1(tmp_path / "a.bag", demonstration())
    else:
        path = write_mcap(tmp_path / "a.mcap", demonstration(), chunk_size=2000, close=kind == "mcap")
    first, second = open_file(path), open_file(path)
    assert len(reads) == 1 and first.span() == second.span() and first.damage == second.damage
    # What one of them finds out later is not the other's.
    first.damage.append("lost")
    assert "lost" not in second.damage and "lost" not in open_file(path).damage
    assert content(first) == content(second) != []


def test_a_file_that_changed_or_was_replaced_is_read_again(tmp_path: Path, reads: list[str]) -> None:
    path = write_mcap(tmp_path / "a.mcap", demonstration())
    before = content(open_file(path))
    os.utime(path, ns=(1, 1))
    open_file(path)
    assert len(reads) == 2
    other = write_mcap(tmp_path / "b.mcap", demonstration("open the drawer"))
    os.utime(other, ns=(1, 1))
    os.replace(other, path)
    assert content(open_file(path)) != before and len(reads) == 3


def test_those_asked_for_longest_ago_make_room(tmp_path: Path, reads: list[str]) -> None:
    paths = [write_mcap(tmp_path / f"{name}.mcap", demonstration()) for name in "abc"]
    one = mcap_files.read_index(ByteSource(paths[0])).n_bytes()
    kept = KeptIndexes(most_bytes=int(2.5 * one))
    reads.clear()
    for number in (0, 1, 0, 2, 0, 1):
        kept.of(ByteSource(paths[number]), mcap_files.read_index)
    assert [Path(name).stem for name in reads] == ["a", "b", "c", "b"]
    reads.clear()
    for _ in range(2):
        KeptIndexes(most_bytes=one // 2).of(ByteSource(paths[0]), mcap_files.read_index)
    assert len(reads) == 2


def test_an_object_without_a_time_of_change_is_read_each_time(tmp_path: Path, reads: list[str]) -> None:
    source, kept = ByteSource(write_mcap(tmp_path / "a.mcap", demonstration())), KeptIndexes()
    source.version = None
    for _ in range(2):
        kept.of(source, mcap_files.read_index)
    assert len(reads) == 2
