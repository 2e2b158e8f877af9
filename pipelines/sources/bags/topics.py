"""Topics as streams of numbers: which field of a message counts, its columns and their names, and its stamps."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.native import MAX_ARRAY_BYTES, Rejected
from pipelines.mapping.bag_form import Stamp
from pipelines.sources.bags.alike import Block, Run, StampReader, check_stamped, rising
from pipelines.sources.bags.definitions import normal_type
from pipelines.sources.bags.logs.log import MAX_TIME_NS, Batch, Channel, Found, Log, of_channels
from pipelines.sources.bags.messages import (
    Read,
    WalkReader,
    Wanted,
    field_at,
    present,
    reader_of,
    stamp_reader_of,
    want,
)
from pipelines.sources.bags.transforms import is_pair

# The field that is meant where an entry names a topic alone; "" is the whole message. Types that hold several streams
# (effort beside position, points of a trajectory) or unknown ones name their field.
_USUAL_FIELDS = {
    "std_msgs/msg/Empty": "",
    "sensor_msgs/msg/JointState": "position",
    "geometry_msgs/msg/PoseStamped": "pose",
    "geometry_msgs/msg/Pose": "",
    "geometry_msgs/msg/TransformStamped": "transform",
    "geometry_msgs/msg/Transform": "",
    "geometry_msgs/msg/Twist": "",
    "geometry_msgs/msg/TwistStamped": "twist",
    "geometry_msgs/msg/PointStamped": "point",
    "foxglove_msgs/msg/PoseInFrame": "pose",
    "foxglove.PoseInFrame": "pose",
    "trajectory_msgs/msg/JointTrajectory": "points.0.positions",
} | {
    f"std_msgs/msg/{name}": "data"
    for name in (
        *("Bool", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Float32", "Float64"),
        *("Float32MultiArray", "Float64MultiArray", "Int32MultiArray", "String"),
    )
}
_TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
# Fields that name the columns of an array beside them.
_NAMES = ("name", "joint_names")
_STAMPS = ("header.stamp", "timestamp", "stamp")
_SECONDS, _NANOSECONDS = ("sec", "seconds", "secs"), ("nanosec", "nanos", "nsec", "nsecs")


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What one field of a topic held: stamps int64 [n] (ns), values float64 [n, k], names of the columns, if any."""

    times: NDArray[np.int64]
    values: NDArray[np.float64]
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """A camera's topic: its channels' type, stamps int64 [n], and what `Log.read_at` finds each message by, int64
    [n, k]."""

    topic: str
    type: str
    read: Read
    times: NDArray[np.int64]
    at: NDArray[np.int64]

    def message(self, log: Log, number: int) -> memoryview:
        """The bytes of the message of one picture."""
        return log.read_at(self.at[number].tolist())

    def since(self, first: int) -> "Pictures":
        """Those from number `first` on."""
        return replace(self, times=self.times[first:], at=self.at[first:])


@dataclass(frozen=True, kw_only=True)
class Topics:
    """What was read of a range of a bag.

    samples: per key, one for every set of names that the topic publishes. pictures: per topic.
    stamps, logged: per topic the times (ns) that count, and those at which the same messages were logged.
    late_ms: per topic the greatest and the mean time from a header's stamp to the log.
    repeated: per topic, messages left out since their stamp was seen before.
    unstamped: topics without a header, or whose header holds none.
    """

    samples: Mapping[str, Sequence[Samples]]
    pictures: Mapping[str, Pictures]
    stamps: Mapping[str, NDArray[np.int64]]
    logged: Mapping[str, NDArray[np.int64]]
    late_ms: Mapping[str, tuple[float, float]]
    repeated: Mapping[str, int]
    unstamped: frozenset[str]

    def joined(self, other: "Topics") -> "Topics":
        """With what was read of other topics."""
        merged = {
            item.name: {**getattr(self, item.name), **getattr(other, item.name)}
            for item in fields(self)
            if item.name != "unstamped"
        }
        return Topics(unstamped=self.unstamped | other.unstamped, **merged)


def split_key(key: str) -> tuple[str, str | None]:
    """`/joint_states:position` -> topic and field; without a colon the field is the type's usual one.

    >>> split_key("/arm/state:actual.positions")
    ('/arm/state', 'actual.positions')
    """
    topic, colon, path = key.partition(":")
    # A pair of frames is a topic of its own; see `with_transforms`.
    return (key, None) if is_pair(path) else (topic, path if colon else None)


def field_of(key: str, channel: Channel) -> str:
    """The field that a key means. Raises Rejected where the type has no usual one."""
    _, path = split_key(key)
    if path is not None:
        return path
    type = normal_type(channel.type)
    if type not in _USUAL_FIELDS:
        expected = f"expected a field behind the topic, such as {key}:data"
        raise Rejected("missing_key", f"{key}: {expected}, since {type} has no usual one")
    return _USUAL_FIELDS[type]


def has_usual_field(channel: Channel) -> bool:
    """Whether an entry may name a channel's topic alone."""
    return normal_type(channel.type) in _USUAL_FIELDS


def numbers_of(value: Any) -> list[float]:
    """The numbers of a field, those of a message in the order of its definition; texts are left out.

    >>> numbers_of({"position": {"x": 1.0, "y": 2.0}, "frame": "tool0"})
    [1.0, 2.0]
    """
    if isinstance(value, np.ndarray):
        # Of nearly all messages, and so before all else.
        listed: list[float] = value.astype(np.float64).reshape(-1).tolist()
        return listed
    if isinstance(value, dict):
        return [number for inner in value.values() for number in numbers_of(inner)]
    if isinstance(value, (str, bytes)) or value is None:
        return []
    if isinstance(value, (bool, int, float)):
        return [float(value)]
    if isinstance(value, list):
        return [number for inner in value for number in numbers_of(inner)]
    numbers: list[float] = np.asarray(value, np.float64).reshape(-1).tolist()
    return numbers


def stamp_of(content: Mapping[str, Any]) -> int | None:
    """The time (ns) that a message's header, or a stamp of its own, states; None where it has none."""
    for path in _STAMPS:
        stamp = field_at(content, path)
        if isinstance(stamp, dict):
            seconds = next((stamp[key] for key in _SECONDS if key in stamp), 0)
            rest = next((stamp[key] for key in _NANOSECONDS if key in stamp), 0)
            return int(seconds) * 1_000_000_000 + int(rest)
    return None


def read_values(
    log: Log, key: str, start_ns: int = 0, stop_ns: int = MAX_TIME_NS, distro: str = ""
) -> list[tuple[int, str]]:
    """Returns when each message of a topic was logged (ns) and its field as a text, "" where it has none; sorted.

    Truth values read `true` and `false`, numbers as Python writes them.
    """
    topic, _ = split_key(key)
    channels = {channel.id: channel for channel in channels_of(log, topic)}
    path = field_of(key, next(iter(channels.values())))
    # An empty message has nothing to read.
    reads = {id: reader_of(channel, distro) for id, channel in channels.items()} if path else {}
    found, wanted = [], want(path)
    for message in log.messages(channels.keys(), start_ns, stop_ns):
        value = field_at(reads[message.channel](message.data, wanted), path) if path else None
        found.append((message.time_ns, _text_of(value)))
    return sorted(found, key=lambda pair: pair[0])


def _text_of(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (str, int, float)) else ""


def channels_of(log: Log, topic: str) -> list[Channel]:
    """The channels of a topic, whose messages must be of one type. Raises Rejected where there are none."""
    found = [channel for channel in log.channels.values() if channel.topic == topic]
    if not found:
        there = ", ".join(sorted({channel.topic for channel in log.channels.values()}))
        raise Rejected("missing_key", f"expected the topic {topic}; found {there or 'none'}")
    types = {normal_type(channel.type) for channel in found}
    if len(types) > 1:
        raise Rejected("wrong_schema", f"{topic}: expected one type of messages, found {', '.join(sorted(types))}")
    return found


# Of one message: its number in the topic, the names of its columns, its numbers.
_Row = tuple[int, tuple[str, ...], list[float]]


@dataclass(kw_only=True)
class _Topic:
    """One topic while it is read: per key its field, and what was found."""

    fields: dict[str, str] = field(default_factory=dict)
    reads: dict[int, Read] = field(default_factory=dict)
    wanted: dict[int, Wanted] = field(default_factory=dict)
    stamp_reads: dict[int, StampReader] = field(default_factory=dict)
    type: str = ""
    is_camera: bool = False
    stamps: list[int] = field(default_factory=list)
    logged: list[int] = field(default_factory=list)
    at: list[NDArray[np.int64]] = field(default_factory=list)
    rows: dict[str, list[_Row]] = field(default_factory=dict)
    runs: dict[int, Run] = field(default_factory=dict)
    n_unstamped: int = 0
    n_bytes: int = 0


def read_topics(
    log: Log,
    keys: Collection[str],
    cameras: Collection[str],
    stamp: Stamp,
    start_ns: int = 0,
    stop_ns: int = MAX_TIME_NS,
    distro: str = "",
) -> Topics:
    """Reads the fields that `keys` name and where the pictures of `cameras` lie, in one pass over a range of the log.

    stamp: whose clock counts; a message without a header counts from when it was logged. Raises Rejected for a topic
    that is not there, stamps that go back, and messages that do not fit their definition.
    """
    topics: dict[str, _Topic] = {}
    for key in keys:
        topic = topics.setdefault(split_key(key)[0], _Topic())
        topic.fields[key] = field_of(key, channels_of(log, split_key(key)[0])[0])
    for camera in cameras:
        topics.setdefault(camera, _Topic()).is_camera = True
    by_channel: dict[int, _Topic] = {}
    for name, topic in topics.items():
        for channel in channels_of(log, name):
            _prepare(topic, channel, distro)
            by_channel[channel.id] = topic
    ids_of = [(topic, np.array(list(topic.reads), np.int64)) for topic in topics.values()]
    for batch in log.batches(by_channel.keys(), start_ns, stop_ns):
        if len(batch.found) == 1:
            _take_several(by_channel[int(batch.found[0, 0])], batch, batch.found)
            continue
        for topic, ids in ids_of:
            own = batch.found[of_channels(batch.found, ids)]
            if len(own):
                _take_several(topic, batch, own)
    return _collected(topics, stamp)


def _take_several(topic: _Topic, batch: Batch, found: Found) -> None:
    """Takes a topic's messages of a batch: at once where they are alike, else one by one."""
    if _take_together(topic, batch, found):
        return
    for i, one in enumerate(found.tolist(), 1):
        had_run = bool(topic.runs)
        _take_message(topic, batch, *one)
        if topic.runs and not had_run and i < len(found) and _take_together(topic, batch, found[i:]):
            return


def _take_together(topic: _Topic, batch: Batch, found: Found) -> bool:
    """Takes messages of a topic that lie side by side, whose stamps and arrays are read at once, if they are alike."""
    channel, spans = int(found[0, 0]), found[:, 2:]
    run, read_stamps = topic.runs.get(channel), topic.stamp_reads.get(channel)
    if read_stamps is None or len(topic.reads) > 1 or (run is None and topic.fields):
        return False
    if run is not None:
        n_bytes = run.take_many(len(topic.logged), batch.data, spans)
        if not n_bytes:
            return False
        _count_bytes(topic, run.key, n_bytes, len(found))
    topic.stamps += read_stamps.many(batch.data, spans).tolist()
    topic.logged += found[:, 1].tolist()
    if topic.is_camera:
        topic.at.append(np.hstack([np.full((len(spans), len(batch.at)), batch.at, np.int64), spans]))
    return True


def _take_message(topic: _Topic, batch: Batch, channel: int, time_ns: int, begin: int, end: int) -> None:
    data, at = batch.data[begin:end], (*batch.at, begin, end)
    read_stamp, run = topic.stamp_reads.get(channel), topic.runs.get(channel)
    if read_stamp is not None and run is not None and (n_bytes := run.take(len(topic.logged), data)):
        _take_stamp(topic, time_ns, at, read_stamp(data))
        _count_bytes(topic, run.key, n_bytes)
        return
    content: dict[str, Any] = {}
    if read_stamp is None or topic.fields:
        content = topic.reads[channel](data, topic.wanted[channel])
    _take_stamp(topic, time_ns, at, read_stamp(data) if read_stamp else stamp_of(content))
    if topic.fields:
        _take(topic, content)
        _begin_run(topic, channel)


def _begin_run(topic: _Topic, channel: int) -> None:
    """Looks for more messages like the last, where one field is wanted that is an array of numbers."""
    read, key = topic.reads[channel], next(iter(topic.fields))
    alike = read.alike() if isinstance(read, WalkReader) and len(topic.fields) == 1 else None
    if alike is not None and channel not in topic.runs and alike.last == topic.fields[key] and alike.dtype.char != "B":
        topic.runs[channel] = Run(key, _names_in(alike.texts), alike)


def _prepare(topic: _Topic, channel: Channel, distro: str) -> None:
    topic.reads[channel.id] = reader_of(channel, distro)
    topic.type = normal_type(channel.type)
    read = stamp_reader_of(channel, distro)
    if read is not None:
        topic.stamp_reads[channel.id] = read
    paths = _paths_of(topic) if read is None else [path for path in _paths_of(topic) if path not in _STAMPS]
    topic.wanted[channel.id] = present(channel, want(*paths), distro)


def _take_stamp(topic: _Topic, time_ns: int, at: tuple[int, ...], stated: int | None) -> None:
    topic.n_unstamped += stated is None
    topic.stamps.append(time_ns if stated is None else stated)
    topic.logged.append(time_ns)
    if topic.is_camera:
        topic.at.append(np.array([at], np.int64))


def _paths_of(topic: _Topic) -> list[str]:
    paths = [*_STAMPS]
    if topic.fields:
        paths += [*_NAMES, *topic.fields.values()]
    if topic.type == _TRAJECTORY:
        paths += ["points.1.positions"]
    return paths


def _take(topic: _Topic, content: Mapping[str, Any]) -> None:
    if topic.type == _TRAJECTORY and field_at(content, "points.1.positions") is not None:
        _check_point(topic)
    names = _names_in(content)
    for key, path in topic.fields.items():
        value = field_at(content, path)
        numbers = numbers_of(value)
        _count_bytes(topic, key, 8 * len(numbers))
        # A message may leave a field out: ROS's drivers publish joint states of velocities alone.
        if numbers:
            row = names if len(names) == len(numbers) and not isinstance(value, dict) else ()
            topic.rows.setdefault(key, []).append((len(topic.logged) - 1, row, numbers))


def _names_in(content: Mapping[str, Any]) -> tuple[str, ...]:
    return next((tuple(content[name]) for name in _NAMES if isinstance(content.get(name), list)), ())


def _count_bytes(topic: _Topic, key: str, n_bytes: int, n: int = 1) -> None:
    topic.n_bytes += n * (n_bytes + 64)
    if topic.n_bytes > MAX_ARRAY_BYTES:
        expected = "expected one episode's numbers"
        raise Rejected("absurd_size", f"{key}: {expected}, found more than {MAX_ARRAY_BYTES} bytes")


def _check_point(topic: _Topic) -> None:
    """Raises Rejected where a trajectory has several points, and the entry does not say which one is the command."""
    for key in topic.fields:
        if split_key(key)[1] is None:
            raise Rejected(
                "missing_key",
                f"{key}: expected trajectories of one point, found more; name the one that is the command: "
                f"{key}:points.0.positions or {key}:points.-1.positions",
            )


def _collected(topics: Mapping[str, _Topic], stamp: Stamp) -> Topics:
    samples: dict[str, Sequence[Samples]] = {}
    pictures: dict[str, Pictures] = {}
    stamps: dict[str, NDArray[np.int64]] = {}
    logged: dict[str, NDArray[np.int64]] = {}
    late: dict[str, tuple[float, float]] = {}
    repeated: dict[str, int] = {}
    unstamped = frozenset(name for name, topic in topics.items() if topic.n_unstamped or not any(topic.stamps))
    for name, topic in topics.items():
        at_log = np.array(topic.logged, np.int64)
        stated = np.array(topic.stamps, np.int64)
        if stamp == "header" and name not in unstamped:
            check_stamped(name, stated)
        times = at_log if stamp == "log" or name in unstamped else stated
        # Chunks hold messages in the order in which they arrived, which may differ from their times.
        order = np.argsort(at_log, kind="stable")
        kept = order[rising(name, times[order])]
        repeated[name] = len(order) - len(kept)
        stamps[name], logged[name] = times[kept], at_log[kept]
        if len(order) and name not in unstamped:
            apart = (at_log - stated) / 1e6
            late[name] = round(float(np.abs(apart).max()), 3), round(float(apart.mean()), 3)
        if topic.is_camera:
            (read, *_) = topic.reads.values()
            at = np.concatenate(topic.at)[kept] if topic.at else np.zeros((0, 0), np.int64)
            pictures[name] = Pictures(topic=name, type=topic.type, read=read, times=times[kept], at=at)
        rank = np.full(len(order), -1, np.int64)
        rank[kept] = np.arange(len(kept))
        for key in topic.fields:
            blocks = _blocks_of(topic.rows.get(key, []))
            blocks += [block for run in topic.runs.values() if run.key == key for block in run.blocks()]
            samples[key] = _samples(key, blocks, times[kept], rank)
    return Topics(
        samples=samples,
        pictures=pictures,
        stamps=stamps,
        logged=logged,
        late_ms=late,
        repeated=repeated,
        unstamped=unstamped,
    )


def _blocks_of(rows: Sequence[_Row]) -> list[Block]:
    alike: dict[tuple[tuple[str, ...], int], list[_Row]] = {}
    for row in rows:
        alike.setdefault((row[1], len(row[2])), []).append(row)
    return [
        Block(
            numbers=np.array([number for number, _, _ in group], np.int64),
            names=names,
            values=np.array([values for _, _, values in group], np.float64),
        )
        for (names, _), group in alike.items()
    ]


def _samples(key: str, blocks: Sequence[Block], times: NDArray[np.int64], rank: NDArray[np.int64]) -> list[Samples]:
    """Groups rows by the names of their columns: a topic may carry the arm's joints and the gripper's in turn.

    Rows of the same names in another order are brought to that of the first.
    """
    groups: dict[frozenset[str], list[Block]] = {}
    for block in sorted(filter(None, (_kept_of(block, rank) for block in blocks)), key=lambda one: one.numbers[0]):
        groups.setdefault(frozenset(block.names), []).append(block)
    _check_groups(key, list(groups))
    found = []
    for group in groups.values():
        names = group[0].names
        if len(widths := sorted({block.values.shape[1] for block in group})) > 1:
            width = group[0].values.shape[1]
            raise Rejected("wrong_dims", f"{key}: expected {width} numbers in every message, found {widths}")
        if len(set(names)) != len(names):
            raise Rejected("wrong_names", f"{key}: expected each name once, found {', '.join(names)}")
        values = np.concatenate(
            [block.values[:, [block.names.index(name) for name in names] or ...] for block in group]
        )
        at = rank[np.concatenate([block.numbers for block in group])]
        order = np.argsort(at, kind="stable")
        found.append(Samples(times=times[at[order]], values=values[order], names=names))
    return found


def _kept_of(block: Block, rank: NDArray[np.int64]) -> Block | None:
    """The rows of messages that are kept, None without any."""
    kept = rank[block.numbers] >= 0
    if not kept.any():
        return None
    return replace(block, numbers=block.numbers[kept], values=block.values[kept])


def _check_groups(key: str, groups: Sequence[frozenset[str]]) -> None:
    for i, names in enumerate(groups):
        for other in groups[:i]:
            if names & other or not names or not other:
                raise Rejected(
                    "wrong_names",
                    f"{key}: expected messages of the same names, or of others altogether; found "
                    f"{', '.join(sorted(names)) or 'none'} and {', '.join(sorted(other)) or 'none'}",
                )
