"""Datasets in object stores: the same samples as from disk, through slow, busy and broken servers."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mixtures.mixture import Mixture, open_mixture
from mixtures.stores import arrow
from mixtures.stores.shard_cache import ShardCache, shard_cache_of_process
from mixtures.stream.batches import Batch, Stream
from mixtures.stream.shard_files import OpenShards
from pipelines.contract.errors import FailedWork, UsageError
from pipelines.storage import retry
from tests.support.inputs.mixture_data import make_episode, write_dataset, write_spec
from tests.support.servers.fake_store import FakeStore, serving

ENDPOINTS = {"gs": "CLOUD_STORAGE_EMULATOR_ENDPOINT", "s3": "AWS_ENDPOINT_URL"}
BODY = "validation: {fraction: 0, min_per_group: 1}\ndatasets: [{path: ROOT/a/1.0.0}]\naction: {horizon: 4}\n"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("buckets")
    write_dataset(folder / "bucket", "a", [make_episode(i, cameras=("base_0_rgb",)) for i in range(4)])
    return folder


@pytest.fixture
def store(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeStore]:
    with serving(root) as server:
        for variable in ENDPOINTS.values():
            monkeypatch.setenv(variable, server.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setattr(retry, "STORE_FIRST_PAUSE_S", 0.01)
        arrow._file_system.cache_clear()
        yield server
    arrow._file_system.cache_clear()


def opened(folder: Path, cache: Path, where: str) -> Mixture:
    name = where.partition(":")[0].replace("/", "_")
    return open_mixture(write_spec(folder, BODY.replace("ROOT", where), f"{name}.yaml"), cache=cache)


def same(one: Batch, other: Batch) -> bool:
    arrays = ("images", "state", "action", "chunk_mask", "camera_mask")
    return one.names == other.names and all(np.array_equal(getattr(one, n), getattr(other, n)) for n in arrays)


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_samples_from_a_store_equal_those_from_disk(store: FakeStore, tmp_path: Path, scheme: str) -> None:
    remote = opened(tmp_path, tmp_path / "cache", f"{scheme}://bucket")
    local = opened(tmp_path, tmp_path / "cache", str(store.root / "bucket"))
    with Stream(remote, batch_size=8) as one, Stream(local, batch_size=8) as other:
        for batch, expected in zip(one.batches(stop=24), other.batches(stop=24), strict=True):
            assert same(batch, expected)
    assert remote.lock()["datasets"][0]["fingerprint"] == local.lock()["datasets"][0]["fingerprint"]


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_a_busy_store_is_asked_again(store: FakeStore, tmp_path: Path, scheme: str) -> None:
    mixture = opened(tmp_path, tmp_path / "cache", f"{scheme}://bucket")
    store.failures = 4
    with Stream(mixture, batch_size=4) as stream:
        assert len(stream.batch_at(0).names) == 4
    assert store.n_reads > 7


def test_a_store_that_stays_broken_fails_the_run_by_name(
    store: FakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "STORE_ANSWER_S", 0.3)
    arrow._file_system.cache_clear()
    mixture = opened(tmp_path, tmp_path / "cache", "gs://bucket")
    store.failures = 10**9
    with Stream(mixture, batch_size=1) as stream, pytest.raises(FailedWork) as caught:
        stream.batch_at(0)
    assert "gs://bucket/a/1.0.0/a-train.tfrecord-0000" in str(caught.value)
    assert "the store failed 5 times" in str(caught.value)


def test_many_reads_are_in_flight(store: FakeStore, tmp_path: Path) -> None:
    mixture = opened(tmp_path, tmp_path / "cache", "gs://bucket")
    store.gather = 16
    with Stream(mixture, batch_size=32) as stream:
        next(stream.batches())
    assert store.most_at_once >= 16


def test_missing_and_changed_shards_are_refused(store: FakeStore, tmp_path: Path) -> None:
    bucket = store.root / "other"
    folder = write_dataset(bucket, "a", [make_episode(i, cameras=("base_0_rgb",)) for i in range(2)])
    opened(tmp_path, tmp_path / "cache", "gs://other")
    shard = folder / "a-train.tfrecord-00001-of-00002"
    shard.write_bytes(shard.read_bytes() + b"x")
    with pytest.raises(FailedWork, match=r"4:19: gs://other/.*-00001-of-00002: expected \d+ bytes"):
        opened(tmp_path, tmp_path / "cache", "gs://other")
    shard.unlink()
    with pytest.raises(FailedWork, match="expected the shard, found no such file"):
        opened(tmp_path, tmp_path / "cache", "gs://other")
    with pytest.raises(FailedWork, match="expected 4|found no such shard"):
        opened(tmp_path, tmp_path / "fresh", "gs://other")
    shutil.rmtree(bucket)
    with pytest.raises(FailedWork, match="gs://other/a/1.0.0: expected the folder of a dataset"):
        opened(tmp_path, tmp_path / "cache", "gs://other")


def test_an_unknown_scheme_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one of gs://, s3://, found ftp://"):
        opened(tmp_path, tmp_path / "cache", "ftp://bucket")


def test_staged_shards_are_read_from_disk_up_to_the_limit(store: FakeStore, tmp_path: Path) -> None:
    shards = sorted((store.root / "bucket/a/1.0.0").glob("*.tfrecord-*"))
    uris = [f"gs://bucket/a/1.0.0/{shard.name}" for shard in shards]
    stage = ShardCache(tmp_path / "stage", limit_bytes=shards[0].stat().st_size + 10)
    files = OpenShards(stage)
    expected = [shard.read_bytes()[100:200] for shard in shards]
    assert [files.read(uri, 100, 100) for uri in uris[:1]] == expected[:1]
    stage.wait()
    assert [files.read(uri, 100, 100) for uri in uris] == expected
    stage.wait()
    reads = store.n_reads
    assert files.read(uris[0], 100, 100) == expected[0] and store.n_reads == reads
    assert files.read(uris[1], 100, 100) == expected[1] and store.n_reads == reads + 1
    assert stage.used_bytes <= stage.limit_bytes
    files.close()
    assert ShardCache(tmp_path / "stage", limit_bytes=10**9).local_path(uris[0]) is not None


def test_the_environment_gives_every_stream_of_a_process_one_cache(
    store: FakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shard_cache_of_process() is None
    monkeypatch.setenv("EMBODIMIX_SHARD_CACHE", str(tmp_path / "copies"))
    monkeypatch.setenv("EMBODIMIX_SHARD_CACHE_GB", "0.5")
    mixture = opened(tmp_path, tmp_path / "cache", "gs://bucket")
    with Stream(mixture, batch_size=8) as one, Stream(mixture, batch_size=8) as other:
        first = one.batch_at(0)
        cache = shard_cache_of_process()
        assert cache is not None and cache.limit_bytes == 500_000_000
        cache.wait()
        assert any((tmp_path / "copies").glob("*.shard"))
        reads = store.n_reads
        assert np.array_equal(other.batch_at(0).images, first.images) and store.n_reads == reads
    monkeypatch.setenv("EMBODIMIX_SHARD_CACHE_GB", "many")
    with pytest.raises(UsageError, match="expected gigabytes above 0, found 'many'"):
        Stream(mixture, batch_size=8)


def test_a_copy_that_is_half_there_is_given_up_when_the_last_stream_ends(
    store: FakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mixtures.stores.shard_cache.PIECE_BYTES", 64)
    shard = min((store.root / "bucket/a/1.0.0").glob("*.tfrecord-*"))
    cache = ShardCache(tmp_path / "copies", limit_bytes=10**9)
    one, other = OpenShards(cache), OpenShards(cache)
    one.read(f"gs://bucket/a/1.0.0/{shard.name}", 0, 10)
    one.close()
    assert cache._executor is not None
    other.close()
    deadline = time.monotonic() + 20
    while cache.used_bytes and time.monotonic() < deadline:
        time.sleep(0.01)
    assert cache.used_bytes == 0 and list((tmp_path / "copies").glob("*.shard")) == []
