"""Episodes within one bag: by markers, by a text that lasts, by pauses; and what is read of the bag for each."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apache_beam.io.filesystems import FileSystems

from pipelines.contract.native import NativeEpisode
from pipelines.sources import bag
from pipelines.sources.bags.logs.log import ByteSource
from tests.pipelines.sources.test_bag import entry
from tests.support.inputs.bag_writers import (
    MS,
    Published,
    demonstration,
    number,
    text,
    write_mcap,
    write_ros1,
    write_rosbag2,
)
from tests.support.servers.memory_store import MemoryStore


def moved(messages: list[Published], by_ms: int) -> list[Published]:
    return [
        Published(
            topic=m.topic,
            type=m.type,
            logged_ns=m.logged_ns + by_ms * MS,
            stamp_ns=None if m.stamp_ns is None else m.stamp_ns + by_ms * MS,
            fields=m.fields,
        )
        for m in messages
    ]


def three() -> list[Published]:
    """Three demonstrations, 10 s apart, each under its task, and 5 s in which the arm is moved back under none."""
    messages: list[Published] = []
    for i, task in enumerate(("lift the cube", "put it down", "open the drawer")):
        messages += moved([*demonstration(task), text("/task", 1000 * MS, "")], 10_000 * i)
    return messages


def read_all(source: Path | str, **episodes: Any) -> list[NativeEpisode]:
    adapter = entry(bag={"stamp": "header", "episodes": episodes})
    found = bag.find(str(source), adapter)
    assert found.rejects == ()
    return [bag.read(located, adapter) for located in found.episodes]


WRITERS = {
    "mcap": lambda folder, messages: write_mcap(folder / "a.mcap", messages),
    "rosbag2": lambda folder, messages: write_rosbag2(folder / "a", messages),
    "ros1": lambda folder, messages: write_ros1(folder / "a.bag", messages, "lz4"),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_text_that_lasts_is_an_episode_and_its_instruction(tmp_path: Path, kind: str) -> None:
    path = WRITERS[kind](tmp_path, three())
    episodes = read_all(tmp_path, by="markers", topic="/task")
    assert [native.task for native in episodes] == ["lift the cube", "put it down", "open the drawer"]
    assert [native.reference.key for native in episodes] == [f"{path.name}#000{i}" for i in range(3)]
    # The command at 960 ms is the last before the joints end.
    assert [native.n_steps for native in episodes] == [20, 20, 20]
    np.testing.assert_array_equal(episodes[1].arrays["/command/joints"], episodes[0].arrays["/command/joints"])


def test_pauses_part_episodes(tmp_path: Path) -> None:
    write_mcap(tmp_path / "a.mcap", three())
    assert [native.n_steps for native in read_all(tmp_path, by="gaps", gap_s=2)] == [20, 20, 20]


def test_values_of_a_marker_begin_and_end_an_episode(tmp_path: Path) -> None:
    marks = [text("/record", 200 * MS, "start"), text("/record", 450 * MS, "note"), text("/record", 700 * MS, "stop")]
    write_mcap(tmp_path / "a.mcap", [*demonstration(), *marks])
    (native,) = read_all(tmp_path, by="markers", topic="/record", start="start", stop="stop")
    # Commands at 210 to 660 ms; those logged at 702 ms and later lie behind the marker.
    assert native.n_steps == 10 and native.arrays["/command/joints"][0, 0] == pytest.approx(0.31)


def test_a_flag_lasts_as_long_as_it_is_true(tmp_path: Path) -> None:
    marks = [number("/on", t * MS, value, "Bool") for t, value in ((0, False), (200, True), (300, True), (700, False))]
    write_mcap(tmp_path / "a.mcap", [*demonstration(), *marks])
    (native,) = read_all(tmp_path, by="markers", topic="/on")
    assert (native.n_steps, native.task) == (10, "")


def test_a_command_that_is_given_once_holds_from_before_the_episode(tmp_path: Path) -> None:
    messages = [m for m in demonstration() if m.topic != "/command/gripper"]
    messages = [next(m for m in demonstration() if m.topic == "/command/gripper"), *moved(messages, 30_000)]
    write_mcap(tmp_path / "a.mcap", [*messages, text("/go", 30_000 * MS, "go"), text("/go", 31_000 * MS, "")])
    form = {"stamp": "header", "episodes": {"by": "markers", "topic": "/go"}, "on_change": ["/command/gripper"]}
    adapter = entry(bag=form)
    (located,) = bag.find(str(tmp_path), adapter).episodes
    native = bag.read(located, adapter)
    assert native.n_steps == 20 and native.arrays["/command/gripper"].tolist() == [[1.0]] * 20


def test_files_of_a_folder_follow_one_another(tmp_path: Path) -> None:
    every = sorted(demonstration(), key=lambda m: m.logged_ns)
    write_mcap(tmp_path / "run/part_2.mcap", every[:100])
    write_mcap(tmp_path / "run/part_10.mcap", every[100:])
    (native,) = read_all(tmp_path, by="folder")
    assert (native.reference.key, native.n_steps) == ("run", 20)
    assert len(list(native.frames["/camera/image_raw"])) == 20


@pytest.fixture
def store() -> Iterator[type[MemoryStore]]:
    MemoryStore.objects, MemoryStore.opened = {}, []
    yield MemoryStore
    MemoryStore.objects = {}


def test_of_an_object_only_what_an_episode_needs_is_read(
    tmp_path: Path, store: type[MemoryStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    far_apart = [m for i in range(8) for m in moved([*demonstration(), text("/task", 1000 * MS, "")], 60_000 * i)]
    pixels = np.random.default_rng(0).integers(0, 256, 200 * 200 * 3, dtype=np.uint8)
    large = {"height": 200, "width": 200, "encoding": "rgb8", "step": 600, "data": pixels}
    messages = [
        Published(topic=m.topic, type=m.type, logged_ns=m.logged_ns, stamp_ns=m.stamp_ns, fields=large)
        if m.topic == "/camera/image_raw"
        else m
        for m in far_apart
    ]
    path = write_mcap(tmp_path / "a.mcap", messages, chunk_size=200_000)
    store.objects["mem://logs/a.mcap"] = path.read_bytes()
    n_read = 0
    plain = ByteSource._read

    def counted(self: ByteSource, offset: int, n_bytes: int) -> bytes:
        nonlocal n_read
        n_read += n_bytes
        return plain(self, offset, n_bytes)

    monkeypatch.setattr(ByteSource, "_read", counted)
    adapter = entry(bag={"stamp": "header", "episodes": {"by": "markers", "topic": "/task"}})
    episodes = bag.find("mem://logs", adapter).episodes
    assert len(episodes) == 8
    n_read = 0
    native = bag.read(episodes[3], adapter)
    assert len(list(native.frames["/camera/image_raw"])) == 20
    # Its own pictures are read for their stamps and again for themselves.
    assert n_read < path.stat().st_size * 0.35


def test_objects_of_memory_are_a_scheme_that_beam_knows() -> None:
    assert FileSystems.get_scheme("mem://logs") == "mem"
