"""What a card counts."""

from dataclasses import replace
from pathlib import Path

from pipelines.contract.episode import Segment
from pipelines.quality.card_facts import gather_facts
from pipelines.shards.dataset import Dataset
from tests.support.inputs.stored_episodes import make_episode, store_dataset


def test_motion_phrases_of_proposals_are_no_segment_texts(tmp_path: Path) -> None:
    segments = (
        Segment(start=0, end=2, text="move the arm slightly"),
        Segment(start=2, end=5, text="grasp the cube", source="human"),
    )
    store_dataset(tmp_path / "toy" / "1.0.0", {"train": [[replace(make_episode(0), segments=segments)]]})
    facts = gather_facts(Dataset.open(tmp_path / "toy" / "1.0.0"))
    assert dict(facts.segment_texts) == {"grasp the cube": 1}
