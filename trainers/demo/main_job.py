"""The demo: runs the commands from native logs of five robots to a post-trained policy, and checks the results."""

import hashlib
import json
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from pipelines.contract.errors import UsageError
from pipelines.storage.files import write_atomically
from trainers.demo.bags import ENTRY_FILE
from trainers.demo.stages import Runner, Stage

SCHEMA = "embodimix.demo/v1"
PACKAGES = ("pipelines", "mixtures", "model", "trainers", "annotation_tools")
MIXTURES = ("pretrain", "posttrain", "posttrain_segments", "evaluate")
MADE = (
    "logs",
    "data",
    "runs",
    "stages",
    "videos",
    *(f"{name}.yaml" for name in MIXTURES),
    "plan.json",
    "report.html",
    "ablation.md",
)


@dataclass(frozen=True, kw_only=True)
class DemoConversion:
    """One native log and the dataset it becomes."""

    format: str
    logs: str
    name: str
    adapter: str | None = None

    @property
    def folder(self) -> str:
        """The folder of logs that it converts from, or from a part of."""
        return self.logs.split("/")[0]


CONVERSIONS = (
    DemoConversion(format="zarr", logs="in_house", name="in_house"),
    DemoConversion(format="zarr", logs="curated", name="ur5e_curated"),
    DemoConversion(format="rlds", logs="rlds/bridge_orig/1.0.0", name="widowx_rlds", adapter="bridge_orig"),
    DemoConversion(format="droid", logs="droid", name="franka_droid"),
    DemoConversion(format="bridge", logs="bridge", name="widowx_raw"),
    DemoConversion(format="bag", logs="mobile", name="mobile_bag", adapter=ENTRY_FILE),
)
VERSION = "1.0.0"
LABELER = "steps"
LABELS = f"data/ur5e_curated/{VERSION}/segments/{LABELER}.parquet"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much the demo does. plan: the demonstrations, in `trainers.demo.logs`."""

    plan: str
    pretrain_steps: int
    posttrain_steps: int
    batch_size: int
    eval_samples: int
    rollouts: int


FULL = Scale(plan="full", pretrain_steps=2500, posttrain_steps=2500, batch_size=16, eval_samples=128, rollouts=128)
QUICK = Scale(plan="quick", pretrain_steps=60, posttrain_steps=30, batch_size=16, eval_samples=32, rollouts=8)

# As many actions as a robot of 20 Hz carries out before it looks again: a chunk of 50 costs twice as much a step.
HORIZON = 16
# A quarter of the width of the stored pictures: things here are large. One patch for each of them: where a block of one
# colour lies is a linear function of so few pixels, which is learned in a fraction of the steps that attention among 16
# patches takes, and costs two thirds (docs/demo.md).
MODEL = (
    "--set",
    "policy.siglip.image_size=56",
    "--set",
    "policy.siglip.patch_size=56",
    "--set",
    "policy.siglip.width=128",
    "--set",
    "policy.siglip.mlp_dim=256",
    "--set",
    "policy.prefix.width=96",
    "--set",
    "policy.prefix.mlp_dim=192",
    "--set",
    "policy.expert.width=96",
    "--set",
    "policy.expert.mlp_dim=192",
    "--set",
    "policy.max_tokens=16",
)
FRESH_RATE, WARM_RATE = 3e-3, 1.5e-3
# Chunks here are smooth and short runs must learn to use the pictures: see `model.flow.sample_time`.
FLOW_TIME_SHIFT = 10.0
# Near noise few long Euler steps are enough, and nearer to the demonstrations than ten short ones.
FLOW_STEPS = 2
ROLLOUT_ROBOTS = ("ur5e", "ur5e_dual")

ALL_ROBOTS = """\
# {comment}
schema: embodimix.mixture/v1
name: demo_{name}
seed: {seed}
weighting: {{rule: power, alpha: 0.43, group_by: [task, robot], count: steps}}
groups:
  - name: open_data
    share: 0.091
    datasets:
      - {{path: data/widowx_rlds/1.0.0}}
      - {{path: data/widowx_raw/1.0.0}}
      - {{path: data/franka_droid/1.0.0}}
  - name: in_house
    datasets:
      - {{path: data/in_house/1.0.0}}
      - {{path: data/mobile_bag/1.0.0}}
{curated}filters: [{{drop: idle}}, {{drop: failure}}]
language: {language}
validation: {{fraction: 0.1, by: episode, min_per_group: 2}}
action: {{horizon: {horizon}, mode: relative_to_first_state, normalization: quantile}}
"""
CURATED = """\
  - name: curated
    datasets:
      - {path: data/ur5e_curated/1.0.0}
"""
KEPT = """\
  - name: in_house
    share: 0.2
    filters: [{keep: {robot: [ur5e]}}]
    datasets:
      - {path: data/in_house/1.0.0}
"""
ONE_ROBOT = """\
# One robot and its two tasks: two cubes lie on the table, and only the sentence says which one to lift. A fifth of the
# draws stays with that robot's hesitant demonstrations: fluent ones never show how to come back from beside a cube.
schema: embodimix.mixture/v1
name: demo_{name}
seed: {seed}
weighting: {{rule: power, alpha: 0.43, group_by: [task, robot], count: steps}}
groups:
  - name: curated
    datasets:
      - {{path: data/ur5e_curated/1.0.0{segments}}}
{kept}filters: [{{drop: idle}}, {{drop: failure}}]
language: {language}
validation: {{fraction: 0.1, by: episode, min_per_group: 2}}
action: {{horizon: {horizon}, mode: relative_to_first_state, normalization: quantile}}
"""


def mixtures(seed: int, ablation: bool = False) -> dict[str, str]:
    """The mixture specs, by name: `evaluate` asks by the task's sentence alone."""
    common = {"seed": seed, "horizon": HORIZON}
    specs = {
        "pretrain": ALL_ROBOTS.format(
            comment="Every robot, whatever the format it was logged in; each task-robot group weighs n ** 0.43.\n"
            "# Open data has a fixed share of the draws, which is that of the pi0 paper's mixture.",
            name="pretrain",
            curated="",
            language="{segment: 0.2, task: 0.8}",
            **common,
        ),
        "posttrain": ONE_ROBOT.format(
            name="posttrain", segments="", kept=KEPT, language="{segment: 0, task: 1}", **common
        ),
        "evaluate": ALL_ROBOTS.format(
            comment="The held-out episodes of every group, with the task's sentence as the prompt.",
            name="evaluate",
            curated=CURATED,
            language="{segment: 0, task: 1}",
            **common,
        ),
    }
    if ablation:
        specs["posttrain_segments"] = ONE_ROBOT.format(
            name="posttrain_segments",
            kept=KEPT,
            segments=f", segments: [{LABELS}]",
            language="{segment: 0.5, task: 0.5}",
            **common,
        )
    return specs


@dataclass(frozen=True, kw_only=True)
class Demo:
    """One demo in one folder; `run` resumes an interrupted one.

    ablation: also post-train with segment language; all are evaluated with the paper's three kinds of prompts.
    """

    out: Path
    quick: bool = False
    ablation: bool = False
    seed: int = 0

    @property
    def scale(self) -> Scale:
        return QUICK if self.quick else FULL

    def run(self) -> int:
        """Runs every stage that is not done, writes the page, and returns 1 if one of its own checks fails."""
        from trainers.demo.ablation import ablation_markdown, ablation_rows
        from trainers.demo.report import write_report
        from trainers.demo.results import findings, read_results

        self._begin()
        train = self.train_stages()
        late = ("posttrained",) + ("segments",) * self.ablation
        steps = (
            self._log_stages(),
            self._convert_stages(),
            self._plan_stages() + self._label_stages(),
            # Two processes at a time, each on one core: small models gain little from a second one.
            [train["pretrained"], train["scratch"], *self._measure_stages("scratch")],
            [*(train[run] for run in late), *self._measure_stages("pretrained")],
            self._measure_stages(*late),
        )
        runner = Runner(self.out / "stages", n_stages=sum(len(stages) for stages in steps))
        for stages in steps:
            runner.run(stages, width=2)
        results = read_results(self.out, runs=self.runs, quick=self.quick, seconds=runner.seconds)
        faults = findings(results)
        page = write_report(self.out / "report.html", results, faults)
        if self.ablation:
            table = ablation_markdown(ablation_rows(results))
            write_atomically(self.out / "ablation.md", table.encode())
            print(f"\n{table}", end="")
        print(f"\n{results.summary()}\nresults: {page}", flush=True)
        for fault in faults:
            print(f"embodimix demo: check failed: {fault}", flush=True)
        return 1 if faults else 0

    def _begin(self) -> None:
        """Claims the folder: resumes the same demo, starts over another one, refuses a folder of other files."""
        marker = self.out / "demo.json"
        mine = {"schema": SCHEMA, "quick": self.quick, "seed": self.seed, "code": demo_code_hash()}
        if marker.exists():
            if json.loads(marker.read_text()) == mine:
                self._write_specs()
                return
            print(f"{self.out} holds a demo with other options or other code; starting over", flush=True)
            for name in MADE:
                path = self.out / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        elif self.out.exists() and any(self.out.iterdir()):
            raise UsageError(f"--out {self.out}: expected an empty folder or an earlier demo; found other files")
        self.out.mkdir(parents=True, exist_ok=True)
        self._write_specs()
        write_atomically(marker, json.dumps(mine, indent=1).encode())

    def _write_specs(self) -> None:
        for name, text in mixtures(self.seed, self.ablation).items():
            write_atomically(self.out / f"{name}.yaml", text.encode())

    def _log_stages(self) -> list[Stage]:
        return [
            Stage(
                name=f"logs_{conversion.folder}",
                title=f"write {conversion.folder} logs",
                arguments=(
                    "trainers.demo.logs",
                    str(self.out / "logs"),
                    conversion.folder,
                    self.scale.plan,
                    str(self.seed),
                ),
            )
            for conversion in CONVERSIONS
        ]

    def _convert_stages(self) -> list[Stage]:
        return [
            Stage(
                name=f"convert_{conversion.name}",
                title=f"convert {conversion.folder} logs",
                arguments=(
                    "trainers.main",
                    "convert",
                    conversion.format,
                    str(self.out / "logs" / conversion.logs),
                    str(self.out / "data"),
                    "--name",
                    conversion.name,
                    "--version",
                    VERSION,
                    *self._adapter_option(conversion),
                ),
            )
            for conversion in CONVERSIONS
        ]

    def _adapter_option(self, conversion: DemoConversion) -> tuple[str, ...]:
        """The entry by its name, or by its file in the folder of the logs."""
        if conversion.adapter is None:
            return ()
        own = self.out / "logs" / conversion.logs / conversion.adapter
        return "--adapter", str(own) if conversion.adapter.endswith(".yaml") else conversion.adapter

    def _plan_stages(self) -> list[Stage]:
        draws = self.scale.pretrain_steps * self.scale.batch_size
        plan = ("trainers.main", "mix", "plan", str(self.out / "pretrain.yaml"), "--draws", str(draws), "--json")
        return [Stage(name="plan", title="plan the mixture", arguments=plan, output=self.out / "plan.json")]

    def _label_stages(self) -> list[Stage]:
        """Labels the segments that conversion proposed, by a program that knows these tasks."""
        command = (
            "trainers.main",
            "annotate",
            "label",
            str(self.out / "data" / "ur5e_curated" / VERSION),
            "--name",
            LABELER,
            "--command",
            shlex.join((sys.executable, "-m", "trainers.demo.labeler")),
        )
        return [Stage(name="label", title="label segments", arguments=command)] * self.ablation

    def train_stages(self) -> dict[str, Stage]:
        """The training of each run, by its name: two of them start from nothing."""
        common = (
            "--batch-size",
            str(self.scale.batch_size),
            "--seed",
            str(self.seed),
            "--set",
            f"flow_time_shift={FLOW_TIME_SHIFT}",
            "--resume",
        )
        fresh = ("--model", "tiny", *MODEL, "--learning-rate", str(FRESH_RATE))
        warm = ("--init", str(self.out / "runs" / "pretrained"), "--learning-rate", str(WARM_RATE))

        def stage(run: str, title: str, kind: str, spec: str, steps: int, *start: str) -> Stage:
            paths = (str(self.out / f"{spec}.yaml"), "--run", str(self.out / "runs" / run))
            arguments = ("trainers.main", "train", kind, *paths, "--steps", str(steps), *start, *common)
            return Stage(name=run, title=title, arguments=arguments)

        before, after = self.scale.pretrain_steps, self.scale.posttrain_steps
        return {
            "pretrained": stage("pretrained", "pretrain on every robot", "pretrain", "pretrain", before, *fresh),
            "scratch": stage("scratch", "train from scratch", "pretrain", "posttrain", after, *fresh),
            "posttrained": stage("posttrained", "post-train on two tasks", "posttrain", "posttrain", after, *warm),
            "segments": stage(
                "segments", "post-train with segment language", "posttrain", "posttrain_segments", after, *warm
            ),
        }

    def _eval_stage(self, run: str) -> Stage:
        """A policy on the same held-out episodes of every group."""
        arguments = (
            "trainers.main",
            "eval",
            str(self.out / "runs" / run),
            "--spec",
            str(self.out / "evaluate.yaml"),
            "--samples",
            str(self.scale.eval_samples),
            "--flow-steps",
            str(FLOW_STEPS),
            "--json",
        )
        output = self.out / "stages" / f"eval_{run}.json"
        return Stage(name=f"eval_{run}", title=f"evaluate the {run} policy", arguments=arguments, output=output)

    def _rollout_stage(self, run: str) -> Stage:
        """A policy controls the simulator, in the same new scenes as every other."""
        extra: tuple[str, ...] = ("--labels", str(self.out / LABELS)) if self.ablation else ()
        if run == "posttrained":
            extra += ("--blank", "--videos", str(self.out / "videos"))
        arguments = (
            "trainers.demo.rollout",
            str(self.out / "runs" / run),
            str(self.out / "evaluate.yaml"),
            str(self.scale.rollouts),
            str(self.seed),
            *(ROLLOUT_ROBOTS if run == "pretrained" else ROLLOUT_ROBOTS[:1]),
            "--flow-steps",
            str(FLOW_STEPS),
            *extra,
        )
        output = self.out / "stages" / f"rollout_{run}.json"
        return Stage(name=f"rollout_{run}", title=f"let the {run} policy act", arguments=arguments, output=output)

    def _measure_stages(self, *runs: str) -> list[Stage]:
        return [make(run) for run in runs for make in (self._rollout_stage, self._eval_stage)]

    @property
    def runs(self) -> tuple[str, ...]:
        """The names of the runs, in the order of the page."""
        return ("pretrained", "posttrained", "scratch") + ("segments",) * self.ablation


def demo_code_hash() -> str:
    """Hash of the code and registries that decide the demo's results."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*")):
            if path.suffix in (".py", ".yaml"):
                digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
