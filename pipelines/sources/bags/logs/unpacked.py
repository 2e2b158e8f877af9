"""Bags whose files are compressed as a whole (rosbag2's mode FILE), unpacked beside nothing that was there before."""

import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import zstandard

from pipelines.contract.native import Rejected
from pipelines.sources.bags.logs.log import MAX_BLOCK_BYTES, MAX_TIME_NS, Batch, Batches, Log, unreadable
from pipelines.sources.folders import check_regular

ENDING = ".zstd"
# A bag of text alone packs to a thirtieth; more is a file that is made to fill the disk.
_MOST_RATIO = 1000
_CHUNK_BYTES = 1 << 20
# The longest head of a frame.
_HEAD_BYTES = 18
_ROOM_LEFT = 1 << 30


class UnpackedLog(Batches):
    """A bag in a temporary folder, which goes with it; all else is the bag's own."""

    def __init__(self, path: Path, open_file: Callable[[Path], Log]) -> None:
        check_regular(path)
        self._folder = tempfile.TemporaryDirectory(prefix="embodimix-bag-")
        try:
            whole, lost = unpack_file(path, Path(self._folder.name) / path.name.removesuffix(ENDING))
            self._log = open_file(whole)
        except BaseException:
            self._folder.cleanup()
            raise
        self.channels, self.damage = self._log.channels, self._log.damage
        if lost:
            self.damage.append(f"{path.name}: {lost}")

    def span(self) -> tuple[int, int]:
        return self._log.span()

    def batches(self, channels: Collection[int], start_ns: int = 0, stop_ns: int = MAX_TIME_NS) -> Iterator[Batch]:
        yield from self._log.batches(channels, start_ns, stop_ns)

    def read_at(self, at: Sequence[int]) -> memoryview:
        return self._log.read_at(at)

    def close(self) -> None:
        self._log.close()
        self._folder.cleanup()


def unpack_file(path: Path, out: Path) -> tuple[Path, str]:
    """Unpacks a file of Zstandard, as far as it goes. Returns `out`, and what was lost, "" without a loss.

    Raises Rejected where it is no such file, or would unpack to absurdly many bytes.
    """
    most = min(_MOST_RATIO * path.stat().st_size, shutil.disk_usage(out.parent).free - _ROOM_LEFT)
    stated, n_bytes, lost = _stated_size(path), 0, ""
    with path.open("rb") as file, out.open("wb") as whole:
        unpacking = zstandard.ZstdDecompressor(max_window_size=MAX_BLOCK_BYTES)
        reader = unpacking.stream_reader(file, read_across_frames=True)
        while True:
            try:
                chunk = reader.read(_CHUNK_BYTES)
            except zstandard.ZstdError as error:
                lost = f"it cannot be unpacked to its end ({error})"
                break
            if not chunk:
                break
            n_bytes += len(chunk)
            if n_bytes > most:
                raise Rejected("absurd_size", f"{path}: expected at most {most} bytes unpacked, found more")
            whole.write(chunk)
    if not n_bytes:
        raise unreadable(path, "expected Zstandard, found nothing that it can unpack")
    if n_bytes < stated:
        # The library ends without an error where the file does.
        lost = lost or f"it ends after {n_bytes} of {stated} bytes"
    return out, lost


def _stated_size(path: Path) -> int:
    """Bytes that the first frame unpacks to, 0 where it does not say so. Raises Rejected where there is no frame."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    try:
        stated = zstandard.get_frame_parameters(head).content_size
    except zstandard.ZstdError as error:
        raise unreadable(path, f"expected Zstandard: {error}") from error
    # No size is stated as 2^64 - 1.
    return int(stated) if stated < 1 << 63 else 0
