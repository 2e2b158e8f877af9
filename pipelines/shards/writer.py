"""Writing one shard and its sidecar, streaming one episode at a time, so that both exist whole or not at all."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

from pipelines.contract.episode import Episode, Reference
from pipelines.contract.errors import FailedWork
from pipelines.contract.images import CorruptImage
from pipelines.contract.native import Rejected
from pipelines.contract.reject_reasons import RejectReason
from pipelines.shards.example_wire import varint
from pipelines.shards.record import EpisodeTooLarge, Record, make_record
from pipelines.shards.schema import image_key
from pipelines.shards.sidecar import (
    Fingerprint,
    Location,
    PictureRanges,
    ShardName,
    index_row,
    read_fingerprint,
    write_sidecar,
)
from pipelines.shards.spools import Spools
from pipelines.shards.statistics import NormStatistics
from pipelines.shards.tfrecord import HEADER_BYTES, write_record
from pipelines.storage.files import DiskFull, atomic_file
from pipelines.storage.paths import RemotePath, StoragePath
from pipelines.storage.retry import transient_cause

OnReject = Callable[[Reference, str, str], None]


@dataclass(frozen=True, kw_only=True)
class ShardSummary:
    """What a finished shard holds. n_rejected: episodes left out because their frames could not be encoded.

    episode_ids: of its records in their order; empty, and equal all the same, where a shard is only looked at.
    """

    n_episodes: int
    n_steps: int
    n_bytes: int
    sha256: str
    n_rejected: int = 0
    episode_ids: tuple[str, ...] = field(default=(), compare=False)


def write_shard(
    directory: StoragePath,
    *,
    name: str,
    split: str,
    shard: int,
    n_shards: int,
    episodes: Iterable[Episode],
    statistics: Mapping[str, NormStatistics],
    cameras: Sequence[str],
    converter: str,
    options_hash: str,
    on_reject: OnReject,
) -> ShardSummary:
    """Writes a shard, then its sidecar, each atomically; memory is bounded whatever an episode's length.

    cameras: the camera slots of the whole dataset. converter: name and version; `+options_hash` is stored behind it.
    on_reject: is called with reference, reason (corrupt_image, too_large, unreadable_frame, or the reader's own) and
        detail for every episode that is left out. Errors of the iterable itself pass through. Raises DiskFull.
    """
    where = ShardName(name=name, split=split, shard=shard, n_shards=n_shards)
    rows: list[dict[str, Any]] = []
    n_rejected = 0
    spool_folder = None if isinstance(directory, RemotePath) else str(directory)
    _forget_other_options(where.sidecar_path(directory), options_hash)
    # The shard first, the sidecar last: a sidecar that exists is the sign that its shard is whole.
    with atomic_file(where.shard_path(directory)) as file, Spools(spool_folder) as spools:
        output = _HashingFile(file)
        for episode in episodes:
            try:
                record = make_record(
                    episode,
                    dataset=name,
                    cameras=cameras,
                    statistics=statistics,
                    converter=f"{converter}+{options_hash}",
                    spools=spools,
                )
                rows.append(_append(output, record, where, len(rows)))
            except DiskFull:
                raise  # Not the episode's fault: as a reject, every later episode would be lost for the same reason.
            except FailedWork as error:
                # A store that fails temporarily does not make the episode a bad one; the whole shard is tried again.
                if passing := transient_cause(error):
                    raise passing from error
                n_rejected += 1
                detail = error.detail if isinstance(error, Rejected) else str(error)
                on_reject(episode.reference, _reason(error), detail)
    fingerprint = Fingerprint(
        size=output.size,
        sha256=output.digest.hexdigest(),
        options_hash=options_hash,
        n_episodes=len(rows),
        n_steps=sum(row["n_steps"] for row in rows),
    )
    write_sidecar(directory, where, rows, cameras, fingerprint)
    return replace(_summary(fingerprint, n_rejected), episode_ids=tuple(row["episode_id"] for row in rows))


def finished_shard(
    directory: StoragePath, *, name: str, split: str, shard: int, n_shards: int, options_hash: str
) -> ShardSummary | None:
    """The summary of a shard that is there, whole, and written with these options; otherwise None."""
    where = ShardName(name=name, split=split, shard=shard, n_shards=n_shards)
    path, sidecar = where.shard_path(directory), where.sidecar_path(directory)
    if not path.exists() or not sidecar.exists():
        return None
    fingerprint = read_fingerprint(sidecar)
    if fingerprint.options_hash != options_hash or fingerprint.size != path.stat().st_size:
        return None
    return _summary(fingerprint, 0)


def _forget_other_options(sidecar: StoragePath, options_hash: str) -> None:
    """Removes the sidecar of another shard of that name; one with the same options describes the same bytes.

    The new shard replaces the old one before its sidecar is written. Without this, a kill in between would leave the
    new bytes under the old index, and every byte range would point into the wrong picture.
    """
    if sidecar.exists() and read_fingerprint(sidecar).options_hash != options_hash:
        sidecar.unlink(missing_ok=True)


class _HashingFile:
    """A file that is only appended to, with the sha256 and the number of the bytes written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.size = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self.file.write(data)

    def tell(self) -> int:
        return self.size


def _append(output: Any, record: Record, where: ShardName, index: int) -> dict[str, Any]:
    """Writes a record and returns its row of the sidecar."""
    try:
        encoded = record.encode()
        offset = write_record(output, encoded.chunks, encoded.n_bytes)
    finally:
        record.close()
    location = Location(
        split=where.split,
        shard=where.file_name,
        record_index=index,
        record_offset=offset - HEADER_BYTES,
        record_length=encoded.n_bytes,
    )
    pictures = {}
    for camera, frames in record.frames.items():
        body = offset + encoded.body_offsets[image_key(camera, record.is_droid)]
        pictures[camera] = PictureRanges(base=body + 1 + len(varint(int(frames.lengths[0]))), lengths=frames.lengths)
    return index_row(record.features, pictures, location)


def _reason(error: FailedWork) -> RejectReason:
    # What a reader can only find when a picture is asked for, such as a chunk that is not stored, it names itself.
    if isinstance(error, Rejected):
        return error.reason
    if isinstance(error, CorruptImage):
        return "corrupt_image"
    return "too_large" if isinstance(error, EpisodeTooLarge) else "unreadable_frame"


def _summary(fingerprint: Fingerprint, n_rejected: int) -> ShardSummary:
    return ShardSummary(
        n_episodes=fingerprint.n_episodes,
        n_steps=fingerprint.n_steps,
        n_bytes=fingerprint.size,
        sha256=fingerprint.sha256,
        n_rejected=n_rejected,
    )
