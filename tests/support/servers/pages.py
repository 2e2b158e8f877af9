"""Every page that the commands write, from small made-up data."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from annotation_tools.agreement.agree import markings_of, measure_agreement
from annotation_tools.agreement.report import to_html as agreement_page
from annotation_tools.episodes import EpisodeStore
from pipelines.contract.native import Reject
from pipelines.segments.tables import Annotation
from tests.support.demo_results import good_results
from tests.support.evaluations import evaluation_report, group_report
from tests.support.inputs.annotation_episodes import make_dataset
from tests.support.inputs.mixture_data import make_episode, write_dataset, write_spec
from tests.support.inputs.toy_mixture import SLOTS, stream_batch
from trainers.batch_page import ReplayedLosses, write_batch_page
from trainers.demo.report import write_report
from trainers.evaluation.page import write_page as write_evaluation
from trainers.evaluation.records import Errors, SlotErrors
from trainers.main import main
from trainers.serving.page import render as serving_page

BATCH_PARTS = {key: {"arm0": slots} for key, slots in SLOTS.items()}
PAGES: dict[str, Callable[[Path], Path]] = {}


def builds(function: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """Registers what writes one page into a folder; its name is the page's."""
    PAGES[function.__name__] = function
    return function


def specs(folder: Path) -> tuple[Path, Path]:
    if not (folder / "a").exists():
        many = [make_episode(i, task=f"task {i % 7}", success=i % 2) for i in range(14)]
        write_dataset(folder, "a", many)
        write_dataset(folder, "b", [make_episode(i, robot="ur5e", n_steps=20, language=(), task="") for i in (20, 21)])
        write_dataset(folder, "c", [make_episode(i, control_hz=(5.0, 10.0)[i % 2], task="both") for i in range(30, 34)])
    both = "datasets: [{path: a/1.0.0}, {path: b/1.0.0}, {path: c/1.0.0}]\naction: {horizon: 5}\n"
    other = "datasets: [{path: a/1.0.0, multiplier: 3}, {path: c/1.0.0}]\naction: {horizon: 5}\n"
    return write_spec(folder, both, "both.yaml"), write_spec(folder, other, "other.yaml")


@builds
def plan(folder: Path) -> Path:
    path = folder / "plan.html"
    assert main(["mix", "plan", str(specs(folder)[0]), "--draws", "1000", "--html", str(path)]) == 0
    return path


@builds
def preview(folder: Path) -> Path:
    path = folder / "preview.html"
    assert main(["mix", "preview", str(specs(folder)[0]), "--samples", "1", "--out", str(path)]) == 0
    return path


@builds
def diff(folder: Path) -> Path:
    path = folder / "diff.html"
    assert main(["mix", "diff", *map(str, specs(folder)), "--draws", "1000", "--html", str(path)]) == 1
    return path


@builds
def card(folder: Path) -> Path:
    lost = Reject(
        source_uri="logs/a.zarr",
        source_key="a.zarr",
        split="train",
        level="episode",
        start=0,
        end=0,
        reason="non_finite",
        detail="action: found nan",
    )
    dataset = make_dataset(folder / "carded", n_episodes=3, n_shards=1, n_steps=40, rejects=[lost])
    assert main(["card", str(dataset), "-q"]) == 0
    return dataset / "card.html"


@builds
def agreement(folder: Path) -> Path:
    store = EpisodeStore(make_dataset(folder / "agreed", n_episodes=4, n_shards=1))
    path = folder / "agreement.html"
    path.write_text(
        agreement_page(
            measure_agreement(markings_of(store, two_annotators(store), "text")), ["f1: 0.5, expected 0.7"], "Agreement"
        )
    )
    return path


@builds
def first_batch(folder: Path) -> Path:
    batch = stream_batch(folder)
    masked = np.array([[True, True, False], [True, False, True]])
    path = folder / "first_batch.html"
    write_batch_page(
        path,
        replace(batch, camera_mask=masked),
        ("push", "lift"),
        ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"),
        BATCH_PARTS,
    )
    return path


@builds
def replay(folder: Path) -> Path:
    batch = stream_batch(folder)
    path = folder / "replay_step_3.html"
    rows = [(name, "push", "nan" if i else "0.2", "1", "1") for i, name in enumerate(batch.names)]
    header = ("sample", "group", "loss", "largest state", "largest action")
    replayed = ReplayedLosses(step=3, losses=(0.2, float("nan")), header=header, rows=rows)
    write_batch_page(path, batch, ("push", "lift"), ("base_0_rgb",), BATCH_PARTS, replayed)
    return path


@builds
def evaluation(folder: Path) -> Path:
    names = [f"in_house/a task whose name is rather long, number {n}@ur5e" for n in range(6)]
    groups = [
        group_report(name, Errors(policy=0.1 + 0.1 * n, repeat_state=0.35, mean_action=0.5))
        for n, name in enumerate(names)
    ]
    slots = {
        "ur5e/joint_position/pi18/v1": (
            SlotErrors(slot=0, unit="rad", errors=groups[0].normalized_error, normalized=0.2),
        )
    }
    path = folder / "evaluation.html"
    write_evaluation(path, replace(evaluation_report("runs/a", *groups, without_episodes=("empty@ur5e",)), slots=slots))
    return path


@builds
def report(folder: Path) -> Path:
    return write_report(folder / "report.html", good_results(), ["a claim that fails"])


METADATA = {
    "run": "runs/a",
    "step": 9,
    "model": "tiny",
    "flow_steps": 10,
    "horizon": 16,
    "cameras": ["base_0_rgb"],
    "robot": None,
    "robots": {
        "ur5e/joint_position/pi18/v1": {
            "control_hz": 20.0,
            "open_loop_steps": 16,
            "state": ["arm0[0] (rad)", "gripper0 (gripper)"],
            "action": ["arm0[0] (rad)"],
        }
    },
}
SERIES = [
    {
        "start_s": 10.0 * n,
        "answered": n,
        "refused": n % 2,
        "failed": 0,
        "outside": n % 3,
        "median_ms": 20.0 + n if n else None,
        "slowest_ms": 40.0 + n if n else None,
    }
    for n in range(6)
]
REPORT: dict[str, Any] = {
    "states": 9,
    "states_outside": 3,
    "high_level_answers": None,
    "outside": [{"robot": "ur5e/joint_position/pi18/v1", "slot": "arm0[2] (rad)", "states": 3}],
    "series": SERIES,
    "latency_sum_s": {"infer": 0.2, "total": 0.25},
    "asked": 12,
    "answered": 9,
    "refused": 2,
    "failed": 1,
    "dropped": 0,
    "connections": 1,
    "uptime_s": 300.0,
    "last_error": "observation: expected 7 numbers, found 3",
    "unhealthy": "",
    "cut_prompts": 2,
    "latency_ms": {
        "infer_ms": {"p50": 20.0, "p95": 31.0, "p99": 40.0},
        "total_ms": {"p50": 25.0, "p95": 36.0, "p99": 48.0},
    },
}


@builds
def serving(folder: Path) -> Path:
    path = folder / "serving.html"
    # It reloads itself, which would end a test in the middle.
    path.write_text(serving_page(METADATA, REPORT).replace('http-equiv="refresh"', 'name="none"'))
    return path


def two_annotators(store: EpisodeStore) -> list[Any]:
    rows = []
    for name, shift in (("ann", 0), ("bob", 2)):
        for episode_id in store.briefs:
            key, segments = store.key(episode_id), store.episode(episode_id).segments
            for segment in segments:
                end = min(segment.end + shift, key.n_steps)
                start = segment.start + shift if segment.start else 0
                rows.append(
                    Annotation(
                        episode_id=episode_id,
                        episode_hash=key.episode_hash,
                        annotator=name,
                        created="",
                        tool_version="",
                        segment=replace(segment, start=start, end=end, source="human"),
                    )
                )
    return rows
