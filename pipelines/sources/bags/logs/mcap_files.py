"""MCAP files: opened by their index, or, where it is missing or damaged, by one pass over their records."""

import io
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from mcap import records
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode

from pipelines.contract.native import Rejected
from pipelines.sources.bags.logs.blocks import Block, Index, unpack
from pipelines.sources.bags.logs.log import (
    MAX_BLOCK_BYTES,
    MAX_CHANNELS,
    MAX_DEFINITION_BYTES,
    ByteSource,
    Channel,
    Wire,
    unreadable,
)

MAGIC = b"\x89MCAP0\r\n"
_HEAD = struct.Struct("<BQ")
# Of a message record: channel, sequence, log time, publish time.
_MESSAGE = struct.Struct("<HIQQ")
_HEAD_AND_MESSAGE = struct.Struct("<BQHIQQ")
# Of a chunk: first and last time, unpacked size, checksum, length of the compression's name.
_CHUNK = struct.Struct("<QQQII")
_CRC_AT = 24
_FOOTER = struct.Struct("<BQQQI")
_MAX_SUMMARY_BYTES = 1 << 28
# Messages outside of chunks are taken together in blocks of so many bytes.
_RUN_BYTES = 1 << 22
_WIRES: Mapping[str, Wire] = {"cdr": "cdr", "ros1": "ros1", "protobuf": "protobuf", "json": "json"}
_READ_ERRORS = (McapError, struct.error, UnicodeDecodeError, ValueError)


@dataclass
class _Parts:
    """What a file was found to hold. indexed: where each listed chunk begins, and where its index behind it ends."""

    schemas: dict[int, records.Schema] = field(default_factory=dict)
    channels: dict[int, records.Channel] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)
    indexed: list[tuple[int, int]] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)
    statistics: records.Statistics | None = None

    def add(self, opcode: int, body: bytes) -> None:
        """Takes a schema, a channel, or what the summary holds; anything else is left out."""
        stream = ReadDataStream(io.BytesIO(body))
        if opcode == Opcode.SCHEMA:
            schema = records.Schema.read(stream)
            self.schemas[schema.id] = schema
        elif opcode == Opcode.CHANNEL:
            channel = records.Channel.read(stream)
            self.channels[channel.id] = channel
        elif opcode == Opcode.STATISTICS:
            self.statistics = records.Statistics.read(stream)
        elif opcode == Opcode.CHUNK_INDEX:
            index = records.ChunkIndex.read(stream)
            start, length = index.chunk_start_offset, index.chunk_length + index.message_index_length
            self.blocks.append(_block_of(index))
            self.indexed.append((start, start + length))
        if len(self.channels) > MAX_CHANNELS:
            raise ValueError(f"expected at most {MAX_CHANNELS} channels, found more")


def read_index(source: ByteSource) -> Index:
    """What a file's index says; one without is read through once. Raises Rejected where it is no MCAP."""
    if source.read(0, len(MAGIC)) != MAGIC:
        raise unreadable(source.name, "expected an MCAP file, found other bytes at its beginning")
    try:
        parts = _read_summary(source)
    except (EOFError, *_READ_ERRORS) as error:
        parts = _scan(source, [f"its index cannot be read ({error})"])
    return Index(channels=_channels_of(parts), blocks=parts.blocks, parse=parse_block, damage=tuple(parts.damage))


def parse_block(data: memoryview, found: list[int]) -> None:
    """Adds the messages of a block; other records are passed over. Raises Rejected where a record ends behind it."""
    at, n = 0, len(data)
    unpack, head, size, wanted = _HEAD_AND_MESSAGE.unpack_from, _HEAD.size, _HEAD_AND_MESSAGE.size, int(Opcode.MESSAGE)
    while at < n:
        # Nearly all records are messages.
        if at + size <= n:
            opcode, length, channel, _, time_ns, _ = unpack(data, at)
            end = at + head + length
            if opcode == wanted and size <= end - at and end <= n:
                found += (channel, time_ns, at + size, end)
                at = end
                continue
        if at + head > n:
            raise Rejected("unreadable_bag", "a chunk that ends inside a record")
        opcode, length = _HEAD.unpack_from(data, at)
        begin, at = at + head, at + head + length
        if at > n or opcode == Opcode.MESSAGE:
            raise Rejected("unreadable_bag", f"a record of {length} bytes, found {n - begin}")


def _channels_of(parts: _Parts) -> dict[int, Channel]:
    channels = {}
    for id, channel in parts.channels.items():
        schema = parts.schemas.get(channel.schema_id)
        if schema is not None and len(schema.data) > MAX_DEFINITION_BYTES:
            schema = None
        channels[id] = Channel(
            id=id,
            topic=channel.topic,
            type=schema.name if schema else "",
            wire=_WIRES.get(channel.message_encoding, ""),
            schema=schema.encoding if schema else "",
            definition=schema.data if schema else b"",
        )
    return channels


def _read_summary(source: ByteSource) -> _Parts:
    """Reads the index at the file's end. Raises ValueError where there is none, or it contradicts itself."""
    tail = source.read(source.size - len(MAGIC) - _FOOTER.size, _FOOTER.size + len(MAGIC))
    if not tail.endswith(MAGIC) or len(tail) < _FOOTER.size + len(MAGIC):
        raise ValueError("the file does not end as an MCAP file does")
    opcode, _, start, _, crc = _FOOTER.unpack_from(tail)
    end = source.size - len(MAGIC) - _FOOTER.size
    if opcode != Opcode.FOOTER or not 0 < start <= end or end - start > _MAX_SUMMARY_BYTES:
        raise ValueError("it has none")
    data = source.read(start, end - start)
    # The checksum covers the footer, too, but for the checksum itself.
    if crc and zlib.crc32(tail[: _FOOTER.size - 4], zlib.crc32(data)) != crc:
        raise ValueError("its checksum is not that of its bytes")
    parts, at = _Parts(), 0
    while at + _HEAD.size <= len(data):
        opcode, length = _HEAD.unpack_from(data, at)
        body = data[at + _HEAD.size : at + _HEAD.size + length]
        if len(body) < length:
            raise ValueError("it ends inside a record")
        parts.add(opcode, body)
        at += _HEAD.size + length
    return _checked(parts, source, start)


def _checked(parts: _Parts, source: ByteSource, end: int) -> _Parts:
    """Raises ValueError where an index, which begins at `end`, does not lead to all messages."""
    known = parts.statistics
    if known is None or known.chunk_count != len(parts.blocks) or (known.message_count and not parts.blocks):
        raise ValueError("it does not list every chunk")
    if any(block.offset + block.n_bytes > source.size for block in parts.blocks):
        raise ValueError("it lists chunks behind the end of the file")
    if len(parts.channels) < known.channel_count:
        raise ValueError("it does not list every channel")
    _check_between(parts.indexed, end, source)
    parts.blocks.sort(key=lambda block: block.offset)
    return parts


def _check_between(chunks: list[tuple[int, int]], end: int, source: ByteSource) -> None:
    """Raises ValueError where messages lie outside of the chunks: nothing in an index leads to them."""
    at = len(MAGIC)
    for start, stop in [*sorted(chunks), (end, end)]:
        while at < start:
            opcode, length = _HEAD.unpack(source.read(at, _HEAD.size))
            if opcode in (0, Opcode.MESSAGE):
                raise ValueError("messages lie outside of the chunks that it lists")
            at += _HEAD.size + length
        at = max(at, stop)


def _block_of(index: records.ChunkIndex) -> Block:
    """A chunk as the index has it; its bytes begin behind the head of its record, whose length the index implies."""
    head = _HEAD.size + _CHUNK.size + len(index.compression.encode()) + 8
    return Block(
        offset=index.chunk_start_offset + head,
        n_bytes=index.compressed_size,
        size=index.uncompressed_size,
        compression=index.compression,
        # Of a chunk's record; the index leaves it out.
        crc_at=index.chunk_start_offset + _HEAD.size + _CRC_AT,
        start_ns=index.message_start_time,
        end_ns=index.message_end_time,
        # A writer may leave these indexes out.
        channels=frozenset(index.message_index_offsets) if index.message_index_offsets else None,
    )


def _scan(source: ByteSource, damage: list[str]) -> _Parts:
    """Reads a file record by record, as far as it goes."""
    parts, at = _Parts(damage=damage), len(MAGIC)
    run: list[int] = []
    while at + _HEAD.size <= source.size:
        opcode, length = _HEAD.unpack(source.read(at, _HEAD.size))
        body, end = at + _HEAD.size, at + _HEAD.size + length
        if opcode in (Opcode.DATA_END, Opcode.FOOTER):
            # Only the index was missing: all that was written is here.
            damage.clear()
            break
        if opcode == 0 or (end > source.size and opcode != Opcode.CHUNK):
            damage.append(f"it ends at byte {source.size}, inside a record")
            break
        if opcode == Opcode.MESSAGE:
            run += [] if run else [at]
            if end - run[0] >= _RUN_BYTES:
                parts.blocks.append(_run(run.pop(), end))
        else:
            if run:
                parts.blocks.append(_run(run.pop(), at))
            if opcode in (Opcode.SCHEMA, Opcode.CHANNEL) and length <= MAX_BLOCK_BYTES:
                try:
                    parts.add(opcode, source.read(body, length))
                except (EOFError, *_READ_ERRORS) as error:
                    # Without it messages would count for another topic, or for none.
                    raise unreadable(source.name, f"a record at byte {at} that cannot be read ({error})") from error
            elif opcode == Opcode.CHUNK:
                _add_chunk(parts, source, body, min(end, source.size), end > source.size)
        at = end
    if run:
        parts.blocks.append(_run(run.pop(), min(at, source.size)))
    return parts


def _run(start: int, end: int) -> Block:
    return Block(offset=start, n_bytes=end - start, size=end - start)


def _add_chunk(parts: _Parts, source: ByteSource, at: int, end: int, is_cut: bool) -> None:
    """Takes a chunk and the channels in it. Raises nothing: one that cannot be read is left to who reads messages."""
    head = source.read(at, _CHUNK.size)
    if len(head) < _CHUNK.size:
        parts.damage.append(f"it ends at byte {source.size}, inside a chunk")
        return
    start_ns, end_ns, size, crc, n_name = _CHUNK.unpack(head)
    name = source.read(at + _CHUNK.size, min(n_name, 64) + 8)
    compression = name[:-8].decode(errors="replace")
    offset = at + _CHUNK.size + n_name + 8
    stated = int.from_bytes(name[-8:], "little")
    if is_cut:
        parts.damage.append(f"it ends at byte {source.size}, inside a chunk")
    elif offset + stated > end:
        parts.damage.append(f"the chunk at byte {at} states more bytes than it has")
    block = Block(
        offset=offset,
        n_bytes=max(0, min(stated, end - offset)),
        size=size,
        compression=compression,
        crc=crc,
        start_ns=start_ns,
        end_ns=end_ns,
        is_cut=is_cut,
    )
    parts.blocks.append(block)
    try:
        _add_channels(parts, memoryview(unpack(block, source)))
    except (Rejected, *_READ_ERRORS):
        if is_cut:
            parts.blocks.pop()


def _add_channels(parts: _Parts, data: memoryview) -> None:
    at = 0
    while at + _HEAD.size <= len(data):
        opcode, length = _HEAD.unpack_from(data, at)
        body = data[at + _HEAD.size : at + _HEAD.size + length]
        if opcode in (Opcode.SCHEMA, Opcode.CHANNEL) and len(body) == length:
            parts.add(opcode, bytes(body))
        at += _HEAD.size + length
