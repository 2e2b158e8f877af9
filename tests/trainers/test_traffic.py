"""What devices send each other in a train step: parameters and their gradients, however large the batch is."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks.collectives import Collective, bytes_by_kind, collectives
from tests.support.checkout import ROOT

# Deep and narrow, so that activations would outweigh the weights; the table is the size of no layer.
EIGHT_DEVICES = """
import json
from pathlib import Path
import jax
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_disable_most_optimizations", True)
import trainers.mesh
from benchmarks.traffic import CAMERAS, Packing, measure, resolve_config
from trainers.config import flattened
trainers.mesh.MIN_SPLIT_BYTES = 1000  # so that the small model is split as a large one is
gemma = {"width": 64, "depth": 8, "mlp_dim": 256, "heads": 2, "kv_heads": 1, "head_dim": 16}
sizes = {
    "policy.siglip": {"width": 64, "depth": 6, "mlp_dim": 256, "heads": 2, "patch_size": 56},
    "policy.prefix": gemma, "policy.expert": gemma,
    "policy.vocab_size": 512, "policy.max_tokens": 8, "policy.unroll": 1, "policy.remat": "full",
}
mesh = trainers.mesh.build_mesh(8, batch_size=8)
rows = []
for batch, packing in ((8, None), (64, None), (64, Packing(slots=16, groups=8))):
    changes = flattened(sizes) | {"batch_size": batch, "fsdp": 8}
    config = resolve_config(
        stage="pretrain", mixture=Path("toy.yaml"), horizon=4, cameras=CAMERAS, overrides=changes)
    rows.append(measure(config, mesh, packing=packing))
print(json.dumps(rows))
"""
EMBEDDED = 8 * 64 * 4  # bytes of one prompt's embeddings


@pytest.fixture(scope="module")
def rows() -> list[dict[str, float]]:
    """Small batch, large batch, large batch with packed images."""
    command = [sys.executable, "-c", EIGHT_DEVICES]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", ["all-gather", "all-reduce"])
def test_traffic_does_not_grow_with_the_batch(rows: list[dict[str, float]], kind: str) -> None:
    small, large, _ = rows
    # Prompts are looked up where the table's rows lie: their embeddings move, a thousandth of what weights would.
    assert large[kind] - small[kind] < 2 * 56 * EMBEDDED
    assert large[kind] < 1.05 * small[kind]


def test_weights_are_gathered_once_each_way_and_gradients_summed_once(rows: list[dict[str, float]]) -> None:
    large = rows[1]
    assert 1.5 * large["parameters"] < large["all-gather"] < 2.1 * large["parameters"]
    assert 0.8 * large["parameters"] < large["all-reduce"] < 1.1 * large["parameters"]


def test_packing_moves_no_images_between_devices(rows: list[dict[str, float]]) -> None:
    _, large, packed = rows
    assert packed["all-to-all"] + packed["collective-permute"] < 0.01 * packed["parameters"]
    assert packed["all-gather"] < 1.05 * large["all-gather"]


PROGRAM = """
HloModule jit_step

%body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %all-gather.1 = f32[8,4]{1,0} all-gather(%part), dimensions={0}, metadata={op_name="jit(step)/while/dot"}
}

ENTRY %main (x: f32[8,4]) -> f32[8,4] {
  %while.1 = (s32[], f32[8,4]{1,0}) while(%s), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"18"}}
  %all-reduce.1 = (bf16[10]{0}, f32[]) all-reduce(%a, %b), to_apply=%add
  %all-gather-start.1 = (f32[2]{0}, f32[16]{0}) all-gather-start(%y), dimensions={0}
}
"""


def test_a_loops_collectives_count_as_often_as_it_turns() -> None:
    assert bytes_by_kind(PROGRAM) == {"all-gather": 18 * 8 * 4 * 4 + 16 * 4, "all-reduce": 10 * 2 + 4}
    gathered = Collective(kind="all-gather", n_bytes=128, turns=18, name="jit(step)/while/dot")
    assert next(collectives(PROGRAM)) == gathered


def test_a_loop_of_unknown_length_around_a_collective_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a loop of known length around a collective"):
        bytes_by_kind(PROGRAM.replace("known_trip_count", "unknown"))
