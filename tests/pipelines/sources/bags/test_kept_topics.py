"""What one pass has read of a bag and another asks for again: the same numbers, only of the same bytes."""

import os
from pathlib import Path

import numpy as np
import pytest

from pipelines.contract.native import NativeEpisode
from pipelines.mapping.adapters import Adapter
from pipelines.sources import bag
from pipelines.sources.bags import kept_topics
from pipelines.sources.bags.kept_topics import KeptTopics
from tests.pipelines.sources.test_bag import entry
from tests.support.inputs.bag_writers import demonstration, write_mcap


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One item for each time that topics were read of a file."""
    done: list[str] = []
    read = bag._read_topics

    def counted(*asked):  # type: ignore[no-untyped-def]
        done.append(str(asked[2].path))
        return read(*asked)

    monkeypatch.setattr(bag, "_read_topics", counted)
    monkeypatch.setattr(bag, "_KEPT", KeptTopics())
    return done


def read(path: Path, adapter: Adapter) -> NativeEpisode:
    (located,) = bag.find(str(path), adapter).episodes
    return bag.read(located, adapter)


def test_the_second_pass_gets_what_the_first_has_read_and_the_third_reads_again(
    tmp_path: Path, reads: list[str]
) -> None:
    path = write_mcap(tmp_path / "a.mcap", demonstration(), chunk_size=2000, close=False)
    first, second, third = (read(path, entry()) for _ in range(3))
    assert len(reads) == 2
    for other in (second, third):
        assert first.arrays.keys() == other.arrays.keys()
        for key, values in first.arrays.items():
            np.testing.assert_array_equal(values, other.arrays[key])
        assert [bytes(one) for one in first.frames["/camera/image_raw"]] == [
            bytes(one) for one in other.frames["/camera/image_raw"]
        ]
        # What was lost of the file is known from reading it.
        assert first.notes == other.notes and first.inferred["damaged"] == other.inferred["damaged"]


def test_another_entry_or_a_changed_file_is_read_again(tmp_path: Path, reads: list[str]) -> None:
    path = write_mcap(tmp_path / "a.mcap", demonstration())
    read(path, entry())
    late = entry(bag={"stamp": "log", "instruction": {"topic": "/task"}})
    read(path, late)
    os.utime(path, ns=(1, 1))
    read(path, late)
    assert len(reads) == 3


def test_what_does_not_fit_is_not_kept(tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bag, "_KEPT", KeptTopics(most_bytes=100))
    path = write_mcap(tmp_path / "a.mcap", demonstration())
    for _ in range(2):
        read(path, entry())
    assert len(reads) == 2


def test_files_of_an_object_store_say_nothing_of_their_changes() -> None:
    from pipelines.sources.bags.logs.inputs import Bag
    from pipelines.storage.paths import RemotePath

    path = RemotePath("gs://bucket/a.mcap")
    assert kept_topics.key_of_files(Bag(path=path, files=(path,)), (0, 1)) is None
