"""What a finished demo shows, read from the files that its stages left."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipelines.contract.slots import CAMERAS
from pipelines.shards.dataset import Dataset
from pipelines.shards.sidecar import jpeg_offsets, read_sidecar
from pipelines.storage.paths import StoragePath
from trainers.demo.claims import Claim, claims
from trainers.demo.logs import PLANS
from trainers.demo.outcomes import PlannedShare, RolloutOutcome
from trainers.demo.stages import Seconds
from trainers.evaluation.records import EvaluationReport, GroupReport
from trainers.metrics import read_metrics

FRAMES_SHOWN = 6


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One episode as the page shows it: JPEGs per camera over its length, and its segments in seconds."""

    dataset: str
    robot: str
    control_mode: str
    control_hz: float
    task: str
    n_steps: int
    frames: dict[str, tuple[bytes, ...]]
    segments: tuple[tuple[float, float, str, str], ...]

    @property
    def duration_s(self) -> float:
        return self.n_steps / self.control_hz


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What one dataset kept and what it turned away. rejects: (source key, reason, detail) of whole episodes."""

    name: str
    episodes: int
    steps: int
    robots: tuple[str, ...]
    rejects: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Video:
    """A rollout to watch. name: of the file in `videos/`. content: MP4."""

    name: str
    caption: str
    content: bytes


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything on the page. seconds: per stage. drawn: each group's part of what pretraining drew.
    task_groups: those that post-training is for. losses: per run, (step, loss) rows. evals: reports by run.
    rollouts: per run, the outcomes of `trainers.demo.rollout`. evaluation_pages: by run, relative to the demo's folder.
    """

    quick: bool
    seconds: Mapping[str, Seconds]
    kept: tuple[Kept, ...]
    shown: tuple[Shown, ...]
    plan: tuple[PlannedShare, ...]
    drawn: Mapping[str, float]
    task_groups: tuple[str, ...]
    losses: Mapping[str, np.ndarray]
    evals: Mapping[str, EvaluationReport]
    rollouts: Mapping[str, Sequence[RolloutOutcome]]
    evaluation_pages: Mapping[str, str]
    videos: tuple[Video, ...]

    def summary(self) -> str:
        """The numbers that matter, as a few lines."""
        head = " ".join(f"{name:>11}" for name in ("repeat", "mean", *self.evals))
        lines = [f"{'held-out error, in units of the normalization (* post-trained for)':<78} {head}"]
        for row in self.errors:
            cells = (row.repeat_state, row.mean_action, *row.policies.values())
            name = f"{'* ' if row.is_task else '  '}{row.group}"
            lines.append(f"{name:<78} " + " ".join(f"{cell:>11.3f}" for cell in cells))
        lines += [f"{'holds' if claim.holds else 'FAILS'}: {claim.text}: {claim.found}" for claim in self.claims]
        if self.quick:
            lines.append("a quick demo trains too briefly to claim anything about success")
        for run, outcomes in self.rollouts.items():
            for condition in dict.fromkeys(outcome.condition for outcome in outcomes):
                of_it = [outcome for outcome in outcomes if outcome.condition == condition]
                counts = ", ".join(f"{one.task} {one.successes}/{one.episodes}" for one in of_it)
                lines.append(f"closed loop, {run}, asked by {condition}: {counts}")
        kept, lost = sum(k.episodes for k in self.kept), sum(len(k.rejects) for k in self.kept)
        lines.append(f"{kept} episodes kept, {lost} rejected by name; {self.cpu_s:.0f} s of CPU in all stages")
        return "\n".join(lines)

    @property
    def tasks(self) -> tuple[str, ...]:
        """What post-training is for, as task@robot: without the mixture's groups around them."""
        return tuple(name.rsplit("/", 1)[-1] for name in self.task_groups)

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all stages."""
        return sum(seconds.cpu for seconds in self.seconds.values())

    @property
    def claims(self) -> list[Claim]:
        """What the demo claims; a quick one claims nothing."""
        return [] if self.quick else claims(self.rollouts, self.tasks)

    @property
    def errors(self) -> list["GroupError"]:
        """Per group of the evaluation, those of the post-trained task first."""
        by_run = {run: {group.name: group for group in report.groups} for run, report in self.evals.items()}
        rows = [
            _group_error({run: groups[name] for run, groups in by_run.items()}, name in self.task_groups)
            for name in by_run["pretrained"]
        ]
        return sorted(rows, key=lambda row: not row.is_task)


@dataclass(frozen=True, kw_only=True)
class GroupError:
    """Mean absolute error on held-out episodes of one group, in units of the normalization and, by unit, physical.

    is_task: whether post-training is for it. policies: by run. physical: unit, then the errors of repeating the
    state, of the training mean, and by run.
    """

    group: str
    is_task: bool
    samples: int
    repeat_state: float
    mean_action: float
    policies: Mapping[str, float]
    physical: tuple[tuple[str, float, float, Mapping[str, float]], ...]


def read_results(out: Path, *, runs: Sequence[str], quick: bool, seconds: Mapping[str, Seconds]) -> Results:
    """Reads what the stages left under `out`; runs: pretrained, posttrained, and perhaps segments and scratch."""
    datasets = [Dataset.open(path) for path in sorted((out / "data").glob("*/*/"))]
    rollouts = {run: tuple(map(RolloutOutcome.from_json, _printed(out, "rollout", run))) for run in runs}
    return Results(
        quick=quick,
        seconds=seconds,
        kept=tuple(_kept(dataset) for dataset in datasets),
        shown=tuple(_shown(datasets)),
        plan=tuple(map(PlannedShare.from_json, json.loads((out / "plan.json").read_text())["groups"])),
        drawn=_drawn(out / "runs" / "pretrained" / "checkpoints"),
        task_groups=_curated_groups(out / "runs" / "posttrained"),
        losses={run: _losses(out / "runs" / run / "metrics.jsonl") for run in runs},
        evals={run: EvaluationReport.from_json(_printed(out, "eval", run)) for run in runs},
        rollouts=rollouts,
        evaluation_pages={run: _evaluation_page(out, run) for run in runs},
        videos=_videos(out / "videos", rollouts["posttrained"]),
    )


def findings(results: Results) -> list[str]:
    """The failed checks, as sentences. A quick demo trains too briefly to require skill."""
    faults = [f"{claim.text}: found {claim.found}" for claim in results.claims if not claim.holds]
    faults += [f"{run}: the loss did not fall" for run, rows in results.losses.items() if not _falls(rows)]
    faults += _miscounted(results)
    if results.quick:
        return faults
    for row in results.errors:
        best = min(row.repeat_state, row.mean_action)
        before, after = (row.policies[run] for run in ("pretrained", "posttrained"))
        for name, error in [("pretrained", before)] + [("post-trained", after)] * row.is_task:
            if error >= best:
                faults.append(
                    f"{row.group}: expected the {name} policy below {best:.3f}, the better baseline; found {error:.3f}"
                )
        if row.is_task and after >= before:
            faults.append(
                f"{row.group}: expected the post-trained policy below {before:.3f}, the pretrained one; "
                f"found {after:.3f}"
            )
    return faults


def _miscounted(results: Results) -> list[str]:
    """Every demonstration must be kept or rejected, and only the flawed ones rejected."""
    plan = PLANS["quick" if results.quick else "full"]
    written = sum(series.episodes + len(series.flaws) for series in plan)
    flawed = sum(len(series.flaws) for series in plan)
    kept, rejected = sum(k.episodes for k in results.kept), sum(len(k.rejects) for k in results.kept)
    faults = []
    if kept + rejected != written:
        found = f"{kept} kept and {rejected} rejected"
        faults.append(f"episodes: expected {written}, as many as were written; found {found}")
    if rejected != flawed:
        faults.append(f"rejects: expected the {flawed} episodes that were broken on purpose; found {rejected}")
    return faults


def _group_error(by_run: Mapping[str, GroupReport], is_task: bool) -> GroupError:
    group = by_run["pretrained"]
    return GroupError(
        group=group.name,
        is_task=is_task,
        samples=group.samples,
        repeat_state=group.normalized_error.repeat_state,
        mean_action=group.normalized_error.mean_action,
        policies={run: report.normalized_error.policy for run, report in by_run.items()},
        physical=tuple(
            (
                unit,
                error.repeat_state,
                error.mean_action,
                {run: report.error[unit].policy for run, report in by_run.items()},
            )
            for unit, error in group.error.items()
        ),
    )


def _kept(dataset: Dataset) -> Kept:
    tables = [read_sidecar(path) for split in dataset.splits for path in dataset.sidecars(split)]
    rows = pq.read_table(dataset.path / "rejects.parquet").to_pylist()
    whole = [row for row in rows if row["level"] == "episode"]
    return Kept(
        name=dataset.name,
        episodes=sum(table.num_rows for table in tables),
        steps=sum(sum(table["n_steps"].to_pylist()) for table in tables),
        robots=tuple(sorted({robot for table in tables for robot in table["robot"].to_pylist()})),
        rejects=tuple((row["source_key"], row["reason"], row["detail"]) for row in whole),
    )


def _shown(datasets: list[Dataset]) -> list[Shown]:
    """The first successful episode of each task of each robot, in each dataset."""
    shown: dict[tuple[str, str, str], Shown] = {}
    for dataset in datasets:
        for files in dataset.splits["train"]:
            for row in read_sidecar(files.sidecar).to_pylist():
                key = (dataset.name, row["robot"], row["task"])
                if key not in shown and row["success"] != 0:
                    shown[key] = _episode(dataset, files.shard, row)
    return [shown[key] for key in sorted(shown)]


def _episode(dataset: Dataset, shard: StoragePath, row: Mapping[str, Any]) -> Shown:
    content, stamps = shard.read_bytes(), row["timestamp_s"]
    picked = np.linspace(0, row["n_steps"] - 1, FRAMES_SHOWN).round().astype(int)
    frames = {}
    for camera, there in zip(CAMERAS, row["camera_mask"], strict=True):
        if there and camera in dataset.cameras:
            lengths = np.array(row[f"{camera}_lengths"], np.int64)
            offsets = jpeg_offsets(row[f"{camera}_base"], lengths)
            frames[camera] = tuple(content[offsets[k] : offsets[k] + lengths[k]] for k in picked)
    end_s = stamps[-1] + 1.0 / row["control_hz"]
    return Shown(
        dataset=dataset.name,
        robot=row["robot"],
        control_mode=row["control_mode"],
        control_hz=row["control_hz"],
        task=row["task"],
        n_steps=row["n_steps"],
        frames=frames,
        segments=tuple(
            (stamps[s["start"]], stamps[s["end"]] if s["end"] < len(stamps) else end_s, s["text"], s["kind"])
            for s in row["segments"]
        ),
    )


def _printed(out: Path, stage: str, run: str) -> Any:
    """The JSON that a stage printed for a run."""
    return json.loads((out / "stages" / f"{stage}_{run}.json").read_text())


def _evaluation_page(out: Path, run: str) -> str:
    pages = sorted((out / "runs" / run / "eval").glob("*.html"), key=lambda path: path.stat().st_mtime)
    return str(pages[-1].relative_to(out))


def _videos(folder: Path, outcomes: Sequence[RolloutOutcome]) -> tuple[Video, ...]:
    return tuple(
        Video(name=name, caption=f"{one.task}, scene {number}", content=(folder / name).read_bytes())
        for one in outcomes
        for number, name in enumerate(one.videos)
    )


def _curated_groups(run: Path) -> tuple[str, ...]:
    """Those of the fluent demonstrations; the rest of what post-training draws keeps what pretraining taught."""
    names = (group["name"] for group in json.loads((run / "mixture.lock.json").read_text())["groups"])
    return tuple(name for name in names if name.startswith("curated/"))


def _drawn(checkpoints: Path) -> dict[str, float]:
    """Each group's part of the samples that a run counted, from its newest checkpoint."""
    newest = max((path for path in checkpoints.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    draws = json.loads((newest / "progress" / "metadata").read_text())["draws"]
    return {group: count / sum(draws.values()) for group, count in draws.items()}


def _losses(path: Path) -> np.ndarray:
    return np.array([(line["step"], line["loss"]) for line in read_metrics(path)])


def _falls(rows: np.ndarray) -> bool:
    """Whether the last third of the losses lies below the first."""
    third = max(1, len(rows) // 3)
    return bool(rows[-third:, 1].mean() < rows[:third, 1].mean())
