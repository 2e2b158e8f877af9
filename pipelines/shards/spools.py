"""Bytes that wait to be written behind others: in memory while there is room, then in files that are used again."""

import mmap
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from typing import IO

import numpy as np
from numpy.typing import NDArray

# Kept in memory for all that waits of one shard, some 40 s of three cameras: a file costs two more copies of each byte.
KEPT_BYTES = 64 << 20
PIECE_BYTES = 1 << 20
# Memory is asked for in stretches of several pages of 2 MB, each of which the kernel clears like a few of 4 kB.
_STRETCH_BYTES = 8 << 20
# What is summed, checked and written at once stays in the processor's own memory.
_CHUNK_BYTES = 1 << 18


class Spools:
    """Memory and temporary files without a name in a folder, handed out again when they are given back.

    To write over memory, or pages that a file has, takes a third of the time of new ones. folder: None for the
    system's own. kept_bytes: of memory, at most.
    """

    def __init__(self, folder: str | None, kept_bytes: int = KEPT_BYTES) -> None:
        self._folder = folder
        self._free_files: list[IO[bytes]] = []
        self._free_pieces: list[NDArray[np.uint8]] = []
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

    def take_piece(self) -> NDArray[np.uint8] | None:
        """Memory uint8 [PIECE_BYTES], to be written over; None where no more is to be kept."""
        if not self._free_pieces and self._left_bytes >= PIECE_BYTES:
            n_bytes = min(self._left_bytes // PIECE_BYTES * PIECE_BYTES, _STRETCH_BYTES)
            self._free_pieces += np.split(_fresh(n_bytes), n_bytes // PIECE_BYTES)
            self._left_bytes -= n_bytes
        return self._free_pieces.pop() if self._free_pieces else None

    def give_back_pieces(self, pieces: list[NDArray[np.uint8]]) -> None:
        """Takes back memory that nobody reads any more."""
        self._free_pieces += pieces

    def close(self) -> None:
        """Frees what was given back; files are so removed."""
        self._free_pieces = []
        while self._free_files:
            self._free_files.pop().close()


class SpooledBytes:
    """Bytes that are appended to, and then read once."""

    def __init__(self, spools: Spools) -> None:
        self._spools = spools
        self._file: IO[bytes] | None = None
        self._pieces: list[NDArray[np.uint8]] = []
        self.n_bytes = 0

    def append(self, block: bytes) -> None:
        """Adds a block at the end."""
        view = memoryview(block)
        while view and self._file is None:
            at = self.n_bytes % PIECE_BYTES
            if at == 0 and not self._take_piece():
                break
            n_bytes = min(len(view), PIECE_BYTES - at)
            self._pieces[-1].data[at : at + n_bytes] = view[:n_bytes]
            self.n_bytes += n_bytes
            view = view[n_bytes:]
        if view:
            assert self._file is not None
            _write(self._file, view)
            self.n_bytes += len(view)

    def chunks(self) -> Iterator[bytes]:
        """Yields what was appended, in pieces."""
        if self._file is None:
            yield from _chunks_of(self._pieces, self.n_bytes)
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
        self._spools.give_back_pieces(self._pieces)
        self._pieces = []
        if self._file is not None:
            self._spools.give_back_file(self._file)
            self._file = None

    def _take_piece(self) -> bool:
        """Adds room for more bytes; False where there is none, and all is in a file from now on."""
        if (piece := self._spools.take_piece()) is not None:
            self._pieces.append(piece)
            return True
        self._file = self._spools.take_file()
        for chunk in _chunks_of(self._pieces, self.n_bytes):
            _write(self._file, chunk)
        self._spools.give_back_pieces(self._pieces)
        self._pieces = []
        return False


def _chunks_of(pieces: list[NDArray[np.uint8]], n_bytes: int) -> Iterator[bytes]:
    """Copies of what is held: google_crc32c takes no memory that may change."""
    for begin in range(0, n_bytes, _CHUNK_BYTES):
        at = begin % PIECE_BYTES
        end = min(at + _CHUNK_BYTES, at + n_bytes - begin)
        yield pieces[begin // PIECE_BYTES][at:end].tobytes()


def _fresh(n_bytes: int) -> NDArray[np.uint8]:
    memory = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # Linux alone has it, and may have it switched off.
    if (advice := getattr(mmap, "MADV_HUGEPAGE", None)) is not None:
        with suppress(OSError):
            memory.madvise(advice)
    return np.frombuffer(memory, np.uint8)


def _write(file: IO[bytes], block: bytes | memoryview) -> None:
    """Writes all of a block: a file without a buffer may take a part."""
    view = memoryview(block)
    while view:
        view = view[file.write(view) :]
