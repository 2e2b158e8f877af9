"""What a robot sends to a policy server, checked: pictures, state and sentence under the names that its client uses."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.errors import UsageError, nearest
from pipelines.contract.images import CorruptImage, decode_image, describe_picture, letterbox
from pipelines.contract.slots import CAMERAS
from trainers.robots import Robot
from trainers.serving.limits import DEFAULT, cut

PICTURE_KEYS = ("images/{}", "image/{}", "observation/{}", "observation/images/{}")
STATE_KEYS = ("state", "observation/state")
MAX_DEPTH = 8


@dataclass(frozen=True, kw_only=True)
class RobotObservation:
    """One observation. images: uint8 [224, 224, 3] per camera that was sent; state: float32 [d], physical."""

    images: Mapping[str, NDArray[np.uint8]]
    state: NDArray[np.float32]
    prompt: str


@dataclass(frozen=True, kw_only=True)
class ObservationForm:
    """What a policy expects of one robot's observations.

    state_mask: bool [d], the slots that are measured. low, high: float64 [d], the states that the robot can be in
    (`trainers.robots.state_range`).
    """

    robot: Robot
    cameras: tuple[str, ...]
    state_mask: NDArray[np.bool_]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class KeyNames:
    """Under which keys ('/'-joined) a client sends what. given: a camera or 'state' or 'prompt' -> its keys."""

    given: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        known = (*CAMERAS, "state", "prompt")
        for name in self.given:
            if name not in known:
                raise UsageError(f"--map {name}: expected a camera, state or prompt. {nearest(name, known)}")

    def options(self, name: str) -> list[tuple[str, ...]]:
        """The sets of keys that may hold it; the values of a set are joined."""
        if name in self.given:
            return [self.given[name]]
        if name in CAMERAS:
            return [(key.format(name),) for key in PICTURE_KEYS]
        return [(key,) for key in STATE_KEYS] if name == "state" else [(name,)]


def read_observation(
    message: Any, form: ObservationForm, *, names: KeyNames, default_prompt: str | None = None
) -> RobotObservation:
    """Returns the observation in a message; `default_prompt` stands in where it has none.

    Pictures: uint8 [y, x, 3] or [3, y, x] of any size, floats in [0, 1], or JPEG or PNG bytes. UsageError says what
    was expected and what was found; a key that means nothing is an error, since it may be a misspelt one.
    """
    if not isinstance(message, Mapping):
        raise UsageError(f"observation: expected a map of images, state and prompt; found {type(message).__name__}")
    flat = dict(_flattened(message))
    flat.pop("robot", None)
    pictures = {camera: _taken(flat, names.options(camera)) for camera in form.cameras}
    state, prompt = _taken(flat, names.options("state")), _taken(flat, names.options("prompt"))
    _check_keys(flat, form, names)
    images = {camera: _picture(camera, values[0]) for camera, values in pictures.items() if values}
    if not images:
        wanted = ", ".join(names.options(camera)[0][0] for camera in form.cameras)
        raise UsageError(f"observation: expected at least one picture of {wanted}; found none")
    text = _text(prompt[0] if prompt else default_prompt)
    return RobotObservation(images=images, state=_state(state, form), prompt=text)


def _check_keys(left: Mapping[str, Any], form: ObservationForm, names: KeyNames) -> None:
    if left:
        known = [keys[0] for name in (*form.cameras, "state", "prompt") for keys in names.options(name)[:1]]
        raise UsageError(
            f"observation: {min(left)!r} means nothing here. {nearest(min(left), known)} "
            "Other names: embodimix serve --map CAMERA=KEY --map state=KEY"
        )


def _taken(flat: dict[str, Any], options: list[tuple[str, ...]]) -> list[Any]:
    """Removes and returns the values of the first set of keys that are all there, or nothing."""
    for keys in options:
        if all(key in flat for key in keys):
            return [flat.pop(key) for key in keys]
    return []


def _text(prompt: Any) -> str:
    if not isinstance(prompt, str):
        raise UsageError(f"observation: expected prompt, a sentence; found {type(prompt).__name__}")
    if len(prompt) > DEFAULT.prompt_chars:
        raise UsageError(
            f"observation: expected a prompt of at most {DEFAULT.prompt_chars} characters; found {len(prompt)}"
        )
    return prompt


def _picture(camera: str, value: Any) -> NDArray[np.uint8]:
    if isinstance(value, bytes):
        value = _decoded(camera, value)
    try:
        pixels = np.asarray(value)
    except ValueError:
        raise UsageError(f"{camera}: expected a picture [y, x, 3]; found lists of unequal length") from None
    if pixels.ndim == 3 and pixels.shape[0] == 3 and pixels.shape[2] != 3:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise UsageError(f"{camera}: expected a picture [y, x, 3]; found {pixels.dtype} {list(pixels.shape)}")
    _check_size(camera, *pixels.shape[:2])
    if pixels.dtype.kind == "f":
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise UsageError(f"{camera}: expected floats in [0, 1], or uint8; found other values")
        pixels = np.rint(pixels * 255).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise UsageError(f"{camera}: expected uint8, or floats in [0, 1]; found {pixels.dtype}")
    return letterbox(np.ascontiguousarray(pixels))


def _decoded(camera: str, data: bytes) -> NDArray[np.uint8]:
    try:
        described = describe_picture(data)  # from its head, before anything of that size is allocated
        if described is not None:
            _check_size(camera, *described[1])
        return decode_image(data)
    except CorruptImage as error:
        raise UsageError(f"{camera}: {error}") from error


def _check_size(camera: str, height: int, width: int) -> None:
    if height * width > DEFAULT.pixels:
        raise UsageError(f"{camera}: expected at most {DEFAULT.pixels} pixels; found a picture of {height} x {width}")


def _state(values: list[Any], form: ObservationForm) -> NDArray[np.float32]:
    robot, mask = form.robot, form.state_mask
    expected = (
        f"state of {robot.norm_key}: expected {int(mask.sum())} numbers ({', '.join(robot.slot_names(mask, 'state'))})"
    )
    if not mask.any() and not values:
        return np.zeros(len(mask), np.float32)
    if not values:
        raise UsageError(f"{expected}; found none")
    try:
        vector = np.concatenate([np.atleast_1d(np.asarray(value, np.float64)) for value in values])
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{expected}; found {', '.join(type(value).__name__ for value in values)}") from None
    if vector.shape not in ((int(mask.sum()),), mask.shape):
        raise UsageError(f"{expected}, or all {len(mask)} slots; found shape {cut(str(list(vector.shape)), 60)}")
    slots = robot.slots(mask)
    measured = vector[slots] if vector.shape == mask.shape else vector
    if not np.isfinite(measured).all():
        raise UsageError(f"{expected}; found a number that is not finite")
    _check_range(measured, form)
    state = np.zeros(len(mask), np.float32)
    state[slots] = measured
    return state


def _check_range(measured: NDArray[np.float64], form: ObservationForm) -> None:
    """UsageError for a number that the robot cannot be at: the policy would answer it with any motion at all."""
    slots = form.robot.slots(form.state_mask)
    low, high = form.low[slots], form.high[slots]
    outside = np.flatnonzero((measured < low) | (measured > high))
    if len(outside):
        k = outside[0]
        name = form.robot.slot_names(form.state_mask, "state")[k]
        raise UsageError(
            f"state of {form.robot.norm_key}: {name}: expected {low[k]:.4g} to {high[k]:.4g}, the range of its "
            f"training data and a margin; found {measured[k]:.6g}. Is it in another unit?"
        )


def _flattened(tree: Mapping[Any, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    if depth > MAX_DEPTH:
        raise UsageError(f"observation: expected maps at most {MAX_DEPTH} deep; found more")
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if len(name) > DEFAULT.name_chars:
            raise UsageError(
                f"observation: expected keys of at most {DEFAULT.name_chars} characters; found {cut(name, 40)!r}"
            )
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{name}/", depth + 1)
        else:
            yield name, value
