"""Indexes of files that were read lately: each episode of a long bag opens it anew, and asks for the same one."""

import threading
from collections import OrderedDict
from collections.abc import Callable

from pipelines.sources.bags.logs.blocks import Index
from pipelines.sources.bags.logs.log import ByteSource, Version

# Of chunks of 4 MB, a bag of 128 GB.
_MOST_BYTES = 16 << 20


class KeptIndexes:
    """Some indexes by what they are of. Threads may share it."""

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[Version, Index] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, source: ByteSource, read: Callable[[ByteSource], Index]) -> Index:
        """The index of this file, read only if these very bytes were not asked for lately. Raises what `read` does."""
        if source.version is None:
            return read(source)
        with self._lock:
            if (kept := self._kept.get(source.version)) is not None:
                self._kept.move_to_end(source.version)
                return kept
        index = read(source)
        with self._lock:
            self._kept[source.version] = index
            while sum(each.n_bytes() for each in self._kept.values()) > self._most_bytes:
                self._kept.popitem(last=False)
        return index
