"""Episodes within one bag: between markers, while a marker holds, or between pauses of a topic."""

from collections.abc import Sequence

import numpy as np

from pipelines.mapping.bag_form import EpisodeCut
from pipelines.sources.bags.logs.log import Log
from pipelines.sources.bags.topics import channels_of, read_values

# First and last time (ns) at which messages of an episode were logged.
Range = tuple[int, int]
_NO = frozenset({"", "false", "0", "0.0"})


def find_cuts(log: Log, cut: EpisodeCut, clock: str, distro: str) -> list[Range]:
    """Returns the episodes of a bag in their order. clock: the topic whose pauses count, where the entry names none.

    Raises Rejected where a topic of markers is missing.
    """
    if cut.by == "gaps":
        return _between_gaps(log, cut.topic.partition(":")[0] or clock, cut.gap_s)
    marks = read_values(log, cut.topic, distro=distro)
    _, end = log.span()
    if not cut.start and not cut.stop_topic:
        return while_marked(marks, end)
    if cut.stop_topic:
        stops = [time_ns for time_ns, value in read_values(log, cut.stop_topic, distro=distro) if _is(value, cut.stop)]
    else:
        stops = [time_ns for time_ns, value in marks if _is(value, cut.stop)]
    starts = [time_ns for time_ns, value in marks if _is(value, cut.start)]
    return between(starts, stops, end)


def while_marked(marks: Sequence[tuple[int, str]], end: int) -> list[Range]:
    """Episodes last as long as the marker's value is the same and not empty, false or zero; the last to `end`.

    >>> while_marked([(0, ""), (10, "lift"), (15, "lift"), (20, "put"), (30, "")], 40)
    [(10, 19), (20, 29)]
    """
    found: list[Range] = []
    running, since = "", 0
    for time_ns, value in marks:
        value = "" if value in _NO else value
        if value == running:
            continue
        if running:
            found.append((since, time_ns - 1))
        running, since = value, time_ns
    if running:
        found.append((since, end))
    return found


def between(starts: Sequence[int], stops: Sequence[int], end: int) -> list[Range]:
    """Episodes from each start to the next stop or, where none comes before it, to the next start or `end`.

    >>> between([10, 30, 50], [20, 60], 99)
    [(10, 20), (30, 49), (50, 60)]
    """
    found = []
    for start, following in zip(starts, [*starts[1:], end + 1], strict=True):
        own = [stop for stop in stops if start <= stop < following]
        found.append((start, own[0] if own else following - 1))
    return found


def _between_gaps(log: Log, topic: str, gap_s: float) -> list[Range]:
    channels = {channel.id for channel in channels_of(log, topic)}
    times = np.sort(np.array([message.time_ns for message in log.messages(channels)], np.int64))
    if not len(times):
        return []
    edges = np.flatnonzero(np.diff(times) > gap_s * 1e9)
    firsts = times[np.concatenate([[0], edges + 1]).astype(np.int64)]
    lasts = times[np.concatenate([edges, [len(times) - 1]]).astype(np.int64)]
    return [(int(first), int(last)) for first, last in zip(firsts, lasts, strict=True)]


def _is(value: str, stated: str) -> bool:
    """Whether a marker has the value that an entry states; any has, where it states none."""
    if not stated or value == stated:
        return True
    try:
        return float(value) == float(stated)
    except ValueError:
        return False
