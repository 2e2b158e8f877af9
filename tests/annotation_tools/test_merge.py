"""Tests of `annotation_tools.merge`: who is believed, and the new version that comes of it."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from annotation_tools import merge
from annotation_tools.episodes import EpisodeStore
from annotation_tools.merge import Conflict, bake, merge_tables, needs_upgrade, next_minor, read_tables
from pipelines.contract.episode import Segment, SegmentSource
from pipelines.contract.errors import FailedWork, UsageError
from pipelines.segments.tables import Annotation, write_segments
from pipelines.shards.dataset import Dataset
from pipelines.shards.example_wire import parse_example
from pipelines.shards.sidecar import read_sidecar
from pipelines.shards.tfrecord import iter_records
from tests.support.inputs.annotation_episodes import make_dataset


def said(
    text: str,
    annotator: str = "ann",
    source: SegmentSource = "human",
    created: str = "2024-05-01T10:00:00Z",
    episode_id: str = "e1",
    start: int = 0,
    end: int = 9,
    episode_hash: str = "h",
) -> Annotation:
    return Annotation(
        episode_id=episode_id,
        episode_hash=episode_hash,
        annotator=annotator,
        created=created,
        tool_version="0.1.0",
        segment=Segment(start=start, end=end, text=text, source=source),
    )


def texts(*tables: list[Annotation], **options: object) -> list[str]:
    return [a.segment.text for a in merge_tables(tables, **options).annotations]  # type: ignore[arg-type]


def test_a_person_goes_before_a_model_before_a_proposal() -> None:
    proposal, model = [said("p", "kinematics", "proposal")], [said("m", "vlm", "model")]
    assert texts([said("h")], model, proposal) == ["h"]
    assert texts(proposal, model) == ["m"]


def test_people_who_differ_are_a_conflict_and_nothing_is_chosen() -> None:
    merged = merge_tables([[said("a")], [said("b", "bob")]])
    assert merged.annotations == ()
    assert merged.conflicts == (Conflict(episode_id="e1", annotators=("ann", "bob")),)
    assert str(merged.conflicts[0]) == "episode e1: ann and bob disagree"


def test_people_who_say_the_same_do_not_disagree() -> None:
    assert texts([said("a")], [said("a", "bob")]) == ["a"]


def test_the_adjudicated_layer_decides() -> None:
    assert texts([said("a")], [said("b", "bob")], [said("c", "adjudicated")]) == ["c"]


def test_a_preferred_annotator_decides() -> None:
    assert texts([said("a")], [said("b", "bob")], prefer=["bob"]) == ["b"]
    assert texts([said("a")], [said("b", "bob")], prefer=["ann", "bob"]) == ["a"]


def test_the_latest_decides_where_that_is_asked_for() -> None:
    later = [said("b", "bob", created="2024-05-02T10:00:00Z")]
    assert texts(later, [said("a")], conflicts="latest") == ["b"]


def test_the_newest_of_two_models_counts() -> None:
    old, new = said("old", "m1", "model"), said("new", "m2", "model", created="2024-06-01T00:00:00Z")
    assert texts([new], [old]) == ["new"]


@pytest.mark.parametrize(("version", "following"), [("1.0.0", "1.1.0"), ("2.9.4", "2.10.0")])
def test_a_merge_is_a_minor_version(version: str, following: str) -> None:
    assert next_minor(version) == following


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return EpisodeStore(make_dataset(tmp_path_factory.mktemp("merge")))


def relabelled(store: EpisodeStore) -> list[Annotation]:
    """Two segments with a gap between them on the third episode."""
    episode_id = list(store.briefs)[2]
    key = store.key(episode_id)
    spans = [(0, 30, "reach for the cup"), (40, key.n_steps, "lift the cup")]
    return [
        said(text, start=start, end=end, episode_id=episode_id, episode_hash=key.episode_hash)
        for start, end, text in spans
    ]


def test_baked_segments_reach_the_steps_and_nothing_else_changes(store: EpisodeStore, tmp_path: Path) -> None:
    new = relabelled(store)
    assert bake(store.dataset, new, tmp_path / "1.1.0", "1.1.0") == 1
    old_records = [parse_example(p) for f in store.dataset.splits["train"] for _, p in iter_records(f.shard)]
    baked = Dataset.open(tmp_path / "1.1.0")
    new_records = [parse_example(p) for f in baked.splits["train"] for _, p in iter_records(f.shard)]
    touched = {"steps/segment_id", "steps/segment_text", "episode_metadata/segments"}
    for number, (before, after) in enumerate(zip(old_records, new_records, strict=True)):
        assert before.keys() == after.keys()
        for name in before.keys() - (touched if number == 2 else set()):
            assert list(before[name]) == list(after[name]), name
    record = new_records[2]
    n = len(record["steps/segment_id"])
    assert list(record["steps/segment_id"]) == [0] * 30 + [-1] * 10 + [1] * (n - 40)
    words = [bytes(text).decode() for text in record["steps/segment_text"]]
    assert words == ["reach for the cup"] * 30 + [""] * 10 + ["lift the cup"] * (n - 40)
    assert {bytes(text) for text in record["steps/language_instruction"]} == {b"task 1"}
    assert [s["text"] for s in json.loads(record["episode_metadata/segments"][0])] == [
        "reach for the cup",
        "lift the cup",
    ]


def test_a_baked_version_reads_like_the_first(store: EpisodeStore, tmp_path: Path) -> None:
    bake(store.dataset, relabelled(store), tmp_path / "1.1.0", "1.1.0")
    baked = EpisodeStore(tmp_path / "1.1.0")
    baked.dataset.verify_hashes()
    assert list(baked.briefs) == list(store.briefs)
    for episode_id in baked.briefs:
        assert baked.key(episode_id) == store.key(episode_id)
        assert baked.jpeg(episode_id, "base_0_rgb", 33) == store.jpeg(episode_id, "base_0_rgb", 33)
    assert baked.dataset.version == "1.1.0"
    np.testing.assert_array_equal([b.n_segments for b in baked.briefs.values()], [7, 9, 2, 6])


def test_an_interrupted_bake_goes_on(store: EpisodeStore, tmp_path: Path) -> None:
    out = tmp_path / "1.1.0"
    bake(store.dataset, relabelled(store), out, "1.1.0")
    (out / "dataset_info.json").unlink()
    shards = sorted(out.glob("*.tfrecord-*"))
    shards[0].unlink()
    kept = shards[1].stat().st_mtime_ns
    assert bake(store.dataset, relabelled(store), out, "1.1.0") == 1
    assert shards[1].stat().st_mtime_ns == kept and shards[0].exists()


def test_a_finished_merge_is_not_done_twice(store: EpisodeStore, tmp_path: Path) -> None:
    out = tmp_path / "1.1.0"
    bake(store.dataset, relabelled(store), out, "1.1.0")
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert bake(store.dataset, relabelled(store), out, "1.1.0") == 1
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times


def test_a_merge_of_a_merge_is_known_by_the_last_one(store: EpisodeStore, tmp_path: Path) -> None:
    bake(store.dataset, relabelled(store), tmp_path / "1.1.0", "1.1.0")
    once = Dataset.open(tmp_path / "1.1.0")
    for _ in range(2):
        assert bake(once, relabelled(store)[:1], tmp_path / "1.2.0", "1.2.0") == 1


def test_only_shards_of_another_schema_need_an_upgrade(store: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not needs_upgrade(store.dataset)
    monkeypatch.setattr(merge, "read_version", lambda sidecar: "older")
    assert needs_upgrade(store.dataset)


def test_another_merge_into_a_finished_version_is_refused(store: EpisodeStore, tmp_path: Path) -> None:
    bake(store.dataset, relabelled(store), tmp_path / "1.1.0", "1.1.0")
    with pytest.raises(UsageError, match="expected a new folder, found a complete dataset"):
        bake(store.dataset, relabelled(store)[:1], tmp_path / "1.1.0", "1.1.0")


def test_a_bake_never_writes_over_a_dataset(store: EpisodeStore) -> None:
    with pytest.raises(UsageError, match="a merge never writes in place"):
        bake(store.dataset, relabelled(store), store.dataset.path, "1.1.0")


def test_a_table_that_does_not_fit_is_refused_by_name(store: EpisodeStore, tmp_path: Path) -> None:
    stranger = said("x", episode_id=list(store.briefs)[0], episode_hash="other")
    write_segments(tmp_path / "old.parquet", [stranger])
    with pytest.raises(FailedWork, match=r"old.parquet: expected .* found 1 fault:\n.*other version"):
        read_tables(store, [tmp_path / "old.parquet"])


def test_the_sidecar_of_a_bake_names_the_new_segments(store: EpisodeStore, tmp_path: Path) -> None:
    bake(store.dataset, relabelled(store), tmp_path / "1.1.0", "1.1.0")
    sidecar = read_sidecar(Dataset.open(tmp_path / "1.1.0").sidecars("train")[1])
    assert [(s["start"], s["source"]) for s in sidecar["segments"].to_pylist()[0]] == [(0, "human"), (40, "human")]


def test_the_manifest_of_a_bake_names_the_new_shards_and_where_they_come_from(
    store: EpisodeStore, tmp_path: Path
) -> None:
    (store.dataset.path / "manifest.json").write_text(json.dumps({"name": "toy", "version": "1.0.0", "episodes": [1]}))
    bake(store.dataset, relabelled(store), tmp_path / "1.1.0", "1.1.0")
    manifest = json.loads((tmp_path / "1.1.0" / "manifest.json").read_text())
    assert (manifest["version"], manifest["episodes"], manifest["merged"][0]["from_version"]) == ("1.1.0", [1], "1.0.0")
    files = Dataset.open(tmp_path / "1.1.0").splits["train"]
    hashes = [hashlib.sha256(file.shard.read_bytes()).hexdigest() for file in files]
    assert [shard["sha256"] for shard in manifest["shards"]] == hashes


def test_the_order_of_the_tables_changes_nothing() -> None:
    tables = [[said("a", "m1", "model")], [said("b", "m2", "model")], [said("c", "m2", "model", episode_id="e0")]]
    assert merge_tables(tables) == merge_tables(tables[::-1])
    assert texts(*tables) == ["c", "b"]


def test_one_name_in_two_tables_is_one_layer_only_where_they_agree() -> None:
    assert texts([said("a")], [said("a")]) == ["a"]
    merged = merge_tables([[said("a")], [said("b")]])
    assert [str(conflict) for conflict in merged.conflicts] == ["episode e1: two tables of ann disagree"]
    assert texts([said("a")], [said("b", created="2024-06-01T00:00:00Z")], conflicts="latest") == ["b"]
