"""High-level policies: choose the next prompt of a policy, one segment sentence at a time, as its task proceeds.

pi0 (section V-C of the paper) is prompted in three ways: by the task's sentence alone, by a person who knows what comes
next, and by a high-level policy. Anything with the method of `HighLevelPolicy` can be the last one.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from annotation_tools.episodes import EpisodeStore
from pipelines.contract.errors import FailedWork
from pipelines.segments.tables import overlay, read_segments
from pipelines.storage.paths import StoragePath

Vectors = NDArray[np.float32]


class HighLevelPolicy(Protocol):
    """Chooses the next prompt of a policy."""

    def next_sentence(self, task: str, state: Vectors, pictures: Mapping[str, NDArray[np.uint8]]) -> str:
        """The sentence for what to do now.

        task: the sentence of the whole task. state: float32 [d], physical. pictures: uint8 [224, 224, 3] by camera.
        """


@dataclass(frozen=True, kw_only=True)
class NearestState:
    """The sentence that annotators gave the states most like this one, in demonstrations of the same task.

    It sees joints and grippers only. states: by task, float32 [n, d]; sentences: by task, one per state.
    scale: float32 [d], what counts as the same distance in every slot.
    """

    states: Mapping[str, Vectors]
    sentences: Mapping[str, tuple[str, ...]]
    scale: Vectors
    neighbours: int = 15

    def next_sentence(self, task: str, state: Vectors, pictures: Mapping[str, NDArray[np.uint8]]) -> str:
        """The most frequent sentence among the nearest states. Raises FailedWork for a task that it never saw."""
        if task not in self.states:
            raise FailedWork(f"high-level policy: expected one of the tasks {sorted(self.states)}, found {task!r}")
        distance = np.square((self.states[task] - state) / self.scale).sum(axis=1)
        nearest = np.argsort(distance, kind="stable")[: self.neighbours]
        given = [self.sentences[task][k] for k in nearest]
        return max(dict.fromkeys(given), key=given.count)


def learn_nearest_state(dataset: str | StoragePath, table: StoragePath, robots: Iterable[str]) -> NearestState:
    """Learns from a dataset's successful episodes of some robots, and the segment table that holds their sentences."""
    store, wanted = EpisodeStore(dataset), set(robots)
    states, sentences = defaultdict[str, list[Vectors]](list), defaultdict[str, list[str]](list)
    for episode_id, segments in overlay([read_segments(table)]).items():
        brief = store.brief(episode_id)
        if brief.robot not in wanted or brief.success == 0:
            continue
        state = store.episode(episode_id).state
        for segment in segments:
            states[brief.task].append(state[segment.start : segment.end])
            sentences[brief.task] += [segment.text] * (segment.end - segment.start)
    if not states:
        raise FailedWork(f"{table}: expected segments of successful episodes of {sorted(wanted)}, found none")
    stacked = {task: np.concatenate(parts) for task, parts in states.items()}
    spread = _spread(list(stacked.values()))
    return NearestState(
        states=stacked, sentences={task: tuple(texts) for task, texts in sentences.items()}, scale=spread
    )


def _spread(parts: Sequence[Vectors]) -> Vectors:
    """Standard deviation by slot over all states, 1 where nothing moves."""
    spread = np.concatenate(parts).std(axis=0)
    return np.where(spread > 1e-6, spread, 1.0).astype(np.float32)
