"""HDF5 files: opened in one way, chunks that must exist, arrays of numbers, frames read when asked for."""

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipelines.contract.episode import Image
from pipelines.contract.flags import parse_flag
from pipelines.contract.images import CorruptImage
from pipelines.contract.native import MAX_CHUNK_BYTES, Rejected, check_array_size, check_frames_size
from pipelines.mapping.adapters import Adapter
from pipelines.sources import foreign_files
from pipelines.sources.float_pictures import FloatFrames
from pipelines.sources.folders import check_regular
from pipelines.storage.paths import RemotePath, StoragePath

# What h5py raises on damaged files.
READ_ERRORS = (OSError, KeyError, RuntimeError, ValueError, TypeError)
# How an episode's own attribute or array says whether it succeeded: Isaac Lab's, and others by its example.
_SUCCESS_KEYS = ("success", "is_success", "task_success")
_DECLARE_SPARSE = "If zeros are meant, give --sparse-chunks, or the file the attribute `sparse: true`"
# Deflate shrinks nothing further than this, so that smaller chunks cannot unpack to more than MAX_CHUNK_BYTES.
_DEFLATE_RATIO = 1032
_WINDOW_BYTES = 1 << 20
# The scan of a file in an object store reads what `data` and `mask` hold; deeper, `own_item` looks at what is read.
_REMOTE_LEVELS = 2


@contextmanager
def open_hdf5_log(path: StoragePath, levels: int = _REMOTE_LEVELS) -> Iterator[h5py.File]:
    """Opens a file to be read; of one in an object store, only its first `levels` of groups are looked at.

    Raises Rejected for a pipe, a device or a file that reaches for others, OSError for what is no HDF5 file or is
    locked by its writer.
    """
    if isinstance(path, RemotePath):
        with path.open() as stream, foreign_files.open_hdf5(stream, levels) as file:
            yield file
        return
    check_regular(path)
    with foreign_files.open_hdf5(path) as file:
        yield file


def check_hdf5_chunks(dataset: h5py.Dataset, where: str, is_sparse: bool = False) -> None:
    """Raises Rejected where a part of the array is not stored: HDF5 reads it as zeros, as if they were measured.

    A dataset, its group or its file with the attribute `sparse` declares that zeros are meant, as the user may
    (is_sparse). Raises Rejected, too, where a chunk unpacks to more than it has room for.
    """
    if dataset.size == 0:
        return
    is_sparse = is_sparse or any(
        node.attrs.get(foreign_files.SPARSE, False) for node in (dataset, dataset.parent, dataset.file)
    )
    if dataset.chunks is None:
        if dataset.id.get_storage_size() == 0 and not is_sparse:
            detail = f"{where}: expected {list(dataset.shape)} numbers, found none stored. {_DECLARE_SPARSE}"
            raise Rejected("missing_chunk", detail)
        return
    sizes = _stored_sizes(dataset)
    expected = math.prod(-(-length // chunk) for length, chunk in zip(dataset.shape, dataset.chunks, strict=True))
    if len(sizes) < expected and not is_sparse:
        raise Rejected(
            "missing_chunk",
            f"{where}: expected {expected} chunks, found {len(sizes)}; the others would be read as zeros. "
            + _DECLARE_SPARSE,
        )
    _check_unpacked_sizes(dataset, sizes, where)


def _stored_sizes(dataset: h5py.Dataset) -> dict[tuple[int, ...], int]:
    """Bytes in the file of every chunk that is stored, by the position of its first value."""
    sizes: dict[tuple[int, ...], int] = {}
    dataset.id.chunk_iter(lambda chunk: sizes.update({chunk.chunk_offset: chunk.size}))
    return sizes


def _check_unpacked_sizes(dataset: h5py.Dataset, sizes: Mapping[tuple[int, ...], int], where: str) -> None:
    """Unpacks, without keeping it, what could fill the memory: HDF5 itself looks at the size when it is too late."""
    assert dataset.chunks is not None
    room = math.prod(dataset.chunks) * dataset.dtype.itemsize
    if dataset.compression != "gzip":
        return
    for offset, size in sizes.items():
        if size * _DEFLATE_RATIO > MAX_CHUNK_BYTES and _unpacked_size(dataset, offset, room) > room:
            raise Rejected("absurd_size", f"{where}: expected chunks of {room} bytes, found one that unpacks to more")


def _unpacked_size(dataset: h5py.Dataset, offset: tuple[int, ...], most: int) -> int:
    """How many bytes a deflated chunk holds, counted up to just above `most`; damaged ones are left to HDF5."""
    _, packed = dataset.id.read_direct_chunk(offset)
    unpacking, n = zlib.decompressobj(), 0
    try:
        while packed and n <= most:
            n += len(unpacking.decompress(packed, _WINDOW_BYTES))
            packed = unpacking.unconsumed_tail
    except zlib.error:
        return 0
    return n


class Hdf5Frames(Sequence[Image]):
    """Frames of one dataset of a file: numbers [t, y, x, 3], or the bytes of encoded pictures.

    Encoded pictures are rows uint8 [t, length] or texts of fixed width, padded with zeros, or rows of any length.
    lengths: int64 [n, t], the bytes of each picture as the file states them, a row per camera in an order that it
    does not state; a picture's own end, before the padding, must be one of its step's.
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
                self._dataset = foreign_files.open_hdf5(self._path)[self._key]
            frame = self._dataset[index]
        except READ_ERRORS as error:
            raise CorruptImage(f"{self._path}: {self._key}: frame {index}: {error}") from error
        if isinstance(frame, np.ndarray) and frame.ndim == 3:
            return frame
        return self._encoded(frame, index)

    def _encoded(self, frame: Any, index: int) -> bytes:
        """The picture without the zeros behind it; no JPEG or PNG ends in one."""
        data = (frame.tobytes() if isinstance(frame, np.ndarray) else bytes(frame)).rstrip(b"\0")
        if self._lengths is not None and len(data) not in self._lengths[:, index]:
            stated = ", ".join(str(length) for length in self._lengths[:, index])
            raise CorruptImage(
                f"{self._path}: {self._key}: frame {index}: expected one of compress_len's {stated} bytes, "
                f"found {len(data)}"
            )
        return data


def open_frames(
    path: Path,
    group: h5py.Group | Mapping[str, Any],
    t: int,
    adapter: Adapter,
    lengths: NDArray[np.int64] | None = None,
) -> dict[str, Sequence[Image]]:
    """Returns the frames of every camera of a group by name. Raises Rejected when a camera has not `t` of them."""
    frames: dict[str, Sequence[Image]] = {}
    for name, dataset in group.items():
        if not isinstance(dataset, h5py.Dataset) or not (is_encoded(dataset) or is_pictures(dataset)):
            continue
        where = f"{path}: {dataset.name}"
        if len(dataset) != t:
            raise Rejected("missing_frames", f"{where}: expected {t} frames, found {len(dataset)}")
        check_frames_size(where, dataset.shape, math.prod(dataset.chunks or ()) * dataset.dtype.itemsize)
        check_hdf5_chunks(dataset, where, adapter.sparse_chunks)
        camera = Hdf5Frames(path, dataset.name, t, lengths if is_encoded(dataset) else None)
        frames[name] = FloatFrames(camera, where, adapter.form_of(name).range) if dataset.dtype.kind == "f" else camera
    return frames


def describe_cameras(group: h5py.Group | Mapping[str, Any]) -> str:
    """Names what a group holds that may be pictures, with types and shapes, for the message that none of it is read.

    >>> describe_cameras({})
    'no pictures'
    """
    found = [
        f"{name} ({dataset.dtype} {list(dataset.shape)})"
        for name, dataset in group.items()
        if isinstance(dataset, h5py.Dataset) and (dataset.ndim >= 3 or is_encoded(dataset))
    ]
    return ", ".join(found) or "no pictures"


def is_pictures(dataset: h5py.Dataset) -> bool:
    """Whether a dataset holds pictures as numbers, [t, y, x, 3]; those of other numbers than bytes may be floats."""
    return dataset.ndim == 4 and (dataset.dtype == np.uint8 or dataset.dtype.kind == "f")


def is_encoded(dataset: h5py.Dataset) -> bool:
    """Whether a dataset holds encoded pictures: padded rows of bytes, texts of bytes, or rows of any length."""
    if dataset.ndim == 2:
        return dataset.dtype == np.uint8
    rows = h5py.check_vlen_dtype(dataset.dtype)
    return dataset.ndim == 1 and (dataset.dtype.kind == "S" or (rows is not None and np.dtype(rows) == np.uint8))


def read_stated_success(group: h5py.Group) -> int | None:
    """What a group's own attribute or array says of its success: 1, 0, -1 (not known); None where it has neither."""
    for key in _SUCCESS_KEYS:
        if key in group.attrs:
            return parse_flag(group.attrs[key])
        if isinstance(dataset := group.get(key), h5py.Dataset) and dataset.size:
            return parse_flag(np.asarray(dataset[...]).reshape(-1)[-1])
    return None


def read_array(dataset: h5py.Dataset, where: str, is_sparse: bool = False) -> NDArray:
    """Returns a whole array of numbers. Raises Rejected where a part is not stored, or it is larger than any is."""
    check_array_size(where, dataset.shape, dataset.dtype.itemsize)
    check_hdf5_chunks(dataset, where, is_sparse)
    return np.asarray(dataset[...])


def read_arrays(
    group: h5py.Group, keys: Sequence[str], t: int, where: str, is_sparse: bool = False
) -> dict[str, NDArray]:
    """Returns the arrays of numbers under `keys`, those that are there. Raises Rejected when one has not `t` rows."""
    arrays = {}
    for key in keys:
        if key not in group:
            continue
        if len(group[key]) != t:
            raise Rejected("unequal_lengths", f"{where}: {key}: expected {t} rows, found {len(group[key])}")
        arrays[key] = read_array(group[key], f"{where}: {key}", is_sparse)
    return arrays
