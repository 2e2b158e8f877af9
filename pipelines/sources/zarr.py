"""In-house logs, `inhouse_log/v1`: one zarr group per episode, streams with their own rates and clocks."""

import asyncio
import functools
import json
import math
import os
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore, StorePath

from pipelines.contract.embodiments import load_embodiments
from pipelines.contract.episode import Image, Reference
from pipelines.contract.errors import UsageError
from pipelines.contract.images import CorruptImage, to_jpeg
from pipelines.contract.native import (
    EpisodeLocation,
    Found,
    NativeEpisode,
    Rejected,
    check_array_size,
    check_frames_size,
)
from pipelines.mapping.adapters import Adapter
from pipelines.sources.alignment import hold, interpolate, latest_index, make_grid, report_stream
from pipelines.sources.folders import find_folders, key_of, source_root
from pipelines.storage.mirror import Files, Listing, local_path
from pipelines.storage.paths import RemotePath, as_storage_path

USUAL_ADAPTER = "inhouse_log"
SCHEMA = "inhouse_log/v1"
# A joint stream that is silent for longer has no value to interpolate.
MAX_JOINT_GAP_S = 0.5
MAX_CONTROL_HZ = 1000
# A nonholonomic base told to go sideways faster than this was told something that it cannot do.
_SIDEWAYS_M_S = 1e-6
# Streams of the state: array -> whether its samples are interpolated (else the last one is held).
_STATES = {"joints/position": True, "gripper/position": False, "base/velocity": True, "torso/position": True}
_COMMANDS = ("command/joint_position", "command/gripper", "command/base", "command/torso")
_REQUIRED = ("joints/position", "gripper/position", "command/joint_position", "command/gripper")
_PICTURES = re.compile(r"/camera/[^/]+/rgb/c/")
# What zarr and its codecs raise on damaged stores.
_READ_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, IndexError, SystemError)


def find(source: str, adapter: Adapter) -> Found:
    """Lists every `*.zarr` folder at or below `source`."""
    root = source_root(source)
    folders = find_folders(root, lambda folder, names: "zarr.json" in names and folder.endswith(".zarr"))
    if not folders:
        raise UsageError(f"{source}: expected {SCHEMA} logs such as ROBOT/TASK/EPISODE.zarr below it, found none")
    return Found(
        episodes=tuple(
            EpisodeLocation(reference=Reference(uri=str(folder), key=key_of(folder, root))) for folder in folders
        )
    )


def files_of(located: EpisodeLocation, listing: Listing, pictures: bool) -> Files:
    """Everything below the log's folder; its numbers need no chunk of a camera."""
    folder = as_storage_path(located.reference.uri)
    assert isinstance(folder, RemotePath)
    files = listing.below(folder)
    return files if pictures else {place: stat for place, stat in files.items() if not _PICTURES.search(place.url)}


def read(located: EpisodeLocation, adapter: Adapter) -> NativeEpisode:
    """Reads one log, aligned to its control rate; frames go by camera slot and are read when asked for.

    Notes tell the greatest age of an image and of a joint sample (ms), gaps and lost samples per stream. Raises
    Rejected when the log is damaged, of another schema, or its joints are silent for too long.
    """
    path = located.reference.uri
    try:
        attributes, arrays = _open_arrays(local_path(as_storage_path(path)))
        if attributes.get("schema") != SCHEMA:
            raise Rejected("wrong_schema", f"{path}: expected schema {SCHEMA!r}, found {attributes.get('schema')!r}")
        numbers = _read_numbers(arrays, path)
        streams = _read_streams(numbers, path)
        cameras, missing = _open_cameras(arrays, numbers, attributes, path)
    except _READ_ERRORS as error:
        raise Rejected("unreadable_zarr", f"{path}: {error}") from error
    return _align(located.reference, attributes, streams, cameras, missing)


def _open_arrays(folder: Path) -> tuple[dict[str, Any], dict[str, zarr.Array]]:
    """The log's attributes, and its arrays by name; asking the group for every array costs more than reading it."""
    attributes = json.loads((folder / "zarr.json").read_bytes())["attributes"]
    store = LocalStore(folder, read_only=True)
    arrays = {}
    for parent, below, files in os.walk(folder):
        metadata = json.loads(Path(parent, "zarr.json").read_bytes()) if "zarr.json" in files else {}
        if metadata.get("node_type") == "array":
            below.clear()
            name = Path(parent).relative_to(folder).as_posix()
            arrays[name] = zarr.Array.from_dict(StorePath(store, name), metadata)
    return attributes, arrays


Stream = tuple[NDArray[np.int64], NDArray[np.float64]]


class ZarrFrames(Sequence[Image]):
    """Frames of a zarr array in the order of `numbers`, as JPEG; one chunk is held at a time.

    A camera slower than the control rate shows a frame for several steps; it is encoded once.
    """

    def __init__(self, array: zarr.Array, numbers: NDArray[np.int64]) -> None:
        self._array = array
        self._numbers = numbers
        self._chunk_number = -1
        self._chunk: NDArray[np.uint8] = np.zeros((0, 0, 0, 3), np.uint8)
        self._last: tuple[int, bytes] = (-1, b"")

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return ZarrFrames(self._array, self._numbers[index])
        number, length = int(self._numbers[index]), self._array.chunks[0]
        if number == self._last[0]:
            return self._last[1]
        if number // length != self._chunk_number:
            start = number // length * length
            try:
                self._chunk = np.asarray(self._array[start : start + length])
            except _READ_ERRORS as error:
                raise CorruptImage(f"{self._array.store_path}: frame {number}: {error}") from error
            self._chunk_number = number // length
        self._last = number, to_jpeg(self._chunk[number % length])
        return self._last[1]


def _align(
    reference: Reference,
    attributes: Mapping[str, Any],
    streams: Mapping[str, Stream],
    cameras: Mapping[str, tuple[NDArray[np.int64], zarr.Array]],
    missing: tuple[str, ...],
) -> NativeEpisode:
    path = reference.uri
    control_hz = attributes.get("control_hz")
    if not isinstance(control_hz, (int, float)) or not 0 < control_hz <= MAX_CONTROL_HZ:
        raise Rejected("wrong_attributes", f"{path}: expected control_hz above 0, at most 1000, found {control_hz!r}")
    _check_joint_gap(path, streams["joints/position"][0])
    first, last = _span(streams, cameras)
    command, _ = streams["command/joint_position"]
    grid = make_grid(command, first, last, control_hz)
    if len(grid) == 0:
        raise Rejected("no_overlap", f"{path}: expected streams that overlap in time, found none that do")
    _check_base(path, attributes.get("robot"), streams)
    arrays = {}
    for key, (times, values) in streams.items():
        arrays[key] = interpolate(times, values, grid) if _STATES.get(key, False) else hold(times, values, grid)
    frames = {slot: ZarrFrames(array, latest_index(times, grid)) for slot, (times, array) in cameras.items()}
    task = str(attributes.get("task") or "").strip()
    names = [str(name) for name in attributes.get("joint_names", ())]
    return NativeEpisode(
        reference=reference,
        n_steps=len(grid),
        arrays=arrays,
        frames=frames,
        robot=str(attributes.get("robot")),
        dim_names={"joints/position": names, "command/joint_position": names},
        control_hz=control_hz,
        timestamp_s=(grid - grid[0]) / 1e9,
        task=task,
        language=(task,) if task else (),
        success=-1 if attributes.get("success") is None else int(bool(attributes["success"])),
        missing_cameras=missing,
        notes=_make_notes(streams, cameras, grid),
    )


def _read_numbers(arrays: Mapping[str, zarr.Array], path: str) -> dict[str, NDArray]:
    """Every array that alignment needs, read at once: in turns, zarr takes longer to wait than to read."""
    wanted = {
        key: array
        for key, array in arrays.items()
        if key in _STATES or key in _COMMANDS or key.endswith("/timestamp_ns")
    }
    for key, array in wanted.items():
        check_array_size(f"{path}: {key}", array.shape, 8)

    async def read_all() -> list[Any]:
        return await asyncio.gather(*(array.async_array.getitem(slice(None)) for array in wanted.values()))

    values = asyncio.run_coroutine_threadsafe(read_all(), _reading_loop()).result()
    return {key: np.asarray(value) for key, value in zip(wanted, values, strict=True)}


@functools.cache
def _reading_loop() -> asyncio.AbstractEventLoop:
    """An event loop in a thread of its own, for as long as the process lasts."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="zarr-reading", daemon=True).start()
    return loop


def _read_streams(numbers: Mapping[str, NDArray], path: str) -> dict[str, Stream]:
    """Every stream of numbers: stamps int64 [n], strictly increasing, and values float64 [n, k]."""
    streams: dict[str, Stream] = {}
    stamps: dict[str, NDArray[np.int64]] = {}
    for key in (*_STATES, *_COMMANDS):
        if key not in numbers:
            if key in _REQUIRED:
                raise Rejected("missing_key", f"{path}: expected the array {key}, found {', '.join(sorted(numbers))}")
            continue
        name = key.split("/")[0]
        times = stamps[name] if name in stamps else stamps.setdefault(name, _read_stamps(numbers, name, path))
        values = np.asarray(numbers[key], np.float64)
        if values.ndim != 2 or len(values) != len(times):
            raise Rejected("unequal_lengths", f"{path}: {key}: expected [{len(times)}, k], found {list(values.shape)}")
        streams[key] = times, values
    return streams


def _read_stamps(numbers: Mapping[str, NDArray], name: str, path: str) -> NDArray[np.int64]:
    times = np.asarray(numbers[f"{name}/timestamp_ns"], np.int64)
    if len(times) == 0 or not (np.diff(times) > 0).all():
        raise Rejected("wrong_times", f"{path}: {name}/timestamp_ns: expected stamps that strictly increase")
    return times


def _open_cameras(
    arrays: Mapping[str, zarr.Array], numbers: Mapping[str, NDArray], attributes: Mapping[str, Any], path: str
) -> tuple[dict[str, tuple[NDArray[np.int64], zarr.Array]], tuple[str, ...]]:
    """Stamps and pictures by slot (`base_0_rgb`), and the slots that the attributes list but the log lacks."""
    cameras, missing = {}, []
    there = [key.split("/")[1] for key in sorted(arrays) if key.startswith("camera/") and key.endswith("/rgb")]
    for name in dict.fromkeys([*attributes.get("cameras", {}), *there]):
        slot = f"{name}_rgb"
        if name not in there:
            missing.append(slot)
            continue
        times, array = _read_stamps(numbers, f"camera/{name}", path), arrays[f"camera/{name}/rgb"]
        if array.ndim != 4 or array.dtype != np.uint8 or array.shape[0] != len(times):
            raise Rejected("unequal_lengths", f"{path}: camera {name}: expected uint8 [{len(times)}, y, x, 3]")
        check_frames_size(f"{path}: camera {name}", array.shape, math.prod(array.chunks))
        cameras[slot] = times, array
    return cameras, tuple(missing)


def _span(
    streams: Mapping[str, Stream], cameras: Mapping[str, tuple[NDArray[np.int64], zarr.Array]]
) -> tuple[int, int]:
    """From when to when (ns) every stream has a value; one that is held has it for a period after its last sample."""
    interpolated = [times for key, (times, _) in streams.items() if _STATES.get(key, False)]
    held = [times for key, (times, _) in streams.items() if not _STATES.get(key, False)]
    held += [times for times, _ in cameras.values()]
    ends = [int(times[-1]) for times in interpolated]
    ends += [int(times[-1] + np.median(np.diff(times))) for times in held if len(times) > 1]
    return max(int(times[0]) for times in interpolated + held), min(ends)


def _check_joint_gap(path: str, times: NDArray[np.int64]) -> None:
    longest = float(np.diff(times).max(initial=0) / 1e9)
    if longest > MAX_JOINT_GAP_S:
        raise Rejected("joint_gap", f"{path}: expected joints every {MAX_JOINT_GAP_S} s, a gap is {longest:.2f} s")


def _check_base(path: str, robot: Any, streams: Mapping[str, Stream]) -> None:
    """A base that cannot go sideways has no slot for vy, so vy must be zero."""
    embodiment = load_embodiments().get(str(robot))
    if embodiment is None or embodiment.base != "nonholonomic" or "command/base" not in streams:
        return
    values = streams["command/base"][1]
    if values.shape[1] == 3 and np.abs(values[:, 1]).max() > _SIDEWAYS_M_S:
        fastest = np.abs(values[:, 1]).max()
        raise Rejected("wrong_dims", f"{path}: command/base: expected vy = 0, found up to {fastest:.3g} m/s")


def _make_notes(
    streams: Mapping[str, Stream], cameras: Mapping[str, tuple[NDArray[np.int64], zarr.Array]], grid: NDArray[np.int64]
) -> dict[str, float]:
    """Per stream its gaps, lost samples and longest pause; per camera the greatest age of an image; all in ms."""
    stamps = {key.split("/")[0]: times for key, (times, _) in streams.items()}
    stamps |= {slot: times for slot, (times, _) in cameras.items()}
    notes: dict[str, float] = {}
    for name, times in stamps.items():
        report = report_stream(times)
        notes[f"{name}/n_gaps"] = report.n_gaps
        notes[f"{name}/n_lost"] = report.n_lost
        notes[f"{name}/longest_pause_ms"] = round(report.longest_pause_ms, 3)
    for name, times in stamps.items():
        age = grid - times[np.maximum(latest_index(times, grid), 0)]
        notes[f"{name}/skew_ms_max"] = round(float(age.max() / 1e6), 3)
        notes[f"{name}/skew_ms_mean"] = round(float(age.mean() / 1e6), 3)
    return notes
