"""What all formats exchange: episodes with their segments, and how foreign names of episodes are understood."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from annotation_tools.episodes import Brief, EpisodeStore
from pipelines.contract.episode import Segment
from pipelines.contract.errors import FailedWork, nearest
from pipelines.segments.tables import Annotation


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One episode on its way out. index: its place in the dataset."""

    index: int
    episode_id: str
    task: str
    n_steps: int
    control_hz: float
    segments: tuple[Segment, ...]


@dataclass(frozen=True, kw_only=True)
class EpisodeNames:
    """The episodes by every name that a foreign file may use: id, the source's key, place in the dataset."""

    briefs: Mapping[str, Brief]
    by_name: Mapping[str, str]

    @classmethod
    def of(cls, store: EpisodeStore, given: Mapping[str, str] | None = None) -> "EpisodeNames":
        """given: foreign name to episode id, which goes before all others."""
        by_name = {str(index): episode_id for index, episode_id in enumerate(store.briefs)}
        by_name |= {brief.source_key: episode_id for episode_id, brief in store.briefs.items()}
        by_name |= {episode_id: episode_id for episode_id in store.briefs}
        return cls(briefs=store.briefs, by_name={**by_name, **(given or {})})

    def find(self, name: str, n_steps: int | None = None) -> Brief:
        """The episode of a foreign name. Raises FailedWork where there is none, or it has another length."""
        episode_id = self.by_name.get(name)
        if episode_id is None or episode_id not in self.briefs:
            raise FailedWork(f"no episode {name!r} in the dataset. {nearest(name, self.by_name)}")
        brief = self.briefs[episode_id]
        if n_steps is not None and n_steps != brief.n_steps:
            raise FailedWork(f"episode {name!r}: expected {brief.n_steps} steps as in the dataset, found {n_steps}")
        return brief

    def at(self, index: int) -> Brief:
        """The episode at a place of the dataset."""
        return self.find(str(index))


def make_clips(store: EpisodeStore, segments: Mapping[str, Sequence[Segment]]) -> list[Clip]:
    """The episodes that have segments, in the order of the dataset."""
    return [
        Clip(
            index=index,
            episode_id=episode_id,
            task=brief.task,
            n_steps=brief.n_steps,
            control_hz=brief.control_hz,
            segments=tuple(segments[episode_id]),
        )
        for index, (episode_id, brief) in enumerate(store.briefs.items())
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
