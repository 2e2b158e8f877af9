"""What plans flag beyond single groups: sentences as groups, copies, scales that disagree, prompts that are cut."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mixtures.mixture import Mixture, open_mixture
from mixtures.reports.plan import explain_group, plan_of, render
from mixtures.reports.plan_page import plan_page
from mixtures.stream.batches import Stream
from mixtures.stream.text_shares import count_long_texts, text_shares
from pipelines.contract.episode import Episode, Segment
from pipelines.contract.errors import UsageError
from tests.support.inputs.mixture_data import make_episode, write_dataset, write_spec
from trainers.main import main

CAMERA = ("base_0_rgb",)


def opened(folder: Path, body: str, **options: object) -> Mixture:
    return open_mixture(write_spec(folder, body), cache=folder / "cache", **options)  # type: ignore[arg-type]


def flags(folder: Path, body: str) -> list[str]:
    return plan_of(opened(folder, body)).to_json()["flags"]


def test_a_group_per_sentence_is_flagged_with_its_cure(tmp_path: Path) -> None:
    write_dataset(tmp_path, "a", [make_episode(i, task=f"move {i}", cameras=CAMERA) for i in range(20)], n_shards=1)
    write_dataset(tmp_path, "b", [make_episode(i, task="lift", cameras=CAMERA) for i in range(20, 40)], n_shards=1)
    body = "datasets: [{path: a/1.0.0}, {path: b/1.0.0}]\n"
    share = 20 * 12**0.43 / (20 * 12**0.43 + 240**0.43)
    plan = plan_of(opened(tmp_path, body))
    assert plan.to_json()["datasets"] == [
        {"name": "b/1.0.0", "raw_share": 0.5, "share": pytest.approx(1 - share)},
        {"name": "a/1.0.0", "raw_share": 0.5, "share": pytest.approx(share)},
    ]
    assert plan.findings == (
        "a/1.0.0: its 20 episodes make 20 groups, about one a sentence, which gives it 85% of the draws for 50% of the "
        "steps; `task: NAME` at the dataset makes them one group",
    )
    assert "! a/1.0.0: its 20 episodes" in render(plan)
    assert flags(tmp_path, body.replace("a/1.0.0", "a/1.0.0, task: move")) == []
    assert flags(tmp_path, f"weighting: {{group_by: [dataset]}}\n{body}") == []


def test_one_dataset_twice_is_flagged(tmp_path: Path) -> None:
    episodes = [make_episode(i, cameras=CAMERA) for i in range(6)]
    write_dataset(tmp_path, "a", episodes, n_shards=1)
    write_dataset(tmp_path, "b", [*episodes[:3], make_episode(7, cameras=CAMERA)], n_shards=1)
    two = "groups: [{name: x, datasets: [{path: a/1.0.0}]}, {name: y, datasets: [{path: a/1.0.0}]}]\n"
    assert flags(tmp_path, two) == [
        "a/1.0.0 in 'x' and a/1.0.0 in 'y' hold 6 of the same episodes, drawn as two each; leave one of them out"
    ]
    assert flags(tmp_path, "datasets: [{path: a/1.0.0}, {path: b/1.0.0}]\n") == [
        "a/1.0.0 and b/1.0.0 hold 3 of the same episodes, drawn as two each; leave one of them out"
    ]
    apart = "[{keep: {max_steps: 11}}]"
    write_dataset(tmp_path, "c", [make_episode(i, n_steps=10 + i, cameras=CAMERA) for i in range(4)], n_shards=1)
    parts = f"{{name: x, filters: {apart}, datasets: [{{path: c/1.0.0}}]}}"
    parts += f", {{name: y, filters: {apart.replace('keep', 'drop')}, datasets: [{{path: c/1.0.0}}]}}"
    assert flags(tmp_path, f"groups: [{parts}]\n") == []


def test_a_group_that_bounds_leave_nothing_is_flagged(tmp_path: Path) -> None:
    for number, name in enumerate("abc"):
        write_dataset(tmp_path, name, [make_episode(number, task=name, cameras=CAMERA)], n_shards=1)
    body = "datasets: [{path: a/1.0.0, min_share: 0.5}, {path: b/1.0.0, min_share: 0.5}, {path: c/1.0.0}]\n"
    plan = plan_of(opened(tmp_path, body))
    assert [group.probability for group in plan.groups] == pytest.approx([0.5, 0.5, 0])
    assert plan.flags(plan.groups[2]) == ("never drawn: the `min_share` of others leave it nothing",)


def test_two_datasets_of_one_name_are_flagged_and_kept_apart(tmp_path: Path) -> None:
    """In metres here and in a controller's units there: pooled by name they would share one scale unseen."""
    for folder, scale in (("here", 0.02), ("there", 1.0)):
        (tmp_path / folder).mkdir()
        write_dataset(tmp_path / folder, "a", [moving(i, scale) for i in range(3)], n_shards=1)
    body = "datasets: [{path: here/a/1.0.0}, {path: there/a/1.0.0}]\n"
    here, there = (str(tmp_path / folder / "a" / "1.0.0") for folder in ("here", "there"))
    found = flags(tmp_path, body)
    assert found[0] == (
        f"2 datasets are called a/1.0.0 and are shown as one: {here}, {there}; convert one of them under another "
        "`--name`"
    )
    assert any(f"the action of a/1.0.0 ({there}) moves 50 times as far as that of a/1.0.0 ({here})" in f for f in found)
    with pytest.raises(UsageError, match=r"mixture.yaml:3:\d+: `normalization: \{by: dataset\}` cannot separate"):
        opened(tmp_path, f"{body}normalization: {{by: dataset}}\n")


def test_one_dataset_in_two_folders_is_flagged_as_copies(tmp_path: Path) -> None:
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        write_dataset(tmp_path / folder, "a", [make_episode(i, cameras=CAMERA) for i in range(3)], n_shards=1)
    found = flags(tmp_path, "datasets: [{path: here/a/1.0.0}, {path: there/a/1.0.0}]\n")
    assert any("hold 3 of the same episodes, drawn as two each" in flag for flag in found)


def moving(number: int, scale: float) -> Episode:
    episode = make_episode(number, control_mode="ee_delta", n_steps=40, cameras=CAMERA)
    action = (np.sin(np.arange(40)[:, None] + np.arange(18)) * scale * episode.action_mask).astype(np.float32)
    return replace(episode, action=action, state=episode.state / 100)


def test_datasets_of_one_pool_that_move_in_other_units_are_flagged(tmp_path: Path) -> None:
    write_dataset(tmp_path, "metres", [moving(i, 0.03) for i in range(2)], n_shards=1)
    write_dataset(tmp_path, "controller", [moving(i, 0.6) for i in range(2, 4)], n_shards=1)
    write_dataset(tmp_path, "slower", [moving(i, 0.012) for i in range(4, 6)], n_shards=1)
    body = "datasets: [{path: metres/1.0.0}, {path: NAME/1.0.0}]\n"
    found = flags(tmp_path, body.replace("NAME", "controller"))
    start = "pool arx/ee_delta/pi18/v1: the action of controller/1.0.0 moves 20 times as far as that of metres/1.0.0"
    assert [flag[: len(start)] for flag in found] == [start, start]
    assert flags(tmp_path, body.replace("NAME", "slower")) == []
    apart = body.replace("NAME", "controller") + "normalization: {by: dataset}\n"
    assert flags(tmp_path, apart) == []


def test_one_slot_that_moves_farther_is_no_other_unit(tmp_path: Path) -> None:
    for name, scale in (("a", 0.03), ("b", 0.6)):
        episodes = [moving(i + 10 * len(name), scale) for i in range(2)]
        only_x = [replace(e, action=(e.action * (np.arange(18) == 0)).astype(np.float32)) for e in episodes]
        write_dataset(tmp_path, name, [replace(e, state=e.state + scale) for e in only_x], n_shards=1)
    assert flags(tmp_path, "datasets: [{path: a/1.0.0}, {path: b/1.0.0}]\n") == []


def test_a_group_with_enough_stored_validation_holds_nothing_more_out(tmp_path: Path) -> None:
    write_dataset(tmp_path, "a", [make_episode(i, cameras=CAMERA) for i in range(4)], n_shards=1)
    add_split(tmp_path / "a/1.0.0", [make_episode(8, cameras=CAMERA)])
    write_dataset(tmp_path, "b", [make_episode(i, cameras=CAMERA) for i in range(10, 14)], n_shards=1)
    body = "datasets: [{path: a/1.0.0}, {path: b/1.0.0}]\nvalidation: {fraction: 0, min_per_group: N, split: val}\n"
    for fewest, held in ((1, 1), (3, 3)):
        (group,) = opened(tmp_path, body.replace("N", str(fewest))).groups
        assert (group.n_episodes, group.n_validation_episodes) == (9 - held, held)


def test_plans_name_every_pool(tmp_path: Path) -> None:
    write_dataset(tmp_path, "metres", [moving(i, 0.03) for i in range(2)], n_shards=1)
    write_dataset(tmp_path, "viola", [replace(moving(2, 0.6), units="viola", control_hz=20.0)], n_shards=1)
    mixture = opened(tmp_path, "datasets: [{path: metres/1.0.0}, {path: viola/1.0.0}]\n")
    plan = plan_of(mixture)
    assert "Pools of statistics" in (page := plan_page(plan, mixture)) and "arx/ee_delta/pi18/v1/viola" in page
    assert plan.to_json()["pools"] == [
        {
            "name": name,
            "norm_key": name,
            "units": units,
            "control_hz": (hz,),
            "datasets": (dataset,),
            "n_steps": n_steps,
            "rule": "tails/v2",
        }
        for name, units, hz, dataset, n_steps in (
            ("arx/ee_delta/pi18/v1", "metric", 10.0, "metres/1.0.0", 80),
            ("arx/ee_delta/pi18/v1/viola", "viola", 20.0, "viola/1.0.0", 40),
        )
    ]
    lines = [line.split() for line in render(plan).splitlines()]
    assert ["arx/ee_delta/pi18/v1/viola", "40", "viola", "20", "tails/v2", "viola/1.0.0"] in lines


def test_a_stored_split_serves_as_validation_and_holds_nothing_more_out(tmp_path: Path) -> None:
    write_dataset(tmp_path, "a", [make_episode(i, cameras=CAMERA) for i in range(8)], n_shards=1)
    add_split(tmp_path / "a/1.0.0", [make_episode(i, cameras=CAMERA, task=t) for i, t in ((8, "fold"), (9, "other"))])
    write_dataset(tmp_path, "b", [make_episode(i, robot="ur5e", cameras=CAMERA) for i in range(10, 18)], n_shards=1)
    body = "datasets: [{path: a/1.0.0}, {path: b/1.0.0}]\n"
    rule = "validation: {fraction: 0.3, min_per_group: 2, split: val}\n"
    mixture = opened(tmp_path, body + rule)
    assert [(g.name, g.n_episodes, g.n_validation_episodes) for g in mixture.groups] == [
        ("fold@arx", 8, 1),
        ("fold@ur5e", 8 - mixture.groups[1].n_validation_episodes, mixture.groups[1].n_validation_episodes),
    ]
    assert mixture.groups[1].n_validation_episodes >= 2
    assert plan_of(mixture).findings == (
        "a/1.0.0: 1 episode of its validation split left out, of no group of the mixture",
    )
    with Stream(mixture, batch_size=1, split="validation", groups=["fold@arx"]) as stream:
        assert {row.n_steps for row in stream.episodes()} == {12} and stream.n_samples == 12
        assert stream.batch_at(0).state_physical[0, 0] == pytest.approx(8, abs=0.2)
    assert [t.split for t in mixture.tables] == ["train", "train", "val"]


def add_split(folder: Path, episodes: list[Episode]) -> None:
    """Moves the only shard of another dataset here as the split `val`."""
    from pipelines.shards.statistics import load_statistics
    from pipelines.shards.writer import write_shard

    write_shard(
        folder,
        name="a",
        split="val",
        shard=0,
        n_shards=1,
        episodes=episodes,
        statistics=load_statistics(folder / "statistics.json"),
        cameras=CAMERA,
        converter="test",
        options_hash="0",
        on_reject=lambda *_: None,
    )
    info = json.loads((folder / "dataset_info.json").read_text())
    info["splits"].append({"name": "val", "shardLengths": [str(len(episodes))]})
    (folder / "dataset_info.json").write_text(json.dumps(info))


def test_copies_of_training_episodes_in_a_stored_split_are_flagged(tmp_path: Path) -> None:
    write_dataset(tmp_path, "a", [make_episode(i, cameras=CAMERA) for i in range(3)], n_shards=1)
    add_split(tmp_path / "a/1.0.0", [make_episode(0, cameras=CAMERA)])
    body = "datasets: [{path: a/1.0.0}]\nvalidation: {fraction: 0, split: val}\n"
    assert flags(tmp_path, body) == [
        "a/1.0.0 (val): 1 of 1 held-out episodes are copies of episodes that are trained on"
    ]


def test_the_share_of_every_text_is_the_one_that_is_drawn(tmp_path: Path) -> None:
    source = Segment(start=0, end=4, text="open it", source="source")
    labelled = Segment(start=4, end=8, text="grasp", source="human")
    first = replace(make_episode(0, cameras=CAMERA, language=("open it",)), segments=(source, labelled), task="open it")
    second = make_episode(1, cameras=CAMERA, robot="ur5e", language=("fold", "fold it"), idle=[0, 1])
    third = make_episode(2, cameras=CAMERA, robot="franka", language=(), task="", segments=False)
    write_dataset(tmp_path, "a", [first, second, third], n_shards=1)
    body = "datasets: [{path: a/1.0.0}]\nlanguage: {segment: 0.25, task: 0.75}\nfilters: [{drop: idle}]\n"
    mixture = opened(tmp_path, body)
    shares = text_shares(mixture)
    assert sum(shares.values()) == pytest.approx(1)
    counts: dict[str, int] = dict.fromkeys(shares, 0)
    with Stream(mixture, batch_size=64) as stream:
        for batch in stream.batches(0, 6400):
            for text in batch.language:
                counts[text] += 1
    assert {text: n / 6400 for text, n in counts.items()} == pytest.approx(shares, abs=0.02)


def test_prompts_that_a_model_cuts_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = "first open the upper drawer of the white cabinet with the left hand and then take the block on the "
    sides = [make_episode(i, cameras=CAMERA, language=(long + ["left", "right"][i % 2],)) for i in range(2)]
    write_dataset(tmp_path, "a", [*sides, make_episode(2, cameras=CAMERA, language=("fold",))], n_shards=1)
    spec = write_spec(tmp_path, "datasets: [{path: a/1.0.0}]\n")
    shares = {long + "left": 0.3, long + "right": 0.3, "fold": 0.4}
    found = count_long_texts(shares, str.split, 10)  # type: ignore[arg-type]
    assert (found.n_texts, found.n_cut, found.n_alike, found.longest) == (3, 2, 2, 21)
    assert found.share == pytest.approx(0.6) and found.example == long + "left"
    assert count_long_texts(shares, str.split, 21).n_cut == 0  # type: ignore[arg-type]
    assert main(["mix", "plan", str(spec), "--max-tokens", "16"]) == 0
    assert "In 66.7% of the draws 2 texts lose their end, and 2 of them become the same" in capsys.readouterr().out
    assert main(["mix", "plan", str(spec), "--max-tokens", "400"]) == 0
    assert "Prompts: 3 texts" in capsys.readouterr().out
    assert main(["mix", "plan", str(spec), "--model", "nothing"]) == 2


def test_min_share_over_max_epochs_is_refused_where_it_stands(tmp_path: Path) -> None:
    write_dataset(tmp_path, "a", [make_episode(i, cameras=CAMERA) for i in range(2)], n_shards=1)
    write_dataset(tmp_path, "b", [make_episode(i, robot="ur5e", cameras=CAMERA) for i in range(3, 6)], n_shards=1)
    body = "datasets:\n  - {path: a/1.0.0, min_share: 0.5, max_epochs: 1}\n  - {path: b/1.0.0}\n"
    message = (
        r"mixture.yaml:4:12: min_share 0.5 and max_epochs 1 of group 'fold@arx' contradict each other: 6,400 draws"
    )
    with pytest.raises(UsageError, match=message):
        opened(tmp_path, body, draws=6400)
    plan = plan_of(opened(tmp_path, body, draws=48))
    assert plan.groups[0].probability == pytest.approx(0.5)
    assert "min_share holds: without it the group would get less" in explain_group(plan, "fold@arx")
    limited = "datasets:\n  - {path: a/1.0.0}\n  - {path: b/1.0.0, max_epochs: 0.5}\n"
    assert "max_epochs holds: without it" in explain_group(plan_of(opened(tmp_path, limited, draws=48)), "fold@ur5e")
