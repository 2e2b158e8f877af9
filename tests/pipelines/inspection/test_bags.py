"""Drafts for bags: joints by their names, base to tool, and what an entry of topics must state."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipelines.contract.embodiments import freeze_robots
from pipelines.contract.episode import Episode
from pipelines.contract.registries import use_registries
from pipelines.conversion.plan import Job
from pipelines.conversion.read_episode import read_episode
from pipelines.inspection.draft import count_questions, make_draft, render
from pipelines.inspection.recognition import recognize
from pipelines.mapping.adapters import find_adapter, get_adapter
from pipelines.sources import bag, zarr
from tests.pipelines.sources.test_zarr import write_log
from tests.support.bag_writers import MS, WRITERS, demonstration, number


@pytest.fixture(autouse=True)
def own_registries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    use_registries([])
    yield
    use_registries([])


@pytest.mark.parametrize("kind", WRITERS)
def test_a_draft_that_is_answered_reads_what_the_log_of_the_same_demonstration_holds(tmp_path: Path, kind: str) -> None:
    """The state's topic lists its joints by the alphabet, the elbow first."""
    write_log(tmp_path / "log/a.zarr")
    WRITERS[kind](tmp_path / "bag", demonstration())
    ((description, sample), *_) = recognize(str(tmp_path / "bag")).understood
    text = render(make_draft(description, sample.episodes))
    assert count_questions(text) == 1
    path = tmp_path / "my.yaml"
    path.write_text(text.replace('open: "?", closed: "?"', "open: 0, closed: 1"))
    found = read_episode_of(tmp_path / "bag", str(path))
    log = read_episode_of(tmp_path / "log", "inhouse_log")
    np.testing.assert_array_equal(found.state, log.state)
    np.testing.assert_array_equal(found.action, log.action)
    assert found.task == log.task


def test_a_hand_has_one_range_however_far_its_command_went(tmp_path: Path) -> None:
    """Neither is as wide as the hand's 0.085 m; two scales would store one opening as two numbers."""
    messages = [m for m in demonstration() if "gripper" not in m.topic]
    for t in range(0, 1000, 50):
        messages.append(number("/gripper/width", t * MS, 0.04 + 0.04 * np.cos(t / 300)))
        messages.append(number("/command/gripper", t * MS, 0.04 + 0.038 * np.cos(t / 300)))
    WRITERS["mcap"](tmp_path / "bag", messages)
    ((description, sample), *_) = recognize(str(tmp_path / "bag")).understood
    text = render(make_draft(description, sample.episodes))
    assert count_questions(text) == 1
    assert 'gripper: &gripper {open: "?", closed: "?"}' in text
    assert text.count("<<: *gripper, from:") == 2
    assert "its name says how far it is open" in " ".join(text.replace("# ", "").split())


def read_episode_of(root: Path, entry: str) -> Episode:
    adapter = find_adapter(entry) if entry.endswith(".yaml") else get_adapter(entry)
    reader = bag if adapter.format == "bag" else zarr
    (located,) = reader.find(str(root), adapter).episodes
    job = Job(directory="out", name="x", version="1.0.0", adapter=adapter, robots=freeze_robots())
    return read_episode(job, located, ("base_0_rgb",))
