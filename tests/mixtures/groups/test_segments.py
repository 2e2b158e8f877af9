"""Segment tables over a dataset's own segments, and weights by kind of segment."""

from pathlib import Path

import numpy as np
import pytest

from mixtures.mixture import Mixture, open_mixture
from mixtures.stream.batches import Stream
from pipelines.contract.episode import Segment
from pipelines.contract.errors import FailedWork
from pipelines.segments.tables import Annotation, episode_hash, write_segments
from tests.support.inputs.mixture_data import make_episode, write_dataset, write_spec

EPISODES = [make_episode(i, cameras=("base_0_rgb",), idle=[0] if i == 0 else []) for i in range(3)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_dataset(tmp_path, "a", EPISODES, n_shards=1)
    return tmp_path


def opened(folder: Path, body: str) -> Mixture:
    return open_mixture(write_spec(folder, body), cache=folder / "cache")


def annotate(folder: Path, name: str, row: int, segments: list[Segment], movement: str | None = None) -> None:
    (table,) = opened(folder, "datasets: [{path: a/1.0.0}]\n").tables
    steps = slice(table.first_step[row], table.first_step[row + 1])
    annotations = [
        Annotation(
            episode_id=table.episode_ids[row].as_py(),
            segment=segment,
            annotator="ann",
            created="2026-01-01T00:00:00Z",
            tool_version="1",
            episode_hash=movement or episode_hash(table.state[steps], table.action[steps]),
        )
        for segment in segments
    ]
    write_segments(folder / name, annotations)


def texts(mixture: Mixture, row: int) -> list[str]:
    with Stream(mixture, batch_size=1) as stream:
        return stream.gather([row] * 12, list(range(12))).language


BODY = "datasets: [{path: a/1.0.0, segments: [new.parquet]}]\nlanguage: {segment: 1, task: 0, proposals: true}\n"


def test_a_table_replaces_the_segments_of_the_episodes_it_speaks_of(folder: Path) -> None:
    annotate(folder, "new.parquet", 1, [Segment(start=2, end=5, text="grasp"), Segment(start=5, end=9, text="lift")])
    mixture = opened(folder, BODY)
    assert set(texts(mixture, 0)) == {"reach 0", "close 0"}
    found = texts(mixture, 1)
    assert found[2:9] == ["grasp"] * 3 + ["lift"] * 4
    assert {text in ("fold the shirt", "fold it") for text in found[:2] + found[9:]} == {True}
    assert mixture.groups[0].segments == pytest.approx((12 + 7 + 12) / 36)


def test_later_tables_win(folder: Path) -> None:
    annotate(folder, "new.parquet", 1, [Segment(start=0, end=12, text="first")])
    annotate(folder, "newer.parquet", 1, [Segment(start=0, end=12, text="second")])
    assert set(texts(opened(folder, BODY.replace("new.parquet]", "new.parquet, newer.parquet]")), 1)) == {"second"}


def test_a_changed_table_changes_the_lock(folder: Path) -> None:
    annotate(folder, "new.parquet", 1, [Segment(start=0, end=12, text="first")])
    lock = opened(folder, BODY).lock()
    annotate(folder, "new.parquet", 1, [Segment(start=0, end=12, text="other")])
    with pytest.raises(FailedWork, match="dataset a/1.0.0 train: its content changed"):
        opened(folder, BODY).check_lock(lock)


def test_tables_that_do_not_fit_are_refused(folder: Path) -> None:
    with pytest.raises(FailedWork, match=r"mixture.yaml:3:19: .*new.parquet: expected a segment table"):
        opened(folder, BODY)
    annotate(folder, "new.parquet", 1, [Segment(start=0, end=13, text="too long")])
    with pytest.raises(FailedWork, match="outside: the episode has steps 0-12"):
        opened(folder, BODY)
    annotate(folder, "new.parquet", 1, [Segment(start=0, end=5, text="grasp")], movement="0" * 32)
    with pytest.raises(FailedWork, match="other version"):
        opened(folder, BODY)


def test_kinds_can_be_drawn_more_and_less_often(folder: Path) -> None:
    # 18 steps of subtasks (one of them idle), 18 of recoveries.
    mixture = opened(folder, "datasets: [{path: a/1.0.0}]\nkinds: {recovery: 2, idle: 0}\n")
    assert mixture.groups[0].n_steps == 17 + 36
    with Stream(mixture, batch_size=1) as stream:
        samples = stream.samples(0, 53)
    drawn = np.zeros((3, 12), int)
    np.add.at(drawn, (stream.index.row[samples.episode], samples.step), 1)
    expected = np.ones((3, 12), int)
    expected[:, 6:] = 2
    expected[0, 0] = 0
    assert np.array_equal(drawn, expected)


def test_a_fractional_weight_keeps_a_fixed_part_of_the_steps(folder: Path) -> None:
    mixture = opened(folder, "datasets: [{path: a/1.0.0}]\nkinds: {subtask: 0.5}\n")
    assert 18 + 3 <= mixture.groups[0].n_steps <= 18 + 14
    assert opened(folder, "datasets: [{path: a/1.0.0}]\nkinds: {subtask: 0.5}\nseed: 4\n").groups == mixture.groups
