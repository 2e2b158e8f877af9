"""Tests of `annotation_tools.exchange`: what each format keeps on the way out and back, and files that are hostile."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from annotation_tools.episodes import EpisodeStore
from annotation_tools.exchange import agibot, calvin, elan, groot, label_studio, lerobot
from annotation_tools.exchange.clips import Clip, EpisodeNames, make_clips, runs_to_segments, stamp
from annotation_tools.exchange.numbering import read_numbers
from pipelines.contract.episode import Segment
from pipelines.contract.errors import FailedWork, UsageError
from pipelines.segments.tables import check_segments, read_segments
from tests.support.inputs.annotation_episodes import make_dataset
from trainers.main import main

FORMATS = [agibot, calvin, elan, groot, label_studio, lerobot]
KEPT = {
    agibot: ("start", "end", "text", "kind"),
    calvin: ("start", "end", "text", "kind"),
    elan: ("start", "end", "text", "kind", "arms", "success", "confidence"),
    groot: ("start", "end", "text"),
    label_studio: ("start", "end", "text", "kind", "success"),
    lerobot: ("start", "end", "text"),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return EpisodeStore(make_dataset(tmp_path_factory.mktemp("exchange"), n_episodes=2, n_shards=1))


def some_segments(n_steps: int) -> tuple[Segment, ...]:
    """Four segments with a gap after the second one and one at the end."""
    common: dict[str, Any] = {"source": "human"}
    return (
        Segment(start=0, end=13, text="reach for the cup", arms=("arm0",), success=1, confidence=0.25, **common),
        Segment(start=13, end=31, text='try <again> & "grasp" é', kind="recovery", arms=("arm0", "arm1"), **common),
        Segment(start=40, end=55, text="hold still", kind="idle", **common),
        Segment(start=55, end=n_steps - 5, text="lift it", success=0, **common),
    )


@pytest.fixture
def clips(store: EpisodeStore) -> list[Clip]:
    return make_clips(store, {episode_id: some_segments(b.n_steps) for episode_id, b in store.briefs.items()})


def write_and_read(store: EpisodeStore, form: ModuleType, path: Path, clips: list[Clip]) -> dict[str, list[Segment]]:
    form.write(path, clips)
    return dict(form.read(path, EpisodeNames.of(store, read_numbers(path))).segments)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.__name__.rsplit(".", 1)[1])
def test_a_round_trip_keeps_what_the_format_has_a_place_for(
    store: EpisodeStore, clips: list[Clip], form: ModuleType, tmp_path: Path
) -> None:
    read = write_and_read(store, form, tmp_path, clips)
    assert set(read) == {clip.episode_id for clip in clips}
    for clip in clips:
        kept = [tuple(getattr(s, name) for name in KEPT[form]) for s in clip.segments]
        assert [tuple(getattr(s, name) for name in KEPT[form]) for s in read[clip.episode_id]] == kept
        assert {s.source for s in read[clip.episode_id]} == {"source"}


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.__name__.rsplit(".", 1)[1])
def test_what_is_read_fits_the_dataset(
    store: EpisodeStore, clips: list[Clip], form: ModuleType, tmp_path: Path
) -> None:
    read = write_and_read(store, form, tmp_path, clips)
    rows = stamp(store, read, "ann", "2024-05-01T10:00:00Z", "0.1.0")
    check_segments(rows, store.keys(read), "round trip")
    assert {row.annotator for row in rows} == {"ann"}


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.__name__.rsplit(".", 1)[1])
def test_an_empty_folder_is_refused(store: EpisodeStore, form: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(FailedWork, match="expected"):
        form.read(tmp_path, EpisodeNames.of(store))


def named(clips: list[Clip]) -> list[Clip]:
    """The clips under the numbers that a user gives them in a LeRobot dataset."""
    return [replace(clip, name=str(index)) for index, clip in enumerate(clips)]


def numbers_of(clips: list[Clip]) -> dict[str, str]:
    return {str(index): clip.episode_id for index, clip in enumerate(clips)}


def lerobot_folder(path: Path) -> Path:
    """An empty LeRobot dataset, but for its metadata."""
    (path / "meta").mkdir(parents=True)
    (path / "meta" / "info.json").write_text('{"codebase_version": "v3.0", "features": {"action": {}}}')
    (path / "data" / "chunk-000").mkdir(parents=True)
    return path


def test_lerobot_columns_join_a_copy_of_the_dataset(store: EpisodeStore, clips: list[Clip], tmp_path: Path) -> None:
    source, out = lerobot_folder(tmp_path / "source"), tmp_path / "out"
    path = source / "data" / "chunk-000" / "file-000.parquet"
    lengths = [clip.n_steps for clip in clips] + [4]
    table = pa.table(
        {
            "episode_index": np.repeat([0, 1, 2], lengths),
            "action": np.arange(sum(lengths)),
            "timestamp": np.concatenate([np.arange(n) / 10 + 0.05 for n in lengths]).astype(np.float32),
        }
    )
    pq.write_table(table, path)
    before = {file: file.read_bytes() for file in source.rglob("*") if file.is_file()}
    lerobot.write(out, named(clips), source)
    assert {file: file.read_bytes() for file in source.rglob("*") if file.is_file()} == before
    read = lerobot.read(out, EpisodeNames.of(store, numbers_of(clips))).segments
    joined = pq.ParquetFile(out / "data" / "chunk-000" / "file-000.parquet").read()
    assert joined["action"].to_pylist() == list(range(sum(lengths)))
    assert joined["language_persistent"][0].as_py()[0] == {
        "role": "assistant",
        "content": "reach for the cup",
        "style": "subtask",
        "timestamp": pytest.approx(0.05),
        "camera": None,
        "tool_calls": None,
    }
    assert joined["language_persistent"][sum(lengths) - 1].as_py() is None
    assert [(s.start, s.end) for s in read[clips[0].episode_id]] == [(s.start, s.end) for s in clips[0].segments]
    info = json.loads((out / "meta" / "info.json").read_text())
    assert info["codebase_version"] == "v3.0" and "action" in info["features"]
    assert info["features"]["language_persistent"] == {"dtype": "language", "shape": [1], "names": None}


def test_lerobot_columns_are_not_added_to_a_version_without_them(clips: list[Clip], tmp_path: Path) -> None:
    source = lerobot_folder(tmp_path / "source")
    (source / "meta" / "info.json").write_text('{"codebase_version": "v2.1", "features": {}}')
    with pytest.raises(UsageError, match=r"expected LeRobot v3.0 or v3.1.*found v2.1"):
        lerobot.write(tmp_path / "out", named(clips), source)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("form", "column"), [(lerobot, "timestamp"), (groot, "timestamp")])
def test_a_foreign_episode_of_another_length_is_refused(
    clips: list[Clip], form: ModuleType, column: str, tmp_path: Path
) -> None:
    name = "file-000.parquet" if form is lerobot else "episode_000000.parquet"
    path = lerobot_folder(tmp_path / "source") / "data" / "chunk-000" / name
    pq.write_table(pa.table({"episode_index": [0, 0, 0], column: [0.0, 0.1, 0.2]}), path)
    with pytest.raises(FailedWork, match=f"expected {clips[0].n_steps} frames, found 3"):
        form.write(tmp_path / "out", named(clips), tmp_path / "source")


def test_groot_texts_join_the_tasks_that_are_there(store: EpisodeStore, clips: list[Clip], tmp_path: Path) -> None:
    source, out = lerobot_folder(tmp_path / "source"), tmp_path / "out"
    for index, clip in enumerate(clips):
        rows = pa.table({"episode_index": np.full(clip.n_steps, index), "action": np.arange(clip.n_steps)})
        pq.write_table(rows, source / "data" / "chunk-000" / f"episode_{index:06d}.parquet")
    lines = ['{"task_index": 0, "task": "fold"}', '{"task_index": 7, "task": "lift it"}']
    (source / "meta" / "tasks.jsonl").write_text("\n".join(lines))
    (source / "meta" / "modality.json").write_text('{"state": {"arm": {"start": 0, "end": 6}}}')
    before = {file: file.read_bytes() for file in source.rglob("*") if file.is_file()}
    groot.write(out, named(clips), source)
    assert {file: file.read_bytes() for file in source.rglob("*") if file.is_file()} == before
    tasks = [json.loads(line) for line in (out / "meta" / "tasks.jsonl").read_text().splitlines()]
    assert [(task["task_index"], task["task"]) for task in tasks[:3]] == [(0, "fold"), (7, "lift it"), (8, "")]
    modality = json.loads((out / "meta" / "modality.json").read_text())
    info = json.loads((out / "meta" / "info.json").read_text())
    feature = {"dtype": "int64", "shape": [1], "names": None}
    assert info["features"]["annotation.human.action.segment_description"] == feature
    assert info["total_tasks"] == len(tasks)
    assert modality["annotation"] == {"human.action.segment_description": {}} and "state" in modality
    table = pq.ParquetFile(out / "data" / "chunk-000" / "episode_000000.parquet").read()
    assert table["action"].to_pylist() == list(range(clips[0].n_steps))
    assert table["annotation.human.action.segment_description"][60].as_py() == 7


def test_one_text_per_step_becomes_segments() -> None:
    segments = runs_to_segments(["a", "a", None, "b", "", "b"])
    assert [(s.start, s.end, s.text) for s in segments] == [(0, 2, "a"), (3, 4, "b"), (5, 6, "b")]


def test_agibot_files_look_like_agibots(clips: list[Clip], tmp_path: Path) -> None:
    agibot.write(tmp_path, clips)
    (episode,) = json.loads((tmp_path / "task_info" / "task_1.json").read_text())
    assert (episode["episode_id"], episode["task_name"]) == (0, "task 0")
    assert episode["label_info"]["action_config"][0] == {
        "start_frame": 0,
        "end_frame": 13,
        "action_text": "reach for the cup",
        "skill": "",
    }
    assert episode["label_info"]["key_frame"] == [{"start": 13, "end": 31, "comment": "Failure recovery"}]


def test_agibot_episodes_of_other_numbers_are_found_by_given_names(store: EpisodeStore, tmp_path: Path) -> None:
    action = {"start_frame": 0, "end_frame": 9, "action_text": "Pick up onion.", "skill": "Pick"}
    episode = {"episode_id": 649078, "task_id": 327, "lable_info": {"action_config": [action]}}
    (tmp_path / "task_327.json").write_text(json.dumps([episode]))
    with pytest.raises(FailedWork, match="expected episodes of the dataset, found none of 649078"):
        agibot.read(tmp_path, EpisodeNames.of(store))
    second = list(store.briefs)[1]
    read = agibot.read(tmp_path, EpisodeNames.of(store, {"649078": second})).segments
    assert [(s.start, s.end, s.text) for s in read[second]] == [(0, 9, "Pick up onion.")]


def test_calvin_counts_frames_through_all_episodes(clips: list[Clip], tmp_path: Path) -> None:
    calvin.write(tmp_path, clips)
    first = clips[0].n_steps
    ranges = np.load(tmp_path / "ep_start_end_ids.npy")
    assert ranges.tolist() == [[0, first - 1], [first, first + clips[1].n_steps - 1]]
    content = np.load(tmp_path / "lang_annotations" / "auto_lang_ann.npy", allow_pickle=True).item()
    assert content["info"]["indx"][0] == (0, 12) and content["info"]["indx"][4] == (first, first + 12)
    assert content["language"]["ann"][0] == "reach for the cup"


def test_calvin_sentences_that_overlap_become_layers(store: EpisodeStore, tmp_path: Path) -> None:
    (episode_id, *_) = store.briefs
    overlapping = [Segment(start=a, end=b, text="t", source="source") for a, b in [(0, 9), (5, 12), (9, 20)]]
    rows = stamp(store, {episode_id: overlapping}, "calvin", "", "")
    assert [(r.segment.start, r.annotator) for r in rows] == [(0, "calvin"), (5, "calvin-2"), (9, "calvin")]
    check_segments(rows, store.keys([episode_id]), "layers")


class Trap:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return print, ("run",)


def test_a_calvin_file_that_would_run_code_is_refused(
    store: EpisodeStore, clips: list[Clip], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calvin.write(tmp_path, clips)
    np.save(tmp_path / "lang_annotations" / "auto_lang_ann.npy", np.array(Trap(), dtype=object), allow_pickle=True)
    with pytest.raises(FailedWork, match="found builtins.print"):
        calvin.read(tmp_path, EpisodeNames.of(store))
    assert capsys.readouterr().out == ""


def test_a_calvin_file_changes_nothing_that_others_share(
    store: EpisodeStore, clips: list[Clip], tmp_path: Path
) -> None:
    calvin.write(tmp_path, clips)
    with open(tmp_path / "lang_annotations" / "auto_lang_ann.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"shape": (), "fortran_order": False, "descr": "|O"})
        # GLOBAL numpy._core.numeric._frombuffer, BUILD with a slot state: sets an attribute of numpy's own function.
        file.write(b"\x80\x02cnumpy._core.numeric\n_frombuffer\n(N}X\x05\x00\x00\x00spoilK\x01stb.")
    with pytest.raises(FailedWork, match="expected a CALVIN annotation file"):
        calvin.read(tmp_path, EpisodeNames.of(store))
    assert not hasattr(np._core.numeric._frombuffer, "spoil")


def test_calvin_ranges_name_no_episode_so_the_export_does(
    store: EpisodeStore, clips: list[Clip], tmp_path: Path
) -> None:
    read = write_and_read(store, calvin, tmp_path, clips[1:])
    assert list(read) == [clips[1].episode_id]
    (tmp_path / "embodimix_episodes.json").unlink()
    with pytest.raises(FailedWork, match=f"found none of 0-{clips[1].n_steps - 1}.*--names"):
        calvin.read(tmp_path, EpisodeNames.of(store))


def test_elan_refuses_entities_and_survives_characters_that_xml_lacks(
    store: EpisodeStore, clips: list[Clip], tmp_path: Path
) -> None:
    odd = replace(clips[0], segments=(Segment(start=0, end=5, text="a\x00b\x1f"),))
    read = write_and_read(store, elan, tmp_path, [odd])
    assert read[odd.episode_id][0].text == "a\ufffdb\ufffd"
    bomb = '<!DOCTYPE a [<!ENTITY b "bbbb">]><ANNOTATION_DOCUMENT>&b;</ANNOTATION_DOCUMENT>'
    (tmp_path / f"{odd.episode_id}.eaf").write_text(bomb)
    with pytest.raises(FailedWork, match="found entity definitions, which are refused"):
        elan.read(tmp_path, EpisodeNames.of(store))


def test_elan_files_of_a_stranger_need_only_a_tier_named_text(store: EpisodeStore, tmp_path: Path) -> None:
    (episode_id, *_) = store.briefs
    (tmp_path / f"{episode_id}.eaf").write_text(
        '<ANNOTATION_DOCUMENT><TIME_ORDER><TIME_SLOT TIME_SLOT_ID="a" TIME_VALUE="0"/>'
        '<TIME_SLOT TIME_SLOT_ID="b" TIME_VALUE="1480"/></TIME_ORDER><TIER TIER_ID="text"><ANNOTATION>'
        '<ALIGNABLE_ANNOTATION ANNOTATION_ID="x" TIME_SLOT_REF1="a" TIME_SLOT_REF2="b"><ANNOTATION_VALUE>go'
        "</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION></TIER></ANNOTATION_DOCUMENT>"
    )
    assert elan.read(tmp_path, EpisodeNames.of(store)).segments == {
        episode_id: [Segment(start=0, end=15, text="go", source="source")]
    }


def test_label_studio_regions_count_frames_from_one(clips: list[Clip], tmp_path: Path) -> None:
    label_studio.write(tmp_path, clips)
    task = json.loads((tmp_path / "tasks.json").read_text())[0]
    assert task["annotations"][0]["result"][:2] == [
        {
            "id": "s0",
            "to_name": "video",
            "from_name": "kind",
            "type": "timelinelabels",
            "value": {"ranges": [{"start": 1, "end": 13}], "timelinelabels": ["subtask"]},
        },
        {
            "id": "s0",
            "to_name": "video",
            "from_name": "text",
            "type": "textarea",
            "value": {"ranges": [{"start": 1, "end": 13}], "text": ["reach for the cup"]},
        },
    ]


def test_the_commands_bring_segments_out_and_back(store: EpisodeStore, tmp_path: Path) -> None:
    dataset = str(store.dataset.path)
    assert main(["annotate", "export", dataset, "--format", "elan", "--out", str(tmp_path / "eaf")]) == 0
    table = tmp_path / "ann.parquet"
    arguments = ["annotate", "import", dataset, str(tmp_path / "eaf"), "--format", "elan", "--annotator", "ann"]
    assert main([*arguments, "--out", str(table)]) == 0
    for episode_id in store.briefs:
        back = [a.segment for a in read_segments(table) if a.episode_id == episode_id]
        assert back == [replace(s, source="source") for s in store.episode(episode_id).segments]


def test_segments_that_do_not_fit_are_not_imported(
    store: EpisodeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    action = {"start_frame": 0, "end_frame": 99_999, "action_text": "Pick."}
    episode = {"episode_id": list(store.briefs)[0], "label_info": {"action_config": [action]}}
    (tmp_path / "task_1.json").write_text(json.dumps([episode]))
    table = tmp_path / "a.parquet"
    arguments = ["annotate", "import", str(store.dataset.path), str(tmp_path), "--format", "agibot", "--annotator", "a"]
    assert main([*arguments, "--out", str(table)]) == 1
    assert "outside: the episode has steps" in capsys.readouterr().err and not table.exists()
