"""What every kind of bag offers: channels with their types, messages of a range of time, and one message again."""

import io
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.native import Rejected
from pipelines.sources.folders import check_regular
from pipelines.storage.object_stores import open_object
from pipelines.storage.paths import RemotePath, StoragePath

Wire = Literal["cdr", "ros1", "protobuf", "json", ""]
# Writers make chunks of some megabytes, and a picture that is not compressed takes 25 MB at 4K.
MAX_BLOCK_BYTES = 1 << 28
# A bag of a robot has some hundred channels; definitions of one type with all it refers to take some kilobytes.
MAX_CHANNELS = 1 << 16
MAX_DEFINITION_BYTES = 1 << 18
MAX_TIME_NS = (1 << 63) - 1
# Bytes asked for at once where a record takes some tens; of an object store each request takes as long as 256 kB.
_WINDOW_BYTES = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Channel:
    """One topic of one writer.

    type: such as `sensor_msgs/msg/JointState`. wire: how messages are encoded; empty for an encoding that is not read.
    schema: how `definition` is written: ros1msg, ros2msg, ros2idl, protobuf, jsonschema, or empty without one.
    """

    id: int
    topic: str
    type: str
    wire: Wire
    schema: str = ""
    definition: bytes = b""


class Message(NamedTuple):
    """One message: its channel, when it was logged (ns), its bytes, and what `read_at` finds it by."""

    channel: int
    time_ns: int
    data: memoryview
    at: tuple[int, ...]


# Of messages in a batch, int64 [n, 4]: channel, time (ns), and where its bytes begin and end.
Found = NDArray[np.int64]


class Batch(NamedTuple):
    """Messages that lie side by side, to be looked at together.

    data: the bytes that all of them are in. at: what `read_at` finds these bytes by. found: int64 [n, 4], of each
    message, in the order of the file, its channel, its time (ns), and where it begins and ends in the bytes.
    """

    data: memoryview
    at: tuple[int, ...]
    found: Found


def of_channels(found: NDArray[np.integer], channels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Which rows of `Found` are of these channels [k]: of so few of them faster than `np.isin`, by ten times."""
    chosen: NDArray[np.bool_] = (found[:, :1] == channels).any(axis=1)
    return chosen


class Batches(Protocol):
    """What yields messages by batches, and so one by one."""

    def batches(self, channels: Collection[int], start_ns: int = 0, stop_ns: int = MAX_TIME_NS) -> Iterator[Batch]:
        """Yields messages logged from `start_ns` to `stop_ns`, both included, in the order of the file.

        Raises Rejected where a part of the bag within this range cannot be read.
        """
        ...

    def messages(self, channels: Collection[int], start_ns: int = 0, stop_ns: int = MAX_TIME_NS) -> Iterator[Message]:
        """Yields what `batches` does, message by message."""
        for data, at, found in self.batches(channels, start_ns, stop_ns):
            for channel, time_ns, begin, end in found.tolist():
                yield Message(channel, time_ns, data[begin:end], (*at, begin, end))


class Log(Batches, Protocol):
    """A bag that is open for reading.

    channels: by id. damage: a sentence for everything that was lost when the bag was written or copied.
    """

    damage: list[str]

    @property
    def channels(self) -> Mapping[int, Channel]: ...

    def span(self) -> tuple[int, int]:
        """The times (ns) of the first and the last message, as the index states them; (0, -1) without any."""
        ...

    def read_at(self, at: Sequence[int]) -> memoryview:
        """The bytes of a message that was seen before."""
        ...

    def close(self) -> None:
        """Closes the file."""
        ...


# Says which bytes a file holds: its name, its size, when it changed, and on a disk its number.
Version = tuple[str, int, float, int]


def version_of(path: object, status: os.stat_result) -> Version:
    """That of a file of a disk."""
    return str(path), status.st_size, status.st_mtime_ns, status.st_ino


class ByteSource:
    """A file on a disk or in an object store, read by ranges.

    version: equal for equal bytes; None for an object of which the store does not say when it changed.
    """

    def __init__(self, path: StoragePath) -> None:
        self.name = str(path)
        self.version: Version | None
        self._stream: IO[bytes]
        if isinstance(path, RemotePath):
            found = path.stat()
            self.size = found.st_size
            self.version = (self.name, found.st_size, found.st_mtime, 0) if found.st_mtime else None
            # A buffer as large as the file would read all of it for its index.
            self._stream = open_object(path.url, _WINDOW_BYTES)
        else:
            check_regular(path)
            self._stream = open(path, "rb", buffering=0)
            there = os.fstat(self._stream.fileno())
            self.size, self.version = there.st_size, version_of(path, there)
        self._window = (0, b"")
        self._buffer = bytearray()

    def read(self, offset: int, n_bytes: int) -> bytes:
        """Returns `n_bytes` from `offset` on, fewer only where the file ends before."""
        n_bytes = max(0, min(n_bytes, self.size - offset))
        if not n_bytes:
            # No system call takes every place of 64 bits that a damaged file may state.
            return b""
        if n_bytes > _WINDOW_BYTES // 2:
            return self._read(offset, n_bytes)
        start, held = self._window
        if offset < start or offset + n_bytes > start + len(held):
            start, held = self._window = offset, self._read(offset, min(_WINDOW_BYTES, self.size - offset))
        return held[offset - start : offset - start + n_bytes]

    def view(self, offset: int, n_bytes: int) -> bytes | memoryview:
        """What `read` returns, in a buffer that the next call overwrites: fresh memory takes as long as the reading."""
        n_bytes = max(0, min(n_bytes, self.size - offset))
        if n_bytes <= _WINDOW_BYTES // 2 or not isinstance(self._stream, io.FileIO):
            return self.read(offset, n_bytes)
        if len(self._buffer) < n_bytes:
            self._buffer = bytearray(n_bytes)
        self._stream.seek(offset)
        found, begin = memoryview(self._buffer)[:n_bytes], 0
        while begin < n_bytes and (n := self._stream.readinto(found[begin:])):
            begin += n
        return found[:begin]

    def read_alone(self, offset: int, n_bytes: int) -> bytes:
        """What `read` returns, for a few bytes beside which nothing else is read."""
        return self._read(offset, max(0, min(n_bytes, self.size - offset)))

    def close(self) -> None:
        self._stream.close()

    def _read(self, offset: int, n_bytes: int) -> bytes:
        self._stream.seek(offset)
        data = self._stream.read(n_bytes)
        while len(data) < n_bytes and (more := self._stream.read(n_bytes - len(data))):
            data += more
        return data


def unreadable(path: Path | StoragePath | str, detail: str) -> Rejected:
    """The reject of a bag whose bytes make no sense."""
    return Rejected("unreadable_bag", f"{path}: {detail}")
