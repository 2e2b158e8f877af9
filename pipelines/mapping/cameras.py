"""Which native camera fills a slot: the first that is there, or a draw among several, one for each step or episode."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.episode import Image
from pipelines.contract.errors import UsageError, nearest
from pipelines.contract.slots import CAMERAS

DrawEach = Literal["step", "episode"]
Flip = Literal["vertical", "horizontal"]
Channels = Literal["rgb", "bgr"]


@dataclass(frozen=True, kw_only=True)
class CameraForm:
    """How a source stores the pictures of a slot's cameras, so that they come out upright and in RGB.

    flip: the axis along which they are mirrored (vertical: row 0 is at the bottom). rotate: degrees clockwise that set
    them upright, after the flip. channels: rgb, bgr (red and blue exchanged), or None where only `swapped_channels`
    says it. range: the greatest value, 1 or 255, of pictures stored as floating-point numbers; 0 where it is not known.
    crop: top, left, height and width in pixels of what is kept of a picture, before it is turned; empty: all of it.
    """

    flip: Flip | None = None
    rotate: int = 0
    channels: Channels | None = None
    range: int = 0
    crop: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CameraChoice:
    """The native cameras of one slot. each: how often one of them is drawn; None: the first that is there."""

    names: tuple[str, ...]
    each: DrawEach | None = None
    form: CameraForm = CameraForm()


def parse_camera(where: str, spec: Any) -> CameraChoice:
    """Reads what an entry says of one slot: `name`, `[name, other]`, or a mapping with one of these under `from`, or
    with `draw: [name, other]`, and with how pictures are stored. Raises UsageError.

    >>> choice = parse_camera("base_0_rgb", {"draw": ["exterior_1", "exterior_2"], "rotate": 180})
    >>> choice.names, choice.each, choice.form.rotate
    (('exterior_1', 'exterior_2'), 'step', 180)
    """
    if not isinstance(spec, Mapping):
        return CameraChoice(names=tuple(spec) if isinstance(spec, list) else (spec,))
    if ("from" in spec) == ("draw" in spec) or "from" in spec and "each" in spec:
        raise UsageError(f"{where}: expected cameras under `from`, or under `draw` (and `each`), found {dict(spec)}")
    crop = tuple(int(spec["crop"][key]) for key in ("top", "left", "height", "width")) if "crop" in spec else ()
    form = CameraForm(crop=crop, **{key: spec[key] for key in ("flip", "rotate", "channels", "range") if key in spec})
    if form.rotate not in (0, 90, 180, 270) or form.range not in (0, 1, 255):
        raise UsageError(f"{where}: expected rotate 90, 180 or 270 and range 1 or 255, found {dict(spec)}")
    if "from" in spec:
        return replace(parse_camera(where, spec["from"]), form=form)
    names = tuple(spec["draw"])
    if len(set(names)) < 2:
        raise UsageError(f"{where}: draw: expected two cameras or more, found {', '.join(names) or 'none'}")
    return CameraChoice(names=names, each=spec.get("each", "step"), form=form)


def parse_channels(
    text: str, slots: Mapping[str, Sequence[str]], forms: Mapping[str, CameraForm]
) -> dict[str, CameraForm]:
    """Returns the forms with the order of colours that a user states: `bgr`, or `cam_high=bgr,cam_low=rgb`.

    slots: the native cameras of each slot; a camera is named as the source or the slots name it. Raises UsageError for
    another, and for another order than rgb and bgr.
    """
    stated_forms = dict(forms)
    for stated in text.split(","):
        camera, _, channels = stated.strip().rpartition("=")
        order = next((known for known in get_args(Channels) if known == channels), None)
        if order is None:
            raise UsageError(f"--channels: the order {channels!r} is unknown. {nearest(channels, get_args(Channels))}")
        chosen = [slot for slot, names in slots.items() if camera in ("", slot, *names)]
        if not chosen:
            known = [name for slot, names in slots.items() for name in (slot, *names)]
            raise UsageError(f"--channels: camera {camera!r} is none of the entry's. {nearest(camera, known)}")
        stated_forms |= {slot: replace(forms.get(slot, CameraForm()), channels=order) for slot in chosen}
    return stated_forms


def available_cameras(names: Sequence[str], each: DrawEach | None, there: Collection[str]) -> tuple[str, ...]:
    """The cameras that are used of those that an episode has: all that can be drawn, or the first."""
    found = tuple(name for name in names if name in there)
    return found if each else found[:1]


def parse_camera_option(text: str) -> tuple[str, CameraChoice]:
    """Reads `SLOT=NAME`, or `SLOT=NAME|NAME` for a draw at each step, as the command line has it. Raises UsageError.

    >>> slot, choice = parse_camera_option("base_0_rgb=exterior_1|exterior_2")
    >>> slot, choice.names, choice.each
    ('base_0_rgb', ('exterior_1', 'exterior_2'), 'step')
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
