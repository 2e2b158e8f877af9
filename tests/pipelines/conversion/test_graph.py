"""The Beam graph: what it holds, and that workers can be told of it."""

from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.internal import pickler
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from pipelines.contract.episode import Episode, Reference
from pipelines.contract.errors import FailedWork
from pipelines.conversion.graph import ConvertAll, ConvertShard, MergeMeasured
from pipelines.conversion.launch import ConversionRequest, make_job, plan_conversion
from pipelines.conversion.measure import Measured, PendingVectors, check_layout, merge_measured
from pipelines.conversion.plan import Job, save_plan
from pipelines.mapping.adapters import get_adapter
from pipelines.shards.sidecar import ShardId
from pipelines.shards.statistics import NormStatistics, merge_statistics, save_statistics, summarize_episode
from tests.support.inputs.mixture_data import summarize
from tests.support.inputs.native_files import bridge_features, picture, write_rlds

JOB = Job(directory="gs://bucket/data/x/1.0.0", name="x", version="1.0.0", adapter=get_adapter("bridge_orig"))
SHARDS = tuple(ShardId(split="train", shard=i, n_shards=500) for i in range(500))


def measure(low: float, camera: str) -> Measured:
    values, mask = np.full((3, 18), low, np.float32), np.ones(18, bool)
    statistics: NormStatistics = summarize_episode("k", values, values, mask, mask)
    return Measured(statistics={"k": statistics}, cameras={camera: 1}, n_episodes=1)


def test_only_shard_ids_are_inlined_in_the_graph() -> None:
    pipeline = beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"]))
    _ = pipeline | "Convert" >> ConvertAll(JOB, SHARDS, SHARDS)
    proto = pipeline.to_runner_api()
    labels = {transform.unique_name for transform in proto.components.transforms.values()}
    assert {"Convert/Measured shards", "Convert/Measured dataset", "Convert/Written shards"} <= labels
    # Dataflow takes jobs up to 10 MB; references stay in files, so 500 shards need little.
    assert proto.ByteSize() < 1_000_000


def test_a_worker_gets_the_same_job() -> None:
    copy = pickler.loads(pickler.dumps(ConvertShard(JOB)))
    assert copy.job == JOB


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_measurements_merge_in_any_order_and_grouping(order: tuple[int, ...], tmp_path: Path) -> None:
    parts = [measure(0.1, "base_0_rgb"), measure(0.2, "left_wrist_0_rgb"), measure(0.3, "base_0_rgb")]
    combine = MergeMeasured()
    first = combine.add_input(combine.create_accumulator(), parts[order[0]])
    rest = merge_measured([parts[order[1]], parts[order[2]]])
    merged = combine.extract_output(combine.merge_accumulators([rest, first]))
    assert merged.n_episodes == 3
    assert merged.cameras == {"base_0_rgb": 2, "left_wrist_0_rgb": 1}
    assert merged.dataset_cameras == ("base_0_rgb", "left_wrist_0_rgb")
    save_statistics(tmp_path / "a.json", merged.statistics)
    save_statistics(tmp_path / "b.json", merge_measured(parts).statistics)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_a_dataset_has_one_layout() -> None:
    """In-house logs of two robots may be of two: their vectors have no common width."""
    keys = {"ur5e/joint_position/pi18/v1": 18, "openarm_dual/joint_position/pi32/v1": 32}
    measured = {}
    for key, n in keys.items():
        values, mask = np.zeros((3, n), np.float32), np.ones(n, bool)
        measured[key] = summarize_episode(key, values, values, mask, mask)
        check_layout({key: measured[key]})
    expected = r"pi18/v1: ur5e/joint_position/pi18/v1; pi32/v1: openarm_dual/joint_position/pi32/v1. Convert the robots"
    with pytest.raises(FailedWork, match=expected):
        check_layout(measured)


def test_statistics_of_another_width_normalize_nothing() -> None:
    """Those of a run hold the vectors of 18 slots in the 32 of its mixture."""
    key, values, mask = "ur5e/joint_position/pi18/v1", np.zeros((3, 32), np.float32), np.ones(32, bool)
    with pytest.raises(FailedWork, match=f"statistics of {key}: expected 18 slots, found 32"):
        check_layout({key: summarize_episode(key, values, values, mask, mask)})


def test_vectors_summarized_together_are_those_summarized_one_by_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    episodes = [
        still_episode(rng.normal(size=(t, 18)).astype(np.float32), robot)
        for t, robot in ((3, "ur5e"), (50, "ur5e"), (7, "widowx"), (1, "ur5e"))
    ]
    one_by_one = merge_statistics([{e.norm_key: summarize(e)} for e in episodes])
    for most_steps in (1, 10, 1000):
        pending = PendingVectors(most_steps)
        for episode in episodes:
            pending.add(episode)
        save_statistics(tmp_path / f"{most_steps}.json", pending.summarize())
    save_statistics(tmp_path / "expected.json", one_by_one)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    assert one_by_one["ur5e/joint_position/pi18/v1"].n_episodes == 3


def still_episode(values: np.ndarray, robot: str) -> Episode:
    t, mask = len(values), np.arange(18) < 7
    return Episode(
        reference=Reference(uri="a", key="a"),
        robot=robot,
        control_mode="joint_position",
        control_hz=10.0,
        state=values,
        action=values / 2,
        timestamp_s=np.arange(t) / 10,
        state_mask=mask,
        action_mask=mask,
        parts={"arm0": tuple(range(6)), "gripper0": (6,)},
        images={},
        dataset_cameras=(),
        task="x",
        language=("x",),
        success=1,
        is_terminal=True,
        reward=np.zeros(t, np.float32),
        discount=np.ones(t, np.float32),
        is_idle=np.zeros(t, bool),
    )


def test_beam_counts_what_came_in_and_out_and_where_time_went(tmp_path: Path) -> None:
    large = [picture(i, size=512) for i in range(12)]
    episodes = [bridge_features(0, image_0=large), bridge_features(1, t=1), bridge_features(2, image_0=large)]
    source = write_rlds(tmp_path / "in", {"train": episodes})
    conversion = ConversionRequest(
        source=str(source),
        output_root=str(tmp_path),
        name="x",
        version="1.0.0",
        adapter=get_adapter("bridge_orig"),
        n_shards=1,
    )
    plan = plan_conversion(conversion, None)
    job = make_job(conversion, plan)
    save_plan(job, plan)
    shards = tuple(plan.shards)
    result = FnApiRunner().run_pipeline(*piped(ConvertAll(job, shards, shards)))
    told = {m.key.metric.name: m.committed for m in result.metrics().query()["counters"] if m.key.metric.namespace}
    counted = {name: n for name, n in told.items() if not name.startswith("milliseconds")}
    assert counted | {"bytes_out": 0} == {
        "episodes_in": 3,
        "episodes_out": 2,
        "steps_in": 24,
        "steps_out": 22,
        "bytes_out": 0,
        "rejected_one_step": 1,
        "rejected_first_step_zero_action": 2,
    }
    stages = [told[f"milliseconds_{stage}"] for stage in ("decode", "resize", "encode")]
    assert all(stages) and sum(stages) <= told["milliseconds_all"] + 2


def piped(transform: beam.PTransform) -> tuple[beam.Pipeline, PipelineOptions]:
    options = PipelineOptions(["--runner=FnApiRunner"])
    pipeline = beam.Pipeline(options=options)
    _ = pipeline | "Convert" >> transform
    return pipeline, options
