"""Filters by lists from outside: episodes and steps that a file names, and rows of it that name nothing."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixtures.locks import compare_locks, make_lock
from mixtures.mixture import Mixture, open_mixture
from mixtures.reports.findings import find_in_mixture
from pipelines.contract.document import SpecError
from pipelines.contract.errors import UsageError
from tests.mixtures.groups.test_filters import steps_of
from tests.support.inputs.mixture_data import make_episode, write_dataset, write_spec

ALL = list(range(12))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Episodes key-0, key-1 and key-2 of 12 steps each."""
    write_dataset(tmp_path, "a", [make_episode(number) for number in range(3)], n_shards=1)
    return tmp_path


def opened(folder: Path, rules: str, content: Any) -> Mixture:
    (folder / "list.json").write_text(json.dumps(content))
    body = f"datasets: [{{path: a/1.0.0, filters: [{rules}]}}]\n"
    return open_mixture(write_spec(folder, body), cache=folder / "cache")


@pytest.mark.parametrize(
    ("rules", "content", "expected"),
    [
        ("{keep: {list: list.json}}", ["key-2", "key-0"], {0: ALL, 2: ALL}),
        ("{drop: {list: list.json}}", ["key-2", "key-0"], {1: ALL}),
        ("{keep: {list: list.json}}", {"key-1": [[0, 3], [10, 99]]}, {1: [0, 1, 2, 10, 11]}),
        ("{drop: {list: list.json}}", {"key-1": [[1, 12]]}, {0: ALL, 1: [0], 2: ALL}),
        ("{keep: {list: list.json, before_step: 2}}", {"key-0": [[1, 9]], "key-1": []}, {0: [1]}),
    ],
)
def test_a_list_names_episodes_or_steps(folder: Path, rules: str, content: Any, expected: dict[int, list[int]]) -> None:
    assert steps_of(opened(folder, rules, content)) == expected


def test_steps_count_as_in_the_source_whatever_conversion_left_out(folder: Path) -> None:
    row = {"source_key": "key-1", "split": "train", "level": "steps", "start": 0, "end": 2}
    pq.write_table(pa.Table.from_pylist([row]), folder / "a/1.0.0/rejects.parquet")
    # Step 0 of the dataset is step 2 of the source.
    assert steps_of(opened(folder, "{keep: {list: list.json}}", {"key-1": [[0, 4]]})) == {1: [0, 1]}


def test_ranges_are_refused_where_the_list_of_lost_steps_is_lost(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = SimpleNamespace(counts=SimpleNamespace(steps_dropped=2))
    monkeypatch.setattr("mixtures.groups.listed.load_manifest", lambda path: manifest)
    with pytest.raises(UsageError, match=r"a/1.0.0: expected rejects.parquet, which names the 2 steps .* found none"):
        opened(folder, "{keep: {list: list.json}}", {"key-1": [[0, 4]]})


def test_rows_that_name_no_episode_are_reported(folder: Path) -> None:
    mixture = opened(folder, "{keep: {list: list.json}}", ["key-0", "key-7", "key-8"])
    (found,) = [sentence for sentence in find_in_mixture(mixture) if "list.json" in sentence]
    assert found.endswith("list.json: 2 of 3 rows name no episode of the datasets under the filter")


def test_a_list_that_names_nothing_is_an_error_with_the_keys_that_are_there(folder: Path) -> None:
    with pytest.raises(SpecError, match=r"mixture.yaml:\d+:\d+: .*list.json names no episode .* keys are as 'key-0'"):
        opened(folder, "{keep: {list: list.json}}", ["episode_0"])


def test_a_list_that_cannot_be_read_is_an_error_at_its_line(folder: Path) -> None:
    with pytest.raises(SpecError, match=r"mixture.yaml:\d+:\d+: .*gone.json: expected a list of episodes"):
        opened(folder, "{keep: {list: gone.json}}", [])


def test_a_lock_knows_the_content_of_the_list(folder: Path) -> None:
    first = make_lock(opened(folder, "{keep: {list: list.json}}", {"key-0": [[0, 6]], "key-1": [[0, 6]]}))
    # As many steps as before, of which others are drawn.
    second = make_lock(opened(folder, "{keep: {list: list.json}}", {"key-0": [[1, 7]], "key-1": [[0, 6]]}))
    (difference,) = compare_locks(first, second)
    assert difference.startswith("lists: ")
    # A lock of before there were lists had none.
    assert compare_locks({key: value for key, value in first.items() if key != "lists"}, first)[0].startswith("lists: ")
