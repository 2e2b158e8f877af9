"""Several processes: the same run as one, resumed by another number of them, and stopped together."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.contract.errors import FailedWork, UsageError
from tests.support.checkout import ROOT
from tests.support.inputs.toy_mixture import quick_compilation, settings
from tests.support.waiting import wait_for
from trainers.hosts import join
from trainers.metrics import read_metrics

pytestmark = pytest.mark.usefixtures("quick_compilation")
__all__ = ["quick_compilation"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start(folder: Path, environment: dict[str, str], count: int, *more: str) -> list[subprocess.Popen[str]]:
    """Starts the processes of the run `folder`/run."""
    script = str(ROOT / "tests/support/inputs/toy_mixture.py")
    command = [
        sys.executable,
        script,
        "train",
        "pretrain",
        str(folder / "toy.yaml"),
        "--run",
        str(folder / "run"),
        "--config",
        str(folder / "small.json"),
        "--resume",
        "--json",
        *more,
    ]
    if count > 1:
        command += ["--coordinator", f"localhost:{free_port()}", "--process-count", str(count), "--process-index"]
    return [
        subprocess.Popen(
            [*command, str(index)] if count > 1 else command,
            env=os.environ | environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for index in range(count)
    ]


def summaries(processes: list[subprocess.Popen[str]]) -> list[dict[str, object]]:
    printed = [process.communicate(timeout=400) for process in processes]
    assert all(stdout for stdout, _ in printed), printed
    return [json.loads(stdout.splitlines()[-1]) for stdout, _ in printed]  # the transport writes a line of its own


@pytest.mark.slow
def test_two_processes_stop_together_and_one_goes_on(tmp_path: Path, quick_compilation: dict[str, str]) -> None:
    (tmp_path / "toy.yaml").write_text("toy")
    (tmp_path / "small.json").write_text(json.dumps(settings(batch_size=4)))
    both = start(tmp_path, quick_compilation, 2, "--steps", "100000", "--eval-every", "2")
    wait_for(lambda: len(read_metrics(tmp_path / "run" / "metrics.jsonl")) > 3, both[0])
    both[1].send_signal(signal.SIGTERM)
    first, second = summaries(both)
    assert first == second
    assert [process.returncode for process in both] == [143, 143]
    step = int(str(first["step"]))
    (alone,) = summaries(start(tmp_path, quick_compilation, 1, "--steps", str(step + 1)))
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, step + 2))
    assert lines[-1]["position"] == 4 * (step + 1)
    assert set(lines[0]["group_loss"]) == set(lines[1]["validation"]["group_loss"]) == {"push", "lift"}
    assert alone["batches"] == lines[-1]["batches"]


def test_a_coordinator_needs_count_and_index() -> None:
    with pytest.raises(UsageError, match="--coordinator HOST:PORT, --process-count and --process-index together"):
        join("localhost:1234", None, 0)


def test_distributed_outside_of_a_cluster_says_how_to_join(monkeypatch: pytest.MonkeyPatch) -> None:
    def initialize(*_: object) -> None:
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr("jax.distributed.initialize", initialize)
    with pytest.raises(FailedWork, match="found none .*give every process --coordinator HOST:PORT.* on one machine"):
        join(None, None, None)
