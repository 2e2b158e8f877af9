"""What the segment tables hold of a group: how much is labelled, in how many sentences, of which kinds, and by whom."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mixtures.groups.selection import Selected
from mixtures.index.compiling import FROM_PROPOSAL, KINDS, SEGMENT, SOURCES


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The segments of a group's episodes. texts: part of the recorded steps whose segment has a sentence; the phrases
    of proposals count only where the mixture draws them.

    sentences: different ones. kinds, sources: parts of the segmented steps of each, those above 0. median_s: of the
    segments' lengths, None without segments. instructions: different sentences about whole episodes.
    """

    texts: float
    sentences: int
    instructions: int
    kinds: Mapping[str, float]
    sources: Mapping[str, float]
    median_s: float | None


def labels_of(parts: Sequence[Selected], proposals: bool) -> Labels:
    """The labels of the episodes of a group's parts. proposals: whether their phrases are texts."""
    found = [_segments(part) for part in parts]
    segments = np.concatenate([np.empty(0, SEGMENT), *(rows for rows, _, _ in found)])
    texts = pa.chunked_array([texts for _, texts, _ in found], pa.large_string())
    seconds = np.concatenate([np.empty(0), *(seconds for _, _, seconds in found)])
    spoken = pc.greater(pc.utf8_length(texts), 0).to_numpy().astype(np.bool_)
    if not proposals:
        spoken &= segments["source"] != FROM_PROPOSAL
    recorded = sum(int(part.table.n_steps_of[part.rows].sum()) for part in parts)
    return Labels(
        texts=float(segments["n_steps"][spoken].sum()) / recorded,
        sentences=pc.count_distinct(texts.filter(pa.array(spoken))).as_py(),
        instructions=_count_instructions(parts),
        kinds=_parts_of_steps(segments, "kind", KINDS),
        sources=_parts_of_steps(segments, "source", SOURCES),
        median_s=float(np.median(seconds)) if len(seconds) else None,
    )


def _segments(part: Selected) -> tuple[np.ndarray, pa.Array, np.ndarray]:
    """The segments of a part's episodes, their texts and lengths in seconds."""
    table = part.table
    chosen = np.zeros(table.n_episodes, np.bool_)
    chosen[part.rows] = True
    mine = np.flatnonzero(chosen[table.segments["episode"]])
    segments = table.segments[mine]
    texts = table.segment_texts.take(pa.array(mine))
    return segments, texts, segments["n_steps"] / table.control_hz[segments["episode"]]


def _parts_of_steps(segments: np.ndarray, column: str, names: Sequence[str]) -> dict[str, float]:
    steps = np.bincount(segments[column], segments["n_steps"], len(names))
    return {name: float(n / steps.sum()) for name, n in zip(names, steps, strict=True) if n}


def _count_instructions(parts: Sequence[Selected]) -> int:
    texts = [part.table.languages.take(pa.array(part.rows)).flatten() for part in parts]
    found = pa.chunked_array(texts, pa.large_string())
    return int(pc.count_distinct(found.filter(pc.greater(pc.utf8_length(found), 0))).as_py())
