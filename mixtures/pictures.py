"""The compressed pictures of a batch, read by exact ranges, and their decoding into the batch's buffer."""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from mixtures.gather import Rows
from mixtures.shard_files import ShardFiles
from mixtures.stores import is_remote
from pipelines.errors import FailedWork
from pipelines.images import letterbox
from pipelines.slots import CAMERAS

WAIT_S = 600.0


class Pictures:
    """The compressed pictures of a batch, read on demand or fetched ahead.

    corrupt: names of pictures that were replaced by black ones, to add to; None where they fail the run instead.
    """

    def __init__(self, files: ShardFiles, rows: Rows, corrupt: list[str] | None = None) -> None:
        self.files, self.rows, self.corrupt = files, rows, corrupt
        self.fetched: dict[tuple[int, int], Future[bytes]] = {}

    def begin(self, fetcher: ThreadPoolExecutor) -> None:
        """Fetches every picture of remote shards in the background."""
        for i, table in enumerate(self.rows.tables):
            for camera in np.flatnonzero(self.rows.image_length[i]) if is_remote(table.path) else ():
                self.fetched[i, int(camera)] = fetcher.submit(self.read, i, int(camera))

    def get(self, i: int, camera: int) -> bytes:
        """The JPEG of one camera of sample i, once it is there."""
        task = self.fetched.pop((i, camera), None)
        return self.read(i, camera) if task is None else task.result(timeout=WAIT_S)

    def read(self, i: int, camera: int) -> bytes:
        rows = self.rows
        path = rows.tables[i].shards[rows.shard[i]]
        return self.files.read(path, int(rows.image_offset[i, camera]), int(rows.image_length[i, camera]))


def decode(pictures: Pictures, rows: Rows, steps: NDArray[np.int64], images: NDArray[np.uint8], part: slice) -> None:
    """Reads and decodes the pictures of some samples into their places; missing ones become black."""
    for i in range(*part.indices(len(rows.row))):
        for camera in range(len(CAMERAS)):
            if rows.image_length[i, camera] == 0:
                images[i, camera] = 0
                continue
            data = pictures.get(i, camera)
            try:
                _decode_into(data, images[i, camera])
            except ValueError as error:
                path = rows.tables[i].shards[rows.shard[i]]
                sample = f"{rows.tables[i].name}/{rows.episode_id[i]}/{steps[i]}"
                name = f"{path}: corrupt JPEG of {CAMERAS[camera]} in sample {sample}: {error}"
                if pictures.corrupt is None:
                    raise FailedWork(name) from error
                pictures.corrupt.append(name)
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
