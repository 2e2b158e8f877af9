"""Tests of the proposals on every sample dataset, and beside a public change-point library."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.contract.episode import Episode
from pipelines.segments.propose import propose_segments
from tests.support.annotation_scores import boundary_f1, find_with_proposals, find_with_ruptures, sample_episodes


@pytest.fixture(scope="module")
def samples(shared: Path) -> dict[str, list[Episode]]:
    return sample_episodes(shared)


@pytest.mark.shared
def test_segments_last_about_two_seconds_in_every_sample_dataset(samples: dict[str, list[Episode]]) -> None:
    assert len(samples) == 9
    for name, episodes in samples.items():
        lengths = [(s.end - s.start) / e.control_hz for e in episodes for s in propose_segments(e)]
        assert 1.5 <= np.median(lengths) <= 2.5, name
        assert min(lengths) >= 0.4 and max(lengths) <= 5.0, name


@pytest.mark.shared
def test_the_rate_of_an_episode_hardly_moves_its_boundaries(samples: dict[str, list[Episode]]) -> None:
    (_, episode) = samples["aloha_hdf5"]
    halved = Episode(
        **{
            **vars(episode),
            "control_hz": 25.0,
            "state": episode.state[::2],
            "action": episode.action[::2],
            "timestamp_s": episode.timestamp_s[::2],
            "reward": episode.reward[::2],
            "discount": episode.discount[::2],
            "is_idle": episode.is_idle[::2],
        }
    )
    at_50 = [segment.end / 50 for segment in propose_segments(episode)]
    np.testing.assert_allclose([segment.end / 25 for segment in propose_segments(halved)], at_50, atol=0.15)


@pytest.mark.parametrize("two_arms", [False, True])
@pytest.mark.parametrize("control_hz", [5, 20])
def test_proposals_find_what_a_change_point_library_misses(control_hz: float, two_arms: bool) -> None:
    ours, theirs = (
        boundary_f1(find, control_hz, "ee_absolute", two_arms, 10) for find in (find_with_proposals, find_with_ruptures)
    )
    assert ours >= 0.9 > theirs + 0.2
