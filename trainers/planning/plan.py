"""What a run will take, before it starts: parameters, memory per device, work, epochs of each group, cut prompts."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import jax
from jax.sharding import AbstractMesh

from mixtures.mixture import Mixture
from mixtures.stream.text_shares import LongTexts, count_long_texts, text_shares
from model.params import param_count
from pipelines.contract.slots import IMAGE_SIZE
from pipelines.contract.words import counted
from trainers.config import RunConfig
from trainers.mesh import AXES, split_array
from trainers.planning.work import forward_flops
from trainers.prompts import PromptEncoder
from trainers.setup import abstract_state
from trainers.step import TrainState

SCHEMA = "embodimix.train_plan/v1"
Tree = Any


@dataclass(frozen=True, kw_only=True)
class PlannedGroup:
    """One group of the mixture: its share of the draws, how many those are, and how often they pass its data."""

    name: str
    share: float
    draws: float
    epochs: float


@dataclass(frozen=True, kw_only=True)
class ParameterCounts:
    """Values in the parameters that train and in those that stay."""

    trained: int
    frozen: int


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """A run before it starts. device_gib: what one device holds of the state and the gradients; activations come on
    top and depend on --remat and --accumulate. hours: at the rate that was given, None without one. prompts: None where
    the tokenizer is not available."""

    model: str
    devices: int
    fsdp: int
    parameters: ParameterCounts
    device_gib: Mapping[str, float]
    batch_mib: float
    steps: int
    batch_size: int
    samples: int
    sample_tflop: float
    hours: float | None
    groups: tuple[PlannedGroup, ...]
    prompts: LongTexts | None

    def to_json(self) -> dict[str, Any]:
        """The plan as `embodimix train --plan --json` prints it."""
        return {"schema": SCHEMA} | asdict(self)


def plan_training(
    config: RunConfig,
    mixture: Mixture,
    *,
    device_tflops: float | None = None,
    prompts: LongTexts | None = None,
) -> TrainPlan:
    """device_tflops: what one device attains, for the hours. prompts: see `count_prompts`."""
    devices = jax.device_count()
    state = abstract_state(config)
    draws = config.steps * config.batch_size
    flops = forward_flops(config.policy, len(config.cameras)) * (4 if config.policy.remat == "full" else 3)
    return TrainPlan(
        model=config.model,
        devices=devices,
        fsdp=config.fsdp,
        parameters=ParameterCounts(trained=param_count(state.trained), frozen=param_count(state.frozen)),
        device_gib=device_gib(config, state),
        batch_mib=config.batch_size * len(config.cameras) * IMAGE_SIZE**2 * 3 / 2**20,
        steps=config.steps,
        batch_size=config.batch_size,
        samples=draws,
        sample_tflop=flops / 1e12,
        hours=draws * flops / (devices * device_tflops * 1e12 * 3600) if device_tflops else None,
        groups=tuple(
            PlannedGroup(
                name=group.name,
                share=group.probability,
                draws=group.probability * draws,
                epochs=group.effective_epochs(draws),
            )
            for group in mixture.groups
        ),
        prompts=prompts,
    )


def device_gib(config: RunConfig, state: TrainState) -> dict[str, float]:
    """GiB that one device holds of a state and its gradients, by part; activations come on top."""
    mesh = AbstractMesh((max(jax.device_count() // config.fsdp, 1), config.fsdp), AXES)
    held = {
        "parameters": (state.trained, state.frozen),
        "gradients": state.trained,
        "optimizer": state.optimizer,
        "moving_average": state.ema,
    }
    return {name: device_bytes(mesh, tree) / 2**30 for name, tree in held.items()}


def count_prompts(mixture: Mixture, encoder: PromptEncoder) -> LongTexts:
    """Counts the texts that a run's policy cuts; states in a prompt count at their widest."""
    widest = max((int(table.state_mask.sum(axis=1).max(initial=0)) for table in mixture.tables), default=0)
    return count_long_texts(text_shares(mixture), lambda text: encoder.tokens(text, widest), encoder.max_tokens)


def device_bytes(mesh: AbstractMesh, tree: Tree) -> int:
    """Bytes that one device holds of a tree: split arrays in part, the others whole."""
    return sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize // (mesh.shape["fsdp"] if "fsdp" in split_array(mesh, leaf) else 1)
        for leaf in jax.tree.leaves(tree)
    )


def render(plan: TrainPlan) -> str:
    """The plan as text."""
    lines = [
        f"{plan.model}: {counted(plan.parameters.trained, 'parameter trains', 'parameters train')}, "
        f"{plan.parameters.frozen:,} stay",
        f"{counted(plan.devices, 'device')}, parameters split over {plan.fsdp}; GiB on each: "
        + ", ".join(f"{name.replace('_', ' ')} {size:.2f}" for name, size in plan.device_gib.items())
        + f", together {sum(plan.device_gib.values()):.2f}, activations on top",
        f"{counted(plan.steps, 'step')} of {plan.batch_size} = {counted(plan.samples, 'sample')}; "
        f"pictures of a batch {plan.batch_mib:.1f} MiB",
        f"{plan.sample_tflop:.4f} TFLOP a sample, {plan.sample_tflop * plan.samples:,.1f} in all",
    ]
    if plan.hours is not None:
        lines.append(f"{plan.hours:,.2f} hours at the rate given")
    lines.append(
        "prompts: not counted without the model's --tokenizer" if plan.prompts is None else f"prompts: {plan.prompts}"
    )
    lines.append(f"{'group':<48} {'share':>8} {'draws':>12} {'epochs':>9}")
    lines += [
        f"{group.name:<48} {group.share:>8.2%} {group.draws:>12,.0f} {group.epochs:>9.2f}" for group in plan.groups
    ]
    return "\n".join(lines)
