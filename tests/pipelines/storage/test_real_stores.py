"""Real servers of both stores (fake-gcs-server, MinIO) behind lines that are slow, throttle and break.

`.ci/run` installs them where Go is there; without them these tests are skipped, and say so.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mixtures.mixture import Mixture, open_mixture
from mixtures.stores import arrow
from mixtures.stores.shard_cache import ShardCache
from mixtures.stream.batches import Batch, Stream
from pipelines.contract.errors import FailedWork
from pipelines.storage import retry
from tests.support.inputs.mixture_data import make_episode, write_dataset, write_spec
from tests.support.servers.real_servers import serving
from tests.support.servers.slow_line import SlowLine, slow_line

BODY = "datasets: [{path: ROOT/a/1.0.0}]\naction: {horizon: 4}\n"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("buckets")
    write_dataset(folder / "bucket", "a", [make_episode(i, cameras=("base_0_rgb",)) for i in range(4)])
    return folder


@pytest.fixture(scope="module", params=["gs", "s3"])
def server(request: pytest.FixtureRequest, root: Path) -> Iterator[str]:
    """A running server that holds the bucket; yields its scheme and port."""
    with serving(request.param, root) as port:
        yield f"{request.param}:{port}"


@pytest.fixture
def line(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowLine]:
    with slow_line(int(server.partition(":")[2])) as made:
        for variable in ("CLOUD_STORAGE_EMULATOR_ENDPOINT", "AWS_ENDPOINT_URL"):
            monkeypatch.setenv(variable, made.url)
        for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(variable, "minioadmin")
        monkeypatch.setattr(retry, "STORE_FIRST_PAUSE_S", 0.02)
        arrow._file_system.cache_clear()
        yield made
    arrow._file_system.cache_clear()


@pytest.fixture
def remote(server: str, line: SlowLine, tmp_path: Path) -> Mixture:
    return opened(tmp_path, f"{server.partition(':')[0]}://bucket")


def opened(folder: Path, where: str) -> Mixture:
    name = f"{where.partition(':')[0].replace('/', '_')}.yaml"
    return open_mixture(write_spec(folder, BODY.replace("ROOT", where), name), cache=folder / "cache")


def batches(mixture: Mixture, count: int, stage: ShardCache | None = None) -> list[Batch]:
    with Stream(mixture, batch_size=16, stage=stage) as stream:
        return list(stream.batches(stop=16 * count))


def same(found: list[Batch], expected: list[Batch]) -> bool:
    arrays = ("images", "state", "action", "chunk_mask", "camera_mask")
    pairs = list(zip(found, expected, strict=True))
    return all(
        a.names == b.names and all(np.array_equal(getattr(a, n), getattr(b, n)) for n in arrays) for a, b in pairs
    )


@pytest.mark.parametrize("latency_ms", [20, 50])
def test_samples_equal_those_from_disk_and_many_are_read_at_once(
    line: SlowLine, remote: Mixture, root: Path, tmp_path: Path, latency_ms: int
) -> None:
    expected = batches(opened(tmp_path, str(root / "bucket")), 8)
    line.latency_s, line.gather = latency_ms / 1e3, 16
    assert same(batches(remote, 8), expected)
    assert line.most_at_once >= 16


@pytest.mark.parametrize("status", [429, 503])
def test_throttling_and_broken_answers_change_nothing(
    line: SlowLine, remote: Mixture, root: Path, tmp_path: Path, status: int
) -> None:
    expected = batches(opened(tmp_path, str(root / "bucket")), 4)
    line.latency_s, line.busy_status, line.throttles, line.breaks = 0.02, status, 20, 10
    before = line.n_requests
    assert same(batches(remote, 4), expected)
    assert line.throttles == line.breaks == 0 and line.n_requests - before == 64 + 30


def test_a_store_that_throttles_for_good_fails_the_run_by_name(line: SlowLine, remote: Mixture) -> None:
    line.throttles = 10**9
    with pytest.raises(FailedWork, match=r"bucket/a/1.0.0/a-train.tfrecord-.*: the store failed 5 times, .*slowdown"):
        batches(remote, 1)


def test_staged_shards_are_not_asked_for_again(line: SlowLine, remote: Mixture, root: Path, tmp_path: Path) -> None:
    expected = batches(opened(tmp_path, str(root / "bucket")), 2)
    stage = ShardCache(tmp_path / "stage", limit_bytes=10**9)
    assert same(batches(remote, 2, stage), expected)
    stage = ShardCache(tmp_path / "stage", limit_bytes=10**9)
    for table in remote.tables:
        for shard in table.shards:
            stage.local_path(shard)
    stage.wait()
    before = line.n_requests
    assert same(batches(remote, 2, stage), expected)
    assert line.n_requests == before


def test_a_wrong_key_is_refused_by_name(
    server: str, line: SlowLine, remote: Mixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if server.startswith("gs"):
        pytest.skip("fake-gcs-server takes every key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(
        FailedWork, match="expected an object that may be read, found: answer 403.*SignatureDoesNotMatch"
    ):
        batches(remote, 1)
