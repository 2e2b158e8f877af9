"""What a mixture draws from: copies of steps by their kind, stored validation splits, and what is held out."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mixtures.groups.selection import kind_copies, validation_source
from mixtures.mixture import open_mixture
from mixtures.specs.spec import KindRule, ValidationRule
from pipelines.contract.errors import UsageError
from tests.mixtures.reports.test_findings import add_split
from tests.support.inputs.mixture_data import make_episode, write_dataset, write_spec

CAMERA = ("base_0_rgb",)


def test_a_stored_split_serves_only_entries_that_draw_from_another() -> None:
    entry = SimpleNamespace(path="a", split="train", segments=())
    assert validation_source(entry, ValidationRule()) is None  # type: ignore[arg-type]
    assert validation_source(entry, ValidationRule(split="train")) is None  # type: ignore[arg-type]
    assert validation_source(entry, ValidationRule(split="val")) == ("a", "val", ())  # type: ignore[arg-type]


def test_a_whole_weight_copies_every_step_alike(tmp_path: Path) -> None:
    idle = list(range(12))
    write_dataset(tmp_path, "a", [make_episode(i, cameras=CAMERA, idle=idle) for i in range(3)], n_shards=1)
    spec = write_spec(tmp_path, "datasets: [{path: a/1.0.0}]\n")
    (table,) = open_mixture(spec, cache=tmp_path / "cache").tables
    copies = [kind_copies(KindRule(idle=weight), table) for weight in (2.0, 0.0, 2.5)]
    assert copies[0] is not None and set(copies[0].tolist()) == {2}
    assert copies[1] is not None and set(copies[1].tolist()) == {0}
    assert copies[2] is not None and set(copies[2].tolist()) == {2, 3}


def test_beside_a_dataset_with_a_stored_split_the_others_stay_whole(tmp_path: Path) -> None:
    write_dataset(tmp_path, "a", [make_episode(i, cameras=CAMERA) for i in range(4)], n_shards=1)
    add_split(tmp_path / "a/1.0.0", [make_episode(8, cameras=CAMERA)])
    write_dataset(tmp_path, "b", [make_episode(i, cameras=CAMERA) for i in range(10, 16)], n_shards=1)
    rule = "validation: {fraction: 0, min_per_group: 2, split: val}\n"
    spec = write_spec(tmp_path, "datasets: [{path: a/1.0.0}, {path: b/1.0.0}]\n" + rule)
    (group,) = open_mixture(spec, cache=tmp_path / "cache").groups
    assert (group.n_episodes, group.n_validation_episodes) == (4 + 5, 1 + 1)
    assert group.datasets == ("a/1.0.0", "b/1.0.0") and group.dataset_episodes == (4, 5)
    assert np.sum(group.dataset_steps) == group.n_steps == 9 * 12


def test_every_group_is_checked_for_bounds_that_contradict_each_other(tmp_path: Path) -> None:
    write_dataset(tmp_path, "a", [make_episode(i, cameras=CAMERA) for i in range(2)], n_shards=1)
    write_dataset(tmp_path, "b", [make_episode(i, robot="ur5e", cameras=CAMERA) for i in range(3, 6)], n_shards=1)
    body = "datasets:\n  - {path: a/1.0.0}\n  - {path: b/1.0.0, min_share: 0.5, max_epochs: 1}\n"
    with pytest.raises(UsageError, match=r"mixture.yaml:5:12: min_share 0.5 and max_epochs 1 of group 'fold@ur5e'"):
        open_mixture(write_spec(tmp_path, body), cache=tmp_path / "cache", draws=6400)
