"""What a train step moves between devices, counted in the compiled program of the whole step; nothing is allocated.

    python -m benchmarks.traffic                         pi0 on 8 simulated devices, --fsdp 8, batches of 16 and 128
    python -m benchmarks.traffic --fsdp 4 --packed       two thirds of the images there, packed device by device
    python -m benchmarks.traffic --unconstrained         without keeping activations split by samples: what it is for
    python -m benchmarks.traffic --cuda                  compiled for 8 H200, without one (pip install "jax[cuda12]")

Bytes are those of one device and one step (`benchmarks.collectives`). The CPU's compiler computes bfloat16 in float32
and gathers it so; the one for CUDA moves bfloat16.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from benchmarks.collectives import bytes_by_kind
from model.inputs import CAMERAS, Observation
from model.packing import Packing
from model.params import param_count
from trainers.config import RunConfig, resolve_config
from trainers.mesh import AXES, replicated, split_batch, split_state, traced_on, with_placement
from trainers.setup import abstract_state
from trainers.step import TrainBatch, build_train_step

# Without a device nothing can be tried out: products go to cuBLAS, by its first choice.
CUDA_OPTIONS = {"xla_gpu_enable_triton_gemm": False, "xla_gpu_autotune_level": 0}
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


def main() -> None:
    """Prints the table, or a line of JSON for each row."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.traffic", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="pi0")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--fsdp", type=int, default=8)
    parser.add_argument("--batch", default="16,128", help="batch sizes, with commas")
    parser.add_argument("--packed", action="store_true")
    parser.add_argument("--unconstrained", action="store_true")
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", asked.devices)
    # The partitioner runs all the same; what is left out would take minutes and move nothing.
    jax.config.update("jax_disable_most_optimizations", not asked.cuda)
    devices = cuda_devices(asked.devices) if asked.cuda else jax.devices()
    mesh = Mesh(np.array(devices).reshape(-1, asked.fsdp), AXES)
    if not asked.json:
        print(f"| batch | parameters, GB | {', GB | '.join(KINDS)}, GB | temporary, GB | compile, s |")
        print(f"|{'---|' * (len(KINDS) + 4)}")
    for batch in (int(number) for number in asked.batch.split(",")):
        config = resolve_config(
            stage="pretrain",
            mixture=Path("mixture.yaml"),
            horizon=50,
            cameras=CAMERAS,
            overrides={"model": asked.model, "batch_size": batch, "fsdp": asked.fsdp},
        )
        slots = max(2 * batch // asked.devices, 1)
        packing = Packing(slots=slots, groups=asked.devices) if asked.packed else None
        row = measure(config, mesh, packing=packing, constrained=not asked.unconstrained)
        print(json.dumps(row) if asked.json else table_row(row), flush=True)


def measure(
    config: RunConfig, mesh: Mesh, *, packing: Packing | None = None, constrained: bool = True
) -> dict[str, float]:
    """Bytes of each kind of collective, of the parameters and of temporary memory, and seconds to compile."""
    began = time.perf_counter()
    compiled = compile_step(config, mesh, packing=packing, constrained=constrained)
    seconds = time.perf_counter() - began
    moved = bytes_by_kind(compiled.as_text())
    return {
        "batch": config.batch_size,
        "parameters": 4 * param_count(abstract_state(config).params),
        **{kind: moved[kind] for kind in KINDS},
        "temporary": compiled.memory_analysis().temp_size_in_bytes,
        "compile_s": round(seconds, 1),
    }


def compile_step(config: RunConfig, mesh: Mesh, *, packing: Packing | None = None, constrained: bool = True) -> Any:
    """The trainer's step, compiled for the mesh from shapes alone."""
    state = with_placement(mesh, abstract_state(config))
    placed = split_batch(mesh)
    batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed), batch_shapes(config, packing)
    )
    step = build_train_step(config)
    jitted = jax.jit(
        traced_on(mesh, step) if constrained else step,
        donate_argnums=0,
        out_shardings=(split_state(mesh, state), replicated(mesh)),
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    lowered = jitted.lower(state, batch, key, jax.ShapeDtypeStruct((), np.float32))
    return lowered.compile(CUDA_OPTIONS if mesh.devices.flat[0].platform == "gpu" else None)


def batch_shapes(config: RunConfig, packing: Packing | None = None) -> TrainBatch:
    """Shapes of one batch with all cameras of the run."""
    b, policy = config.batch_size, config.policy
    pixels, tokens = (b, policy.image_size, policy.image_size, 3), (b, policy.max_tokens)
    shape = jax.ShapeDtypeStruct
    return TrainBatch(
        observation=Observation(
            images={name: shape(pixels, np.uint8) for name in config.cameras},
            image_masks={name: shape((b,), bool) for name in config.cameras},
            tokenized_prompt=shape(tokens, np.int32),
            tokenized_prompt_mask=shape(tokens, bool),
            state=shape((b, policy.action_dim), np.float32),
            packing=packing,
        ),
        actions=shape((b, policy.horizon, policy.action_dim), np.float32),
        action_mask=shape((b, policy.action_dim), bool),
        chunk_mask=shape((b, policy.horizon), bool),
        stop_signal=shape((b,), np.int32),
    )


def cuda_devices(count: int) -> list[Any]:
    """H200s to compile for, which need not be there. SystemExit where JAX's CUDA plugin is not installed."""
    from benchmarks.cuda_target import h200_devices

    return h200_devices(count)


def table_row(row: dict[str, float]) -> str:
    """One line of the table, in GB."""
    moved = " | ".join(f"{row[kind] / 1e9:.2f}" for kind in KINDS)
    sizes = f"{row['batch']:.0f} | {row['parameters'] / 1e9:.2f}"
    return f"| {sizes} | {moved} | {row['temporary'] / 1e9:.2f} | {row['compile_s']:.0f} |"


if __name__ == "__main__":
    main()
