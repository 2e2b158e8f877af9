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
        "quantize",
        "sharding_indexed",
        "shuffle",
        "transpose",
        "vlen-bytes",
        "vlen-utf8",
        "zlib",
        "zstd",
    }
)
# Codecs of pictures, from the package imagecodecs.
_PICTURE_CODECS = "imagecodecs_"
_ZARR_METADATA = frozenset({".zarray", ".zmetadata", "zarr.json"})
# A document of metadata for one array takes a few kB, a consolidated one of a large store some MB.
_MAX_METADATA_BYTES = 1 << 26
# HDF5's registered numbers: deflate, shuffle, fletcher32, szip, nbit, scaleoffset; lzf, blosc, lz4, bitshuffle, zstd,
# blosc2, which h5py or hdf5plugin bring. A number from elsewhere would have HDF5 look for a library to load.
_HDF5_FILTERS = frozenset({1, 2, 3, 4, 5, 6, 32000, 32001, 32004, 32008, 32015, 32026})


def open_hdf5(source: Path | IO[bytes]) -> h5py.File:
    """Opens an HDF5 file to be read, after a look at every link and dataset in it.

    Raises Rejected (`unsafe_file`) for one that points to other files or names a codec that is not allowed, and OSError
    for one that is no HDF5 file.
    """
    file = h5py.File(source, "r")
    try:
        if not isinstance(source, Path):
            _check_hdf5(file, str(getattr(source, "name", "the HDF5 file")))
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
        _check_hdf5(file, str(path))
    return True


def _check_hdf5(file: h5py.File, where: str) -> None:
    # The visitors return what they find: an exception inside of them does not survive the way through HDF5.
    if fault := file.visititems_links(_fault_of_link) or file.visititems(_fault_of_object):
        raise Rejected("unsafe_file", f"{where}: {fault}")


def _fault_of_link(name: str, link: Any) -> str | None:
    if isinstance(link, h5py.ExternalLink):
        return f"{name}: expected data of this file, found a link to another file"
    return None


def _fault_of_object(name: str, item: Any) -> str | None:
    """What is wrong with a dataset whose bytes lie in other files, or need a codec of unknown make."""
    if not isinstance(item, h5py.Dataset):
        return None
    made = item.id.get_create_plist()
    if made.get_layout() == h5py.h5d.VIRTUAL or made.get_external_count():
        return f"{name}: expected data of this file, found one kept in other files"
    filters = [made.get_filter(i)[0] for i in range(made.get_nfilters())]
    unknown = [number for number in filters if number not in _HDF5_FILTERS]
    return f"{name}: expected a usual compression, found HDF5 filter {unknown[0]}" if unknown else None


def check_zarr(store: Path) -> None:
    """Raises Rejected (`unsafe_file`) where a zarr store, a folder or a zip file, names a codec that is not allowed."""
    for name, text in _metadata_of(store):
        if len(text) > _MAX_METADATA_BYTES:
            raise Rejected("unsafe_file", f"{store}: {name}: expected metadata, found {len(text)} bytes")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise Rejected("unreadable", f"{store}: {name}: expected JSON, found {error}") from error
        for codec in _codecs_of(document):
            if not is_allowed_codec(codec):
                raise Rejected("unsafe_file", f"{store}: {name}: expected a usual codec, found {codec!r}")


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
    for folder, _, names in os.walk(store):
        for name in sorted(_ZARR_METADATA.intersection(names)):
            path = Path(folder) / name
            with path.open("rb") as file:
                yield str(path.relative_to(store)), file.read(_MAX_METADATA_BYTES + 1)


def _codecs_of(document: Any) -> Iterator[str]:
    """Names of the codecs in a document: v2's `compressor` and `filters`, v3's `codecs`, at any depth."""
    if isinstance(document, list):
        for item in document:
            yield from _codecs_of(item)
    if not isinstance(document, dict):
        return
    for key, value in document.items():
        if key in ("compressor", "filters", "codecs", "index_codecs"):
            for codec in value if isinstance(value, list) else [value]:
                if codec is not None:
                    yield str(codec.get("id", codec.get("name", codec)) if isinstance(codec, dict) else codec)
        # Attributes are the logger's own words, whatever they are called.
        if key != "attributes" and not key.endswith(".zattrs"):
            yield from _codecs_of(value)
