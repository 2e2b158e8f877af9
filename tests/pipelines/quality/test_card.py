"""The data card: its facts in Markdown, its plots and pictures in HTML, and hostile text that stays text."""

import base64
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.quality.card import _MOST_TEXTS, _lineage, _partial, _texts, make_card, make_short_card, write_card
from pipelines.quality.card_facts import gather_facts
from pipelines.quality.card_page import Folded, Heading, PageTable, Paragraph, to_html, to_markdown
from pipelines.quality.checks import CheckReport, inspect_dataset
from pipelines.quality.findings import finding
from pipelines.shards.dataset import Dataset
from pipelines.shards.summaries import summarize_slot
from tests.pipelines.shards.test_manifest import MANIFEST
from tests.support.inputs.clean_episodes import clean_episode, clean_episodes
from tests.support.inputs.stored_episodes import store_dataset
from trainers.main import main


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Three episodes in train, one in val without its wrist camera."""
    directory = tmp_path_factory.mktemp("data") / "toy" / "1.0.0"
    val = clean_episode(3, split="val")
    val = replace(val, images={"base_0_rgb": val.images["base_0_rgb"]})
    store_dataset(directory, {"train": [clean_episodes(n=3)], "val": [[val]]})
    return Dataset.open(directory)


def test_the_markdown_card_says_what_is_in_the_dataset(dataset: Dataset) -> None:
    card = to_markdown(make_card(gather_facts(dataset), []))
    assert card.startswith("# toy 1.0.0\n\n4 episodes, 480 steps, 24 seconds, ")
    assert "| train | 3 | 360 | " in card
    counts = "| 20 Hz | 4 | 480 | 0.00667 | 0% | 4 success | base_0_rgb 4, left_wrist_0_rgb 3 |"
    assert f"| ur5e/joint_position/pi18/v1 {counts}" in card
    assert "no check found anything" in card
    assert "4 episodes: median 6.00 s, 10th to 90th percentile 6.00 to 6.00 s" in card
    assert "2 tasks, 2 instructions, 0 segment texts; 0 of 4 episodes have no instruction." in card
    assert "| lift the red cube | 2 |" in card
    assert "Not converted by embodimix" in card
    assert "| toy-val.tfrecord-00000-of-00001 | 1 | " in card


def test_every_slot_is_listed_with_its_part_its_unit_and_its_range(dataset: Dataset) -> None:
    card = make_card(gather_facts(dataset), [])
    folded = [block for each in card if isinstance(each, Folded) for block in each.blocks]
    rows = [row for block in folded if isinstance(block, PageTable) for row in block.rows]
    (gripper,) = (row for row in rows if row[1:3] == ["gripper0[0]", "state"])
    assert [gripper[i] for i in (0, 3, 4, 5, 7, 8)] == ["6", "closed", "0", "0", "0.5", "0.5"]
    assert [row[0] for row in rows if row[2:4] == ["action", "rad"]] == ["0", "1", "2", "3", "4", "5"]


def test_the_page_holds_plots_of_every_slot_and_the_stored_pictures(dataset: Dataset) -> None:
    facts = gather_facts(dataset)
    page = to_html("toy", make_card(facts, []))
    assert [f"{slot}: arm0[{slot}], rad" in page for slot in range(6)] == [True] * 6
    jpeg = clean_episode(0).images["base_0_rgb"][0]
    assert base64.b64encode(jpeg).decode() in page
    assert page.count("<img ") == 2 * 2 * 5
    assert "http" not in page.replace("<!doctype html>", "")


def test_samples_show_different_tasks(dataset: Dataset) -> None:
    (group,) = gather_facts(dataset).groups.values()
    assert [sample.task for sample in group.samples] == ["lift the red cube", "open the drawer"]
    assert group.samples[0].steps == (0, 30, 60, 89, 119)


def test_findings_stand_on_the_card(dataset: Dataset) -> None:
    found = finding("lag", "error", "ur5e", "5 steps", "Shift it.", ["train: ep0"])
    assert "| error | lag | ur5e | 5 steps | Shift it. | 1 |" in to_markdown(make_card(gather_facts(dataset), [found]))


def test_what_was_inferred_and_the_worst_notes_stand_on_both_cards(dataset: Dataset) -> None:
    facts = replace(gather_facts(dataset), manifest=MANIFEST)
    report = CheckReport(findings=(), ratios={})
    for blocks in (make_card(facts, []), make_short_card(MANIFEST, dataset.statistics, report)):
        card = to_markdown(blocks)
        assert "| units: joints read as percent of range | 2 |" in card
        assert "| time_error_s | -0.03 | name 1 |" in card
        assert "Converted by embodimix 0.1.0, adapter toy (aloha), options 0123, code abcd." in card


def test_the_short_card_says_what_was_left_out_and_what_to_do(dataset: Dataset) -> None:
    card = to_markdown(make_short_card(MANIFEST, dataset.statistics, CheckReport(findings=(), ratios={})))
    assert "Toys. 2 of 3 episodes, 20 steps, 0.0 MB; 2 steps of kept episodes were left out." in card
    assert "| non_finite | episode or steps | 1 | NaN or infinity in a state or an action | Repair or drop" in card
    assert "| ur5e/joint_position/pi18/v1 | metric | 4 | 480 |" in card


def test_ratios_and_native_units_stand_on_the_card(tmp_path: Path) -> None:
    store_dataset(tmp_path / "toy" / "1.0.0", {"train": [[replace(e, units="viola") for e in clean_episodes()]]})
    dataset = Dataset.open(tmp_path / "toy" / "1.0.0")
    card = to_markdown(make_card(gather_facts(dataset), [], inspect_dataset(dataset).ratios))
    assert "base_0_rgb 4, left_wrist_0_rgb 4 | native to viola |" in card
    assert "| 0 | rad | 0.989 (0.988 to 0.99) | 4 |" in card


@pytest.mark.parametrize(
    ("outcomes", "shown"),
    [
        ((-1, -1, -1, -1), "4 unknown (the source does not say)"),
        ((0, 0, 0, 1), "3 failure, 1 success"),
        ((0, 0, 0, -1), "3 failure, 1 unknown (the source does not say)"),
    ],
)
def test_unknown_outcomes_are_no_failures(tmp_path: Path, outcomes: tuple[int, ...], shown: str) -> None:
    episodes = [replace(e, success=success) for e, success in zip(clean_episodes(), outcomes, strict=True)]
    store_dataset(tmp_path / "toy" / "1.0.0", {"train": [episodes]})
    card = to_markdown(make_card(gather_facts(Dataset.open(tmp_path / "toy" / "1.0.0")), []))
    assert f"| 0% | {shown} | base_0_rgb 4" in card


def test_text_from_the_data_stays_text() -> None:
    blocks = [Heading("<b>", 1), Paragraph("a & b"), PageTable(["x"], [["<script>|\nnext"]])]
    assert to_markdown(blocks) == "# <b>\n\na & b\n\n| x |\n| --- |\n| <script>\\| next |\n"
    assert "<script>|" not in to_html("t", blocks)
    assert "<h1>&lt;b&gt;</h1>" in to_html("t", blocks)


def test_the_histogram_of_a_sketch_counts_every_value() -> None:
    summary = summarize_slot(np.float32([-1, -0.5, 0, 0, 0.9, 1]))
    assert summary.histogram(np.array([-1, -0.2, 0.2, 1.0])).tolist() == [2, 2, 2]


def test_writing_gives_the_same_bytes_again(dataset: Dataset) -> None:
    facts = gather_facts(dataset)
    first = [path.read_bytes() for path in write_card(dataset.path, facts, [])]
    assert [path.read_bytes() for path in write_card(dataset.path, gather_facts(dataset), [])] == first


def test_the_card_command_prints_what_it_wrote(dataset: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["card", str(dataset.path), "--json"]) == 0
    paths = [str(dataset.path / name) for name in ("card.md", "card.html")]
    assert json.loads(capsys.readouterr().out) == {"written": paths, "findings": 0}
    assert all(Path(path).stat().st_size > 1000 for path in paths)


@pytest.mark.parametrize(("n_texts", "said"), [(3, False), (_MOST_TEXTS, False), (_MOST_TEXTS + 1, True)])
def test_texts_beyond_the_most_common_are_counted(n_texts: int, said: bool) -> None:
    blocks = _texts("text", Counter({f"fold {n}": 1 for n in range(n_texts)}), "episodes")
    (folded,) = blocks
    assert isinstance(folded, Folded)
    assert list(folded.blocks[1:]) == [Paragraph("and 1 more")] * said


def test_a_part_of_a_source_says_so_and_a_whole_one_does_not() -> None:
    assert _partial(MANIFEST) == []
    counts = replace(MANIFEST.counts, rejects={"promised_missing": 7})
    (said,) = _partial(replace(MANIFEST, partial=True, counts=counts))
    assert isinstance(said, Paragraph) and "7 promised episodes were not there" in said.text


@pytest.mark.parametrize(("n_shards", "more"), [(2, False), (_MOST_TEXTS, False), (_MOST_TEXTS + 1, True)])
def test_shards_beyond_the_first_are_counted(dataset: Dataset, n_shards: int, more: bool) -> None:
    facts = replace(gather_facts(dataset), shards=tuple((f"shard {n}", 1, 1000) for n in range(n_shards)))
    folded = _lineage(facts)[-1]
    assert isinstance(folded, Folded)
    assert list(folded.blocks[1:]) == [Paragraph("and 1 more shards")] * more
