"""The compressed pictures of a batch, read by exact ranges, and their decoding into the batch's buffer."""

from collections.abc import Iterator
from time import perf_counter

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from mixtures.stream.gather import Rows
from mixtures.stream.shard_files import OpenShards, Reads
from pipelines.contract.errors import FailedWork
from pipelines.contract.images import letterbox
from pipelines.contract.slots import CAMERAS

SLOW_READ_S = 50e-6


class BatchPictures:
    """The pictures of some samples of a batch: `begin` to read them, then `decode` them in another thread.

    part: the rows of the batch. corrupt: names of pictures that were replaced by black ones, to add to; None where
    they fail the run instead.
    """

    def __init__(self, rows: Rows, steps: NDArray[np.int64], part: slice, corrupt: list[str] | None = None) -> None:
        self.rows, self.steps, self.corrupt, self.part = rows, steps, corrupt, part
        self.files: OpenShards | None = None
        self.reads: Reads | None = None

    def begin(self, files: OpenShards) -> "BatchPictures":
        """Begins to read them, where they lie in an object store."""
        self.files = files
        if any(table.is_remote for table in self.rows.tables[self.part]):
            ranges = [
                (path, offset, length)
                for _, path, offsets, lengths in self._places()
                for offset, length in zip(offsets, lengths, strict=True)
                if length
            ]
            self.reads = files.begin(ranges)
        return self

    def decode(self, images: NDArray[np.uint8]) -> None:
        """Decodes them into the batch's pictures; missing ones become black."""
        assert self.files is not None
        number, is_first = 0, True
        for i, path, offsets, lengths in self._places():
            for camera, length in enumerate(lengths):
                if length == 0:
                    images[i, camera] = 0
                    continue
                if self.reads is None:
                    begin = perf_counter()
                    data = self.files.read(path, offsets[camera], length)
                    if is_first and perf_counter() - begin > SLOW_READ_S:
                        self._expect()
                    is_first = False
                else:
                    data = self.reads.get(number)
                    number += 1
                try:
                    _decode_into(data, images[i, camera])
                except ValueError as error:
                    self._replace(i, camera, images, error)

    def _expect(self) -> None:
        """Has the system bring all pictures of the part into memory at once, while the first are decoded."""
        assert self.files is not None
        for _, path, offsets, lengths in self._places():
            for offset, length in zip(offsets, lengths, strict=True):
                if length:
                    self.files.expect(path, offset, length)

    def _places(self) -> Iterator[tuple[int, str, list[int], list[int]]]:
        """Row of the batch, shard, and by camera the offset and the length of each picture."""
        rows, part = self.rows, self.part
        shards = [t.shards[i] for t, i in zip(rows.tables[part], rows.shard[part].tolist(), strict=True)]
        offsets, lengths = rows.image_offset[part].tolist(), rows.image_length[part].tolist()
        return zip(range(*part.indices(len(rows.row))), shards, offsets, lengths, strict=True)

    def _replace(self, i: int, camera: int, images: NDArray[np.uint8], error: ValueError) -> None:
        """Fails the run over a corrupt picture, or makes it black and notes its name."""
        rows = self.rows
        path = rows.tables[i].shards[rows.shard[i]]
        sample = f"{rows.tables[i].name}/{rows.episode_id[i]}/{self.steps[i]}"
        name = f"{path}: corrupt JPEG of {CAMERAS[camera]} in sample {sample}: {error}"
        if self.corrupt is None:
            raise FailedWork(name) from error
        self.corrupt.append(name)
        images[i, camera], rows.camera_mask[i, camera] = 0, False


def _decode_into(data: bytes, image: NDArray[np.uint8]) -> None:
    """Decodes a JPEG in place; one of another size, from shards written elsewhere, is letterboxed."""
    try:
        found = simplejpeg.decode_jpeg(data, "RGB", buffer=image).shape
    except ValueError:  # too large for the buffer, or no JPEG at all: the next line decides
        found = simplejpeg.decode_jpeg_header(data)[:2]
        if found == image.shape[:2]:
            raise
    if found[:2] != image.shape[:2]:
        image[:] = letterbox(simplejpeg.decode_jpeg(data, "RGB"))
