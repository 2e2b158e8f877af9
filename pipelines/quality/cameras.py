"""Black and frozen cameras, and one camera that fills two slots."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.images import decode_image
from pipelines.quality.findings import Finding, finding
from pipelines.shards.stored_episodes import StoredEpisode

FROZEN_S = 2.0
_BLACK_MEAN, _BLACK_STD = 8.0, 4.0
_SAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class View:
    """What one camera showed in one episode.

    is_black: in all sampled frames. frozen: first step and number of steps of the longest stretch of equal pictures
    while the robot moved; (0, 0) for none. twins: cameras that show the same picture at every sampled step.
    """

    where: str
    camera: str
    control_hz: float
    is_black: bool
    frozen: tuple[int, int]
    twins: tuple[str, ...]


def measure_views(episode: StoredEpisode) -> list[View]:
    """Returns what every camera of the episode shows; decodes three frames of each. Raises CorruptImage."""
    steps = sorted(set(np.linspace(0, episode.n_steps - 1, _SAMPLES).round().astype(int).tolist()))
    samples = {camera: episode.read_pictures(camera, steps) for camera in episode.pictures}
    black = {camera: all(map(_is_black, jpegs)) for camera, jpegs in samples.items()}
    twins: dict[str, list[str]] = {camera: [] for camera in samples}
    for one, other in itertools.combinations(samples, 2):
        if samples[one] == samples[other] and not black[one]:
            twins[one].append(other)
    return [
        View(
            where=episode.where,
            camera=camera,
            control_hz=episode.control_hz,
            is_black=black[camera],
            frozen=(0, 0) if black[camera] else _frozen(episode, camera),
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
        findings += _black(camera, mine) + _still(camera, mine) + _twins(camera, mine)
    return findings


def _black(camera: str, views: Sequence[View]) -> list[Finding]:
    black = [view.where for view in views if view.is_black]
    if not black:
        return []
    evidence = f"black in {len(black)} of the {len(views)} episodes that claim to have it"
    advice = "Leave the camera out of the adapter, or mask it in these episodes."
    return [finding("black_camera", "error", camera, evidence, advice, black)]


def _still(camera: str, views: Sequence[View]) -> list[Finding]:
    frozen = [view for view in views if view.frozen[1]]
    if not frozen:
        return []
    longest = max(view.frozen[1] for view in frozen)
    evidence = f"one picture for up to {longest} steps while the robot moves, in {len(frozen)} of {len(views)} episodes"
    advice = "Look at the logger's camera; drop these episodes or mask the camera in them."
    where = [f"{v.where} steps {v.frozen[0]} to {sum(v.frozen)}" for v in frozen]
    return [finding("frozen_camera", "error", camera, evidence, advice, where)]


def _twins(camera: str, views: Sequence[View]) -> list[Finding]:
    same = [view for view in views if view.twins]
    if not same:
        return []
    evidence = f"shows the same pictures as {same[0].twins[0]} in {len(same)} of {len(views)} episodes"
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
