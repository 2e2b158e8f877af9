"""Tests of `annotation_tools.episodes`: what annotators see of a stored dataset."""

from pathlib import Path

import numpy as np
import pytest

from annotation_tools.episodes import EpisodeStore
from pipelines.contract.errors import FailedWork
from pipelines.segments.propose import propose_segments
from tests.support.inputs.annotation_episodes import make_dataset, random_episode, with_pictures


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return EpisodeStore(make_dataset(tmp_path_factory.mktemp("store")))


def test_every_episode_is_listed(store: EpisodeStore) -> None:
    briefs = list(store.briefs.values())
    assert [(b.shard, b.row, b.task) for b in briefs] == [
        (0, 0, "task 0"),
        (0, 1, "task 0"),
        (1, 0, "task 1"),
        (1, 1, "task 1"),
    ]
    assert [b.n_segments for b in briefs] == [7, 9, 6, 6]
    segments = store.episode(briefs[0].episode_id).segments
    assert segments[0].text == "move the left arm right, close the left gripper"
    assert briefs[0].confidence == min(segment.confidence for segment in segments)


def test_an_episode_comes_back_as_it_was_converted(store: EpisodeStore) -> None:
    written, _ = random_episode(3, 10, two_arms=True, control_mode="ee_absolute")
    read = store.episode(list(store.briefs)[3])
    np.testing.assert_array_equal(read.state, written.state)
    np.testing.assert_array_equal(read.action, written.action)
    assert propose_segments(read) == propose_segments(written)


def test_a_picture_comes_byte_for_byte(store: EpisodeStore) -> None:
    written = with_pictures(random_episode(3, 10, two_arms=True, control_mode="ee_absolute")[0], 3)
    episode_id = list(store.briefs)[3]
    assert store.cameras(episode_id) == ("base_0_rgb", "left_wrist_0_rgb")
    for step in (0, 17, written.n_steps - 1):
        assert store.jpeg(episode_id, "left_wrist_0_rgb", step) == written.images["left_wrist_0_rgb"][step]


def test_an_unknown_episode_is_refused(store: EpisodeStore) -> None:
    with pytest.raises(FailedWork, match="no episode 'abc'. Known: "):
        store.episode("abc")


def test_an_unknown_camera_is_refused(store: EpisodeStore) -> None:
    with pytest.raises(FailedWork, match="no camera 'base_1_rgb'. Did you mean 'base_0_rgb'"):
        store.jpeg(list(store.briefs)[0], "base_1_rgb", 0)


@pytest.mark.parametrize("step", [-1, 10_000])
def test_a_step_outside_the_episode_is_refused(store: EpisodeStore, step: int) -> None:
    with pytest.raises(FailedWork, match=f"expected a step from 0 to .*, found {step}"):
        store.jpeg(list(store.briefs)[0], "base_0_rgb", step)


def test_an_incomplete_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FailedWork, match="expected the folder of a dataset"):
        EpisodeStore(tmp_path / "none")
