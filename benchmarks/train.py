"""What the trainer costs beside the bare compiled step: time per step, waiting for data, host work, saving.

    python -m benchmarks.train MIXTURE.yaml --model tiny --steps 60 --batch-size 16

The bare step runs on one batch that lies on the device; the trainer reads, decodes, tokenizes, sends, steps, logs and
saves. Numbers hold for a machine that does nothing else.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mixtures.mixture import open_mixture
from mixtures.stream import Stream
from trainers.batches import build_batcher
from trainers.checkpoint import Checkpoints
from trainers.config import RunConfig
from trainers.mesh import build_mesh, place_batch, replicated, split_state
from trainers.metrics import read_metrics
from trainers.run import RunDirectory
from trainers.setup import Request, start_or_restore
from trainers.step import build_train_step
from trainers.train import train

SETTLED = 5  # first steps that compile and fill buffers


def main() -> None:
    """Prints the measurements as a table, or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", type=Path, help="mixture YAML")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    overrides = {"model": arguments.model, "steps": arguments.steps, "batch_size": arguments.batch_size}
    overrides["checkpoints.every"] = arguments.steps
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(Path(folder) / "run")
        request = Request(stage="pretrain", spec=arguments.spec, run=run.path, overrides=overrides, show_progress=False)
        train(request)
        lines = read_metrics(run.metrics_path)[SETTLED:-1]
        config = run.read_config()
        measured = {"trainer_step_s": median(lines, "step_s"), "data_wait_s": median(lines, "data_wait_s")}
        measured |= bare_step(config, arguments.spec, Path(folder) / "bare")
    measured["trainer_over_bare"] = measured["trainer_step_s"] / measured["bare_step_s"]
    measured["data_wait_share"] = measured["data_wait_s"] / measured["trainer_step_s"]
    print(json.dumps(measured, indent=1) if arguments.json else table(measured))


def bare_step(config: RunConfig, spec: Path, folder: Path) -> dict[str, float]:
    """Seconds of the compiled step alone, of making and sending a batch, and of saving a checkpoint."""
    mesh = build_mesh(config.fsdp, batch_size=config.batch_size)
    checkpoints = Checkpoints(folder, config.checkpoints)
    state, progress = start_or_restore(config, mesh, checkpoints)
    step = jax.jit(
        build_train_step(config), donate_argnums=0, out_shardings=(split_state(mesh, state), replicated(mesh))
    )
    to_train_batch = build_batcher(config)
    with Stream(open_mixture(spec), batch_size=config.batch_size) as stream:
        batch = stream.batch_at(0)
    placed = place_batch(mesh, to_train_batch(batch))
    seed, seconds, sending = jax.random.key(0), [], []
    for _ in range(config.steps):
        began = time.perf_counter()
        state, report = step(state, placed, seed, 1e-4)
        jax.block_until_ready((state, report))
        seconds.append(time.perf_counter() - began)
    for _ in range(20):
        began = time.perf_counter()
        jax.block_until_ready(place_batch(mesh, to_train_batch(batch)))
        sending.append(time.perf_counter() - began)
    began = time.perf_counter()
    checkpoints.save(state, progress)
    saving = time.perf_counter() - began
    checkpoints.close()
    return {
        "bare_step_s": float(np.median(seconds[SETTLED:])), "host_batch_s": float(np.median(sending)),
        "checkpoint_s": saving,
    }  # fmt: skip


def median(lines: list[dict[str, Any]], name: str) -> float:
    """The median of a number over lines of metrics."""
    return float(np.median([line[name] for line in lines]))


def table(measured: dict[str, float]) -> str:
    """The measurements, one a line."""
    return "\n".join(f"{name:<20} {value:10.5f}" for name, value in measured.items())


if __name__ == "__main__":
    main()
