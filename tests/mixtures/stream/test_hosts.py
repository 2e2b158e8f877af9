"""Several processes of one machine that draw one stream: their parts make the batches that one host draws alone."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mixtures.mixture import open_mixture
from mixtures.stream.batches import Stream
from tests.support.checkout import ROOT
from tests.support.inputs.mixture_data import make_episode, write_dataset, write_spec
from tests.support.stream_process import ARRAYS, digest


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hosts")
    write_dataset(root, "a", [make_episode(i, task=["fold", "sort"][i % 2]) for i in range(6)])
    return write_spec(root, "seed: 5\ndatasets: [{path: a/1.0.0}]\naction: {horizon: 4}\n")


def run_processes(spec: Path, count: int, batch_size: int, start: int, stop: int) -> list[list[dict[str, object]]]:
    """What each of `count` processes says of the whole batches, in a list by process."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        coordinator = f"localhost:{probe.getsockname()[1]}"
    script = str(ROOT / "tests/support/stream_process.py")
    fixed = [sys.executable, script, str(spec), str(spec.parent / "cache"), coordinator, str(count)]
    commands = [[*fixed, str(i), *map(str, (batch_size, start, stop))] for i in range(count)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    processes = [
        subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for command in commands
    ]
    printed = [process.communicate(timeout=400) for process in processes]
    assert all(process.returncode == 0 for process in processes), printed
    return [json.loads(stdout.splitlines()[-1]) for stdout, _ in printed]


@pytest.mark.slow
def test_processes_assemble_the_batches_of_one_host_and_others_go_on(spec: Path) -> None:
    mixture = open_mixture(spec, cache=spec.parent / "cache")
    with Stream(mixture, batch_size=12) as stream:
        alone = list(stream.batches(start=96, stop=132))
    expected = [{name: digest(getattr(batch, name)) for name in ARRAYS} for batch in alone]
    three = run_processes(spec, 3, 12, 96, 120)
    two = run_processes(spec, 2, 12, 120, 132)
    assert three[0] == three[1] == three[2] and two[0] == two[1]
    found = three[0] + two[0]
    assert [{name: batch[name] for name in ARRAYS} for batch in found] == expected
    means = [round(float(batch.images.astype("float32").mean()), 4) for batch in alone]
    assert [batch["mean"] for batch in found] == pytest.approx(means, abs=0.01)
