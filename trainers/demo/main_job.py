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
    *(f"{name}.yaml" for name in MIXTURES),
    "plan.json",
    "report.html",
    "ablation.md",
)


@dataclass(frozen=True, kw_only=True)
class DemoConversion:
    """One native log and the dataset it becomes. adapter: an entry's name, or its file in the log's folder."""

    format: str
    logs: str
    name: str
    adapter: str | None = None


CONVERSIONS = (
    DemoConversion(format="zarr", logs="in_house", name="in_house"),
    DemoConversion(format="rlds", logs="rlds/bridge_orig/1.0.0", name="widowx_rlds", adapter="bridge_orig"),
    DemoConversion(format="droid", logs="droid", name="franka_droid"),
    DemoConversion(format="bridge", logs="bridge", name="widowx_raw"),
    DemoConversion(format="bag", logs="mobile", name="mobile_bag", adapter=ENTRY_FILE),
)
VERSION = "1.0.0"
LABELER = "steps"
LABELS = f"data/in_house/{VERSION}/segments/{LABELER}.parquet"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much the demo does. plan: the demonstrations, in `trainers.demo.logs`."""

    plan: str
    pretrain_steps: int
    posttrain_steps: int
    batch_size: int
    eval_samples: int
    rollouts: int


FULL = Scale(plan="full", pretrain_steps=2000, posttrain_steps=1600, batch_size=16, eval_samples=128, rollouts=32)
QUICK = Scale(plan="quick", pretrain_steps=60, posttrain_steps=30, batch_size=16, eval_samples=32, rollouts=8)

# Chunks here are smooth and short runs must learn to use the pictures: see `model.flow.sample_time`.
FLOW_TIME_SHIFT = 30.0
# Things here are large, so few tokens per picture do, at half the cost of a step.
PATCH_SIZE = 56
ROLLOUT_ROBOTS = ("ur5e", "ur5e_dual")

ALL_ROBOTS = """\
# {comment}
schema: embodimix.mixture/v1
name: demo_{name}
seed: {seed}
weighting: {{rule: power, alpha: 0.43, group_by: [task, robot], count: steps}}
groups:
  - name: open_data
    datasets:
      - {{path: data/widowx_rlds/1.0.0}}
      - {{path: data/widowx_raw/1.0.0}}
      - {{path: data/franka_droid/1.0.0}}
  - name: in_house
    datasets:
      - {{path: data/in_house/1.0.0}}
      - {{path: data/mobile_bag/1.0.0}}
filters: [{{drop: idle}}, {{drop: failure}}]
language: {language}
validation: {{fraction: 0.1, by: episode, min_per_group: 2}}
action: {{horizon: 50, mode: relative_to_first_state, normalization: quantile}}
"""
ONE_ROBOT = """\
# One robot and its two tasks: two cubes lie on the table, and only the sentence says which one to lift.
schema: embodimix.mixture/v1
name: demo_{name}
seed: {seed}
weighting: {{rule: power, alpha: 0.43, group_by: [task, robot], count: steps}}
groups:
  - name: in_house
    datasets:
      - {{path: data/in_house/1.0.0{segments}}}
filters: [{{keep: {{robot: [ur5e]}}}}, {{drop: idle}}, {{drop: failure}}]
language: {language}
validation: {{fraction: 0.1, by: episode, min_per_group: 2}}
action: {{horizon: 50, mode: relative_to_first_state, normalization: quantile}}
"""


def mixtures(seed: int, ablation: bool = False) -> dict[str, str]:
    """The mixture specs, by name: `evaluate` asks by the task's sentence alone."""
    specs = {
        "pretrain": ALL_ROBOTS.format(
            comment="Every robot, whatever the format it was logged in; each task-robot group weighs n ** 0.43.",
            name="pretrain",
            seed=seed,
            language="{segment: 0.2, task: 0.8}",
        ),
        "posttrain": ONE_ROBOT.format(name="posttrain", seed=seed, segments="", language="{segment: 0, task: 1}"),
        "evaluate": ALL_ROBOTS.format(
            comment="The held-out episodes of every group, with the task's sentence as the prompt.",
            name="evaluate",
            seed=seed,
            language="{segment: 0, task: 1}",
        ),
    }
    if ablation:
        specs["posttrain_segments"] = ONE_ROBOT.format(
            name="posttrain_segments",
            seed=seed,
            segments=f", segments: [{LABELS}]",
            language="{segment: 0.5, task: 0.5}",
        )
    return specs


@dataclass(frozen=True, kw_only=True)
class Demo:
    """One demo in one folder; `run` resumes an interrupted one.

    ablation: also post-train with segment language, and train on the task alone from scratch, for as many steps; all
    are evaluated with the paper's three kinds of prompts.
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
        steps = (
            self._log_stages(),
            self._convert_stages(),
            self._plan_stages(),
            self._label_stages(),
            *self._train_stages(),
            self._eval_stages(),
            self._rollout_stages(),
        )
        runner = Runner(self.out / "stages", n_stages=sum(len(stages) for stages in steps))
        for stages in steps:
            runner.run(stages, width=2)
        runs = tuple(run.name for run in self._runs)
        results = read_results(self.out, runs=runs, quick=self.quick, seconds=runner.seconds)
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
                name=f"logs_{conversion.format}",
                title=f"write {conversion.format} logs",
                arguments=(
                    "trainers.demo.logs",
                    str(self.out / "logs"),
                    conversion.format,
                    self.scale.plan,
                    str(self.seed),
                ),
            )
            for conversion in CONVERSIONS
        ]

    def _convert_stages(self) -> list[Stage]:
        return [
            Stage(
                name=f"convert_{conversion.format}",
                title=f"convert {conversion.format} logs",
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
            str(self.out / "data" / "in_house" / VERSION),
            "--name",
            LABELER,
            "--command",
            shlex.join((sys.executable, "-m", "trainers.demo.labeler")),
        )
        return [Stage(name="label", title="label segments", arguments=command)] * self.ablation

    def _train_stages(self) -> list[list[Stage]]:
        common = (
            "--batch-size",
            str(self.scale.batch_size),
            "--seed",
            str(self.seed),
            "--set",
            f"flow_time_shift={FLOW_TIME_SHIFT}",
            "--resume",
        )
        fresh = ("--model", "tiny", "--set", f"policy.siglip.patch_size={PATCH_SIZE}", "--learning-rate", "3e-3")
        pretrain = (
            "trainers.main",
            "train",
            "pretrain",
            str(self.out / "pretrain.yaml"),
            *fresh,
            "--run",
            str(self.pretrained),
            "--steps",
            str(self.scale.pretrain_steps),
            *common,
        )
        posttrain, segments = (
            (
                "trainers.main",
                "train",
                "posttrain",
                str(self.out / f"{spec}.yaml"),
                "--init",
                str(self.pretrained),
                "--run",
                str(run),
                "--steps",
                str(self.scale.posttrain_steps),
                "--learning-rate",
                "2e-3",
                *common,
            )
            for spec, run in (("posttrain", self.posttrained), ("posttrain_segments", self.segments))
        )
        scratch = (
            "trainers.main",
            "train",
            "pretrain",
            str(self.out / "posttrain.yaml"),
            *fresh,
            "--run",
            str(self.scratch),
            "--steps",
            str(self.scale.posttrain_steps),
            *common,
        )
        stages = [
            [Stage(name="pretrain", title="pretrain on every robot", arguments=pretrain)],
            [Stage(name="posttrain", title="post-train on one task", arguments=posttrain)],
        ]
        if self.ablation:
            stages += [
                [Stage(name="segments", title="post-train with segment language", arguments=segments)],
                [Stage(name="scratch", title="train on the task alone", arguments=scratch)],
            ]
        return stages

    def _eval_stages(self) -> list[Stage]:
        """Every policy on the same held-out episodes of every group."""
        return [
            Stage(
                name=f"eval_{run.name}",
                title=f"evaluate the {run.name} policy",
                arguments=(
                    "trainers.main",
                    "eval",
                    str(run),
                    "--spec",
                    str(self.out / "evaluate.yaml"),
                    "--samples",
                    str(self.scale.eval_samples),
                    "--json",
                ),
                output=self.out / "stages" / f"eval_{run.name}.json",
            )
            for run in self._runs
        ]

    def _rollout_stages(self) -> list[Stage]:
        """Every policy controls the simulator in the same new scenes."""
        labels = ("--labels", str(self.out / LABELS)) if self.ablation else ()
        return [
            Stage(
                name=f"rollout_{run.name}",
                title=f"let the {run.name} policy act",
                arguments=(
                    "trainers.demo.rollout",
                    str(run),
                    str(self.out / "evaluate.yaml"),
                    str(self.scale.rollouts * (1 + self.ablation)),
                    str(self.seed),
                    *ROLLOUT_ROBOTS,
                    *labels,
                ),
                output=self.out / "stages" / f"rollout_{run.name}.json",
            )
            for run in self._runs
        ]

    @property
    def pretrained(self) -> Path:
        return self.out / "runs" / "pretrained"

    @property
    def posttrained(self) -> Path:
        return self.out / "runs" / "posttrained"

    @property
    def segments(self) -> Path:
        return self.out / "runs" / "segments"

    @property
    def scratch(self) -> Path:
        return self.out / "runs" / "scratch"

    @property
    def _runs(self) -> tuple[Path, ...]:
        return (self.pretrained, self.posttrained) + (self.segments, self.scratch) * self.ablation


def demo_code_hash() -> str:
    """Hash of the code and registries that decide the demo's results."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*")):
            if path.suffix in (".py", ".yaml"):
                digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
