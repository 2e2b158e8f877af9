"""What is watched of a run: numbers of each step one step late, and a stop when a loss is not finite."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from pipelines.contract.errors import FailedWork
from pipelines.storage.files import write_atomically
from trainers import hosts
from trainers.batches import chain_names
from trainers.checkpoint import Progress
from trainers.config import RunConfig
from trainers.metrics import MetricsWriter, ProgressBar, group_means
from trainers.optimizer import learning_rate
from trainers.planning.work import peak_tflops, train_flops
from trainers.run import RunDirectory
from trainers.step import StepReport


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A step whose numbers may still be computing; names and group are of all its samples, in their order.

    validation: what was measured on held-out episodes after it, if it was time to.
    """

    progress: Progress
    names: list[str]
    group: NDArray[np.integer]
    report: StepReport
    wait_s: float
    validation: Mapping[str, Any] | None = None


class Watch:
    """Writes the numbers of each step one step late, and stops the run when a loss is not finite."""

    def __init__(
        self, run: RunDirectory, config: RunConfig, group_names: tuple[str, ...], progress: Progress, show: bool
    ) -> None:
        self._run, self._config, self._group_names = run, config, group_names
        self._writer = MetricsWriter(run, step=progress.step, config=config) if hosts.is_first() else None
        self._bar = ProgressBar(
            start=progress.step, steps=config.steps, batch_size=config.batch_size, show=show and hosts.is_first()
        )
        self._pending: Pending | None = None
        self._since = time.monotonic()
        self._aside_s: dict[str, float] = {}
        self._peak_tflops = device_peak(config)
        self._step_tflop = 0.0 if self._peak_tflops is None else step_tflop(config)
        self.loss = float("nan")
        self.stopped_by = 0

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
        if self._writer is not None:
            self._writer.close()

    @contextmanager
    def aside(self, what: str) -> Iterator[None]:
        """Counts the time inside as `what` in the next line of metrics, and not as time of a step."""
        began = time.monotonic()
        yield
        self._aside_s[what] = self._aside_s.get(what, 0.0) + time.monotonic() - began

    def note(self, pending: Pending) -> None:
        """Takes the newest step, whose numbers are sent as soon as they are there, and writes the one before."""
        # Starts the copy and does not wait: reading the numbers of a step at once would leave the device idle until
        # the next step is sent.
        jax.copy_to_host_async(pending.report)
        self.flush()
        self._pending = pending

    def flush(self) -> None:
        """Waits for the newest step's numbers and writes them. FailedWork if its loss is not finite."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        report = jax.tree.map(np.asarray, pending.report)
        now = time.monotonic()
        # Without what was done beside the steps, a slow checkpoint would look like a slow step.
        step_s, self._since = now - self._since - sum(self._aside_s.values()), now
        aside_s, self._aside_s = self._aside_s, {}
        self.loss, self.stopped_by = float(report.loss), int(report.stop_signal)
        if not (np.isfinite(report.loss) and np.isfinite(report.grad_norm)):
            self._stop_not_finite(pending, report)
        mfu = None if self._peak_tflops is None else self._step_tflop / max(step_s, 1e-9) / self._peak_tflops
        self._bar.advance(loss=self.loss, wait_s=pending.wait_s, mfu=mfu)
        step = pending.progress.step
        due = step % self._config.log_every == 0 or step == self._config.steps or pending.validation is not None
        if due and self._writer is not None:
            line = self._line(pending, report, step_s) | aside_s
            self._writer.write(line if mfu is None else line | {"mfu": mfu})

    def _line(self, pending: Pending, report: StepReport, step_s: float) -> dict[str, Any]:
        scalars = {name: float(getattr(report, name)) for name in ("loss", "grad_norm", "update_norm", "param_norm")}
        return {
            "step": pending.progress.step,
            "position": pending.progress.position,
            **scalars,
            "learning_rate": learning_rate(self._config.optimizer, pending.progress.step - 1),
            "group_loss": group_means(np.asarray(report.sample_loss), pending.group, self._group_names),
            "samples_per_s": self._config.batch_size / max(step_s, 1e-9),
            "step_s": step_s,
            "data_wait_s": pending.wait_s,
            "data_wait_share": pending.wait_s / max(step_s, 1e-9),
            **({} if pending.validation is None else {"validation": pending.validation}),
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
            f"`embodimix train replay {self._run.path}` computes this batch again and shows each sample's loss, inputs "
            f"and gradients; the same command with --resume reaches it again, a lower --learning-rate in another run "
            f"directory perhaps goes beyond it"
        )


def device_peak(config: RunConfig) -> float | None:
    """The peak of all devices together in TFLOP/s, or None where it is not known."""
    peak = config.peak_tflops or peak_tflops(jax.devices()[0].device_kind)
    return None if peak is None else peak * jax.device_count()


def step_tflop(config: RunConfig) -> float:
    """The work of one step in TFLOP, as MFU counts it."""
    return config.batch_size * train_flops(config.policy, len(config.cameras)) / 1e12
