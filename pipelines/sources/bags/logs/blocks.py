"""Bags of compressed blocks (MCAP and ROS 1 chunks): blocks by time, unpacked within limits, and their messages."""

import bz2
from array import array
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import lz4.frame
import numpy as np
import zstandard
from isal import isal_zlib
from numpy.typing import NDArray

from pipelines.contract.native import Rejected
from pipelines.sources.bags.logs.log import (
    MAX_BLOCK_BYTES,
    MAX_TIME_NS,
    Batch,
    Batches,
    ByteSource,
    Channel,
    Found,
    of_channels,
    unreadable,
)

Packed = bytes | memoryview
# Adds the four numbers of each message of a block, see `Found`, to a list.
Parse = Callable[[memoryview, list[int]], None]
# Blocks that are kept unpacked for the cameras that share them.
_KEPT_BYTES = 10 << 20
# LZ4 packs no more than 255 bytes into one.
_LZ4_RATIO = 255
# In memory, as Python holds it.
_BYTES_A_BLOCK = 500
_UNPACK_ERRORS = (zstandard.ZstdError, RuntimeError, OSError, EOFError, ValueError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A stretch of a bag that holds messages.

    offset, n_bytes: of its packed bytes in the file. size: when unpacked. compression: empty, none, zstd, lz4 or bz2.
    crc: of the unpacked bytes, 0 where none is stated; crc_at: where the file states it, if that is still to be read.
    start_ns, end_ns: times of its messages.
    channels: those that have messages in it, where the index says so. is_cut: the file ends within it.
    """

    offset: int
    n_bytes: int
    size: int
    compression: str = ""
    crc: int = 0
    crc_at: int = 0
    start_ns: int = 0
    end_ns: int = MAX_TIME_NS
    channels: frozenset[int] | None = None
    is_cut: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether its bytes lie in the file as they are."""
        return self.compression in ("", "none")


@dataclass(frozen=True, kw_only=True)
class Index:
    """What a file was found to hold: channels by id, blocks in their order, how to read them, and what was lost."""

    channels: Mapping[int, Channel]
    blocks: Sequence[Block]
    parse: Parse
    damage: tuple[str, ...] = ()

    def n_bytes(self) -> int:
        """Roughly the memory that it takes."""
        n_named = sum(len(each.topic) + len(each.definition) for each in self.channels.values())
        return _BYTES_A_BLOCK * (len(self.blocks) + len(self.channels)) + n_named


class BlockLog(Batches):
    """A bag whose messages lie in blocks."""

    def __init__(self, source: ByteSource, index: Index) -> None:
        self.channels, self.damage = index.channels, list(index.damage)
        self._source, self._blocks, self._parse = source, index.blocks, index.parse
        self._kept: OrderedDict[int, bytes] = OrderedDict()

    def span(self) -> tuple[int, int]:
        known = [block for block in self._blocks if block.n_bytes]
        return min((b.start_ns for b in known), default=0), max((b.end_ns for b in known), default=-1)

    def batches(self, channels: Collection[int], start_ns: int = 0, stop_ns: int = MAX_TIME_NS) -> Iterator[Batch]:
        wanted, listed = frozenset(channels), np.array(sorted(channels), np.uint64)
        for number, block in enumerate(self._blocks):
            if block.end_ns < start_ns or block.start_ns > stop_ns:
                continue
            if block.channels is not None and not block.channels & wanted:
                continue
            view = memoryview(self._unpacked(number, check=True))
            numbers: list[int] = []
            try:
                self._parse(view, numbers)
            except Rejected:
                # What follows the last whole message of a block that the file ends in is not there.
                if not block.is_cut:
                    raise
            found = _select(numbers, listed, start_ns, stop_ns)
            if len(found):
                yield Batch(view, (number,), found)

    def read_at(self, at: Sequence[int]) -> memoryview:
        number, begin, end = at
        block = self._blocks[number]
        if block.is_plain and number not in self._kept:
            return memoryview(self._source.read(block.offset + begin, end - begin))
        return memoryview(self._unpacked(number))[begin:end]

    def close(self) -> None:
        self._kept.clear()
        self._source.close()

    def _unpacked(self, number: int, check: bool = False) -> bytes:
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        block = self._blocks[number]
        data = unpack(block, self._source)
        if check and not block.is_cut:
            _check_crc(block, data, self._source)
        if not block.is_plain:
            self._kept[number] = data
            while len(self._kept) > 1 and sum(map(len, self._kept.values())) > _KEPT_BYTES:
                self._kept.popitem(last=False)
        return data


def _select(numbers: Sequence[int], channels: NDArray[np.uint64], start_ns: int, stop_ns: int) -> Found:
    """The messages of these channels that were logged within a range of time."""
    # A writer may state any time of 64 bits.
    table = np.frombuffer(array("Q", numbers), np.uint64).reshape(-1, 4)
    times = table[:, 1]
    inside = of_channels(table, channels) & (times >= np.uint64(start_ns)) & (times <= np.uint64(stop_ns))
    return table[inside].astype(np.int64)


def _check_crc(block: Block, data: bytes, source: ByteSource) -> None:
    crc = int.from_bytes(source.read_alone(block.crc_at, 4), "little") if block.crc_at else block.crc
    if crc and isal_zlib.crc32(data) != crc:
        raise unreadable(source.name, f"chunk at byte {block.offset}: its checksum is not that of its bytes")


def unpack(block: Block, source: ByteSource) -> bytes:
    """Returns a block's bytes; of one that the file ends in, what is there. Raises Rejected where they do not unpack,
    or to more or less than the bag states."""
    where = f"{source.name}: chunk at byte {block.offset}"
    if block.size > MAX_BLOCK_BYTES or block.n_bytes > MAX_BLOCK_BYTES:
        raise Rejected("absurd_size", f"{where}: expected at most {MAX_BLOCK_BYTES} bytes, found {block.size} stated")
    # Of LZ4 as bytes, which its package otherwise copies to.
    packed = (source.view if block.compression == "zstd" else source.read)(block.offset, block.n_bytes)
    try:
        data = bytes(packed) if block.is_plain else _UNPACKERS[block.compression](packed, block.size)
    except KeyError:
        raise unreadable(where, f"expected zstd, lz4, bz2 or none, found {block.compression[:40]!r}") from None
    except _UNPACK_ERRORS as error:
        raise unreadable(where, f"{block.compression}: {error}") from error
    if len(data) != block.size and not block.is_cut:
        raise unreadable(where, f"expected {block.size} bytes unpacked, found {len(data)}")
    return data


def _unpack_zstd(packed: Packed, size: int) -> bytes:
    stated = zstandard.get_frame_parameters(packed).content_size
    # The library allocates what a frame's head states; no size is stated as 2^64 - 1.
    if size < stated < 1 << 63:
        raise ValueError(f"expected a frame of {size} bytes, found one that states {stated}")
    unpacking = zstandard.ZstdDecompressor(max_window_size=MAX_BLOCK_BYTES)
    # By a reader, which ends without an error where the file ends in the frame, and holds no more than it is asked for.
    with unpacking.stream_reader(packed) as reader:
        return reader.read(size + 1)


def _unpack_lz4(packed: Packed, size: int) -> bytes:
    if size > _LZ4_RATIO * len(packed) + _LZ4_RATIO:
        raise ValueError(f"expected at most {_LZ4_RATIO} bytes for each of {len(packed)}, found {size} stated")
    data: bytes = lz4.frame.LZ4FrameDecompressor().decompress(packed, max_length=size + 1)
    return data


def _unpack_bz2(packed: Packed, size: int) -> bytes:
    return bz2.BZ2Decompressor().decompress(packed, max_length=size + 1)


_UNPACKERS: dict[str, Callable[[Packed, int], bytes]] = {"zstd": _unpack_zstd, "lz4": _unpack_lz4, "bz2": _unpack_bz2}
