"""The training loop: step through the stream, watch, save, and stop cleanly; never lose a step."""

import dataclasses
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray

from mixtures.audit import Audit, AuditReport
from mixtures.mixture import Mixture
from mixtures.stream import Batch, Stream
from pipelines.errors import FailedWork, UsageError
from pipelines.files import write_atomically
from trainers import hosts
from trainers.batch_page import write_batch_page
from trainers.batches import build_batcher, chain_names
from trainers.checkpoint import Checkpoints, Progress
from trainers.config import RunConfig
from trainers.mesh import build_mesh, place_batch, replicated, split_state
from trainers.metrics import MetricsWriter, ProgressBar, group_means
from trainers.optimizer import learning_rate
from trainers.run import RunDirectory
from trainers.setup import Request, record, set_up, start_or_restore
from trainers.step import StepReport, TrainState, build_train_step


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How training ended. batches: running hash of all sample names. stopped_by: a signal's number, or 0."""

    run: Path
    step: int
    loss: float
    batches: str
    stopped_by: int


def train(request: Request) -> Summary:
    """Trains until the steps are done or a signal asks to stop; in both cases the last step is in a checkpoint."""
    run = RunDirectory(request.run)
    with run.claimed() if hosts.is_first() else nullcontext():
        config, mixture = set_up(run, request)
        mesh = build_mesh(config.fsdp, batch_size=config.batch_size, accumulate=config.accumulate)
        hosts.wait_for_all("the run directory is as it was found")
        checkpoints = Checkpoints(run.checkpoints, config.checkpoints)
        try:
            state, progress = start_or_restore(config, mesh, checkpoints)
            if progress.step > config.steps:
                raise UsageError(f"--steps: expected at least {progress.step}, where the run is; found {config.steps}")
            hosts.wait_for_all("every check has passed")
            if hosts.is_first():
                record(run, config, mixture)
            with memory_explained():
                return Loop(run, config, mesh, mixture, checkpoints, request.show_progress).go(state, progress)
        finally:
            checkpoints.close()


class Loop:
    """Steps, metrics and checkpoints of one run.

    The numbers of a step are read while the next one computes, so the device never waits for them; before a
    checkpoint is saved they are read first, so that no checkpoint holds a state whose loss was not finite.
    """

    def __init__(
        self, run: RunDirectory, config: RunConfig, mesh: Mesh, mixture: Mixture, checkpoints: Checkpoints,
        show_progress: bool,
    ) -> None:  # fmt: skip
        self._run, self._config, self._mesh = run, config, mesh
        self._mixture, self._checkpoints = mixture, checkpoints
        self._show_progress = show_progress
        self._group_names = tuple(group.name for group in mixture.groups)

    def go(self, state: TrainState, progress: Progress) -> Summary:
        """Trains from `progress` to the last step; returns early, saved, after a signal."""
        config = self._config
        to_train_batch = build_batcher(config)
        watch = Watch(self._run, config, self._group_names, progress, self._show_progress)
        audit = Audit(self._mixture)
        step = jax.jit(
            build_train_step(config), donate_argnums=0,
            out_shardings=(split_state(self._mesh, state), replicated(self._mesh)),
        )  # fmt: skip
        seed = jax.random.key(config.seed)
        end = progress.position + (config.steps - progress.step) * config.batch_size
        with self._open_stream() as stream, watch, hosts.stop_signals() as stop_signal:
            for batch, wait_s in timed(stream.batches(start=progress.position, stop=end)):
                if progress.step == 0 and hosts.is_first():
                    page = self._run.path / "first_batch.html"
                    write_batch_page(page, batch, self._group_names, config.cameras)
                rate = learning_rate(config.optimizer, progress.step)
                state, report = step(state, place_batch(self._mesh, to_train_batch(batch, stop_signal())), seed, rate)
                names, group = self._drawn(stream, batch, progress.position)
                progress = self._after(progress, batch.next_position, names, group)
                watch.note(Pending(progress=progress, names=names, group=group, report=report, wait_s=wait_s))
                self._note_audit(audit.add(batch, wait_s))
                if progress.step % config.checkpoints.every == 0:
                    watch.flush()
                    self._checkpoints.save(state, progress)
                if watch.stopped_by:
                    break
            watch.flush()
            self._note_audit(audit.report())
            if progress.step != self._checkpoints.newest:
                self._checkpoints.save(state, progress)
            self._checkpoints.finish()
        stopped_by = watch.stopped_by if progress.step < config.steps else 0
        return Summary(
            run=self._run.path, step=progress.step, loss=watch.loss, batches=progress.batches, stopped_by=stopped_by
        )

    def _open_stream(self) -> Stream:
        return Stream(
            self._mixture, batch_size=self._config.batch_size,
            host_index=jax.process_index(), host_count=jax.process_count(),
        )  # fmt: skip

    def _note_audit(self, report: AuditReport | None) -> None:
        """Adds what was drawn, beside what the mixture plans, to RUN/audit.jsonl; speaks up when they disagree."""
        if report is None or not hosts.is_first():
            return
        with open(self._run.path / "audit.jsonl", "a") as file:
            file.write(json.dumps(dataclasses.asdict(report)) + "\n")
        if report.is_alarming:
            print(f"WARNING: {report}", file=sys.stderr)

    def _drawn(self, stream: Stream, batch: Batch, position: int) -> tuple[list[str], NDArray[np.int64]]:
        """Names and groups of all samples of the batch, also of those that other processes read."""
        if jax.process_count() == 1:
            return batch.names, batch.group
        samples = stream.samples(position, self._config.batch_size)
        return stream.names(samples), samples.group

    def _after(self, progress: Progress, position: int, names: list[str], group: NDArray[np.int64]) -> Progress:
        draws = Counter(progress.draws)
        draws.update(self._group_names[index] for index in group)
        chain = chain_names(progress.batches, names)
        return Progress(step=progress.step + 1, position=position, batches=chain, draws=dict(draws))


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A step whose numbers may still be computing; names and group are of all its samples, in their order."""

    progress: Progress
    names: list[str]
    group: NDArray[np.int64]
    report: StepReport
    wait_s: float


class Watch:
    """Writes the numbers of each step one step late, and stops the run when a loss is not finite."""

    def __init__(
        self, run: RunDirectory, config: RunConfig, group_names: tuple[str, ...], progress: Progress, show: bool
    ) -> None:
        self._run, self._config, self._group_names = run, config, group_names
        self._writer = MetricsWriter(run, step=progress.step) if hosts.is_first() else None
        self._bar = ProgressBar(
            start=progress.step, steps=config.steps, batch_size=config.batch_size, show=show and hosts.is_first()
        )
        self._pending: Pending | None = None
        self._since = time.monotonic()
        self.loss = float("nan")
        self.stopped_by = 0

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
        if self._writer is not None:
            self._writer.close()

    def note(self, pending: Pending) -> None:
        """Takes the newest step and writes the one before."""
        self.flush()
        self._pending = pending

    def flush(self) -> None:
        """Waits for the newest step's numbers and writes them. FailedWork if its loss is not finite."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        report = jax.device_get(pending.report)
        now = time.monotonic()
        step_s, self._since = now - self._since, now
        self.loss, self.stopped_by = float(report.loss), int(report.stop_signal)
        if not (np.isfinite(report.loss) and np.isfinite(report.grad_norm)):
            self._stop_not_finite(pending, report)
        self._bar.advance(loss=self.loss, wait_s=pending.wait_s)
        step = pending.progress.step
        due = step % self._config.log_every == 0 or step == self._config.steps
        if due and self._writer is not None:
            self._writer.write(self._line(pending, report, step_s))

    def _line(self, pending: Pending, report: StepReport, step_s: float) -> dict[str, Any]:
        scalars = {
            name: float(getattr(report, name))
            for name in ("loss", "grad_norm", "update_norm", "param_norm")
        }
        return {
            "step": pending.progress.step,
            "position": pending.progress.position,
            **scalars,
            "learning_rate": learning_rate(self._config.optimizer, pending.progress.step - 1),
            "group_loss": group_means(report.sample_loss, pending.group, self._group_names),
            "samples_per_s": self._config.batch_size / max(step_s, 1e-9),
            "step_s": step_s,
            "data_wait_s": pending.wait_s,
            "batch": chain_names("", pending.names),
            "batches": pending.progress.batches,
        }

    def _stop_not_finite(self, pending: Pending, report: StepReport) -> None:
        step = pending.progress.step
        samples = [
            {"name": name, "group": self._group_names[group], "loss": float(loss)}
            for name, group, loss in zip(pending.names, pending.group, report.sample_loss, strict=True)
        ]
        guilty = [sample["name"] for sample in samples if not np.isfinite(sample["loss"])]
        path = self._run.path / f"not_finite_step_{step}.json"
        numbers = {"step": step, "loss": float(report.loss), "grad_norm": float(report.grad_norm), "samples": samples}
        if hosts.is_first():
            write_atomically(path, json.dumps(numbers, indent=1).encode())
        named = ", ".join(guilty[:8] or [sample["name"] for sample in samples[:8]])
        raise FailedWork(
            f"step {step}: expected a finite loss; found loss {float(report.loss)}, gradient norm "
            f"{float(report.grad_norm)}, from samples {named} (all of the batch: {path}). No checkpoint holds it. "
            f"See the pictures and numbers of a sample with `embodimix mix preview`; the same command with --resume "
            f"reaches this batch again, with a lower --learning-rate in another run directory perhaps beyond it"
        )


@contextmanager
def memory_explained() -> Iterator[None]:
    """Turns a device that runs out of memory into FailedWork that says what to change."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise FailedWork(
            "the device is out of memory. Without changing the result: --accumulate 2 or more, --remat full, --fsdp "
            "over more devices; or a smaller --batch-size, --freeze, --dtype bfloat16. `--plan` shows what the state "
            f"takes. ({str(error).splitlines()[0][:200]})"
        ) from error


def timed(batches: Iterator[Batch]) -> Iterator[tuple[Batch, float]]:
    """Adds to each batch the seconds that were spent waiting for it."""
    while True:
        start = time.monotonic()
        batch = next(batches, None)
        if batch is None:
            return
        yield batch, time.monotonic() - start
