"""Replay buffers of Diffusion Policy and UMI: one zarr store, episodes one after the other along the first axis."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from pipelines.contract.episode import Reference
from pipelines.contract.errors import FailedWork, UsageError
from pipelines.contract.native import (
    EpisodeLocation,
    Found,
    NativeEpisode,
    Rejected,
    check_array_size,
    check_frames_size,
)
from pipelines.mapping.adapters import Adapter
from pipelines.sources.folders import find_folders, key_of, source_root
from pipelines.sources.zarr import ZarrFrames
from pipelines.storage.mirror import Files, Listing, fetched, local_path, own_file
from pipelines.storage.paths import RemotePath, StoragePath, as_storage_path

USUAL_ADAPTER = "dp_replay"
_ARRAYS = (".zarray", "zarr.json")
# A chunk of zarr v2 (0.0.0 or 0/0/0) or v3 (c/0/0/0).
_CHUNK = re.compile(r"(?P<array>.+?)/(?:c/)?(?P<first>\d+)(?:[./]\d+)*")
# What zarr and its codecs raise on damaged stores.
_READ_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, IndexError, SystemError)


def find(source: str, adapter: Adapter) -> Found:
    """Lists the episodes of every replay buffer (`*.zarr`, `*.zarr.zip`) at or below `source`."""
    root = source_root(source)
    stores: list[StoragePath] = [root] if root.name.endswith((".zarr", ".zarr.zip")) else []
    if not stores:
        folders = find_folders(root, lambda folder, names: folder.endswith(".zarr"))
        stores = sorted([*folders, *root.rglob("*.zarr.zip")], key=str)
    if not stores:
        raise UsageError(f"{source}: expected replay buffers such as data.zarr at or below it, found none")
    episodes = []
    for store in stores:
        name = key_of(store, root)
        for i, (start, end) in enumerate(_find_ends(store)):
            reference = Reference(uri=str(store), key=f"{name}#{i}")
            episodes.append(EpisodeLocation(reference=reference, place=(start, end), group=name))
    return Found(episodes=tuple(episodes))


def files_of(located: EpisodeLocation, listing: Listing, pictures: bool) -> Files:
    """The chunks of the episode's rows and the arrays' metadata; of a zip, all of it."""
    store = as_storage_path(located.reference.uri)
    assert isinstance(store, RemotePath)
    if store.name.endswith(".zip"):
        return own_file(located, listing, pictures)
    every, (start, end) = listing.below(store), located.place
    metadata = {place: stat for place, stat in every.items() if place.name in _ARRAYS}
    with fetched(metadata):
        arrays = {place.parent.url: _read_json(local_path(place)) for place in metadata}
    return {
        place: stat
        for place, stat in every.items()
        if (chunk := _chunk_of(place.url, arrays)) is None or _is_wanted(*chunk, start, end, pictures)
    }


def _read_json(path: Path) -> Mapping[str, Any]:
    """What the metadata of an array says; nothing if it is damaged, which the reader will tell."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _chunk_of(url: str, arrays: Mapping[str, Mapping[str, Any]]) -> tuple[int, Mapping[str, Any]] | None:
    """The place of a chunk along the first axis, and its array's metadata; None for what is no chunk."""
    if not (match := _CHUNK.fullmatch(url)) or match["array"] not in arrays:
        return None
    return int(match["first"]), arrays[match["array"]]


def _is_wanted(first: int, array: Mapping[str, Any], start: int, end: int, pictures: bool) -> bool:
    """Whether a chunk holds rows of the episode that are asked for; of an array whose metadata is damaged, all do."""
    try:
        n_dims = len(array["shape"])
        length = (array.get("chunks") or array["chunk_grid"]["configuration"]["chunk_shape"])[0]
        return (pictures or n_dims < 4) and first * length < end and (first + 1) * length > start
    except (KeyError, TypeError, IndexError):
        return True


def read(located: EpisodeLocation, adapter: Adapter) -> NativeEpisode:
    """Reads one episode; arrays and frames go by their key below `data`. Raises Rejected on damaged or short arrays."""
    (start, end), path = located.place, located.reference.uri
    arrays, frames = {}, {}
    try:
        data = _open(local_path(as_storage_path(path)))["data"]
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


def _find_ends(store: StoragePath) -> list[tuple[int, int]]:
    """First and end row of every episode, from a disk or an object store."""
    if not isinstance(store, RemotePath):
        return _read_ends(store)
    files = store.matching("") if store.name.endswith(".zip") else store.matching("**")
    few = {place: stat for place, stat in files.items() if not place.url.startswith(f"{store.url}/data/")}
    with fetched(few):
        return _read_ends(local_path(store))


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
