"""Which samples positions draw, as literals: no change of code may move one, since runs resume by position."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from mixtures.mixture import open_mixture
from mixtures.stream.batches import Stream
from tests.support.inputs.mixture_data import make_episode, write_dataset, write_spec

# The first 16 hex digits of the sha256 over group, epoch, index, episode and step of positions 0 to 19,999.
DRAWN = {
    "seed: 3\n": "ea949328f0546d1f",
    "seed: 4\nvalidation: {fraction: 0.2, min_per_group: 1}\nfilters: [{drop: idle}]\n": "ddfb52c251993430",
    "seed: 5\nweighting: {alpha: 1, group_by: [dataset]}\nkinds: {recovery: 2.5}\n": "96e959f07a0d10b7",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("draws")
    tasks = ["fold", "sort"]
    write_dataset(root, "a", [make_episode(i, task=tasks[i % 2], idle=[0, 3]) for i in range(9)], n_shards=1)
    write_dataset(root, "b", [make_episode(i, robot="ur5e", n_steps=20) for i in range(9, 13)], n_shards=1)
    return root


@pytest.mark.parametrize(("rules", "expected"), DRAWN.items())
def test_positions_draw_the_samples_that_they_always_drew(folder: Path, rules: str, expected: str) -> None:
    spec = write_spec(folder, f"{rules}datasets: [{{path: a/1.0.0}}, {{path: b/1.0.0}}]\n")
    with Stream(open_mixture(spec, cache=folder / "cache"), batch_size=32) as stream:
        samples = stream.samples(0, 20_000)
    columns = (samples.group, samples.epoch, samples.index, samples.episode, samples.step)
    digest = hashlib.sha256(b"".join(np.asarray(column, np.int64).tobytes() for column in columns))
    assert digest.hexdigest()[:16] == expected


@pytest.mark.parametrize("host", [0, 1, 2])
def test_every_host_goes_on_where_the_whole_batch_ends(folder: Path, host: int) -> None:
    spec = write_spec(folder, "datasets: [{path: a/1.0.0}]\n")
    mixture = open_mixture(spec, cache=folder / "cache")
    with Stream(mixture, batch_size=12, host_index=host, host_count=3) as stream:
        first, second = stream.batches(24, 48)
    assert (first.position[0], first.next_position) == (24 + 4 * host, 36)
    assert (second.position[0], second.next_position) == (36 + 4 * host, 48)
