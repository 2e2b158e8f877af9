"""ROS 1 bags, format 2.0: opened by their index, or, where it is missing, by one pass over their records."""

import struct

from pipelines.contract.native import Rejected
from pipelines.sources.bags.logs.blocks import Block, Index, unpack
from pipelines.sources.bags.logs.log import (
    MAX_CHANNELS,
    MAX_DEFINITION_BYTES,
    MAX_TIME_NS,
    ByteSource,
    Channel,
    unreadable,
)

MAGIC = b"#ROSBAG V2.0\n"
_MESSAGE, _BAG, _INDEX, _CHUNK, _CHUNK_INFO, _CONNECTION = 2, 3, 4, 5, 6, 7
_LENGTH = struct.Struct("<I")
# Heads hold some short fields; of a connection's, all but the definition.
_MAX_HEAD_BYTES = 1 << 16
Fields = dict[bytes, bytes]


def read_index(source: ByteSource) -> Index:
    """What a bag's index says; one that was not closed is read through once. Raises Rejected where it is no bag."""
    if source.read(0, len(MAGIC)) != MAGIC:
        found = source.read(0, len(MAGIC))
        raise unreadable(source.name, f"expected a ROS 1 bag of format 2.0, found {found!r} at its beginning")
    damage: list[str] = []
    try:
        channels, blocks = _read_stated(source)
    except (ValueError, KeyError, struct.error) as error:
        damage.append(f"its index cannot be read ({error})")
        channels, blocks = _scan(source, damage)
    return Index(channels=channels, blocks=blocks, parse=parse_block, damage=tuple(damage))


def parse_block(data: memoryview, found: list[int]) -> None:
    """Adds the messages of a chunk; connections are passed over. Raises Rejected where a record ends behind it."""
    at = 0
    while at < len(data):
        try:
            fields, begin, end = _record(data, at)
            if fields[b"op"] == b"\x02":
                time_s, time_ns = struct.unpack("<II", fields[b"time"])
                found += (_number(fields[b"conn"]), time_s * 1_000_000_000 + time_ns, begin, end)
        except (ValueError, KeyError, struct.error) as error:
            raise Rejected("unreadable_bag", f"a chunk with a record that cannot be read: {error}") from error
        at = end


def _record(data: memoryview, at: int) -> tuple[Fields, int, int]:
    """The head of the record at `at`, and where its data begin and end. Raises ValueError where it is not whole."""
    (n_head,) = _LENGTH.unpack_from(data, at)
    begin = at + 4 + n_head + 4
    if n_head > _MAX_HEAD_BYTES or begin > len(data):
        raise ValueError(f"expected a record at {at}, found a head of {n_head} bytes")
    end = begin + _LENGTH.unpack_from(data, begin - 4)[0]
    if end > len(data):
        raise ValueError(f"expected a record of {end - begin} bytes, found {len(data) - begin}")
    return _fields(bytes(data[at + 4 : begin - 4])), begin, end


def _fields(head: bytes) -> Fields:
    """`length name=value` after one another."""
    fields: Fields = {}
    at = 0
    while at < len(head):
        (length,) = _LENGTH.unpack_from(head, at)
        name, equals, value = head[at + 4 : at + 4 + length].partition(b"=")
        if not equals or at + 4 + length > len(head):
            raise ValueError("expected fields name=value, found others")
        fields[name] = value
        at += 4 + length
    return fields


def _number(value: bytes) -> int:
    return int.from_bytes(value, "little")


def _next(source: ByteSource, at: int) -> tuple[Fields, int, int]:
    """As `_record`, of the file; the data may end behind it."""
    (n_head,) = _LENGTH.unpack(source.read(at, 4))
    if n_head > _MAX_HEAD_BYTES:
        raise ValueError(f"expected a record at byte {at}, found a head of {n_head} bytes")
    head = source.read(at + 4, n_head + 4)
    return _fields(head[:-4]), at + 8 + n_head, at + 8 + n_head + _LENGTH.unpack(head[-4:])[0]


def _read_stated(source: ByteSource) -> tuple[dict[int, Channel], list[Block]]:
    fields, _, _ = _next(source, len(MAGIC))
    at, n_channels, n_chunks = (_number(fields[name]) for name in (b"index_pos", b"conn_count", b"chunk_count"))
    if at == 0:
        raise ValueError("the bag was not closed")
    channels: dict[int, Channel] = {}
    blocks: list[Block] = []
    while at < source.size:
        fields, begin, end = _next(source, at)
        if end > source.size:
            raise ValueError("it ends inside a record")
        if fields[b"op"] == bytes([_CONNECTION]):
            _add_channel(channels, fields, source.read(begin, end - begin))
        elif fields[b"op"] == bytes([_CHUNK_INFO]):
            blocks.append(_chunk_at(source, fields, source.read(begin, min(end - begin, 8 * MAX_CHANNELS))))
        at = end
    if len(channels) != n_channels or len(blocks) != n_chunks:
        raise ValueError(f"it states {n_channels} connections and {n_chunks} chunks, and lists others")
    return channels, sorted(blocks, key=lambda block: block.offset)


def _chunk_at(source: ByteSource, info: Fields, counts: bytes) -> Block:
    """A chunk as the index has it. counts: connections and how many messages each has in it."""
    fields, begin, end = _next(source, _number(info[b"chunk_pos"]))
    if fields[b"op"] != bytes([_CHUNK]) or end > source.size:
        raise ValueError("it lists a chunk that is not there")
    start, stop = (struct.unpack("<II", info[name]) for name in (b"start_time", b"end_time"))
    return Block(
        offset=begin,
        n_bytes=end - begin,
        size=_number(fields[b"size"]),
        compression=fields[b"compression"].decode("ascii", "replace"),
        start_ns=start[0] * 1_000_000_000 + start[1],
        end_ns=stop[0] * 1_000_000_000 + stop[1],
        channels=frozenset(connection for connection, n in struct.iter_unpack("<II", counts) if n),
    )


def _add_channel(channels: dict[int, Channel], head: Fields, data: bytes) -> None:
    about = _fields(data)
    definition = about.get(b"message_definition", b"")
    if len(channels) >= MAX_CHANNELS or len(definition) > MAX_DEFINITION_BYTES:
        raise ValueError("expected fewer connections or shorter definitions")
    id = _number(head[b"conn"])
    channels[id] = Channel(
        id=id,
        topic=head[b"topic"].decode(),
        type=about.get(b"type", b"").decode(),
        wire="ros1",
        schema="ros1msg",
        definition=definition,
    )


def _scan(source: ByteSource, damage: list[str]) -> tuple[dict[int, Channel], list[Block]]:
    """Reads a bag record by record, as far as it goes."""
    channels: dict[int, Channel] = {}
    blocks: list[Block] = []
    at = len(MAGIC)
    while at < source.size:
        try:
            fields, begin, end = _next(source, at)
            op = _number(fields[b"op"])
            if op == _CONNECTION:
                _add_channel(channels, fields, source.read(begin, end - begin))
            elif op == _CHUNK:
                block = _scanned_chunk(fields, begin, end, source)
                blocks.append(block)
                _add_channels(channels, memoryview(unpack(block, source)), block.is_cut)
        except (ValueError, KeyError, struct.error) as error:
            damage.append(f"it cannot be read from byte {at} on ({error})")
            break
        except Rejected:
            # Who reads messages meets it again, and names it.
            if blocks[-1].is_cut:
                blocks.pop()
        if end > source.size:
            damage.append(f"it ends at byte {source.size}, inside a record")
        at = end
    return channels, blocks


def _scanned_chunk(fields: Fields, begin: int, end: int, source: ByteSource) -> Block:
    return Block(
        offset=begin,
        n_bytes=min(end, source.size) - begin,
        size=_number(fields[b"size"]),
        compression=fields[b"compression"].decode("ascii", "replace"),
        end_ns=MAX_TIME_NS,
        is_cut=end > source.size,
    )


def _add_channels(channels: dict[int, Channel], data: memoryview, is_cut: bool) -> None:
    at = 0
    while at < len(data):
        try:
            fields, begin, end = _record(data, at)
        except (ValueError, struct.error):
            if is_cut:
                return
            raise
        if fields[b"op"] == bytes([_CONNECTION]):
            _add_channel(channels, fields, bytes(data[begin:end]))
        at = end
