"""A dataset of the first form of records and index: every command still reads it, and a merge brings it up to date."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from annotation_tools.episodes import EpisodeStore
from mixtures.mixture import open_mixture
from pipelines.shards.dataset import Dataset
from pipelines.shards.example_wire import parse_example
from pipelines.shards.rebuild import rebuild_index
from pipelines.shards.sidecar import SCHEMA, SCHEMA_V1, read_sidecar, read_version
from pipelines.shards.stored_episodes import iter_stored
from pipelines.shards.tfrecord import iter_records
from tests.support.inputs.dataset_v1 import unpack_dataset_v1
from trainers.main import main

PHRASE = "close the gripper, move the arm forward"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return unpack_dataset_v1(tmp_path)


def steps_of(path: Path, name: str) -> set[str]:
    """The different texts of a feature of all steps."""
    files = [f.shard for f in Dataset.open(path).splits["train"]]
    records = [parse_example(payload) for file in files for _, payload in iter_records(file)]
    return {bytes(text).decode() for record in records for text in record[f"steps/{name}"]}


def test_its_episodes_are_read_with_the_task_as_every_step_s_instruction(old: Path) -> None:
    dataset = Dataset.open(old)
    dataset.verify_hashes()
    assert [read_version(path) for path in dataset.sidecars("train")] == [SCHEMA_V1, SCHEMA_V1]
    rows = [row for path in dataset.sidecars("train") for row in read_sidecar(path).to_pylist()]
    assert [row["instructions"] for row in rows] == [[{"start": 0, "end": 7, "text": "put the cup away"}]] * 3
    assert [(e.n_steps, e.segments[0]["text"]) for e in iter_stored(dataset)] == [(7, PHRASE)] * 3
    assert [len(EpisodeStore(old).episode(e).segments) for e in EpisodeStore(old).briefs] == [1, 1, 1]


def test_some_columns_are_read_without_the_new_one(old: Path) -> None:
    path = Dataset.open(old).sidecars("train")[0]
    assert read_sidecar(path, ["task", "n_steps"]).column_names == ["task", "n_steps"]
    assert read_sidecar(path, ["n_steps", "instructions"]).column_names == ["n_steps", "instructions"]


def test_its_index_is_rebuilt_byte_for_byte(old: Path) -> None:
    before = {path.name: path.read_bytes() for path in (old / "index").iterdir()}
    shutil.rmtree(old / "index")
    (old / "index").mkdir()
    assert sum(shard.n_episodes for shard in rebuild_index(old)) == 3
    assert {path.name: path.read_bytes() for path in (old / "index").iterdir()} == before


@pytest.mark.parametrize("command", ["check", "card"])
def test_commands_read_it(old: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, str(old)]) in (0, 1)
    assert "expected" not in capsys.readouterr().err


def test_a_mixture_draws_from_it(old: Path, tmp_path: Path) -> None:
    spec = tmp_path / "mixture.yaml"
    spec.write_text(
        "schema: embodimix.mixture/v1\nname: old\nseed: 1\n"
        "groups: [{name: old, datasets: [{path: tiny/1.0.0}]}]\n"
        "language: {segment: 0, task: 1}\naction: {horizon: 2}\n"
    )
    mixture = open_mixture(spec, cache=tmp_path / "cache")
    assert mixture.groups[0].n_steps == 21


def test_a_merge_without_tables_gives_its_steps_the_source_s_instruction(
    old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert steps_of(old, "language_instruction") == {PHRASE}
    assert main(["annotate", "merge", str(old)]) == 0
    new = old.parent / "1.1.0"
    assert steps_of(new, "language_instruction") == {"put the cup away"}
    assert steps_of(new, "segment_text") == {""}
    assert {read_version(path) for path in Dataset.open(new).sidecars("train")} == {SCHEMA}
    assert "segment_text" in (new / "features.json").read_text()
    assert json.loads((new / "manifest.json").read_text())["merged"][-1]["from_version"] == "1.0.0"


def test_a_merge_without_tables_of_a_new_dataset_is_refused(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["annotate", "merge", str(old)])
    assert main(["annotate", "merge", str(old.parent / "1.1.0")]) == 2
    assert "expected segment tables to merge, found none" in capsys.readouterr().err


def test_appending_to_it_is_refused_with_the_way_out(old: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "in").mkdir()
    arguments = ["--name", "tiny", "--version", "1.1.0", "--append", "1.0.0", "--adapter", "bridge_orig"]
    assert main(["convert", "rlds", str(tmp_path / "in"), str(tmp_path), *arguments]) == 2
    assert f"Run `embodimix annotate merge {old}`" in capsys.readouterr().err
