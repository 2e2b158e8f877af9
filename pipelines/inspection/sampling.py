"""A bounded look at an input: a scan that ends early, and a few episodes read by the format's own reader."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from types import ModuleType
from typing import Any

from pipelines.contract.errors import EmbodimixError, UsageError
from pipelines.contract.facts import SourceFacts
from pipelines.contract.native import UNREADABLE, EpisodeLocation, Found, NativeEpisode, Rejected
from pipelines.conversion.read_episode import reader_of
from pipelines.mapping.adapters import FROM_LOG, Adapter
from pipelines.mapping.cameras import CameraForm
from pipelines.sources.folders import ScanLimit, limited_scan
from pipelines.storage.mirror import Listing, staged
from pipelines.storage.paths import RemotePath, as_storage_path

# Episodes that are read, the seconds after which no further one is begun, and how long a scan may look for them.
MAX_EPISODES = 6
READ_S = 6.0
SCAN_S = 3.0
MAX_FOUND = 5000
# What is fetched of an object store for a look.
MAX_FETCH_BYTES = 1 << 30


class Probe(Adapter):
    """An entry that asks for no dim and has every camera read, each as it is stored."""

    def __post_init__(self) -> None:
        """Checks nothing: a probe is no entry that could convert."""

    def used_cameras(self, there: Collection[str]) -> set[str]:
        return set(there)

    def form_of(self, camera: str) -> CameraForm:
        # Any form but the usual one has raw frames handed out as they are, not as JPEG of the target size.
        return CameraForm(channels="rgb")


class BlindProbe(Probe):
    """The same without any camera: what is left where a camera's damage rejects an episode."""

    def used_cameras(self, there: Collection[str]) -> set[str]:
        return set()


class Misfit(UsageError):
    """An input that is not of a format, and why. near: whether files of the format's kind are there."""

    def __init__(self, reason: str, near: bool) -> None:
        super().__init__(reason)
        self.near = near


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What a look found: the scan, the episodes that were read, and what kept others from being read.

    is_cut: whether the scan ended early, so that there are more episodes than it found.
    """

    format: str
    about: str
    found: Found
    episodes: tuple[NativeEpisode, ...]
    faults: tuple[str, ...]
    facts: SourceFacts
    is_cut: bool


def take_sample(format: str, source: str, limit: ScanLimit) -> Sample:
    """Looks at an input as one of `format`. Raises Misfit where no episode of it can be read so.

    limit: of the scan; shared by the formats that try one input, so that a store is listed once.
    """
    try:
        reader = reader_of(format)
    except UsageError as error:
        # What is not installed reads nothing; the other formats are tried. Whether its files are there is not known.
        raise Misfit(str(error), near=True) from error
    probe = make_probe(reader, Probe, source)
    limit.was_reached = False
    with limited_scan(limit):
        found = _find(reader, source, probe)
        is_cut = limit.was_reached
    episodes, faults = _read_some(reader, probe, found.episodes)
    if not episodes:
        raise Misfit(faults[0] if faults else "no episode could be read", near=True)
    about = (reader.__doc__ or format).partition("\n")[0].rstrip(".")
    facts = _describe(reader, source, found)
    return Sample(
        format=format,
        about=about,
        found=found,
        episodes=tuple(episodes),
        faults=tuple(faults),
        facts=facts,
        is_cut=is_cut,
    )


def make_probe(reader: ModuleType, kind: type[Probe], source: str) -> Adapter:
    """An entry by which a format's reader reads all that is there.

    A reader that reads nothing without being asked (bags) completes it by its own `probe`. Raises Misfit where it
    cannot.
    """
    format = reader.__name__.rpartition(".")[2]
    probe: Adapter = kind(
        name="inspect", title="what is there", format=format, robot=FROM_LOG, control_mode="joint_position"
    )
    if not hasattr(reader, "probe"):
        return probe
    try:
        completed: Adapter = reader.probe(source, probe)
    except UsageError as error:
        raise Misfit(str(error), near=False) from error
    except (EmbodimixError, *UNREADABLE) as error:
        raise Misfit(str(error) or type(error).__name__, near=True) from error
    return completed


def _find(reader: ModuleType, source: str, probe: Adapter) -> Found:
    """The episodes, or a part of them where a format can list one faster (`find_some`)."""
    find: Any = getattr(reader, "find_some", reader.find)
    try:
        found: Found = find(source, probe)
    except UsageError as error:
        raise Misfit(str(error), near=False) from error
    except (EmbodimixError, *UNREADABLE) as error:
        raise Misfit(str(error) or type(error).__name__, near=True) from error
    if not found.episodes:
        raise Misfit(found.rejects[0].detail if found.rejects else "no episodes", near=bool(found.rejects))
    return found


def _read_some(
    reader: ModuleType, probe: Adapter, located: Sequence[EpisodeLocation]
) -> tuple[list[NativeEpisode], list[str]]:
    """A few episodes from the beginning, the end and between, until time is up; and why others could not be read."""
    episodes: list[NativeEpisode] = []
    faults: list[str] = []
    until = time.monotonic() + READ_S
    for chosen in spread(located, MAX_EPISODES):
        if episodes and time.monotonic() > until:
            break
        if _is_too_large(reader, chosen):
            faults.append(f"{chosen.reference.uri}: larger than what is fetched for a look; inspect a local copy")
            continue
        try:
            for local in staged([chosen], reader.files_of, pictures=True):
                episodes.append(_read(reader, probe, local, faults))
        except (EmbodimixError, *UNREADABLE) as error:
            faults.append(str(error) or type(error).__name__)
        if len(faults) > MAX_EPISODES // 2 and not episodes:
            break
    return episodes, list(dict.fromkeys(faults))


def spread(items: Sequence[Any], n: int) -> list[Any]:
    """Up to n items, from the first to the last at even distances.

    >>> spread("abcdefg", 3)
    ['a', 'd', 'g']
    """
    if len(items) <= n:
        return list(items)
    return [items[round(i * (len(items) - 1) / (n - 1))] for i in range(n)]


def _read(reader: ModuleType, probe: Adapter, located: EpisodeLocation, faults: list[str]) -> NativeEpisode:
    try:
        episode: NativeEpisode = reader.read(located, probe)
    except Rejected as error:
        values = {each.name: getattr(probe, each.name) for each in fields(probe)}
        episode = reader.read(located, BlindProbe(**values))
        faults.append(str(error))
    return episode


def _is_too_large(reader: ModuleType, located: EpisodeLocation) -> bool:
    path = as_storage_path(located.reference.uri)
    if not isinstance(path, RemotePath):
        return False
    files = reader.files_of(located, Listing(), True)
    return sum(stat.st_size for stat in files.values()) > MAX_FETCH_BYTES


def _describe(reader: ModuleType, source: str, found: Found) -> SourceFacts:
    describe = getattr(reader, "describe", None)
    if describe is None:
        return SourceFacts()
    try:
        facts: SourceFacts = describe(source, found)
    except (EmbodimixError, *UNREADABLE) as error:
        return SourceFacts(notes=(f"the metadata could not be read: {error}",))
    return facts
