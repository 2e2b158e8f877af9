"""DROID raw: one folder per episode with trajectory.h5, metadata and an MP4 per camera."""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipelines.contract.episode import Image, Reference
from pipelines.contract.errors import UsageError
from pipelines.contract.native import EpisodeLocation, Found, NativeEpisode, Rejected, check_array_size
from pipelines.mapping.adapters import Adapter
from pipelines.sources.folders import find_folders, key_of, source_root
from pipelines.sources.video import VideoFrames
from pipelines.storage.mirror import Files, Listing, folder_files, local_path
from pipelines.storage.paths import as_storage_path

USUAL_ADAPTER = "droid_raw"
_WRIST = 0
_INSTRUCTIONS = ("language_instruction1", "language_instruction2", "language_instruction3")
_GROUPS = ("action", "observation/robot_state", "observation/controller_info")
_ANNOTATIONS = "aggregated-annotations"
_WANTED = re.compile(r"trajectory\.h5|metadata_[^/]*\.json|recordings/MP4/[^/]+(?<!-stereo)\.mp4")
_STEP_START = "observation/timestamp/control/step_start"


def find(source: str, adapter: Adapter) -> Found:
    """Lists every folder with a trajectory.h5 at or below `source`; failed episodes are listed too."""
    root = source_root(source)
    _list_annotations.cache_clear()
    _load_annotations.cache_clear()
    folders = find_folders(root, lambda _, names: "trajectory.h5" in names)
    if not folders:
        raise UsageError(f"{source}: expected folders with a trajectory.h5 below it, found none")
    return Found(
        episodes=tuple(
            EpisodeLocation(reference=Reference(uri=str(folder), key=key_of(folder, root))) for folder in folders
        )
    )


def files_of(located: EpisodeLocation, listing: Listing, pictures: bool) -> Files:
    """What the reader opens of the folder (no stereo pairs, no SVO), and the nearest annotations above it."""
    return folder_files(located, listing, _WANTED, f"{_ANNOTATIONS}*.json")


def read(located: EpisodeLocation, adapter: Adapter) -> NativeEpisode:
    """Reads one episode; frames go by `wrist`, `exterior_1`, `exterior_2` and are decoded when asked for.

    Raises Rejected when trajectory.h5 is damaged or a video is cut off; a missing video only leaves its camera out.
    """
    folder = local_path(as_storage_path(located.reference.uri))
    try:
        with h5py.File(folder / "trajectory.h5", "r") as file:
            arrays, times, serials, attributes = _read_h5(file)
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise Rejected("unreadable_hdf5", f"{folder / 'trajectory.h5'}: {error}") from error
    t = max((len(array) for array in arrays.values()), default=0)
    if unequal := [f"{key}: {len(array)}" for key, array in arrays.items() if len(array) != t]:
        raise Rejected("unequal_lengths", f"{folder}: expected {t} rows, found {'; '.join(unequal)}")
    metadata = _read_metadata(folder)
    frames, missing = _open_videos(folder, name_cameras(serials, metadata), t)
    current_task = str(metadata.get("current_task") or attributes.get("current_task") or "")
    language = _read_annotations(folder).get(str(metadata.get("uuid")), ()) or ((current_task,) if current_task else ())
    return NativeEpisode(
        reference=located.reference,
        n_steps=t,
        arrays=arrays,
        frames=frames,
        missing_cameras=missing,
        timestamp_s=times,
        language=language,
        task=current_task,
        success=_read_success(folder, metadata, attributes),
    )


def name_cameras(serials: Mapping[str, int], metadata: Mapping[str, Any]) -> dict[str, str]:
    """Returns name -> serial: the metadata decides, and where it is silent `camera_type` (0 wrist, 1 exterior).

    >>> name_cameras({"18": 0, "22": 1, "24": 1}, {"ext1_cam_serial": "24", "ext2_cam_serial": "22"})
    {'wrist': '18', 'exterior_1': '24', 'exterior_2': '22'}
    """
    by_type = {
        "wrist": [serial for serial, kind in sorted(serials.items()) if kind == _WRIST],
        "exterior": [serial for serial, kind in sorted(serials.items()) if kind != _WRIST],
    }
    fallback = {
        "wrist": by_type["wrist"][:1],
        "exterior_1": by_type["exterior"][:1],
        "exterior_2": by_type["exterior"][1:2],
    }
    keys = {"wrist": "wrist_cam_serial", "exterior_1": "ext1_cam_serial", "exterior_2": "ext2_cam_serial"}
    named = {name: str(metadata[key]) if metadata.get(key) else "".join(fallback[name]) for name, key in keys.items()}
    return {name: serial for name, serial in named.items() if serial}


def _read_h5(file: h5py.File) -> tuple[dict[str, NDArray], NDArray | None, dict[str, int], dict[str, Any]]:
    arrays: dict[str, NDArray] = {}
    for group in _GROUPS:
        if group not in file:
            raise KeyError(f"expected the group {group}, found {', '.join(file)}")
        for key, value in file[group].items():
            if isinstance(value, h5py.Dataset) and value.dtype.kind in "fiub":
                check_array_size(f"{file.filename}: {group}/{key}", value.shape, value.dtype.itemsize)
                arrays[f"{group}/{key}"] = value[:]
    times = file[_STEP_START][:] / 1000.0 if _STEP_START in file else None
    if times is not None and (len(times) < 2 or not (np.diff(times) > 0).all()):
        times = None
    types = file["observation/camera_type"] if "observation/camera_type" in file else {}
    serials = {serial: int(value[0]) for serial, value in types.items() if len(value)}
    return arrays, times, serials, dict(file.attrs)


def _read_metadata(folder: Path) -> dict[str, Any]:
    paths = sorted(folder.glob("metadata_*.json"))
    if not paths:
        return {}
    return _read_json(paths[0])


def _open_videos(
    folder: Path, cameras: Mapping[str, str], t: int
) -> tuple[dict[str, Sequence[Image]], tuple[str, ...]]:
    frames: dict[str, Sequence[Image]] = {}
    missing = []
    for name, serial in cameras.items():
        path = folder / "recordings" / "MP4" / f"{serial}.mp4"
        if path.is_file():
            frames[name] = VideoFrames(path, t)
        else:
            missing.append(name)
    return frames, tuple(missing)


def _read_success(folder: Path, metadata: Mapping[str, Any], attributes: Mapping[str, Any]) -> int:
    """1 or 0 from the metadata, else the file's attributes, else the folder success/ or failure/; else -1."""
    for source in (metadata, attributes):
        if "success" in source:
            return int(bool(source["success"]))
    names = folder.parts
    return 1 if "success" in names else 0 if "failure" in names else -1


def _read_annotations(folder: Path) -> Mapping[str, tuple[str, ...]]:
    """The instructions by uuid from the nearest aggregated-annotations file at or above the folder."""
    for parent in folder.parents:
        if paths := _list_annotations(parent):
            return _load_annotations(paths[0])
    return {}


@functools.lru_cache(maxsize=256)
def _list_annotations(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(folder.glob(f"{_ANNOTATIONS}*.json")))


@functools.lru_cache(maxsize=4)
def _load_annotations(path: Path) -> Mapping[str, tuple[str, ...]]:
    return {
        uuid: tuple(text for key in _INSTRUCTIONS if (text := str(entry.get(key) or "").strip()))
        for uuid, entry in _read_json(path).items()
        if isinstance(entry, dict)
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Rejected("unreadable_metadata", f"{path}: expected JSON: {error}") from error
    if not isinstance(content, dict):
        raise Rejected("unreadable_metadata", f"{path}: expected a JSON object, found {type(content).__name__}")
    return content
