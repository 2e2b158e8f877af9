"""Steps that are left out of an episode before it gets its slots, each with its reason."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.episode import DroppedSteps
from pipelines.contract.frames import Chosen
from pipelines.contract.native import NativeEpisode, Rejected
from pipelines.contract.reject_reasons import RejectReason

# The share of its steps that an episode may lose and still be the demonstration that was recorded.
MAX_LOSS = 0.1


def keep_steps(native: NativeEpisode, kept: NDArray[np.bool_], reason: RejectReason) -> NativeEpisode:
    """Returns the episode with the steps of `kept` (bool [t]) only; the others are recorded in `dropped`.

    `dropped` counts steps as the source does, whatever was left out before. Raises Rejected where none is kept.
    """
    if kept.all():
        return native
    if not kept.any():
        raise Rejected(reason, f"every one of {native.n_steps} steps is to be left out")
    steps = np.flatnonzero(kept)
    text = native.step_text
    return replace(
        native,
        n_steps=len(steps),
        arrays={key: array[steps] for key, array in native.arrays.items()},
        frames={camera: Chosen(frames, steps) for camera, frames in native.frames.items()},
        timestamp_s=_rows(native.timestamp_s, steps),
        reward=_rows(native.reward, steps),
        discount=_rows(native.discount, steps),
        is_idle=_rows(native.is_idle, steps),
        step_text=None if text is None else tuple(text[step] for step in steps),
        dropped=(*native.dropped, *_stretches(native_numbers(native)[~kept], reason)),
    )


def native_numbers(native: NativeEpisode) -> NDArray[np.int64]:
    """int64 [t]: the number that each step has in the source, where dropped steps still count."""
    lost = {step for stretch in native.dropped for step in range(stretch.start, stretch.end)}
    numbers = [step for step in range(native.n_steps + len(lost)) if step not in lost]
    return np.array(numbers[: native.n_steps], np.int64)


def _rows(array: NDArray | None, steps: NDArray[np.int64]) -> NDArray | None:
    return None if array is None else array[steps]


def _stretches(numbers: Sequence[int] | NDArray[np.int64], reason: RejectReason) -> list[DroppedSteps]:
    """Runs of neighbouring numbers, as [start, end) each."""
    runs: list[DroppedSteps] = []
    for number in map(int, numbers):
        if runs and runs[-1].end == number:
            runs[-1] = replace(runs[-1], end=number + 1)
        else:
            runs.append(DroppedSteps(start=number, end=number + 1, reason=reason))
    return runs
