"""Tests of the page of a batch: what was lost on the way to the model, and which sample is bad."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mixtures.stream.batches import Batch
from pipelines.contract.slots import CAMERAS
from tests.support.inputs.toy_mixture import stream_batch
from tests.support.servers.pages import BATCH_PARTS
from trainers.batch_page import ReplayedLosses, write_batch_page


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    return stream_batch(tmp_path)


def page_of(folder: Path, batch: Batch, replayed: ReplayedLosses | None = None) -> str:
    path = folder / "batch.html"
    write_batch_page(path, batch, ("push", "lift"), CAMERAS, BATCH_PARTS, replayed)
    return path.read_text()


def test_a_masked_camera_is_hatched_and_a_black_one_is_a_fault(tmp_path: Path, batch: Batch) -> None:
    masked = batch.camera_mask.copy()
    masked[0, 1] = False
    images = batch.images.copy()
    images[0, 1] = 0
    page = page_of(tmp_path, replace(batch, camera_mask=masked, images=images))
    assert page.count('class="masked">masked') == 1 and "The input survived" in page
    assert "1 of 6 pictures are masked" in page and "black but not masked" not in page
    page = page_of(tmp_path, replace(batch, images=images))
    assert "1 picture is black and not masked" in page and "Something did not survive" in page
    assert "left_wrist_0_rgb, black but not masked" in page


def test_slots_are_named_and_a_lost_sentence_is_told(tmp_path: Path, batch: Batch) -> None:
    page = page_of(tmp_path, replace(batch, language=["", "lift it"]))
    assert page.count('r="3.5"') == 7 + 9  # the measured slots of the first sample, and of the second
    assert "arm0 joint 1 [0]" in page and "1 of 2 samples have no sentence" in page


def test_a_number_that_is_none_is_a_fault(tmp_path: Path, batch: Batch) -> None:
    action = batch.action.copy()
    action[1, 0, 0] = np.nan
    assert "1 number of the actions is not finite" in page_of(tmp_path, replace(batch, action=action))


def test_a_replay_begins_with_the_bad_sample(tmp_path: Path, batch: Batch) -> None:
    rows = [(name, "push", "0.1", "1", "1") for name in batch.names]
    replayed = ReplayedLosses(step=7, losses=(0.1, float("nan")), header=tuple("abcde"), rows=rows)
    page = page_of(tmp_path, batch, replayed)
    assert f"1 of 2 samples have a loss that is no number; the first is {batch.names[1]} of" in page
    assert page.index("loss nan") < page.index("loss 0.1</b>")
    finite = page_of(tmp_path, batch, replace(replayed, losses=(0.1, 0.5)))
    assert f"the largest, 0.5, is of {batch.names[1]} of" in finite
