"""The Dataflow runner without credentials: its own proto of the job is built, and that very proto runs here."""

from pathlib import Path

import apache_beam as beam
import pytest
from native_files import bridge_features, write_rlds

from pipelines.adapters import get_adapter
from pipelines.beam_options import make_beam_options
from pipelines.convert import load_measured, load_result
from pipelines.graph import ConvertAll
from pipelines.launch import Conversion, make_job, plan_conversion
from pipelines.plan import save_plan

pytest.importorskip("apitools", reason="needs apache-beam[gcp]")

FLAGS = [
    "--runner=DataflowRunner", "--dry_run=True", "--no_auth", "--project=my-project", "--region=us-central1",
    "--temp_location=gs://my-bucket/tmp", "--staging_location=gs://my-bucket/staging", "--job_name=tiny",
    "--sdk_container_image=registry/embodimix:0", "--sdk_location=container",
]  # fmt: skip


def test_the_proto_that_dataflow_would_get_converts_here(tmp_path: Path) -> None:
    from apache_beam.portability import python_urns
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    source = write_rlds(tmp_path / "in", {"train": [bridge_features(i) for i in range(4)]})
    conversion = Conversion(
        source=str(source), output_root=str(tmp_path / "out"), name="tiny", version="1.0.0",
        adapter=get_adapter("bridge_orig"), n_shards=2,
    )  # fmt: skip
    plan = plan_conversion(conversion, None)
    job = make_job(conversion, plan)
    save_plan(job, plan)
    every = tuple(sorted(plan.shards))
    pipeline = beam.Pipeline(options=make_beam_options(FLAGS))
    _ = pipeline | "Convert" >> ConvertAll(job, every, every)
    pipeline.run()
    proto = pipeline.runner.proto_pipeline
    (environment,) = proto.components.environments.values()
    assert environment.urn == "beam:env:docker:v1"
    environment.urn = python_urns.EMBEDDED_PYTHON
    environment.payload = b""
    FnApiRunner().run_via_runner_api(proto, make_beam_options([])).wait_until_finish()
    measured = load_measured(job)
    assert measured is not None and measured.n_episodes == 4
    assert sum(result.n_episodes for shard in every if (result := load_result(job, shard))) == 4
