"""Stamps, and messages of a channel that differ in a stamp and an array alone: read side by side, not one by one."""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.native import Rejected
from pipelines.sources.bags.logs.log import Channel

_TWO = {order: struct.Struct(f"{order}II") for order in "<>"}
# To take messages side by side takes eight times their bytes for a moment.
_MOST_ROW_BYTES = 1 << 12
_LONGEST_SIMULATED_NS = 30 * 24 * 3600 * 1_000_000_000


class StampReader:
    """Reads the stamp (ns) at a message's beginning, which is all that is wanted of pictures before they are shown.

    at: where it lies. Raises Rejected for a message that ends before.
    """

    def __init__(self, channel: Channel, at: int) -> None:
        self._topic, self._at, self._is_cdr = channel.topic, at, channel.wire == "cdr"

    def __call__(self, data: memoryview) -> int:
        if len(data) < self._at + 8:
            raise Rejected("unreadable_bag", f"{self._topic}: expected a message with a stamp, found {len(data)} bytes")
        order = ">" if self._is_cdr and data[1] == 0 else "<"
        seconds, rest = _TWO[order].unpack_from(data, self._at)
        return int(seconds) * 1_000_000_000 + int(rest)

    def many(self, data: memoryview, spans: NDArray[np.int64]) -> NDArray[np.int64]:
        """The stamps int64 [n] of messages side by side. spans: int64 [n, 2], where each begins and ends in `data`."""
        heads = rows_of(data, spans, self._at + 8)
        is_big = self._is_cdr and heads is not None and (heads[:, 1] == 0).any()
        if heads is None or is_big:
            return np.array([self(data[begin:end]) for begin, end in spans.tolist()], np.int64)
        stamps = np.ascontiguousarray(heads[:, self._at :]).view("<u4").astype(np.int64)
        return stamps[:, 0] * 1_000_000_000 + stamps[:, 1]


def check_stamped(topic: str, stated: NDArray[np.int64]) -> None:
    """Raises Rejected where some headers hold no stamp: at 1970 they would be one sample, long before the others.

    Times of a simulation begin at 0, and go on from there.
    """
    n = int((stated == 0).sum())
    if n and stated[stated != 0].min() > _LONGEST_SIMULATED_NS:
        raise Rejected(
            "wrong_times",
            f"{topic}: expected a stamp in every header, found none in {n} of {len(stated)}; "
            "`stamp: log` takes the times of the log",
        )


def rising(topic: str, times: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The messages of a stream, without those that repeat a stamp. Raises Rejected where stamps go back."""
    steps = np.diff(times)
    if (steps < 0).any():
        i = int(np.argmax(steps < 0))
        back = -float(steps[i]) / 1e6
        raise Rejected(
            "wrong_times",
            f"{topic}: expected stamps that rise in the order of the log, message {i + 1} goes back {back:.3f} ms; "
            "is it published twice? `stamp: log` takes the times of the log",
        )
    return np.concatenate([np.ones(min(len(times), 1), np.bool_), steps > 0])


def rows_of(data: memoryview, spans: NDArray[np.int64], n_bytes: int, skip: int = 0) -> NDArray[np.uint8] | None:
    """Bytes uint8 [n, n_bytes] of messages, from byte `skip` of each on; None for long ones, or where one ends before.

    spans: int64 [n, 2], where each message begins and ends in `data`.
    """
    if n_bytes > _MOST_ROW_BYTES or (spans[:, 1] - spans[:, 0]).min() < skip + n_bytes:
        return None
    rows: NDArray[np.uint8] = np.frombuffer(data, np.uint8)[spans[:, :1] + np.arange(skip, skip + n_bytes)]
    return rows


@dataclass(frozen=True, kw_only=True)
class Alike:
    """Messages that differ in a stamp and their last array alone.

    head, rest: the bytes before the stamp, and those of the slice `rest_at` up to the array, whose count stands at
    `count_at` and whose elements begin at `begin`. texts: what else is wanted of them. last: the array's field.
    """

    head: bytes
    rest_at: slice
    rest: bytes
    count_at: int
    begin: int
    dtype: np.dtype[Any]
    unpack: Callable[[Any, int], tuple[int]]
    texts: Mapping[str, Any]
    last: str

    def span(self, data: memoryview) -> tuple[int, int] | None:
        """Where the bytes of the array begin and end; None for a message that is another one, or too short."""
        begin = self.begin
        # As bytes, which are compared several times as fast.
        start = bytes(data[:begin])
        if len(start) < begin or start[self.rest_at] != self.rest or not start.startswith(self.head):
            return None
        end = begin + self.unpack(start, self.count_at)[0] * self.dtype.itemsize
        return (begin, end) if end <= len(data) else None

    def many(self, data: memoryview, spans: NDArray[np.int64]) -> NDArray[np.uint8] | None:
        """The bytes uint8 [n, k] of the arrays of messages side by side, which must all be like this one and as long.

        None where one of them is another, so that they are to be looked at one by one. spans: int64 [n, 2], where each
        begins and ends in `data`.
        """
        heads = rows_of(data, spans, self.begin)
        if heads is None or (heads[:, self.rest_at] != np.frombuffer(self.rest, np.uint8)).any():
            return None
        if (heads[:, : len(self.head)] != np.frombuffer(self.head, np.uint8)).any():
            return None
        counts = heads[:, self.count_at : self.count_at + 4]
        if (counts != counts[0]).any():
            return None
        span = self.span(data[spans[0, 0] : spans[0, 1]])
        return rows_of(data, spans, span[1] - span[0], self.begin) if span else None

    def array(self, data: memoryview) -> Any:
        """The array of these bytes; of bytes the bytes themselves."""
        return data if self.dtype.char == "B" else np.frombuffer(data, self.dtype)


@dataclass(frozen=True, kw_only=True)
class Block:
    """Rows of one width and the same names: numbers int64 [n] of their messages in the topic, values float64 [n, k]."""

    numbers: NDArray[np.int64]
    names: tuple[str, ...]
    values: NDArray[np.float64]


class Run:
    """Messages of a channel that differ in one array alone, the only one that is wanted; see `Alike`.

    Their bytes are kept as they are: to make numbers of all together takes a tenth of the time of one by one.
    """

    def __init__(self, key: str, names: tuple[str, ...], alike: Alike) -> None:
        self.key, self.names = key, names
        self._span, self._many, self._dtype = alike.span, alike.many, alike.dtype
        # By their length.
        self._found: dict[int, tuple[list[int], list[bytes]]] = {}

    def take(self, number: int, data: memoryview) -> int:
        """Takes a message like the others. Returns the bytes that it kept, 0 where it is another or has no numbers."""
        span = self._span(data)
        if span is None or span[0] == span[1]:
            return 0
        n_bytes = span[1] - span[0]
        numbers, arrays = self._found.setdefault(n_bytes, ([], []))
        numbers.append(number)
        arrays.append(bytes(data[span[0] : span[1]]))
        return n_bytes

    def take_many(self, first: int, data: memoryview, spans: NDArray[np.int64]) -> int:
        """Takes messages side by side, numbered from `first` on. Returns the bytes that it kept of each.

        0, and none is taken, where one of them is another, or they are not all as long.
        """
        rows = self._many(data, spans)
        if rows is None or not rows.shape[1]:
            return 0
        numbers, arrays = self._found.setdefault(rows.shape[1], ([], []))
        numbers += range(first, first + len(rows))
        arrays.append(rows.tobytes())
        return rows.shape[1]

    def blocks(self) -> list[Block]:
        found = []
        for n_bytes, (numbers, arrays) in self._found.items():
            n = n_bytes // self._dtype.itemsize
            values = np.frombuffer(b"".join(arrays), self._dtype).reshape(-1, n).astype(np.float64)
            names = self.names if len(self.names) == n else ()
            found.append(Block(numbers=np.array(numbers, np.int64), names=names, values=values))
        return found
