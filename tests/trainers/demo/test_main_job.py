"""The demo's stages: what each run trains on and starts from."""

from pathlib import Path

import yaml

from trainers.demo.main_job import CONVERSIONS, Demo, mixtures


def arguments_of(run: str) -> tuple[str, ...]:
    return Demo(out=Path("demo")).train_stages()[run].arguments


def after(arguments: tuple[str, ...], flag: str) -> str:
    return arguments[arguments.index(flag) + 1]


def test_post_training_and_training_from_scratch_differ_in_their_start_alone() -> None:
    post, scratch = arguments_of("posttrained"), arguments_of("scratch")
    for flag in ("--steps", "--batch-size", "--seed"):
        assert after(post, flag) == after(scratch, flag)
    assert post[3] == scratch[3] == "demo/posttrain.yaml"
    assert after(post, "--init") == "demo/runs/pretrained" and "--init" not in scratch


def test_pretraining_never_sees_the_curated_demonstrations() -> None:
    specs = {name: yaml.safe_load(text) for name, text in mixtures(0, ablation=True).items()}
    paths = {
        name: {entry["path"].split("/")[1] for group in spec["groups"] for entry in group["datasets"]}
        for name, spec in specs.items()
    }
    others = {conversion.name for conversion in CONVERSIONS} - {"ur5e_curated"}
    assert paths == {
        "pretrain": others,
        "posttrain": {"ur5e_curated", "in_house"},
        "posttrain_segments": {"ur5e_curated", "in_house"},
        "evaluate": others | {"ur5e_curated"},
    }


def test_a_fifth_of_post_training_stays_with_what_the_same_robot_saw_before() -> None:
    _, before = yaml.safe_load(mixtures(0)["posttrain"])["groups"]
    assert before["share"] == 0.2 and before["filters"] == [{"keep": {"robot": ["ur5e"]}}]


def test_only_the_post_trained_policy_is_filmed_and_blindfolded() -> None:
    demo = Demo(out=Path("demo"))
    extra = {run: demo._rollout_stage(run).arguments for run in demo.runs}
    assert [run for run, given in extra.items() if "--blank" in given and "--videos" in given] == ["posttrained"]
    assert {after(given, "demo/evaluate.yaml") for given in extra.values()} == {"128"}
