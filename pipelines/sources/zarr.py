"""In-house logs, `inhouse_log/v1`: one zarr group per episode, streams with their own rates and clocks."""

import asyncio
import functools
import json
import re
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from pipelines.contract.episode import Image, Reference
from pipelines.contract.errors import FailedWork, UsageError
from pipelines.contract.facts import SourceFacts
from pipelines.contract.flags import parse_flag
from pipelines.contract.instructions import clean_instruction
from pipelines.contract.native import EpisodeLocation, Found, NativeEpisode, Rejected, check_array_size
from pipelines.mapping.adapters import Adapter
from pipelines.mapping.cameras import CameraForm
from pipelines.sources.alignment import Stream, align, check_pauses, latest_index
from pipelines.sources.folders import key_of, make_scan_reject, read_regular, scan_folders, source_root
from pipelines.sources.zarr_store import READ_ERRORS, Store, check_chunks, open_arrays, open_camera
from pipelines.storage.mirror import Files, Listing, local_path
from pipelines.storage.paths import RemotePath, StoragePath, as_storage_path

USUAL_ADAPTER = "inhouse_log"
SCHEMA = "inhouse_log/v1"
# A joint or hand stream that is silent for longer has no value to interpolate.
MAX_JOINT_GAP_S = 0.5
MAX_CONTROL_HZ = 1000
# Streams of the state: array -> whether its samples are interpolated (else the last one is held).
_STATES = {
    "joints/position": True,
    "hand/position": True,
    "gripper/position": False,
    "base/velocity": True,
    "torso/position": True,
}
_COMMANDS = ("command/joint_position", "command/hand", "command/gripper", "command/base", "command/torso")
_GRIPPER = ("gripper/position", "command/gripper")
# What moves an arm, state and command: joints, or a hand for an entry that reads it.
_JOINTS = ("joints/position", "command/joint_position")
_HAND = ("hand/position", "command/hand")
_RESAMPLED = "in-house log: commands run at another rate than control_hz; steps are an even grid at control_hz"
# Attributes that name columns, and the arrays whose columns they name.
_NAMED = {
    "joint_names": ("joints/position", "command/joint_position"),
    "gripper_names": ("gripper/position", "command/gripper"),
}
# What the schema says of `units`; numbers in others would be read as if they were in these.
_UNITS = {"joints": "rad", "gripper": "fraction_closed", "base": "m/s,rad/s", "torso": "m"}
_UNIT_OF = {
    "joints/position": "joints",
    "command/joint_position": "joints",
    "gripper/position": "gripper",
    "command/gripper": "gripper",
    "base/velocity": "base",
    "command/base": "base",
    "torso/position": "torso",
    "command/torso": "torso",
}
_PICTURES = re.compile(r"/camera/[^/]+/rgb/c/")


def find(source: str, adapter: Adapter) -> Found:
    """Lists every `*.zarr` folder at or below `source`; one without metadata is a reject."""
    root = source_root(source)
    bare: list[str] = []

    def is_log(folder: str, names: Sequence[str]) -> bool:
        if not folder.endswith(".zarr"):
            return False
        bare.extend([] if "zarr.json" in names else [folder])
        return True

    scan = scan_folders(root, is_log)
    lacking = [
        make_scan_reject(as_storage_path(folder), root, "missing_file", f"{folder}: expected zarr.json, found none")
        for folder in bare
    ]
    logs = [folder for folder in scan.found if str(folder) not in bare]
    rejects = (*scan.rejects, *lacking)
    if not logs and rejects:
        raise FailedWork(f"{source}: expected {SCHEMA} logs, found none that can be read: {rejects[0].detail}")
    if not logs:
        raise UsageError(f"{source}: expected {SCHEMA} logs such as ROBOT/TASK/EPISODE.zarr below it, found none")
    episodes = [EpisodeLocation(reference=Reference(uri=str(log), key=key_of(log, root))) for log in logs]
    return Found(episodes=tuple(episodes), rejects=rejects, tasks=_list_tasks(logs))


def describe(source: str, found: Found) -> SourceFacts:
    """Returns what the schema states of every log, for `embodimix inspect`."""
    units = {key: _UNITS[name] for key, name in _UNIT_OF.items()}
    return SourceFacts(dialect=f"in-house logs, {SCHEMA}", units=units, tasks=found.tasks)


def _list_tasks(logs: Sequence[StoragePath]) -> tuple[str, ...]:
    """The tasks that logs on a disk state; of an object store each would be a call. Damaged logs are left to `read`."""
    tasks: dict[str, None] = {}
    for log in logs:
        # In an object store every log would be a call, thousands before any work begins.
        if isinstance(log, RemotePath):
            return ()
        try:
            task = json.loads(read_regular(log / "zarr.json"))["attributes"]["task"]
        except (Rejected, *READ_ERRORS):
            continue
        tasks[clean_instruction(str(task))] = None
    return tuple(task for task in tasks if task)


def files_of(located: EpisodeLocation, listing: Listing, pictures: bool) -> Files:
    """Everything below the log's folder; its numbers need no chunk of a camera."""
    folder = as_storage_path(located.reference.uri)
    assert isinstance(folder, RemotePath)
    files = listing.below(folder)
    return files if pictures else {path: stat for path, stat in files.items() if not _PICTURES.search(path.url)}


def read(located: EpisodeLocation, adapter: Adapter) -> NativeEpisode:
    """Reads one log, aligned to its control rate; frames go by camera slot and are read when asked for.

    Notes hold the greatest age of an image and of a joint sample (ms), gaps and lost samples per stream. Raises
    Rejected when the log is damaged, of another schema, or its joints are silent for too long.
    """
    path = located.reference.uri
    try:
        store, attributes, arrays = open_arrays(local_path(as_storage_path(path)), adapter.sparse_chunks)
        if attributes.get("schema") != SCHEMA:
            raise Rejected("wrong_schema", f"{path}: expected schema {SCHEMA!r}, found {attributes.get('schema')!r}")
        numbers = _read_numbers(store, arrays, path)
        streams = _read_streams(numbers, path)
        cameras, missing = _open_cameras(arrays, numbers, attributes, path)
    except READ_ERRORS as error:
        raise Rejected("unreadable_zarr", f"{path}: {error}") from error
    opened = {
        slot: Camera(times=times, array=array, store=store, form=adapter.form_of(slot))
        for slot, (times, array) in cameras.items()
    }
    return _align(located.reference, attributes, streams, opened, missing)


@dataclass(frozen=True, kw_only=True)
class Camera:
    """One camera of a log: stamps int64 [n] (ns) and pictures uint8 [n, y, x, 3]."""

    times: NDArray[np.int64]
    array: zarr.Array
    store: Store
    form: CameraForm

    def frames_at(self, grid: NDArray[np.int64]) -> Sequence[Image]:
        """For every grid time the latest picture that is not in the future."""
        where = str(self.array.store_path)
        # Never a later picture: the policy would learn from what it cannot see when it acts.
        return open_camera(self.store, self.array, latest_index(self.times, grid), self.form, where)


def _align(
    reference: Reference,
    attributes: Mapping[str, Any],
    streams: Mapping[str, Stream],
    cameras: Mapping[str, Camera],
    missing: tuple[str, ...],
) -> NativeEpisode:
    path = reference.uri
    _check_units(attributes.get("units"), path)
    control_hz = attributes.get("control_hz")
    if not isinstance(control_hz, (int, float)) or not 0 < control_hz <= MAX_CONTROL_HZ:
        raise Rejected("wrong_attributes", f"{path}: expected control_hz above 0, at most 1000, found {control_hz!r}")
    moved, commanded = _moving(streams)
    check_pauses(streams[moved].times, MAX_JOINT_GAP_S, f"{path}: expected {moved.split('/')[0]}")
    times = {slot: camera.times for slot, camera in cameras.items()}
    aligned = align(streams, times, streams[commanded].times, control_hz, path)
    stated_task = attributes.get("task") or ""
    if not isinstance(stated_task, str):
        raise Rejected("wrong_attributes", f"{path}: task: expected one text, found {str(stated_task)[:80]}")
    task = clean_instruction(stated_task)
    grid = aligned.grid
    return NativeEpisode(
        reference=reference,
        n_steps=len(grid),
        arrays=aligned.arrays,
        frames={slot: camera.frames_at(grid) for slot, camera in cameras.items()},
        robot=str(attributes.get("robot")),
        dim_names=_dim_names(attributes, streams, path),
        control_hz=control_hz,
        timestamp_s=(grid - grid[0]) / 1e9,
        task=task,
        language=(task,) if task else (),
        success=parse_flag(attributes.get("success")),
        missing_cameras=missing,
        dropped=aligned.dropped,
        notes=aligned.notes,
        inferred={} if aligned.is_clock else {"resampled": _RESAMPLED},
    )


def _moving(there: Collection[str]) -> tuple[str, str]:
    """The state and the command of the arms that a log must have: the hand's where it has no joints."""
    return _HAND if set(_HAND) & set(there) and not set(_JOINTS) & set(there) else _JOINTS


def _check_units(stated: Any, path: str) -> None:
    """Raises Rejected where a log states other units than its schema's; one that states none is taken at its word."""
    if stated is not None and not isinstance(stated, Mapping):
        raise Rejected("wrong_attributes", f"{path}: units: expected units by stream, found {stated!r}")
    for name, found in (stated or {}).items():
        # Some loggers name the array (`joints/position`) where the schema names its group.
        unit = _UNITS.get(name.split("/")[0])
        if unit is not None and str(found).replace(" ", "") != unit:
            raise Rejected("wrong_attributes", f"{path}: units: {name}: expected {unit}, found {found!r}")


def _dim_names(attributes: Mapping[str, Any], streams: Mapping[str, Stream], path: str) -> dict[str, list[str]]:
    """The names of the columns of joints and, where the log states them (`gripper_names`), of grippers.

    Raises Rejected where there are more or fewer names than columns.
    """
    found: dict[str, list[str]] = {}
    for attribute, keys in _NAMED.items():
        stated = attributes.get(attribute) or ()
        for key in keys if stated else ():
            width = streams[key].values.shape[1]
            if not isinstance(stated, (list, tuple)) or len(stated) != width:
                raise Rejected(
                    "wrong_dims", f"{path}: {attribute}: expected {width} names, one a column, found {stated}"
                )
            found[key] = [str(name) for name in stated]
    return found


def _read_numbers(store: Store, arrays: Mapping[str, zarr.Array], path: str) -> dict[str, NDArray]:
    """Every array that alignment needs, read at once: in turns, zarr takes longer to wait than to read."""
    wanted = {
        key: array
        for key, array in arrays.items()
        if key in _STATES or key in _COMMANDS or key.endswith("/timestamp_ns")
    }
    for key, array in wanted.items():
        check_array_size(f"{path}: {key}", array.shape, 8)
        check_chunks(store, array, 0, array.shape[0] if array.ndim else 0, f"{path}: {key}")

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
    required = (*_moving(numbers), *_GRIPPER)
    for key in (*_STATES, *_COMMANDS):
        if key not in numbers:
            if key in required:
                raise Rejected("missing_key", f"{path}: expected the array {key}, found {', '.join(sorted(numbers))}")
            continue
        name = key.split("/")[0]
        times = stamps[name] if name in stamps else stamps.setdefault(name, _read_stamps(numbers, name, path))
        values = np.asarray(numbers[key], np.float64)
        if values.ndim != 2 or len(values) != len(times):
            raise Rejected("unequal_lengths", f"{path}: {key}: expected [{len(times)}, k], found {list(values.shape)}")
        # Commands and grippers hold: a value between two commands is one that was never sent, a half-open hand no
        # state.
        streams[key] = Stream(
            times=times,
            values=values,
            is_interpolated=_STATES.get(key, False),
            source=name,
            turns=np.full(values.shape[1], 2 * np.pi) if key == "joints/position" else None,
        )
    return streams


def _read_stamps(numbers: Mapping[str, NDArray], name: str, path: str) -> NDArray[np.int64]:
    times = np.asarray(numbers[f"{name}/timestamp_ns"], np.int64)
    # Interpolation needs rising times; sorting them would pair values with the wrong ones.
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
            found = f"{array.dtype} {list(array.shape)}"
            raise Rejected(
                "unequal_lengths", f"{path}: camera {name}: expected uint8 [{len(times)}, y, x, 3], found {found}"
            )
        cameras[slot] = times, array
    return cameras, tuple(missing)
