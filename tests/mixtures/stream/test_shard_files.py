"""Byte ranges of shards: a file is never closed, nor taken for another, under a thread that reads it."""

import errno
import os
import threading
from pathlib import Path

import pytest

from mixtures.stream import shard_files
from mixtures.stream.shard_files import OpenShards
from pipelines.contract.errors import FailedWork
from pipelines.storage import retry


@pytest.fixture
def shard(tmp_path: Path) -> str:
    path = tmp_path / "a-train.tfrecord-00000-of-00001"
    path.write_bytes(bytes(range(100)))
    return str(path)


def test_closing_in_the_middle_of_a_read_disturbs_no_reader(shard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files, pread = OpenShards(), os.pread

    def close_first(descriptor: int, length: int, offset: int) -> bytes:
        files.close()
        return pread(descriptor, length, offset)

    monkeypatch.setattr(shard_files.os, "pread", close_first)
    assert files.read(shard, 10, 3) == bytes([10, 11, 12])


def test_threads_that_open_a_shard_at_once_share_one_file(shard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files, together = OpenShards(), threading.Barrier(4)

    def open_together(path: str) -> shard_files._LocalFile:
        together.wait(timeout=60)
        return shard_files._LocalFile(path)

    monkeypatch.setattr(files._local, "opener", open_together)
    found = []
    threads = [threading.Thread(target=lambda: found.append(files._local.get(shard))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(found) == 4 and len({id(file) for file in found}) == 1


def test_a_range_past_the_end_is_refused(shard: str) -> None:
    with pytest.raises(FailedWork, match="expected 9 bytes at 95, found 5 of them"):
        OpenShards().read(shard, 95, 9)


def test_a_disk_that_fails_for_a_moment_is_read_again(shard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "PAUSES_S", (0.0, 0.0))
    read, failures, opened = os.pread, [errno.EIO, errno.ESTALE], []
    monkeypatch.setattr(os, "open", lambda *a, real=os.open: opened.append(a) or real(*a))

    def failing(*arguments: int) -> bytes:
        if failures:
            raise OSError(failures.pop(0), "gone for a moment")
        return read(*arguments)

    monkeypatch.setattr(os, "pread", failing)
    files = OpenShards()
    assert files.read(shard, 4, 6) == Path(shard).read_bytes()[4:10]
    assert len(opened) == 2
    failures += [errno.EIO] * 4
    with pytest.raises(FailedWork, match="failed 3 times, the last time with: .*gone for a moment"):
        files.read(shard, 4, 6)
    failures[:] = [errno.EACCES]
    with pytest.raises(FailedWork, match="expected a readable shard, found: .*gone for a moment"):
        files.read(shard, 4, 6)


def test_advice_on_a_missing_shard_is_left_to_the_read_to_report(tmp_path: Path) -> None:
    files, missing = OpenShards(), str(tmp_path / "gone")
    files.expect(missing, 0, 4)
    with pytest.raises(FailedWork, match="expected a readable shard"):
        files.read(missing, 0, 4)
