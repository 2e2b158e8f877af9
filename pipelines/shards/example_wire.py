"""`tf.train.Example` on the wire: written with known byte offsets, read without TensorFlow or protobuf.

Example    { features: 1 }                      every level: tag byte, varint length, content
Features   { map entry: 1 }*                    entry { key: 1, value: 2 }, here sorted by key
Feature    { bytes_list: 1 | float_list: 2 | int64_list: 3 }
BytesList  { value: 1 }*     FloatList { packed: 1 }     Int64List { packed varints: 1 }
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, overload

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.errors import FailedWork

_FIRST, _SECOND, _THIRD = 0x0A, 0x12, 0x1A  # Length-delimited fields 1, 2 and 3.
_MAX_VARINT_BYTES = 10


class CorruptExample(FailedWork):
    """Bytes that are no `tf.train.Example`."""


class Payload(Protocol):
    """Bytes, or what is indexed and sliced as they are."""

    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, index: int, /) -> int: ...
    @overload
    def __getitem__(self, index: slice, /) -> bytes: ...


@dataclass(frozen=True)
class ByteStrings(Sequence[bytes]):
    """The values of a bytes list, cut out of the payload only when asked for.

    offsets, lengths: int64 [n], the bytes of every value inside `payload`.
    """

    payload: Payload
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> "ByteStrings": ...
    def __getitem__(self, index: int | slice) -> "bytes | ByteStrings":
        if isinstance(index, slice):
            return ByteStrings(self.payload, self.offsets[index], self.lengths[index])
        start = int(self.offsets[index])
        return self.payload[start : start + int(self.lengths[index])]


@dataclass(frozen=True)
class ListBody:
    """The content of a `BytesList` that lies elsewhere, already with the tags and lengths of its values."""

    n_bytes: int
    chunks: Iterator[bytes]


Value = NDArray[np.float32] | NDArray[np.int64] | Sequence[bytes] | ListBody
Parsed = NDArray[np.float32] | NDArray[np.int64] | ByteStrings


@dataclass(frozen=True)
class Encoded:
    """An encoded example: its size, its bytes chunk by chunk, and where each `ListBody` will begin."""

    n_bytes: int
    chunks: Iterator[bytes]
    body_offsets: Mapping[str, int]


def varint(value: int) -> bytes:
    """Encodes an int64; negative ones take ten bytes.

    >>> varint(300).hex()
    'ac02'
    """
    # Protobuf writes a negative int64 as its two's complement of 64 bits.
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def varint_sizes(values: NDArray[np.integer]) -> NDArray[np.int64]:
    """Number of bytes of the varint of every value, which must not be negative."""
    sizes = np.ones(len(values), np.int64)
    for bits in range(7, 63, 7):
        sizes += values >= (1 << bits)
    return sizes


def field(content: bytes) -> bytes:
    """One value of a bytes list: tag, length, content."""
    return field_head(len(content)) + content


@lru_cache(maxsize=4096)
def field_head(n_bytes: int) -> bytes:
    """What stands before a value of so many bytes in a bytes list: tag and length."""
    return bytes([_FIRST]) + varint(n_bytes)


def encode_example(features: Mapping[str, Value]) -> Encoded:
    """Encodes float arrays, integer arrays and lists of bytes, sorted by key, so equal input gives equal bytes."""
    plan: list[tuple[str, bytes, int, Iterator[bytes]]] = []
    total = 0
    # Protobuf maps have no order, and TFDS readers need none; sorted, equal episodes have equal bytes and hashes.
    for key in sorted(features):
        kind, size, chunks = _list_content(features[key])
        name = field(key.encode())
        list_head = bytes([kind]) + varint(size)
        feature_head = bytes([_SECOND]) + varint(len(list_head) + size)
        entry_size = len(name) + len(feature_head) + len(list_head) + size
        head = bytes([_FIRST]) + varint(entry_size) + name + feature_head + list_head
        plan.append((key, head, size, chunks))
        total += len(head) + size
    example_head = bytes([_FIRST]) + varint(total)
    offsets, position = {}, len(example_head)
    for key, head, size, _ in plan:
        offsets[key] = position + len(head)
        position += len(head) + size
    return Encoded(position, _chunks(example_head, plan), {k: offsets[k] for k in features if _is_body(features[k])})


def parse_example(payload: Payload) -> dict[str, Parsed]:
    """Reads every feature: float32 [n], int64 [n] or ByteStrings; an empty list is an empty array of floats.

    Raises CorruptExample for bytes that are no example.
    """
    parsed: dict[str, Parsed] = {}
    try:
        for _, start, end in _fields(payload, 0, len(payload), _FIRST):
            for _, entry_start, entry_end in _fields(payload, start, end, _FIRST):
                key, value = _parse_entry(payload, entry_start, entry_end)
                parsed[key] = value
    except (IndexError, UnicodeDecodeError) as error:
        raise CorruptExample(f"expected a tf.train.Example, found bytes that break off: {error}") from error
    return parsed


def _is_body(value: Value) -> bool:
    return isinstance(value, ListBody)


def _chunks(head: bytes, plan: list[tuple[str, bytes, int, Iterator[bytes]]]) -> Iterator[bytes]:
    yield head
    for _, entry_head, _, chunks in plan:
        yield entry_head
        yield from chunks


def _list_content(value: Value) -> tuple[int, int, Iterator[bytes]]:
    """The tag of the list's kind, the size of the list, and its bytes."""
    if isinstance(value, ListBody):
        return _FIRST, value.n_bytes, value.chunks
    if not isinstance(value, np.ndarray):
        content = b"".join(part for item in value for part in (field_head(len(item)), item))
        return _FIRST, len(content), iter([content])
    if value.dtype.kind == "f":
        content = field(value.astype("<f4").tobytes()) if value.size else b""
        return _SECOND, len(content), iter([content])
    content = field(_varints(value.ravel().astype(np.int64))) if value.size else b""
    return _THIRD, len(content), iter([content])


def _varints(values: NDArray[np.int64]) -> bytes:
    if values.min() >= 0 and values.max() < 0x80:  # Flags, which are most of what is stored.
        return values.astype(np.uint8).tobytes()
    return b"".join(varint(int(value)) for value in values)


def _parse_entry(payload: Payload, start: int, end: int) -> tuple[str, Parsed]:
    key, value = "", _NOTHING
    for tag, a, b in _fields(payload, start, end):
        if tag == _FIRST:
            key = payload[a:b].decode()
        elif tag == _SECOND:
            value = _parse_feature(payload, a, b)
    return key, value


def _parse_feature(payload: Payload, start: int, end: int) -> Parsed:
    for tag, a, b in _fields(payload, start, end):
        if tag == _FIRST:
            spans = [(x, y) for _, x, y in _fields(payload, a, b, _FIRST)]
            edges = np.array(spans, np.int64).reshape(-1, 2)
            return ByteStrings(payload, edges[:, 0], edges[:, 1] - edges[:, 0])
        if tag == _SECOND:
            return _parse_floats(payload, a, b)
        if tag == _THIRD:
            return _parse_integers(payload, a, b)
    return _NOTHING


def _parse_floats(payload: Payload, start: int, end: int) -> NDArray[np.float32]:
    parts = [payload[a:b] for _, a, b in _fields(payload, start, end)]
    joined = b"".join(parts)
    if len(joined) % 4:
        raise CorruptExample(f"expected float32 values of 4 bytes, found {len(joined)} bytes")
    return np.frombuffer(joined, "<f4")


def _parse_integers(payload: Payload, start: int, end: int) -> NDArray[np.int64]:
    """Packed varints; unpacked ones (tag 0x08 before each) are rare and read alike."""
    parts = [payload[a:b] for _, a, b in _fields(payload, start, end)]
    data = np.frombuffer(b"".join(parts), np.uint8)
    if not len(data):
        return np.zeros(0, np.int64)
    last = data < 0x80
    if not last[-1]:
        raise CorruptExample("expected whole varints, found one that breaks off")
    starts = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    sizes = np.diff(np.concatenate([starts, [len(data)]]))
    if sizes.max() > _MAX_VARINT_BYTES:
        raise CorruptExample(f"expected varints of at most {_MAX_VARINT_BYTES} bytes, found {sizes.max()}")
    digit = np.arange(len(data)) - np.repeat(starts, sizes)
    bits = (data & 0x7F).astype(np.uint64) << (7 * digit).astype(np.uint64)
    return np.add.reduceat(bits, starts).view(np.int64)


def _fields(payload: Payload, start: int, end: int, only: int | None = None) -> Iterator[tuple[int, int, int]]:
    """Yields (tag, start, end) of the content of every field in payload[start:end]."""
    position = start
    while position < end:
        tag = payload[position]
        position += 1
        if only is not None and tag != only:
            raise CorruptExample(f"expected field tag {only:#x}, found {tag:#x} at byte {position - 1}")
        kind = tag & 7
        if kind == 0:
            content_start = position
            _, position = _read_varint(payload, position)
            yield tag, content_start, position
            continue
        # Wire type 5 has four bytes and no length: a float of a list that a foreign writer did not pack.
        if kind == 5:
            size = 4
        elif kind == 2:
            size, position = _read_varint(payload, position)
        else:
            raise CorruptExample(f"expected field tags of a tf.train.Example, found {tag:#x} at byte {position - 1}")
        # Checked here, since slices of Python end at the payload: a truncated record would read as a shorter picture.
        if position + size > end:
            raise CorruptExample(f"expected {size} bytes at byte {position}, found {end - position}")
        yield tag, position, position + size
        position += size


def _read_varint(payload: Payload, position: int) -> tuple[int, int]:
    """The value at a position, and the position after it."""
    value = payload[position]
    position += 1
    if value < 0x80:
        return value, position
    value &= 0x7F
    for shift in range(7, 7 * _MAX_VARINT_BYTES, 7):
        byte = payload[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise CorruptExample(f"expected a varint of at most {_MAX_VARINT_BYTES} bytes before byte {position}")


_NOTHING: Parsed = np.zeros(0, np.float32)
