"""Transforms of tf: where one frame is in another, as a topic of its own, of TransformStamped.

A key names two frames, `/tf:base>tool0`: where `tool0` is in `base`. A pair that is published is read as it is. Frames
that others lie between are joined by the tree that the topic and its static twin (`/tf` and `/tf_static`) hold: each
transform of the chain is a stream of its own, brought to the steps as all streams are, and multiplied there.
"""

import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.native import Rejected
from pipelines.sources.bags.definitions import normal_type
from pipelines.sources.bags.logs.log import MAX_TIME_NS, Batch, Batches, Channel, Log, of_channels
from pipelines.sources.bags.messages import Read, reader_of, want

TF_TYPES = frozenset({"tf2_msgs/msg/TFMessage", "tf/msg/tfMessage"})
# Of ROS: what is published on such a topic holds from when it was to when it is published again.
_STATIC = "_static"
_LINK = " | "
_STAMPED = "geometry_msgs/msg/TransformStamped"
_WANTED = want("transforms")
_HEAD = b"\0\1\0\0"
_TWO, _COUNT, _POSE = struct.Struct("<II"), struct.Struct("<I"), struct.Struct("<7d")
_MOST_SHOWN = 12
Floats = NDArray[np.float64]
# Parent and child.
Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Link:
    """One transform of a chain: the key of its stream, and whether it is walked from the child to its parent."""

    key: str
    topic: str
    pair: Pair
    is_inverted: bool = False


Chain = tuple[Link, ...]


def is_pair(path: str | None) -> bool:
    """Whether what stands behind a topic is two frames: `base>tool0`."""
    return path is not None and ">" in path


def is_static(key: str) -> bool:
    """Whether a key is a transform of a static topic, whose last value holds however old, and before it the first."""
    topic, _, path = key.rpartition(_LINK)[2].partition(":")
    return is_pair(path) and topic.endswith(_STATIC)


def owner_of(key: str) -> str:
    """The key of an entry that a stream is read for: of a link that of its chain."""
    return key.partition(_LINK)[0]


def with_transforms(log: Log, keys: Collection[str], distro: str = "") -> Log:
    """The log with a channel for every pair of frames that `keys` name, and for every link of a chain.

    Raises Rejected where a topic holds no transforms, or frames that nothing joins, that are joined in a loop, or that
    have two parents.
    """
    pairs = {key: (key.partition(":")[0], key.partition(":")[2]) for key in keys if is_pair(key.partition(":")[2])}
    return TransformLog(log, pairs, distro) if pairs else log


def chains_of(log: Log) -> Mapping[str, Chain]:
    """The chains of a log, by the key that asked for them."""
    return log.chains if isinstance(log, TransformLog) else {}


def with_links(keys: Iterable[str], chains: Mapping[str, Chain]) -> list[str]:
    """The keys, each chain's replaced by those of its links."""
    return [one for key in keys for one in ([link.key for link in chains[key]] if key in chains else [key])]


def with_chains(arrays: Mapping[str, Floats], chains: Mapping[str, Chain]) -> dict[str, Floats]:
    """The arrays [t, 7] of each chain's links multiplied, in place of them: where its child is in its parent."""
    links = {link.key for chain in chains.values() for link in chain}
    joined = {key: values for key, values in arrays.items() if key not in links}
    for key, chain in chains.items():
        poses = [inverse(arrays[link.key]) if link.is_inverted else arrays[link.key] for link in chain]
        found = poses[0]
        for pose in poses[1:]:
            found = product(found, pose)
        joined[key] = found
    return joined


def product(first: Floats, second: Floats) -> Floats:
    """The pose `second` in the frame that `first` is given in. Poses [t, 7]: xyz in m, and a quaternion xyzw.

    >>> half = [0, 0, 1, 0]
    >>> product(np.array([[1.0, 0, 0, *half]]), np.array([[0.0, 2, 0, *half]])).round(3)
    array([[ 1., -2.,  0.,  0.,  0.,  0., -1.]])
    """
    a, b = _turns(first), _turns(second)
    turns = np.concatenate(
        [
            a[:, 3:] * b[:, :3] + b[:, 3:] * a[:, :3] + np.cross(a[:, :3], b[:, :3]),
            a[:, 3:] * b[:, 3:] - (a[:, :3] * b[:, :3]).sum(axis=1, keepdims=True),
        ],
        axis=1,
    )
    return np.concatenate([first[:, :3] + _turned(a, second[:, :3]), turns], axis=1)


def inverse(pose: Floats) -> Floats:
    """Where the parent is in the child. pose: [t, 7], xyz in m and a quaternion xyzw."""
    back = _turns(pose) * np.array([-1.0, -1.0, -1.0, 1.0])
    return np.concatenate([-_turned(back, pose[:, :3]), back], axis=1)


def _turns(pose: Floats) -> Floats:
    """Quaternions of length 1: between two samples they are shorter. Not a number where one has no length."""
    with np.errstate(invalid="ignore", divide="ignore"):
        turns: Floats = pose[:, 3:] / np.linalg.norm(pose[:, 3:], axis=1, keepdims=True)
    return turns


def _turned(turns: Floats, points: Floats) -> Floats:
    across = 2.0 * np.cross(turns[:, :3], points)
    turned: Floats = points + turns[:, 3:] * across + np.cross(turns[:, :3], across)
    return turned


class TransformLog(Batches):
    """A log whose messages of tf are read as one topic for each pair of frames; all else is the log's own.

    chains: of the keys whose frames others lie between.
    """

    def __init__(self, log: Log, pairs: Mapping[str, tuple[str, str]], distro: str) -> None:
        self._log, self.damage = log, log.damage
        self.channels: dict[int, Channel] = dict(log.channels)
        self._reads: dict[int, Read] = {}
        # Per channel of tf: its pairs of frames, and the numbers that these have as channels.
        self._pairs: dict[int, dict[Pair, list[int]]] = {}
        self._parents: dict[str, str] = {}
        topics = {key: _tf_channels(log, key, topic) for key, (topic, _) in pairs.items()}
        self.chains = _find_chains(log, {key: (topic, _frames(path)) for key, (topic, path) in pairs.items()}, distro)
        for key, (_, path) in pairs.items():
            if key not in self.chains:
                self._add(key, _frames(path), topics[key], distro)
                continue
            for link in self.chains[key]:
                self._parents[link.pair[1]] = link.pair[0]
                self._add(link.key, link.pair, _tf_channels(log, key, link.topic), distro)

    def _add(self, key: str, pair: Pair, channels: Sequence[Channel], distro: str) -> None:
        number = max(self.channels, default=0) + 1
        self.channels[number] = Channel(id=number, topic=key, type=_STAMPED, wire="cdr")
        for channel in channels:
            self._pairs.setdefault(channel.id, {}).setdefault(pair, []).append(number)
            self._reads[channel.id] = reader_of(channel, distro)

    def span(self) -> tuple[int, int]:
        return self._log.span()

    def batches(self, channels: Collection[int], start_ns: int = 0, stop_ns: int = MAX_TIME_NS) -> Iterator[Batch]:
        wanted = {
            id: {pair: [n for n in numbers if n in channels] for pair, numbers in own.items()}
            for id, own in self._pairs.items()
        }
        sources = {id for id, pairs in wanted.items() if any(pairs.values())}
        others = {id for id in channels if id in self._log.channels}
        other_ids = np.array(sorted(others), np.int64)
        missing = {n: pair for pairs in wanted.values() for pair, numbers in pairs.items() for n in numbers}
        seen: set[Pair] = set()
        for batch in self._log.batches(others | sources, start_ns, stop_ns):
            is_other = of_channels(batch.found, other_ids)
            if is_other.any():
                yield batch._replace(found=batch.found[is_other])
            for channel, time_ns, begin, end in batch.found.tolist():
                if channel not in sources:
                    continue
                for pair, transform in _transforms(self._reads[channel], batch.data[begin:end]):
                    self._check_parent(pair)
                    seen.add(pair)
                    for number in wanted[channel].get(pair, ()):
                        missing.pop(number, None)
                        data = encode(transform)
                        yield Batch(memoryview(data), (), np.array([(number, time_ns, 0, len(data))]))
        if missing and seen:
            pair, *_ = missing.values()
            raise Rejected("missing_key", f"tf: expected transforms {'>'.join(pair)}, found {_listed(seen)}")

    def _check_parent(self, pair: Pair) -> None:
        """Raises Rejected where a frame of a chain has two parents: the chain would change with who spoke last."""
        parent, child = pair
        if self._parents.get(child, parent) != parent:
            two = f"{self._parents[child]} and {parent}"
            raise Rejected("wrong_names", f"tf: expected one parent of each frame, found {child} in {two}")

    def read_at(self, at: Sequence[int]) -> memoryview:
        return self._log.read_at(at)

    def close(self) -> None:
        self._log.close()


def pair_reader_of(channel: Channel, distro: str = "") -> Callable[[memoryview], list[Pair]]:
    """Returns what reads the pairs of frames, parent and child, that a message of tf holds."""
    read = reader_of(channel, distro)
    return lambda data: [pair for pair, _ in _transforms(read, data)]


def _transforms(read: Read, data: memoryview) -> Iterator[tuple[Pair, Mapping[str, Any]]]:
    for transform in read(data, _WANTED).get("transforms", []):
        yield (_plain(transform["header"]["frame_id"]), _plain(transform["child_frame_id"])), transform


def _find_chains(log: Log, wanted: Mapping[str, tuple[str, Pair]], distro: str) -> dict[str, Chain]:
    """The chain of every key whose two frames no message holds as a pair, from as much of the log as that takes.

    A key of frames that are not there has none: who reads it finds its pair missing.
    """
    chains: dict[str, Chain] = {}
    for key, (topic, pair) in wanted.items():
        twins = {topic.removesuffix(_STATIC), topic.removesuffix(_STATIC) + _STATIC}
        found = {c.id: c for c in log.channels.values() if c.topic in twins and normal_type(c.type) in TF_TYPES}
        reads = {id: reader_of(channel, distro) for id, channel in found.items()}
        links = _search(log, {id: channel.topic for id, channel in found.items()}, reads, topic, pair)
        if links is not None:
            chains[key] = tuple(
                Link(
                    key=f"{key}{_LINK}{link.topic}:{'>'.join(link.pair)}",
                    topic=link.topic,
                    pair=link.pair,
                    is_inverted=link.is_inverted,
                )
                for link in links
            )
    return chains


def _search(
    log: Log, topics: Mapping[int, str], reads: Mapping[int, Read], topic: str, pair: Pair
) -> list[Link] | None:
    """Reads transforms until a pair is there, or its frames are joined; None for a pair, and for unknown frames."""
    tree: dict[str, tuple[str, str]] = {}
    for batch in log.batches(topics.keys()):
        n_before = len(tree)
        for channel, _, begin, end in batch.found.tolist():
            for (parent, child), _ in _transforms(reads[channel], batch.data[begin:end]):
                if (parent, child) == pair and topics[channel] == topic:
                    return None
                known = tree.setdefault(child, (parent, topics[channel]))
                if known[0] != parent and child in _below(tree, pair):
                    two = f"{known[0]} and {parent}"
                    raise Rejected("wrong_names", f"tf: expected one parent of each frame, found {child} in {two}")
        if len(tree) > n_before and (links := _links(tree, pair)):
            return links
    frames = tree.keys() | {parent for parent, _ in tree.values()}
    if not frames >= set(pair):
        return None
    roots = [_below(tree, (frame, frame))[-1] for frame in pair]
    raise Rejected(
        "missing_key",
        f"tf: expected transforms that join {pair[0]} and {pair[1]}; found {pair[0]} below {roots[0]} and {pair[1]} "
        f"below {roots[1]}, with nothing between them",
    )


def _links(tree: Mapping[str, tuple[str, str]], pair: Pair) -> list[Link]:
    """The links from the first frame of a pair to the second, up to the frame that both are below; none if they meet
    nowhere."""
    up, down = (_path(tree, frame) for frame in pair)
    common = next((frame for frame in up if frame in down), None)
    if common is None:
        return []
    rising = [_link(tree, child, True) for child in up[: up.index(common)]]
    return rising + [_link(tree, child, False) for child in reversed(down[: down.index(common)])]


def _link(tree: Mapping[str, tuple[str, str]], child: str, is_inverted: bool) -> Link:
    parent, topic = tree[child]
    return Link(key="", topic=topic, pair=(parent, child), is_inverted=is_inverted)


def _path(tree: Mapping[str, tuple[str, str]], frame: str) -> list[str]:
    """A frame, its parent, and so on to the root. Raises Rejected for a loop."""
    path = [frame]
    while path[-1] in tree:
        parent = tree[path[-1]][0]
        if parent in path:
            loop = [parent, *reversed(path[path.index(parent) :])]
            raise Rejected("wrong_names", f"tf: expected a tree of frames, found the loop {'>'.join(loop)}")
        path.append(parent)
    return path


def _below(tree: Mapping[str, tuple[str, str]], pair: Pair) -> list[str]:
    """All frames on the way from two frames to their roots, the second's root last."""
    return [frame for one in pair for frame in _path(tree, one)]


def encode(transform: Mapping[str, Any]) -> bytes:
    """A TransformStamped as CDR: a message of tf holds several, none of which begins where a message does."""
    header, inner = transform["header"], transform["transform"]
    data = bytearray(_HEAD + _TWO.pack(header["stamp"]["sec"], header["stamp"]["nanosec"]))
    for text in (header["frame_id"], transform["child_frame_id"]):
        data += bytes(-(len(data) - len(_HEAD)) % 4)
        encoded = text.encode() + b"\0"
        data += _COUNT.pack(len(encoded)) + encoded
    data += bytes(-(len(data) - len(_HEAD)) % 8)
    numbers = [inner["translation"][axis] for axis in "xyz"] + [inner["rotation"][axis] for axis in "xyzw"]
    return bytes(data + _POSE.pack(*numbers))


def _tf_channels(log: Log, key: str, topic: str) -> list[Channel]:
    found = [channel for channel in log.channels.values() if channel.topic == topic]
    wrong = [channel.type for channel in found if normal_type(channel.type) not in TF_TYPES]
    if wrong or not found:
        there = wrong[0] if wrong else "no such topic"
        raise Rejected("missing_key", f"{key}: expected a topic of tf2_msgs/TFMessage, found {there}")
    return found


def _plain(frame: str) -> str:
    """tf of ROS 1 wrote frames with a slash before them."""
    return frame.strip().removeprefix("/")


def _frames(path: str) -> Pair:
    parent, _, child = path.partition(">")
    return _plain(parent), _plain(child)


def _listed(pairs: Iterable[Pair]) -> str:
    return ", ".join(">".join(one) for one in sorted(pairs)[:_MOST_SHOWN])
