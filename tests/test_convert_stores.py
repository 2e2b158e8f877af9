"""Converting from an object store into an object store."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from memory_store import MemoryStore
from native_files import bridge_features, write_rlds
from test_sources_zarr import write_log

from pipelines.adapters import get_adapter
from pipelines.beam_options import check_reach, make_beam_options
from pipelines.dataset import Dataset
from pipelines.errors import UsageError
from pipelines.index import read_sidecar
from pipelines.launch import Conversion, convert
from pipelines.places import RemotePath, as_place
from pipelines.sources import bridge, rlds
from pipelines.sources.folders import find_folders, key_of

ROOT = "mem://bucket"


@pytest.fixture
def store() -> Iterator[dict[str, bytes]]:
    """The objects of an empty store."""
    MemoryStore.objects.clear()
    yield MemoryStore.objects
    MemoryStore.objects.clear()


def upload(folder: Path, url: str) -> None:
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        MemoryStore.objects[f"{url}/{path.relative_to(folder)}"] = path.read_bytes()


def run(source: str, adapter: str, root: str, **changes: Any) -> Dataset:
    options: dict[str, Any] = {"name": "x", "version": "1.0.0", "adapter": get_adapter(adapter), "n_shards": 2}
    convert(Conversion(source=source, output_root=root, **options | changes))
    return Dataset.open(as_place(root) / "x" / "1.0.0")


def rows_of(dataset: Dataset) -> dict[str, dict[str, Any]]:
    rows = [row for path in dataset.sidecars("train") for row in read_sidecar(path).to_pylist()]
    return {row["source_key"]: row for row in rows}


def test_rlds_of_a_store_becomes_a_dataset_of_a_store(store: dict[str, bytes], tmp_path: Path) -> None:
    episodes = [bridge_features(i) for i in range(5)]
    local = write_rlds(tmp_path / "in/tiny/1.0.0", {"train": episodes})
    upload(tmp_path / "in", f"{ROOT}/in")
    here = rows_of(run(str(local), "bridge_orig", str(tmp_path / "out")))
    dataset = run(f"{ROOT}/in/tiny", "bridge_orig", f"{ROOT}/out")
    there = rows_of(dataset)
    assert there.keys() == here.keys()
    for key, row in there.items():
        assert (row["state"], row["episode_id"]) == (here[key]["state"], here[key]["episode_id"])
        assert row["source_uri"] == f"{ROOT}/in/tiny/1.0.0/tiny-train.tfrecord-00000-of-00001"
    dataset.verify_hashes()
    assert not [url for url in store if "/.work/" in url]


def test_repeating_a_conversion_into_a_store_does_nothing(store: dict[str, bytes], tmp_path: Path) -> None:
    write_rlds(tmp_path / "tiny/1.0.0", {"train": [bridge_features(i) for i in range(3)]})
    run(str(tmp_path / "tiny"), "bridge_orig", f"{ROOT}/out")
    before = dict(store)
    run(str(tmp_path / "tiny"), "bridge_orig", f"{ROOT}/out")
    assert store == before


def test_a_record_that_a_store_lost_is_named(store: dict[str, bytes], tmp_path: Path) -> None:
    local = write_rlds(tmp_path / "tiny/1.0.0", {"train": [bridge_features(i) for i in range(4)]})
    path = local / "tiny-train.tfrecord-00000-of-00001"
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 5 // 8])
    upload(tmp_path / "tiny", f"{ROOT}/in/tiny")
    assert len(rows_of(run(f"{ROOT}/in/tiny", "bridge_orig", str(tmp_path / "out")))) == 2


def test_logs_of_a_store_are_copied_one_by_one(store: dict[str, bytes], tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_log(tmp_path / f"in/ur5e/lift/{name}.zarr")
    upload(tmp_path / "in", f"{ROOT}/logs")
    here = rows_of(run(str(tmp_path / "in"), "inhouse_log", str(tmp_path / "out")))
    there = rows_of(run(f"{ROOT}/logs", "inhouse_log", str(tmp_path / "out2")))
    assert sorted(there) == ["ur5e/lift/a.zarr", "ur5e/lift/b.zarr"]
    assert there["ur5e/lift/a.zarr"]["state"] == here["ur5e/lift/a.zarr"]["state"]
    assert there["ur5e/lift/a.zarr"]["source_uri"] == f"{ROOT}/logs/ur5e/lift/a.zarr"


@pytest.mark.shared
def test_what_lies_above_an_episode_is_copied_too(store: dict[str, bytes], shared: Path, tmp_path: Path) -> None:
    upload(shared / "data/sim/bridge_raw/sim/sim_tabletop1", f"{ROOT}/raw")
    upload(shared / "data/sim/droid_raw", f"{ROOT}/droid")
    raw = rows_of(run(f"{ROOT}/raw", "bridge_raw", str(tmp_path / "raw"), robot="ur5e"))
    assert all(row["camera_mask"] == [True, True, False] for row in raw.values()) and len(raw) == 2
    droid = rows_of(run(f"{ROOT}/droid", "droid_raw", str(tmp_path / "droid")))
    assert sorted(len(row["language"]) for row in droid.values()) == [1, 3, 3]


def test_folders_of_a_store_are_found_by_their_objects(store: dict[str, bytes]) -> None:
    for name in ("a/raw/traj_group0/traj0/images0/im_0.jpg", "a/raw/traj_group0/traj0/obs_dict.pkl", "b/x.json"):
        store[f"{ROOT}/in/{name}"] = b""
    root = RemotePath(f"{ROOT}/in")
    found = find_folders(root, lambda folder, names: "obs_dict.pkl" in names)
    assert [key_of(folder, root) for folder in found] == ["a/raw/traj_group0/traj0"]
    assert [e.reference.key for e in bridge.find(str(root), get_adapter("bridge_raw")).episodes] == [
        "a/raw/traj_group0/traj0"
    ]


def test_files_of_a_store_need_their_counts(store: dict[str, bytes], tmp_path: Path) -> None:
    write_rlds(tmp_path / "tiny", {"train": [bridge_features(0)]}, info=False)
    upload(tmp_path / "tiny", f"{ROOT}/in")
    with pytest.raises(UsageError, match="expected a dataset_info.json with shardLengths"):
        rlds.find(f"{ROOT}/in", get_adapter("bridge_orig"))


def test_workers_in_the_cloud_do_not_see_this_machine() -> None:
    flags = ["--runner=DataflowRunner", "--project=my-project", "--region=us-central1", "--temp_location=gs://b/t"]
    options = make_beam_options(flags)
    with pytest.raises(UsageError, match="OUTPUT_ROOT data: workers of Dataflow do not see this machine"):
        check_reach(options, {"INPUT": "gs://b/in", "OUTPUT_ROOT": "data"})
    check_reach(options, {"INPUT": "gs://b/in", "OUTPUT_ROOT": "gs://b/out"})
