"""Simulated draws: which samples N positions really draw, counted without reading a picture."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixtures.mixture import Mixture
from mixtures.reports.terminal import align
from mixtures.stream.batches import Samples, Stream

CHUNK = 1 << 18


@dataclass(frozen=True, kw_only=True)
class SimulatedGroup:
    """What was drawn of one group. distinct: different steps drawn. fewest, most: draws of any one step."""

    name: str
    planned_share: float
    realised_share: float
    draws: int
    distinct: int
    n_steps: int
    epochs: float
    fewest: int
    most: int
    bytes_read: int


def simulate(mixture: Mixture, draws: int, start: int = 0, seed: int | None = None) -> list[SimulatedGroup]:
    """Draws positions `start` up to `start + draws` of the training split and counts them by group and step."""
    with Stream(mixture, batch_size=1, seed=seed) as stream:
        bounds = stream.index.edges[stream.index.group_edges]
        visits = np.zeros(bounds[-1], np.int64)
        read = np.zeros(len(mixture.groups), np.int64)
        for position in range(start, start + draws, CHUNK):
            samples = stream.samples(position, min(CHUNK, start + draws - position))
            visits += np.bincount(bounds[samples.group] + samples.index, minlength=len(visits))
            sizes = _picture_bytes(stream, samples)
            read += np.bincount(samples.group, weights=sizes, minlength=len(read)).astype(np.int64)
    return [
        _summary(mixture, number, visits[bounds[number] : bounds[number + 1]], draws, int(read[number]))
        for number in range(len(mixture.groups))
    ]


def render(groups: list[SimulatedGroup]) -> str:
    """The simulation as a table for a terminal."""
    header = ("group", "planned %", "drawn %", "draws", "distinct steps", "epochs", "draws a step", "GB")
    rows = [
        (
            group.name,
            f"{100 * group.planned_share:.4f}",
            f"{100 * group.realised_share:.4f}",
            f"{group.draws:,}",
            f"{group.distinct:,}",
            f"{group.epochs:.3f}",
            f"{group.fewest}-{group.most}",
            f"{group.bytes_read / 1e9:.3f}",
        )
        for group in groups
    ]
    draws, read = sum(group.draws for group in groups), sum(group.bytes_read for group in groups)
    last = f"{draws:,} draws read {read / 1e9:.3f} GB of pictures, {read / max(draws, 1) / 1e3:.1f} kB a sample"
    return "\n".join([*align(header, rows), last])


def _picture_bytes(stream: Stream, samples: Samples) -> NDArray[np.int64]:
    """Bytes of all pictures of each sample, int64 [b]."""
    sizes = np.zeros(len(samples.step), np.int64)
    number, row = stream.index.table[samples.episode], stream.index.row[samples.episode]
    for table in np.unique(number):
        mine, source = number == table, stream.mixture.tables[table]
        lengths = source.image_length[source.first_step[row[mine]] + samples.step[mine]].astype(np.int64)
        sizes[mine] = (lengths * source.camera_mask[row[mine]]).sum(axis=1)
    return sizes


def _summary(mixture: Mixture, number: int, visits: NDArray[np.int64], draws: int, bytes_read: int) -> SimulatedGroup:
    group, drawn = mixture.groups[number], int(visits.sum())
    return SimulatedGroup(
        name=group.name,
        planned_share=group.probability,
        realised_share=drawn / max(draws, 1),
        draws=drawn,
        distinct=int((visits > 0).sum()),
        n_steps=group.n_steps,
        epochs=drawn / group.n_steps,
        fewest=int(visits.min()),
        most=int(visits.max()),
        bytes_read=bytes_read,
    )
