"""Proposals for a whole dataset: the table, and what its segments are like."""

from collections.abc import Sequence

import numpy as np

from annotation_tools.episodes import EpisodeStore
from pipelines.segments.propose import ProposeParameters, propose_segments
from pipelines.segments.tables import Annotation, episode_hash

ANNOTATOR = "kinematics"


def propose_table(
    store: EpisodeStore, parameters: ProposeParameters, created: str, tool_version: str
) -> list[Annotation]:
    """Proposes segments for every episode of a dataset."""
    table = []
    for episode_id in store.briefs:
        episode = store.episode(episode_id)
        identity = episode_hash(episode.state, episode.action)
        table += [
            Annotation(
                episode_id=episode_id,
                episode_hash=identity,
                segment=segment,
                annotator=ANNOTATOR,
                created=created,
                tool_version=tool_version,
            )
            for segment in propose_segments(episode, parameters)
        ]
    return table


def summarize_lengths(store: EpisodeStore, table: Sequence[Annotation]) -> dict[str, float]:
    """Counts and durations of a table's segments; durations are nan where it has none."""
    seconds = np.array([(a.segment.end - a.segment.start) / store.brief(a.episode_id).control_hz for a in table])
    kinds = [a.segment.kind for a in table]
    nan = float("nan")
    return {
        "episodes": len({a.episode_id for a in table}),
        "segments": len(table),
        "median_s": float(np.median(seconds)) if len(seconds) else nan,
        "shortest_s": float(seconds.min(initial=np.inf)) if len(seconds) else nan,
        "longest_s": float(seconds.max(initial=0)) if len(seconds) else nan,
        "idle": kinds.count("idle"),
        "recovery": kinds.count("recovery"),
    }
