"""What is to be published: the episodes that were chosen, sorted by what one dataset can hold, and cut into files."""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from pipelines.contract.embodiments import restore_embodiment
from pipelines.contract.errors import UsageError
from pipelines.contract.words import counted
from pipelines.mapping.adapters import restore_adapter
from pipelines.publishing.encoding import VideoForm
from pipelines.publishing.vectors import Dims, PublishedVector, native_vector, robot_vector, slot_vector
from pipelines.shards.dataset import Dataset
from pipelines.shards.manifest import Manifest, load_manifest
from pipelines.shards.sidecar import read_fingerprint
from pipelines.shards.stored_episodes import StoredEpisode, iter_stored
from pipelines.storage.paths import StoragePath, as_storage_path

LeRobotVersion = Literal["3.0", "2.1"]
STEPS_PER_FILE = 10_000
# Files of a folder, in both versions.
CHUNK = 1000


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a dataset is written. video: None for pictures in the tables, byte for byte those of the shards.

    proposals: whether the motion phrases of proposals are published as subtasks, too. licence: of the episodes, as the
    user states it.
    """

    version: LeRobotVersion = "3.0"
    dims: Dims = "native"
    video: VideoForm | None = VideoForm()
    proposals: bool = False
    licence: str = ""
    steps_per_file: int = STEPS_PER_FILE


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The chosen episodes of one dataset: by id, the split that each is published in. None: all, in their own."""

    path: str
    splits: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class PlannedEpisode:
    """One episode: where it lies, its number in what is published, and its first step among all steps."""

    dataset: str
    version: str
    converter: str
    stored_split: str
    shard: int
    row: int
    episode_id: str
    source_uri: str
    source_key: str
    split: str
    n_steps: int
    task: str
    language: tuple[str, ...]
    success: int
    missing_cameras: tuple[str, ...]
    time_error_s: float
    number: int = 0
    first_step: int = 0


@dataclass(frozen=True, kw_only=True)
class Publication:
    """One dataset that is to be written: everything that its files depend on.

    tasks: the texts by their number. has_subtasks: whether any episode has a labelled segment. units: the episodes of
    each file, as [start, end) of their numbers.
    """

    out: StoragePath
    form: Form
    robot: str
    norm_key: str
    fps: float
    state: PublishedVector
    action: PublishedVector
    cameras: tuple[str, ...]
    episodes: tuple[PlannedEpisode, ...]
    tasks: tuple[str, ...]
    has_subtasks: bool
    units: tuple[tuple[int, int], ...]
    sources: Mapping[str, str]

    @property
    def n_steps(self) -> int:
        return sum(episode.n_steps for episode in self.episodes)

    @property
    def fingerprint(self) -> str:
        """Names all that decides the bytes, so that a second run continues or recognises the first."""
        form = {**asdict(self.form), "video": self.form.video and {**asdict(self.form.video), "threads": None}}
        content = [form, self.norm_key, self.fps, self.state.names, self.action.names, self.cameras]
        content += [[asdict(episode) for episode in self.episodes], dict(self.sources)]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """What all episodes of one published dataset have in common."""

    robot: str
    norm_key: str
    control_hz: float
    entry: str
    state_mask: tuple[bool, ...]
    action_mask: tuple[bool, ...]

    def __str__(self) -> str:
        sides = (f"{name} slots {np.flatnonzero(mask).tolist()}" for name, mask in self._masks)
        entry = f", entry {self.entry}" if self.entry else ""
        return f"{self.norm_key} at {self.control_hz:g} Hz{entry}, {', '.join(sides)}"

    @property
    def _masks(self) -> tuple[tuple[str, tuple[bool, ...]], ...]:
        return ("state", self.state_mask), ("action", self.action_mask)


@dataclass
class _Group:
    """The episodes of a kind, and what one of them says for all."""

    parts: Mapping[str, tuple[int, ...]]
    manifest: Manifest | None
    episodes: list[PlannedEpisode]
    cameras: set[str]
    has_subtasks: bool = False


def plan_publication(choices: Sequence[Choice], out: str, form: Form, split_robots: bool = False) -> list[Publication]:
    """One publication for each kind of episodes: a robot, control mode, rate and set of dims.

    split_robots: allows several, each in a folder of its own below `out`. Raises UsageError where there are several
    without it, or a dataset cannot be published in this form.
    """
    groups: dict[_Kind, _Group] = {}
    sources: dict[str, str] = {}
    for choice in choices:
        _add_dataset(choice, form, groups, sources)
    if not groups:
        raise UsageError(f"{', '.join(choice.path for choice in choices)}: expected episodes to publish, found none")
    if len(groups) > 1 and not split_robots:
        listed = "".join(f"\n  {kind}: {counted(group.episodes, 'episode')}" for kind, group in groups.items())
        raise UsageError(
            f"a LeRobot dataset has one robot, rate and set of dims; found {len(groups)}:{listed}\n"
            "Publish each into a folder of its own below OUT by --split-robots"
        )
    names = _folder_names(list(groups))
    root = as_storage_path(out)
    return [
        _publication(root / name if name else root, form, kind, group, sources)
        for name, (kind, group) in zip(names, groups.items(), strict=True)
    ]


def labelled(episode: StoredEpisode, proposals: bool) -> list[dict[str, Any]]:
    """The segments whose texts are language; with proposals, their phrases, too."""
    wanted = (segment for segment in episode.segments if proposals or segment["source"] != "proposal")
    return sorted((segment for segment in wanted if segment["text"]), key=lambda segment: segment["start"])


def _add_dataset(choice: Choice, form: Form, groups: dict[_Kind, _Group], sources: dict[str, str]) -> None:
    dataset = Dataset.open(choice.path)
    manifest = load_manifest(dataset.path)
    if form.dims == "native" and manifest is None:
        raise UsageError(
            f"{choice.path}: expected a manifest that says what the source's dims were, found none. Publish the "
            "robot's dims in m, rad and 0 open .. 1 closed by --dims robot"
        )
    sources[str(dataset.path)] = _content_of(dataset)
    rows: dict[tuple[str, str], int] = {}
    for episode in iter_stored(dataset):
        shard = (episode.split, str(episode.shard))
        row = rows[shard] = rows.get(shard, -1) + 1
        if choice.splits is not None and episode.episode_id not in choice.splits:
            continue
        if not episode.has_vectors:
            raise UsageError(f"{choice.path}: {episode.where}: expected state and action in the index, found none")
        kind = _kind_of(episode, form, manifest)
        group = groups.setdefault(kind, _Group(parts=episode.parts, manifest=manifest, episodes=[], cameras=set()))
        group.cameras |= set(episode.pictures)
        group.has_subtasks = group.has_subtasks or bool(labelled(episode, form.proposals))
        split = episode.split if choice.splits is None else choice.splits[episode.episode_id]
        group.episodes.append(_planned(dataset, manifest, episode, row, split))


def _planned(
    dataset: Dataset, manifest: Manifest | None, episode: StoredEpisode, row: int, split: str
) -> PlannedEpisode:
    shards = [files.shard for files in dataset.splits[episode.split]]
    even = np.arange(episode.n_steps) / episode.control_hz
    return PlannedEpisode(
        dataset=str(dataset.path),
        version=dataset.version,
        converter=manifest.converter if manifest else "",
        stored_split=episode.split,
        shard=shards.index(episode.shard),
        row=row,
        episode_id=episode.episode_id,
        source_uri=episode.source_uri,
        source_key=episode.source_key,
        split=split,
        n_steps=episode.n_steps,
        task=episode.task,
        language=episode.language,
        success=episode.success,
        missing_cameras=tuple(camera for camera in dataset.cameras if camera not in episode.pictures),
        time_error_s=float(np.abs(episode.timestamp_s - episode.timestamp_s[0] - even).max()),
    )


def _kind_of(episode: StoredEpisode, form: Form, manifest: Manifest | None) -> _Kind:
    entry = ""
    if form.dims == "native" and manifest is not None:
        stored = {key: manifest.adapter.get(key) for key in ("name", "state", "action")}
        digest = hashlib.sha256(json.dumps(stored, sort_keys=True, default=str).encode()).hexdigest()
        entry = f"{manifest.adapter['name']} ({digest[:8]})"
    return _Kind(
        robot=episode.robot,
        norm_key=episode.norm_key,
        control_hz=episode.control_hz,
        entry=entry,
        state_mask=tuple(episode.state_mask.tolist()),
        action_mask=tuple(episode.action_mask.tolist()),
    )


def _publication(out: StoragePath, form: Form, kind: _Kind, group: _Group, sources: Mapping[str, str]) -> Publication:
    splits = list(dict.fromkeys(sorted((e.split for e in group.episodes), key=lambda s: (s != "train", s))))
    ordered = sorted(group.episodes, key=lambda episode: splits.index(episode.split))
    numbered: list[PlannedEpisode] = []
    first = 0
    for number, episode in enumerate(ordered):
        numbered.append(PlannedEpisode(**{**vars(episode), "number": number, "first_step": first}))
        first += episode.n_steps
    used = {episode.dataset for episode in numbered}
    return Publication(
        out=out,
        form=form,
        robot=kind.robot,
        norm_key=kind.norm_key,
        fps=kind.control_hz,
        state=_vector(form.dims, kind, group, "state"),
        action=_vector(form.dims, kind, group, "action"),
        cameras=tuple(sorted(group.cameras)),
        episodes=tuple(numbered),
        tasks=tuple(dict.fromkeys(text for episode in numbered for text in (episode.task, *episode.language))),
        has_subtasks=group.has_subtasks and form.version == "3.0",
        units=_cut([episode.n_steps for episode in numbered], form.steps_per_file),
        sources={path: content for path, content in sources.items() if path in used},
    )


def _vector(dims: Dims, kind: _Kind, group: _Group, side: Literal["state", "action"]) -> PublishedVector:
    mask = np.array(kind.state_mask if side == "state" else kind.action_mask)
    if dims == "native":
        assert group.manifest is not None
        adapter = restore_adapter(group.manifest.adapter)
        if kind.robot not in group.manifest.robots:
            raise UsageError(
                f"{kind.norm_key}: expected {kind.robot}'s entry in the manifest, found "
                f"{', '.join(group.manifest.robots) or 'none'}; publish its dims in m and rad by --dims robot"
            )
        robot = restore_embodiment(group.manifest.robots[kind.robot])
        return native_vector(kind.norm_key, adapter, robot, mask, side)
    parts = _parts_of(kind, group, side)
    unnamed = set(np.flatnonzero(mask).tolist()) - {slot for slots in parts.values() for slot in slots}
    if unnamed and dims == "robot":
        raise UsageError(
            f"{kind.norm_key}: {side}: expected parts for all slots that are filled, found none for {sorted(unnamed)}; "
            "publish all slots by --dims slots"
        )
    return (slot_vector if dims == "slots" else robot_vector)(kind.norm_key, parts, mask, side)


def _parts_of(kind: _Kind, group: _Group, side: Literal["state", "action"]) -> dict[str, tuple[int, ...]]:
    """The slots of each part; episodes themselves name those of the action alone, which a robot senses more of."""
    if group.manifest is not None and kind.robot in group.manifest.robots:
        robot = restore_embodiment(group.manifest.robots[kind.robot])
        slots: dict[str, tuple[int, ...]] = getattr(robot.vectors(kind.norm_key.split("/")[1]), side)
        return slots
    return dict(group.parts)


def _cut(lengths: Sequence[int], most: int) -> tuple[tuple[int, int], ...]:
    """Neighbouring episodes of at most so many steps together, at least one each, as [start, end).

    >>> _cut([4, 4, 9, 1], 8)
    ((0, 2), (2, 3), (3, 4))
    """
    units: list[tuple[int, int]] = []
    held = 0
    for number, length in enumerate(lengths):
        if units and held + length <= most:
            units[-1], held = (units[-1][0], number + 1), held + length
        else:
            units.append((number, number + 1))
            held = length
    return tuple(units)


def _folder_names(kinds: Sequence[_Kind]) -> list[str]:
    """A folder for each kind, "" for the only one: robot, control mode and rate, numbered where these are the same."""
    if len(kinds) == 1:
        return [""]
    plain = [f"{kind.robot}_{kind.norm_key.split('/')[1]}_{kind.control_hz:g}hz" for kind in kinds]
    return [_numbered(name, plain[: i + 1], plain) for i, name in enumerate(plain)]


def _numbered(name: str, before: Collection[str], names: Iterable[str]) -> str:
    n = sum(other == name for other in names)
    return name if n == 1 else f"{name}_{sum(other == name for other in before)}"


def _content_of(dataset: Dataset) -> str:
    """A digest of all shards, by their sidecars."""
    digest = hashlib.sha256()
    for split in sorted(dataset.splits):
        for sidecar in dataset.sidecars(split):
            digest.update(read_fingerprint(sidecar).sha256.encode())
    return digest.hexdigest()
