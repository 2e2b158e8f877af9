"""Grippers that were not divided by their full opening: a fixed map would make them a hair's width."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.contract.episode import Episode
from pipelines.quality.checks import check_dataset
from pipelines.quality.findings import Finding
from pipelines.shards.dataset import Dataset
from tests.support.inputs.clean_episodes import N_STEPS, clean_episodes
from tests.support.inputs.stored_episodes import store_dataset


def findings_of(folder: Path, episodes: list[Episode]) -> list[Finding]:
    store_dataset(folder / "toy" / "1.0.0", {"train": [episodes]})
    return [f for f in check_dataset(Dataset.open(folder / "toy" / "1.0.0")) if f.kind == "gripper_range"]


def gripping(episode: Episode, state: float, action: float) -> Episode:
    vectors = episode.state.copy(), episode.action.copy()
    for values, factor in zip(vectors, (state, action), strict=True):
        values[:, 6] *= factor
    return replace(episode, state=vectors[0], action=vectors[1])


@pytest.mark.parametrize(
    ("state", "action", "sides"),
    [
        (0.08, 0.04, ["command", "fingers"]),
        (0.085 * 2, 1.0, ["fingers"]),
        (1.0, 0.085, ["command"]),
        (200.0, 100.0, ["command", "fingers"]),
        (1.0, 1.0, []),
    ],
)
def test_a_gripper_in_metres_or_percent_is_found(tmp_path: Path, state: float, action: float, sides: list[str]) -> None:
    found = findings_of(tmp_path, [gripping(e, state, action) for e in clean_episodes()])
    assert [f.evidence.split()[3] for f in found] == sides
    assert {f.severity for f in found} <= {"warning"}


@pytest.mark.parametrize("noise", [0.0, 0.004, 0.02])
def test_an_idle_gripper_is_in_its_units(tmp_path: Path, noise: float) -> None:
    def idle(number: int, episode: Episode) -> Episode:
        still = gripping(episode, 0.0, 0.0)
        still.state[:, 6] += np.random.default_rng(number).normal(0, noise, N_STEPS)
        return still

    assert findings_of(tmp_path, [idle(i, e) for i, e in enumerate(clean_episodes())]) == []
