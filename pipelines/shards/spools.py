"""Bytes that wait to be written behind others: in memory while there is room, then in files that are used again."""

import tempfile
from collections.abc import Iterator
from typing import IO

# Kept in memory for all that waits of one shard, some 40 s of three cameras: a file costs two more copies of each byte.
KEPT_BYTES = 64 << 20
# What is summed, checked and written at once stays in the processor's own memory.
_CHUNK_BYTES = 1 << 18


class Spools:
    """Room in memory, and temporary files without a name in a folder, handed out again when they are given back.

    To write over pages that a file has takes a third of the time of new ones. folder: None for the system's own.
    kept_bytes: in memory, at most.
    """

    def __init__(self, folder: str | None, kept_bytes: int = KEPT_BYTES) -> None:
        self._folder = folder
        self._free_files: list[IO[bytes]] = []
        self._left_bytes = kept_bytes

    def __enter__(self) -> "Spools":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take_file(self) -> IO[bytes]:
        """A file, to be written from its beginning on; what it held before is to be written over."""
        return self._free_files.pop() if self._free_files else tempfile.TemporaryFile(dir=self._folder, buffering=0)

    def give_back_file(self, file: IO[bytes]) -> None:
        """Takes back a file that nobody reads any more."""
        file.seek(0)
        self._free_files.append(file)

    def take_room(self, n_bytes: int) -> bool:
        """Whether so many bytes may be kept in memory; they then count until they are given back."""
        if n_bytes > self._left_bytes:
            return False
        self._left_bytes -= n_bytes
        return True

    def give_back_room(self, n_bytes: int) -> None:
        """Takes back the room of bytes that nobody reads any more."""
        self._left_bytes += n_bytes

    def close(self) -> None:
        """Removes the files that were given back."""
        while self._free_files:
            self._free_files.pop().close()


class SpooledBytes:
    """Bytes that are appended to, and then read once."""

    def __init__(self, spools: Spools) -> None:
        self._spools = spools
        self._file: IO[bytes] | None = None
        # As they came, without a copy.
        self._blocks: list[bytes] = []
        self.n_bytes = 0

    def append(self, block: bytes) -> None:
        """Adds a block at the end."""
        if self._file is None and self._spools.take_room(len(block)):
            self._blocks.append(block)
        else:
            _write(self._file or self._turn_to_file(), block)
        self.n_bytes += len(block)

    def chunks(self) -> Iterator[bytes]:
        """Yields what was appended, in pieces."""
        if self._file is None:
            yield from self._blocks
            return
        self._file.seek(0)
        left = self.n_bytes
        while left:
            chunk = self._file.read(min(left, _CHUNK_BYTES))
            if not chunk:
                raise OSError("a temporary file is shorter than what was written to it")
            left -= len(chunk)
            yield chunk

    def close(self) -> None:
        """Frees them."""
        self._free_blocks()
        if self._file is not None:
            self._spools.give_back_file(self._file)
            self._file = None

    def _turn_to_file(self) -> IO[bytes]:
        self._file = self._spools.take_file()
        for block in self._blocks:
            _write(self._file, block)
        self._free_blocks()
        return self._file

    def _free_blocks(self) -> None:
        self._spools.give_back_room(sum(map(len, self._blocks)))
        self._blocks = []


def _write(file: IO[bytes], block: bytes) -> None:
    """Writes all of a block: a file without a buffer may take a part."""
    view = memoryview(block)
    while view:
        view = view[file.write(view) :]
