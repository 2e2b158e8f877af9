"""The Beam graph of a conversion: shard ids go in, counts come out; references and pixels stay in files."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.pvalue import AsSingleton

from pipelines.convert import (
    Measured,
    check_cameras,
    convert_shard,
    measure_shard,
    merge_measured,
    settle_measured,
)
from pipelines.plan import Job, ShardId

_NAMESPACE = "embodimix"


class MergeMeasured(beam.CombineFn):
    """Merges measurements in any order and grouping."""

    def create_accumulator(self) -> Measured:
        return merge_measured([])

    def add_input(self, accumulator: Measured, measured: Measured) -> Measured:
        return merge_measured([accumulator, measured])

    def merge_accumulators(self, accumulators: Sequence[Measured]) -> Measured:
        return merge_measured(list(accumulators))

    def extract_output(self, accumulator: Measured) -> Measured:
        return accumulator


class ConvertShard(beam.DoFn):
    """Converts a shard and counts what became of its episodes."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def process(self, shard: ShardId, measured: Measured) -> Iterator[tuple[str, int]]:
        started = time.monotonic()
        result = convert_shard(self.job, shard, measured)
        counts = {
            "episodes_out": result.n_episodes, "steps_out": result.n_steps, "bytes_out": result.n_bytes,
            "milliseconds": int(1000 * (time.monotonic() - started)),
        }  # fmt: skip
        counts |= {f"rejected_{reason}": n for reason, n in Counter(r.reason for r in result.rejects).items()}
        for name, value in counts.items():
            Metrics.counter(_NAMESPACE, name).inc(value)
        yield result.shard.file_stem, result.n_episodes


class ConvertAll(beam.PTransform):
    """Shard ids in, (shard, episodes written) out: measures all of `every`, then writes `todo`.

    measured: the measurements of an earlier run of the same job, which then need not be taken again.
    """

    def __init__(
        self, job: Job, every: Sequence[ShardId], todo: Sequence[ShardId], measured: Measured | None = None
    ) -> None:
        super().__init__()
        self.job = job
        self.every = tuple(every)
        self.todo = tuple(todo)
        self.measured = measured

    def expand(self, pipeline: beam.Pipeline) -> Any:
        if self.measured is None:
            measured = (
                pipeline
                | "Shards to measure" >> beam.Create(self.every)
                | "Spread measuring" >> beam.Reshuffle()
                | "Measured shards" >> beam.Map(_measure, self.job)
                | "Measured dataset" >> beam.CombineGlobally(MergeMeasured())
                | "Cameras that exist" >> beam.Map(check_cameras, self.job)
                | "Saved measurements" >> beam.Map(settle_measured, self.job)
            )
        else:
            measured = pipeline | "Measured before" >> beam.Create([self.measured])
        return (
            pipeline
            | "Shards to write" >> beam.Create(self.todo)
            | "Spread writing" >> beam.Reshuffle()
            | "Written shards" >> beam.ParDo(ConvertShard(self.job), AsSingleton(measured))
        )


def _measure(shard: ShardId, job: Job) -> Measured:
    return measure_shard(job, shard)
