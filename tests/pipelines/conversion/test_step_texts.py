"""The sentence of the step, all the way: from a LeRobot dataset whose task changes to records, index and draws."""

import json
from collections import Counter
from pathlib import Path

import pytest

from mixtures.mixture import open_mixture
from mixtures.stream.batches import Stream
from pipelines.shards.dataset import Dataset
from pipelines.shards.example_wire import parse_example
from pipelines.shards.sidecar import read_sidecar
from pipelines.shards.tfrecord import iter_records
from tests.support.inputs.lerobot_writer import make_rows, write_v2
from trainers.main import main

OPEN, PUT = "open the drawer", "put the block inside"
T = 60
SPEC = """schema: embodimix.mixture/v1
name: m
seed: 1
groups: [{name: g, datasets: [{path: out/a/1.0.0}]}]
language: LANGUAGE
action: {horizon: 8}
"""


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes: steps 0-29 of the first task, 30-59 of the second."""
    folder = tmp_path_factory.mktemp("switch")
    rows = [make_rows(n, T, first=n * T, task=[0] * 30 + [1] * 30) for n in range(2)]
    write_v2(folder / "in", rows, (OPEN, PUT))
    arguments = ["--name", "a", "--version", "1.0.0", "--adapter", "lerobot_so100", "--units", "degrees"]
    assert main(["convert", "lerobot", str(folder / "in"), str(folder / "out"), *arguments, "--workers", "1"]) == 0
    return folder


def test_a_step_s_instruction_is_that_of_its_own_task_index(converted: Path) -> None:
    dataset = Dataset.open(converted / "out/a/1.0.0")
    for files in dataset.splits["train"]:
        for _, payload in iter_records(files.shard):
            record = parse_example(payload)
            for name in ("language_instruction", "segment_text"):
                texts = [bytes(text).decode() for text in record[f"steps/{name}"]]
                assert texts == [OPEN] * 30 + [PUT] * 30
            segments = json.loads(bytes(record["episode_metadata/segments"][0]))
            assert [(s["start"], s["end"], s["text"], s["kind"], s["source"]) for s in segments] == [
                (0, 30, OPEN, "subtask", "source"),
                (30, 60, PUT, "subtask", "source"),
            ]
        rows = read_sidecar(files.sidecar, ["instructions"]).to_pylist()
        assert [[tuple(run.values()) for run in row["instructions"]] for row in rows] == [
            [(0, 30, OPEN), (30, 60, PUT)]
        ] * len(rows)


@pytest.mark.parametrize("language", ["{segment: 0.5, task: 0.5}", "{segment: 1, task: 0}", "{segment: 0, task: 1}"])
def test_no_draw_carries_the_other_half_s_sentence(converted: Path, language: str) -> None:
    spec = converted / "m.yaml"
    spec.write_text(SPEC.replace("LANGUAGE", language))
    drawn: Counter[tuple[bool, str]] = Counter()
    with Stream(open_mixture(spec, cache=converted / "cache"), batch_size=64) as stream:
        for batch in stream.batches(0, 576):
            drawn.update((step >= 30, text) for step, text in zip(batch.step.tolist(), batch.language, strict=True))
    assert set(drawn) == {(False, OPEN), (True, PUT)} and drawn.total() == 576
