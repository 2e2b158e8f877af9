"""Cameras that are black, frozen or slower than the log, and one camera that fills two slots."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from pipelines.contract.images import CorruptImage, decode_image
from pipelines.contract.words import counted
from pipelines.quality.findings import Finding, Severity, finding
from pipelines.shards.stored_episodes import StoredEpisode

FROZEN_S = 2.0
_BLACK_MEAN, _BLACK_STD = 8.0, 4.0
_SAMPLES = 3
# How many steps a picture must last on average to be called slow: 30 Hz in a log of 50 Hz give 1.67.
SLOW_STEPS = 1.4
# A picture that is older than this when the robot moves shows another state than the one beside it.
STALE_S = 0.1
_FEWEST_MOVING, _FEWEST_PICTURES = 10, 4
_PAUSE_S, _UNEVEN_STEPS = 0.3, 0.75
_COMPARED_BYTES, _COMPARED_PIXELS = 240, 25


@dataclass(frozen=True, kw_only=True)
class View:
    """What one camera showed in one episode.

    is_black: in all sampled frames. frozen: first step and number of steps of the longest stretch of equal pictures
    while the robot moved; (0, 0) for none. held: steps that a picture lasts on average while the robot moves, 1 where
    each step has its own; NaN where too little moves. twins: cameras that show the same picture at every sampled step.
    """

    where: str
    camera: str
    control_hz: float
    is_black: bool
    frozen: tuple[int, int]
    held: float
    twins: tuple[str, ...]


def measure_views(episode: StoredEpisode) -> list[View]:
    """Returns what every camera of the episode shows; decodes three frames of each, and some 25 more at a fraction of
    their size. Raises CorruptImage."""
    steps = sorted(set(np.linspace(0, episode.n_steps - 1, _SAMPLES).round().astype(int).tolist()))
    samples = {camera: episode.read_pictures(camera, steps) for camera in episode.pictures}
    black = {camera: all(map(_is_black, jpegs)) for camera, jpegs in samples.items()}
    twins: dict[str, list[str]] = {camera: [] for camera in samples}
    for one, other in itertools.combinations(samples, 2):
        if samples[one] == samples[other] and not black[one]:
            twins[one].append(other)
    moving = _moving_steps(episode)
    return [
        View(
            where=episode.where,
            camera=camera,
            control_hz=episode.control_hz,
            is_black=black[camera],
            frozen=(0, 0) if black[camera] else _frozen(episode, camera),
            held=float("nan") if black[camera] else _held(episode, camera, moving),
            twins=tuple(twins[camera]),
        )
        for camera in samples
    ]


def conclude_views(scope: str, found: Sequence[Sequence[View]]) -> list[Finding]:
    """Every camera that an episode claims to have shows something, and it moves when the robot does."""
    views = [view for views in found for view in views]
    findings = []
    for camera in sorted({view.camera for view in views}):
        mine = [view for view in views if view.camera == camera]
        findings += _black(camera, mine) + _still(camera, mine) + _slow(camera, mine) + _twins(camera, mine)
    return findings


def _black(camera: str, views: Sequence[View]) -> list[Finding]:
    black = [view.where for view in views if view.is_black]
    if not black:
        return []
    evidence = f"black in {len(black)} of {counted(views, 'episode that claims', 'episodes that claim')} to have it"
    advice = "Leave the camera out of the adapter, or mask it in these episodes."
    return [finding("black_camera", "error", camera, evidence, advice, black)]


def _still(camera: str, views: Sequence[View]) -> list[Finding]:
    frozen = [view for view in views if view.frozen[1]]
    if not frozen:
        return []
    longest = max(view.frozen[1] for view in frozen)
    evidence = (
        f"one picture for up to {counted(longest, 'step')} while the robot moves, in {len(frozen)} of "
        f"{counted(views, 'episode')}"
    )
    advice = "Look at the logger's camera; drop these episodes or mask the camera in them."
    where = [f"{v.where} steps {v.frozen[0]} to {sum(v.frozen)}" for v in frozen]
    return [finding("frozen_camera", "error", camera, evidence, advice, where)]


def _slow(camera: str, views: Sequence[View]) -> list[Finding]:
    judged = [view for view in views if not np.isnan(view.held)]
    slow = [view for view in judged if view.held >= SLOW_STEPS]
    if not slow or len(slow) < len(judged) / 10:
        return []
    held, hz = float(np.median([view.held for view in slow])), slow[0].control_hz or 0.0
    rates = f": {hz / held:.3g} Hz in a log of {hz:g} Hz" if hz else ""
    evidence = (
        f"a picture lasts {held:.2g} steps on average while the robot moves{rates}, in {len(slow)} of {len(judged)} "
        "episodes"
    )
    advice = (
        "The camera, or the logger's copy of its picture, is slower than the log: convert at the camera's rate, or "
        "accept that most steps show a picture of an earlier one."
    )
    severity: Severity = "error" if hz and (held - 1) / hz > STALE_S else "warning"
    return [finding("slow_camera", severity, camera, evidence, advice, [view.where for view in slow])]


def _twins(camera: str, views: Sequence[View]) -> list[Finding]:
    same = [view for view in views if view.twins]
    if not same:
        return []
    evidence = f"shows the same pictures as {same[0].twins[0]} in {len(same)} of {counted(views, 'episode')}"
    advice = "Map each slot to a camera of its own in the adapter."
    return [finding("same_camera_twice", "error", camera, evidence, advice, [view.where for view in same])]


def _is_black(jpeg: bytes) -> bool:
    pixels = decode_image(jpeg)[::4, ::4].astype(np.float32)
    return bool(pixels.mean() < _BLACK_MEAN and pixels.std() < _BLACK_STD)


def _frozen(episode: StoredEpisode, camera: str) -> tuple[int, int]:
    """The longest stretch of FROZEN_S and more in which the JPEG stays the same and the robot moves."""
    least = max(5, round(FROZEN_S * (episode.control_hz or 10.0)))
    start, length = _longest_run(episode.pictures[camera].lengths)
    if length < least or not _moves(episode, start, start + length):
        return 0, 0
    jpegs = episode.read_pictures(camera, range(start, start + length))
    start_equal, equal = _longest_run(np.array(_numbered(jpegs)))
    return (start + start_equal, equal) if equal >= least else (0, 0)


def _numbered(items: Sequence[bytes]) -> list[int]:
    """Every item by the number of its first occurrence."""
    first: dict[bytes, int] = {}
    return [first.setdefault(item, i) for i, item in enumerate(items)]


def _longest_run(values: NDArray[np.integer]) -> tuple[int, int]:
    """The first index and the length of the longest run of equal values."""
    edges = np.concatenate([[0], np.flatnonzero(np.diff(values)) + 1, [len(values)]])
    lengths = np.diff(edges)
    longest = int(np.argmax(lengths))
    return int(edges[longest]), int(lengths[longest])


def _moves(episode: StoredEpisode, start: int, end: int) -> bool:
    """Whether the robot is idle in less than half of the steps; unknown counts as moving."""
    idle = episode.is_idle[start:end]
    return not len(idle) or float(idle.mean()) < 0.5


def _moving_steps(episode: StoredEpisode) -> NDArray[np.bool_]:
    """Whether the arm clearly moves from the step before, bool [t]; only idle steps do not, where nothing is known."""
    moving = np.ones(episode.n_steps, bool)
    if len(episode.is_idle):
        moving &= ~episode.is_idle
    if episode.has_vectors and len(episode.arm_slots) and episode.n_steps > 2:
        change = np.abs(np.diff(episode.state[:, episode.arm_slots].astype(np.float64), axis=0))
        clear = change > np.maximum(0.25 * np.quantile(change, 0.9, axis=0), 1e-5)
        moving[1:] &= clear.any(axis=1)
    moving[0] = False
    return moving


def _held(episode: StoredEpisode, camera: str, moving: NDArray[np.bool_]) -> float:
    """How many steps a picture lasts on average while the robot moves; NaN where too few steps say so."""
    pause = round(_PAUSE_S * (episode.control_hz or 10.0))
    held = _hold_between(episode, camera, *_longest_motion(moving, pause))
    if not np.isnan(held) or moving.sum() < _FEWEST_MOVING:
        return held
    # No stretch of motion is long enough for a camera this slow; a real one repeats through pauses, too.
    return _hold_between(episode, camera, 0, episode.n_steps)


def _hold_between(episode: StoredEpisode, camera: str, start: int, length: int) -> float:
    """The same of one stretch of steps.

    Equal pictures are equal bytes where they were stored as such. A video repeats a frame with other rounding, so
    there the change of a few small pictures counts, next to what usually changes.
    """
    if length < _FEWEST_MOVING:
        return float("nan")
    lengths = episode.pictures[camera].lengths[start : start + length]
    by_bytes = float((np.diff(lengths) == 0).mean()) > 1 - 1 / SLOW_STEPS
    length = min(length, _COMPARED_BYTES if by_bytes else _COMPARED_PIXELS)
    jpegs = episode.read_pictures(camera, range(start, start + length))
    numbers = np.array(_numbered(jpegs)) if by_bytes else _numbered_by_look(jpegs)
    return _regular_hold(np.flatnonzero(np.diff(numbers)) + 1)


def _regular_hold(changes: NDArray[np.integer]) -> float:
    """The mean distance of the steps at which a picture changes, where they come evenly; 1 where they do not.

    A camera's own rate is even, within a step. A camera that sees nothing move for a while is not: in a simulation,
    which has no noise, a wrist's picture stands still while the other arm works.

    >>> round(_regular_hold(np.array([2, 4, 5, 7, 9, 10, 12])), 6)
    1.642857
    >>> _regular_hold(np.array([1, 2, 3, 4, 9, 14, 15, 16]))
    1.0
    """
    if len(changes) < _FEWEST_PICTURES:
        return float("nan")
    numbers = np.arange(len(changes))
    slope, offset = np.polyfit(numbers, changes, 1)
    uneven = float(np.std(changes - (slope * numbers + offset)))
    return float(slope) if uneven < _UNEVEN_STEPS else 1.0


def _longest_motion(moving: NDArray[np.bool_], pause: int) -> tuple[int, int]:
    """The first step and the length of the longest stretch of motion; pauses of up to `pause` steps do not end it."""
    steps = np.flatnonzero(moving)
    if not len(steps):
        return 0, 0
    edges = np.concatenate([[0], np.flatnonzero(np.diff(steps) > pause + 1) + 1, [len(steps)]])
    longest = int(np.argmax(steps[edges[1:] - 1] - steps[edges[:-1]]))
    first, last = steps[edges[longest]], steps[edges[longest + 1] - 1]
    return int(first), int(last - first + 1)


def _numbered_by_look(jpegs: Sequence[bytes]) -> NDArray[np.integer]:
    """Every picture by a number that rises where it differs clearly from the one before."""
    small = np.stack([_small(jpeg) for jpeg in jpegs])
    change = np.abs(np.diff(small, axis=0)).mean(axis=(1, 2))
    usual = float(np.quantile(change, 0.9))
    # Below half a level nothing changes that could be counted from rounding.
    is_new = change > 0.1 * usual if usual > 0.5 else np.ones(len(change), bool)
    return np.concatenate([[0], np.cumsum(is_new)])


def _small(jpeg: bytes) -> NDArray[np.float32]:
    """The brightness of a picture at about a quarter of its size, which costs a tenth of decoding it whole."""
    try:
        return simplejpeg.decode_jpeg(jpeg, "GRAY", min_height=48, min_width=48)[..., 0].astype(np.float32)
    except ValueError as error:
        raise CorruptImage(f"expected a readable JPEG, found {len(jpeg)} bytes: {error}") from error
