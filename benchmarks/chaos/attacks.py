"""Hostile inputs: files that run code, reach outside, write outside, or unpack to more than any machine holds."""

import json
import pickle
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from benchmarks.chaos.outcomes import Failure, Reading, Tally, attempt, hash_of, judge
from benchmarks.chaos.sources import read_source, write_source
from pipelines.contract.errors import EmbodimixError

_SECRET_BYTES = 4 * 14 * 8


class Touch:
    """What a pickle makes of it when it is loaded: a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def edit_json(path: Path, keys: tuple[str, ...], value: object) -> None:
    """Sets one value of a JSON file."""
    content = json.loads(path.read_text())
    part = content
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    path.write_text(json.dumps(content))


def external_storage(source: Path, outside: Path) -> None:
    with h5py.File(source / "episode_0.hdf5", "a") as file:
        del file["observations/qpos"]
        file.create_dataset("observations/qpos", (4, 14), "f8", external=[(str(outside / "secret"), 0, _SECRET_BYTES)])


def external_link(source: Path, outside: Path) -> None:
    with h5py.File(outside / "other.h5", "w") as file:
        file["x"] = np.ones((4, 14))
    with h5py.File(source / "episode_0.hdf5", "a") as file:
        del file["observations/qpos"]
        file["observations/qpos"] = h5py.ExternalLink(str(outside / "other.h5"), "/x")


def virtual_dataset(source: Path, outside: Path) -> None:
    with h5py.File(outside / "other.h5", "w") as file:
        file["x"] = np.ones((4, 14))
    with h5py.File(source / "episode_0.hdf5", "a") as file:
        del file["data/demo_0/actions"]
        layout = h5py.VirtualLayout((4, 14), "f8")
        layout[:] = h5py.VirtualSource(str(outside / "other.h5"), "x", (4, 14))
        file.create_virtual_dataset("data/demo_0/actions", layout)


def bomb_of_zeros(source: Path, outside: Path) -> None:
    """A chunk that is 1000 times smaller than what it unpacks to, in a dataset that claims a terabyte."""
    with h5py.File(source / "episode_0.hdf5", "a") as file:
        del file["observations/qpos"]
        file.create_dataset("observations/qpos", (4, 10**10), "f8", chunks=(4, 10**6), compression="gzip")


def pickling_codec(key: str) -> Callable[[Path, Path], None]:
    """A codec of zarr v2 that unpickles its chunk, as a filter or as the compressor."""

    def build(source: Path, outside: Path) -> None:
        array = source / "a.zarr/data/state"
        codec = {"id": "pickle", "protocol": 5}
        metadata = json.loads((array / ".zarray").read_text())
        metadata |= {"dtype": "|O", "fill_value": None, "compressor": None, "filters": None}
        metadata[key] = [codec] if key == "filters" else codec
        (array / ".zarray").write_text(json.dumps(metadata))
        for chunk in array.glob("[0-9]*"):
            chunk.write_bytes(pickle.dumps(Touch(outside / "ran")))

    return build


def pickling_codec_v3(source: Path, outside: Path) -> None:
    path = source / "ur5e/lift/a.zarr/joints/position/zarr.json"
    metadata = json.loads(path.read_text())
    metadata["codecs"].append({"name": "numcodecs.pickle", "configuration": {"protocol": 5}})
    path.write_text(json.dumps(metadata))


def zstd_bomb(source: Path, outside: Path) -> None:
    """A chunk whose header claims 2^62 bytes."""
    for chunk in (source / "ur5e/lift/a.zarr/joints/position/c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 1 << 62) + bytes(32))


def array_of_a_terabyte(source: Path, outside: Path) -> None:
    edit_json(source / "ur5e/lift/a.zarr/camera/base_0/rgb/zarr.json", ("shape",), [10, 10**6, 10**6, 3])


def deep_json(source: Path, outside: Path) -> None:
    (source / "ur5e/lift/a.zarr/zarr.json").write_text("[" * 10**6)


def running_pickle(source: Path, outside: Path) -> None:
    for path in source.rglob("obs_dict.pkl"):
        path.write_bytes(pickle.dumps(Touch(outside / "ran")))


def growing_pickle(source: Path, outside: Path) -> None:
    """A list that holds the one before twice, sixty times over: 200 bytes for 2^60 values."""
    for path in source.rglob("obs_dict.pkl"):
        path.write_bytes(b"\x80\x04]q\x00" + b"".join(b"]q%c(h%ch%ce" % (i, i - 1, i - 1) for i in range(1, 61)) + b".")


def path_of_data(source: Path, outside: Path) -> None:
    edit_json(source / "meta/info.json", ("data_path",), "../outside/{episode_index}.parquet")


def picture_of_a_terabyte(source: Path, outside: Path) -> None:
    """PNG headers of 10^6 by 10^6 pixels behind a TFRecord's right checksums."""
    from pipelines.shards.example_wire import encode_example
    from pipelines.shards.tfrecord import write_record
    from tests.support.inputs.native_files import T, bridge_features

    header = b"IHDR" + struct.pack(">IIBBBBB", 10**6, 10**6, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    for path in source.glob("*.tfrecord*"):
        n = 3 if "train" in path.name else 1
        with path.open("wb") as file:
            for i in range(n):
                write_record(file, b"".join(encode_example(bridge_features(i, image_0=[png] * T)).chunks))


def billions_of_records(source: Path, outside: Path) -> None:
    splits = [{"name": "train", "shardLengths": [str(10**10)]}, {"name": "../../evil", "shardLengths": [str(10**10)]}]
    (source / "dataset_info.json").write_text(json.dumps({"name": "tiny", "splits": splits}))


def billions_of_demos(source: Path, outside: Path) -> None:
    with h5py.File(source / "episode_0.hdf5", "a") as file:
        file["data"].attrs["num_demos"] = 10**10


def billions_of_episodes(source: Path, outside: Path) -> None:
    edit_json(source / "meta/info.json", ("total_episodes",), 10**10)


ATTACKS: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "HDF5 external storage": ("aloha", external_storage),
    "HDF5 link to another file": ("aloha", external_link),
    "HDF5 virtual dataset": ("robomimic", virtual_dataset),
    "HDF5 array of a terabyte": ("aloha", bomb_of_zeros),
    "zarr v2 filter pickle": ("replay buffer", pickling_codec("filters")),
    "zarr v2 compressor pickle": ("replay buffer", pickling_codec("compressor")),
    "zarr v3 codec pickle": ("in-house zarr", pickling_codec_v3),
    "zstd header of 2^62 bytes": ("in-house zarr", zstd_bomb),
    "zarr array of a terabyte": ("in-house zarr", array_of_a_terabyte),
    "JSON a million deep": ("in-house zarr", deep_json),
    "pickle that runs code": ("bridge", running_pickle),
    "pickle that grows exponentially": ("bridge", growing_pickle),
    "path template that leads outside": ("lerobot v2.1", path_of_data),
    "PNG header of a terabyte": ("rlds", picture_of_a_terabyte),
    "10^10 promised records": ("rlds", billions_of_records),
    "10^10 promised demonstrations": ("robomimic", billions_of_demos),
    "10^10 promised episodes": ("lerobot v2.1", billions_of_episodes),
}


def try_attacks(root: Path, samples: Path | None) -> Tally:
    """Reads every hostile input once."""
    tally = Tally(kind="hostile inputs")
    for number, (name, (format, build)) in enumerate(ATTACKS.items()):
        place = root / str(number)
        outside = place / "outside"
        outside.mkdir(parents=True)
        (outside / "secret").write_bytes(np.full(_SECRET_BYTES // 8, 0.5).tobytes())
        if (source := write_source(format, place, samples)) is None:
            continue
        whole = attempt(partial(read_source, source))
        if isinstance(whole, Failure):
            raise RuntimeError(f"{name}: expected a source that is read whole, found {whole.text}")
        build(source.path, outside)
        before = _names(place)
        after = attempt(partial(read_source, source))
        is_written = bool(_names(place) - before)
        tally.add("ran or leaked" if is_written else judge(whole, after, True), f"{name}: {after}")
    return tally


def _names(place: Path) -> set[str]:
    return {str(path.relative_to(place)) for path in place.rglob("*")}


def yaml_aliases(levels: int) -> str:
    """A spec of some hundred bytes whose aliases stand for 9^levels values."""
    lines = ["name: bomb", "groups:", "  - &a0 {name: x, datasets: [{path: x}]}"]
    lines += [f"  - &a{i} {{name: g{i}, groups: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


def try_specs(root: Path) -> Tally:
    """Mixture specs and registries that are bombs: each is refused, or read in no time."""
    from mixtures.specs.spec import load_spec

    tally = Tally(kind="hostile specs")
    texts = {"aliases": yaml_aliases(12), "depth": "a: " + "[" * 100_000, "a NUL": "name: a\0b\n", "binary": "\x80"}
    for name, text in texts.items():
        path = root / f"{name.replace(' ', '_')}.yaml"
        path.write_text(text, encoding="latin-1")

        def read(path: Path = path) -> Reading:
            try:
                return Reading(episodes={"spec": hash_of([str(load_spec(path))])})
            except EmbodimixError as error:
                return Reading(episodes={}, error=str(error))

        # A spec of these words says nothing that could be the same: an error is all that is right.
        tally.add(judge(Reading(episodes={}), attempt(read), True), name)
    return tally
