"""Episodes of object stores, copied to this machine for readers whose libraries need files."""

import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pipelines.errors import UsageError
from pipelines.native import Located
from pipelines.places import RemotePath, as_place

# Formats whose episodes are folders or files of their own. RLDS copies whole shards, see `staged_shard`; of the
# others many episodes share a file or a tree, and copying that for each would not end.
STAGED_FORMATS = ("aloha", "bridge", "droid", "zarr")
_COPY_BYTES = 1 << 22
# Shards of an input that stay on a worker's disk; a worker reads them one after the other.
_KEPT_SHARDS = 3


def check_remote_input(source: str, format: str) -> None:
    """Raises UsageError for an input in an object store that the format's reader cannot read there."""
    if isinstance(as_place(source), RemotePath) and format not in (*STAGED_FORMATS, "rlds"):
        raise UsageError(f"INPUT {source}: format {format} is read from a disk only; copy it there first")


@contextmanager
def staged(located: Located, format: str) -> Iterator[Located]:
    """Yields the episode with its files on this machine, for as long as the block lasts.

    Its folder or file is copied with its path below the input, and with the JSON files of the folders above it,
    where Bridge keeps its cameras and DROID its annotations. An episode on a disk is yielded as it is.
    """
    place = as_place(located.reference.uri)
    if not isinstance(place, RemotePath) or format not in STAGED_FORMATS:
        yield located
        return
    with tempfile.TemporaryDirectory(prefix="embodimix-") as folder:
        local = Path(folder) / located.reference.key
        below = list(place.rglob("*")) or [place]
        for item in below:
            _copy(item, local / item.url[len(place.url) + 1 :] if item != place else local)
        above, target = place.parent, local.parent
        for _ in located.reference.key.split("/"):
            for item in above.glob("*.json"):
                _copy(item, target / item.name)
            above, target = above.parent, target.parent
        yield replace(located, reference=replace(located.reference, uri=str(local)))


def staged_shard(place: RemotePath) -> Path:
    """Returns a copy on this machine of a file of the input; the last few copies are kept for the next episode."""
    found = place.stat()
    known = (place.url, found.st_size, found.st_mtime)
    with _lock:
        if known in _shards:
            _shards.move_to_end(known)
            return Path(_shards[known].name) / place.name
        folder = tempfile.TemporaryDirectory(prefix="embodimix-")
        _copy(place, Path(folder.name) / place.name)
        _shards[known] = folder
        while len(_shards) > _KEPT_SHARDS:
            _shards.popitem(last=False)
        return Path(folder.name) / place.name


def _copy(source: RemotePath, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open() as reader, open(target, "wb") as writer:
        shutil.copyfileobj(reader, writer, _COPY_BYTES)


_lock = threading.Lock()
_shards: "OrderedDict[tuple[str, int, float], tempfile.TemporaryDirectory[str]]" = OrderedDict()
