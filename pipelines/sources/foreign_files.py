"""HDF5 files and zarr stores of unknown origin: opened only when nothing in them reaches outside or runs code.

Both formats name the codecs that decode their bytes, and both can point to other files. So codecs are allowed by name,
and links out of the file, external storage and virtual datasets are refused: an input holds numbers and pictures, and
a conversion reads nothing else. numcodecs has a codec `pickle`, whose decoding runs whatever the chunk says.
"""

import json
import os
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import h5py

from pipelines.contract.native import Rejected
from pipelines.sources.folders import read_regular

# A store, file, group or array with this attribute, not false, declares that chunks which are not stored hold the
# fill value.
SPARSE = "sparse"
# Names of zarr's codecs, of both versions of the format, that only transform bytes and numbers. v3 names those of
# numcodecs with the prefix `numcodecs.`.
_ZARR_CODECS = frozenset(
    {
        "adler32",
        "astype",
        "bitround",
        "blosc",
        "bytes",
        "bz2",
        "crc32",
        "crc32c",
        "delta",
        "fixedscaleoffset",
        "fletcher32",
        "gzip",
        "jenkins_lookup3",
        "lz4",
        "lzma",
        "packbits",
        "pcodec",
        "quantize",
        "sharding_indexed",
        "shuffle",
        "transpose",
        "vlen-bytes",
        "vlen-utf8",
        "zfpy",
        "zlib",
        "zstd",
    }
)
# Codecs of pictures, from the package imagecodecs.
_PICTURE_CODECS = "imagecodecs_"
_ZARR_METADATA = frozenset({".zarray", ".zmetadata", "zarr.json"})
# Where v2 names codecs (`compressor`, `filters`), and v3 (`codecs`, and in a shard's configuration both).
_CODEC_KEYS = frozenset({"compressor", "filters", "codecs", "index_codecs"})
# A document of metadata for one array takes a few kB, a consolidated one of a large store some MB.
_MAX_METADATA_BYTES = 1 << 26
_ELSEWHERE = "{}: expected data of this file, found a link to another file"
_UNSURE = "a link within the file"
# Stores whose folders were walked: each folder's time of change, and the files of metadata.
_walked: dict[Path, tuple[dict[str, int], tuple[Path, ...]]] = {}
_MOST_WALKED = 64
# HDF5's registered numbers: deflate, shuffle, fletcher32, szip, nbit, scaleoffset; lzf, blosc, lz4, bitshuffle, zstd,
# blosc2, which h5py or hdf5plugin bring. A number from elsewhere would have HDF5 look for a library to load.
_HDF5_FILTERS = frozenset({1, 2, 3, 4, 5, 6, 32000, 32001, 32004, 32008, 32015, 32026})


def open_hdf5(source: Path | IO[bytes], levels: int | None = None) -> h5py.File:
    """Opens an HDF5 file to be read, after a look at every link and dataset in it, or in its first `levels` of groups.

    levels: of a file in an object store, every group is a call; who looks at fewer must read nothing below them.
    Raises Rejected (`unsafe_file`) for one that points to other files or names a codec that is not allowed, and OSError
    for one that is no HDF5 file.
    """
    file = h5py.File(source, "r")
    try:
        if not isinstance(source, Path):
            _check_hdf5(file, str(getattr(source, "name", "the HDF5 file")), levels)
        elif not _is_checked(source, source.stat().st_size, source.stat().st_mtime_ns):
            raise AssertionError("a file is checked, or refused by name")
    except BaseException:
        file.close()
        raise
    return file


@lru_cache(maxsize=4096)
def _is_checked(path: Path, size: int, mtime_ns: int) -> bool:
    """Looks at a file once, until it is written to: a file of a thousand demonstrations is opened as often."""
    with h5py.File(path, "r") as file:
        _check_hdf5(file, str(path), None)
    return True


def own_item(group: h5py.Group, key: str) -> h5py.Group | h5py.Dataset | None:
    """Returns what a group holds under `key`, None if nothing; for groups that `open_hdf5` did not look into.

    Raises Rejected (`unsafe_file`) as it does.
    """
    link = group.get(key, getlink=True)
    if link is None:
        return None
    where = f"{group.name}/{key}"
    if isinstance(link, h5py.HardLink):
        item = group[key]
        if fault := _fault_of_object(where, item):
            raise Rejected("unsafe_file", f"{group.file.filename}: {fault}")
        return item
    _check_hdf5(group.file, str(group.file.filename), None)
    return group[key]


def _check_hdf5(file: h5py.File, where: str, levels: int | None) -> None:
    if levels is None or (fault := _fault_within(file, levels)) is _UNSURE:
        fault = _fault_anywhere(file)
    if fault:
        raise Rejected("unsafe_file", f"{where}: {fault}")


def _fault_anywhere(file: h5py.File) -> str | None:
    """What is wrong with any link or dataset of a file.

    h5py's own `visititems` wraps every group and dataset, which takes three times as long.
    """

    def fault_of_link(name: bytes, info: Any) -> str | None:
        return _ELSEWHERE.format(name.decode(errors="replace")) if info.type == h5py.h5l.TYPE_EXTERNAL else None

    def fault_of_object(name: bytes, info: Any) -> str | None:
        if info.type != h5py.h5o.TYPE_DATASET:
            return None
        return _fault_of_dataset(name.decode(errors="replace"), h5py.h5d.open(file.id, name))

    # The visitors return what they find: an exception inside of them does not survive the way through HDF5.
    return file.id.links.visit(fault_of_link, info=True) or h5py.h5o.visit(file.id, fault_of_object, info=True)


def _fault_within(file: h5py.File, levels: int) -> str | None:
    """What is wrong in the first levels of groups; _UNSURE where a link leads from there to anywhere in the file."""
    # A group may hold itself: each is examined once, where it is nearest to the root.
    waiting, seen = [("", file["/"])], {h5py.h5o.get_info(file["/"].id).addr}
    for _ in range(levels):
        below = []
        for path, group in waiting:
            for name in group:
                link, where = group.get(name, getlink=True), f"{path}{name}"
                if fault := _fault_of_link(where, link):
                    return fault
                if not isinstance(link, h5py.HardLink):
                    return _UNSURE
                item = group[name]
                if fault := _fault_of_object(where, item):
                    return fault
                if isinstance(item, h5py.Group) and (address := h5py.h5o.get_info(item.id).addr) not in seen:
                    seen.add(address)
                    below.append((f"{where}/", item))
        waiting = below
    return None


def _fault_of_link(name: str, link: Any) -> str | None:
    return _ELSEWHERE.format(name) if isinstance(link, h5py.ExternalLink) else None


def _fault_of_object(name: str, item: Any) -> str | None:
    return _fault_of_dataset(name, item.id) if isinstance(item, h5py.Dataset) else None


def _fault_of_dataset(name: str, dataset: h5py.h5d.DatasetID) -> str | None:
    """What is wrong with a dataset whose bytes lie in other files, or need a codec of unknown make."""
    made = dataset.get_create_plist()
    if made.get_layout() == h5py.h5d.VIRTUAL or made.get_external_count():
        return f"{name}: expected data of this file, found one kept in other files"
    filters = [made.get_filter(i)[0] for i in range(made.get_nfilters())]
    unknown = [number for number in filters if number not in _HDF5_FILTERS]
    return f"{name}: expected a usual compression, found HDF5 filter {unknown[0]}" if unknown else None


def check_zarr(store: Path) -> dict[str, Any]:
    """Returns a zarr store's documents of metadata by their names in it; store: a folder or a zip file.

    Raises Rejected (`unsafe_file`) where one names a codec that is not allowed, `unreadable_zarr` where one is no JSON.
    """
    documents = {}
    for name, text in _metadata_of(store):
        if len(text) > _MAX_METADATA_BYTES:
            raise Rejected("unsafe_file", f"{store}: {name}: expected metadata, found {len(text)} bytes")
        try:
            documents[name] = json.loads(text)
            check_zarr_codecs(documents[name], f"{store}: {name}")
        except (ValueError, RecursionError) as error:
            raise Rejected("unreadable_zarr", f"{store}: {name}: expected JSON, found {error}") from error
    return documents


def check_zarr_codecs(document: Any, where: str) -> None:
    """Raises Rejected (`unsafe_file`) where an array's metadata names a codec that is not allowed."""
    for codec in codecs_of(document):
        if not is_allowed_codec(codec):
            raise Rejected("unsafe_file", f"{where}: expected a usual codec, found {codec!r}")


def is_allowed_codec(name: str) -> bool:
    """Whether a codec only transforms bytes and numbers.

    >>> is_allowed_codec("numcodecs.blosc"), is_allowed_codec("pickle")
    (True, False)
    """
    name = name.removeprefix("numcodecs.")
    return name in _ZARR_CODECS or name.startswith(_PICTURE_CODECS)


def _metadata_of(store: Path) -> Iterator[tuple[str, bytes]]:
    """The documents of metadata anywhere in a store, by their name in it."""
    if store.is_file():
        with zipfile.ZipFile(store) as archive:
            for info in archive.infolist():
                if info.filename.rpartition("/")[2] in _ZARR_METADATA:
                    if info.file_size > _MAX_METADATA_BYTES:
                        raise Rejected(
                            "unsafe_file", f"{store}: {info.filename}: expected metadata, found a large file"
                        )
                    yield info.filename, archive.read(info)
        return
    for path in _metadata_files(store):
        yield path.relative_to(store).as_posix(), read_regular(path, _MAX_METADATA_BYTES)


def _metadata_files(store: Path) -> tuple[Path, ...]:
    """The files of metadata in a folder; it is walked once until a folder in it changes, for the sake of its chunks."""
    known = _walked.get(store)
    if known and all(_changed(folder) == time for folder, time in known[0].items()):
        return known[1]
    times: dict[str, int] = {}
    files: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for folder, below, names in os.walk(store, onerror=_raise, followlinks=True):
        status = os.stat(folder)
        # zarr follows links as well; two that lead back to their own folder would be walked for ever.
        if (identity := (status.st_dev, status.st_ino)) in seen:
            below.clear()
        seen.add(identity)
        times[folder] = status.st_mtime_ns
        files += [Path(folder, name) for name in sorted(_ZARR_METADATA.intersection(names))]
    if len(_walked) >= _MOST_WALKED:
        _walked.clear()
    _walked[store] = times, tuple(files)
    return _walked[store][1]


def _changed(folder: str) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return -1


def _raise(error: OSError) -> None:
    raise error


def codecs_of(document: Any) -> Iterator[str]:
    """Names of the codecs of every array that a document describes, consolidated ones and those inside of shards too.

    What describes an array states its `zarr_format`. Everything else is the logger's own words, whatever they are
    called; and an array may be called as attributes are.
    """
    if isinstance(document, list):
        for item in document:
            yield from codecs_of(item)
    if not isinstance(document, dict):
        return
    for key, value in document.items():
        if key in _CODEC_KEYS and "zarr_format" in document:
            yield from _names_of(value)
        else:
            yield from codecs_of(value)


def _names_of(codecs: Any) -> Iterator[str]:
    for codec in codecs if isinstance(codecs, list) else [codecs]:
        if not isinstance(codec, dict):
            yield from () if codec is None else (str(codec),)
            continue
        yield str(codec.get("id", codec.get("name", codec)))
        inner = codec.get("configuration")
        if isinstance(inner, dict):
            for key in _CODEC_KEYS.intersection(inner):
                yield from _names_of(inner[key])
