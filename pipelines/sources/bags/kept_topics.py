"""Topics of a bag that the first pass of a conversion has read and the second asks for again."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.sources.bags.logs.inputs import Bag
from pipelines.sources.bags.logs.log import version_of
from pipelines.sources.bags.topics import Topics

# Some forty minutes of an arm with three cameras; what does not fit is read twice.
_MOST_BYTES = 32 << 20


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What was read of a range of a bag, the cameras that it lacks, and its damage."""

    topics: Topics
    missing: tuple[str, ...]
    damage: tuple[str, ...]

    def n_bytes(self) -> int:
        """Roughly the memory that it takes."""
        samples = [one for several in self.topics.samples.values() for one in several]
        pictures = self.topics.pictures.values()
        arrays = [array for one in samples for array in (one.values, one.times)]
        arrays += [array for one in pictures for array in (one.times, one.at)]
        arrays += [*self.topics.stamps.values(), *self.topics.logged.values()]
        # A camera's stamps are those of its topic.
        return sum({id(array): array.nbytes for array in arrays}.values())


class KeptTopics:
    """A few of them by what they were read of; each is handed out once. Threads may share it."""

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes, self._n_bytes = most_bytes, 0
        self._kept: dict[Any, tuple[Any, Kept]] = {}
        self._lock = threading.Lock()

    def keep(self, key: Any, asked: Any, kept: Kept) -> None:
        """Keeps it, unless there is no room: those that are first asked for again are those that came first."""
        n_bytes = kept.n_bytes()
        with self._lock:
            if key not in self._kept and self._n_bytes + n_bytes <= self._most_bytes:
                self._kept[key] = asked, kept
                self._n_bytes += n_bytes

    def take(self, key: Any, asked: Any) -> Kept | None:
        """What was kept under this key, if the same was asked for then."""
        with self._lock:
            if key not in self._kept:
                return None
            before, kept = self._kept.pop(key)
            self._n_bytes -= kept.n_bytes()
        return kept if before == asked else None


def key_of_files(bag: Bag, place: tuple[int, int]) -> Any:
    """Says which bytes a range of a bag is; None where files of a disk do not say when they changed."""
    if not all(isinstance(file, Path) for file in bag.files):
        return None
    return place, tuple(version_of(file, file.stat()) for file in bag.files if isinstance(file, Path))
