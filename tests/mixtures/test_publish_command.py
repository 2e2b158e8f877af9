"""The episodes that `embodimix publish` takes of a mixture: those that filters leave, in the splits of training."""

from pathlib import Path

import pytest

from mixtures.publish_command import choose_episodes
from pipelines.contract.errors import UsageError
from pipelines.shards.dataset import Dataset
from pipelines.shards.stored_episodes import iter_stored
from tests.support.inputs.mixture_data import make_episode, write_dataset, write_spec


def test_filters_choose_and_what_is_held_out_is_a_split_of_its_own(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, "a", [make_episode(i, success=i % 2) for i in range(8)])
    held_out = "validation: {fraction: 0.25, by: episode, min_per_group: 1}\n"
    body = f"filters: [{{keep: success}}]\n{held_out}datasets: [{{path: a/1.0.0}}]\n"
    (choice,) = choose_episodes(str(write_spec(tmp_path, body)), cache=str(tmp_path / "cache"))
    wanted = {episode.episode_id for episode in iter_stored(Dataset.open(folder)) if episode.success == 1}
    assert choice.splits is not None
    assert set(choice.splits) == wanted and len(wanted) == 4
    assert sorted(choice.splits.values()) == ["train", "train", "train", "validation"]


def test_segments_beside_the_shards_are_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path, "a", [make_episode(0)])
    (tmp_path / "labels.parquet").touch()
    spec = write_spec(tmp_path, "datasets: [{path: a/1.0.0, segments: [labels.parquet]}]\n")
    with pytest.raises(UsageError, match="annotate merge"):
        choose_episodes(str(spec), cache=str(tmp_path / "cache"))
