"""Frames that lie in HDF5 files, read one by one when asked for; ALOHA's and robomimic's layouts of them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from pipelines.contract.episode import Image
from pipelines.contract.images import CorruptImage
from pipelines.contract.native import Rejected, check_array_size, check_frames_size

# What h5py raises on damaged files.
READ_ERRORS = (OSError, KeyError, RuntimeError, ValueError, TypeError)


class Hdf5Frames(Sequence[Image]):
    """Frames of one dataset of a file: uint8 [t, y, x, 3], or padded JPEG bytes uint8 [t, length].

    lengths: bytes of each JPEG, if the file tells; without them the padding of zeros is left for the decoder.
    """

    def __init__(self, path: Path, key: str, n: int, lengths: NDArray[np.int64] | None = None) -> None:
        self._path = path
        self._key = key
        self._n = n
        self._lengths = lengths
        self._dataset: h5py.Dataset | None = None

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._n))]
        index = range(self._n)[index]
        try:
            if self._dataset is None:
                self._dataset = h5py.File(self._path, "r")[self._key]
            frame = np.asarray(self._dataset[index])
        except READ_ERRORS as error:
            raise CorruptImage(f"{self._path}: {self._key}: frame {index}: {error}") from error
        if frame.ndim == 3:
            return frame
        length = len(frame) if self._lengths is None else int(self._lengths[index])
        return frame[:length].tobytes()


def open_frames(
    path: Path, group: h5py.Group, t: int, lengths: Mapping[str, NDArray[np.int64]]
) -> dict[str, Sequence[Image]]:
    """Returns the frames of every camera of a group by name. Raises Rejected when a camera has not `t` of them."""
    frames: dict[str, Sequence[Image]] = {}
    for name, dataset in group.items():
        if not isinstance(dataset, h5py.Dataset) or dataset.dtype != np.uint8 or dataset.ndim not in (2, 4):
            continue
        if len(dataset) != t:
            raise Rejected("missing_frames", f"{path}: {dataset.name}: expected {t} frames, found {len(dataset)}")
        check_frames_size(f"{path}: {dataset.name}", dataset.shape, math.prod(dataset.chunks or ()))
        frames[name] = Hdf5Frames(path, dataset.name, t, lengths.get(name))
    return frames


def read_arrays(group: h5py.Group, keys: Sequence[str], t: int, where: str) -> dict[str, NDArray]:
    """Returns the arrays of numbers under `keys`, those that are there. Raises Rejected when one has not `t` rows."""
    arrays = {}
    for key in keys:
        if key not in group:
            continue
        if len(group[key]) != t:
            raise Rejected("unequal_lengths", f"{where}: {key}: expected {t} rows, found {len(group[key])}")
        check_array_size(f"{where}: {key}", group[key].shape, group[key].dtype.itemsize)
        arrays[key] = np.asarray(group[key][:])
    return arrays
