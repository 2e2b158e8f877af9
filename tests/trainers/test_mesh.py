"""Several devices: where arrays go, equal results on one and eight, and moving a run between them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from pipelines.contract.errors import UsageError
from tests.support.checkout import ROOT
from tests.support.inputs.toy_mixture import quick_compilation, settings, stand_in
from trainers.mesh import AXES, build_mesh, split_array
from trainers.metrics import read_metrics
from trainers.run import RunDirectory
from trainers.setup import TrainingRequest, read_best
from trainers.train import train

pytestmark = pytest.mark.usefixtures("quick_compilation")
__all__ = ["quick_compilation"]
EIGHT_DEVICES = """
import sys, trainers.mesh
from tests.support.inputs.toy_mixture import stand_in
from trainers.main import main
trainers.mesh.MIN_SPLIT_BYTES = 1000  # so that the small model is split as a large one is
stand_in(setattr)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1024, 4096), PartitionSpec(None, "fsdp")),
        ((4096, 1023), PartitionSpec("fsdp")),
        ((4097, 1023), PartitionSpec()),
        ((1024,), PartitionSpec()),
    ],
)
def test_large_arrays_are_split_on_their_longest_axis_that_divides(
    shape: tuple[int, ...], expected: PartitionSpec
) -> None:
    mesh = AbstractMesh((2, 4), AXES)
    assert split_array(mesh, jax.ShapeDtypeStruct(shape, np.float32)) == expected


def test_devices_that_do_not_divide_are_named() -> None:
    with pytest.raises(UsageError, match="fsdp: expected a divisor of the 1 devices; found 3"):
        build_mesh(3, batch_size=6)


def test_one_device_and_eight_give_the_same_and_a_run_moves_between_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_compilation: dict[str, str]
) -> None:
    stand_in(monkeypatch.setattr)
    (tmp_path / "toy.yaml").write_text("toy")
    changes = settings(batch_size=8, optimizer__decay_steps=4)

    def on_one_device(name: str, **more: Any) -> None:
        train(
            TrainingRequest(
                stage="pretrain", spec=tmp_path / "toy.yaml", run=tmp_path / name, show_progress=False, **more
            )
        )

    on_one_device("one", overrides=changes | {"steps": 4})
    on_one_device("moved", overrides=changes | {"steps": 2})
    (tmp_path / "c.json").write_text(json.dumps(changes))
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "PYTHONPATH": str(ROOT)}
    command = [
        sys.executable,
        "-c",
        EIGHT_DEVICES,
        "train",
        "pretrain",
        str(tmp_path / "toy.yaml"),
        "--run",
        str(tmp_path / "moved"),
        "--resume",
        "--quiet",
        "--steps",
        "4",
        "--set",
        "fsdp=4",
    ]
    done = subprocess.run(command, env=os.environ | quick_compilation | flags, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    losses = [[line["loss"] for line in read_metrics(tmp_path / name / "metrics.jsonl")] for name in ("one", "moved")]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    one, moved = (read_best(RunDirectory(tmp_path / name))[2] for name in ("one", "moved"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), one, moved)


def test_a_batch_that_the_devices_do_not_divide_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "devices", lambda: [None] * 8)
    with pytest.raises(UsageError, match="batch_size: expected a multiple of 8 devices x 2 parts = 16; found 24"):
        build_mesh(1, batch_size=24, accumulate=2)
