"""Indexes of files that were read lately: each episode of a long bag opens its file again, whose index is the same."""

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
        self._most_bytes, self._n_bytes = most_bytes, 0
        self._kept: OrderedDict[Version, tuple[Index, int]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, source: ByteSource, read: Callable[[ByteSource], Index]) -> Index:
        """The index of this file, read only if these very bytes were not asked for lately. Raises what `read` does."""
        if source.version is None:
            return read(source)
        with self._lock:
            if source.version in self._kept:
                self._kept.move_to_end(source.version)
                return self._kept[source.version][0]
        index = read(source)
        n_bytes = index.n_bytes()
        with self._lock:
            _, replaced = self._kept.pop(source.version, (index, 0))
            self._kept[source.version] = index, n_bytes
            self._n_bytes += n_bytes - replaced
            while self._n_bytes > self._most_bytes:
                _, (_, freed) = self._kept.popitem(last=False)
                self._n_bytes -= freed
        return index
