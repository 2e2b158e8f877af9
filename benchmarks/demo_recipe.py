"""What each part of the demo's recipe contributes: one change at a time, after the demo has run in full.

    python -m benchmarks.demo_recipe runs/demo [--only NAME ...] [--episodes 64]

A variant of acting lets the demo's own post-trained policy act in another way; a variant of training post-trains the
demo's own pretrained policy, or trains on the post-training tasks from scratch, in as many samples as the demo does,
with one thing changed. Prints success of each in the same new scenes, and the CPU seconds that its training took. All
of them take some 25 minutes of CPU.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainers.demo.main_job import FLOW_STEPS, FULL, KEPT, Demo
from trainers.demo.outcomes import RolloutOutcome
from trainers.demo.stages import Runner, Stage
from trainers.evaluation.success import stated


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One change to a run of the demo, which is trained again if the change is to its training.

    train: flags that come after its own. spec: in the mixture of post-training, what is replaced and by what. act:
    flags of `trainers.demo.rollout`.
    """

    name: str
    run: Literal["posttrained", "scratch"] = "posttrained"
    train: tuple[str, ...] = ()
    spec: tuple[str, str] | None = None
    act: tuple[str, ...] = ()


STEPS, HELD_OUT = FULL.posttrain_steps, "validation: {fraction: 0.1"


def _scratch(name: str, *settings: str) -> Variant:
    """Training from scratch with other settings."""
    flags = tuple(word for one in settings for word in ("--set", one))
    return Variant(name=f"from scratch, {name}", run="scratch", train=flags)


VARIANTS = (
    Variant(name="post-trained, as the demo does it"),
    Variant(name="post-trained, ten flow steps", act=("--flow-steps", "10")),
    Variant(name="post-trained, 16 of 16 actions carried out", act=("--carried-out-s", "0.8")),
    Variant(name="post-trained, 4 of 16 actions carried out", act=("--carried-out-s", "0.2")),
    Variant(name="post-trained on fluent demonstrations alone", spec=(KEPT, "")),
    Variant(name="post-trained, half of the draws hesitant", spec=("share: 0.2", "share: 0.5")),
    Variant(name="post-trained on half of the demonstrations", spec=(HELD_OUT, HELD_OUT[:-3] + "0.55")),
    Variant(
        name="post-trained on a quarter of the demonstrations",
        spec=(HELD_OUT, HELD_OUT[:-3] + "0.775"),
    ),
    Variant(name="post-trained, half as many steps", train=("--steps", str(STEPS // 2))),
    Variant(name="post-trained, idle steps kept", spec=("{drop: idle}, ", "")),
    Variant(
        name="post-trained, states dropped in half of the samples",
        train=("--set", "augmentation.state_dropout=0.5"),
    ),
    _scratch("as the demo does it"),
    _scratch("16 patches of 14 pixels", "policy.siglip.patch_size=14"),
    _scratch(
        "64 wide, as tiny is",
        "policy.siglip.width=64",
        "policy.siglip.mlp_dim=128",
        *(f"policy.{expert}.{size}" for expert in ("prefix", "expert") for size in ("width=64", "mlp_dim=128")),
    ),
    _scratch("flow times as published", "flow_time_shift=1.0"),
)


def stages_of(demo: Demo, variant: Variant, folder: Path, episodes: int) -> list[Stage]:
    """The training of a variant, where it has one of its own, and its rollouts."""
    slug = variant.name.replace(" ", "_").replace(",", "")
    stages, run = list[Stage](), demo.out / "runs" / variant.run
    if variant.train or variant.spec:
        run = folder / slug
        own = list(demo.train_stages()[variant.run].arguments)
        own[own.index("--run") + 1] = str(run)
        if variant.spec:
            spec = demo.out / f"recipe_{slug}.yaml"  # beside the demo's: it names data by relative paths
            spec.write_text(_replaced((demo.out / "posttrain.yaml").read_text(), *variant.spec))
            own[own.index(str(demo.out / "posttrain.yaml"))] = str(spec)
        stages.append(Stage(name=f"train_{slug}", title=variant.name, arguments=(*own, *variant.train)))
    act = ("trainers.demo.rollout", str(run), str(demo.out / "evaluate.yaml"), str(episodes), str(demo.seed), "ur5e")
    flags = variant.act if "--flow-steps" in variant.act else ("--flow-steps", str(FLOW_STEPS), *variant.act)
    output = folder / f"{slug}.json"
    return [*stages, Stage(name=f"act_{slug}", title=f"{variant.name}: acts", arguments=(*act, *flags), output=output)]


def _replaced(text: str, old: str, new: str) -> str:
    """A change that changes nothing would be reported as one without effect."""
    if text.count(old) != 1:
        raise ValueError(f"expected {old!r} once in the mixture; found it {text.count(old)} times")
    return text.replace(old, new)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the variants that have not run yet and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="the folder of a demo that has run in full")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="variants whose name holds one of these")
    parser.add_argument("--episodes", type=int, default=128, help="new scenes of each task (%(default)s)")
    parsed = parser.parse_args(arguments)
    demo, folder = Demo(out=parsed.demo), parsed.demo / "recipe"
    chosen = [one for one in VARIANTS if not parsed.only or any(part in one.name for part in parsed.only)]
    plans = {one.name: stages_of(demo, one, folder, parsed.episodes) for one in chosen}
    runner = Runner(folder / "stages", n_stages=sum(map(len, plans.values())))
    print("| variant | red cube | blue cube | lifted the other cube | CPU s of training |\n|---|---|---|---|---|")
    for name, stages in plans.items():
        runner.run(stages)
        assert stages[-1].output is not None
        outcomes = [RolloutOutcome.from_json(row) for row in json.loads(stages[-1].output.read_text())]
        success = " | ".join(stated(one.successes, one.episodes) for one in outcomes)
        cpu = f"{runner.seconds[stages[0].name].cpu:.0f}" if len(stages) == 2 else ""
        print(f"| {name} | {success} | {sum(one.lifted_other for one in outcomes)} | {cpu} |", flush=True)


if __name__ == "__main__":
    main()
