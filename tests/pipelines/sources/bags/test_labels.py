"""Success and instructions of bags: topics, files beside them, names of folders."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.contract.native import NativeEpisode, Rejected
from pipelines.sources import bag
from tests.pipelines.sources.test_bag import entry
from tests.support.inputs.bag_writers import MS, demonstration, number, write_mcap


def read(root: Path, **form: Any) -> NativeEpisode:
    adapter = entry(bag={"stamp": "header", **form})
    (located,) = bag.find(str(root), adapter).episodes
    return bag.read(located, adapter)


def test_the_last_message_of_a_topic_says_how_it_ended(tmp_path: Path) -> None:
    marks = [number("/ok", t * MS, value, "Bool") for t, value in ((100, True), (900, False))]
    write_mcap(tmp_path / "a.mcap", [*demonstration(), *marks])
    assert read(tmp_path, success={"topic": "/ok"}).success == 0


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.csv", "\ufeffbag,good,text\nrun/a.mcap,yes,lift it\nb,no,other\n"),
        ("labels.csv", "bag,good,text\na,1,lift it\nb,no,other\n"),
        ("labels.json", '[{"bag": "a.mcap", "good": true, "text": "lift it"}]'),
        ("labels.jsonl", '{"bag": "run/a", "good": "True", "text": "lift it"}\n\n'),
    ],
)
def test_a_file_beside_the_bags_names_episodes_by_key_or_name(tmp_path: Path, name: str, content: str) -> None:
    write_mcap(tmp_path / "run/a.mcap", demonstration())
    (tmp_path / name).write_text(content, encoding="utf-8")
    native = read(
        tmp_path,
        success={"files": "labels.*", "key": "bag", "column": "good"},
        instruction={"files": "labels.*", "key": "bag", "column": "text"},
    )
    assert (native.success, native.task) == (1, "lift it")


def test_an_episode_that_no_row_names_is_unlabelled(tmp_path: Path) -> None:
    write_mcap(tmp_path / "a.mcap", demonstration())
    (tmp_path / "labels.csv").write_text("bag,good\nb,1\n")
    assert read(tmp_path, success={"files": "*.csv", "key": "bag", "column": "good"}).success == -1


def test_a_row_means_the_bag_beside_its_file_where_others_have_the_name(tmp_path: Path) -> None:
    for folder in ("first", "second"):
        write_mcap(tmp_path / folder / "a.mcap", demonstration())
    (tmp_path / "first/labels.csv").write_text("bag,good\na.mcap,1\n")
    (tmp_path / "second/labels.csv").write_text("bag,good\nb.mcap,0\n")
    adapter = entry(bag={"stamp": "header", "success": {"files": "*/labels.csv", "key": "bag", "column": "good"}})
    episodes = bag.find(str(tmp_path), adapter).episodes
    assert [bag.read(located, adapter).success for located in episodes] == [1, -1]


def test_a_column_that_no_row_has_is_refused(tmp_path: Path) -> None:
    write_mcap(tmp_path / "a.mcap", demonstration())
    (tmp_path / "labels.csv").write_text("bag,good\na,1\n")
    with pytest.raises(Rejected, match="expected a column 'success', found bag, good"):
        read(tmp_path, success={"files": "*.csv", "key": "bag", "column": "success"})


def test_two_rows_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    write_mcap(tmp_path / "a.mcap", demonstration())
    (tmp_path / "labels.csv").write_text("bag,good\na,1\na.mcap,0\n")
    with pytest.raises(Rejected, match="wrong_identity: a.mcap: .* expected one good, found '0', '1'"):
        read(tmp_path, success={"files": "*.csv", "key": "bag", "column": "good"})


def test_names_of_folders_say_success_and_task(tmp_path: Path) -> None:
    write_mcap(tmp_path / "failure/pick_up_the_cup/a.mcap", demonstration())
    folders = {"success": "true", "failure": "false"}
    native = read(tmp_path, success={"folder": folders}, instruction={"folder": {"*": "*"}})
    assert (native.success, native.task) == (0, "pick up the cup")
