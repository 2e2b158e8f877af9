"""The compressed pictures of a batch, read by exact ranges, and their decoding into the batch's buffer."""

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from mixtures.gather import Rows
from mixtures.shard_files import Reads, ShardFiles
from pipelines.errors import FailedWork
from pipelines.images import letterbox
from pipelines.slots import CAMERAS


class Pictures:
    """The pictures of some samples of a batch: `begin` to read them, then `decode` them in another thread.

    part: the rows of the batch. corrupt: names of pictures that were replaced by black ones, to add to; None where
    they fail the run instead.
    """

    def __init__(self, rows: Rows, steps: NDArray[np.int64], part: slice, corrupt: list[str] | None = None) -> None:
        self.rows, self.steps, self.corrupt = rows, steps, corrupt
        self.samples = range(*part.indices(len(rows.row)))
        self.lengths = rows.image_length[part].tolist()
        self.reads: Reads | None = None

    def begin(self, files: ShardFiles) -> "Pictures":
        """Begins to read them, where they lie in an object store."""
        first = self.samples.start
        offsets = self.rows.image_offset[first : self.samples.stop].tolist()
        paths = [self.rows.tables[i].shards[self.rows.shard[i]] for i in self.samples]
        self.reads = files.begin(
            [
                (path, offset, length)
                for path, places, sizes in zip(paths, offsets, self.lengths, strict=True)
                for offset, length in zip(places, sizes, strict=True)
                if length
            ]
        )
        return self

    def decode(self, images: NDArray[np.uint8]) -> None:
        """Decodes them into their places in the batch's pictures; missing ones become black."""
        assert self.reads is not None
        number = 0
        for i, lengths in zip(self.samples, self.lengths, strict=True):
            for camera, length in enumerate(lengths):
                if length == 0:
                    images[i, camera] = 0
                    continue
                data = self.reads.get(number)
                number += 1
                try:
                    _decode_into(data, images[i, camera])
                except ValueError as error:
                    self._replace(i, camera, images, error)

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
    except ValueError:  # too large for the buffer, or no JPEG at all: the next line tells
        found = simplejpeg.decode_jpeg_header(data)[:2]
        if found == image.shape[:2]:
            raise
    if found[:2] != image.shape[:2]:
        image[:] = letterbox(simplejpeg.decode_jpeg(data, "RGB"))
