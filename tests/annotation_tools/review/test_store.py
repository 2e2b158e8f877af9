"""Tests of `annotation_tools.review.store` and `review_queue`: nothing saved is lost, blind is blind."""

import json
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from annotation_tools.episodes import Brief, EpisodeStore, check_annotator
from annotation_tools.filters import Findings, Flaw, Wanted
from annotation_tools.merge import merge_tables
from annotation_tools.review.queue import Queue, visible_annotators
from annotation_tools.review.store import ReviewStore, StaleSave, Work
from pipelines.contract.episode import Segment
from pipelines.contract.errors import FailedWork, UsageError
from pipelines.segments.tables import check_segments, read_segments
from tests.support.inputs.annotation_episodes import make_dataset

REACH = (Segment(start=0, end=20, text="reach", source="human"),)
LIFT = (Segment(start=0, end=20, text="lift", source="human", arms=("arm0",)),)


@pytest.fixture
def store(tmp_path: Path) -> ReviewStore:
    return ReviewStore(tmp_path / "review.sqlite")


def save(store: ReviewStore, segments: tuple[Segment, ...], base: int, **options: object) -> int:
    return store.save("e1", "ann", segments, base_revision=base, episode_hash="h", **options)  # type: ignore[arg-type]


def test_what_is_saved_is_read_back(store: ReviewStore) -> None:
    assert save(store, LIFT, 0) == 1
    layer = store.layer("e1", "ann")
    assert layer is not None and (layer.segments, layer.revision, layer.status) == (LIFT, 1, "draft")


def test_a_stale_save_loses_nothing(store: ReviewStore) -> None:
    save(store, REACH, 0)
    with pytest.raises(StaleSave, match="episode e1: ann saved revision 1 in between; your version is kept aside"):
        save(store, LIFT, 0)
    layer = store.layer("e1", "ann")
    assert layer is not None and layer.segments == REACH
    assert store.kept("e1") == [("ann", LIFT)]


def test_two_people_have_a_layer_each(store: ReviewStore) -> None:
    save(store, REACH, 0)
    store.save("e1", "bob", LIFT, base_revision=0, episode_hash="h")
    assert [(layer.annotator, layer.segments) for layer in store.layers("e1")] == [("ann", REACH), ("bob", LIFT)]


def test_of_many_saves_at_once_one_wins_and_the_rest_is_kept(store: ReviewStore) -> None:
    outcomes = []

    def attempt() -> None:
        try:
            outcomes.append(save(store, REACH, 0))
        except StaleSave:
            outcomes.append(0)

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [0] * 7 + [1] and len(store.kept("e1")) == 7


KILLED = """
import os, signal, sys
from dataclasses import asdict
from pathlib import Path
from annotation_tools.review.store import ReviewStore
from pipelines.contract.episode import Segment
store = ReviewStore(Path(sys.argv[1]))
for revision in range(5):
    segments = [Segment(start=0, end=20, text=f"text {revision}", source="human")]
    store.save("e1", "ann", segments, base_revision=revision, episode_hash="h")
store._database.execute("BEGIN IMMEDIATE")
store._database.execute("UPDATE layer SET segments = '[]'")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_in_the_middle_of_a_save_keeps_the_last_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "review.sqlite"
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)]).returncode == -9
    layer = ReviewStore(path).layer("e1", "ann")
    assert layer is not None and (layer.revision, layer.segments[0].text) == (5, "text 4")


def test_a_hold_ends_by_itself(store: ReviewStore) -> None:
    store.hold("e1", "ann", now_s=100.0)
    assert store.holders(189.0) == {"e1": {"ann"}}
    assert store.holders(191.0) == {}


def test_work_tells_the_median_time_of_finished_episodes(store: ReviewStore) -> None:
    for place, seconds in enumerate([10.0, 90.0, 20.0]):
        store.save(f"e{place}", "ann", REACH, base_revision=0, episode_hash="h", status="done", seconds=seconds)
    store.save("e9", "ann", REACH, base_revision=0, episode_hash="h")
    assert store.work() == [Work(annotator="ann", done=3, drafts=1, median_s=20.0)]


def test_finished_layers_are_exported_as_tables_that_fit(tmp_path: Path, store: ReviewStore) -> None:
    dataset = EpisodeStore(make_dataset(tmp_path, n_episodes=1, n_shards=1))
    (episode_id,) = dataset.briefs
    key = dataset.key(episode_id)
    store.save(episode_id, "ann", REACH, base_revision=0, episode_hash=key.episode_hash, status="done")
    store.save(episode_id, "bob", LIFT, base_revision=0, episode_hash=key.episode_hash)
    (path,) = store.export(tmp_path / "segments", "0.1.0")
    table = read_segments(path)
    check_segments(table, {episode_id: key}, "ann")
    assert (path.name, [a.segment for a in table]) == ("ann.parquet", list(REACH))


def test_a_file_that_is_no_review_is_refused(tmp_path: Path) -> None:
    (tmp_path / "review.sqlite").write_bytes(b"not a database, but long enough to look at" * 50)
    with pytest.raises(FailedWork, match="expected a review file"):
        ReviewStore(tmp_path / "review.sqlite")


@pytest.mark.parametrize("name", ["", "../x", "a b", "a" * 41, "<b>", ".hidden"])
def test_names_that_could_be_paths_or_markup_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="annotator: expected 1 to 40 of"):
        check_annotator(name)


def brief(episode_id: str, confidence: float) -> Brief:
    return Brief(
        episode_id=episode_id,
        source_key="",
        split="train",
        shard=0,
        row=0,
        n_steps=20,
        control_hz=10.0,
        task="fold the shirt",
        language=(),
        robot="arx",
        control_mode="ee_delta",
        success=1,
        n_segments=2,
        confidence=confidence,
    )


def queue(double: float = 0.0) -> Queue:
    return Queue.of({name: brief(name, c) for name, c in [("a", 0.9), ("b", 0.2), ("c", 0.5)]}, double)


def page(queue: Queue, view: str, annotator: str = "ann", statuses: dict | None = None, **options: object) -> list[str]:
    holders = options.pop("holders", {})
    return queue.page(view, annotator, statuses or {}, holders, 0, 10, **options)[0]  # type: ignore[arg-type]


def test_the_most_doubtful_episode_comes_first() -> None:
    assert page(queue(), "todo") == ["b", "c", "a"]


def test_pages_and_words_of_the_task() -> None:
    assert queue().page("todo", "ann", {}, {}, 1, 1, Wanted(words="SHIRT fold")) == (["c"], 3)
    assert page(queue(), "todo", wanted=Wanted(words="cup")) == []


def test_episodes_of_one_outcome_or_with_one_finding() -> None:
    failed = replace(brief("d", 0.1), success=0)
    flaw = Flaw(kind="lag", severity="error", scope="train", evidence="", advice="", n_episodes=1)
    found = Findings(flaws=(flaw,), named={(0, "train", "c"): (0,)})
    four = Queue.of({**queue().briefs, "d": failed}, findings=found)
    assert page(four, "todo", wanted=Wanted(outcome="failure")) == ["d"]
    assert page(four, "all", wanted=Wanted(outcome="success")) == ["b", "c", "a"]
    assert page(four, "todo", wanted=Wanted(finding="lag")) == ["c"]
    assert page(four, "todo", wanted=Wanted(finding="lag", outcome="failure")) == []


def test_what_another_did_or_holds_is_not_offered() -> None:
    statuses = {"b": {"bob": "done"}}
    assert page(queue(), "todo", statuses=statuses, holders={"c": {"bob"}}) == ["a"]
    assert page(queue(), "todo", "bob", statuses=statuses, holders={"c": {"bob"}}) == ["c", "a"]


def test_a_doubled_episode_is_offered_to_two_and_not_to_a_third() -> None:
    everything = queue(double=1.0)
    assert page(everything, "todo", statuses={"b": {"bob": "done"}}) == ["b", "c", "a"]
    assert page(everything, "todo", statuses={"b": {"bob": "done", "eve": "done"}}) == ["c", "a"]


def test_the_share_of_doubled_episodes_is_kept() -> None:
    many = Queue.of({str(i): brief(str(i), 0.5) for i in range(2000)}, double=0.1)
    assert sum(map(many.is_double, many.order)) == pytest.approx(200, abs=40)


def test_a_judge_gets_what_two_have_finished() -> None:
    statuses = {"b": {"ann": "done", "bob": "done"}, "c": {"ann": "done"}, "a": {"ann": "done", "bob": "draft"}}
    assert page(queue(1.0), "adjudicate", statuses=statuses) == ["b"]
    statuses["b"]["adjudicated"] = "done"
    assert page(queue(1.0), "adjudicate", statuses=statuses) == []


def test_blind_episodes_hide_the_other_until_both_are_done() -> None:
    blind = queue(double=1.0)
    assert visible_annotators(blind, "a", "ann", {"ann": "draft", "bob": "done"}) == {"ann"}
    assert visible_annotators(blind, "a", "ann", {"bob": "done"}) == set()
    assert visible_annotators(blind, "a", "ann", {"ann": "done", "bob": "done"}) == {"ann", "bob"}
    assert visible_annotators(blind, "a", "adjudicated", {"ann": "done", "bob": "done"}) == {"ann", "bob"}
    assert visible_annotators(queue(), "a", "ann", {"bob": "done"}) == {"bob"}


def export_done(store: ReviewStore, directory: Path, annotator: str = "ann", text: str = "reach") -> list[str]:
    """Saves one finished episode and exports everybody's; the names of the files."""
    segments = (Segment(start=0, end=20, text=text, source="human"),)
    layer = store.layer("e1", annotator)
    revision = layer.revision if layer else 0
    store.save("e1", annotator, segments, base_revision=revision, episode_hash="h", status="done")
    return [path.name for path in store.export(directory, "0.1.0")]


def test_an_export_never_writes_over_a_table_it_did_not_write(store: ReviewStore, tmp_path: Path) -> None:
    foreign = tmp_path / "proposals.parquet"
    foreign.write_bytes(b"a labeler's table")
    assert export_done(store, tmp_path, "proposals") == ["proposals-2.parquet"]
    assert export_done(store, tmp_path, "proposals", text="lift") == ["proposals-2.parquet"]
    assert foreign.read_bytes() == b"a labeler's table"
    assert [a.segment.text for a in read_segments(tmp_path / "proposals-2.parquet")] == ["lift"]


def test_one_name_on_two_machines_gives_two_tables_that_a_merge_finds_in_conflict(tmp_path: Path) -> None:
    stores = [ReviewStore(tmp_path / name / "review.sqlite") for name in ("here", "there")]
    shared = tmp_path / "shared"
    assert export_done(stores[0], shared, text="reach") == ["ann.parquet"]
    assert export_done(stores[1], shared, text="lift") == ["ann-2.parquet"]
    assert export_done(stores[0], shared, text="reach") == ["ann.parquet"]
    tables = [read_segments(shared / name) for name in ("ann.parquet", "ann-2.parquet")]
    merged = merge_tables(tables)
    assert [str(conflict) for conflict in merged.conflicts] == ["episode e1: two tables of ann disagree"]
    assert merge_tables([tables[0], tables[0]]).annotations == tuple(tables[0])


def test_an_export_that_was_killed_before_its_file_was_written_is_still_its_own(
    store: ReviewStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_done(store, tmp_path, text="reach")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("annotation_tools.review.store.write_atomically", killed)
        with pytest.raises(KeyboardInterrupt):
            export_done(store, tmp_path, text="lift")
    assert export_done(store, tmp_path, text="lift") == ["ann.parquet"]


def test_what_an_earlier_version_let_in_stops_nobody(store: ReviewStore) -> None:
    save(store, REACH, 0)
    store._database.execute(
        "UPDATE layer SET seconds = 9e999, segments = ?",
        (json.dumps([{**asdict(REACH[0]), "text": "a\ud800"}]),),
    )
    (layer,) = store.layers("e1")
    assert (layer.segments[0].text, layer.seconds) == ("a?", 0.0)
    assert store.work() == [Work(annotator="ann", done=0, drafts=1, median_s=0.0)]
