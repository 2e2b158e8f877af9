"""Dataflow without credentials: its own proto, its job, what it stages, and a worker that has only the wheel.

The conversion is launched by its graph, publishing by its whole command; nothing is sent but to a folder.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import GoogleCloudOptions
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipelines import cli, flex_template
from pipelines.contract.registries import use_registries
from pipelines.conversion.graph import ConvertAll
from pipelines.conversion.launch import ConversionRequest, convert, make_job, plan_conversion
from pipelines.conversion.measure import load_measured
from pipelines.conversion.plan import Job, save_plan
from pipelines.conversion.results import load_result
from pipelines.jobs.beam_options import make_beam_options, option_parser
from pipelines.mapping.adapters import Adapter, find_adapter, get_adapter
from pipelines.publishing import graph
from pipelines.shards.dataset import Dataset
from pipelines.shards.sidecar import ShardId
from pipelines.storage.paths import as_storage_path
from tests.support.checkout import ROOT
from tests.support.inputs.native_files import bridge_features, write_rlds
from tests.support.inputs.own_registry import OWN
from tests.support.servers.memory_store import MemoryStore
from tests.test_house import PACKAGES
from trainers.main import main

pytest.importorskip("apitools", reason="needs apache-beam[gcp]")

RECIPES = ROOT / "pipelines/dataflow"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
FLAGS = [
    "--runner=DataflowRunner",
    "--no_auth",
    "--project=my-project",
    "--region=us-central1",
    "--temp_location=gs://my-bucket/tmp",
    "--staging_location=gs://my-bucket/staging",
    "--job_name=tiny",
    f"--setup_file={ROOT}/pyproject.toml",
    f"--requirements_file={RECIPES}/worker_requirements.txt",
    "--requirements_cache=skip",
]


@dataclass(frozen=True, kw_only=True)
class StagedJob:
    """What a launcher would send: the job, the files for its workers, and the conversion behind it."""

    job: Job
    description: dict[str, Any]
    folder: Path

    @property
    def environment(self) -> dict[str, Any]:
        return self.description["environment"]


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> StagedJob:
    return stage_job(tmp_path_factory.mktemp("dataflow"), get_adapter("bridge_orig"))


def stage_job(folder: Path, adapter: Adapter) -> StagedJob:
    """Plans a conversion of four episodes into two shards, and stages its job in a folder in place of a bucket."""
    conversion = four_episodes(folder, adapter)
    plan = plan_conversion(conversion, None)
    job = make_job(conversion, plan)
    save_plan(job, plan)
    every = tuple(sorted(plan.shards))
    staged = folder / "staged"
    with staged_in(staged):
        pipeline = beam.Pipeline(options=make_beam_options(FLAGS))
        _ = pipeline | "Convert" >> ConvertAll(job, every, every)
        pipeline.run()
    return StagedJob(job=job, description=json.loads((staged / "job.json").read_text()), folder=staged)


def four_episodes(folder: Path, adapter: Adapter) -> ConversionRequest:
    return ConversionRequest(
        source=str(write_rlds(folder / "in", {"train": [bridge_features(i) for i in range(4)]})),
        output_root=str(folder / "out"),
        name="tiny",
        version="1.0.0",
        adapter=adapter,
        n_shards=2,
    )


@contextmanager
def staged_in(folder: Path, run: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Has Dataflow's client stage in a folder in place of a bucket, and `run` what it would send to the service."""
    from apache_beam.runners.dataflow.internal.apiclient import DataflowApplicationClient

    folder.mkdir()

    def stage(name: str, content: bytes) -> None:
        (folder / Path(name).name).write_bytes(content)

    def stage_file(_client: Any, _where: str, name: str, file: Any, *_: Any) -> None:
        stage(name, file.read())

    def copy_file(_client: Any, path: str, to: str, _sha256: str) -> None:
        stage(to, Path(path).read_bytes())

    def create_job(client: Any, job: Any) -> None:
        client.create_job_description(job)
        stage("job.json", job.json().encode())
        run()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DataflowApplicationClient, "stage_file", stage_file)
        patch.setattr(DataflowApplicationClient, "_gcs_file_copy", copy_file)
        patch.setattr(DataflowApplicationClient, "create_job", create_job)
        # It asks the bucket, for minutes where there are no credentials.
        patch.setattr(GoogleCloudOptions, "_warn_if_soft_delete_policy_enabled", lambda *_: None)
        yield


def test_the_job_names_its_workers_packages_and_bucket(staged: StagedJob) -> None:
    assert staged.description["type"] == "JOB_TYPE_BATCH"
    options = staged.environment["sdkPipelineOptions"]["options"]
    assert (options["project"], options["region"], options["job_name"]) == ("my-project", "us-central1", "tiny")
    (harness,) = staged.environment["workerPools"][0]["sdkHarnessContainerImages"]
    assert harness["containerImage"].endswith(f"beam_python{PYTHON}_sdk:{beam.__version__}")
    # The launcher's own session is no part of the job: what it imports, workers need not have.
    assert {path.name for path in staged.folder.iterdir()} == {
        "job.json",
        "pipeline.pb",
        "requirements.txt",
        "submission_environment_dependencies.txt",
        "workflow.tar.gz",
    }
    assert (staged.folder / "pipeline.pb").stat().st_size < 200_000


def test_the_source_package_holds_every_data_file(staged: StagedJob) -> None:
    with tarfile.open(staged.folder / "workflow.tar.gz") as package:
        names = {name.partition("/")[2] for name in package.getnames()}
    shipped = {"*.yaml", "*/*.yaml", "*/*.css", "*/*.js", "*/static/*", "dataflow/*"}
    files = {path for package in PACKAGES for pattern in shipped for path in (ROOT / package).glob(pattern)}
    assert len(files) >= 15
    assert {str(path.relative_to(ROOT)) for path in files} | {"constraints.txt"} <= names


@pytest.fixture(scope="module")
def clean(staged: StagedJob, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that holds the dependencies and the package that `--setup_file` stages, and nothing else."""
    return make_clean_interpreter(staged.folder / "workflow.tar.gz", tmp_path_factory.mktemp("worker"))


def run_as_worker(clean: Path, staged: Path, folder: Path) -> dict[str, Any]:
    """Runs a staged job where the checkout is out of sight; returns which files and packages it needed."""
    script = shutil.copy(ROOT / "tests/support/run_staged.py", folder)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "EMBODIMIX"))}
    command = [str(clean), "-I", script, str(staged / "pipeline.pb")]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def count_episodes(job: Job) -> int:
    results = [load_result(job, ShardId(split="train", shard=shard, n_shards=2)) for shard in range(2)]
    return sum(result.n_episodes for result in results if result)


def test_a_worker_with_nothing_but_the_staged_package_converts(staged: StagedJob, clean: Path, tmp_path: Path) -> None:
    used = run_as_worker(clean, staged.folder, tmp_path)
    check_only_the_package_was_used(used, clean)
    measured = load_measured(staged.job)
    assert measured is not None and measured.n_episodes == 4
    assert count_episodes(staged.job) == 4


def check_only_the_package_was_used(used: dict[str, Any], clean: Path) -> None:
    assert used["ours"] and all(path.startswith(str(clean.parents[1])) for path in used["ours"])
    allowed = requirements_of("embodimix", {"pipelines"})
    assert {canonicalize_name(name) for name in used["others"]} <= allowed


def test_a_worker_converts_by_a_registry_that_it_has_never_seen(clean: Path, tmp_path: Path) -> None:
    own = tmp_path / "my.yaml"
    own.write_text(OWN)
    job = stage_job(tmp_path, find_adapter(str(own)))
    own.unlink()
    use_registries([])
    (tmp_path / "elsewhere").mkdir()
    run_as_worker(clean, job.folder, tmp_path / "elsewhere")
    measured = load_measured(job.job)
    assert measured is not None and list(measured.statistics) == ["desk_arm/joint_position/pi18/v1"]
    assert count_episodes(job.job) == 4


def test_a_worker_publishes_what_was_converted_by_a_registry_that_it_has_never_seen(
    clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command, with Dataflow's options: the files of the local one, byte for byte."""
    own = tmp_path / "my.yaml"
    own.write_text(OWN)
    convert(four_episodes(tmp_path, find_adapter(str(own))))
    own.unlink()
    use_registries([])
    here, there, staged, elsewhere = (tmp_path / name for name in ("here", "there", "staged", "elsewhere"))
    command, options = ["publish", f"{tmp_path}/out/tiny/1.0.0"], ["--as=lerobot", "--steps-per-file=5", "--quiet"]
    assert main([*command, str(here), *options]) == 0
    # The folder stands for a bucket.
    monkeypatch.setattr(graph, "check_reach", lambda *_: None)
    elsewhere.mkdir()
    used: dict[str, Any] = {}
    with staged_in(staged, lambda: used.update(run_as_worker(clean, staged, elsewhere))):
        assert main([*command, str(there), *options, *FLAGS]) == 0
    check_only_the_package_was_used(used, clean)
    files = contents(there)
    assert files == contents(here)
    assert sum(name.endswith(".mp4") for name in files) == 4
    assert json.loads(files["meta/info.json"])["robot_type"] == "desk_arm"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def make_clean_interpreter(package: Path, folder: Path) -> Path:
    """An interpreter that sees this environment's dependencies, but of this project only what `package` installs."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "clean"], check=True)
    site = folder / f"clean/lib/python{PYTHON}/site-packages"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", site, package], check=True, cwd=folder)
    # Folders that a .pth file names are searched, but their own .pth files, an editable install's among them, are not.
    (site / "dependencies.pth").write_text(f"{Path(beam.__file__).parents[1]}\n")
    return folder / "clean/bin/python"


def requirements_of(name: str, extras: set[str]) -> set[str]:
    """The distributions that a distribution needs, itself and all that those need included."""
    found: set[str] = set()
    todo = [(canonicalize_name(name), frozenset(extras))]
    while todo:
        name, wanted = todo.pop()
        found.add(name)
        try:
            requirements = [Requirement(line) for line in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:
            continue
        for requirement in requirements:
            markers = [{"extra": extra} for extra in wanted] or [{"extra": ""}]
            if requirement.marker and not any(requirement.marker.evaluate(marker) for marker in markers):
                continue
            if canonicalize_name(requirement.name) not in found or requirement.extras:
                todo.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return found


def test_workers_install_the_pinned_packages_of_the_extras() -> None:
    pins = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines()]
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    needed = setup["options"]["install_requires"] + extras["pipelines"] + extras["bag"]
    by_name = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}
    names = {canonicalize_name(Requirement(line).name) for line in needed.split()}
    expected = {name: by_name[name] for name in names}
    # Beam's images bring Beam.
    del expected["apache-beam"]
    listed = dict(line.split("==") for line in (RECIPES / "worker_requirements.txt").read_text().split())
    assert {canonicalize_name(name): version for name, version in listed.items()} == expected


def test_the_image_is_of_the_pinned_beam_and_starts_files_that_exist() -> None:
    recipe = (RECIPES / "Dockerfile").read_text()
    assert re.search(r"^FROM apache/beam_python\$\{PYTHON\}_sdk:(\S+)$", recipe, re.MULTILINE)[1] == beam.__version__
    assert re.search(r"^ARG PYTHON=(\S+)$", recipe, re.MULTILINE)[1] == "3.11"
    started = re.search(r"FLEX_TEMPLATE_PYTHON_PY_FILE=/opt/embodimix/(\S+)", recipe)[1]
    assert (ROOT / started).is_file() and Path(started).name == Path(flex_template.__file__).name


def test_every_parameter_of_the_template_is_an_option_of_convert() -> None:
    template = json.loads((RECIPES / "flex_template.json").read_text())
    required = [p["name"] for p in template["parameters"] if not p.get("isOptional")]
    assert required == ["format", "input", "output_root", "name", "version", "sdk_container_image"]
    for parameter in template["parameters"]:
        assert parameter.keys() <= {"name", "label", "helpText", "isOptional", "regexes"}
        assert parameter["name"] and parameter["label"] and parameter["helpText"]
        for pattern in parameter.get("regexes", []):
            re.compile(pattern)
        known, unknown = option_parser().parse_known_args([f"--{parameter['name']}=1"])
        assert parameter["name"] in flex_template.POSITIONAL or not unknown or is_option_of_convert(parameter["name"])


def is_option_of_convert(name: str) -> bool:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    cli.add_commands(parser.add_subparsers(dest="command"))
    _, unknown = parser.parse_known_args(["convert", "rlds", "in", "out", f"--{name}=1"])
    return not unknown


def test_a_template_hands_over_and_the_same_command_closes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from apache_beam.runners.dataflow.internal.apiclient import DataflowApplicationClient
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    MemoryStore.objects.clear()
    source = write_rlds(tmp_path / "in", {"train": [bridge_features(i) for i in range(4)]})
    for path in source.iterdir():
        MemoryStore.objects[f"mem://bucket/in/{path.name}"] = path.read_bytes()
    sent: dict[str, bytes] = {}
    monkeypatch.setattr(
        DataflowApplicationClient,
        "stage_file",
        lambda _self, _where, name, stream, *_: sent.update({name: stream.read()}),
    )
    monkeypatch.setattr(DataflowApplicationClient, "_gcs_file_copy", lambda *_: None)
    # It asks the bucket, for minutes where there are no credentials.
    monkeypatch.setattr(GoogleCloudOptions, "_warn_if_soft_delete_policy_enabled", lambda *_: None)
    launched = [
        "--format=rlds",
        "--input=mem://bucket/in",
        "--output_root=mem://bucket/out",
        "--name=tiny",
        "--version=1.0.0",
        "--adapter=bridge_orig",
        "--shards=2",
        "--sdk_container_image=registry/embodimix:0",
        "--no_auth",
        "--project=my-project",
        "--region=us-central1",
        "--job_name=tiny",
        "--sdk_location=container",
        "--temp_location=gs://my-bucket/tmp",
        "--staging_location=gs://my-bucket/staging",
        "--template_location=gs://my-bucket/staging/template_launches/job_object",
    ]
    assert flex_template.main(launched) == 0
    assert json.loads(sent["job_object"])["environment"]["sdkPipelineOptions"]["options"]["project"] == "my-project"
    assert not as_storage_path("mem://bucket/out/tiny/1.0.0/dataset_info.json").exists()
    run_here(sent["pipeline.pb"], FnApiRunner())
    conversion = ConversionRequest(
        source="mem://bucket/in",
        output_root="mem://bucket/out",
        name="tiny",
        version="1.0.0",
        adapter=get_adapter("bridge_orig"),
        n_shards=2,
    )
    assert convert(conversion)["episodes_out"] == 4
    Dataset.open(as_storage_path("mem://bucket/out/tiny/1.0.0")).verify_hashes()
    MemoryStore.objects.clear()


def run_here(pipeline: bytes, runner: Any) -> None:
    from apache_beam.portability import python_urns
    from apache_beam.portability.api import beam_runner_api_pb2

    proto = beam_runner_api_pb2.Pipeline.FromString(pipeline)
    for environment in proto.components.environments.values():
        environment.urn, environment.payload = python_urns.EMBEDDED_PYTHON, b""
    runner.run_via_runner_api(proto, make_beam_options([])).wait_until_finish()
