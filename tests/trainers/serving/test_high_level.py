"""A high-level policy learned from labelled segments: which sentence comes next."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from annotation_tools.episodes import EpisodeStore
from pipelines.contract.episode import Segment
from pipelines.contract.errors import FailedWork
from pipelines.segments.tables import Annotation, write_segments
from tests.support.inputs.annotation_episodes import make_dataset
from trainers.serving.high_level import NearestState, learn_nearest_state


def vector(value: float) -> np.ndarray:
    return np.eye(1, 18, dtype=np.float32)[0] * value


def test_the_sentence_of_most_of_the_nearest_states_is_said() -> None:
    states = np.stack([vector(value) for value in (0.0, 0.1, 0.2, 1.0, 1.1, 1.2)])
    learned = NearestState(
        states={"lift it": states},
        sentences={"lift it": ("reach",) * 3 + ("take",) * 3},
        scale=np.ones(18, np.float32),
        neighbours=3,
    )
    assert [learned.next_sentence("lift it", vector(value), {}) for value in (0.0, 0.5, 0.7, 2.0)] == [
        "reach",
        "reach",
        "take",
        "take",
    ]


def test_a_task_it_never_saw_is_named() -> None:
    learned = NearestState(
        states={"lift it": np.zeros((1, 18), np.float32)},
        sentences={"lift it": ("reach",)},
        scale=np.ones(18, np.float32),
    )
    with pytest.raises(FailedWork, match="expected one of the tasks .'lift it'., found 'fold it'"):
        learned.next_sentence("fold it", vector(0.0), {})


@pytest.fixture
def labelled(tmp_path: Path) -> tuple[EpisodeStore, Path]:
    """A dataset of two episodes, and a table that calls the first half of each `reach` and the second `take`."""
    dataset = make_dataset(tmp_path, n_episodes=2, n_shards=1)
    store = EpisodeStore(dataset)
    rows = []
    for episode_id, brief in store.briefs.items():
        key, middle = store.key(episode_id), brief.n_steps // 2
        for start, end, text in ((0, middle, "reach"), (middle, brief.n_steps, "take")):
            segment = Segment(start=start, end=end, text=text, source="human")
            rows.append(
                Annotation(
                    episode_id=episode_id,
                    episode_hash=key.episode_hash,
                    segment=segment,
                    annotator="ann",
                    created="2026-01-01T00:00:00Z",
                    tool_version="0.1.0",
                )
            )
    write_segments(dataset / "ann.parquet", rows)
    return store, dataset


def test_it_learns_what_the_table_says_of_each_stretch(labelled: tuple[EpisodeStore, Path]) -> None:
    store, dataset = labelled
    brief = next(iter(store.briefs.values()))
    learned = learn_nearest_state(dataset, dataset / "ann.parquet", [brief.robot])
    assert sum(map(len, learned.sentences.values())) == sum(b.n_steps for b in store.briefs.values())
    state = store.episode(brief.episode_id).state
    one = NearestState(states=learned.states, sentences=learned.sentences, scale=learned.scale, neighbours=1)
    assert one.next_sentence(brief.task, state[0], {}) == "reach"
    assert one.next_sentence(brief.task, state[-1], {}) == "take"
    with pytest.raises(FailedWork, match="successful episodes of .'nobody'., found none"):
        learn_nearest_state(dataset, dataset / "ann.parquet", ["nobody"])


def test_it_learns_nothing_from_failures(labelled: tuple[EpisodeStore, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    store, dataset = labelled
    failed, kept = store.briefs.values()
    briefs = {failed.episode_id: replace(failed, success=0), kept.episode_id: kept}
    monkeypatch.setattr(EpisodeStore, "briefs", briefs)
    learned = learn_nearest_state(dataset, dataset / "ann.parquet", [kept.robot])
    assert sum(map(len, learned.sentences.values())) == kept.n_steps
