"""What a mixture of 1,000 groups and 3 million episodes costs to open, to draw from, and to plan.

    python -m benchmarks.mixture_size [--groups 10 100 1000] [--episodes 3000000] [--json FILE]

The index of simulated datasets is written as compiling writes it, with four steps an episode and one real picture in
every shard. Each size is opened in processes of their own: by a first one, which resolves the spec, and by later ones,
as every start of a training run does. Steps an episode hardly matter: they only make memory-mapped files longer.
`plan` is `mix plan --published` of as many groups, of 900 million steps. Takes some two minutes and 3 GB of disk.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.stream import jpeg, memory_mb
from mixtures.index.compiling import FORMAT, SEGMENT, episode_type, save_column, step_type
from mixtures.index.sealed import seal
from mixtures.index.stated import STATED
from mixtures.index.tables import _state_of_files
from pipelines.contract.slots import CAMERAS
from pipelines.shards.statistics import save_statistics, summarize_episode

STEPS, TASKS, BATCH, HORIZON = 4, 4, 64, 50
FAR = 10**9
PARTS = json.dumps({"arm0": [0, 1, 2, 3, 4, 5], "gripper0": [6]})


def main() -> None:
    """Makes mixtures of all sizes and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, nargs="+", default=[8, 100, 1000])
    parser.add_argument("--episodes", type=int, default=3_000_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", choices=("open", "plan"), help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps((opened if arguments.worker == "open" else planned)(arguments.data)))
        return
    found = {groups: _measure(groups, arguments.episodes) for groups in arguments.groups}
    _print(found)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


def opened(data: Path) -> dict[str, float]:
    """Opens a mixture and draws from it: seconds and MB."""
    from mixtures.mixture import open_mixture
    from mixtures.stream.batches import Stream

    before_mb, begin = memory_mb(), time.perf_counter()
    mixture = open_mixture(data / "mixture.yaml", cache=data / "cache")
    open_s = time.perf_counter() - begin
    with Stream(mixture, batch_size=BATCH) as stream:
        stream.batch_at(0)
        first_s = time.perf_counter() - begin
        begin = time.perf_counter()
        stream.batch_at(FAR)
        resume_s = time.perf_counter() - begin
        begin, count = time.perf_counter(), 0
        for batch in stream.batches(start=FAR + BATCH):
            count += len(batch.step)
            if time.perf_counter() - begin > 3:
                break
        rate = count / (time.perf_counter() - begin)
        batches_mb = stream.picture_bytes / 2**20
        memory = memory_mb() - before_mb - batches_mb
    return {"open_s": open_s, "first_s": first_s, "resume_s": resume_s, "rate": rate, "memory_mb": memory}


def planned(data: Path) -> dict[str, float]:
    """Plans a mixture from its published sizes: seconds and MB."""
    from mixtures.reports.plan import render
    from mixtures.reports.plan_page import plan_page
    from mixtures.reports.published import plan_published
    from mixtures.specs.spec import load_spec

    before_mb, begin = memory_mb(), time.perf_counter()
    plan = plan_published(load_spec(data / "sizes.yaml"), 10**8)
    render(plan)
    plan_page(plan, None)
    return {"plan_s": time.perf_counter() - begin, "plan_mb": memory_mb() - before_mb}


def make_mixture(root: Path, groups: int, episodes: int) -> None:
    """Writes simulated datasets of four groups each with their compiled index, and a mixture over them."""
    rng = np.random.default_rng(0)
    picture, n_datasets = jpeg(rng), -(-groups // TASKS)
    for number in range(n_datasets):
        _write_dataset(root, number, episodes // n_datasets, picture, rng)
    head = "schema: embodimix.mixture/v1\nname: simulated\naction: {horizon: 50}\ndatasets:\n"
    lines = [f"  - {{path: d{number:03d}/1.0.0}}" for number in range(n_datasets)]
    (root / "mixture.yaml").write_text(head + "\n".join(lines) + "\n")
    sizes = rng.integers(1, 100, groups)
    sizes = sizes * (900_000_000 // sizes.sum())
    lines = [f"  - {{path: g{i}/1.0.0, sizes: {{steps: {n}, episodes: {n // 300}}}}}" for i, n in enumerate(sizes)]
    (root / "sizes.yaml").write_text(head + "\n".join(lines) + "\n")


def _write_dataset(root: Path, number: int, n_episodes: int, picture: bytes, rng: np.random.Generator) -> None:
    home = root / f"d{number:03d}" / "1.0.0"
    (home / "index").mkdir(parents=True)
    shard = f"d{number:03d}-train.tfrecord-00000-of-00001"
    (home / shard).write_bytes(picture)
    (home / "index" / "train-00000-of-00001.parquet").write_bytes(b"")
    (home / "dataset_info.json").write_text("{}")
    key, mask = f"r{number}/joint_position/pi18/v1", np.arange(18) < 7
    motion = rng.normal(size=(100, 18)).astype(np.float32)
    save_statistics(home / "statistics.json", {key: summarize_episode(key, motion, motion, mask, mask)})
    folder = root / "cache" / "tables" / _state_of_files(str(home), "train", "pi18/v1")
    folder.mkdir(parents=True)
    n_steps = n_episodes * STEPS
    first = np.arange(n_episodes + 1) * STEPS
    episodes, steps = np.zeros(n_episodes, episode_type(18)), np.zeros(n_steps, step_type(18))
    episodes["first_step"], episodes["end_step"] = first[:-1], first[1:]
    episodes["control_hz"], episodes["camera_mask"] = 20.0, True
    episodes["state_mask"] = episodes["action_mask"] = mask
    steps["image_length"] = len(picture)
    texts = [f"d{number:03d} task {i}" for i in range(TASKS)]
    arrays: dict[str, Any] = {
        "first_step": first,
        "episodes": episodes,
        "steps": steps,
        "action": np.zeros((n_steps, 18), np.float32),
        "success": np.ones(n_episodes, np.int8),
        "is_idle": np.zeros(n_steps, np.bool_),
        "segment": np.full(n_steps, -1, np.int32),
        "n_segmented": np.zeros(n_episodes, np.int32),
        "segments": np.empty(0, SEGMENT),
        "stated": np.empty(0, STATED),
        "motion": rng.integers(0, 2**63, n_episodes).astype(np.uint64),
        "task_code": (np.arange(n_episodes) % TASKS).astype(np.int32),
    }
    for name in ("robot", "control_mode", "norm_key", "parts"):
        arrays[f"{name}_code"] = np.zeros(n_episodes, np.int32)
    for name, values in arrays.items():
        values.tofile(folder / f"{name}.bin")
    names = [f"{word:016x}{word:016x}" for word in arrays["motion"].tolist()]
    save_column(folder / "episode_id.arrow", pa.array(names, pa.large_string()))
    instructions = [[texts[i % TASKS]] for i in range(n_episodes)]
    save_column(folder / "language.arrow", pa.array(instructions, pa.large_list(pa.large_string())))
    for name in ("segment_text", "stated_text"):
        save_column(folder / f"{name}.arrow", pa.array([], pa.large_string()))
    vocabularies = {
        "robot": [f"r{number}"],
        "task": texts,
        "control_mode": ["joint_position"],
        "norm_key": [key],
        "parts": [PARTS],
    }
    content = {
        "format": FORMAT,
        "name": f"d{number:03d}",
        "version": "1.0.0",
        "split": "train",
        "fingerprint": key,
        "cameras": CAMERAS,
        "shards": [shard],
        "shard_sizes": [len(picture)],
        "n_episodes": n_episodes,
        "n_steps": n_steps,
        "vocabularies": vocabularies,
    }
    (folder / "table.json").write_text(json.dumps(content))
    seal(folder)


def _measure(groups: int, episodes: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as scratch:
        make_mixture(Path(scratch), groups, episodes)
        cold = _run("open", scratch)
        warm = [_run("open", scratch) for _ in range(3)]
        best = {key: min(one[key] for one in warm) for key in warm[0]} | {"rate": max(one["rate"] for one in warm)}
        return best | {"resolve_s": cold["open_s"]} | _run("plan", scratch)


def _run(worker: str, data: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.mixture_size", "--worker", worker, "--data", data]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _print(found: dict[int, dict[str, float]]) -> None:
    print(
        "| groups | resolved once s | opened s | first batch s | batch at 10^9 s | samples/s | memory MB | plan s, MB |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for groups, one in found.items():
        cells = [f"{one[key]:.2f}" for key in ("resolve_s", "open_s", "first_s", "resume_s")]
        cells += [f"{one['rate']:.0f}", f"{one['memory_mb']:.0f}", f"{one['plan_s']:.2f}, {one['plan_mb']:.0f}"]
        print(f"| {groups} | " + " | ".join(cells) + " |")
    print("\nMemory is anonymous and shared memory beyond that of the bare process, without the batches' pictures.")


if __name__ == "__main__":
    main()
