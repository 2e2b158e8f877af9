"""Checkpoints: parameters, optimizer, moving average and the position in the stream, as one atomic unit.

Everything in a checkpoint is under a checksum: the arrays under sums of their bits, and those sums, the table of the
arrays and the position in the stream under a digest. A flipped digit of the position would otherwise train on other
samples than the run drew, without any error.
"""

import dataclasses
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from pipelines.contract.errors import FailedWork, UsageError
from pipelines.storage.files import write_atomically
from trainers import hosts
from trainers.config import CheckpointConfig
from trainers.step import TrainState

Tree = Any
PARTS = ("trained", "frozen", "optimizer", "ema")
# Beside the folder of checkpoints, so that it outlives a folder that was lost or left behind by a copy.
NEWEST_FILE = "newest_checkpoint.json"


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


def newest_saved(directory: Path) -> int | None:
    """The step of the newest checkpoint that a run noted when it was whole; None for none, or in older runs."""
    path = directory.parent / NEWEST_FILE
    return int(json.loads(path.read_text())["step"]) if path.exists() else None


class Checkpoints:
    """The checkpoints of one run, written in the background.

    `save` returns when the state is copied, so that the next step may change it; the checkpoint is valid once all of it
    is on disk under its final name, and one that a kill interrupted is removed when the run is resumed. An error of the
    background is raised by the next `save`, or by `finish`.

    Without a config nothing is written or removed: evaluation and serving read the run that is training, whose
    unfinished checkpoint looks like one that a kill interrupted.
    """

    def __init__(self, directory: Path, config: CheckpointConfig | None = None) -> None:
        self.directory = directory.resolve()
        options = (
            # Orbax's own read_only does the same and warns about it on every start.
            ocp.CheckpointManagerOptions(create=False, cleanup_tmp_directories=False, enable_async_checkpointing=False)
            if config is None
            else ocp.CheckpointManagerOptions(
                max_to_keep=config.keep,
                keep_period=config.keep_every or None,
                # Writing holds training up for as long as copying the state takes, not for the disk's time.
                enable_async_checkpointing=True,
                cleanup_tmp_directories=True,
            )
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)
        self._started: int | None = None

    @property
    def newest(self) -> int | None:
        """The newest checkpoint's step, complete or being written."""
        return self._started if self._started is not None else self._manager.latest_step()

    def steps(self) -> list[int]:
        """The complete checkpoints' steps, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, progress: Progress) -> None:
        """Begins to write one checkpoint, after the one before is complete; drops those beyond the number to keep.

        FailedWork when the disk is full or cannot be written; the checkpoints before stay as they are.
        """
        self.finish()  # one at a time: a second one would hold another copy of the state in host memory
        parts = {part: getattr(state, part) for part in PARTS}
        sums = {part: bit_sum(tree) for part, tree in parts.items()}
        items = {part: ocp.args.StandardSave(tree) for part, tree in parts.items() if jax.tree.leaves(tree)}
        # Sums are of the state in memory, before orbax writes it, so that a fault of the writer shows as one of the
        # disk does.
        content = dataclasses.asdict(progress) | {"bit_sums": sums, "arrays": form_of(parts)}
        progress_json = content | {"digest": digest_of(content)}
        self._started = progress.step
        with self._failures_named():
            self._manager.save(
                progress.step, args=ocp.args.Composite(progress=ocp.args.JsonSave(progress_json), **items)
            )

    def finish(self) -> None:
        """Returns when no checkpoint is being written. FailedWork if one could not be."""
        with self._failures_named():
            self._manager.wait_until_finished()
            if self._started is not None and hosts.is_first():
                write_atomically(self.directory.parent / NEWEST_FILE, json.dumps({"step": self._started}).encode())

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, Progress]:
        """Reads one checkpoint into the form and the placement of `like`; FailedWork if it is damaged."""
        expected = {part: getattr(like, part) for part in PARTS}
        progress, sums = self._read_progress(step, expected)
        parts = self._read_parts(step, expected, sums)
        return dataclasses.replace(like, step=_placed(progress.step, like), **parts), progress

    def restore_best(self, step: int, like: TrainState) -> TrainState:
        """Reads only the parameters and their moving average; the optimizer's state becomes None."""
        expected = {part: getattr(like, part) for part in PARTS if part != "optimizer"}
        progress, sums = self._read_progress(step, expected)
        parts = self._read_parts(step, expected, sums)
        return dataclasses.replace(like, step=_placed(progress.step, like), optimizer=None, **parts)

    def restore_newest(self, like: TrainState) -> tuple[TrainState, Progress] | None:
        """Reads the newest checkpoint that is whole; moves damaged ones away, with a warning. None if none was saved.

        FailedWork where the run saved some and none is left or can be read.
        """
        reasons = []
        self._check_none_lost()
        for step in reversed(self.steps()):
            restored, reason = None, "another process could not read it"
            try:
                restored = self.restore(step, like)
            except FailedWork as error:
                reason = str(error)
            # All processes must resume from the same step: one that could read what another could not would train on
            # other samples, and the run would hang or diverge at the first collective.
            if hosts.all_agree(restored is not None):
                return restored
            reasons.append(reason)
            print(f"WARNING: {reason}; falling back to the checkpoint before it", file=sys.stderr)
            self._set_aside(step)
        if reasons:  # never start over by itself: days of training would be overwritten by step 1
            raise FailedWork("no checkpoint can be read: " + "; ".join(reasons))
        return None

    def _check_none_lost(self) -> None:
        """Compares the checkpoints that are there with the newest that this run noted when it was whole."""
        saved = newest_saved(self.directory)
        if saved is None:
            return
        steps = self.steps()
        if not steps:  # as above: never start over by itself
            raise FailedWork(
                f"{self.directory}: expected the checkpoint of step {saved}, which this run saved; found none. Restore "
                "the folder, or start a new run in another directory"
            )
        if steps[-1] < saved:
            print(f"WARNING: checkpoint {saved} is gone; resuming from {steps[-1]}", file=sys.stderr)

    def close(self) -> None:
        """Finishes and closes; a failed write goes to stderr, since another error may be being raised."""
        try:
            self.finish()
        except FailedWork as error:
            print(f"WARNING: {error}", file=sys.stderr)
        self._manager.close()

    @contextmanager
    def _failures_named(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # TensorStore reports a full disk as ValueError
            step, self._started = self._started, None
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise FailedWork(
                f"checkpoint {step} was not saved to {self.directory}: {reason[0][:300]}. "
                "Make room and give --resume: the run resumes from the checkpoint before"
            ) from error

    def _read_progress(self, step: int, expected: Mapping[str, Tree]) -> tuple[Progress, dict[str, int]]:
        stored = self._restored(step, {"progress": ocp.args.JsonRestore()})["progress"]
        try:
            digest = stored.pop("digest", None)  # checkpoints of version 0.1.0 have none
            if digest is not None and digest != digest_of(stored):
                raise ValueError("it has changed since it was saved")
            sums, arrays = stored.pop("bit_sums"), stored.pop("arrays", None)
            progress = Progress(**stored)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise FailedWork(f"checkpoint {step} in {self.directory} is damaged: progress: {error}") from error
        # A copied or renamed folder would else restore the weights of one step under the number of another.
        if progress.step != step:
            raise FailedWork(
                f"checkpoint {step} in {self.directory} is damaged: progress is that of step {progress.step}"
            )
        if arrays is not None:  # checkpoints of version 0.1.0 do not say
            self._check_form(step, arrays, expected)
        return progress, sums

    def _check_form(self, step: int, arrays: Mapping[str, Mapping[str, str]], expected: Mapping[str, Tree]) -> None:
        """UsageError if the checkpoint is whole but of another model; it must not be taken for a damaged one."""
        for part, wanted in form_of(expected).items():
            held = arrays[part]
            for name in sorted(wanted.keys() | held.keys()):
                if wanted.get(name) != held.get(name):
                    raise UsageError(
                        f"checkpoint {step} in {self.directory} is of another model than the run's config.yaml: {part} "
                        f"{name}: expected {wanted.get(name, 'nothing')}; found {held.get(name, 'nothing')}"
                    )

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
            # Moved and not deleted: it may be all that is left of days of training, and parts of it may be read by
            # hand.
            shutil.move(self.directory / str(step), aside / str(step))
        hosts.wait_for_all(f"checkpoint {step} is set aside")
        self._manager.reload()


def _placed(step: int, like: TrainState) -> jax.Array:
    return jax.device_put(np.int32(step), like.step.sharding)


def form_of(parts: Mapping[str, Tree]) -> dict[str, dict[str, str]]:
    """Per part, the type and shape of each array by its '/'-joined name, such as 'float32[64, 18]'."""
    return {
        part: {
            jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        for part, tree in parts.items()
    }


def digest_of(content: Mapping[str, Any]) -> str:
    """16 digits of the sha256 of JSON content, whatever the order of its keys."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), default=dict)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def bit_sum(tree: Tree) -> int:
    """The sum of all 32-bit words modulo 2**32, whatever the order or placement of the arrays.

    Any flipped bit changes it; the storage below has no checksum of its own for array data.
    """
    if jax.default_backend() != "cpu":
        # 51.8 GB of pi0's state need not cross to the host for it.
        return int(_device_bit_sum(jax.tree.leaves(tree)))
    total = 0
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            # Each replica would count again, and the sum would change with the number of devices that resume.
            if shard.replica_id == 0:
                data = np.ascontiguousarray(shard.data)
                total += int(data.view(f"uint{8 * data.itemsize}").sum(dtype=np.uint64))
    if jax.process_count() > 1:
        total = int(multihost_utils.process_allgather(np.uint32(total % 2**32)).sum(dtype=np.uint64))
    return total % 2**32


@jax.jit
def _device_bit_sum(leaves: list[jax.Array]) -> jax.Array:
    """`bit_sum` where the arrays are, so that they need not come to the host; uint32 sums wrap by themselves."""
    words = [jax.lax.bitcast_convert_type(leaf, f"uint{8 * leaf.dtype.itemsize}") for leaf in leaves]
    return sum((word.sum(dtype=jnp.uint32) for word in words), jnp.zeros((), jnp.uint32))
