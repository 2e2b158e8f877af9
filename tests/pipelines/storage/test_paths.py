"""Object stores behind the same operations as local folders: storing, opening, checking, rebuilding."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.contract.errors import FailedWork, UsageError
from pipelines.quality.checks import check_dataset
from pipelines.shards.dataset import Dataset
from pipelines.shards.rebuild import rebuild_index
from pipelines.shards.sidecar import read_sidecar
from pipelines.shards.stored_episodes import iter_stored
from pipelines.shards.writer import finished_shard
from pipelines.storage.files import atomic_file, sweep_leftovers, write_atomically
from pipelines.storage.paths import RemotePath, as_storage_path
from tests.support.inputs.stored_episodes import make_episode, statistics_of, store_dataset, store_shard
from tests.support.servers.memory_store import MemoryStore
from trainers.main import main

ROOT = "mem://bucket/data/toy/1.0.0"


@pytest.fixture
def store() -> Iterator[dict[str, bytes]]:
    """The objects of an empty store."""
    MemoryStore.objects.clear()
    MemoryStore.opened.clear()
    yield MemoryStore.objects
    MemoryStore.objects.clear()


def local_files(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def test_a_url_is_remote_and_anything_else_a_path() -> None:
    assert as_storage_path("data/x") == Path("data/x")
    assert as_storage_path("file:///data/x") == Path("/data/x")
    assert as_storage_path("gs://bucket/a/") == RemotePath("gs://bucket/a")
    assert as_storage_path(Path("x")) == Path("x")


def test_names_of_remote_places() -> None:
    place = as_storage_path("gs://bucket/a") / "b.txt"
    assert (str(place), place.name, str(place.parent)) == ("gs://bucket/a/b.txt", "b.txt", "gs://bucket/a")


def test_listing(store: dict[str, bytes]) -> None:
    store |= {"mem://b/x/1.txt": b"", "mem://b/x/y/2.txt": b"22", "mem://b/xx/3.txt": b""}
    place = as_storage_path("mem://b/x")
    assert [p.name for p in place.iterdir()] == ["1.txt", "y"]
    assert [str(p) for p in place.glob("*/*.txt")] == ["mem://b/x/y/2.txt"]
    assert [p.name for p in place.rglob("*.txt")] == ["1.txt", "2.txt"]
    assert (place.is_dir(), (place / "1.txt").is_dir(), (place / "y").exists()) == (True, False, True)
    assert ((place / "y/2.txt").stat().st_size, (place / "none").exists()) == (2, False)


def test_an_object_appears_when_it_is_complete(store: dict[str, bytes]) -> None:
    with atomic_file(as_storage_path(f"{ROOT}/a")) as file:
        file.write(b"hello")
        assert store == {}
    assert store == {f"{ROOT}/a": b"hello"}


def test_an_error_while_writing_leaves_no_object(store: dict[str, bytes]) -> None:
    with pytest.raises(RuntimeError), atomic_file(as_storage_path(f"{ROOT}/a")) as file:
        file.write(b"hello")
        raise RuntimeError
    assert store == {}


def test_a_store_that_keeps_less_than_was_written_is_noticed(
    store: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryStore, "create", lambda self, path, *_, **__: _Loses(path))
    with pytest.raises(FailedWork, match="expected 5 bytes after writing, found 4"):
        write_atomically(as_storage_path(f"{ROOT}/a"), b"hello")


class _Loses(io.BytesIO):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def close(self) -> None:
        if not self.closed:
            MemoryStore.objects[self.path] = self.getvalue()[:-1]
        super().close()


def test_reading_what_is_not_there(store: dict[str, bytes]) -> None:
    with pytest.raises(FileNotFoundError):
        as_storage_path(f"{ROOT}/a").open()
    with pytest.raises(FileNotFoundError):
        as_storage_path(f"{ROOT}/a").unlink()
    as_storage_path(f"{ROOT}/a").unlink(missing_ok=True)


def test_an_unknown_scheme_is_wrong_use() -> None:
    with pytest.raises(UsageError, match="expected a store that Beam reads"):
        as_storage_path("nope://x").exists()


def test_a_dataset_in_a_store_has_the_bytes_of_one_on_disk(store: dict[str, bytes], tmp_path: Path) -> None:
    splits = {"train": [[make_episode(0), make_episode(1)], []], "val": [[make_episode(2)]]}
    store_dataset(tmp_path, splits)
    store_dataset(as_storage_path(ROOT), splits)
    assert {url.removeprefix(f"{ROOT}/"): data for url, data in sorted(store.items())} == local_files(tmp_path)


def test_opening_checking_and_rebuilding_in_a_store(store: dict[str, bytes]) -> None:
    store_dataset(as_storage_path(ROOT), {"train": [[make_episode(0)], [make_episode(1)]]})
    dataset = Dataset.open(ROOT)
    dataset.verify_hashes()
    assert (dataset.n_episodes, dataset.cameras) == (2, ("base_0_rgb", "left_wrist_0_rgb"))
    (first, _) = iter_stored(dataset)
    assert first.read_pictures("base_0_rgb", [3]) == [make_episode(0).images["base_0_rgb"][3]]
    assert [f.kind for f in check_dataset(dataset)] == []
    before = dict(store)
    (as_storage_path(ROOT) / "index/train-00001-of-00002.parquet").unlink()
    assert [shard.n_episodes for shard in rebuild_index(as_storage_path(ROOT))] == [1, 1]
    assert store == before


def test_reading_some_columns_of_a_remote_sidecar(store: dict[str, bytes]) -> None:
    store_dataset(as_storage_path(ROOT), {"train": [[make_episode(0)]]})
    table = read_sidecar(as_storage_path(ROOT) / "index/train-00000-of-00001.parquet", ["source_key"])
    assert table.to_pylist() == [{"source_key": "ur5e/0"}]


def test_an_unfinished_dataset_in_a_store_is_refused(store: dict[str, bytes]) -> None:
    store_dataset(as_storage_path(ROOT), {"train": [[make_episode(0)]]})
    del store[f"{ROOT}/dataset_info.json"]
    with pytest.raises(FailedWork, match="the conversion is not finished"):
        Dataset.open(ROOT)
    with pytest.raises(FailedWork, match="expected the folder of a dataset"):
        Dataset.open("mem://bucket/nowhere")


def test_a_finished_shard_in_a_store_is_known(store: dict[str, bytes]) -> None:
    where = {"name": "toy", "split": "train", "shard": 0, "n_shards": 1, "options_hash": "0123abcd"}
    assert finished_shard(as_storage_path(ROOT), **where) is None
    summary = store_shard(as_storage_path(ROOT), [make_episode(0)], statistics_of([make_episode(0)]))
    assert finished_shard(as_storage_path(ROOT), **where) == summary
    store[f"{ROOT}/toy-train.tfrecord-00000-of-00001"] += b"x"
    assert finished_shard(as_storage_path(ROOT), **where) is None


def test_a_store_holds_no_leftovers(store: dict[str, bytes]) -> None:
    assert sweep_leftovers(as_storage_path(ROOT)) == []


def test_commands_take_urls(store: dict[str, bytes], capsys: pytest.CaptureFixture[str]) -> None:
    store_dataset(as_storage_path(ROOT), {"train": [[make_episode(0), make_episode(1)]]})
    assert main(["index", ROOT]) == 0
    assert main(["check", ROOT]) == 0
    assert main(["card", ROOT]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [f"{ROOT}/card.md", f"{ROOT}/card.html"]
    assert store[f"{ROOT}/card.md"].startswith(b"# toy 1.0.0")
