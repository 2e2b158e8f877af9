"""Replay buffers of Diffusion Policy and UMI: one zarr store, episodes one after the other along the first axis."""

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from pipelines.contract.episode import Image, Reference
from pipelines.contract.errors import FailedWork, UsageError
from pipelines.contract.native import (
    EpisodeLocation,
    Found,
    NativeEpisode,
    Rejected,
    check_array_size,
)
from pipelines.mapping.adapters import Adapter
from pipelines.mapping.steps import keep_steps
from pipelines.sources.camera_rows import keep_paired
from pipelines.sources.float_pictures import note_floats
from pipelines.sources.folders import Scan, key_of, make_scan_reject, scan_files, scan_folders, source_root
from pipelines.sources.replay_videos import list_videos, pair_video, remote_videos
from pipelines.sources.video import VideoFrames
from pipelines.sources.zarr_store import (
    METADATA,
    READ_ERRORS,
    Store,
    check_chunks,
    open_camera,
    open_store,
)
from pipelines.storage.mirror import Files, Listing, fetched, local_path, own_file
from pipelines.storage.paths import RemotePath, StoragePath, as_storage_path
from pipelines.storage.retry import transient_cause

USUAL_ADAPTER = "dp_replay"
_BOOKKEEPING = (*METADATA, ".zgroup", ".zattrs", ".zmetadata")
# A chunk of zarr v2 (0.0.0 or 0/0/0) or v3 (c/0/0/0).
_CHUNK = re.compile(r"(?P<array>.+?)/(?:c/)?(?P<first>\d+)(?:[./]\d+)*")
# Rates closer than this are the same: recorders miss some beats.
_RATE_TOLERANCE = 0.2


def find(source: str, adapter: Adapter) -> Found:
    """Lists the episodes of every replay buffer (`*.zarr`, `*.zarr.zip`) at or below `source`.

    A store that is no replay buffer, and rows behind the last episode's end, are rejects. Raises FailedWork where a
    buffer needs a codec that is not installed, and where no store can be read.
    """
    root = source_root(source)
    scan = _find_stores(root)
    episodes: list[EpisodeLocation] = []
    rejects = list(scan.rejects)
    for store in scan.found:
        name = key_of(store, root)
        try:
            ends = _find_ends(store)
        except Rejected as error:
            rejects.append(make_scan_reject(store, root, error.reason, error.detail))
            continue
        for i, (start, end) in enumerate(ends.spans):
            reference = Reference(uri=str(store), key=f"{name}#{i}")
            episodes.append(EpisodeLocation(reference=reference, place=(start, end), group=name))
        if ends.left_over:
            reject = make_scan_reject(store, root, "unlisted", f"{store}: {ends.left_over}")
            rejects.append(replace(reject, source_key=f"{name}#rest"))
    if not episodes and rejects:
        raise FailedWork(rejects[0].detail)
    if not episodes:
        raise UsageError(f"{source}: expected replay buffers such as data.zarr at or below it, found none")
    return Found(episodes=tuple(episodes), rejects=tuple(rejects))


def _find_stores(root: StoragePath) -> Scan:
    if root.name.endswith((".zarr", ".zarr.zip")) and (isinstance(root, RemotePath) or root.exists()):
        return Scan(found=(root,))
    folders = scan_folders(root, lambda folder, names: folder.endswith(".zarr"))
    zips = scan_files(root, "*.zarr.zip")
    # Both look at the same folders: what neither can list is named once.
    rejects = {reject.source_key: reject for reject in (*folders.rejects, *zips.rejects)}
    inside = tuple(f"{folder}/" for folder in folders.found)
    files = [path for path in zips.found if not str(path).startswith(inside)]
    return Scan(found=tuple(sorted([*folders.found, *files], key=str)), rejects=tuple(rejects.values()))


def files_of(located: EpisodeLocation, listing: Listing, pictures: bool) -> Files:
    """The chunks of the episode's rows, the arrays' metadata and the episode's videos; of a zip, all of it."""
    store = as_storage_path(located.reference.uri)
    assert isinstance(store, RemotePath)
    videos = remote_videos(store, _number_of(located), listing)
    if store.name.endswith(".zip"):
        return {**own_file(located, listing, pictures), **videos}
    every, (start, end) = listing.below(store), located.place
    metadata = {path: stat for path, stat in every.items() if path.name in METADATA}
    with fetched(metadata):
        arrays = {path.parent.url: _read_json(local_path(path)) for path in metadata}
    wanted = {
        path: stat
        for path, stat in every.items()
        if (chunk := _chunk_of(path.url, arrays)) is None or _is_wanted(*chunk, start, end, pictures)
    }
    return {**wanted, **videos}


def _number_of(located: EpisodeLocation) -> int:
    """The episode's number in its buffer."""
    return int(located.reference.key.rpartition("#")[2])


def _read_json(path: Path) -> Mapping[str, Any]:
    """What the metadata of an array says; nothing if it is damaged, which the reader reports."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _chunk_of(url: str, arrays: Mapping[str, Mapping[str, Any]]) -> tuple[int, Mapping[str, Any]] | None:
    """The number of a chunk along the first axis, and its array's metadata; None for what is no chunk."""
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
    """Reads one episode; arrays and frames go by their key below `data`, videos beside the buffer by their camera.

    Raises Rejected on damaged or short arrays, and where a chunk of an array that the entry reads is not stored.
    """
    (start, end), path = located.place, located.reference.uri
    arrays: dict[str, NDArray] = {}
    frames: dict[str, Sequence[Image]] = {}
    others: list[str] = []
    names: dict[str, tuple[str, ...]] = {}
    needed = _needed_keys(adapter)
    try:
        local = local_path(as_storage_path(path))
        store, group = open_store(local, adapter.sparse_chunks)
        for key, array in _arrays_below(group, "data"):
            where = f"{path}: data/{key}"
            if array.shape[0] < end:
                raise Rejected("unequal_lengths", f"{where}: expected {end} rows, found {array.shape[0]}")
            if array.ndim == 4 and (array.dtype == np.uint8 or array.dtype.kind == "f"):
                frames[key] = open_camera(store, array, np.arange(start, end), adapter.form_of(key), where)
            elif array.dtype.kind in "fiub" and array.ndim <= 2:
                if (numbers := _read_rows(store, array, start, end, where, key in needed)) is not None:
                    arrays[key] = numbers
                    names |= {key: stated} if (stated := _read_names(array)) else {}
            elif array.ndim == 4:
                others.append(f"{key} ({array.dtype} {list(array.shape)})")
    except READ_ERRORS as error:
        raise Rejected("unreadable_zarr", f"{path}: {error}") from error
    times, hz, inferred = _read_times(arrays.get("timestamp"), end - start, adapter, path)
    native = NativeEpisode(
        reference=located.reference,
        n_steps=end - start,
        arrays=arrays,
        frames=frames,
        dim_names=names,
        timestamp_s=times,
        control_hz=hz,
        cameras_found=", ".join([*frames, *others]) or "no array of pictures [t, y, x, 3] below data",
        inferred=inferred | note_floats(frames),
    )
    videos = list_videos(local, _number_of(located))
    return _with_videos(native, videos, adapter) if videos else native


def _with_videos(native: NativeEpisode, videos: Mapping[str, Path], adapter: Adapter) -> NativeEpisode:
    """The episode with the cameras that fill slots, without the steps for which one of them has no frame."""
    there = [*native.frames, *(name for name in videos if name not in native.frames)]
    used = [name for name in adapter.used_cameras(there) if name not in native.frames]
    hz = native.control_hz or adapter.control_hz
    cameras = {name: pair_video(videos[name], native.timestamp_s, hz, native.n_steps) for name in used}
    kept, dropped = keep_paired(list(cameras.values()), native.n_steps, native.reference.uri)
    is_kept = np.isin(np.arange(native.n_steps), kept)
    native = replace(keep_steps(native, is_kept, "missing_frames"), dropped=dropped)
    films = {name: VideoFrames(videos[name], camera.frames[kept], camera.clock) for name, camera in cameras.items()}
    return replace(
        native,
        frames={**native.frames, **films},
        cameras_found=", ".join(there),
        notes={"time_error_s": max((camera.error_s for camera in cameras.values()), default=0.0)},
    )


def _read_names(array: zarr.Array) -> tuple[str, ...]:
    """The names that an array's attributes give its columns; () where they give none."""
    for key in ("dim_names", "joint_names", "names"):
        stated = array.attrs.get(key)
        if isinstance(stated, (list, tuple)) and all(isinstance(name, str) for name in stated):
            return tuple(str(name) for name in stated)
    return ()


def _needed_keys(adapter: Adapter) -> set[str]:
    """The arrays that the entry reads; a buffer may hold others, of whose chunks nothing depends."""
    parts = (*adapter.state.values(), *adapter.action.values())
    return {selector.key for part in parts for selector in part.sources} | {*adapter.idle_when, "timestamp"}


def _read_rows(store: Store, array: zarr.Array, start: int, end: int, where: str, is_needed: bool) -> NDArray | None:
    """The rows of an array of numbers; None where one that is not needed is not stored whole."""
    check_array_size(where, (end - start, *array.shape[1:]), array.dtype.itemsize)
    check_array_size(where, array.chunks, array.dtype.itemsize)
    try:
        check_chunks(store, array, start, end, where)
    except Rejected as error:
        if is_needed or error.reason != "missing_chunk":
            raise
        return None
    return np.asarray(array[start:end])


def _read_times(
    stamps: NDArray | None, t: int, adapter: Adapter, path: str
) -> tuple[NDArray[np.float64] | None, float | None, dict[str, str]]:
    """The times of the steps (s), the rate where they state another than the entry's, and what was concluded.

    Times that repeat or go back are kept as they are, for `check` to report. Raises Rejected where they are no numbers.
    """
    if stamps is None:
        return None, None, {}
    times = stamps.astype(np.float64).reshape(-1)
    if len(times) != t or not np.isfinite(times).all():
        raise Rejected(
            "wrong_times", f"{path}: data/timestamp: expected {t} finite numbers, found {times[:3].tolist()}"
        )
    steps = np.diff(times)
    if not (steps > 0).all():
        return times, None, {"times": "replay buffer: time stamps that repeat or go back were kept as they are"}
    rate = 1.0 / float(np.median(steps)) if len(steps) else 0.0
    if not adapter.control_hz or not rate or abs(rate / adapter.control_hz - 1) <= _RATE_TOLERANCE:
        return times, None, {}
    inferred = {"control_rate": "replay buffer: the rate is that of its time stamps, not the entry's"}
    return times, round(rate, 3), inferred


@dataclass(frozen=True, kw_only=True)
class _Ends:
    """First and end row of every episode, and what lies behind the last one, as a sentence; empty for nothing."""

    spans: tuple[tuple[int, int], ...]
    left_over: str = ""


def _arrays_below(root: zarr.Group, name: str) -> Iterator[tuple[str, zarr.Array]]:
    group = root[name]
    if not isinstance(group, zarr.Group):
        raise KeyError(f"expected a group {name}, found an array")
    yield from group.arrays()


def _find_ends(store: StoragePath) -> _Ends:
    """The episodes of a store on a disk or in an object store. Raises Rejected when it is no replay buffer."""
    if not isinstance(store, RemotePath):
        return _read_ends(store)
    files = store.matching("") if store.name.endswith(".zip") else store.matching("**")
    start = f"{store.url}/data/"
    few = {path: stat for path, stat in files.items() if not path.url.startswith(start) or path.name in _BOOKKEEPING}
    with fetched(few):
        return _read_ends(local_path(store))


def _read_ends(path: Path) -> _Ends:
    try:
        store, group = open_store(path)
        stored = group["meta/episode_ends"]
        if not isinstance(stored, zarr.Array):
            raise KeyError("meta/episode_ends")
        check_array_size(f"{path}: meta/episode_ends", stored.shape, 8)
        check_chunks(store, stored, 0, stored.shape[0], f"{path}: meta/episode_ends")
        ends = np.asarray(stored[:], np.int64)
        lengths = {key: array.shape[0] for key, array in _arrays_below(group, "data") if array.ndim}
    except READ_ERRORS as error:
        if passing := transient_cause(error):
            raise passing from error
        detail = f"{path}: expected a replay buffer with meta/episode_ends, found {error}"
        raise Rejected("unreadable_zarr", detail) from error
    if ends.ndim != 1 or not (np.diff(ends, prepend=0) > 0).all():
        found = ends.reshape(-1)[:5].tolist()
        detail = f"{path}: meta/episode_ends: expected numbers that increase, found {found} ..."
        raise Rejected("unreadable_zarr", detail)
    spans = tuple(itertools.pairwise([0, *ends.tolist()]))
    last = int(ends[-1]) if len(ends) else 0
    beyond = {key: n for key, n in lengths.items() if n > last}
    if not beyond:
        return _Ends(spans=spans)
    key, n = max(beyond.items(), key=lambda item: item[1])
    return _Ends(spans=spans, left_over=f"data/{key} has {n} rows, meta/episode_ends ends at {last}")
