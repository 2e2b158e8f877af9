"""Where a drawn sample comes from: position -> group and its share, dataset, record, and the source's own file."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mixtures.index.tables import CompiledTable
from mixtures.mixture import Mixture
from mixtures.reports.plan import explain_share
from mixtures.stream.batches import Batch, Stream
from pipelines.contract.errors import FailedWork, UsageError
from pipelines.contract.slots import CAMERAS
from pipelines.shards.sidecar import ShardName

MOST_POSITIONS = 4096


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What one position of the global order draws, and where that comes from.

    epoch: of the group. share: of all draws. record: of the shard. time_s: of the step since its episode's start.
    source_uri, source_key: the file or record that the episode was converted from, and the source's name for it.
    """

    position: int
    group: str
    epoch: int
    share: float
    dataset: str
    version: str
    path: str
    split: str
    shard: str
    record: int
    episode_id: str
    step: int
    n_steps: int
    time_s: float
    robot: str
    norm_key: str
    control_hz: float
    cameras: tuple[str, ...]
    text: str
    text_of: str
    source_uri: str
    source_key: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def find_origins(mixture: Mixture, position: int, count: int = 1, split: str = "train") -> tuple[list[Origin], Batch]:
    """What `count` positions from `position` draw, and the samples themselves with their pictures.

    Raises UsageError for a position below 0 or more positions than a person reads, FailedWork where a record's
    sidecar has changed.
    """
    if position < 0 or not 1 <= count <= MOST_POSITIONS:
        raise UsageError(f"expected a position of at least 0, and 1 to {MOST_POSITIONS}; found {position}, {count}")
    with Stream(mixture, batch_size=count, split=split) as stream:
        samples, batch = stream.samples(position, count), stream.batch_at(position)
        rows = [int(episode) for episode in samples.episode]
        tables = [(mixture.tables[stream.index.table[row]], int(stream.index.row[row])) for row in rows]
        origins = [
            _origin(mixture, batch, i, int(samples.epoch[i]), table, row) for i, (table, row) in enumerate(tables)
        ]
    return origins, batch


def _origin(mixture: Mixture, batch: Batch, i: int, epoch: int, table: CompiledTable, row: int) -> Origin:
    group = mixture.groups[int(batch.group[i])]
    number = int(table.episodes["shard"][row])
    name = ShardName(name=table.name, split=table.split, shard=number, n_shards=len(table.shards))
    step = int(batch.step[i])
    stored = _stored(Path(str(name.sidecar_path(Path(table.home)))), batch.episode_id[i], step)
    present = zip(CAMERAS, batch.camera_mask[i], strict=True)
    return Origin(
        position=int(batch.position[i]),
        group=group.name,
        epoch=epoch,
        share=group.probability,
        dataset=table.name,
        version=table.version,
        path=table.path,
        split=table.split,
        shard=name.file_name,
        episode_id=batch.episode_id[i],
        step=step,
        n_steps=int(table.n_steps_of[row]),
        robot=table.vocabularies["robot"][table.codes("robot")[row]],
        norm_key=batch.norm_key[i],
        control_hz=float(batch.control_hz[i]),
        cameras=tuple(camera for camera, is_there in present if is_there),
        text=batch.language[i],
        text_of="segment" if batch.is_segment_text[i] else "task" if batch.language[i] else "none",
        **stored,
    )


def _stored(sidecar: Path, episode_id: str, step: int) -> dict[str, Any]:
    """What the sidecar alone knows of an episode: its record, its source, and the time of a step."""
    columns = ["episode_id", "record_index", "source_uri", "source_key", "timestamp_s"]
    rows = pq.read_table(sidecar, columns=columns, filters=[("episode_id", "=", episode_id)]).to_pylist()
    if not rows:
        raise FailedWork(f"{sidecar}: expected the episode {episode_id}, found none; the index changed, run again")
    times = rows[0]["timestamp_s"]
    return {
        "record": rows[0]["record_index"],
        "source_uri": rows[0]["source_uri"],
        "source_key": rows[0]["source_key"],
        # Sidecars of shards that other programs wrote have no times.
        "time_s": times[step] - times[0] if times else float("nan"),
    }


def render_origin(mixture: Mixture, origin: Origin) -> str:
    """One sample's origin as text for a terminal, with the arithmetic of its group's share."""
    group = mixture.groups[mixture.group_index(origin.group)]
    time = f", {origin.time_s:.2f} s after its start" if origin.time_s == origin.time_s else ""
    text = f"{origin.text!r}, the text of its {origin.text_of}" if origin.text else "none"
    return "\n".join(
        [
            f"position {origin.position:,}: {origin.dataset}/{origin.episode_id}/{origin.step}",
            f"  source    {origin.source_uri}",
            f"            {origin.source_key or 'the source gives it no name of its own'}",
            f"  step      {origin.step} of {origin.n_steps} (from 0){time}",
            f"  record    {origin.record} of {origin.path}/{origin.shard}",
            f"  robot     {origin.robot}, {origin.control_hz:g} Hz, normalized by {origin.norm_key}",
            f"  cameras   {', '.join(origin.cameras) or 'none'}",
            f"  text      {text}",
            f"  group     {origin.group}, epoch {origin.epoch} of it, {origin.share:.4%} of all draws:",
            *(f"          {line}" for line in explain_share(group, mixture.draws)),
        ]
    )


def render_origins(origins: list[Origin]) -> str:
    """A line a sample, for the positions of a batch."""
    return "\n".join(
        f"{o.position:>10} {o.group:<40} {o.dataset}/{o.episode_id[:12]}/{o.step:<6} {o.source_key}" for o in origins
    )
