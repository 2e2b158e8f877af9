"""Converting from real servers of both stores, and into them, through Beam's own clients."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.contract.errors import FailedWork
from pipelines.conversion.launch import ConversionRequest, convert
from pipelines.mapping.adapters import get_adapter
from pipelines.shards.dataset import Dataset
from pipelines.shards.sidecar import read_sidecar
from pipelines.storage import retry
from pipelines.storage.mirror import forget_copies
from pipelines.storage.paths import RemotePath, as_storage_path
from tests.pipelines.conversion.test_stores import contents_of
from tests.pipelines.sources.test_dp import write_buffer
from tests.pipelines.sources.test_lerobot import write_v2, write_v3
from tests.pipelines.sources.test_zarr import write_log
from tests.support.inputs.hdf5_files import write_robomimic
from tests.support.inputs.native_files import bridge_features, write_rlds
from tests.support.servers.real_servers import serving
from tests.support.servers.slow_line import slow_line

SOURCES = {
    "rlds": ("bridge_orig", {}),
    "zarr": ("inhouse_log", {}),
    "dp": ("dp_replay", {"task": "push"}),
    "robomimic": ("robomimic", {"task": "lift"}),
    "lerobot2": ("lerobot_aloha", {}),
    "lerobot3": ("lerobot_aloha", {}),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("buckets")
    inputs = folder / "bucket" / "in"
    write_rlds(inputs / "rlds/1.0.0", {"train": [bridge_features(i) for i in range(4)]})
    for name in "ab":
        write_log(inputs / f"zarr/{name}.zarr")
    for name in ("dp", "robomimic"):
        (inputs / name).mkdir()
    write_buffer(inputs / "dp/a.zarr", chunks=2)
    write_robomimic(inputs / "robomimic/image.hdf5")
    write_v2(inputs / "lerobot2")
    write_v3(inputs / "lerobot3")
    return folder


@pytest.fixture(scope="module", params=["gs", "s3"])
def server(request: pytest.FixtureRequest, root: Path) -> Iterator[tuple[str, int]]:
    """The scheme and port of a running server that holds the inputs."""
    with serving(request.param, root) as port:
        yield request.param, port


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of MinIO; and no search for Google's, which takes Beam twenty seconds where there are none."""
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(variable, "minioadmin")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr("apache_beam.internal.gcp.auth._Credentials._credentials_init", True)
    monkeypatch.setattr(retry, "PAUSES_S", (0.05, 0.1, 0.2))
    forget_copies()


def use(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    for variable in ("STORAGE_EMULATOR_HOST", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(variable, f"http://127.0.0.1:{port}")
    FileSystems.set_options(PipelineOptions([]))  # Clients are made anew for new options.


def run(source: str, name: str, root: str, **changes: Any) -> Dataset:
    adapter, options = SOURCES[name]
    facts = {"name": name, "version": "1.0.0", "adapter": get_adapter(adapter), "n_shards": 2} | options | changes
    convert(ConversionRequest(source=source, output_root=root, **facts))
    return Dataset.open(as_storage_path(root) / name / "1.0.0")


@pytest.mark.parametrize("name", SOURCES)
def test_a_busy_store_on_a_bad_line_holds_the_same_episodes_as_a_disk(
    server: tuple[str, int], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    scheme, port = server
    here = contents_of(run(str(root / "bucket/in" / name), name, str(tmp_path / "here")))
    with slow_line(port) as line:
        line.latency_s, line.throttles, line.breaks = 0.01, 2, 2
        use(monkeypatch, int(line.url.rpartition(":")[2]))
        there = contents_of(run(f"{scheme}://bucket/in/{name}", name, str(tmp_path / "there")))
        assert line.throttles == line.breaks == 0
    assert here == there


def test_a_store_holds_the_dataset_that_was_written_into_it(
    server: tuple[str, int], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheme, port = server
    use(monkeypatch, port)
    here = run(str(root / "bucket/in/rlds"), "rlds", str(tmp_path))
    there = run(f"{scheme}://bucket/in/rlds", "rlds", f"{scheme}://bucket/out")
    there.verify_hashes()
    keys = [
        sorted(row["source_key"] for path in d.sidecars("train") for row in read_sidecar(path).to_pylist())
        for d in (here, there)
    ]
    assert keys[0] == keys[1]
    counts = convert(
        ConversionRequest(
            source=f"{scheme}://bucket/in/rlds",
            output_root=f"{scheme}://bucket/out",
            name="rlds",
            version="1.0.0",
            adapter=get_adapter("bridge_orig"),
            n_shards=2,
        )
    )
    assert counts["already_done"] and counts["episodes_out"] == 4
    assert not [place for place in RemotePath(f"{scheme}://bucket/out").rglob("*") if ".work" in place.url]


def test_what_is_not_there_or_not_allowed_is_told_by_name(
    server: tuple[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheme, port = server
    use(monkeypatch, port)
    with pytest.raises(FileNotFoundError, match=f"{scheme}://bucket/in/none: no such object"):
        RemotePath(f"{scheme}://bucket/in/none").open()
    if scheme == "s3":
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
        with pytest.raises(FailedWork, match="expected to list it, found .*credentials may use.*SignatureDoesNotMatch"):
            run("s3://bucket/in/zarr", "zarr", str(tmp_path))


def test_an_empty_object_is_read(server: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    scheme, port = server
    use(monkeypatch, port)
    place = RemotePath(f"{scheme}://bucket/empty")
    with open("/dev/null", "rb") as nothing:
        place.put(nothing)
    assert (place.stat().st_size, place.read_bytes()) == (0, b"")
