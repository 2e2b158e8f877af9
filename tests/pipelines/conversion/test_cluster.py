"""The same graph on servers of their own: workers of an external pool, and Apache Flink with a killed task manager.

`make test-flink` runs these; they start real processes, and those on Flink need Java and what flink_setup.py fetches.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from pipelines.conversion.launch import convert
from tests.pipelines.conversion.test_convert import hash_files, make_conversion
from tests.support.inputs.native_files import bridge_features, write_rlds
from tests.support.servers.flink_cluster import Flink, Servers

pytestmark = pytest.mark.cluster
FLINK = Path(os.environ.get("EMBODIMIX_FLINK", "."))
JOB_SERVER = Path(os.environ.get("EMBODIMIX_FLINK_JOB_SERVER") or FLINK / "job-server.jar").absolute()
on_flink = pytest.mark.skipif(
    not (JOB_SERVER.exists() and (FLINK / "lib").exists()),
    reason="needs Flink and Beam's job server for it; see make test-flink",
)
N, SHARDS = 24, 8
FOLDER = "tiny/1.0.0"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rlds(tmp_path_factory.mktemp("source") / "tiny", {"train": [bridge_features(i) for i in range(N)]})


@pytest.fixture(scope="module")
def hashes(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a local run writes."""
    root = tmp_path_factory.mktemp("local")
    convert(make_conversion(source, root, n_shards=SHARDS))
    return hash_files(root / FOLDER)


@pytest.fixture(scope="module")
def flink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flink]:
    started = Servers(tmp_path_factory.mktemp("flink"))
    try:
        yield started.start_flink(FLINK / "lib", JOB_SERVER)
    finally:
        started.stop()


@pytest.fixture
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    started = Servers(tmp_path_factory.mktemp("servers"))
    yield started
    started.stop()


def launch(servers: Servers, source: Path, root: Path, jobs: int, pool: int) -> subprocess.Popen[str]:
    arguments = [str(source), str(root), "--name", "tiny", "--version", "1.0.0", "--adapter", "bridge_orig"]
    portable = ["--runner=PortableRunner", f"--job_endpoint=localhost:{jobs}", "--parallelism=2"]
    workers = ["--environment_type=EXTERNAL", f"--environment_config=localhost:{pool}", "--sdk_worker_parallelism=2"]
    command = [sys.executable, "-m", "trainers.main", "convert", "rlds", *arguments, "--shards", str(SHARDS)]
    command += [*portable, *workers]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    servers.processes["launcher"] = process
    return process


def finish(process: subprocess.Popen[str]) -> None:
    _, said = process.communicate(timeout=900)
    assert process.returncode == 0, said[-2000:]


def test_workers_of_an_external_pool_write_the_same_bytes(
    source: Path, hashes: dict[str, str], servers: Servers, tmp_path: Path
) -> None:
    finish(launch(servers, source, tmp_path, servers.start_python_job_server(), servers.start_pool()))
    assert hash_files(tmp_path / FOLDER) == hashes


def test_launchers_killed_at_random_moments_with_their_workers_lose_nothing(
    source: Path, hashes: dict[str, str], tmp_path: Path
) -> None:
    """Ten launchers, ended with all their workers at any moment; a dataset that gets whole is begun anew."""
    random = Random(0)
    arguments = [str(source), str(tmp_path), "--name", "tiny", "--version", "1.0.0", "--adapter", "bridge_orig"]
    command = [sys.executable, "-m", "trainers.main", "convert", "rlds", *arguments, "--shards", str(SHARDS)]
    processes = ["--runner=FnApiRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    for _ in range(10):
        run = subprocess.Popen([*command, *processes], stderr=subprocess.DEVNULL, start_new_session=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(random.uniform(0.5, 5.0))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        if (tmp_path / FOLDER / "dataset_info.json").exists():
            subprocess.run(command, check=True, capture_output=True)
            assert hash_files(tmp_path / FOLDER) == hashes
            shutil.rmtree(tmp_path / "tiny")
    subprocess.run(command, check=True, capture_output=True)
    assert hash_files(tmp_path / FOLDER) == hashes
    manifest = json.loads((tmp_path / FOLDER / "manifest.json").read_text())
    assert manifest["counts"]["episodes_in"] == manifest["counts"]["episodes_out"] == N


@on_flink
def test_flink_writes_the_same_bytes(
    source: Path, hashes: dict[str, str], flink: Flink, servers: Servers, tmp_path: Path
) -> None:
    finish(launch(servers, source, tmp_path, flink.jobs, servers.start_pool()))
    assert hash_files(tmp_path / FOLDER) == hashes


@on_flink
@pytest.mark.parametrize("victim", ["task manager", "worker"])
def test_what_is_killed_in_the_middle_of_a_shard_changes_nothing(
    victim: str, source: Path, hashes: dict[str, str], flink: Flink, servers: Servers, tmp_path: Path
) -> None:
    folder = tmp_path / "out" / FOLDER
    process = launch(servers, source, tmp_path / "out", flink.jobs, servers.start_pool(held=tmp_path))
    held, results = tmp_path / "held", folder / ".work/results"
    flink.servers.wait_until(
        lambda: process.poll() is not None or held.exists() and any(results.glob("*.json")), "a shard of each"
    )
    assert process.poll() is None, process.communicate()
    finished = {path.stem: shard_of(folder, path.stem).stat().st_ino for path in results.glob("*.json")}
    assert 0 < len(finished) < SHARDS
    if victim == "worker":
        os.kill(int(held.read_text()), signal.SIGKILL)
    else:
        flink.servers.kill("tasks")
        flink.start_task_manager()
    finish(process)
    assert flink.failures()
    assert hash_files(folder) == hashes
    assert {name: shard_of(folder, name).stat().st_ino for name in finished} == finished


def shard_of(folder: Path, stem: str) -> Path:
    """The shard that a result, named as train-00000-of-00008, tells of."""
    split, place = stem.split("-", 1)
    return folder / f"tiny-{split}.tfrecord-{place}"
