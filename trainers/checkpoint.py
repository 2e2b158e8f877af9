"""Checkpoints: parameters, optimizer, moving average and the position in the stream, as one atomic unit."""

import dataclasses
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from pipelines.errors import FailedWork
from trainers import hosts
from trainers.config import CheckpointConfig
from trainers.step import TrainState

Tree = Any
PARTS = ("trained", "frozen", "optimizer", "ema")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is.

    step: optimizer steps done. position: the stream's next sample. batches: running hash of all sample names so
    far. draws: samples drawn per group name.
    """

    step: int = 0
    position: int = 0
    batches: str = ""
    draws: Mapping[str, int] = field(default_factory=dict)


class Checkpoints:
    """The checkpoints of one run; `save` returns when the checkpoint is complete on disk."""

    def __init__(self, directory: Path, config: CheckpointConfig) -> None:
        self.directory = directory.resolve()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=config.keep,
            keep_period=config.keep_every or None,
            enable_async_checkpointing=False,
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def steps(self) -> list[int]:
        """The complete checkpoints' steps, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, progress: Progress) -> None:
        """Writes one checkpoint and drops those beyond the number to keep.

        FailedWork when the disk is full or cannot be written; the checkpoints before stay as they are.
        """
        parts = {part: getattr(state, part) for part in PARTS}
        sums = {part: bit_sum(tree) for part, tree in parts.items()}
        items = {part: ocp.args.StandardSave(tree) for part, tree in parts.items() if jax.tree.leaves(tree)}
        progress_json = dataclasses.asdict(progress) | {"bit_sums": sums}
        try:
            self._manager.save(
                progress.step, args=ocp.args.Composite(progress=ocp.args.JsonSave(progress_json), **items)
            )
        except (OSError, ValueError) as error:  # TensorStore reports a full disk as ValueError
            raise FailedWork(
                f"checkpoint {progress.step} was not saved to {self.directory}: {error}. "
                "Make room and give --resume: the run goes on from the checkpoint before"
            ) from error

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, Progress]:
        """Reads one checkpoint into the form and the placement of `like`; FailedWork if it is damaged."""
        progress, sums = self._read_progress(step)
        parts = self._read_parts(step, {part: getattr(like, part) for part in PARTS}, sums)
        return like.replace(step=_placed(progress.step, like), **parts), progress

    def restore_best(self, step: int, like: TrainState) -> TrainState:
        """Reads only the parameters and their moving average; the optimizer's state becomes None."""
        progress, sums = self._read_progress(step)
        parts = self._read_parts(step, {part: getattr(like, part) for part in PARTS if part != "optimizer"}, sums)
        return like.replace(step=_placed(progress.step, like), optimizer=None, **parts)

    def restore_newest(self, like: TrainState) -> tuple[TrainState, Progress] | None:
        """Reads the newest checkpoint that is whole; damaged ones are set aside, loudly. None if there is none."""
        reasons = []
        for step in reversed(self.steps()):
            restored, reason = None, "another process could not read it"
            try:
                restored = self.restore(step, like)
            except FailedWork as error:
                reason = str(error)
            if hosts.all_agree(restored is not None):
                return restored
            reasons.append(reason)
            print(f"WARNING: {reason}; falling back to the checkpoint before", file=sys.stderr)
            self._set_aside(step)
        if reasons:
            raise FailedWork("no checkpoint can be read: " + "; ".join(reasons))
        return None

    def close(self) -> None:
        self._manager.close()

    def _read_progress(self, step: int) -> tuple[Progress, dict[str, int]]:
        stored = self._restored(step, {"progress": ocp.args.JsonRestore()})["progress"]
        try:
            sums = stored.pop("bit_sums")
            return Progress(**stored), sums
        except (AttributeError, KeyError, TypeError) as error:
            raise FailedWork(f"checkpoint {step} in {self.directory} is damaged: progress: {error}") from error

    def _read_parts(self, step: int, like: dict[str, Tree], sums: Mapping[str, int]) -> dict[str, Tree]:
        args = {part: ocp.args.StandardRestore(tree) for part, tree in like.items() if jax.tree.leaves(tree)}
        read = self._restored(step, args)
        parts = {part: read[part] if part in args else tree for part, tree in like.items()}
        for part, tree in parts.items():
            if bit_sum(tree) != sums[part]:
                raise FailedWork(
                    f"checkpoint {step} in {self.directory} is damaged: {part} has changed since it was saved"
                )
        return parts

    def _restored(self, step: int, args: dict[str, Any]) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**args))
        except Exception as error:  # orbax and TensorStore raise bare Exception on unreadable arrays
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise FailedWork(f"checkpoint {step} in {self.directory} is damaged: {reason[0][:120]}") from error

    def _set_aside(self, step: int) -> None:
        if hosts.is_first():
            aside = self.directory.with_name("checkpoints-damaged")
            aside.mkdir(exist_ok=True)
            shutil.rmtree(aside / str(step), ignore_errors=True)
            shutil.move(self.directory / str(step), aside / str(step))
        hosts.wait_for_all(f"checkpoint {step} is set aside")
        self._manager.reload()


def _placed(step: int, like: TrainState) -> jax.Array:
    return jax.device_put(np.int32(step), like.step.sharding)


def bit_sum(tree: Tree) -> int:
    """The sum of all 32-bit words modulo 2**32, whatever the order or placement of the arrays.

    Any flipped bit changes it; the storage below has no checksum of its own for array data.
    """
    total = 0
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            if shard.replica_id == 0:
                data = np.ascontiguousarray(shard.data)
                total += int(data.view(f"uint{8 * data.itemsize}").sum(dtype=np.uint64))
    if jax.process_count() > 1:
        total = int(multihost_utils.process_allgather(np.uint32(total % 2**32)).sum(dtype=np.uint64))
    return total % 2**32
