"""ALOHA and ACT: one HDF5 file per episode, joints and frames step by step."""

import h5py
import numpy as np
from numpy.typing import NDArray

from pipelines.contract.episode import Reference
from pipelines.contract.errors import FailedWork, UsageError
from pipelines.contract.native import EpisodeLocation, Found, NativeEpisode, Rejected
from pipelines.mapping.adapters import Adapter
from pipelines.sources.float_pictures import note_floats
from pipelines.sources.folders import key_of, scan_files, source_root
from pipelines.sources.hdf5_files.datasets import (
    READ_ERRORS,
    describe_cameras,
    is_encoded,
    open_frames,
    open_hdf5_log,
    read_array,
    read_arrays,
)
from pipelines.sources.hdf5_files.texts import read_instruction, read_names, read_step_text
from pipelines.storage.mirror import local_path, own_file
from pipelines.storage.paths import as_storage_path

USUAL_ADAPTER = "aloha_hdf5"
_KEYS = ("observations/qpos", "observations/qvel", "observations/effort", "action", "base_action")


def find(source: str, adapter: Adapter) -> Found:
    """Lists every `*.hdf5` and `*.h5` file at or below `source`; the file name means nothing more."""
    root = source_root(source)
    scan = scan_files(root, "*.hdf5", "*.h5")
    if not scan.found:
        lost = f"; {scan.rejects[0].detail}" if scan.rejects else ""
        raise (FailedWork if lost else UsageError)(
            f"{source}: expected files such as episode_0.hdf5 at or below it, found none{lost}"
        )
    locations = [EpisodeLocation(reference=Reference(uri=str(path), key=key_of(path, root))) for path in scan.found]
    return Found(episodes=tuple(locations), rejects=scan.rejects)


files_of = own_file


def read(located: EpisodeLocation, adapter: Adapter) -> NativeEpisode:
    """Reads one file; frames go by camera name, raw or JPEG. The format has no instruction; one that is there counts.

    Raises Rejected when the file is damaged, its arrays are of unequal lengths, or a part of one is not stored.
    """
    path = local_path(as_storage_path(located.reference.uri))
    try:
        with open_hdf5_log(path) as file:
            if "action" not in file or "observations/qpos" not in file:
                raise Rejected("missing_key", f"{path}: expected action and observations/qpos, found {', '.join(file)}")
            t = len(file["action"])
            arrays = read_arrays(file, _KEYS, t, str(path), adapter.sparse_chunks)
            names = {key: read_names(file[key]) or _file_names(file, key) for key in arrays}
            cameras = file["observations/images"] if "observations/images" in file else {}
            cameras_found = describe_cameras(cameras)
            frames = open_frames(path, cameras, t, adapter, _read_lengths(file, cameras, t))
            instruction, step_text = read_instruction(file), read_step_text(file, t, str(path))
    except READ_ERRORS as error:
        raise Rejected("unreadable_hdf5", f"{path}: {error}") from error
    return NativeEpisode(
        reference=located.reference,
        n_steps=t,
        arrays=arrays,
        frames=frames,
        dim_names={key: found for key, found in names.items() if found},
        task=instruction,
        language=(instruction,) if instruction else (),
        step_text=step_text,
        cameras_found=cameras_found,
        inferred=note_floats(frames),
    )


def _file_names(file: h5py.File, key: str) -> tuple[str, ...]:
    """The names that the file as a whole gives to its 14 joints and grippers."""
    names = read_names(file)
    return names if len(names) == file[key].shape[-1] else ()


def _read_lengths(file: h5py.File, cameras: h5py.Group | dict, t: int) -> NDArray[np.int64] | None:
    """The bytes of every JPEG, int64 [n, t]: a row per camera in the order in which the recorder had them.

    That order is in no file, so that rows are matched with no camera. Raises Rejected when there is no row for each.
    """
    if "compress_len" not in file:
        return None
    lengths = read_array(file["compress_len"], f"{file.filename}: compress_len").astype(np.int64)
    n = sum(1 for camera in cameras.values() if isinstance(camera, h5py.Dataset) and is_encoded(camera))
    if lengths.shape not in ((n, t), (len(cameras), t)):
        expected = f"expected [{n}, {t}], found {list(lengths.shape)}"
        raise Rejected("unequal_lengths", f"{file.filename}: compress_len: {expected}")
    return lengths
