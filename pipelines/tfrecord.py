"""Records in an uncompressed TFRecord file: length, masked CRC-32C, payload, masked CRC-32C."""

import struct
from collections.abc import Iterable, Iterator
from typing import IO, BinaryIO

import google_crc32c

from pipelines.errors import FailedWork
from pipelines.places import Place

HEADER_BYTES = 12
FOOTER_BYTES = 4


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


def iter_records(path: Place) -> Iterator[tuple[int, bytes]]:
    """Yields (offset of the payload, payload) of every record, checked. Raises CorruptRecord at the first bad one."""
    with path.open("rb") as file:
        for number, (offset, length) in enumerate(scan_records(path)):
            yield offset, _read_payload(file, f"{path}: record {number}", offset, length)


def scan_records(path: Place) -> Iterator[tuple[int, int]]:
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


def read_record(path: Place, offset: int, length: int) -> bytes:
    """Reads the payload that `scan_records` found, and checks it. Raises CorruptRecord."""
    with path.open("rb") as file:
        return _read_payload(file, f"{path}: record", offset, length)


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
