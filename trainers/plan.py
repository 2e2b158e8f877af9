"""What a run will take, before it starts: parameters, memory per device, work, and epochs of each group."""

import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh

from mixtures.mixture import Mixture
from model.config import Pi0Config
from trainers.config import RunConfig
from trainers.mesh import AXES, split_array
from trainers.setup import abstract_state

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
        "parameters": (state.trained, state.frozen), "gradients": state.trained,
        "optimizer": state.optimizer, "moving_average": state.ema,
    }  # fmt: skip
    draws = config.steps * config.batch_size
    flops = None
    if isinstance(config.policy, Pi0Config):
        flops = forward_flops(config.policy, len(config.cameras)) * (4 if config.policy.remat == "full" else 3)
    hours = None if flops is None or not device_tflops else draws * flops / (devices * device_tflops * 1e12 * 3600)
    return {
        "schema": SCHEMA, "model": config.model, "devices": devices, "fsdp": config.fsdp,
        "parameters": {"trained": count(state.trained), "frozen": count(state.frozen)},
        "device_gib": {name: device_bytes(mesh, tree) / 2**30 for name, tree in held.items()},
        "batch_mib": config.batch_size * len(config.cameras) * config.policy.image_size**2 * 3 / 2**20,
        "steps": config.steps, "batch_size": config.batch_size, "samples": draws,
        "sample_tflop": None if flops is None else flops / 1e12, "hours": hours,
        "groups": [
            {"name": group.name, "share": group.probability, "draws": group.probability * draws,
             "epochs": group.effective_epochs(draws)}
            for group in mixture.groups
        ],
    }  # fmt: skip


def count(tree: Tree) -> int:
    """Values in all arrays."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def device_bytes(mesh: AbstractMesh, tree: Tree) -> int:
    """Bytes that one device holds of a tree: split arrays in part, the others whole."""
    return sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize // (mesh.shape["fsdp"] if "fsdp" in split_array(mesh, leaf) else 1)
        for leaf in jax.tree.leaves(tree)
    )


def forward_flops(policy: Pi0Config, cameras: int) -> float:
    """Floating-point operations of one sample's forward pass: two per weight and token, and attention's products.

    Full size, three cameras, 48 text tokens: 4.0e12.
    """
    image, prefix, expert = policy.siglip, policy.prefix, policy.expert
    patches = image.tokens
    image_weights = image.depth * (4 * image.width**2 + 2 * image.width * image.mlp_dim)
    image_weights += 3 * image.patch_size**2 * image.width + image.width * prefix.width
    image_flops = 2 * patches * image_weights + 4 * image.depth * patches**2 * image.width
    seen = cameras * patches + policy.max_tokens
    acting = policy.horizon + (0 if policy.pi05 else 1)
    flops = cameras * image_flops
    for gemma, tokens, attended in ((prefix, seen, seen), (expert, acting, seen + acting)):
        heads = gemma.head_dim * (2 * gemma.heads + 2 * gemma.kv_heads)
        weights = gemma.depth * (gemma.width * heads + 3 * gemma.width * gemma.mlp_dim)
        flops += 2 * tokens * weights + 4 * gemma.depth * tokens * attended * gemma.heads * gemma.head_dim
    return float(flops)


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
    if plan["sample_tflop"] is not None:
        lines.append(f"{plan['sample_tflop']:.4f} TFLOP a sample, {plan['sample_tflop'] * plan['samples']:,.1f} in all")
    if plan["hours"] is not None:
        lines.append(f"{plan['hours']:,.2f} hours at the rate given")
    lines.append(f"{'group':<48} {'share':>8} {'draws':>12} {'epochs':>9}")
    lines += [
        f"{group['name']:<48} {group['share']:>8.2%} {group['draws']:>12,.0f} {group['epochs']:>9.2f}"
        for group in plan["groups"]
    ]
    return "\n".join(lines)
