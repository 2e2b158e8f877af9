"""Copies of objects on this machine: fetched ahead, shared, kept within a limit, and gone with their process."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pipelines.contract.episode import Reference
from pipelines.contract.errors import FailedWork
from pipelines.contract.native import EpisodeLocation
from pipelines.storage import mirror as mirror_module
from pipelines.storage import retry
from pipelines.storage.mirror import Listing, Mirror, fetched, forget_copies, local_path, own_file, staged, with_urls
from pipelines.storage.paths import RemotePath, RemoteStat
from tests.support.servers.memory_store import MemoryStore
from tests.support.waiting import LIMIT_S, wait_for

ROOT = RemotePath("mem://bucket/in")


@pytest.fixture
def store() -> Iterator[dict[str, bytes]]:
    """A store of objects a to e, of 10 bytes each, that hold their own name."""
    forget_copies()
    MemoryStore.objects.clear()
    MemoryStore.opened.clear()
    MemoryStore.objects.update({f"{ROOT}/{name}": name.encode() * 10 for name in "abcde"})
    yield MemoryStore.objects
    MemoryStore.objects.clear()
    MemoryStore.before_open = staticmethod(lambda path: None)


@pytest.fixture
def mirror(store: dict[str, bytes], tmp_path: Path) -> Mirror:
    return Mirror(tmp_path)


def files(*names: str) -> Mapping[RemotePath, RemoteStat]:
    return {ROOT / name: (ROOT / name).stat() for name in names}


def hold(mirror: Mirror, *names: str):  # type: ignore[no-untyped-def]
    """Holds objects, and waits for them."""
    made = mirror.hold(files(*names))
    for arrival in made.arrivals:
        arrival.result(LIMIT_S)
    return made


def held_back() -> tuple[threading.Event, threading.Event]:
    """Has the store wait before it gives an object: an event that tells that it was asked, and one to go on."""
    begun, go_on = threading.Event(), threading.Event()

    def wait(path: str) -> None:
        begun.set()
        assert go_on.wait(LIMIT_S)

    MemoryStore.before_open = staticmethod(wait)
    return begun, go_on


def kept(mirror: Mirror) -> str:
    return "".join(name for name in "abcde" if mirror.path_of(ROOT / name).exists())


def episodes(*names: str) -> list[EpisodeLocation]:
    return [EpisodeLocation(reference=Reference(uri=f"{ROOT}/{name}", key=name)) for name in names]


@pytest.mark.parametrize(
    ("total", "free", "spare"),
    [(100e9, 40e9, 30e9), (100e9, 10e9, 0), (100e9, 4e9, -6e9), (10e12, 100e9, 80e9), (10e12, 20e9, 0)],
)
def test_a_tenth_of_a_disk_stays_free_or_20_gb(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, total: float, free: float, spare: float
) -> None:
    monkeypatch.undo()
    usage = shutil._ntuple_diskusage(int(total), int(total - free), int(free))  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", {tmp_path: usage}.__getitem__)
    assert mirror_module._spare_bytes(tmp_path) == spare


def test_a_full_disk_keeps_only_what_is_held(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_module, "_spare_bytes", lambda folder: -25)
    with hold(mirror, "a", "b"):
        assert kept(mirror) == "ab"
    assert kept(mirror) == ""


def test_copies_lie_under_their_urls_and_go_when_others_need_the_room(mirror: Mirror) -> None:
    mirror.limit_bytes = 30
    for name in "abc":
        with hold(mirror, name):
            assert mirror.path_of(ROOT / name).read_bytes() == name.encode() * 10
    assert kept(mirror) == "abc"
    with hold(mirror, "a"), hold(mirror, "d"):
        assert kept(mirror) == "acd"
    assert MemoryStore.opened.count(f"{ROOT}/a") == 1


def test_what_is_held_stays_beyond_the_limit_and_goes_after(mirror: Mirror) -> None:
    mirror.limit_bytes = 10
    with hold(mirror, "a", "b"), hold(mirror, "b", "c"):
        assert kept(mirror) == "abc"
    assert len(kept(mirror)) == 1
    mirror.make_room(limit_bytes=0)
    assert sorted(path.name for path in mirror.folder.rglob("*")) == [".parts"]


def test_an_object_that_was_replaced_is_fetched_anew(mirror: Mirror, store: dict[str, bytes]) -> None:
    with hold(mirror, "a"):
        pass
    store[f"{ROOT}/a"] = b"another"
    with hold(mirror, "a"):
        assert mirror.path_of(ROOT / "a").read_bytes() == b"another"


def test_two_who_need_an_object_wait_for_one_transfer(mirror: Mirror) -> None:
    wanted = files("a")
    begun, go_on = held_back()
    first = mirror.hold(wanted)
    assert begun.wait(LIMIT_S)
    second = mirror.hold(wanted)
    assert not second.arrivals[0].done()
    go_on.set()
    with first, second:
        second.arrivals[0].result(LIMIT_S)
    assert MemoryStore.opened == [f"{ROOT}/a"]


def test_a_failure_is_told_to_all_and_tried_anew_by_the_next(
    mirror: Mirror, store: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = files("a")
    content = store.pop(f"{ROOT}/a")
    with mirror.hold(wanted) as failed, pytest.raises(KeyError):
        failed.arrivals[0].result(LIMIT_S)
    assert not mirror._copies
    store[f"{ROOT}/a"] = content
    with hold(mirror, "a"):
        assert kept(mirror) == "a"


def test_a_failure_that_nobody_waited_for_is_tried_anew(mirror: Mirror, store: dict[str, bytes]) -> None:
    wanted = files("a")
    begun, go_on = held_back()
    held = mirror.hold(wanted)
    (arrival,) = held.arrivals
    assert begun.wait(LIMIT_S)
    held.release()
    content = store.pop(f"{ROOT}/a")
    go_on.set()
    assert isinstance(arrival.exception(LIMIT_S), KeyError)
    store[f"{ROOT}/a"] = content
    with hold(mirror, "a"):
        assert kept(mirror) == "a"


def test_an_object_that_comes_short_is_fetched_again_then_failed_by_name(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "PAUSES_S", (0.0, 0.0))
    told = {ROOT / "a": RemoteStat(11, 1.0)}
    with (
        mirror.hold(told) as held,
        pytest.raises(FailedWork, match=f"{ROOT}/a: failed 3 times.*expected 11 bytes, found 10"),
    ):
        held.arrivals[0].result(LIMIT_S)
    assert MemoryStore.opened == [f"{ROOT}/a"] * 3
    assert not list((mirror.folder / ".parts").iterdir())


@pytest.mark.parametrize("name", ["../b", "x/../../b", "a//b", "./a"])
def test_names_that_no_file_can_have_are_refused(mirror: Mirror, name: str) -> None:
    with pytest.raises(FailedWork, match="expected a name that a file can have"):
        mirror.path_of(RemotePath(f"{ROOT}/{name}"))


def test_the_next_episodes_come_while_one_is_read(store: dict[str, bytes]) -> None:
    reading = staged(episodes("a", "b", "c", "d"), own_file, pictures=True)
    assert next(reading).reference.key == "a"
    assert local_path(ROOT / "a").read_bytes() == b"a" * 10
    wait_for(lambda: {f"{ROOT}/b", f"{ROOT}/c"} <= set(MemoryStore.opened))
    assert f"{ROOT}/d" not in MemoryStore.opened
    assert [located.reference.key for located in reading] == ["b", "c", "d"]
    assert sorted(MemoryStore.opened) == [f"{ROOT}/{name}" for name in "abcd"]


def test_who_stops_early_lets_everything_go(store: dict[str, bytes]) -> None:
    reading = staged(episodes(*"abcde"), own_file, pictures=True)
    next(reading)
    reading.close()

    def left() -> list[str]:
        forget_copies()
        return [name for name in "abcde" if local_path(ROOT / name).exists()]

    wait_for(lambda: not left())
    assert left() == []


def test_an_episode_whose_object_is_gone_fails_by_name(store: dict[str, bytes]) -> None:
    with pytest.raises(FileNotFoundError, match=f"{ROOT}/x: no such object"):
        list(staged(episodes("a", "x"), own_file, pictures=True))


def test_waiting_tells_whether_bytes_arrive(store: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.storage.mirror._POLL_S", 0.01)
    go_on, told = threading.Event(), []

    def on_wait(moved: bool) -> None:
        told.append(moved)
        if len(told) == 3:
            go_on.set()

    MemoryStore.before_open = staticmethod(lambda path: go_on.wait(LIMIT_S))
    assert len(list(staged(episodes("a"), own_file, pictures=True, on_wait=on_wait))) == 1
    assert len(told) >= 3 and not all(told)


def test_who_waits_can_be_called_off(store: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.storage.mirror._POLL_S", 0.01)
    go_on = threading.Event()
    MemoryStore.before_open = staticmethod(lambda path: go_on.wait(LIMIT_S))

    def cancel_writers(moved: bool) -> None:
        go_on.set()
        raise FailedWork("called off")

    with pytest.raises(FailedWork, match="called off"):
        list(staged(episodes("a", "b"), own_file, pictures=True, on_wait=cancel_writers))


def test_messages_name_urls(store: dict[str, bytes]) -> None:
    with fetched(files("a")):
        assert with_urls(f"{local_path(ROOT / 'a')}: expected x") == f"{ROOT}/a: expected x"
    assert with_urls("/data/a: expected x") == "/data/a: expected x"


def test_the_nearest_file_above_is_found(store: dict[str, bytes]) -> None:
    store |= {"mem://bucket/config.json": b"", "mem://bucket/in/a1/config.json": b"", "mem://bucket/in/a2/x/y": b""}
    listing = Listing()
    found = [listing.nearest(ROOT / name, "config.json") for name in ("a1/x", "a2/x")]
    assert [[place.url for place in one] for one in found] == [
        ["mem://bucket/in/a1/config.json"],
        ["mem://bucket/config.json"],
    ]
    assert listing.nearest(ROOT / "a1/x", "other*.json") == {}


def test_who_may_not_look_further_up_finds_nothing_there(
    store: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    def matching(place: RemotePath, pattern: str) -> dict[RemotePath, RemoteStat]:
        looked.append(place.url)
        if place.url == "mem://bucket":
            raise FailedWork("refused") from PermissionError()
        return {}

    monkeypatch.setattr(RemotePath, "matching", matching)
    assert Listing().nearest(ROOT / "a/b", "config.json") == {}
    assert looked == [f"{ROOT}/a", f"{ROOT}", "mem://bucket"]


def test_copies_go_with_their_process_or_with_the_next(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from pipelines.storage.mirror import local_path; "
        "from pipelines.storage.paths import RemotePath; "
        "print(local_path(RemotePath('mem://b/x')).parents[2], flush=True); "
        "sys.argv[1] == 'stay' and time.sleep(900)"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}

    def start(how: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", script, how]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    def folder_of(process: "subprocess.Popen[str]") -> Path:
        assert process.stdout is not None
        return Path(process.stdout.readline().strip())

    with start("stay") as alive, start("stay") as killed:
        try:
            there, left = folder_of(alive), folder_of(killed)
            killed.send_signal(signal.SIGKILL)
            killed.wait(LIMIT_S)
            assert there.is_dir() and left.is_dir()
            with start("go") as ended:
                gone = folder_of(ended)
                assert ended.wait(LIMIT_S) == 0
            assert there.is_dir() and not left.exists() and not gone.exists()
        finally:
            alive.kill()
            killed.kill()
