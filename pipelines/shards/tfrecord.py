"""Records in an uncompressed TFRecord file: length, masked CRC-32C, payload, masked CRC-32C."""

import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, BinaryIO, overload

import google_crc32c

from pipelines.contract.errors import FailedWork
from pipelines.storage.paths import StoragePath

HEADER_BYTES = 12
FOOTER_BYTES = 4
# Longer payloads are not read as a whole.
LONG_BYTES = 1 << 26
_PIECE_BYTES, _NEAR_BYTES = 1 << 20, 1 << 8


class CorruptRecord(FailedWork):
    """A TFRecord file is cut off or its bytes are not those that were written."""


def write_record(file: BinaryIO, payload: bytes | Iterable[bytes], length: int | None = None) -> int:
    """Appends one record and returns the offset of its payload in the file.

    payload: the bytes, or chunks of `length` bytes together, which are written one by one.
    Raises ValueError when the chunks do not add up to `length`.
    """
    chunks: Iterable[bytes] = [payload] if isinstance(payload, bytes) else payload
    size = len(payload) if isinstance(payload, bytes) else length
    if size is None:
        raise ValueError("length: expected the number of bytes of a payload given in chunks, found None")
    head = struct.pack("<Q", size)
    file.write(head + struct.pack("<I", _mask(google_crc32c.value(head))))
    offset = file.tell()
    crc, written = 0, 0
    for chunk in chunks:
        crc = google_crc32c.extend(crc, chunk)
        written += file.write(chunk)
    if written != size:
        raise ValueError(f"length: expected {size} bytes of payload, found {written}")
    file.write(struct.pack("<I", _mask(crc)))
    return offset


def iter_records(path: StoragePath) -> Iterator[tuple[int, bytes]]:
    """Yields (offset of the payload, payload) of every record, checked. Raises CorruptRecord at the first bad one."""
    with path.open("rb") as file:
        for number, (offset, length) in enumerate(scan_records(path)):
            yield offset, _read_payload(file, f"{path}: record {number}", offset, length)


def scan_records(path: StoragePath) -> Iterator[tuple[int, int]]:
    """Yields (offset, length) of every payload, reading only the heads. Raises CorruptRecord at the first bad one."""
    size = path.stat().st_size
    with path.open("rb") as file:
        number, start = 0, 0
        while start < size:
            where = f"{path}: record {number} at byte {start}"
            file.seek(start)
            head = file.read(HEADER_BYTES)
            if len(head) < HEADER_BYTES:
                raise CorruptRecord(f"{where}: {_truncated(HEADER_BYTES, len(head))}")
            length, crc = struct.unpack("<QI", head)
            if _mask(google_crc32c.value(head[:8])) != crc:
                raise CorruptRecord(f"{where}: {_crc_mismatch('length')}")
            end = start + HEADER_BYTES + length + FOOTER_BYTES
            if end > size:
                raise CorruptRecord(f"{where}: {_truncated(length + FOOTER_BYTES, size - start - HEADER_BYTES)}")
            yield start + HEADER_BYTES, length
            number, start = number + 1, end


def read_record(path: StoragePath, offset: int, length: int) -> "bytes | LongPayload":
    """Reads the payload that `scan_records` found, checked; a long one stays in its file. Raises CorruptRecord."""
    if length > LONG_BYTES and isinstance(path, Path):
        return LongPayload(path, offset, length)
    with path.open("rb") as file:
        return _read_payload(file, f"{path}: record", offset, length)


class LongPayload:
    """A payload read from its file a piece at a time, for episodes that are longer than a worker's memory.

    It is indexed and sliced like the bytes that it stands for. Raises CorruptRecord when they are not those written.
    """

    def __init__(self, path: Path, offset: int, length: int) -> None:
        self._file = open(path, "rb", buffering=0)
        self._offset, self._length = offset, length
        self._start, self._near = 0, b""
        crc = 0
        for start in range(0, length, _PIECE_BYTES):
            crc = google_crc32c.extend(crc, self[start : start + _PIECE_BYTES])
        footer = os.pread(self._file.fileno(), FOOTER_BYTES, offset + length)
        if len(footer) < FOOTER_BYTES or _mask(crc) != struct.unpack("<I", footer)[0]:
            raise CorruptRecord(f"{path}: record at byte {offset - HEADER_BYTES}: {_crc_mismatch('payload')}")

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int, /) -> int: ...
    @overload
    def __getitem__(self, index: slice, /) -> bytes: ...
    def __getitem__(self, index: int | slice, /) -> int | bytes:
        if isinstance(index, slice):
            start, stop, _ = index.indices(self._length)
            return os.pread(self._file.fileno(), max(0, stop - start), self._offset + start)
        if not 0 <= index < self._length:
            raise IndexError(index)
        if not self._start <= index < self._start + len(self._near):
            self._start, self._near = index, self[index : index + _NEAR_BYTES]
        return self._near[index - self._start]


def _read_payload(file: IO[bytes], record: str, offset: int, length: int) -> bytes:
    file.seek(offset)
    payload = file.read(length)
    footer = file.read(FOOTER_BYTES)
    where = f"{record} at byte {offset - HEADER_BYTES}"
    if len(footer) < FOOTER_BYTES:
        raise CorruptRecord(f"{where}: {_truncated(length + FOOTER_BYTES, len(payload) + len(footer))}")
    if _mask(google_crc32c.value(payload)) != struct.unpack("<I", footer)[0]:
        raise CorruptRecord(f"{where}: {_crc_mismatch('payload')}")
    return payload


_ADVICE = "Copy the file again from its source, or convert that shard again."


def _mask(crc: int) -> int:
    """The masking of the TFRecord format, which keeps a CRC of data that holds CRCs from degenerating."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _truncated(expected: int, found: int) -> str:
    return f"expected {expected} more bytes, found {found}: the file is truncated. {_ADVICE}"


def _crc_mismatch(what: str) -> str:
    return f"expected a {what} that fits its checksum (crc), found other bytes. {_ADVICE}"
