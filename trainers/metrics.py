"""Metrics of a run while it trains: JSON lines, TensorBoard curves, and the progress bar."""

import dataclasses
import json
import secrets
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.contract.errors import UsageError
from pipelines.contract.progress import progress_bar
from pipelines.contract.words import counted
from pipelines.storage.files import write_atomically
from trainers.config import RunConfig
from trainers.run import RunDirectory


class MetricsWriter:
    """Appends to metrics.jsonl and tensorboard/, and to Weights & Biases if a project is named.

    Lines after `step`, of steps that a kill undid, are removed first.
    """

    def __init__(self, run: RunDirectory, *, step: int, config: RunConfig) -> None:
        from tensorboardX import SummaryWriter
        from tensorboardX.proto.summary_pb2 import Summary

        self._wandb = None if config.wandb is None else open_wandb(run, config)
        # A kill between a checkpoint and the next leaves lines of steps that will be done again; kept, they would stand
        # twice, with numbers that belong to no checkpoint.
        keep_until(run.metrics_path, step)
        self._file = open(run.metrics_path, "a", buffering=1)
        self._summary = Summary
        self._board = SummaryWriter(str(run.tensorboard), purge_step=step + 1 if step else None)

    def write(self, line: Mapping[str, Any]) -> None:
        """Writes one step's numbers; `step` is one of them. Nested numbers become curves `outer/inner`."""
        self._file.write(json.dumps(line) + "\n")
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in curves(line).items()]
        self._board.file_writer.add_summary(self._summary(value=values), line["step"])  # one event a line, not a number
        if self._wandb is not None:
            self._wandb.log(curves(line), step=line["step"])

    def close(self) -> None:
        self._file.close()
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def last_logged_step(path: Path) -> int:
    """The newest step of a metrics.jsonl; 0 where there is none. A line that a kill cut off does not count."""
    lines = path.read_text().splitlines() if path.exists() else []
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError):
            continue
    return 0


def import_wandb(config: RunConfig) -> Any:
    """The package of Weights & Biases. UsageError where it is not installed."""
    try:
        import wandb
    except ImportError as error:
        raise UsageError(
            f"--wandb {config.wandb}: Weights & Biases is not installed; pip install wandb, or leave --wandb out. "
            f"({error})"
        ) from None
    return wandb


def open_wandb(run: RunDirectory, config: RunConfig) -> Any:
    """Opens this run at Weights & Biases, the same one after a resume."""
    wandb = import_wandb(config)
    path = run.path / "wandb_id"
    if not path.exists():
        write_atomically(path, secrets.token_hex(8).encode())
    return wandb.init(
        project=config.wandb,
        name=run.path.name,
        id=path.read_text(),
        resume="allow",
        dir=str(run.path),
        config=dataclasses.asdict(config),
    )


class ProgressBar:
    """A bar with loss, samples/s, the share of time spent waiting for data, and MFU; silent when `show` is False."""

    def __init__(self, *, start: int, steps: int, batch_size: int, show: bool) -> None:
        self._bar = progress_bar(steps, "step", "train", shown=show, initial=start)
        self._batch_size = batch_size
        self._since = time.monotonic()
        self._wait_s = 0.0
        self._steps = 0

    def advance(self, *, loss: float, wait_s: float, mfu: float | None) -> None:
        self._steps += 1
        self._wait_s += wait_s
        elapsed = max(time.monotonic() - self._since, 1e-9)
        self._bar.set_postfix_str(
            f"loss {loss:.4f}, {self._steps * self._batch_size / elapsed:.1f} samples/s, "
            f"data wait {self._wait_s / elapsed:.1%}" + ("" if mfu is None else f", MFU {mfu:.1%}"),
            refresh=False,
        )
        self._bar.update(1)

    def close(self) -> None:
        self._bar.close()


def group_means(values: np.ndarray, group: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    """The mean value per group present in the batch.

    >>> group_means(np.array([1.0, 3.0, 5.0]), np.array([0, 0, 2]), ("a", "b", "c"))
    {'a': 2.0, 'c': 5.0}
    """
    return {names[index]: float(values[group == index].mean()) for index in np.unique(group)}


def curves(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line as flat curve names."""
    flat: dict[str, float] = {}
    for name, value in line.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}/{inner}": number for inner, number in curves(value).items()}
        elif isinstance(value, int | float) and name not in ("step", "position"):
            flat[name] = float(value)
    return flat


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads every whole line; those that a kill cut short or a disk damaged are left out, and counted on stderr."""
    lines, lost = [], 0
    for text in path.read_bytes().splitlines() if path.exists() else []:
        line = _parsed(text)
        if line is None:
            lost += 1
        else:
            lines.append(line)
    if lost:
        print(f"WARNING: {path}: {counted(lost, 'line')} without metrics left out", file=sys.stderr)
    return lines


def _parsed(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and isinstance(line.get("step"), int) else None


def keep_until(path: Path, step: int) -> None:
    """Removes the lines of later steps, which a resumed run writes again."""
    if not path.exists():
        return
    kept = [line for line in read_metrics(path) if line["step"] <= step]
    write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
