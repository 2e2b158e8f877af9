"""Which native camera fills a slot: the first that is there, or a draw among several, one for each step or episode."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.episode import Image
from pipelines.contract.errors import UsageError, nearest
from pipelines.contract.slots import CAMERAS

DrawEach = Literal["step", "episode"]


@dataclass(frozen=True, kw_only=True)
class CameraChoice:
    """The native cameras of one slot. each: how often one of them is drawn; None: the first that is there."""

    names: tuple[str, ...]
    each: DrawEach | None = None


def parse_camera(where: str, spec: Any) -> CameraChoice:
    """Reads what an entry says of one slot: `name`, `[name, other]`, or `{draw: [name, other], each: step}`.

    >>> parse_camera("base_0_rgb", {"draw": ["exterior_1", "exterior_2"]})
    CameraChoice(names=('exterior_1', 'exterior_2'), each='step')
    """
    if isinstance(spec, Mapping):
        names = tuple(spec["draw"])
        if len(set(names)) < 2:
            raise UsageError(f"{where}: draw: expected two cameras or more, found {', '.join(names) or 'none'}")
        return CameraChoice(names=names, each=spec.get("each", "step"))
    return CameraChoice(names=tuple(spec) if isinstance(spec, list) else (spec,))


def available_cameras(names: Sequence[str], each: DrawEach | None, there: Collection[str]) -> tuple[str, ...]:
    """The cameras that are used of those that an episode has: all that can be drawn, or the first."""
    found = tuple(name for name in names if name in there)
    return found if each else found[:1]


def parse_camera_option(text: str) -> tuple[str, CameraChoice]:
    """Reads `SLOT=NAME`, or `SLOT=NAME|NAME` for a draw at each step, as the command line has it. Raises UsageError.

    >>> parse_camera_option("base_0_rgb=exterior_2")
    ('base_0_rgb', CameraChoice(names=('exterior_2',), each=None))
    """
    slot, equals, names = text.partition("=")
    listed = [name for name in names.split("|") if name]
    if not equals or not listed:
        raise UsageError(f"--camera: expected SLOT=NAME, or SLOT=NAME|NAME for a draw, found {text!r}")
    if slot not in CAMERAS:
        raise UsageError(f"--camera: slot {slot!r} is unknown. {nearest(slot, CAMERAS)}")
    return slot, CameraChoice(names=tuple(listed), each="step" if len(listed) > 1 else None)


def draw_cameras(key: str, slot: str, names: Sequence[str], n_steps: int, each: DrawEach) -> NDArray[np.int64]:
    """Returns int64 [n_steps], the number in `names` of the camera that each step shows.

    By a hash of the episode's key, the slot and the step alone: the same in every run, on every machine, and for any
    number of workers.
    """
    n = n_steps if each == "step" else 1
    seed = hashlib.sha256(f"camera\0{slot}\0{key}".encode()).digest()
    n_blocks = -(-n // 4)
    blocks = b"".join(hashlib.sha256(seed + block.to_bytes(8, "little")).digest() for block in range(n_blocks))
    numbers = (np.frombuffer(blocks, "<u8")[:n] % len(names)).astype(np.int64)
    return numbers if each == "step" else np.repeat(numbers, n_steps)


class DrawnFrames(Sequence[Image]):
    """Frames of several cameras, of which step t shows that of camera `numbers[t]`."""

    def __init__(self, cameras: Sequence[Sequence[Image]], numbers: NDArray[np.int64]) -> None:
        self._cameras = cameras
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        step = range(len(self))[index]
        return self._cameras[int(self.numbers[step])][step]
