"""Filters on quality, ranges and labels, and what a plan says of a group's segments."""

from pathlib import Path

import numpy as np
import pytest

from mixtures.groups.label_coverage import Labels
from mixtures.mixture import Mixture, open_mixture
from mixtures.reports.plan import parts_in_words
from mixtures.stream.batches import Stream
from pipelines.contract.episode import Segment
from pipelines.contract.errors import UsageError
from pipelines.segments.tables import Annotation, episode_hash, write_segments
from tests.support.inputs.mixture_data import make_episode, write_dataset, write_spec


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episodes 0: 12 steps, 10 Hz; 1: 20 steps, of which 15 idle; 2: 12 steps, 20 Hz, one camera, no segments."""
    root = tmp_path_factory.mktemp("filters")
    episodes = [
        make_episode(0),
        make_episode(1, n_steps=20, idle=range(15)),
        make_episode(2, control_hz=20.0, missing=("left_wrist_0_rgb",), segments=False),
    ]
    write_dataset(root, "a", episodes, n_shards=1)
    return root


def opened(folder: Path, rules: str, entry: str = "") -> Mixture:
    body = f"datasets: [{{path: a/1.0.0, filters: [{rules}]{entry}}}]\n"
    return open_mixture(write_spec(folder, body), cache=folder / "cache")


def steps_of(mixture: Mixture) -> dict[int, list[int]]:
    """The steps that can be drawn of each episode, by the number of the episode."""
    (table,) = mixture.tables
    with Stream(mixture, batch_size=1) as stream:
        samples = stream.samples(0, stream.n_samples)
    rows = stream.index.row[samples.episode]
    numbers = np.round(table.state[table.first_step[rows], 0]).astype(int)
    return {n: sorted(samples.step[numbers == n].tolist()) for n in sorted(set(numbers.tolist()))}


FIRST, SECOND = list(range(12)), list(range(20))


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("{keep: {max_idle: 0.5}}", {0: FIRST, 2: FIRST}),
        ("{keep: {min_s: 1.2}}", {0: FIRST, 1: SECOND}),
        ("{keep: {max_s: 1.2}}", {0: FIRST, 2: FIRST}),
        ("{drop: {min_hz: 15}}", {0: FIRST, 1: SECOND}),
        ("{keep: {max_hz: 15, min_steps: 13}}", {1: SECOND}),
        ("{keep: {min_labelled: 0.9}}", {0: FIRST, 1: SECOND}),
        ("{keep: {cameras: [base_0_rgb, left_wrist_0_rgb]}}", {0: FIRST, 1: SECOND}),
        ("{keep: {from_step: 3, before_step: 5}}", {0: [3, 4], 1: [3, 4], 2: [3, 4]}),
        ("{drop: {last_steps: 10}}", {0: [0, 1], 1: list(range(10)), 2: [0, 1]}),
        ("{keep: {last_steps: 2, max_steps: 12}}", {0: [10, 11], 2: [10, 11]}),
        ("{keep: {kind: [recovery]}}", {0: FIRST[6:], 1: SECOND[10:]}),
        ("{keep: {source: [proposal]}}", {0: FIRST, 1: SECOND}),
        ("{keep: {min_confidence: 0.5}}", {0: FIRST, 1: SECOND}),
        ("{keep: {state: {0: [1.05, 1.07]}}}", {1: [5, 6, 7]}),
        ("{drop: {action: {0: [0.5, 9]}}}, {keep: {state: {1: [-1, 0.031]}}}", {0: [0, 1, 2, 3]}),
        ("{drop: {state: {0: [0, 2.5]}, max_hz: 15}}", {2: FIRST}),
    ],
)
def test_a_filter_keeps_what_meets_all_of_it(folder: Path, rules: str, expected: dict[int, list[int]]) -> None:
    assert steps_of(opened(folder, rules)) == expected


def test_a_filter_that_leaves_nothing_says_what_it_asked(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing is left of a 1.0.0 .* after keep: \{'state 0': \[50.0, 60.0\]\}"):
        opened(folder, "{keep: {state: {0: [50, 60]}}}")


def test_sources_and_confidence_are_those_of_the_segment_tables(folder: Path) -> None:
    (table,) = opened(folder, "").tables
    steps = slice(table.first_step[0], table.first_step[1])
    segments = [
        Segment(start=0, end=4, text="grip it", source="human", confidence=0.9),
        Segment(start=4, end=6, text="wait", kind="idle", source="human", confidence=0.2),
    ]
    key = {"episode_id": table.episode_ids[0].as_py(), "annotator": "ann", "created": "2026-01-01T00:00:00Z"}
    movement = episode_hash(table.state[steps], table.action[steps])
    annotations = [Annotation(segment=s, tool_version="1", episode_hash=movement, **key) for s in segments]
    write_segments(folder / "new.parquet", annotations)
    tables = ", segments: [new.parquet]"
    assert steps_of(opened(folder, "{keep: {source: [human]}}", tables)) == {0: [0, 1, 2, 3, 4, 5]}
    assert steps_of(opened(folder, "{keep: {min_confidence: 0.5}}, {keep: {max_steps: 12}}", tables)) == {
        0: [0, 1, 2, 3]
    }
    (group,) = opened(folder, "", tables).groups
    assert group.labels == Labels(
        texts=pytest.approx(6 / 44),
        sentences=2,
        instructions=2,
        median_s=0.7,
        kinds=pytest.approx({"subtask": 14 / 26, "recovery": 10 / 26, "idle": 2 / 26}),
        sources=pytest.approx({"proposal": 20 / 26, "human": 6 / 26}),
    )


def test_labels_are_those_of_the_episodes_that_are_drawn_from(folder: Path) -> None:
    (group,) = opened(folder, "{keep: {max_steps: 12}}").groups
    assert group.labels is not None
    assert (group.labels.sentences, group.labels.median_s, group.labels.texts) == (0, 0.6, 0.0)


def test_parts_are_told_from_the_largest_on() -> None:
    assert parts_in_words({"human": 0.2, "proposal": 0.8}) == "proposal 80 human 20"
    assert parts_in_words({}) == "-"


def test_the_idle_part_of_an_episode_is_a_fraction_of_its_steps(tmp_path: Path) -> None:
    write_dataset(tmp_path, "a", [make_episode(i, idle=range(3 * i)) for i in range(3)], n_shards=1)
    kept = {limit: sorted(steps_of(opened(tmp_path, f"{{keep: {{max_idle: {limit}}}}}"))) for limit in (0, 0.25, 0.5)}
    assert kept == {0: [0], 0.25: [0, 1], 0.5: [0, 1, 2]}
