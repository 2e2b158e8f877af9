"""What a run will take, before it starts: parameters, memory per device, work, and epochs of each group."""

import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh

from mixtures.mixture import Mixture
from trainers.config import RunConfig
from trainers.mesh import AXES, split_array
from trainers.setup import abstract_state
from trainers.work import forward_flops

SCHEMA = "embodimix.train_plan/v1"
Tree = Any


def make_plan(config: RunConfig, mixture: Mixture, *, device_tflops: float | None = None) -> dict[str, Any]:
    """The plan as JSON. device_tflops: what one device attains, for the hours; none are given without it.

    Memory is what the state and the gradients hold; activations come on top and depend on --remat and --accumulate.
    """
    devices = jax.device_count()
    state = abstract_state(config)
    mesh = AbstractMesh((max(devices // config.fsdp, 1), config.fsdp), AXES)
    held = {
        "parameters": (state.trained, state.frozen),
        "gradients": state.trained,
        "optimizer": state.optimizer,
        "moving_average": state.ema,
    }
    draws = config.steps * config.batch_size
    flops = forward_flops(config.policy, len(config.cameras)) * (4 if config.policy.remat == "full" else 3)
    hours = draws * flops / (devices * device_tflops * 1e12 * 3600) if device_tflops else None
    return {
        "schema": SCHEMA,
        "model": config.model,
        "devices": devices,
        "fsdp": config.fsdp,
        "parameters": {"trained": count(state.trained), "frozen": count(state.frozen)},
        "device_gib": {name: device_bytes(mesh, tree) / 2**30 for name, tree in held.items()},
        "batch_mib": config.batch_size * len(config.cameras) * config.policy.image_size**2 * 3 / 2**20,
        "steps": config.steps,
        "batch_size": config.batch_size,
        "samples": draws,
        "sample_tflop": flops / 1e12,
        "hours": hours,
        "groups": [
            {
                "name": group.name,
                "share": group.probability,
                "draws": group.probability * draws,
                "epochs": group.effective_epochs(draws),
            }
            for group in mixture.groups
        ],
    }


def count(tree: Tree) -> int:
    """Values in all arrays."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def device_bytes(mesh: AbstractMesh, tree: Tree) -> int:
    """Bytes that one device holds of a tree: split arrays in part, the others whole."""
    return sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize // (mesh.shape["fsdp"] if "fsdp" in split_array(mesh, leaf) else 1)
        for leaf in jax.tree.leaves(tree)
    )


def render(plan: Mapping[str, Any]) -> str:
    """The plan as text."""
    numbers, memory = plan["parameters"], plan["device_gib"]
    lines = [
        f"{plan['model']}: {numbers['trained']:,} parameters train, {numbers['frozen']:,} stay",
        f"{plan['devices']} devices, parameters split over {plan['fsdp']}; GiB on each: "
        + ", ".join(f"{name.replace('_', ' ')} {size:.2f}" for name, size in memory.items())
        + f", together {sum(memory.values()):.2f}, activations on top",
        f"{plan['steps']:,} steps of {plan['batch_size']} = {plan['samples']:,} samples; "
        f"pictures of a batch {plan['batch_mib']:.1f} MiB",
    ]
    lines.append(f"{plan['sample_tflop']:.4f} TFLOP a sample, {plan['sample_tflop'] * plan['samples']:,.1f} in all")
    if plan["hours"] is not None:
        lines.append(f"{plan['hours']:,.2f} hours at the rate given")
    lines.append(f"{'group':<48} {'share':>8} {'draws':>12} {'epochs':>9}")
    lines += [
        f"{group['name']:<48} {group['share']:>8.2%} {group['draws']:>12,.0f} {group['epochs']:>9.2f}"
        for group in plan["groups"]
    ]
    return "\n".join(lines)
