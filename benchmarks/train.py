"""What the trainer costs beside the bare compiled step: waiting for data, host work, saving, and the whole.

    python -m benchmarks.train MIXTURE.yaml [--model tiny] [--steps 60] [--rounds 3] [--batch-size 16]

In each round the bare step, the trainer on batches that are ready, and the trainer on the stream run one after another,
so that the ratios hold although the machine's speed changes. `host_ms` is a step that computes nothing, with all that
one step waits for; `loop_cpu_ms` is what the loop's own thread computes in it, and `place_cpu_ms` what the thread does
that sends batches to the device ahead; other work on the machine hardly changes these two. The bare step runs
on one batch that lies on the device. On ready batches the trainer does all its work but reading and decoding, which
need cores of their own: where the step itself computes on all cores, as here on a CPU, decoding takes its part of
them. Takes about four minutes on two cores.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

import trainers.train
from mixtures.mixture import open_mixture
from mixtures.stream.audit import AuditReport
from mixtures.stream.batches import Batch, Stream
from trainers.batches import build_batcher
from trainers.checkpoint import Checkpoints, Progress
from trainers.config import RunConfig
from trainers.mesh import build_mesh, place_batch, replicated, split_state, traced_on
from trainers.metrics import read_metrics
from trainers.run import RunDirectory
from trainers.setup import TrainingRequest, start_or_restore
from trainers.step import StepReport, TrainBatch, TrainState, build_train_step

SETTLED = 5  # first steps of a segment, which compile and fill buffers
READY_BATCHES = 4
CHECKPOINT_EVERY = 100  # steps, for the share of time that saving takes; ten times the default's density
TARGETS = {
    "data_wait_share": 0.01,
    "host_ms": 2.0,
    "loop_cpu_ms": 2.0,
    "ready_over_bare": 1.02,
    "stream_over_bare": 1.02,
    "stall_share": 0.05,
}


class ReadyStream:
    """A few batches, read beforehand, again and again under the positions of the stream."""

    def __init__(self, stream: Stream, size: int) -> None:
        self._stream, self._size = stream, size
        self.placing_s = list[float]()  # CPU time of the thread that asks for batches and sends them to the device
        self._ready = [stream.batch_at(number * size) for number in range(READY_BATCHES)]

    def __enter__(self) -> "ReadyStream":
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()

    def batches(self, start: int, stop: int, prefetch: int | None) -> Iterator[Batch]:
        for position in range(start, stop, self._size):
            self.placing_s.append(time.thread_time())
            batch = self._ready[position // self._size % READY_BATCHES]
            yield dataclasses.replace(
                batch, position=np.arange(position, position + self._size), next_position=position + self._size
            )


class ReadyLoop(trainers.train.Loop):
    """The trainer's loop on batches that are ready."""

    opened: ReadyStream
    looping_s: list[float]  # CPU time of the loop's thread at each step

    def _open_stream(self) -> Any:
        ReadyLoop.opened, ReadyLoop.looping_s = ReadyStream(super()._open_stream(), self._config.batch_size), []
        return ReadyLoop.opened

    def _after(self, *drawn: Any) -> Progress:
        ReadyLoop.looping_s.append(time.thread_time())
        return super()._after(*drawn)

    def _note_audit(self, report: AuditReport | None) -> None:
        """Says nothing of batches that come again and again."""


def main() -> None:
    """Prints the measurements beside their targets, or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", type=Path, help="mixture YAML")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--steps", type=int, default=60, help="of each segment")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", str(Path(folder) / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        measured = measure(arguments, Path(folder))
    print(json.dumps(measured, indent=1) if arguments.json else table(measured))


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Runs the rounds and takes medians over all their steps."""
    segment = Segment(arguments, folder)
    segment.trained("ready", 1, ReadyLoop)  # compiles
    config = RunDirectory(folder / "ready").read_config()
    bare_step = BareStep(config, arguments.spec, folder / "bare")
    bare: list[float] = []
    for number in range(arguments.rounds):
        bare += bare_step.seconds(arguments.steps)
        segment.trained("ready", number + 2, ReadyLoop)
        segment.trained("stream", number + 1, trainers.train.Loop)
    ready, stream = (segment.lines(name) for name in ("ready", "stream"))
    with mock.patch.object(trainers.train, "build_train_step", free_step):
        segment.trained("host", 1, ReadyLoop)
    loop_s, place_s = (
        float(np.median(np.diff(times)[SETTLED:])) for times in (ReadyLoop.looping_s, ReadyLoop.opened.placing_s)
    )
    stall_s, complete_s = bare_step.saving()
    step_s = median(stream, "step_s")
    return {
        "bare_ms": 1e3 * float(np.median(bare)),
        "ready_ms": 1e3 * median(ready, "step_s"),
        "stream_ms": 1e3 * step_s,
        "ready_over_bare": median(ready, "step_s") / float(np.median(bare)),
        "stream_over_bare": step_s / float(np.median(bare)),
        "data_wait_share": sum(line["data_wait_s"] for line in stream) / sum(line["step_s"] for line in stream),
        "host_ms": 1e3 * median(segment.lines("host"), "step_s"),
        "loop_cpu_ms": 1e3 * loop_s,
        "place_cpu_ms": 1e3 * place_s,
        "stall_ms": 1e3 * stall_s,
        "complete_ms": 1e3 * complete_s,
        "stall_share": stall_s / (stall_s + CHECKPOINT_EVERY * step_s),
    }


class Segment:
    """Runs of the trainer that continue by the same number of steps each time."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self._arguments, self._folder = arguments, folder

    def trained(self, name: str, number: int, loop: type) -> None:
        """Trains the run `name` up to the end of its segment `number`."""
        arguments, run = self._arguments, RunDirectory(self._folder / name)
        steps = number * (arguments.steps + SETTLED)
        overrides = {"steps": steps}
        if not run.exists():
            total = (arguments.rounds + 2) * (arguments.steps + SETTLED)
            overrides |= {
                "model": arguments.model,
                "batch_size": arguments.batch_size,
                "checkpoints.every": 10**9,
                "optimizer.decay_steps": total,
            }
        request = TrainingRequest(
            stage="pretrain", spec=arguments.spec, run=run.path, overrides=overrides, resume=True, show_progress=False
        )
        with mock.patch.object(trainers.train, "Loop", loop):
            trainers.train.train(request)

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Metrics of all settled steps but a segment's last, which has nothing behind it to overlap with."""
        length = self._arguments.steps + SETTLED
        lines = read_metrics(RunDirectory(self._folder / name).metrics_path)
        return [line for line in lines if SETTLED < (line["step"] - 1) % length + 1 < length]


class BareStep:
    """The compiled step alone, on one batch, with a checkpoint folder of its own."""

    def __init__(self, config: RunConfig, spec: Path, folder: Path) -> None:
        mesh = build_mesh(config.fsdp, batch_size=config.batch_size)
        self._checkpoints = Checkpoints(folder, config.checkpoints)
        self._state, self._progress = start_or_restore(config, mesh, self._checkpoints)
        self._step = jax.jit(
            traced_on(mesh, build_train_step(config)),
            donate_argnums=0,
            out_shardings=(split_state(mesh, self._state), replicated(mesh)),
        )
        with Stream(open_mixture(spec), batch_size=config.batch_size) as stream:
            self._batch = place_batch(mesh, build_batcher(config)(stream.batch_at(0)))
        self._seed = jax.random.key(0)

    def seconds(self, steps: int) -> list[float]:
        """Between the ends of so many steps, after some that settle; each is begun before the one before has ended."""
        ends, before = [], None
        for _ in range(steps + SETTLED + 1):
            self._state, report = self._step(self._state, self._batch, self._seed, 1e-4)
            jax.block_until_ready(before)
            ends.append(time.perf_counter())
            before = report
        return np.diff(ends[SETTLED:]).tolist()

    def saving(self) -> tuple[float, float]:
        """Seconds that a checkpoint keeps the loop, and until it is complete; medians of five."""
        stalls, completes = [], []
        for number in range(1, 6):
            began = time.perf_counter()
            self._checkpoints.save(self._state, dataclasses.replace(self._progress, step=number))
            stalls.append(time.perf_counter() - began)
            self._checkpoints.finish()
            completes.append(time.perf_counter() - began)
        self._checkpoints.close()
        return float(np.median(stalls)), float(np.median(completes))


def free_step(config: RunConfig) -> Callable[..., tuple[TrainState, StepReport]]:
    """Stands in for the step and computes nothing, so that what remains is the host's work."""

    def step(state: TrainState, batch: TrainBatch, seed: jax.Array, rate: jax.Array) -> tuple[TrainState, StepReport]:
        zero = jnp.zeros(())
        report = StepReport(
            loss=zero,
            sample_loss=jnp.zeros(batch.actions.shape[0]),
            grad_norm=zero,
            update_norm=zero,
            param_norm=zero,
            stop_signal=batch.stop_signal.max(),
        )
        return state.replace(step=state.step + 1), report

    return step


def median(lines: list[dict[str, Any]], name: str) -> float:
    """The median of a number over lines of metrics."""
    return float(np.median([line[name] for line in lines]))


def table(measured: dict[str, float]) -> str:
    """The measurements, one a line, with their targets."""
    return "\n".join(
        f"{name:<18} {value:10.4f}" + (f"  at most {TARGETS[name]:g}" if name in TARGETS else "")
        for name, value in measured.items()
    )


if __name__ == "__main__":
    main()
