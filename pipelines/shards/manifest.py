"""The manifest of a converted dataset: what it was made from and how, and where every source episode went."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from pipelines.contract.errors import FailedWork
from pipelines.storage.files import write_atomically
from pipelines.storage.paths import StoragePath

SCHEMA = "embodimix.manifest/v1"
MANIFEST_FILE = "manifest.json"
Record = TypeVar("Record")


@dataclass(frozen=True, kw_only=True)
class CameraCounts:
    """Of how many episodes a camera of the dataset is there, and in how many it is black and masked."""

    present: int
    missing: int


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What went in, what came out, and what was left out by reason.

    episodes_in: all that the source holds or promises, always episodes_out + episodes_rejected. rejects: rows of
    rejects.parquet by reason, for whole episodes and for stretches of steps. steps_dropped: steps left out of episodes
    that were kept. cameras: by slot.
    """

    episodes_in: int
    episodes_out: int
    episodes_rejected: int
    steps_out: int
    steps_dropped: int
    bytes_out: int
    rejects: Mapping[str, int]
    cameras: Mapping[str, CameraCounts]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Counts":
        """Raises KeyError where a count is not there."""
        cameras = {camera: _record(CameraCounts, n) for camera, n in content["cameras"].items()}
        return _record(cls, {**content, "cameras": cameras})


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One shard file, as it was written."""

    split: str
    shard: int
    n_shards: int
    n_episodes: int
    n_steps: int
    n_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class EpisodeEntry:
    """Where one source episode went. place: what its reader needs to find it again. notes: numbers on its quality.

    source_key: the name that the source itself gives the episode, if it does. record_key: the name that the scan of
    the input gave it; "" in manifests of versions that knew no other name. episode_id: the record's; "" in manifests
    of versions that did not keep it.
    """

    source_uri: str
    source_key: str
    split: str
    place: tuple[int, ...]
    shard: int
    record: int
    n_steps: int
    missing_cameras: tuple[str, ...]
    notes: Mapping[str, float]
    record_key: str = ""
    episode_id: str = ""

    @property
    def scan_key(self) -> str:
        """The name by which a rerun and an append recognise this episode."""
        return self.record_key or self.source_key


@dataclass(frozen=True, kw_only=True)
class RejectedEntry:
    """A source episode that was left out; rejects.parquet has the details."""

    source_uri: str
    source_key: str
    split: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class InputRecord:
    """What the input's files were when they were read.

    mode: `fast` (sizes, times, first and last bytes) or `full` (all bytes). n_files, n_bytes: of all. prints: a hash
    per source file or folder, by path or URL.
    """

    mode: str
    n_files: int
    n_bytes: int
    prints: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything that a conversion records; `to_json` is the content of manifest.json.

    adapter: the entry that was used, as JSON; robots: those of the robots in it, by name, empty in datasets of versions
    that did not record it. robot, task: what replaced the source's, None for nothing. partial: the input lacked files
    and was taken so on purpose. inferred: what the source did not state and was concluded or repaired, one sentence
    each, with the number of episodes. input: None in datasets of versions that did not record it. findings: of the
    checks that a conversion runs at its end, as `embodimix check --json` has them. merged: which segments a later
    version has, and from where. unmatched: how many rows of each list from outside match no episode that was kept.
    """

    name: str
    version: str
    converter: str
    options_hash: str
    code_hash: str
    adapter: Mapping[str, Any]
    robot: str | None
    task: str | None
    appended_to: str | None
    counts: Counts
    shards: tuple[ShardEntry, ...]
    episodes: tuple[EpisodeEntry, ...]
    rejected: tuple[RejectedEntry, ...]
    partial: bool = False
    robots: Mapping[str, Any] = field(default_factory=dict)
    inferred: Mapping[str, int] = field(default_factory=dict)
    input: InputRecord | None = None
    findings: tuple[Mapping[str, Any], ...] = ()
    merged: tuple[Mapping[str, Any], ...] = ()
    unmatched: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        # asdict would copy every episode's entry, of which there may be a million.
        content = {"schema": SCHEMA, **vars(self), "counts": self.counts.to_json()}
        content["input"] = vars(self.input) if self.input else None
        content |= {name: [vars(entry) for entry in content[name]] for name in ("shards", "episodes", "rejected")}
        for name in ("merged", "unmatched"):
            if not content[name]:
                del content[name]
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Manifest":
        """Raises KeyError or TypeError where the content is no manifest of a conversion."""
        tuples = {
            "shards": _records(ShardEntry, content["shards"]),
            "episodes": _records(EpisodeEntry, content["episodes"], place=tuple, missing_cameras=tuple),
            "rejected": _records(RejectedEntry, content["rejected"]),
            "findings": tuple(content.get("findings", ())),
            "merged": tuple(content.get("merged", ())),
        }
        known = content.get("input")
        source = _record(InputRecord, known) if known else None
        return _record(cls, {**content, "counts": Counts.from_json(content["counts"]), "input": source, **tuples})

    def worst_notes(self) -> dict[str, tuple[float, str]]:
        """Per note, its greatest magnitude and the key of the episode that has it."""
        worst: dict[str, tuple[float, str]] = {}
        for episode in self.episodes:
            for name, value in episode.notes.items():
                if name not in worst or abs(value) > abs(worst[name][0]):
                    worst[name] = value, episode.source_key
        return dict(sorted(worst.items()))


def save_manifest(directory: StoragePath, manifest: Manifest) -> None:
    """Writes manifest.json of a dataset's version folder, whole or not at all."""
    write_atomically(directory / MANIFEST_FILE, (json.dumps(manifest.to_json(), indent=1) + "\n").encode())


def load_manifest(directory: StoragePath) -> Manifest | None:
    """Reads manifest.json of a version folder; None where there is none, as in datasets of other writers.

    Raises FailedWork where it is damaged or says something else.
    """
    path = directory / MANIFEST_FILE
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        # A merge of segments into shards of another writer leaves a manifest of the merge alone.
        return Manifest.from_json(content) if "adapter" in content else None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise FailedWork(
            f"{path}: expected the manifest of a conversion, found {type(error).__name__}: {error}. Copy it again from "
            "where it was whole"
        ) from error


def _record(kind: type[Record], content: Mapping[str, Any]) -> Record:
    """The record of a JSON object; keys that it does not know, of later versions, are left out."""
    known = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    return kind(**{key: value for key, value in content.items() if key in known})


def _records(kind: type[Record], contents: Sequence[Mapping[str, Any]], **convert: Any) -> tuple[Record, ...]:
    return tuple(
        _record(kind, {**content, **{key: make(content[key]) for key, make in convert.items()}}) for content in contents
    )
