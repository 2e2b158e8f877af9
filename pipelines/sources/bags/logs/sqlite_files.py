"""rosbag2 files of SQLite: read-only, with nothing in them that would run, messages by their row."""

import re
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
import zstandard

from pipelines.contract.native import Rejected
from pipelines.sources.bags.logs.log import (
    MAX_BLOCK_BYTES,
    MAX_CHANNELS,
    MAX_DEFINITION_BYTES,
    MAX_TIME_NS,
    Batch,
    Batches,
    Channel,
    unreadable,
)
from pipelines.sources.folders import check_regular

MAGIC = b"SQLite format 3\0"
_ZSTD = b"\x28\xb5\x2f\xfd"
# Columns that SQLite computes while it reads; rosbag2 has none.
_COMPUTED = re.compile(r"\bgenerated\b|\bas\s*\(", re.IGNORECASE)


class SqliteLog(Batches):
    """One rosbag2 file. Raises Rejected where it is no such database, or one that does more than hold rows."""

    def __init__(self, path: Path) -> None:
        check_regular(path)
        self.damage: list[str] = []
        self._path = path
        # Immutable: without it SQLite would write beside a file that is only read.
        self._file = sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True, check_same_thread=False)
        try:
            self._file.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_BLOCK_BYTES)
            self._file.execute("PRAGMA trusted_schema = OFF")
            self._file.execute("PRAGMA cell_size_check = ON")
            self._accept_cut_off()
            _check_tables(self._file, path)
            self.channels = _read_channels(self._file)
        except sqlite3.Error as error:
            self._file.close()
            raise unreadable(path, f"expected a rosbag2 database: {error}") from error
        except BaseException:
            self._file.close()
            raise
        log = path.with_name(f"{path.name}-wal")
        if log.exists() and log.stat().st_size:
            self.damage.append(f"{log.name} beside it holds messages that were not written into it")

    def _accept_cut_off(self) -> None:
        """SQLite opens no file that is shorter than its head says, unless its schema counts as one being repaired."""
        try:
            self._file.execute("SELECT 1 FROM sqlite_master").fetchone()
        except sqlite3.DatabaseError as error:
            self._file.execute("PRAGMA writable_schema = ON")
            self.damage.append(f"it is shorter than it should be ({error})")

    def span(self) -> tuple[int, int]:
        try:
            first, last = self._file.execute("SELECT MIN(timestamp), MAX(timestamp) FROM messages").fetchone()
        except sqlite3.Error:
            return 0, MAX_TIME_NS
        return (0, -1) if first is None else (int(first), int(last))

    def batches(self, channels: Collection[int], start_ns: int = 0, stop_ns: int = MAX_TIME_NS) -> Iterator[Batch]:
        listed = ",".join(str(int(channel)) for channel in channels) or "-1"
        # All rows are read in the order of the file, of which a part may be missing; a range of times by their index.
        hint = "NOT INDEXED" if (start_ns, stop_ns) == (0, MAX_TIME_NS) else ""
        ask = (
            f"SELECT id, topic_id, timestamp, data FROM messages {hint} "
            f"WHERE topic_id IN ({listed}) AND timestamp BETWEEN ? AND ? ORDER BY id"
        )
        try:
            for row, channel, time_ns, data in self._file.execute(ask, (start_ns, stop_ns)):
                plain = self._plain(data)
                yield Batch(memoryview(plain), (row,), np.array([(channel, time_ns, 0, len(plain))]))
        except (sqlite3.Error, TypeError) as error:
            # Pages follow one another as they were written: what is behind the first that is missing is gone.
            self.damage.append(f"it cannot be read to its end ({error})")

    def read_at(self, at: Sequence[int]) -> memoryview:
        try:
            (data,) = self._file.execute("SELECT data FROM messages WHERE id = ?", at[:1]).fetchone()
        except (sqlite3.Error, TypeError) as error:
            raise unreadable(self._path, f"message {at[0]}: {error}") from error
        return memoryview(self._plain(data))

    def close(self) -> None:
        self._file.close()

    def _plain(self, data: bytes) -> bytes:
        """The message, which rosbag2 compresses by itself in its mode MESSAGE; no encoding begins as Zstandard does."""
        if not data.startswith(_ZSTD):
            return data
        try:
            with zstandard.ZstdDecompressor(max_window_size=MAX_BLOCK_BYTES).stream_reader(data) as reader:
                plain = reader.read(MAX_BLOCK_BYTES + 1)
        except zstandard.ZstdError as error:
            raise unreadable(self._path, f"a message that Zstandard cannot unpack: {error}") from error
        if len(plain) > MAX_BLOCK_BYTES:
            raise Rejected("absurd_size", f"{self._path}: expected messages of at most {MAX_BLOCK_BYTES} bytes")
        return plain


def _check_tables(file: sqlite3.Connection, path: Path) -> None:
    """Raises Rejected where `messages` or `topics` is a view or computed: reading it would run what the file says."""
    found = dict(
        file.execute("SELECT name, type || ' ' || COALESCE(sql, '') FROM sqlite_master WHERE type IN ('table', 'view')")
    )
    for name in ("messages", "topics"):
        if name not in found:
            there = ", ".join(map(str, sorted(found)))[:200] or "none"
            raise unreadable(path, f"expected a table {name}, found {there}")
    for name in {"messages", "topics", "message_definitions", "schema"} & found.keys():
        if not found[name].upper().startswith("TABLE CREATE TABLE") or _COMPUTED.search(found[name]):
            raise Rejected("unsafe_file", f"{path}: {name}: expected a plain table, found {found[name][:80]!r}")


def _read_channels(file: sqlite3.Connection) -> dict[int, Channel]:
    definitions: dict[str, tuple[str, bytes]] = {}
    if file.execute("SELECT 1 FROM sqlite_master WHERE name = 'message_definitions' AND type = 'table'").fetchone():
        ask = "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions LIMIT ?"
        for type, schema, text in file.execute(ask, (MAX_CHANNELS,)):
            if len(str(text)) <= MAX_DEFINITION_BYTES:
                definitions[str(type)] = str(schema), str(text).encode()
    channels = {}
    ask = "SELECT id, name, type, serialization_format FROM topics LIMIT ?"
    for id, topic, type, wire in file.execute(ask, (MAX_CHANNELS,)):
        schema, definition = definitions.get(str(type), ("", b""))
        channels[int(id)] = Channel(
            id=int(id),
            topic=str(topic),
            type=str(type),
            wire="cdr" if wire == "cdr" else "",
            schema=schema if definition else "",
            definition=definition,
        )
    return channels
