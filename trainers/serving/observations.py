"""What a robot sends to a policy server, checked: pictures, state and sentence under the names that its client uses."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.errors import UsageError, nearest
from pipelines.contract.images import CorruptImage, decode_image, letterbox
from pipelines.contract.slots import CAMERAS, N_SLOTS
from trainers.robots import Robot

PICTURE_PLACES = ("images/{}", "image/{}", "observation/{}", "observation/images/{}")
STATE_PLACES = ("state", "observation/state")


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One observation. images: uint8 [224, 224, 3] per camera that was sent; state: float32 [18], physical."""

    images: Mapping[str, NDArray[np.uint8]]
    state: NDArray[np.float32]
    prompt: str


@dataclass(frozen=True, kw_only=True)
class KeyNames:
    """Under which keys ('/'-joined) a client sends what. given: a camera or 'state' or 'prompt' -> its keys."""

    given: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        known = (*CAMERAS, "state", "prompt")
        for name in self.given:
            if name not in known:
                raise UsageError(f"--map {name}: expected a camera, state or prompt. {nearest(name, known)}")

    def places(self, name: str) -> list[tuple[str, ...]]:
        """The sets of keys that may hold it; the values of a set are joined."""
        if name in self.given:
            return [self.given[name]]
        if name in CAMERAS:
            return [(place.format(name),) for place in PICTURE_PLACES]
        return [(place,) for place in STATE_PLACES] if name == "state" else [(name,)]


def read_look(
    message: Any,
    robot: Robot,
    *,
    cameras: tuple[str, ...],
    state_mask: NDArray[np.bool_],
    names: KeyNames,
    prompt: str | None = None,
) -> Observation:
    """Returns the observation in a message; `prompt` stands in where it has none.

    Pictures: uint8 [y, x, 3] or [3, y, x] of any size, floats in [0, 1], or JPEG or PNG bytes. UsageError says what
    was expected and what was found; a key that means nothing is an error, since it may be a misspelt one.
    """
    if not isinstance(message, Mapping):
        raise UsageError(f"observation: expected a map of images, state and prompt; found {type(message).__name__}")
    flat = _flattened(message)
    flat.pop("robot", None)
    pictures = {camera: _taken(flat, names.places(camera)) for camera in cameras}
    images = {camera: _picture(camera, values[0]) for camera, values in pictures.items() if values}
    state, said = _taken(flat, names.places("state")), _taken(flat, names.places("prompt"))
    if flat:
        known = [place[0] for name in (*cameras, "state", "prompt") for place in names.places(name)[:1]]
        raise UsageError(
            f"observation: {sorted(flat)[0]!r} means nothing here. {nearest(sorted(flat)[0], known)} "
            "Other names: embodimix serve --map CAMERA=KEY --map state=KEY"
        )
    if not images:
        wanted = ", ".join(names.places(camera)[0][0] for camera in cameras)
        raise UsageError(f"observation: expected at least one picture of {wanted}; found none")
    text = said[0] if said else prompt
    if not isinstance(text, str):
        raise UsageError(f"observation: expected prompt, a sentence; found {type(text).__name__}")
    return Observation(images=images, state=_state(state, robot, state_mask), prompt=text)


def _taken(flat: dict[str, Any], places: list[tuple[str, ...]]) -> list[Any]:
    """Removes and returns the values of the first place that is all there, or nothing."""
    for keys in places:
        if all(key in flat for key in keys):
            return [flat.pop(key) for key in keys]
    return []


def _picture(camera: str, value: Any) -> NDArray[np.uint8]:
    if isinstance(value, bytes):
        try:
            value = decode_image(value)
        except CorruptImage as error:
            raise UsageError(f"{camera}: {error}") from error
    try:
        pixels = np.asarray(value)
    except ValueError:
        raise UsageError(f"{camera}: expected a picture [y, x, 3]; found lists of unequal length") from None
    if pixels.ndim == 3 and pixels.shape[0] == 3 and pixels.shape[2] != 3:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise UsageError(f"{camera}: expected a picture [y, x, 3]; found {pixels.dtype} {list(pixels.shape)}")
    if pixels.dtype.kind == "f":
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise UsageError(f"{camera}: expected floats in [0, 1], or uint8; found other values")
        pixels = np.rint(pixels * 255).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise UsageError(f"{camera}: expected uint8, or floats in [0, 1]; found {pixels.dtype}")
    return letterbox(np.ascontiguousarray(pixels))


def _state(values: list[Any], robot: Robot, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    expected = f"state of {robot.norm_key}: expected {int(mask.sum())} numbers ({', '.join(robot.slot_names(mask))})"
    if not mask.any() and not values:
        return np.zeros(N_SLOTS, np.float32)
    if not values:
        raise UsageError(f"{expected}; found none")
    try:
        vector = np.concatenate([np.atleast_1d(np.asarray(value, np.float64)) for value in values])
    except (TypeError, ValueError):
        raise UsageError(f"{expected}; found {', '.join(type(value).__name__ for value in values)}") from None
    if vector.shape not in ((int(mask.sum()),), (N_SLOTS,)):
        raise UsageError(f"{expected}, or all {N_SLOTS} slots; found shape {list(vector.shape)}")
    if not np.isfinite(vector).all():
        raise UsageError(f"{expected}; found a number that is not finite")
    state = np.zeros(N_SLOTS, np.float32)
    state[mask] = vector[mask] if len(vector) == N_SLOTS else vector
    return state


def _flattened(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= _flattened(value, name + "/") if isinstance(value, Mapping) else {name: value}
    return flat
