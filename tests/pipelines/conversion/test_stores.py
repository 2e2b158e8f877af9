"""Converting from an object store into an object store."""

import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.contract.errors import UsageError
from pipelines.conversion.launch import ConversionRequest, convert, find_episodes, make_job
from pipelines.conversion.measure import measure_shard
from pipelines.conversion.plan import make_plan, save_plan
from pipelines.jobs.beam_options import check_reach, make_beam_options
from pipelines.mapping.adapters import Adapter, get_adapter
from pipelines.shards.dataset import Dataset
from pipelines.shards.sidecar import jpeg_offsets, read_sidecar
from pipelines.sources import bridge, dp, rlds
from pipelines.sources.folders import find_folders, key_of
from pipelines.storage.mirror import Listing, forget_copies
from pipelines.storage.paths import RemotePath, as_storage_path
from tests.pipelines.sources import test_hdf5, test_replay_videos
from tests.pipelines.sources.test_dp import write_buffer
from tests.pipelines.sources.test_lerobot import write_v2, write_v3
from tests.pipelines.sources.test_zarr import write_log
from tests.support.inputs.hdf5_files import write_aloha, write_robomimic
from tests.support.inputs.native_files import bridge_features, write_rlds
from tests.support.servers.memory_store import MemoryStore

ROOT = "mem://bucket"


@pytest.fixture
def store() -> Iterator[dict[str, bytes]]:
    """The objects of an empty store."""
    MemoryStore.objects.clear()
    MemoryStore.opened.clear()
    forget_copies()
    yield MemoryStore.objects
    MemoryStore.objects.clear()


def upload(folder: Path, url: str) -> None:
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        MemoryStore.objects[f"{url}/{path.relative_to(folder)}"] = path.read_bytes()


def run(source: str, adapter: str | Adapter, root: str, **changes: Any) -> Dataset:
    entry = get_adapter(adapter) if isinstance(adapter, str) else adapter
    options: dict[str, Any] = {"name": "x", "version": "1.0.0", "adapter": entry, "n_shards": 2}
    convert(ConversionRequest(source=source, output_root=root, **options | changes))
    return Dataset.open(as_storage_path(root) / "x" / "1.0.0")


def rows_of(dataset: Dataset) -> dict[str, dict[str, Any]]:
    rows = [row for path in dataset.sidecars("train") for row in read_sidecar(path).to_pylist()]
    return {row["source_key"]: row for row in rows}


def write_zipped(folder: Path) -> Path:
    write_buffer(folder.parent / "replay.zarr")
    folder.mkdir()
    shutil.make_archive(str(folder / "a.zarr"), "zip", folder.parent / "replay.zarr")
    return folder


def in_folder(write: Callable[[Path], Path], name: str) -> Callable[[Path], object]:
    def write_into(folder: Path) -> Path:
        folder.mkdir()
        return write(folder / name)

    return write_into


def write_hdf5_groups(folder: Path) -> Path:
    return test_hdf5.write(folder / "a.hdf5", ("data/0", "data/1"))


SOURCES: dict[str, tuple[str | Adapter, Callable[[Path], object], dict[str, str]]] = {
    "rlds": ("bridge_orig", lambda d: write_rlds(d / "1.0.0", {"train": [bridge_features(i) for i in range(5)]}), {}),
    "zarr": ("inhouse_log", lambda d: [write_log(d / f"ur5e/lift/{name}.zarr") for name in "abcde"], {}),
    "dp": ("dp_replay", in_folder(write_buffer, "a.zarr"), {"task": "push"}),
    "dp zip": ("dp_replay", write_zipped, {"task": "push"}),
    "dp videos": (test_replay_videos.entry(), test_replay_videos.record, {"task": "push"}),
    "hdf5": (test_hdf5.entry(), in_folder(test_hdf5.write, "a.hdf5"), {}),
    "hdf5 groups": (test_hdf5.entry(episodes="data/*"), write_hdf5_groups, {}),
    "aloha": ("aloha_hdf5", in_folder(write_aloha, "episode_0.hdf5"), {"task": "fold"}),
    "robomimic": ("robomimic", in_folder(write_robomimic, "image.hdf5"), {"task": "lift"}),
    "lerobot v2": ("lerobot_aloha", write_v2, {}),
    "lerobot v3": ("lerobot_aloha", write_v3, {}),
}


_DATA = re.compile(r"tfrecord|/rgb/c/|/img/\d|\.zip$|\.hdf5$|\.mp4$|/data/chunk.*\.parquet$")


def contents_of(dataset: Dataset) -> dict[str, Any]:
    """What does not tell where it came from, and every picture's bytes, by source key."""
    found = {}
    for split in dataset.splits.values():
        for files in split:
            stored = files.shard.read_bytes()
            for row in read_sidecar(files.sidecar).to_pylist():
                cameras = [name.removesuffix("_lengths") for name in row if name.endswith("_lengths")]
                pictures = [
                    stored[start : start + length]
                    for camera in cameras
                    if row[f"{camera}_lengths"]
                    for start, length in zip(
                        jpeg_offsets(row[f"{camera}_base"], np.array(row[f"{camera}_lengths"])),
                        row[f"{camera}_lengths"],
                        strict=True,
                    )
                ]
                facts = {key: row[key] for key in ("state", "action", "language", "episode_id", "split") if key in row}
                found[row["source_key"]] = facts, pictures
    return found


@pytest.mark.parametrize("name", SOURCES)
def test_a_store_holds_the_same_episodes_as_a_disk(store: dict[str, bytes], tmp_path: Path, name: str) -> None:
    adapter, write, options = SOURCES[name]
    write(tmp_path / "in")
    upload(tmp_path / "in", f"{ROOT}/in")
    here = contents_of(run(str(tmp_path / "in"), adapter, str(tmp_path / "out"), **options))
    MemoryStore.opened.clear()
    there = contents_of(run(f"{ROOT}/in", adapter, str(tmp_path / "there"), **options))
    assert here == there and all(pictures for _, pictures in here.values())
    # Both passes, and all episodes of a file, are served by one transfer; the launcher looks into files of several
    # episodes, of LeRobot's tables for the column of their numbers.
    data = Counter(url for url in MemoryStore.opened if _DATA.search(url))
    looked_into = {
        url
        for url in data
        if name in ("robomimic", "hdf5 groups") or (name == "lerobot v3" and url.endswith(".parquet"))
    }
    assert data == {url: 2 if url in looked_into else 1 for url in data}


@pytest.mark.parametrize(("name", "pictures"), [("zarr", "/rgb/c/"), ("dp", "/data/img/")])
def test_measuring_transfers_no_pictures(store: dict[str, bytes], tmp_path: Path, name: str, pictures: str) -> None:
    adapter, write, options = SOURCES[name]
    write(tmp_path / "in")
    upload(tmp_path / "in", f"{ROOT}/in")
    where = {"source": f"{ROOT}/in", "output_root": str(tmp_path), "name": "x", "version": "1.0.0"}
    conversion = ConversionRequest(**where, adapter=get_adapter(adapter), **options)
    plan = make_plan(find_episodes(conversion), 1, 0.0, ())
    job, (shard,) = make_job(conversion, plan), plan.shards
    save_plan(job, plan)
    MemoryStore.opened.clear()
    assert measure_shard(job, shard).n_episodes == len(plan.shards[shard])
    assert MemoryStore.opened and not [url for url in MemoryStore.opened if pictures in url and url[-1].isdigit()]


def test_a_replay_buffers_chunks_go_only_to_the_episodes_in_them(store: dict[str, bytes], tmp_path: Path) -> None:
    write_buffer(tmp_path / "in/a.zarr", chunks=2)
    upload(tmp_path / "in", f"{ROOT}/in")
    first, second = dp.find(f"{ROOT}/in", get_adapter("dp_replay")).episodes
    assert (first.place, second.place) == ((0, 3), (3, 8))
    chunks = [
        [place.name for place in dp.files_of(located, Listing(), pictures) if "/img/" in place.url]
        for located, pictures in ((first, True), (second, True), (second, False))
    ]
    facts, names = [".zarray", ".zattrs"], [f"{i}.0.0.0" for i in range(4)]
    assert chunks == [[*facts, *names[:2]], [*facts, *names[1:]], facts]


@pytest.mark.shared
def test_what_no_reader_opens_is_not_transferred(store: dict[str, bytes], shared: Path, tmp_path: Path) -> None:
    upload(shared / "data/sim/droid_raw", f"{ROOT}/droid")
    upload(shared / "data/sim/bridge_raw/sim/sim_tabletop1", f"{ROOT}/raw")
    for folder in {url.rsplit("/recordings/", 1)[0] for url in store if "/recordings/MP4/" in url}:
        store |= {f"{folder}/recordings/SVO/1.svo": b"s", f"{folder}/recordings/MP4/1-stereo.mp4": b"s"}
    for folder in {url.rsplit("/", 1)[0] for url in store if url.endswith("/obs_dict.pkl")}:
        store |= {f"{folder}/depth_images0/im_0.png": b"d", f"{folder}/": b""}
    MemoryStore.opened.clear()
    assert len(rows_of(run(f"{ROOT}/droid", "droid_raw", str(tmp_path / "droid")))) == 3
    assert len(rows_of(run(f"{ROOT}/raw", "bridge_raw", str(tmp_path / "raw"), robot="ur5e"))) == 2
    opened = [url for url in MemoryStore.opened if "/recordings/" in url or "/images0/" in url]
    assert opened and not [url for url in MemoryStore.opened if url.endswith((".svo", "-stereo.mp4", ".png", "/"))]
    assert set(Counter(opened).values()) == {1}


def test_rejects_name_objects_by_their_urls(store: dict[str, bytes], tmp_path: Path) -> None:
    write_v2(tmp_path / "in")
    upload(tmp_path / "in", f"{ROOT}/in")
    url = next(url for url in store if url.endswith("000000.mp4"))
    store[url] = store[url][: len(store[url]) // 2]
    dataset = run(f"{ROOT}/in", "lerobot_aloha", str(tmp_path / "out"))
    (row,) = pq.read_table(dataset.path / "rejects.parquet").to_pylist()
    assert row["source_key"] == "episode_000000" and row["detail"].startswith(f"{url}: expected a ")
    assert "embodimix-" not in row["detail"]


def test_a_kept_input_of_no_size_is_transferred_again_and_changes_nothing(
    store: dict[str, bytes], tmp_path: Path
) -> None:
    write_v2(tmp_path / "in")
    upload(tmp_path / "in", f"{ROOT}/in")
    kept = run(f"{ROOT}/in", "lerobot_aloha", str(tmp_path / "kept"))
    MemoryStore.opened.clear()
    anew = run(f"{ROOT}/in", "lerobot_aloha", str(tmp_path / "anew"), input_cache_gb=0.0)
    assert contents_of(kept) == contents_of(anew)
    assert kept.path.joinpath("manifest.json").read_text() == anew.path.joinpath("manifest.json").read_text()
    assert {Counter(MemoryStore.opened)[url] for url in store if url.endswith(".mp4")} == {2}


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
