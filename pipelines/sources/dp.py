"""Replay buffers of Diffusion Policy and UMI: one zarr store, episodes one after the other along the first axis."""

import math
from pathlib import Path

import numpy as np
import zarr

from pipelines.adapters import Adapter
from pipelines.episode import Reference
from pipelines.errors import FailedWork, UsageError
from pipelines.native import Found, Located, NativeEpisode, Rejected, check_array_size, check_frames_size
from pipelines.sources.folders import find_folders
from pipelines.sources.zarr import ZarrFrames

# What zarr and its codecs raise on damaged stores.
_READ_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, IndexError)


def find(source: str, adapter: Adapter) -> Found:
    """Lists the episodes of every replay buffer (`*.zarr`, `*.zarr.zip`) at or below `source`."""
    root = Path(source).absolute()
    stores = [root] if root.name.endswith((".zarr", ".zarr.zip")) else []
    if not stores:
        folders = find_folders(root, lambda folder, names: folder.endswith(".zarr"))
        stores = sorted([Path(str(folder)) for folder in folders] + list(root.rglob("*.zarr.zip")))
    if not stores:
        raise UsageError(f"{source}: expected replay buffers such as data.zarr at or below it, found none")
    episodes = []
    for store in stores:
        name = store.name if store == root else store.relative_to(root).as_posix()
        for i, (start, end) in enumerate(_read_ends(store)):
            reference = Reference(uri=str(store), key=f"{name}#{i}")
            episodes.append(Located(reference=reference, place=(start, end)))
    return Found(episodes=tuple(episodes))


def read(located: Located, adapter: Adapter) -> NativeEpisode:
    """Reads one episode; arrays and frames go by their key below `data`. Raises Rejected on damaged or short arrays."""
    (start, end), path = located.place, located.reference.uri
    arrays, frames = {}, {}
    try:
        data = _open(Path(path))["data"]
        for key, array in data.arrays():
            if array.shape[0] < end:
                raise Rejected("unequal_lengths", f"{path}: data/{key}: expected {end} rows, found {array.shape[0]}")
            if array.dtype == np.uint8 and array.ndim == 4:
                check_frames_size(f"{path}: data/{key}", array.shape, math.prod(array.chunks))
                frames[key] = ZarrFrames(array, np.arange(start, end))
            elif array.dtype.kind in "fiub" and array.ndim <= 2:
                where, shape = f"{path}: data/{key}", (end - start, *array.shape[1:])
                check_array_size(where, shape, array.dtype.itemsize)
                check_array_size(where, array.chunks, array.dtype.itemsize)
                arrays[key] = np.asarray(array[start:end])
    except _READ_ERRORS as error:
        raise Rejected("unreadable_zarr", f"{path}: {error}") from error
    times = arrays["timestamp"].astype(np.float64).reshape(-1) if "timestamp" in arrays else None
    if times is not None and not (np.diff(times) > 0).all():
        times = None
    return NativeEpisode(
        reference=located.reference, n_steps=end - start, arrays=arrays, frames=frames, timestamp_s=times
    )


def _open(path: Path) -> zarr.Group:
    store = zarr.storage.ZipStore(path, mode="r") if path.suffix == ".zip" else path
    return zarr.open_group(store, mode="r")


def _read_ends(path: Path) -> list[tuple[int, int]]:
    """First and end row of every episode. Raises FailedWork when the store is no replay buffer."""
    try:
        stored = _open(path)["meta/episode_ends"]
        check_array_size(f"{path}: meta/episode_ends", stored.shape, 8)
        ends = np.asarray(stored[:], np.int64)
    except _READ_ERRORS as error:
        raise FailedWork(f"{path}: expected a replay buffer with meta/episode_ends, found {error}") from error
    if not (np.diff(ends, prepend=0) > 0).all():
        raise FailedWork(f"{path}: meta/episode_ends: expected numbers that increase, found {ends[:5].tolist()} ...")
    return list(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True))
