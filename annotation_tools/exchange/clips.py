"""What all formats exchange: episodes with their segments, and how foreign names of episodes are understood.

An episode is known by its id, by the source's own key, or by a name that the user gives; never by its position in the
dataset, since shards are filled in the order of a hash.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from annotation_tools.episodes import Brief, EpisodeStore
from pipelines.contract.episode import Segment
from pipelines.contract.errors import FailedWork, nearest
from pipelines.segments.tables import Annotation

Rows = NDArray[np.int64]
Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One episode to be exported.

    source_key: the source's own key. name: what the user calls it in the other tool (`--names`), "" for nothing.
    dropped: the source's steps (start, end) that the dataset left out, so that segments land on the source's frames.
    """

    episode_id: str
    source_key: str
    task: str
    n_steps: int
    control_hz: float
    segments: tuple[Segment, ...]
    name: str = ""
    dropped: Spans = ()

    @property
    def lerobot_index(self) -> int | None:
        """The episode's `episode_index` in the LeRobot dataset it comes from; None where it comes from elsewhere."""
        return int(self.name) if self.name.isdecimal() else lerobot_index(self.source_key)

    @property
    def own_number(self) -> int | None:
        """The number that the source itself names the episode by (a folder `648642`, say); None without one."""
        name = self.name or PurePosixPath(self.source_key).name.partition(".")[0]
        return int(name) if name.isdecimal() else None

    @property
    def rows(self) -> Rows:
        """The source's row of every step, int64 [t]."""
        return source_rows(self.n_steps, self.dropped)

    def frames(self, segment: Segment) -> tuple[int, int]:
        """A segment's start and end in the source's frames, half open."""
        rows = self.rows
        return int(rows[segment.start]), int(rows[segment.end - 1]) + 1


@dataclass(frozen=True, kw_only=True)
class Match:
    """A dataset's episode that a foreign one is, and the source's rows that became its steps."""

    brief: Brief
    dropped: Spans = ()

    def steps(self, start: int, end: int) -> tuple[int, int]:
        """The steps of the source's frames `start` up to `end`; frames past the source's end stay past the episode."""
        rows = source_rows(self.brief.n_steps, self.dropped)
        known = max([int(rows[-1]) + 1, *(stop for _, stop in self.dropped)])
        first, last = (int(np.searchsorted(rows, min(frame, known))) for frame in (start, end))
        return first, last + max(0, end - known)

    def place(self, segments: Iterable[Segment]) -> list[Segment]:
        """Segments in the source's frames as segments in the dataset's steps."""
        spans = [(segment, *self.steps(segment.start, segment.end)) for segment in segments]
        return [replace(segment, start=start, end=end) for segment, start, end in spans]

    def check_rows(self, n_rows: int, where: str) -> Rows:
        """The rows of the episode's steps in a foreign table of `n_rows`. Raises FailedWork where they cannot fit."""
        return check_rows(self.brief.n_steps, self.dropped, n_rows, where)


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What a foreign file holds: segments by episode id, and the names of its episodes that the dataset lacks."""

    segments: Mapping[str, Sequence[Segment]]
    absent: tuple[str, ...] = ()


@dataclass
class Collector:
    """Gathers a foreign file's episodes one by one."""

    where: str
    segments: dict[str, list[Segment]] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)

    def add(self, match: Match, segments: Iterable[Segment]) -> None:
        """Takes an episode's segments. Raises FailedWork where another foreign episode was the same one."""
        episode_id = match.brief.episode_id
        if episode_id in self.segments:
            raise FailedWork(f"{self.where}: expected one entry of {_name(match.brief)}, found two")
        # All steps of this segment were left out of the dataset, so that it covers no row.
        self.segments[episode_id] = [segment for segment in segments if segment.end > segment.start]

    def finish(self) -> Imported:
        """Raises FailedWork where no episode of the file is in the dataset."""
        if self.absent and not self.segments:
            raise FailedWork(
                f"{self.where}: expected episodes of the dataset, found none of {', '.join(self.absent[:5])}. "
                "Name them with --names FILE, a CSV of foreign name and episode id or source key."
            )
        return Imported(segments=self.segments, absent=tuple(self.absent))


@dataclass(frozen=True, kw_only=True)
class EpisodeNames:
    """The episodes by every name that a foreign file may use.

    given: names that the user stated, to episode ids; they go before all others. by_name: id, source key, and the
    file name and stem of the key. by_index: `episode_index` of the LeRobot dataset that episodes come from. A name of
    several episodes is ambiguous. dropped: by source key.
    """

    briefs: Mapping[str, Brief]
    given: Mapping[str, str]
    by_name: Mapping[str, tuple[str, ...]]
    by_index: Mapping[int, tuple[str, ...]]
    dropped: Mapping[str, Spans]

    @classmethod
    def of(cls, store: EpisodeStore, given: Mapping[str, str] | None = None) -> "EpisodeNames":
        """given: foreign name to episode id or source key. Raises FailedWork where the dataset has no such episode."""
        names: dict[str, list[str]] = {}
        indices: dict[int, list[str]] = {}
        for episode_id, brief in store.briefs.items():
            file_name = PurePosixPath(brief.source_key).name
            for name in {episode_id, brief.source_key, file_name, file_name.partition(".")[0]}:
                names.setdefault(name, []).append(episode_id)
            if (index := lerobot_index(brief.source_key)) is not None:
                indices.setdefault(index, []).append(episode_id)
        bare = cls(
            briefs=store.briefs,
            given={},
            by_name={name: tuple(ids) for name, ids in names.items()},
            by_index={index: tuple(ids) for index, ids in indices.items()},
            dropped=store.dropped,
        )
        resolved = {name: bare.find(target).brief.episode_id for name, target in (given or {}).items()}
        return cls(**{**bare.__dict__, "given": resolved})

    def match(self, name: str) -> Match | None:
        """The episode of a foreign name, None where the dataset has none. Raises FailedWork where it has several."""
        if name in self.given:
            return self._match(self.given[name])
        return self._one(name, self.by_name.get(name, ()))

    def match_index(self, index: int) -> Match | None:
        """The episode of a LeRobot `episode_index`, in its source or as the user named it; None where there is none."""
        if str(index) in self.given:
            return self._match(self.given[str(index)])
        return self._one(f"episode_index {index}", self.by_index.get(index, ()))

    def find(self, name: str) -> Match:
        """As `match`. Raises FailedWork where there is none."""
        match = self.match(name)
        if match is None:
            raise FailedWork(f"no episode {name!r} in the dataset. {nearest(name, [*self.given, *self.by_name])}")
        return match

    def _one(self, name: str, ids: Sequence[str]) -> Match | None:
        if len(ids) > 1:
            shown = ", ".join(_name(self.briefs[episode_id]) for episode_id in ids[:3])
            raise FailedWork(f"{name}: expected one episode of that name, found {len(ids)}: {shown}. Use --names.")
        return self._match(ids[0]) if ids else None

    def _match(self, episode_id: str) -> Match:
        brief = self.briefs[episode_id]
        return Match(brief=brief, dropped=self.dropped.get(brief.source_key, ()))


def lerobot_index(source_key: str) -> int | None:
    """The `episode_index` in a key of the LeRobot reader; None for keys of other sources.

    >>> lerobot_index("episode_000012"), lerobot_index("demos/episode_12.hdf5")
    (12, None)
    """
    found = re.fullmatch(r"episode_(\d{6,})", source_key)
    return int(found[1]) if found else None


def source_rows(n_steps: int, dropped: Spans) -> Rows:
    """The source's row of each of the first `n_steps` steps that were not dropped, int64 [t].

    >>> source_rows(3, ((0, 1), (2, 4)))
    array([1, 4, 5])
    """
    n_rows = n_steps + sum(stop - start for start, stop in dropped)
    return _kept(n_rows, dropped)[:n_steps]


def check_rows(n_steps: int, dropped: Spans, n_rows: int, where: str) -> Rows:
    """The rows of the steps in a table of `n_rows`. Raises FailedWork unless steps and dropped rows make up the table.

    A table that already has one row per step is taken as it is.
    """
    if n_rows == n_steps:
        return np.arange(n_steps)
    rows = _kept(n_rows, dropped)
    if len(rows) != n_steps:
        lost = f" and {n_rows - len(rows)} that conversion left out" if dropped else ""
        raise FailedWork(f"{where}: expected {n_steps} frames{lost}, found {n_rows}")
    return rows


def _kept(n_rows: int, dropped: Spans) -> Rows:
    kept = np.ones(n_rows, np.bool_)
    for start, stop in dropped:
        kept[start:stop] = False
    return np.flatnonzero(kept)


def _name(brief: Brief) -> str:
    return f"{brief.source_key} ({brief.episode_id[:8]})"


def make_clips(
    store: EpisodeStore, segments: Mapping[str, Sequence[Segment]], names: EpisodeNames | None = None
) -> list[Clip]:
    """The episodes that have segments, in the order of the dataset. names: holds what the user calls them."""
    called = {episode_id: name for name, episode_id in names.given.items()} if names else {}
    return [
        Clip(
            episode_id=episode_id,
            source_key=brief.source_key,
            task=brief.task,
            n_steps=brief.n_steps,
            control_hz=brief.control_hz,
            segments=tuple(segments[episode_id]),
            name=called.get(episode_id, ""),
            dropped=store.dropped.get(brief.source_key, ()),
        )
        for episode_id, brief in store.briefs.items()
        if episode_id in segments
    ]


def stamp(
    store: EpisodeStore, found: Mapping[str, Iterable[Segment]], annotator: str, created: str, tool_version: str
) -> list[Annotation]:
    """Turns what was read into rows of a table; segments that overlap go to `annotator-2`, `annotator-3`, ..."""
    rows = []
    for episode_id, segments in found.items():
        identity = store.key(episode_id).episode_hash
        reached: list[int] = []
        for segment in sorted(segments, key=lambda s: (s.start, s.end)):
            layer = next((i for i, end in enumerate(reached) if end <= segment.start), len(reached))
            reached[layer : layer + 1] = [segment.end]
            name = annotator if layer == 0 else f"{annotator}-{layer + 1}"
            rows.append(
                Annotation(
                    episode_id=episode_id,
                    episode_hash=identity,
                    segment=segment,
                    annotator=name,
                    created=created,
                    tool_version=tool_version,
                )
            )
    return rows


def runs_to_segments(texts: Sequence[str | None]) -> list[Segment]:
    """One text per step as segments: a stretch of one text is one segment, None and "" are none."""
    segments, start = [], 0
    for step in range(1, len(texts) + 1):
        if step == len(texts) or texts[step] != texts[start]:
            if text := texts[start]:
                segments.append(Segment(start=start, end=step, text=text, source="source"))
            start = step
    return segments
