"""Opened mixtures: groups, shares, filters, caps, validation, statistics, locks, and what is refused."""

import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from mixtures.groups.selection import select_groups, validation_words
from mixtures.locks import read_lock
from mixtures.mixture import Mixture, open_mixture
from pipelines.contract.episode import Episode
from pipelines.contract.errors import FailedWork, UsageError
from pipelines.shards import dataset
from pipelines.shards.dataset import sha256_of
from pipelines.shards.statistics import load_statistics
from tests.support.inputs.mixture_data import make_episode, write_dataset, write_spec


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mixture")
    episodes = [
        make_episode(i, task=["fold", "sort"][i % 2], idle=[0, 3], success=[1, 0, -1][i % 3], segments=i != 4)
        for i in range(9)
    ]
    write_dataset(root, "a", episodes)
    write_dataset(root, "b", [make_episode(i, robot="ur5e", n_steps=20, language=()) for i in range(9, 13)])
    write_dataset(root, "c", [make_episode(i, n_steps=30 - i, control_hz=50.0) for i in range(13, 19)], n_shards=1)
    return root


def opened(folder: Path, body: str, **options: object) -> Mixture:
    return open_mixture(write_spec(folder, body), cache=folder / "cache", **options)


def sizes(mixture: Mixture) -> dict[str, tuple[int, int]]:
    return {group.name: (group.n_episodes, group.n_steps) for group in mixture.groups}


def test_groups_are_tasks_and_robots_across_datasets(folder: Path) -> None:
    mixture = opened(folder, "datasets: [{path: a/1.0.0}, {path: b/1.0.0}, {path: c/1.0.0}]\n")
    assert sizes(mixture) == {"fold@arx": (11, 147), "fold@ur5e": (4, 80), "sort@arx": (4, 48)}
    weights = np.array([147, 80, 48]) ** 0.43
    assert [group.probability for group in mixture.groups] == pytest.approx(weights / weights.sum())
    assert [group.raw_share for group in mixture.groups] == pytest.approx(np.array([147, 80, 48]) / 275)


def test_group_by_dataset_and_a_task_of_ones_own(folder: Path) -> None:
    body = "weighting: {group_by: [dataset]}\ndatasets: [{path: a/1.0.0}, {path: c/1.0.0}]\n"
    assert sizes(opened(folder, body)) == {"a": (9, 108), "c": (6, 87)}
    assert sizes(opened(folder, "datasets: [{path: a/1.0.0, task: laundry}]\n")) == {"laundry@arx": (9, 108)}


def test_nested_groups_and_fixed_shares(folder: Path) -> None:
    write_spec(
        folder, "weighting: {alpha: 0, group_by: [dataset]}\ndatasets: [{path: b/1.0.0}, {path: c/1.0.0}]\n", "in.yaml"
    )
    mixture = opened(
        folder,
        "groups:\n  - {name: open, share: 0.2, include: in.yaml}\n  - {name: own, datasets: [{path: a/1.0.0}]}\n",
    )
    shares = {group.name: group.probability for group in mixture.groups}
    fold = 60**0.43 / (60**0.43 + 48**0.43)
    assert shares == pytest.approx(
        {"open/b": 0.1, "open/c": 0.1, "own/fold@arx": 0.8 * fold, "own/sort@arx": 0.8 * (1 - fold)}
    )


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ("{drop: idle}", {"fold@arx": (5, 50), "sort@arx": (4, 40)}),
        ("{keep: idle}", {"fold@arx": (5, 10), "sort@arx": (4, 8)}),
        ("{keep: success}", {"fold@arx": (2, 24), "sort@arx": (1, 12)}),
        ("{drop: failure}", {"fold@arx": (4, 48), "sort@arx": (2, 24)}),
        ("{keep: recovery}", {"fold@arx": (4, 24), "sort@arx": (4, 24)}),
        ("{drop: segment}", {"fold@arx": (1, 12)}),
        ("{keep: {task: [sort]}}", {"sort@arx": (4, 48)}),
        ("{drop: idle}, {keep: success}", {"fold@arx": (2, 20), "sort@arx": (1, 10)}),
    ],
)
def test_filters(folder: Path, filters: str, expected: dict[str, tuple[int, int]]) -> None:
    assert sizes(opened(folder, f"datasets: [{{path: a/1.0.0}}]\nfilters: [{filters}]\n")) == expected


def test_a_filter_on_lengths(folder: Path) -> None:
    body = "datasets: [{path: c/1.0.0, filters: [{keep: {min_steps: 13, max_steps: 15}}]}]\n"
    assert sizes(opened(folder, body)) == {"fold@arx": (3, 42)}


def test_a_cap_takes_whole_episodes_and_always_the_same(folder: Path) -> None:
    body = "datasets: [{path: a/1.0.0, cap_steps: CAP, task: t}]\n"
    small, large = (opened(folder, body.replace("CAP", str(cap))) for cap in (30, 50))
    assert sizes(small) == {"t@arx": (2, 24)} and sizes(large) == {"t@arx": (4, 48)}
    assert set(small.splits["train"].row) < set(large.splits["train"].row)
    assert sizes(opened(folder, body.replace("CAP", "1"))) == {"t@arx": (1, 12)}


def test_multiplier_max_epochs_and_min_share(folder: Path) -> None:
    head = "weighting: {alpha: 1, group_by: [dataset]}\n"
    body = head + "datasets: [{path: a/1.0.0, multiplier: 2}, {path: b/1.0.0}]\n"
    assert [g.probability for g in opened(folder, body).groups] == pytest.approx([216 / 296, 80 / 296])
    body = head + "datasets: [{path: a/1.0.0, max_epochs: 2}, {path: b/1.0.0}]\n"
    limited = opened(folder, body, draws=1000)
    assert [g.probability for g in limited.groups] == pytest.approx([0.216, 0.784])
    assert limited.groups[0].effective_epochs(1000) == pytest.approx(2)
    body = head + "datasets: [{path: a/1.0.0}, {path: b/1.0.0, min_share: 0.7}]\n"
    assert [g.probability for g in opened(folder, body).groups] == pytest.approx([0.3, 0.7])


def test_max_epochs_without_a_number_of_draws_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"mixture.yaml:3:19: max_epochs needs the number of draws"):
        opened(folder, "datasets: [{path: a/1.0.0, max_epochs: 2}]\n")


def test_validation_depends_on_the_episode_alone(folder: Path) -> None:
    rule = "validation: {fraction: 0.25, min_per_group: 1}\n"
    mixture = opened(folder, "datasets: [{path: a/1.0.0}, {path: b/1.0.0}]\n" + rule)
    alone = opened(folder, "datasets: [{path: b/1.0.0}]\n" + rule)
    held = mixture.splits["validation"]
    assert set(held.row[held.table == 1]) == set(alone.splits["validation"].row)
    for group in mixture.groups:
        assert group.n_episodes >= 1 and group.n_validation_episodes >= 1
    words = validation_words(mixture.tables[0]) / 2.0**64
    train = mixture.splits["train"]
    assert (words[train.row[train.table == 0]] >= 0.25).all()


def test_copies_of_an_episode_stay_on_one_side(tmp_path: Path) -> None:
    originals = [make_episode(i, n_steps=40, cameras=("base_0_rgb",)) for i in range(12)]
    write_dataset(tmp_path, "a", originals, n_shards=1)
    write_dataset(tmp_path, "b", [trimmed(episode) for episode in originals], n_shards=1)
    rule = "validation: {fraction: 0.4, min_per_group: 3}\n"
    mixture = opened(tmp_path, "datasets: [{path: a/1.0.0}, {path: b/1.0.0}]\n" + rule)
    first, second = mixture.tables
    assert first.episode_ids.to_pylist() != second.episode_ids.to_pylist()
    assert len(set(first.motion.tolist())) == 12
    assert (first.motion == second.motion).sum() >= 11
    held = mixture.splits["validation"]
    same = first.motion == second.motion
    sides = [set(held.row[held.table == number]) & set(np.flatnonzero(same)) for number in (0, 1)]
    assert sides[0] == sides[1] and len(sides[0]) >= 3


def trimmed(episode: Episode) -> Episode:
    """The episode with other texts and without its last step."""
    arrays = ("state", "action", "timestamp_s", "reward", "discount", "is_idle")
    shorter = {name: getattr(episode, name)[:-1] for name in arrays}
    images = {camera: frames[:-1] for camera, frames in episode.images.items()}
    return replace(episode, language=("again",), segments=(), images=images, **shorter)


def test_a_group_of_one_episode_keeps_it_for_training(tmp_path: Path) -> None:
    write_dataset(tmp_path, "a", [make_episode(0)], n_shards=1)
    (group,) = opened(tmp_path, "datasets: [{path: a/1.0.0}]\nvalidation: {fraction: 0.5, min_per_group: 1}\n").groups
    assert (group.n_episodes, group.n_validation_episodes) == (1, 0)


def test_a_groups_numbers(folder: Path) -> None:
    group = opened(folder, "datasets: [{path: a/1.0.0, task: t}]\nfilters: [{drop: idle}]\n").groups[0]
    assert group.hours == pytest.approx(90 / 10 / 3600)
    assert (group.language, group.segments, group.slots) == (1.0, pytest.approx(8 / 9), (0, 1, 2, 3, 4, 5, 6))
    assert group.cameras == {"base_0_rgb": 1.0, "left_wrist_0_rgb": 1.0, "right_wrist_0_rgb": 0.0}
    assert (group.robot, group.control_hz, group.datasets) == (("arx",), (10.0,), ("a/1.0.0",))


def test_statistics_merge_over_datasets_and_can_be_frozen(folder: Path, tmp_path: Path) -> None:
    both = opened(folder, "datasets: [{path: a/1.0.0}, {path: c/1.0.0}]\n")
    key = "arx/joint_position/pi18/v1"
    assert both.statistics[key].n_steps == 108 + 87
    assert both.statistics[key].state.max[0] == pytest.approx(18.11, abs=1e-3)
    both.save_statistics(tmp_path / "statistics.json")
    alone = opened(folder, "datasets: [{path: a/1.0.0}]\n", statistics=tmp_path / "statistics.json")
    assert alone.statistics[key].n_steps == 195
    assert both.parts[key] == {"arm0": (0, 1, 2, 3, 4, 5), "gripper0": (6,)}


def test_relative_chunks_have_statistics_of_their_own(folder: Path) -> None:
    body = "datasets: [{path: b/1.0.0}]\naction: {horizon: 4, mode: relative_to_first_state}\n"
    mixture = opened(folder, body)
    action = mixture.statistics["ur5e/joint_position/pi18/v1"].action
    # Step k of a chunk is k / 100 + 0.01 from its first state; four episodes of 20 steps.
    assert action.count[0] == 4 * (20 + 19 + 18 + 17)
    assert action.min[0] == pytest.approx(0.01, abs=1e-5) and action.max[0] == pytest.approx(0.04, abs=1e-5)
    assert action.max[6] == pytest.approx(12 + 0.19 + 0.006 + 0.01, abs=1e-5)
    assert mixture.action_mean("ur5e/joint_position/pi18/v1")[0] == pytest.approx(10.5 + 0.095 + 0.01, abs=1e-4)
    assert asdict(opened(folder, body).statistics["ur5e/joint_position/pi18/v1"])["n_steps"] == 80


def test_a_lock_survives_moving_the_data_and_names_what_changed(folder: Path, tmp_path: Path) -> None:
    body = "datasets: [{path: a/1.0.0}, {path: b/1.0.0}]\n"
    lock = opened(folder, body).lock()
    shutil.copytree(folder / "a", tmp_path / "a")
    shutil.copytree(folder / "b", tmp_path / "b")
    opened(tmp_path, body).check_lock(lock)
    with pytest.raises(FailedWork) as caught:
        opened(tmp_path, "seed: 4\n" + body.replace("{path: b/1.0.0}", "{path: b/1.0.0, multiplier: 3}")).check_lock(
            lock
        )
    assert "seed: 0 became 4" in str(caught.value)
    assert "group fold@ur5e: share" in str(caught.value)
    shutil.rmtree(tmp_path / "b")
    write_dataset(tmp_path, "b", [make_episode(i, robot="ur5e", n_steps=20, language=["x"]) for i in range(9, 13)])
    with pytest.raises(FailedWork, match="dataset b/1.0.0 train: its content changed"):
        opened(tmp_path, body).check_lock(lock)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("datasets: [{path: aa/1.0.0}]\n", "mixture.yaml:3:19: .*expected the folder of a dataset.*Did you mean 'a'"),
        ("datasets: [{path: a}]\n", "mixture.yaml:3:19: .*Give one of its versions: 1.0.0"),
        ("datasets: [{path: a/1.0.0, split: trian}]\n", "3:19: .*no split 'trian'. Did you mean 'train'"),
        (
            "datasets: [{path: a/1.0.0}]\nfilters: [{keep: {robot: [axr]}}]\n",
            "mixture.yaml:4:18: no dataset under this filter has robot 'axr'. Did you mean 'arx'",
        ),
        ("datasets: [{path: b/1.0.0, filters: [{drop: {robot: [ur5e]}}]}]\n", "3:19: nothing is left of b 1.0.0"),
    ],
)
def test_what_cannot_be_read_is_reported_with_its_line(folder: Path, body: str, message: str) -> None:
    with pytest.raises((UsageError, FailedWork), match=message):
        opened(folder, body)


@pytest.mark.parametrize("compiled_before", [True, False])
def test_a_missing_or_changed_shard_is_refused(tmp_path: Path, compiled_before: bool) -> None:
    folder = write_dataset(tmp_path, "a", [make_episode(i) for i in range(3)])
    body = "datasets: [{path: a/1.0.0}]\n"
    if compiled_before:
        opened(tmp_path, body)
    shard = folder / "a-train.tfrecord-00001-of-00002"
    content = shard.read_bytes()
    shard.write_bytes(content + b"x")
    with pytest.raises(FailedWork, match=r"3:19: .*tfrecord-00001-of-00002: expected \d+ bytes, found"):
        opened(tmp_path, body)
    shard.unlink()
    with pytest.raises(FailedWork, match="expected the shard, found no such file"):
        opened(tmp_path, body)


def test_a_shard_written_to_since_is_read_once_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_dataset(tmp_path, "a", [make_episode(i) for i in range(3)])
    body, read = "datasets: [{path: a/1.0.0}]\n", []
    monkeypatch.setattr(dataset, "sha256_of", lambda file: read.append(file.name) or sha256_of(file))
    opened(tmp_path, body)
    shard = folder / "a-train.tfrecord-00001-of-00002"
    os.utime(shard, ns=(1, 1))
    for _ in range(2):
        opened(tmp_path, body)
    assert read == [str(shard)]
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(shard, ns=(2, 2))
    for _ in range(2):
        with pytest.raises(FailedWork, match="3:19: .*00001-of-00002: expected sha256 .*changed under its index"):
            opened(tmp_path, body)


def test_an_unfinished_dataset_and_missing_statistics_are_refused(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, "a", [make_episode(0)], n_shards=1)
    os.rename(folder / "statistics.json", folder / "elsewhere")
    with pytest.raises(FailedWork, match="statistics.json: expected a statistics file that can be read"):
        opened(tmp_path, "datasets: [{path: a/1.0.0}]\n")
    (folder / "dataset_info.json").unlink()
    with pytest.raises(FailedWork, match="the conversion is not finished"):
        opened(tmp_path, "datasets: [{path: a/1.0.0}]\n")


def test_statistics_of_another_version_are_refused(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, "a", [make_episode(0)], n_shards=1)
    file = folder / "statistics.json"
    assert load_statistics(file)
    file.write_text(file.read_text().replace("embodimix.statistics/v2", "embodimix.statistics/v9"))
    with pytest.raises(FailedWork, match="expected schema 'embodimix.statistics/v2', found 'embodimix.statistics/v9'"):
        opened(tmp_path, "datasets: [{path: a/1.0.0}]\n")


def test_opening_again_resolves_nothing_until_the_data_or_the_spec_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_dataset(tmp_path, "a", [make_episode(i) for i in range(4)], n_shards=1)
    first = opened(tmp_path, "datasets: [{path: a/1.0.0}]\nfilters: [{drop: idle}]\n")
    calls = []
    monkeypatch.setattr("mixtures.groups.resolved.select_groups", lambda *args: calls.append(1) or select_groups(*args))
    again = opened(tmp_path, "# moved down a line\ndatasets: [{path: a/1.0.0}]\nfilters: [{drop: idle}]\n")
    assert again.groups == first.groups and not calls
    assert np.array_equal(again.splits["train"].steps, first.splits["train"].steps)
    opened(tmp_path, "datasets: [{path: a/1.0.0}]\n")
    shutil.rmtree(folder.parent)
    write_dataset(tmp_path, "a", [make_episode(i) for i in range(5)], n_shards=1)
    changed = opened(tmp_path, "datasets: [{path: a/1.0.0}]\nfilters: [{drop: idle}]\n")
    assert changed.groups[0].n_episodes == 5 and len(calls) == 2


def test_two_groups_with_one_name_are_refused(folder: Path) -> None:
    data = "weighting: {group_by: [dataset]}, datasets: [{path: a/1.0.0}]"
    body = f"groups:\n  - {{name: x, groups: [{{name: y, {data}}}]}}\n  - {{name: x/y, {data}}}\n"
    with pytest.raises(UsageError, match="two groups have one name"):
        opened(folder, body)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected a mixture spec or a lock file"),
        ("[" * 100_000, "expected a mixture spec or a lock file"),
        ("[]", "expected schema 'embodimix.lock/v1', found 'list'"),
        (
            '{"schema": "embodimix.lock/v1", "seed": 0}',
            "expected a whole lock, found none of action, language, groups",
        ),
    ],
)
def test_a_lock_that_is_cut_or_none_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "m.lock.json").write_text(content)
    with pytest.raises(UsageError, match=message):
        read_lock(tmp_path / "m.lock.json")


def test_another_form_of_compiled_files_is_no_other_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path, "a", [make_episode(0)], n_shards=1)
    lock = opened(tmp_path, "datasets: [{path: a/1.0.0}]\n").lock()
    for module in ("compiling", "tables"):
        monkeypatch.setattr(f"mixtures.index.{module}.FORMAT", "embodimix.compiled/v99")
    opened(tmp_path, "datasets: [{path: a/1.0.0}]\n").check_lock(lock)
    assert len(list((tmp_path / "cache" / "tables").glob("*/table.json"))) == 2
