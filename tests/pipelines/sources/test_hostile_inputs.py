"""Inputs that reach for other files or name a codec that runs code: every reader refuses them by name."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from pipelines.contract.errors import FailedWork, UsageError
from pipelines.contract.native import EpisodeLocation, Rejected
from pipelines.mapping.adapters import get_adapter
from pipelines.sources import aloha, dp, droid, foreign_files, lerobot, rlds, robomimic
from pipelines.sources import zarr as inhouse
from pipelines.sources.hdf5_files.texts import read_instruction
from tests.pipelines.sources.test_dp import write_buffer
from tests.pipelines.sources.test_droid import EPISODE
from tests.pipelines.sources.test_lerobot import write_v2
from tests.pipelines.sources.test_zarr import write_log
from tests.support.inputs.hdf5_files import T, write_aloha, write_robomimic
from tests.support.inputs.native_files import bridge_features, write_rlds

ALOHA, ROBOMIMIC, DROID = get_adapter("aloha_hdf5"), get_adapter("robomimic"), get_adapter("droid_raw")
DP, LOG, LEROBOT = get_adapter("dp_replay"), get_adapter("inhouse_log"), get_adapter("lerobot_aloha")
SECRET = bytes(T * 14 * 8)


class Touch:
    """What a pickle makes of it when it is loaded: a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def put_external(file: h5py.File, key: str, secret: Path) -> None:
    del file[key]
    file.create_dataset(key, (T, 14), "f8", external=[(str(secret), 0, len(SECRET))])


def put_link(file: h5py.File, key: str, secret: Path) -> None:
    del file[key]
    file[key] = h5py.ExternalLink(str(secret), "/x")


def put_virtual(file: h5py.File, key: str, secret: Path) -> None:
    del file[key]
    layout = h5py.VirtualLayout((T, 14), "f8")
    layout[:] = h5py.VirtualSource(str(secret), "x", (T, 14))
    file.create_virtual_dataset(key, layout)


def put_filter(file: h5py.File, key: str, secret: Path) -> None:
    del file[key]
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_chunk((T, 14))
    made.set_filter(40_000, h5py.h5z.FLAG_OPTIONAL, (1,))
    h5py.h5d.create(file.id, key.encode(), h5py.h5t.IEEE_F64LE, h5py.h5s.create_simple((T, 14)), made)


REACHES = [put_external, put_link, put_virtual, put_filter]
Reach = Callable[[h5py.File, str, Path], None]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of this machine that is no input."""
    (tmp_path / "secret").write_bytes(SECRET)
    return tmp_path / "secret"


@pytest.mark.parametrize("reach", REACHES)
def test_aloha_reads_nothing_outside_its_file(tmp_path: Path, secret: Path, reach: Reach) -> None:
    with h5py.File(write_aloha(tmp_path / "episode_0.hdf5"), "a") as file:
        reach(file, "observations/qpos", secret)
    (located,) = aloha.find(str(tmp_path), ALOHA).episodes
    with pytest.raises(Rejected, match="unsafe_file: .*observations/qpos"):
        aloha.read(located, ALOHA)


@pytest.mark.parametrize("reach", REACHES)
def test_robomimic_reads_nothing_outside_its_file(tmp_path: Path, secret: Path, reach: Reach) -> None:
    write_robomimic(tmp_path / "a.hdf5")
    with h5py.File(write_robomimic(tmp_path / "b.hdf5"), "a") as file:
        reach(file, "data/demo_1/actions", secret)
    found = robomimic.find(str(tmp_path), ROBOMIMIC)
    assert [located.reference.key for located in found.episodes] == ["a.hdf5#demo_0", "a.hdf5#demo_1"]
    assert [(reject.source_key, reject.reason) for reject in found.rejects] == [("b.hdf5", "unsafe_file")]


def test_a_file_that_turns_hostile_after_the_scan_is_refused(tmp_path: Path, secret: Path) -> None:
    path = write_robomimic(tmp_path / "a.hdf5")
    located = robomimic.find(str(tmp_path), ROBOMIMIC).episodes[1]
    with h5py.File(path, "a") as file:
        put_external(file, "data/demo_1/actions", secret)
    with pytest.raises(Rejected, match="unsafe_file: .*data/demo_1/actions"):
        robomimic.read(located, ROBOMIMIC)


@pytest.mark.parametrize("levels", [0, 2])
def test_the_scan_of_a_remote_file_looks_at_what_it_reads(tmp_path: Path, secret: Path, levels: int) -> None:
    with h5py.File(write_robomimic(tmp_path / "a.hdf5"), "a") as file:
        file["data/demo_0/language"] = h5py.ExternalLink(str(secret), "/x")
        file.create_dataset("data/demo_1/lang", (1,), "S20", external=[(str(secret), 0, 20)])
    with (tmp_path / "a.hdf5").open("rb") as stream, foreign_files.open_hdf5(stream, levels) as file:
        for name in ("demo_0", "demo_1"):
            with pytest.raises(Rejected, match=f"unsafe_file: .*data/{name}/lang"):
                read_instruction(file["data"][name])
    with h5py.File(tmp_path / "a.hdf5", "a") as file:
        file["data/soft"] = h5py.SoftLink("/data/demo_0/language")
    with (tmp_path / "a.hdf5").open("rb") as stream, pytest.raises(Rejected, match="unsafe_file"):
        foreign_files.open_hdf5(stream, 2)


def test_groups_that_hold_themselves_are_looked_at_once(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for number in range(200):
            file[f"again_{number}"] = file["/"]
    foreign_files.open_hdf5(tmp_path / "a.hdf5").close()
    with (tmp_path / "a.hdf5").open("rb") as stream:
        foreign_files.open_hdf5(stream, 20).close()


@pytest.mark.shared
@pytest.mark.parametrize("reach", REACHES)
def test_droid_reads_nothing_outside_its_file(shared: Path, tmp_path: Path, secret: Path, reach: Reach) -> None:
    folder = tmp_path / "in" / EPISODE
    shutil.copytree(shared / "data/sim/droid_raw" / EPISODE, folder, copy_function=shutil.copyfile)
    with h5py.File(folder / "trajectory.h5", "a") as file:
        reach(file, "action/joint_position", secret)
    (located,) = droid.find(str(tmp_path / "in"), DROID).episodes
    with pytest.raises(Rejected, match="unsafe_file: .*action/joint_position"):
        droid.read(located, DROID)


def hide_pickle(array: Path, ran: Path, key: str = "filters") -> None:
    """Makes an array of zarr v2 one whose chunk is unpickled when it is read."""
    metadata = json.loads((array / ".zarray").read_text())
    codec = {"id": "pickle", "protocol": 5}
    metadata |= {"dtype": "|O", "fill_value": None, "compressor": None, "filters": None}
    metadata[key] = [codec] if key == "filters" else codec
    (array / ".zarray").write_text(json.dumps(metadata))
    for chunk in array.glob("[0-9]*"):
        chunk.write_bytes(pickle.dumps(Touch(ran)))


@pytest.mark.parametrize("key", ["filters", "compressor"])
@pytest.mark.parametrize("array", ["data/state", "data/img", "meta/episode_ends"])
def test_a_replay_buffer_that_would_unpickle_is_refused_whole(tmp_path: Path, array: str, key: str) -> None:
    write_buffer(tmp_path / "whole.zarr")
    hide_pickle(write_buffer(tmp_path / "bad.zarr") / array, tmp_path / "ran", key)
    found = dp.find(str(tmp_path), DP)
    assert [(reject.source_key, reject.reason) for reject in found.rejects] == [("bad.zarr", "unsafe_file")]
    assert {located.group for located in found.episodes} == {"whole.zarr"}
    shutil.make_archive(str(tmp_path / "zipped/bad.zarr"), "zip", tmp_path / "bad.zarr")
    with pytest.raises(FailedWork, match=f"bad.zarr.zip: {array}/.zarray: expected a usual codec, found 'pickle'"):
        dp.find(str(tmp_path / "zipped"), DP)
    assert not (tmp_path / "ran").exists()


def test_a_replay_buffer_that_turns_hostile_after_the_scan_is_refused(tmp_path: Path) -> None:
    store = write_buffer(tmp_path / "a.zarr")
    located = dp.find(str(tmp_path), DP).episodes[0]
    hide_pickle(store / "data/state", tmp_path / "ran")
    with pytest.raises(Rejected, match="unsafe_file"):
        dp.read(located, DP)
    assert not (tmp_path / "ran").exists()


def test_consolidated_metadata_counts_where_it_differs(tmp_path: Path) -> None:
    store = write_buffer(tmp_path / "a.zarr")
    zarr.consolidate_metadata(zarr.storage.LocalStore(store), zarr_format=2)
    content = json.loads((store / ".zmetadata").read_text())
    content["metadata"]["data/state/.zarray"]["filters"] = [{"id": "pickle", "protocol": 5}]
    (store / ".zmetadata").write_text(json.dumps(content))
    with pytest.raises(FailedWork, match=r"\.zmetadata: expected a usual codec, found 'pickle'"):
        dp.find(str(tmp_path), DP)


@pytest.mark.parametrize("name", ["attributes", "x.zattrs", "codecs"])
def test_an_array_may_be_called_as_attributes_are(name: str) -> None:
    array = {"zarr_format": 3, "node_type": "array", "codecs": [{"name": "numcodecs.pickle"}]}
    inner = {"zarr_format": 3, "node_type": "group", "consolidated_metadata": {"metadata": {name: array}}}
    outer = {"zarr_format": 3, "node_type": "group", "consolidated_metadata": {"metadata": {"data": inner}}}
    assert list(foreign_files.codecs_of(outer)) == ["numcodecs.pickle"]


def test_an_inhouse_log_that_would_unpickle_is_refused(tmp_path: Path) -> None:
    log = write_log(tmp_path / "ur5e/lift/a.zarr")
    path = log / "joints/position/zarr.json"
    metadata = json.loads(path.read_text())
    metadata["codecs"].append({"name": "numcodecs.pickle", "configuration": {"protocol": 5}})
    path.write_text(json.dumps(metadata))
    (located,) = inhouse.find(str(tmp_path), LOG).episodes
    with pytest.raises(Rejected, match="unsafe_file: .*joints/position: .*found 'numcodecs.pickle'"):
        inhouse.read(located, LOG)


def test_links_that_lead_back_into_a_store_are_walked_once(tmp_path: Path) -> None:
    store = write_buffer(tmp_path / "a.zarr")
    for name in ("x", "y"):
        (store / "data" / name).symlink_to(store / "data", target_is_directory=True)
    assert len(foreign_files.check_zarr(store)) < 40


def test_metadata_behind_a_link_is_looked_at(tmp_path: Path) -> None:
    store = write_buffer(tmp_path / "a.zarr")
    hide_pickle(store / "data/state", tmp_path / "ran")
    shutil.move(store / "data/state", tmp_path / "elsewhere")
    (store / "data/state").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(Rejected, match="data/state/.zarray: expected a usual codec"):
        foreign_files.check_zarr(store)


def test_a_store_is_walked_again_when_an_array_is_added(tmp_path: Path) -> None:
    store = write_buffer(tmp_path / "a.zarr")
    before = set(foreign_files.check_zarr(store))
    zarr.open_group(store, mode="a").create_array("data/more", data=np.zeros((8, 2)))
    hide_pickle(store / "data/more", tmp_path / "ran")
    assert "data/more/.zarray" not in before
    with pytest.raises(Rejected, match="data/more/.zarray: expected a usual codec"):
        foreign_files.check_zarr(store)


MANY = 10**10


def test_billions_of_promised_records_are_one_reject(tmp_path: Path) -> None:
    source = write_rlds(tmp_path / "in", {"train": [bridge_features(0)]})
    splits = [{"name": "train", "shardLengths": [str(MANY)]}, {"name": "../evil", "shardLengths": [str(MANY)]}]
    (source / "dataset_info.json").write_text(json.dumps({"name": "tiny", "splits": splits}))
    found = rlds.find_part(str(source), get_adapter("bridge_orig"))
    assert len(found.episodes) == 1
    assert [reject.reason for reject in found.rejects] == ["promised_missing"] * 2
    assert f"({MANY - 1} records)" in found.rejects[0].detail


def test_billions_of_promised_files_are_refused(tmp_path: Path) -> None:
    (write_rlds(tmp_path / "in", {"train": [bridge_features(0)]}) / "tiny-train.tfrecord-00000-of-00001").rename(
        tmp_path / f"in/tiny-train.tfrecord-00000-of-{MANY}"
    )
    with pytest.raises(UsageError, match="expected up to 100000 files"):
        rlds.find(str(tmp_path / "in"), get_adapter("bridge_orig"))


def test_billions_of_promised_episodes_are_one_reject(tmp_path: Path) -> None:
    source = write_v2(tmp_path / "in")
    info = json.loads((source / "meta/info.json").read_text())
    (source / "meta/info.json").write_text(json.dumps(info | {"total_episodes": MANY}))
    found = lerobot.find(str(source), LEROBOT)
    assert len(found.episodes) == 2
    assert [(reject.source_key, reject.reason) for reject in found.rejects] == [
        (f"{MANY - 2} episodes", "promised_missing")
    ]


TEMPLATES = [
    "../other/{episode_index}.parquet",
    "/etc/{episode_index}",
    "data/../../other/{episode_index}.parquet",
    "data/\0{episode_index}",
    "data/{episode_index}\n",
    "x" * 5000 + "{episode_index}",
    "{episode_index.__class__}",
    "{episode_index:>999999999999}",
]


@pytest.mark.parametrize("key", ["data_path", "video_path"])
@pytest.mark.parametrize("template", TEMPLATES, ids=range(len(TEMPLATES)))
def test_a_template_leads_to_no_file_outside(tmp_path: Path, template: str, key: str) -> None:
    source = write_v2(tmp_path / "in")
    expected = [lerobot.read(located, LEROBOT).arrays["action"].tolist() for located in find_lerobot(source)]
    shutil.copytree(source / "data/chunk-000", tmp_path / "other")
    for number in range(2):
        (tmp_path / f"other/episode_{number:06d}.parquet").rename(tmp_path / f"other/{1 - number}.parquet")
    info = json.loads((source / "meta/info.json").read_text())
    (source / "meta/info.json").write_text(json.dumps(info | {key: template}))
    found = [lerobot.read(located, LEROBOT).arrays["action"].tolist() for located in find_lerobot(source)]
    assert found == expected


def test_a_camera_is_no_path(tmp_path: Path) -> None:
    source = write_v2(tmp_path / "in")
    shutil.copytree(source / "videos/chunk-000", tmp_path / "outside")
    info = json.loads((source / "meta/info.json").read_text())
    info["features"]["../../../outside/observation.images.top"] = {"dtype": "video", "shape": [64, 64, 3]}
    (source / "meta/info.json").write_text(json.dumps(info))
    for located in find_lerobot(source):
        assert [key for key in lerobot.read(located, LEROBOT).frames if "outside" in key] == []


def find_lerobot(source: Path) -> list[EpisodeLocation]:
    return list(lerobot.find(str(source), LEROBOT).episodes)
