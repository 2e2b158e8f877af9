"""What an input holds, in the words of its source: episodes, rates, every key of numbers, cameras, language."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.episode import Image
from pipelines.contract.errors import EmbodimixError
from pipelines.contract.facts import SourceFacts, StatedCamera, StatedFeature
from pipelines.contract.images import describe_picture
from pipelines.contract.native import UNREADABLE, NativeEpisode
from pipelines.inspection.sampling import Sample
from pipelines.mapping.adapters import FROM_LOG

# Keys that count or mark steps, and say nothing about the robot.
BOOKKEEPING = frozenset(
    "timestamp timestamps time frame_index episode_index index task_index subtask_index is_first is_last is_terminal "
    "reward rewards discount done dones terminated truncated success".split()
)
_TEXTS = 5


@dataclass(frozen=True, kw_only=True)
class Feature:
    """A native key of numbers. low, high: of each column, [k], in what was read or in what the source states.

    in_all: whether they are those of the whole source. unit: as the source states it, "" where it does not.
    """

    key: str
    dtype: str
    width: int
    names: tuple[str, ...]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    in_all: bool = False
    unit: str = ""
    about: str = ""

    @property
    def is_bookkeeping(self) -> bool:
        return self.key.replace("/", ".").rpartition(".")[2] in BOOKKEEPING


@dataclass(frozen=True, kw_only=True)
class CameraView:
    """A native camera. stored: how its pictures are (JPEG, PNG, uint8, float32, or a video's codec)."""

    name: str
    size: tuple[int, int] | None
    stored: str
    rate_hz: float | None = None
    why_left_out: str = ""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What an input holds.

    n_episodes: that the scan found, or that the source states; is_more: whether there are more. n_read: episodes that
    were read for it. lengths: their steps. control_hz: None where neither source nor time stamps say; rate_known: how
    it is known. success: 1, 0, -1 (unknown) -> episodes read. rejects: what `convert` would leave out, by reason.
    entry: keys that an entry of this format needs besides, as YAML, and why.
    """

    source: str
    format: str
    about: str
    dialect: str
    robots: tuple[str, ...]
    n_episodes: int
    is_more: bool
    n_read: int
    n_steps: int | None
    lengths: tuple[int, ...]
    control_hz: float | None
    rate_known: str
    features: tuple[Feature, ...]
    cameras: tuple[CameraView, ...]
    texts: tuple[str, ...]
    n_without_text: int
    n_with_step_texts: int
    success: Mapping[int, int]
    splits: Mapping[str, int]
    faults: tuple[str, ...] = ()
    rejects: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    entry: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def feature(self, key: str) -> Feature | None:
        """The feature of a key, if there is one."""
        return next((feature for feature in self.features if feature.key == key), None)


def describe_sample(source: str, sample: Sample) -> Description:
    """Puts together what the episodes that were read hold and what the source states."""
    facts, episodes = sample.facts, sample.episodes
    hz, rate_known = _rate_of(facts, episodes)
    texts = dict.fromkeys([text for episode in episodes for text in episode.language] + list(facts.tasks))
    robots = [facts.robot, *(episode.robot or "" for episode in episodes if episode.robot != FROM_LOG)]
    inferred = (item for episode in episodes for item in episode.inferred.items())
    notes = dict.fromkeys([*facts.notes, *(text for name, text in inferred if name != "language")])
    # What is shown as a key or a camera needs no note.
    shown = {*facts.cameras, *(key for episode in episodes for key in episode.arrays)}
    notes = {note: None for note in notes if note.partition(": ")[0] not in shown}
    return Description(
        source=source,
        format=sample.format,
        about=sample.about,
        dialect=facts.dialect,
        robots=tuple(dict.fromkeys(robot for robot in robots if robot and robot != "None")),
        n_episodes=max(len(sample.found.episodes), facts.n_episodes or 0),
        is_more=sample.is_cut and not facts.n_episodes,
        n_read=len(episodes),
        n_steps=facts.n_steps,
        lengths=tuple(episode.n_steps for episode in episodes),
        control_hz=hz,
        rate_known=rate_known,
        features=tuple(_features(facts, episodes)),
        cameras=tuple(_cameras(facts, episodes)),
        texts=tuple(texts)[:_TEXTS],
        n_without_text=sum(not episode.language for episode in episodes),
        n_with_step_texts=sum(episode.step_text is not None for episode in episodes),
        success=Counter(episode.success for episode in episodes),
        splits=Counter(located.reference.split for located in sample.found.episodes),
        faults=sample.faults,
        rejects=Counter(reject.reason for reject in sample.found.rejects if reject.level == "episode"),
        notes=tuple(notes),
        entry=facts.entry,
    )


def _rate_of(facts: SourceFacts, episodes: Sequence[NativeEpisode]) -> tuple[float | None, str]:
    stated = {hz for hz in (facts.control_hz, *(episode.control_hz for episode in episodes)) if hz}
    stamped = [
        1 / float(np.median(steps))
        for episode in episodes
        if episode.timestamp_s is not None and len(steps := np.diff(episode.timestamp_s)) and np.median(steps) > 0
    ]
    if facts.rate_known:
        return facts.control_hz, facts.rate_known
    if stated:
        rate = facts.control_hz or max(stated)
        if stamped and abs(np.median(stamped) / rate - 1) > 0.05:
            return rate, f"stated; its time stamps say {np.median(stamped):.3g} Hz"
        return rate, "stated" if len(stated) == 1 else f"stated, {min(stated):g} to {max(stated):g}"
    if stamped:
        return round(float(np.median(stamped)), 2), "of its time stamps"
    return None, "not stated, and there are no time stamps"


def _features(facts: SourceFacts, episodes: Sequence[NativeEpisode]) -> list[Feature]:
    keys = dict.fromkeys(key for episode in episodes for key in episode.arrays if key not in facts.repeats)
    return [_feature(key, facts, [e for e in episodes if key in e.arrays]) for key in keys]


def _feature(key: str, facts: SourceFacts, episodes: Sequence[NativeEpisode]) -> Feature:
    stated = facts.features.get(key, StatedFeature())
    columns = [columns_of(episode, key) for episode in episodes]
    width = columns[0].shape[1]
    same = [array for array in columns if array.shape[1] == width and len(array)]
    every = np.concatenate(same) if same else np.full((1, width), np.nan)
    finite = np.where(np.isfinite(every), every, np.nan)
    has = np.isfinite(every).any(axis=0)
    low, high = (np.where(has, of(np.where(has, finite, 0), axis=0), np.nan) for of in (np.nanmin, np.nanmax))
    in_all = len(stated.low) == width == len(stated.high)
    if in_all:
        low, high = np.fmin(low, stated.low), np.fmax(high, stated.high)
    names = tuple(map(str, stated.names or episodes[0].dim_names.get(key, ())))
    return Feature(
        key=key,
        dtype=stated.dtype or str(episodes[0].arrays[key].dtype),
        width=width,
        names=names if len(names) == width else (),
        low=low,
        high=high,
        in_all=in_all,
        unit=facts.units.get(key, ""),
        about=stated.about,
    )


def columns_of(episode: NativeEpisode, key: str) -> NDArray[np.float64]:
    """Returns float64 [t, k], the numbers of a native key."""
    array = np.asarray(episode.arrays[key], np.float64)
    return array.reshape(len(array), -1)


def _cameras(facts: SourceFacts, episodes: Sequence[NativeEpisode]) -> list[CameraView]:
    names = dict.fromkeys([*(name for episode in episodes for name in episode.frames), *facts.cameras])
    views = []
    for name in (name for name in names if name not in facts.repeats):
        stated = facts.cameras.get(name, StatedCamera())
        frames = next((episode.frames[name] for episode in episodes if name in episode.frames), None)
        size, stored = _look_at(frames) if frames is not None else (None, "")
        why = stated.why_left_out or ("" if frames is not None else "it could not be read")
        views.append(
            CameraView(
                name=name,
                size=size or stated.size,
                stored=stated.codec or stored,
                rate_hz=stated.rate_hz,
                why_left_out=why,
            )
        )
    return views


def _look_at(frames: Sequence[Image]) -> tuple[tuple[int, int] | None, str]:
    """Size (height, width) and form of a camera's first picture."""
    try:
        frame = frames[0]
    except (EmbodimixError, *UNREADABLE) as error:
        return None, f"unreadable: {error}"
    if isinstance(frame, bytes):
        described = describe_picture(frame)
        return (described[1], described[0]) if described else (None, "bytes of no known picture")
    if frame.ndim != 3:
        return None, f"{frame.dtype} {list(frame.shape)}"
    return (frame.shape[0], frame.shape[1]), str(frame.dtype)
