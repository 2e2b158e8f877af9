"""Whose segments they are: foreign episodes are matched by the source's own key, whatever the order of the shards."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from annotation_tools.episodes import EpisodeStore
from annotation_tools.exchange import agibot, calvin, elan, groot, label_studio, lerobot
from annotation_tools.exchange.clips import Clip, EpisodeNames, check_rows, make_clips, source_rows
from annotation_tools.exchange.numbering import read_numbers
from pipelines.contract.episode import Segment
from pipelines.contract.errors import FailedWork
from pipelines.contract.native import Reject
from pipelines.segments.tables import read_segments
from tests.support.inputs.annotation_episodes import make_dataset
from trainers.main import main

T = 40
LEROBOT_KEYS = [f"episode_{n:06d}" for n in range(6)]
COLUMN = "annotation.human.action.segment_description"


def store_of(tmp_path: Path, keys: list[str], **options: Any) -> EpisodeStore:
    """Episodes of equal length in two shards, so that their order in the dataset is 0 2 4 1 3 5."""
    options = {"n_steps": T, "keys": keys, "n_episodes": len(keys)} | options
    return EpisodeStore(make_dataset(tmp_path / "ours", **options))


def clips_of(store: EpisodeStore) -> list[Clip]:
    """Each episode with one segment, whose text is the source's key."""
    segments = {
        episode_id: (Segment(start=3, end=20, text=brief.source_key, source="human"),)
        for episode_id, brief in store.briefs.items()
    }
    return make_clips(store, segments)


def texts_by_key(store: EpisodeStore, read: Any) -> dict[str, str]:
    return {store.briefs[episode_id].source_key: segments[0].text for episode_id, segments in read.segments.items()}


def lerobot_source(path: Path, lengths: dict[int, int], by_file: bool = False) -> Path:
    """A LeRobot dataset of these episodes: in one file in falling order of their numbers, or a file each."""
    (path / "meta").mkdir(parents=True)
    (path / "meta" / "info.json").write_text('{"codebase_version": "v3.0", "features": {}}')
    data = path / "data" / "chunk-000"
    data.mkdir(parents=True)
    tables = {
        index: pa.table({"episode_index": np.full(n, index), "timestamp": (np.arange(n) / 10).astype(np.float32)})
        for index, n in sorted(lengths.items(), reverse=True)
    }
    if by_file:
        for index, table in tables.items():
            pq.write_table(table, data / f"episode_{index:06d}.parquet")
    else:
        pq.write_table(pa.concat_tables(tables.values()), data / "file-000.parquet")
    return path


def test_the_order_of_the_dataset_is_not_that_of_the_source(tmp_path: Path) -> None:
    keys = [brief.source_key for brief in store_of(tmp_path, LEROBOT_KEYS).briefs.values()]
    assert keys == [LEROBOT_KEYS[i] for i in (0, 2, 4, 1, 3, 5)]


@pytest.mark.parametrize(("form", "by_file"), [(lerobot, False), (groot, True)])
def test_columns_go_to_the_episode_of_the_same_episode_index(form: ModuleType, by_file: bool, tmp_path: Path) -> None:
    store = store_of(tmp_path, LEROBOT_KEYS)
    source = lerobot_source(tmp_path / "source", dict.fromkeys(range(6), T), by_file)
    form.write(tmp_path / "out", clips_of(store), source)
    found = {}
    tasks = tmp_path / "out" / "meta" / "tasks.jsonl"
    texts = [json.loads(line)["task"] for line in tasks.read_text().splitlines()] if by_file else []
    for file in (tmp_path / "out").glob("data/chunk-*/*.parquet"):
        for row in pq.ParquetFile(file).read().to_pylist():
            if by_file:
                text = texts[row[COLUMN]]
            else:
                text = row["language_persistent"][1]["content"]
            found.setdefault(row["episode_index"], set()).add(text)
    expected = {n: {LEROBOT_KEYS[n]} | ({""} if by_file else set()) for n in range(6)}
    assert found == expected
    read = form.read(tmp_path / "out", EpisodeNames.of(store))
    assert texts_by_key(store, read) == {key: key for key in LEROBOT_KEYS}


def test_foreign_subtasks_are_imported_into_the_episodes_they_were_made_for(tmp_path: Path) -> None:
    store = store_of(tmp_path, LEROBOT_KEYS)
    source = lerobot_source(tmp_path / "source", dict.fromkeys(range(6), T))
    file = source / "data" / "chunk-000" / "file-000.parquet"
    table = pq.ParquetFile(file).read()
    said = [
        [{"role": "user", "content": f"said of {index}", "style": "subtask", "timestamp": 0.0}]
        for index in table["episode_index"].to_pylist()
    ]
    pq.write_table(table.append_column("language_persistent", pa.array(said)), file)
    out = tmp_path / "ann.parquet"
    arguments = [str(store.dataset.path), str(source), "--format", "lerobot", "--annotator", "ann", "--out", str(out)]
    assert main(["annotate", "import", *arguments]) == 0
    texts = {store.briefs[a.episode_id].source_key: a.segment.text for a in read_segments(out)}
    assert texts == {f"episode_{n:06d}": f"said of {n}" for n in range(6)}


@pytest.mark.parametrize("form", [lerobot, groot, agibot, calvin, elan, label_studio], ids=lambda form: form.__name__)
@pytest.mark.parametrize("keys", [LEROBOT_KEYS, [f"logs/{name}.zarr" for name in "abcdef"]], ids=["lerobot", "other"])
def test_every_format_keeps_whose_segments_they_are(form: ModuleType, keys: list[str], tmp_path: Path) -> None:
    store = store_of(tmp_path, keys)
    form.write(tmp_path / "out", clips_of(store))
    read = form.read(tmp_path / "out", EpisodeNames.of(store, read_numbers(tmp_path / "out")))
    assert texts_by_key(store, read) == {key: key for key in keys}


@pytest.mark.parametrize("form", [lerobot, groot, agibot, calvin, elan, label_studio], ids=lambda form: form.__name__)
def test_an_export_fits_a_later_version_with_more_episodes(form: ModuleType, tmp_path: Path) -> None:
    keys = [f"logs/{name}.zarr" for name in "abcd"]
    first = store_of(tmp_path / "first", keys)
    form.write(tmp_path / "out", clips_of(first))
    second = store_of(tmp_path / "second", [*keys, "logs/0.zarr", "logs/1.zarr"], n_shards=3)
    read = form.read(tmp_path / "out", EpisodeNames.of(second, read_numbers(tmp_path / "out")))
    assert texts_by_key(second, read) == {key: key for key in keys}


def test_an_export_never_writes_into_a_dataset_that_is_there(tmp_path: Path) -> None:
    store = store_of(tmp_path, LEROBOT_KEYS)
    source = lerobot_source(tmp_path / "source", dict.fromkeys(range(6), T))
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    for form, arguments in ((lerobot, ()), (groot, ()), (lerobot, (source,)), (groot, (source,))):
        with pytest.raises(FailedWork, match="expected a new"):
            form.write(source, clips_of(store), *arguments)
    with pytest.raises(FailedWork, match="which an export never changes"):
        lerobot.write(source / "labelled", clips_of(store), source)
    assert {path: path.read_bytes() for path in source.rglob("*") if path.is_file()} == before


def test_an_episode_that_is_from_no_lerobot_dataset_is_refused_by_name(tmp_path: Path) -> None:
    store = store_of(tmp_path, ["logs/a.zarr", "logs/b.zarr"])
    source = lerobot_source(tmp_path / "source", {0: T, 1: T})
    with pytest.raises(FailedWork, match=r"logs/a.zarr: expected an episode that comes from a LeRobot dataset"):
        lerobot.write(tmp_path / "out", clips_of(store), source)
    csv = tmp_path / "names.csv"
    csv.write_text("1,logs/a.zarr\n0,logs/b.zarr\n")
    arguments = ["--format", "lerobot", "--out", str(tmp_path / "out"), "--source", str(source), "--names", str(csv)]
    assert main(["annotate", "export", str(store.dataset.path), "--proposals", *arguments]) == 0


def test_a_lerobot_dataset_that_lacks_an_episode_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    store = store_of(tmp_path, LEROBOT_KEYS)
    source = lerobot_source(tmp_path / "source", dict.fromkeys(range(5), T))
    with pytest.raises(FailedWork, match="expected episode_index 5, episode_000005, found no row of it"):
        lerobot.write(tmp_path / "out", clips_of(store), source)
    assert not (tmp_path / "out").exists()


def test_a_name_of_two_episodes_is_refused(tmp_path: Path) -> None:
    names = EpisodeNames.of(store_of(tmp_path, ["kitchen/demo_1.hdf5", "office/demo_1.hdf5"]))
    with pytest.raises(FailedWork, match="demo_1: expected one episode of that name, found 2: .*office/demo_1.hdf5"):
        names.find("demo_1")
    assert names.find("office/demo_1.hdf5").brief.source_key == "office/demo_1.hdf5"


def test_a_position_is_no_name(tmp_path: Path) -> None:
    names = EpisodeNames.of(store_of(tmp_path, ["logs/a.zarr", "logs/b.zarr"]))
    assert names.match("0") is None and names.match_index(0) is None


def test_episodes_that_were_rejected_are_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lost = Reject(
        source_uri="source",
        source_key="episode_000002",
        split="train",
        level="episode",
        start=0,
        end=0,
        reason="no_camera",
        detail="",
    )
    keys = [key for key in LEROBOT_KEYS if key != "episode_000002"]
    store = store_of(tmp_path, keys, rejects=[lost])
    whole = store_of(tmp_path / "whole", LEROBOT_KEYS)
    lerobot.write(tmp_path / "out", clips_of(whole))
    (tmp_path / "out" / "embodimix_episodes.json").unlink()
    out = tmp_path / "ann.parquet"
    arguments = [str(tmp_path / "out"), "--format", "lerobot", "--annotator", "ann", "--out", str(out)]
    assert main(["annotate", "import", str(store.dataset.path), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "not in the dataset: 1 episode of" in printed and "episode_index 2 (rejected: no_camera)" in printed
    assert {store.briefs[a.episode_id].source_key for a in read_segments(out)} == set(keys)


def dropped(key: str, start: int, end: int) -> Reject:
    return Reject(
        source_uri="s", source_key=key, split="train", level="steps", start=start, end=end, reason="x", detail=""
    )


@pytest.mark.parametrize(("form", "by_file"), [(lerobot, False), (groot, True)])
def test_steps_that_conversion_dropped_keep_their_rows_in_the_source(
    form: ModuleType, by_file: bool, tmp_path: Path
) -> None:
    gone = [dropped("episode_000000", 0, 2), dropped("episode_000000", 10, 11)]
    store = store_of(tmp_path, LEROBOT_KEYS[:1], n_shards=1, rejects=gone)
    source = lerobot_source(tmp_path / "source", {0: T + 3}, by_file)
    form.write(tmp_path / "out", clips_of(store), source)
    (file,) = (tmp_path / "out").glob("data/chunk-*/*.parquet")
    rows = pq.ParquetFile(file).read().to_pylist()
    if by_file:
        assert [row[COLUMN] for row in rows] == [0] * 5 + [1] * 5 + [0] + [1] * 12 + [0] * (T + 3 - 23)
    else:
        starts = [(row["content"], round(10 * row["timestamp"])) for row in rows[0]["language_persistent"]]
        assert starts == [(None, 2), ("episode_000000", 5), (None, 23)]
    read = form.read(tmp_path / "out", EpisodeNames.of(store))
    ((segment,),) = read.segments.values()
    assert (segment.start, segment.end) == (3, 20)


def test_agibot_frames_are_those_of_the_source(tmp_path: Path) -> None:
    store = store_of(tmp_path, ["648642"], n_shards=1, rejects=[dropped("648642", 0, 2)])
    agibot.write(tmp_path / "out", clips_of(store))
    (episode,) = json.loads((tmp_path / "out" / "task_info" / "task_1.json").read_text())
    action = episode["label_info"]["action_config"][0]
    assert (episode["episode_id"], action["start_frame"], action["end_frame"]) == (648642, 5, 22)
    del episode["embodimix_episode_id"]
    (tmp_path / "task_327.json").write_text(json.dumps([episode]))
    ((segment,),) = agibot.read(tmp_path, EpisodeNames.of(store)).segments.values()
    assert (segment.start, segment.end) == (3, 20)


def test_rows_that_do_not_add_up_are_refused() -> None:
    assert source_rows(4, ((1, 3),)).tolist() == [0, 3, 4, 5]
    assert check_rows(4, ((1, 3),), 6, "x").tolist() == [0, 3, 4, 5]
    with pytest.raises(FailedWork, match="x: expected 4 frames and 2 that conversion left out, found 7"):
        check_rows(4, ((1, 3),), 7, "x")


def test_label_studio_s_uploads_are_known_by_the_file_that_was_uploaded(tmp_path: Path) -> None:
    store = store_of(tmp_path, ["logs/a.hdf5", "logs/b.hdf5"])
    result = [
        {"id": "r", "type": "timelinelabels", "value": {"timelinelabels": ["idle"], "ranges": [{"start": 1, "end": 9}]}}
    ]
    video = {"video": "/data/upload/3/8a7f3c2d-b.mp4"}
    annotations = [{"result": result}, {"was_cancelled": True, "result": []}]
    (tmp_path / "tasks.json").write_text(json.dumps([{"data": video, "annotations": annotations}]))
    read = label_studio.read(tmp_path / "tasks.json", EpisodeNames.of(store))
    assert [store.briefs[episode_id].source_key for episode_id in read.segments] == ["logs/b.hdf5"]
    assert [(s.start, s.end) for s in read.segments.popitem()[1]] == [(0, 9)]  # type: ignore[attr-defined]


def test_two_entries_of_one_episode_are_refused(tmp_path: Path) -> None:
    store = store_of(tmp_path, ["648642"], n_shards=1)
    episode = {"episode_id": 648642, "label_info": {"action_config": []}}
    (tmp_path / "task_1.json").write_text(json.dumps([episode, episode]))
    with pytest.raises(FailedWork, match="expected one entry of 648642 .*, found two"):
        agibot.read(tmp_path, EpisodeNames.of(store))


def test_a_csv_with_a_name_twice_or_a_stranger_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = store_of(tmp_path, ["logs/a.zarr"], n_shards=1)
    csv = tmp_path / "names.csv"
    arguments = [str(store.dataset.path), str(tmp_path), "--format", "elan", "--annotator", "a", "--names", str(csv)]
    csv.write_text("x,logs/a.zarr\nx,logs/a.zarr\n")
    assert main(["annotate", "import", *arguments]) == 2
    assert "expected every name once, found 'x' twice" in capsys.readouterr().err
    csv.write_text("x,logs/c.zarr\n")
    assert main(["annotate", "import", *arguments]) == 1
    assert "no episode 'logs/c.zarr' in the dataset" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["lerobot", "groot", "agibot", "calvin"])
def test_motion_phrases_are_exported_as_language_only_where_that_is_asked(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = store_of(tmp_path, ["logs/a.zarr"], n_shards=1)
    arguments = ["annotate", "export", str(store.dataset.path), "--format", form, "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "expected labelled segments, found 2 proposals" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*arguments, "--proposals"]) == 0
