"""What a worker adds to an episode: idle flags, and proposed segments where the source has none of its own."""

from dataclasses import replace

from pipelines.contract.episode import Segment
from pipelines.conversion.write import annotate
from tests.support.inputs.stored_episodes import make_episode


def test_an_episode_without_segments_gets_proposals() -> None:
    segments = annotate(replace(make_episode(0, t=60), segments=())).segments
    assert {segment.source for segment in segments} == {"proposal"}
    assert (segments[0].start, segments[-1].end) == (0, 60)


def test_proposals_neither_replace_nor_fill_the_segments_of_the_source() -> None:
    own = (Segment(start=5, end=20, text="open the drawer", source="source"),)
    assert annotate(replace(make_episode(0, t=60), segments=own)).segments == own
