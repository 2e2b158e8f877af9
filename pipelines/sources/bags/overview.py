"""What is in a bag: topics with their types, rates and jitter, as far as its first seconds show."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.facts import SourceFacts, StatedCamera, StatedFeature
from pipelines.contract.native import Rejected
from pipelines.contract.words import counted
from pipelines.mapping.adapters import Adapter, PartSource, Selector
from pipelines.mapping.bag_form import COMMAND_TYPES, BagForm, LabelSource
from pipelines.sources.bags.definitions import normal_type, types_of
from pipelines.sources.bags.logs.inputs import Bag
from pipelines.sources.bags.logs.log import MAX_TIME_NS, Channel, Log
from pipelines.sources.bags.messages import stamp_reader_of
from pipelines.sources.bags.packets import PACKETS
from pipelines.sources.bags.pictures import COMPRESSED, RAW, check_pictures
from pipelines.sources.bags.topics import has_usual_field, read_topics
from pipelines.sources.bags.transforms import TF_TYPES, is_static, pair_reader_of

# What is looked at of a bag: rates need no more.
LOOK_S = 20.0
_MOST_MESSAGES = 200_000
# Topics that come less often are events.
_STREAM_HZ = 2.0
# A rate so near a whole number is that number; headers so far from the log are of another clock.
_USUAL_RATE, _SANE_LATE_MS = 0.02, 10_000.0
# What every ROS 2 system logs of itself, about which nobody has to choose.
_OF_ROS = frozenset({"rcl_interfaces/msg/Log", "rcl_interfaces/msg/ParameterEvent", "rosgraph_msgs/msg/Log"})
_WORDS_OF_TASKS = ("task", "instruction", "language", "prompt")
_WORDS_OF_COMMANDS = ("command", "cmd", "action", "target", "leader", "desired", "goal")


@dataclass(frozen=True, kw_only=True)
class FramePair:
    """Two frames that a topic of tf holds, by the name that an entry has for them. rate_hz: 0 where it came once."""

    key: str
    n: int
    rate_hz: float

    def about(self) -> str:
        """How often it came, and whether it holds from one time to the next."""
        how, count = "static" if is_static(self.key) else "moving", f"{self.n} times" if self.n > 1 else "once"
        rate = f", {self.rate_hz:.3g} Hz" if self.rate_hz else ""
        return f"where the second frame is in the first: {how}, {count}{rate}"


@dataclass(frozen=True, kw_only=True)
class TopicFacts:
    """One topic. rate_hz, jitter_ms: the usual rate, and the deviation of its periods; names: of its columns.

    late_ms: the mean time from the header's stamp to the log, None without headers. width: how many numbers a message
    has, 0 where its field is not known. why_left_out: of cameras that are not read. pairs: of a topic of tf.
    """

    type: str
    n: int
    rate_hz: float
    jitter_ms: float
    late_ms: float | None = None
    names: tuple[str, ...] = ()
    width: int = 0
    fields: tuple[str, ...] = ()
    why_left_out: str = ""
    pairs: tuple["FramePair", ...] = ()

    @property
    def is_camera(self) -> bool:
        return self.type in COMPRESSED | RAW | PACKETS


@dataclass
class _Times:
    logged: list[int] = field(default_factory=list)
    stated: list[int] = field(default_factory=list)


def look_at(log: Log, distro: str = "") -> dict[str, TopicFacts]:
    """Returns the topics of a bag by their name, sorted, from its first `LOOK_S` seconds."""
    first, _ = log.span()
    end = min(MAX_TIME_NS, first + int(LOOK_S * 1e9))
    channels = {channel.id: channel for channel in log.channels.values()}
    reads = {id: _stamp_read(channel, distro) for id, channel in channels.items()}
    times = {channel.topic: _Times() for channel in channels.values()}
    for message in islice(log.messages(channels.keys(), 0, end), _MOST_MESSAGES):
        own, read = times[channels[message.channel].topic], reads[message.channel]
        own.logged.append(message.time_ns)
        if read is not None and (stated := read(message.data)):
            own.stated.append(stated)
    by_topic = {channel.topic: channel for channel in channels.values()}
    return {topic: _facts(log, by_topic[topic], times[topic], end, distro) for topic in sorted(by_topic)}


def probe_of(topics: Mapping[str, TopicFacts], probe: Adapter) -> Adapter:
    """An entry that reads every stream of numbers with a usual field; its steps are those of the likeliest command.

    Raises Rejected where no topic has one.
    """
    streams = {name: facts for name, facts in topics.items() if facts.width and facts.rate_hz >= _STREAM_HZ}
    if not streams:
        there = ", ".join(f"{name} ({facts.type})" for name, facts in topics.items()) or "none"
        raise Rejected("missing_key", f"expected topics of numbers that come twice a second or more; found {there}")
    clock = _clock_of(streams)
    task = LabelSource(topic=_task_of(topics)) if _task_of(topics) else None
    form = BagForm(stamp="header", clock=clock, on_change=tuple(streams), max_gap_s=1e9, instruction=task)
    parts = {name: PartSource(sources=(Selector(key=name),)) for name in streams}
    return replace(probe, bag=form, control_hz=round(streams[clock].rate_hz, 3), state=parts, action={})


def facts_of(bag: Bag, topics: Mapping[str, TopicFacts], n_bags: int) -> SourceFacts:
    """What a bag states, for `embodimix inspect`."""
    kinds = {"mcap": "MCAP", "bag": "ROS 1 bag", "active": "ROS 1 bag that was not closed", "db3": "rosbag2 of SQLite"}
    dialect = kinds.get(bag.files[0].name.rpartition(".")[2], "bag")
    if bag.path not in bag.files:
        dialect = f"{dialect} in folders{f', ROS 2 {bag.distro}' if bag.distro else ''}"
    entry, task = _entry_of(topics), _task_of(topics)
    told = {name: facts for name, facts in topics.items() if name != task and facts.type not in _OF_ROS}
    return SourceFacts(
        dialect=dialect,
        control_hz=float(entry["control_hz"][0]) if entry else None,
        rate_known=entry["control_hz"][1] if entry else "",
        n_episodes=n_bags,
        features={
            name: StatedFeature(dtype=facts.type, shape=(facts.width,), names=facts.names, about=_about(facts))
            for name, facts in topics.items()
            if not facts.is_camera
        },
        cameras={
            name: StatedCamera(codec=facts.type, rate_hz=facts.rate_hz or None, why_left_out=facts.why_left_out)
            for name, facts in topics.items()
            if facts.is_camera
        },
        entry=entry,
        notes=(
            "an episode is taken to be a file; `episodes` of the entry's `bag` cuts them by markers or pauses",
            *(f"{name}: {_about(facts)}" for name, facts in told.items()),
            *(f"{pair.key}: {pair.about()}" for facts in topics.values() for pair in facts.pairs),
            *_note_chains(topics),
        ),
    )


def _note_chains(topics: Mapping[str, TopicFacts]) -> Iterator[str]:
    """That frames which others lie between can be named, too, where there are any."""
    if sum(len(facts.pairs) for facts in topics.values()) > 1:
        yield "frames of tf that others lie between can be named as a pair, too: /tf:FIRST>LAST"


def _entry_of(topics: Mapping[str, TopicFacts]) -> dict[str, tuple[str, str]]:
    """What an entry of the bag must state beside its parts, each with the reason."""
    streams = {name: facts for name, facts in topics.items() if facts.width and facts.rate_hz >= _STREAM_HZ}
    if not streams:
        return {}
    clock = _clock_of(streams)
    rate = streams[clock].rate_hz
    usual = float(round(rate)) if abs(rate / max(round(rate), 1) - 1) < _USUAL_RATE else round(rate, 2)
    late = [facts.late_ms for facts in topics.values() if facts.late_ms is not None]
    # A clock that was never set, or another machine's, lies hours apart.
    is_header = bool(late) and max(map(abs, late)) < _SANE_LATE_MS
    why = "no topic has a header that holds a stamp in every message"
    if late:
        why = f"headers' stamps lie {min(late):.3g} to {max(late):.3g} ms before the log"
    stamp = "header" if is_header else "log"
    task = f", instruction: {{topic: {name}}}" if (name := _task_of(topics)) else ""
    return {
        "control_hz": (f"{usual:g}", f"the rate of {clock}, whose messages are the steps"),
        "bag": (
            f'{{stamp: {stamp}, clock: "{clock}"{task}}}',
            f"{why}; an episode is a file (docs/bags.md has other ways)",
        ),
    }


def _clock_of(streams: Mapping[str, TopicFacts]) -> str:
    """The likeliest command, the slowest of them, and of these the one of most joints."""
    return min(
        streams,
        key=lambda name: (not _is_command(name, streams[name]), round(streams[name].rate_hz), -streams[name].width),
    )


def _task_of(topics: Mapping[str, TopicFacts]) -> str:
    """The topic of texts that is called as instructions are; "" if there is none."""
    texts = [name for name, facts in topics.items() if facts.type == "std_msgs/msg/String"]
    return next((name for name in texts if any(word in name.lower() for word in _WORDS_OF_TASKS)), "")


def _is_command(name: str, facts: TopicFacts) -> bool:
    return facts.type in COMMAND_TYPES or any(word in name.lower() for word in _WORDS_OF_COMMANDS)


def _about(facts: TopicFacts) -> str:
    parts = [f"{facts.type}, {counted(facts.n, 'message')} in the first {LOOK_S:g} s"]
    if facts.rate_hz:
        parts.append(f"{facts.rate_hz:.3g} Hz, periods differ by {facts.jitter_ms:.3g} ms")
    if facts.late_ms is not None:
        parts.append(f"logged {facts.late_ms:.3g} ms after its header's stamp")
    if not facts.width and not facts.is_camera and facts.fields:
        parts.append(f"name one of its fields: {', '.join(facts.fields)}")
    return "; ".join(parts)


def _stamp_read(channel: Channel, distro: str):  # type: ignore[no-untyped-def]
    try:
        return stamp_reader_of(channel, distro)
    except Rejected:
        return None


def _facts(log: Log, channel: Channel, times: _Times, end: int, distro: str) -> TopicFacts:
    logged, stated = np.sort(np.array(times.logged, np.int64)), np.array(times.stated, np.int64)
    clock = stated if len(stated) == len(logged) else logged
    periods = np.diff(np.sort(clock)) / 1e6
    usual = float(np.median(periods)) if len(periods) else 0.0
    found = TopicFacts(
        type=normal_type(channel.type),
        n=len(logged),
        rate_hz=1e3 / usual if usual > 0 else 0.0,
        jitter_ms=round(float(periods.std()), 3) if len(periods) else 0.0,
        late_ms=_late(logged, stated),
    )
    try:
        return _with_content(found, log, channel, end, distro)
    except Rejected as error:
        return replace(found, why_left_out=error.detail)


def _late(logged: NDArray[np.int64], stated: NDArray[np.int64]) -> float | None:
    if not len(stated) or len(stated) != len(logged):
        return None
    return round(float((logged - np.sort(stated)).mean()) / 1e6, 3)


def _with_content(found: TopicFacts, log: Log, channel: Channel, end: int, distro: str) -> TopicFacts:
    """With what the first messages hold. Raises Rejected for pictures of depth, and messages that are not read."""
    if found.is_camera:
        pictures = read_topics(log, (), [channel.topic], "log", 0, end, distro).pictures[channel.topic]
        if found.type not in PACKETS:
            check_pictures(log, pictures)
        return found
    if found.type in TF_TYPES:
        return replace(found, pairs=_pairs_in(log, channel, end, distro))
    if channel.wire in ("cdr", "ros1"):
        found = replace(found, fields=tuple(_leaves(channel, distro)))
    if not has_usual_field(channel):
        return found
    samples = read_topics(log, [channel.topic], (), "log", 0, end, distro).samples[channel.topic]
    width = sum(one.values.shape[1] for one in samples)
    return replace(found, width=width, names=tuple(name for one in samples for name in one.names))


def _pairs_in(log: Log, channel: Channel, end: int, distro: str) -> tuple[FramePair, ...]:
    """The pairs of frames of a topic of tf, sorted."""
    channels = {one.id: one for one in log.channels.values() if one.topic == channel.topic}
    reads = {id: pair_reader_of(one, distro) for id, one in channels.items()}
    times: dict[str, list[int]] = {}
    for message in islice(log.messages(channels.keys(), 0, end), _MOST_MESSAGES):
        for parent, child in reads[message.channel](message.data):
            times.setdefault(f"{channel.topic}:{parent}>{child}", []).append(message.time_ns)
    return tuple(
        FramePair(key=key, n=len(logged), rate_hz=_rate(np.array(logged, np.int64)))
        for key, logged in sorted(times.items())
    )


def _rate(logged: NDArray[np.int64]) -> float:
    usual = float(np.median(np.diff(np.sort(logged)))) if len(logged) > 1 else 0.0
    return 1e9 / usual if usual > 0 else 0.0


def _leaves(channel: Channel, distro: str) -> Iterator[str]:
    """The fields of a message, those of its inner messages with a dot; no deeper."""
    types = types_of(channel, distro)
    for name, (_, what) in types[normal_type(channel.type)]:
        inner = types.get(what) if isinstance(what, str) else None
        if inner is None or name == "header":
            yield name
        else:
            yield from (f"{name}.{below}" for below, _ in inner)
