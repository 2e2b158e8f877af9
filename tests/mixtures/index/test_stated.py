"""Which sentences hold for some steps of an episode only."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from mixtures.index.stated import stated_runs
from mixtures.index.tables import open_table
from pipelines.contract.episode import Segment
from pipelines.shards.sidecar import INSTRUCTION, SEGMENT
from tests.support.inputs.mixture_data import make_episode, write_dataset


def rows(task: str, instructions: list[tuple[int, int, str]], own: list[tuple[int, int, str, str]] = ()) -> Any:  # type: ignore[assignment]
    """One episode of 10 steps."""
    blank = {"kind": "subtask", "arms": [], "success": -1, "confidence": 1.0}
    segments = [{"start": a, "end": b, "text": text, "source": source, **blank} for a, b, text, source in own]
    runs = [{"start": a, "end": b, "text": text} for a, b, text in instructions]
    return pa.table(
        {
            "task": [task],
            "n_steps": pa.array([10], pa.int32()),
            "segments": pa.array([segments], pa.list_(SEGMENT)),
            "instructions": pa.array([runs], pa.list_(INSTRUCTION)),
        }
    )


def test_one_sentence_over_all_steps_is_the_episode_s() -> None:
    assert stated_runs(rows("fold", [(0, 10, "fold")])) == []
    assert stated_runs(rows("fold", [(0, 10, "fold")], [(0, 4, "grasp", "human")])) == []
    assert stated_runs(rows("", [])) == []


def test_sentences_of_single_steps_are_the_source_s_segments() -> None:
    own = [(0, 4, "open", "source")]
    assert stated_runs(rows("tidy up", [(0, 4, "open"), (4, 10, "tidy up")], own)) == [(0, (0, 4, "open"))]


def test_where_a_merge_replaced_the_segments_the_instructions_stay() -> None:
    instructions = [(0, 4, "open"), (6, 10, "close")]
    expected = [(0, (0, 4, "open")), (0, (6, 10, "close"))]
    assert stated_runs(rows("open", instructions, [(0, 10, "use the drawer", "human")])) == expected
    assert stated_runs(rows("open", instructions, [(0, 10, "use the drawer", "source")])) == expected


def test_one_sentence_that_is_not_the_task_or_not_everywhere_is_of_its_steps() -> None:
    assert stated_runs(rows("", [(0, 10, "open")])) == [(0, (0, 10, "open"))]
    assert stated_runs(rows("open", [(0, 4, "open")])) == [(0, (0, 4, "open"))]


def test_a_step_before_the_first_sentence_has_none(tmp_path: Path) -> None:
    steps = Segment(start=4, end=8, text="open the drawer", source="source")
    write_dataset(tmp_path, "a", [replace(make_episode(0, language=(), task=""), segments=(steps,))], n_shards=1)
    table = open_table(str(tmp_path / "a/1.0.0"), "train", tmp_path / "cache")
    assert [table.source_text_at(step) for step in (0, 3, 4, 7, 8, 11)] == ["", "", *["open the drawer"] * 2, "", ""]
    assert table.source_texts(0) == {"open the drawer"}
