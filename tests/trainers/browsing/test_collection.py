"""Tests of what is browsed: filters, findings, mixtures, and where an episode comes from."""

import json
from pathlib import Path

import pytest

from annotation_tools.episodes import EpisodeStore
from mixtures.mixture import open_mixture
from pipelines.contract.errors import FailedWork, UsageError
from pipelines.segments.tables import Annotation, write_segments
from tests.support.inputs.mixture_data import make_episode, write_dataset, write_spec
from trainers.browsing.collection import Wanted, open_collection
from trainers.main import main

EPISODES = [
    make_episode(0, task="fold", success=1),
    make_episode(1, task="pour the tea", success=0),
    make_episode(2, task="fold", success=-1, robot="franka"),
    make_episode(3, task="fold", success=1),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("browse")
    write_dataset(root, "first", EPISODES)
    silent = [make_episode(10 + n, task="", language=()) for n in range(7)]
    write_dataset(root, "silent", [*silent, make_episode(20)])
    write_dataset(root, "second", [make_episode(9, task="wipe", robot="ur5e")], n_shards=1)
    return root


def keys(folder: Path, wanted: Wanted) -> list[str]:
    collection = open_collection(str(folder / "first" / "1.0.0"))
    return sorted(listed.brief.source_key for listed in collection.find(wanted, 0, 100)[0])


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Wanted(), [0, 1, 2, 3]),
        (Wanted(robot="franka"), [2]),
        (Wanted(task="fold"), [0, 2, 3]),
        (Wanted(outcome="failure"), [1]),
        (Wanted(outcome="unknown", robot="arx"), []),
        (Wanted(words="TEA pour"), [1]),
        (Wanted(words="key-3"), [3]),
        (Wanted(split="validation"), []),
    ],
)
def test_a_filter_lists_the_episodes_that_fit(folder: Path, wanted: Wanted, expected: list[int]) -> None:
    assert keys(folder, wanted) == [f"key-{number}" for number in expected]


def test_choices_count_what_there_is(folder: Path) -> None:
    choices = open_collection(str(folder / "first" / "1.0.0")).choices()
    assert choices["task"] == [("fold", 3), ("pour the tea", 1)]
    assert sorted(choices["outcome"]) == [("failure", 1), ("success", 2), ("unknown", 1)]
    assert choices["group"] == [] and choices["finding"] == []


def test_pages_of_the_list_are_cut_from_the_whole(folder: Path) -> None:
    collection = open_collection(str(folder / "first" / "1.0.0"))
    first, total = collection.find(Wanted(), 0, 3)
    rest, _ = collection.find(Wanted(), 3, 3)
    assert total == 4 and [e.key for e in first + rest] == list(collection.episodes)


def test_a_mixture_lists_what_it_draws_by_group(folder: Path) -> None:
    body = (
        "groups:\n  - name: a\n    datasets: [{path: first/1.0.0}]\n  - name: b\n    datasets: [{path: second/1.0.0}]\n"
    )
    spec = write_spec(folder, body + "filters: [{drop: failure}]\n")
    collection = open_collection(str(spec))
    mixture = open_mixture(spec)
    drawn = sum(group.n_episodes + group.n_validation_episodes for group in mixture.groups)
    assert len(collection.episodes) == drawn == 4  # the failed one is never drawn
    assert "pour the tea" not in {listed.brief.task for listed in collection.episodes.values()}
    by_group = {
        group: {listed.brief.source_key for listed in collection.find(Wanted(group=group), 0, 9)[0]}
        for group, _ in collection.choices()["group"]
    }
    assert by_group == {"a/fold@arx": {"key-0", "key-3"}, "a/fold@franka": {"key-2"}, "b/wipe@ur5e": {"key-9"}}
    assert collection.names == ("first 1.0.0", "second 1.0.0")


def test_segments_that_a_spec_lays_over_a_dataset_are_shown(folder: Path) -> None:
    store = EpisodeStore(folder / "second" / "1.0.0")
    (episode_id,) = store.briefs
    segment = store.episode(episode_id).segments[0]
    row = Annotation(
        episode_id=episode_id,
        episode_hash=store.key(episode_id).episode_hash,
        segment=segment,
        annotator="ann",
        created="",
        tool_version="",
    )
    write_segments(folder / "ann.parquet", [row])
    spec = write_spec(
        folder, "groups:\n  - name: b\n    datasets: [{path: second/1.0.0, segments: [ann.parquet]}]\n", "laid.yaml"
    )
    collection = open_collection(str(spec))
    assert {key: sorted(lanes) for key, lanes in collection.lanes.items()} == {f"0-{episode_id}": ["ann"]}


def test_every_episode_that_a_finding_names_is_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = folder / "silent" / "1.0.0"
    main(["check", str(dataset), "--json", "-q"])
    report = json.loads(capsys.readouterr().out)
    assert {f["kind"]: f["n_episodes"] for f in report["findings"]}["no_language"] == 7  # more than the examples
    (folder / "findings.json").write_text(json.dumps(report))
    collection = open_collection(str(dataset), findings=folder / "findings.json")
    for finding in report["findings"]:
        found, _ = collection.find(Wanted(finding=finding["kind"]), 0, 100)
        named = {
            text.split(": ")[1].split(" (")[0]
            for f in report["findings"]
            if f["kind"] == finding["kind"]
            for text in f["episodes"]
        }
        assert {listed.brief.source_key for listed in found} == named
        assert len(finding["episodes"]) == finding["n_episodes"]


def test_findings_of_another_dataset_are_refused(folder: Path) -> None:
    (folder / "other.json").write_text(json.dumps({"dataset": "data/other/2.0.0", "findings": []}))
    with pytest.raises(UsageError, match="expected findings of first/1.0.0; found those of data/other/2.0.0"):
        open_collection(str(folder / "first" / "1.0.0"), findings=folder / "other.json")
    (folder / "none.json").write_text("{}")
    with pytest.raises(UsageError, match="expected what `embodimix check DATASET --json > findings.json` writes"):
        open_collection(str(folder / "first" / "1.0.0"), findings=folder / "none.json")


def test_an_episode_is_found_by_the_beginning_of_its_id(folder: Path) -> None:
    collection = open_collection(str(folder / "first" / "1.0.0"))
    listed = list(collection.episodes.values())[2]
    assert collection.listed(listed.brief.episode_id[:10]) == listed == collection.listed(listed.key)
    with pytest.raises(FailedWork, match="no episode 'zzz'"):
        collection.listed("zzz")


def test_the_shard_and_the_record_are_where_the_episode_lies(folder: Path) -> None:
    collection = open_collection(str(folder / "first" / "1.0.0"))
    places = {listed.brief.source_key: collection.shard(listed) for listed in collection.episodes.values()}
    # write_dataset deals the episodes out over two shards.
    expected = {f"key-{n}": (f"first-train.tfrecord-0000{n % 2}-of-00002", n // 2) for n in range(4)}
    assert {key: (Path(path).name, record) for key, (path, record) in places.items()} == expected
    assert all(Path(path).is_file() for path, _ in places.values())
