"""From an entry's parts to the streams of a bag: which keys, which columns pass between samples, and which hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.errors import UsageError
from pipelines.mapping.adapters import Adapter, PartSource
from pipelines.mapping.part_units import ANGLES
from pipelines.sources.alignment import Stream
from pipelines.sources.bags.topics import Topics, split_key
from pipelines.sources.bags.transforms import is_static, owner_of

# Between two samples of these forms a straight line makes sense; of other rotations the last sample holds.
_STRAIGHT = frozenset({"joints", "value", "xyz", "xy", "xyz_quat_xyzw", "xyz_quat_wxyz"})
_QUATERNIONS = frozenset({"xyz_quat_xyzw", "xyz_quat_wxyz"})
_HELD, _PASSING = ":held", ":passing"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of one key: their names, if the topic gives them, and which pass between samples, bool [k]."""

    names: tuple[str, ...]
    passing: NDArray[np.bool_]


def keys_of(adapter: Adapter) -> tuple[str, ...]:
    """The keys that an entry's parts, its flags and its clock name, each once."""
    parts = (*adapter.state.values(), *adapter.action.values())
    keys = [selector.key for part in parts for selector in part.sources]
    return tuple(dict.fromkeys([*keys, *adapter.idle_when, clock_key(adapter)]))


def clock_key(adapter: Adapter) -> str:
    """The key whose samples are the steps: the entry's own clock, or the action of its first part."""
    if adapter.bag is not None and adapter.bag.clock:
        return adapter.bag.clock
    first = next(iter(adapter.action.values()), None)
    if first is None:
        raise UsageError(f"adapter {adapter.name}: expected an action, whose topic is the clock; found none")
    return first.sources[0].key


def streams_of(topics: Topics, adapter: Adapter) -> tuple[dict[str, Stream], dict[str, Columns]]:
    """Returns the streams of every key, and what its columns are.

    A key whose columns are published in turns, or of which some hold and others pass, is several streams; see
    `merge_streams`.
    """
    on_change = adapter.bag.on_change if adapter.bag else ()
    streams: dict[str, Stream] = {}
    columns_of: dict[str, Columns] = {}
    for key, samples in topics.samples.items():
        topic = split_key(key)[0]
        names = tuple(name for one in samples for name in one.names)
        n = sum(one.values.shape[1] for one in samples)
        passing, quaternions = passing_columns(adapter, owner_of(key), names, n)
        turns = turns_of(adapter, owner_of(key), names, n)
        if is_static(key):
            passing[:] = False
        columns_of[key] = Columns(names=names, passing=passing)
        begin = 0
        for number, one in enumerate(samples):
            mine = slice(begin, begin := begin + one.values.shape[1])
            values = one.values
            for columns in quaternions:
                if mine.start <= columns[0] and columns[-1] < mine.stop:
                    values = with_steady_signs(values, columns - mine.start)
            for suffix, wanted in ((_HELD, ~passing[mine]), (_PASSING, passing[mine])):
                if wanted.any():
                    streams[f"{key}#{number}{suffix}"] = Stream(
                        times=one.times,
                        values=values,
                        is_interpolated=suffix == _PASSING,
                        source=topic if len(samples) == 1 else f"{topic}#{number}",
                        lasts=topic in on_change or is_static(key),
                        turns=turns[mine],
                    )
    return streams, columns_of


def held_before(streams: Mapping[str, Stream], start_ns: int) -> dict[str, Stream]:
    """The streams, those of static transforms from the start of an episode on: tf takes them to hold at all times."""
    return {
        key: replace(stream, times=np.concatenate([np.minimum(stream.times[:1], start_ns), stream.times[1:]]))
        if is_static(stream.source)
        else stream
        for key, stream in streams.items()
    }


def passing_columns(
    adapter: Adapter, key: str, names: Sequence[str], n: int
) -> tuple[NDArray[np.bool_], list[NDArray[np.int64]]]:
    """Returns bool [n], the columns of a key that pass between samples, and the columns of each quaternion among them.

    States pass, as do states that are the action one step later. Commands hold: a value between two of them is one
    that was never sent; and grippers hold, which must not pass through widths that they never had.
    """
    passing = np.zeros(n, np.bool_)
    quaternions: list[NDArray[np.int64]] = []
    followed = [part for part in adapter.action.values() if part.next]
    for part in (*adapter.state.values(), *followed):
        columns = _columns_of(part, key, names, n)
        own = np.array([column for column in columns if column >= 0], np.int64)
        if part.open is None and part.form in _STRAIGHT:
            passing[own] = True
        turns = np.array(columns[3:7], np.int64)
        if part.form in _QUATERNIONS and len(turns) == 4 and (turns >= 0).all():
            quaternions.append(turns)
    for part in adapter.state.values():
        if part.open is not None:
            passing[[column for column in _columns_of(part, key, names, n) if column >= 0]] = False
    return passing, quaternions


def turns_of(adapter: Adapter, key: str, names: Sequence[str], n: int) -> NDArray[np.float64]:
    """A full turn of each column of a key [n] as the source counts angles; 0 for those that are no joint of a part."""
    turns = np.zeros(n)
    for part in (*adapter.state.values(), *adapter.action.values()):
        if part.form != "joints" or part.open is not None:
            continue
        unit = "degrees" if part.degrees or "degrees" in part.units else "rad"
        columns = _columns_of(part, key, names, n)
        scales = part.scale if isinstance(part.scale, tuple) else (part.scale,) * len(columns)
        for column, scale in zip(columns, scales, strict=False):  # missing names are refused with the part
            if column >= 0 and scale:
                turns[column] = 2 * np.pi / (ANGLES[unit] * abs(scale))
    return turns


def with_steady_signs(values: NDArray[np.float64], columns: NDArray[np.int64]) -> NDArray[np.float64]:
    """Values [n, k] whose quaternions, at four columns, keep their sign: q and -q are one turn, and 0 lies between."""
    turns = values[:, columns]
    flips = np.sign((turns[1:] * turns[:-1]).sum(axis=1))
    signs = np.cumprod(np.concatenate([[1.0], np.where(flips < 0, -1.0, 1.0)]))
    steady = values.copy()
    steady[:, columns] = turns * signs[: len(turns), None]
    return steady


def merge_streams(
    arrays: Mapping[str, NDArray[np.float64]], columns_of: Mapping[str, Columns]
) -> dict[str, NDArray[np.float64]]:
    """Puts the arrays [t, k] of the streams of each key side by side again, and each column as it is meant."""
    merged: dict[str, NDArray[np.float64]] = {}
    for key, columns in columns_of.items():
        parts: list[NDArray[np.float64]] = []
        begin = 0
        while f"{key}#{len(parts)}{_HELD}" in arrays or f"{key}#{len(parts)}{_PASSING}" in arrays:
            held, passed = (arrays.get(f"{key}#{len(parts)}{suffix}") for suffix in (_HELD, _PASSING))
            if held is not None and passed is not None:
                held = np.where(columns.passing[begin : begin + held.shape[1]], passed, held)
            part = passed if held is None else held
            assert part is not None
            parts.append(part)
            begin += part.shape[1]
        if parts:
            merged[key] = np.concatenate(parts, axis=1)
    return merged


def _columns_of(part: PartSource, key: str, names: Sequence[str], n: int) -> list[int]:
    """The columns that a part takes, in its order; -1 for one that is of another key."""
    if part.names and part.sources[0].key == key:
        return [names.index(name) for name in part.names if name in names]
    columns: list[int] = []
    for selector in part.sources:
        width = selector.width if selector.width is not None else n if selector.key == key else 1
        start = selector.start or 0
        columns += [start + i if selector.key == key and start + i < n else -1 for i in range(width)]
    return columns
