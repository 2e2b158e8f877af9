"""robomimic: one HDF5 file with many demonstrations."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import h5py
import numpy as np

from pipelines.contract.episode import Reference
from pipelines.contract.errors import FailedWork, UsageError
from pipelines.contract.native import EpisodeLocation, Found, NativeEpisode, Rejected
from pipelines.mapping.adapters import Adapter
from pipelines.sources.folders import find_files, key_of, source_root
from pipelines.sources.hdf5 import READ_ERRORS, open_frames, read_arrays
from pipelines.storage.mirror import local_path, own_file
from pipelines.storage.paths import RemotePath, StoragePath, as_storage_path

USUAL_ADAPTER = "robomimic"
_SPLITS = {"train": "train", "valid": "val"}


def find(source: str, adapter: Adapter) -> Found:
    """Lists every `data/demo_*` of every `*.hdf5` at or below `source`; the masks train and valid become splits.

    source: a folder or one file.
    """
    root = source_root(source)
    is_file = root.name.endswith(".hdf5") if isinstance(root, RemotePath) else root.is_file()
    paths = [root] if is_file else find_files(root, "*.hdf5")
    if not paths:
        raise UsageError(f"{source}: expected robomimic files (*.hdf5) at or below it, found none")
    episodes = []
    for path in paths:
        name = key_of(path, root)
        try:
            with _opened(path) as file:
                splits = _read_splits(file)
                demos = sorted(file["data"]) if "data" in file else []
        except READ_ERRORS as error:
            raise FailedWork(f"{path}: expected a robomimic file, found {error}") from error
        if not demos:
            raise FailedWork(f"{path}: expected demonstrations under data, found none; take the file away, or mend it")
        for demo in demos:
            reference = Reference(uri=str(path), key=f"{name}#{demo}", split=splits.get(demo, "train"))
            episodes.append(EpisodeLocation(reference=reference, group=name))
    return Found(episodes=tuple(episodes))


files_of = own_file


def read(located: EpisodeLocation, adapter: Adapter) -> NativeEpisode:
    """Reads one demonstration; arrays go by `actions` and `obs/...`, frames by camera (`agentview_image`).

    Raises Rejected when the file is damaged or the arrays are of unequal lengths.
    """
    path, demo = local_path(as_storage_path(located.reference.uri)), located.reference.key.rsplit("#", 1)[1]
    try:
        with h5py.File(path, "r") as file:
            group = file["data"][demo]
            t = len(group["actions"])
            found = {key: item for key, item in group["obs"].items() if isinstance(item, h5py.Dataset)}
            vectors = [f"obs/{key}" for key, item in found.items() if item.ndim < 3]
            arrays = read_arrays(group, ["actions", "rewards", "dones", *vectors], t, f"{path}#{demo}")
            frames = open_frames(path, group["obs"], t, {})
            hz = _read_control_hz(file)
    except READ_ERRORS as error:
        raise Rejected("unreadable_hdf5", f"{path}#{demo}: {error}") from error
    rewards = arrays.get("rewards")
    return NativeEpisode(
        reference=located.reference,
        n_steps=t,
        arrays=arrays,
        frames=frames,
        control_hz=hz,
        success=-1 if rewards is None else int(np.max(rewards, initial=0.0) > 0),
        reward=None if rewards is None else rewards.astype(np.float32).reshape(t),
    )


@contextmanager
def _opened(place: StoragePath) -> Iterator[h5py.File]:
    """A file on a disk, or one of an object store of which only what is asked for is read."""
    if not isinstance(place, RemotePath):
        with h5py.File(place, "r") as file:
            yield file
        return
    with place.open() as stream, h5py.File(stream, "r") as file:
        yield file


def _read_splits(file: h5py.File) -> dict[str, str]:
    masks = file["mask"] if "mask" in file else {}
    named = {split: [name.decode() for name in masks[mask][:]] for mask, split in _SPLITS.items() if mask in masks}
    return {demo: split for split, demos in named.items() for demo in demos}


def _read_control_hz(file: h5py.File) -> float | None:
    try:
        return float(json.loads(file["data"].attrs["env_args"])["env_kwargs"]["control_freq"])
    except (KeyError, ValueError, TypeError):
        return None
