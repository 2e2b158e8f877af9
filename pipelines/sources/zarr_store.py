"""zarr stores: opened in one way, codecs that must be there, chunks that must exist and stay within their room."""

import json
import math
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numcodecs.registry
import numpy as np
import zarr
from numpy.typing import NDArray

from pipelines.contract.episode import Image
from pipelines.contract.errors import FailedWork
from pipelines.contract.images import CorruptImage, to_jpeg
from pipelines.contract.native import MAX_CHUNK_BYTES, Rejected, check_frames_size
from pipelines.mapping.cameras import CameraForm
from pipelines.sources.float_pictures import FloatFrames
from pipelines.sources.folders import read_regular
from pipelines.sources.foreign_files import SPARSE, check_zarr, check_zarr_codecs, codecs_of
from pipelines.sources.image_codecs import IMAGE_CODECS, register_image_codecs

# What zarr, its codecs and zip files raise on damaged stores; Blosc a SystemError where a chunk's header states a
# negative size.
READ_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    RuntimeError,
    IndexError,
    SystemError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
)
# How a user declares what `SPARSE` does: zarr-python 3 leaves such chunks out without a word in the store.
DECLARE_SPARSE = "give --sparse-chunks, or the store the attribute `sparse: true`"
METADATA = (".zarray", "zarr.json")
# Codecs of zarr v3 that are part of zarr itself.
_CORE_CODECS = {"bytes", "blosc", "crc32c", "gzip", "sharding_indexed", "transpose", "vlen-bytes", "vlen-utf8", "zstd"}
# Codecs of numcodecs that need another package.
_OPTIONAL = {"pcodec", "zfpy"}
_DEFLATE_RATIO = 1032
_WINDOW_BYTES = 1 << 20
# Filters may pack numbers wider than they are stored; a chunk that claims more than this many times its room lies.
_SLACK = 4


@dataclass(frozen=True)
class Store:
    """The files of a zarr store that is read, a folder or a `.zip`.

    is_sparse: whether the root, or the user, declares that chunks which are not stored hold the fill value.
    """

    path: Path
    is_sparse: bool

    def is_there(self, name: str) -> bool:
        """Whether a chunk is stored. Raises Rejected where a pipe or a device has its name."""
        if self._zip_names is not None:
            return name in self._zip_names
        try:
            mode = os.stat(self.path / name).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return False
        if not stat.S_ISREG(mode):
            raise Rejected("unsafe_file", f"{self.path}/{name}: expected a chunk, found a pipe, a device or a folder")
        return True

    def read(self, name: str) -> bytes:
        """The stored bytes of a chunk."""
        if self._zip_names is None:
            return read_regular(self.path / name, MAX_CHUNK_BYTES)
        with zipfile.ZipFile(self.path) as archive:
            return archive.read(name)

    def head(self, name: str, n_bytes: int) -> bytes:
        """The first bytes of a chunk."""
        if self._zip_names is not None:
            with zipfile.ZipFile(self.path) as archive, archive.open(name) as member:
                return member.read(n_bytes)
        with open(self.path / name, "rb") as file:
            return file.read(n_bytes)

    def size(self, name: str) -> int:
        """How many bytes a chunk has in the store."""
        if self._zip_names is not None:
            return self._zip_names[name]
        return os.stat(self.path / name).st_size

    @cached_property
    def _zip_names(self) -> dict[str, int] | None:
        if self.path.suffix != ".zip":
            return None
        with zipfile.ZipFile(self.path) as archive:
            sizes = {item.filename: item.file_size for item in archive.infolist()}
        if (greatest := max(sizes.values(), default=0)) > MAX_CHUNK_BYTES:
            raise Rejected("absurd_size", f"{self.path}: expected chunks up to 1 GiB, found one of {greatest} bytes")
        return sizes


def open_store(path: Path, is_sparse: bool = False) -> tuple[Store, zarr.Group]:
    """Opens a folder or a `.zip` to be read. Raises what `READ_ERRORS` lists where it is no zarr store.

    is_sparse: the user's declaration, as of `Store`.

    Raises FailedWork where an array needs a codec that can be installed: no episode of the store is damaged; and
    Rejected where one needs an unknown codec.
    """
    for name, metadata in sorted(check_zarr(path).items()):
        if name.rpartition("/")[2] in METADATA:
            check_installed(metadata, f"{path}: {name.rpartition('/')[0] or name}")
    # Only after every metadata file was checked, so that opening meets no codec that is not allowed.
    store = zarr.storage.ZipStore(path, mode="r") if path.suffix == ".zip" else path
    # A consolidated copy of the metadata knows nothing of what was written after it, and Diffusion Policy ignores it.
    group = zarr.open_group(store, mode="r", use_consolidated=False)
    return Store(path=path, is_sparse=is_sparse or bool(group.attrs.get(SPARSE))), group


def open_arrays(folder: Path, is_sparse: bool = False) -> tuple[Store, Mapping[str, Any], dict[str, zarr.Array]]:
    """Opens a zarr v3 group: its attributes, and its arrays by name; is_sparse and errors as of `open_store`.

    Looking every array up in zarr's group would take longer than reading the log.
    """
    attributes = json.loads(read_regular(folder / "zarr.json"))["attributes"]
    local = zarr.storage.LocalStore(folder, read_only=True)
    arrays = {}
    for parent, below, files in os.walk(folder, onerror=_raise):
        metadata = json.loads(read_regular(Path(parent, "zarr.json"))) if "zarr.json" in files else {}
        if metadata.get("node_type") == "array":
            # Not into an array's chunks: a log has tens of thousands of them.
            below.clear()
            name = Path(parent).relative_to(folder).as_posix()
            check_zarr_codecs(metadata, f"{folder}: {name}")
            check_installed(metadata, f"{folder}: {name}")
            arrays[name] = zarr.Array.from_dict(zarr.storage.StorePath(local, name), metadata)
    return Store(path=folder, is_sparse=is_sparse or bool(attributes.get(SPARSE))), attributes, arrays


def _raise(error: OSError) -> None:
    raise error


def check_installed(metadata: Any, where: str) -> None:
    """Raises FailedWork where an array needs a codec that can be installed, Rejected where its codec is unknown."""
    register_image_codecs()
    registered = {*numcodecs.registry.codec_registry, *numcodecs.registry.entries}
    for codec in codecs_of(metadata):
        if codec in _CORE_CODECS or codec in registered or codec.removeprefix("numcodecs.") in registered:
            continue
        if codec in IMAGE_CODECS:
            advice = "Install it: pip install 'embodimix[jpegxl]', which brings imagecodecs"
            raise FailedWork(f"{where}: is stored with the codec {codec}, which is not installed. {advice}")
        if codec in _OPTIONAL:
            raise FailedWork(
                f"{where}: is stored with the codec {codec}, which is not installed. "
                f"Install it: pip install 'numcodecs[{codec}]'"
            )
        raise Rejected("unreadable_zarr", f"{where}: expected a codec that zarr or imagecodecs has, found {codec!r}")


def check_chunks(store: Store, array: zarr.Array, start: int, end: int, where: str) -> None:
    """Raises Rejected where rows `start` to `end` have a chunk that is not stored, or one that claims too much memory.

    zarr reads a missing chunk as its fill value, as if it were measured. Only a store that declares it (`sparse`), or
    one for which the user does, may leave chunks out; zarr-python 3 does without declaring it, unless
    `write_empty_chunks` is set.
    """
    is_sparse = store.is_sparse or bool(array.attrs.get(SPARSE))
    names = list(chunk_names(array, start, end))
    lacking = [name for name in names if not store.is_there(name)]
    if lacking and not is_sparse:
        raise Rejected(
            "missing_chunk",
            f"{where}: expected {len(names)} chunks, found {len(lacking)} not stored, the first {lacking[0]}; zeros "
            f"would be read. If its writer leaves chunks of zeros out, {DECLARE_SPARSE}",
        )
    for name in names:
        if name not in lacking:
            check_unpacked_size(store, array, name, where)


def chunk_names(array: zarr.Array, start: int, end: int) -> Iterator[str]:
    """The names in the store of the chunks (or shards) that hold rows `start` to `end`."""
    lengths = array.shards or array.chunks
    if not all(lengths) or start >= end:
        return
    first = range(start // lengths[0], -(-end // lengths[0])) if array.ndim else range(0)
    others = [range(-(-n // length)) for n, length in zip(array.shape[1:], lengths[1:], strict=True)]
    prefix = f"{array.path}/" if array.path else ""
    for position in product(first, *others):
        yield prefix + array.metadata.encode_chunk_key(position)


def check_unpacked_size(store: Store, array: zarr.Array, name: str, where: str) -> None:
    """Raises Rejected where a chunk's outermost codec would unpack to far more than the chunk has room for.

    Codecs allocate what a chunk's header claims, or grow while they unpack, before the size is checked.
    """
    room = max(math.prod(array.shards or array.chunks) * array.dtype.itemsize * _SLACK, _WINDOW_BYTES)
    codec = _outermost_codec(array)
    head = store.head(name, 16)
    claimed = 0
    if codec == "blosc" and len(head) >= 8:
        claimed = int.from_bytes(head[4:8], "little")
    elif codec == "lz4" and len(head) >= 4:
        claimed = int.from_bytes(head[:4], "little")
    elif codec == "zstd":
        claimed = _zstd_content_size(head)
    elif codec in ("gzip", "zlib") and store.size(name) * _DEFLATE_RATIO > MAX_CHUNK_BYTES:
        claimed = _inflated_size(store.read(name), room)
    if claimed > room:
        raise Rejected("absurd_size", f"{where}: expected chunks of {room // _SLACK} bytes, found {name}: {claimed}")


def _outermost_codec(array: zarr.Array) -> str:
    """The codec that a chunk's first bytes belong to, in lower case; empty where there is none."""
    if array.metadata.zarr_format == 2:
        compressor = array.metadata.compressor
        return "" if compressor is None else str(compressor.codec_id).lower()
    codecs = array.metadata.codecs
    return type(codecs[-1]).__name__.lower().removesuffix("codec") if codecs else ""


def _zstd_content_size(head: bytes) -> int:
    """The size that a Zstandard frame's header states; 0 where it states none (RFC 8878, section 3.1.1.1)."""
    if len(head) < 6 or head[:4] != b"\x28\xb5\x2f\xfd":
        return 0
    descriptor = head[4]
    is_single, flag = bool(descriptor & 0x20), descriptor >> 6
    at = 5 + (0 if is_single else 1) + (0, 1, 2, 4)[descriptor & 3]
    width = (1 if is_single else 0, 2, 4, 8)[flag]
    return int.from_bytes(head[at : at + width], "little") + (256 if flag == 1 else 0)


def _inflated_size(packed: bytes, most: int) -> int:
    """How many bytes a gzip or zlib chunk holds, counted up to just above `most`; damaged ones are left to zarr."""
    unpacking, n = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32), 0
    try:
        while packed and n <= most:
            n += len(unpacking.decompress(packed, _WINDOW_BYTES))
            packed = unpacking.unconsumed_tail
    except zlib.error:
        return 0
    return n


@dataclass
class ZarrRows(Sequence[NDArray]):
    """Frames of a zarr array in the order of `numbers`, as they are stored; one chunk is held at a time.

    Raises CorruptImage where a chunk cannot be read, Rejected where it is not stored.
    """

    store: Store
    array: zarr.Array
    numbers: NDArray[np.int64]
    _chunk_number: int = field(default=-1, repr=False)
    _chunk: NDArray = field(default_factory=lambda: np.zeros(0), repr=False)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return ZarrRows(self.store, self.array, self.numbers[index])
        number, length = int(self.numbers[index]), self.array.chunks[0]
        if number // length != self._chunk_number:
            start = number // length * length
            end = min(start + length, self.array.shape[0])
            where = str(self.array.store_path)
            try:
                check_chunks(self.store, self.array, start, end, f"{where}: frame {number}")
                self._chunk = np.asarray(self.array[start:end])
            except READ_ERRORS as error:
                raise CorruptImage(f"{where}: frame {number}: {error}") from error
            self._chunk_number = number // length
        return self._chunk[number % length]


class ZarrFrames(Sequence[Image]):
    """Frames uint8 [t, y, x, 3] as JPEG; a camera slower than the control rate shows one for several steps."""

    def __init__(self, rows: ZarrRows) -> None:
        self._rows = rows
        self._last: tuple[int, bytes] = (-1, b"")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return ZarrFrames(self._rows[index])
        number = int(self._rows.numbers[index])
        if number != self._last[0]:
            self._last = number, to_jpeg(self._rows[index])
        return self._last[1]


def open_camera(
    store: Store, array: zarr.Array, numbers: NDArray[np.int64], form: CameraForm, where: str
) -> Sequence[Image]:
    """Returns the frames of an array uint8 or float [n, y, x, 3] in the order of `numbers`.

    Raises Rejected where pictures or chunks are larger than any camera's.
    """
    check_frames_size(where, array.shape, math.prod(array.chunks) * array.dtype.itemsize)
    rows = ZarrRows(store, array, numbers)
    if array.dtype.kind == "f":
        return FloatFrames(rows, where, form.range)
    # What is still to be turned or to have its colours exchanged must not become a JPEG before.
    return ZarrFrames(rows) if form == CameraForm() else rows
