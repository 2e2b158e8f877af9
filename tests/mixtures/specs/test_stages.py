"""Overrides of training stages: what they replace, merge and add, and that shares keep their properties."""

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixtures.cli import add_commands
from mixtures.mixture import open_mixture
from mixtures.reports.published import plan_published
from mixtures.specs.filters import Filter
from mixtures.specs.spec import LanguageRule, MixtureSpec, load_spec
from pipelines.contract.document import SpecError
from pipelines.contract.errors import FailedWork
from tests.support.inputs.mixture_data import make_episode, write_dataset, write_spec

BODY = """
seed: 3
draws: 1000
weighting: {alpha: 0.43}
filters: [{drop: idle}]
language: {segment: 0.5, task: 0.5}
groups:
  - name: open_data
    share: 0.6
    include: inner.yaml
  - name: in_house
    datasets:
      - {path: c/1.0.0, sizes: {steps: 4000}}
  - name: old
    datasets: [{path: d/1.0.0, sizes: {steps: 1000}}]
stages:
  posttrain:
    draws: 50
    weighting: {temperature: 2}
    filters: [{keep: success}]
    language: {segment: 0}
    leave_out: [old, open_data/b]
    groups:
      open_data: {share: 0.1, max_epochs: 3}
      open_data/a: {multiplier: 5, filters: [{drop: recovery}]}
"""
INNER = """
weighting: {alpha: 0}
groups:
  - {name: a, datasets: [{path: a/1.0.0, sizes: {steps: 100}}]}
  - {name: b, datasets: [{path: b/1.0.0, sizes: {steps: 900}}]}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    write_spec(tmp_path, INNER, "inner.yaml")
    return write_spec(tmp_path, BODY)


def shares(spec: MixtureSpec) -> dict[str, float]:
    return {group.name: round(group.probability, 6) for group in plan_published(spec, None).groups}


def predicates(filters: tuple[Filter, ...]) -> list[str]:
    return [f"{'keep' if rule.keep else 'drop'} {rule.predicate}" for rule in filters]


def test_without_a_stage_and_in_one_that_is_not_named_the_spec_holds(spec: Path) -> None:
    plain, pretrain = load_spec(spec), load_spec(spec, stage="pretrain")
    assert shares(plain) == shares(pretrain)
    assert (plain.draws, plain.stage, pretrain.draws, pretrain.stage) == (1000, None, 1000, "pretrain")
    assert shares(plain)["open_data/a/a@unknown"] == 0.3


def test_a_stage_replaces_merges_and_leaves_out(spec: Path) -> None:
    staged = load_spec(spec, stage="posttrain")
    assert (staged.seed, staged.draws) == (3, 50)
    assert (staged.language.segment, staged.language.task) == (0, 0.5)
    assert staged.root.weighting.alpha == 0.5
    assert shares(staged) == {"open_data/a/a@unknown": 0.1, "in_house/c@unknown": 0.9}


def test_a_group_that_is_left_out_takes_none_of_those_after_it_along(spec: Path) -> None:
    spec.write_text(
        spec.read_text().replace("[old, open_data/b]", "[open_data/a]").replace("open_data/a: {mul", "old: {mul")
    )
    assert list(shares(load_spec(spec, stage="posttrain"))) == [
        "open_data/b/b@unknown",
        "in_house/c@unknown",
        "old/d@unknown",
    ]


def test_without_a_rule_half_of_the_texts_are_segments_and_none_a_proposals(spec: Path) -> None:
    assert load_spec(spec.parent / "inner.yaml").language == LanguageRule(segment=0.5, task=0.5, proposals=False)


def test_filters_of_a_stage_come_after_those_of_the_spec(spec: Path) -> None:
    a, c = load_spec(spec, stage="posttrain").root.all_entries()
    assert predicates(a.filters) == ["drop idle", "keep success", "drop recovery"]
    assert predicates(c.filters) == ["drop idle", "keep success"]
    assert a.max_epochs == 3 and c.max_epochs is None


def test_a_stages_rule_wins_over_the_one_of_an_included_file(tmp_path: Path) -> None:
    write_spec(tmp_path, INNER, "inner.yaml")
    body = "groups: [{name: x, include: inner.yaml}]\nstages: {posttrain: {groups: {x: {weighting: {alpha: 1}}}}}\n"
    spec = write_spec(tmp_path, body)
    assert shares(load_spec(spec))["x/b/b@unknown"] == 0.5
    assert shares(load_spec(spec, stage="posttrain"))["x/b/b@unknown"] == 0.9


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("{leave_out: [olt]}", r"olt' that is not there. Did you mean 'old'"),
        ("{groups: {in_hose: {share: 0.1}}}", r"in_hose' that is not there. Did you mean 'in_house'"),
        ("{groups: {in_house: {share: 0.5}}}", r"at most 1 in all, found 0.6 \+ 0.5 = 1.1"),
        ("{leave_out: [open_data/a, open_data/b]}", "leaves out every group here"),
        ("{groups: {in_house: {path: x}}}", "unknown key 'path' in what a stage changes in a group"),
        ("{validation: {fraction: 0.1}}", "unknown key 'validation' in what a stage changes"),
    ],
)
def test_a_stages_mistakes_are_reported_with_their_place(spec: Path, stage: str, message: str) -> None:
    text = spec.read_text()
    spec.write_text(text[: text.index("stages:")] + f"stages: {{posttrain: {stage}}}\n")
    with pytest.raises(SpecError, match=rf"\.yaml:\d+:\d+: .*{message}"):
        load_spec(spec, stage="posttrain")


numbers = st.lists(st.tuples(st.integers(1, 10**8), st.floats(0.1, 10)), min_size=3, max_size=8)


@settings(deadline=None, max_examples=40)
@given(numbers, st.floats(0, 1), st.floats(0.05, 0.9), st.integers(0, 2), st.randoms(use_true_random=False))
def test_shares_of_a_stage_add_up_ignore_the_order_and_grow_with_n(
    tmp_path_factory: pytest.TempPathFactory,
    numbers: list[tuple[int, float]],
    alpha: float,
    share: float,
    which: int,
    random: object,
) -> None:
    folder = tmp_path_factory.mktemp("staged")
    names = [f"g{i}" for i in range(len(numbers))]

    def staged(order: list[str], sizes: dict[str, int]) -> dict[str, float]:
        groups = [f"  - {{name: {n}, datasets: [{{path: {n}/1.0.0, sizes: {{steps: {sizes[n]}}}}}]}}" for n in order]
        changes = [f"      {n}: {{multiplier: {m}}}" for n, (_, m) in zip(names, numbers, strict=True) if n != "g0"]
        lines = ["weighting: {alpha: 1}", "groups:", *groups, "stages:", "  posttrain:"]
        lines += [f"    weighting: {{alpha: {alpha}}}", "    groups:", f"      g0: {{share: {share}}}", *changes]
        plan = plan_published(load_spec(write_spec(folder, "\n".join(lines) + "\n"), stage="posttrain"), None)
        return {group.name.split("/")[0]: group.probability for group in plan.groups}

    sizes = {name: n for name, (n, _) in zip(names, numbers, strict=True)}
    found = staged(names, sizes)
    assert math.fsum(found.values()) == pytest.approx(1, abs=1e-9)
    assert found["g0"] == pytest.approx(share, abs=1e-9)
    shuffled = list(names)
    random.shuffle(shuffled)
    assert staged(shuffled, sizes) == pytest.approx(found, abs=1e-9)
    larger = staged(names, sizes | {names[which]: 3 * sizes[names[which]]})
    assert larger[names[which]] >= found[names[which]] - 1e-9


def test_a_stage_draws_from_what_it_keeps_and_does_not_match_the_others_lock(tmp_path: Path) -> None:
    write_dataset(tmp_path, "a", [make_episode(i, success=i % 2) for i in range(8)])
    write_dataset(tmp_path, "b", [make_episode(i, robot="ur5e") for i in range(8, 12)])
    body = (
        "validation: {fraction: 0.2, min_per_group: 1}\ngroups:\n"
        "  - {name: x, datasets: [{path: a/1.0.0}]}\n  - {name: y, datasets: [{path: b/1.0.0}]}\n"
        "stages: {posttrain: {filters: [{keep: success}], leave_out: [y]}}\n"
    )
    spec = write_spec(tmp_path, body)
    whole, staged = (open_mixture(spec, cache=tmp_path / "cache", stage=stage) for stage in ("pretrain", "posttrain"))
    assert [group.name for group in whole.groups] == ["x/fold@arx", "y/fold@ur5e"]
    assert [(group.name, group.n_steps + group.n_validation_steps) for group in staged.groups] == [("x/fold@arx", 48)]
    with pytest.raises(FailedWork, match="group y/fold@ur5e is gone"):
        staged.check_lock(whole.lock())


def test_the_plan_of_a_stage_says_so(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers())
    arguments = parser.parse_args(["mix", "plan", str(spec), "--published", "--stage", "posttrain"])
    assert arguments.run(arguments) == 0
    assert capsys.readouterr().out.startswith("test, stage posttrain: 2 groups, seed 3\n")
    arguments.explain = "open_data/a/a@unknown"
    assert arguments.run(arguments) == 0
    text = capsys.readouterr().out
    assert text.startswith("open_data/a/a@unknown, stage posttrain\n") and "open_data: 10.0000% of the level" in text
