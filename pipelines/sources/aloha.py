"""ALOHA and ACT: one HDF5 file per episode, joints and frames step by step."""

import h5py
import numpy as np
from numpy.typing import NDArray

from pipelines.contract.episode import Reference
from pipelines.contract.errors import UsageError
from pipelines.contract.native import EpisodeLocation, Found, NativeEpisode, Rejected
from pipelines.mapping.adapters import Adapter
from pipelines.sources.folders import find_files, key_of, source_root
from pipelines.sources.hdf5 import READ_ERRORS, open_frames, read_arrays
from pipelines.storage.mirror import local_path, own_file
from pipelines.storage.paths import as_storage_path

USUAL_ADAPTER = "aloha_hdf5"
_KEYS = ("observations/qpos", "observations/qvel", "observations/effort", "action", "base_action")


def find(source: str, adapter: Adapter) -> Found:
    """Lists every `*.hdf5` file at or below `source`; the file name tells nothing more."""
    root = source_root(source)
    paths = find_files(root, "*.hdf5")
    if not paths:
        raise UsageError(f"{source}: expected files such as episode_0.hdf5 at or below it, found none")
    return Found(
        episodes=tuple(EpisodeLocation(reference=Reference(uri=str(path), key=key_of(path, root))) for path in paths)
    )


files_of = own_file


def read(located: EpisodeLocation, adapter: Adapter) -> NativeEpisode:
    """Reads one file; frames go by camera name, raw or JPEG. No instruction is stored: give one with --task.

    Raises Rejected when the file is damaged or its arrays are of unequal lengths.
    """
    path = local_path(as_storage_path(located.reference.uri))
    try:
        with h5py.File(path, "r") as file:
            if "action" not in file or "observations/qpos" not in file:
                raise Rejected("missing_key", f"{path}: expected action and observations/qpos, found {', '.join(file)}")
            t = len(file["action"])
            arrays = read_arrays(file, _KEYS, t, str(path))
            cameras = file["observations/images"] if "observations/images" in file else {}
            frames = open_frames(path, cameras, t, _read_lengths(file, list(cameras), t))
    except READ_ERRORS as error:
        raise Rejected("unreadable_hdf5", f"{path}: {error}") from error
    return NativeEpisode(reference=located.reference, n_steps=t, arrays=arrays, frames=frames)


def _read_lengths(file: h5py.File, cameras: list[str], t: int) -> dict[str, NDArray[np.int64]]:
    """The bytes of every JPEG, a row per camera in the order of their names."""
    if "compress_len" not in file:
        return {}
    lengths = np.asarray(file["compress_len"][:]).astype(np.int64)
    if lengths.shape != (len(cameras), t):
        raise Rejected("unequal_lengths", f"{file.filename}: compress_len: expected [{len(cameras)}, {t}]")
    return dict(zip(sorted(cameras), lengths, strict=True))
