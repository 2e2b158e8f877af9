"""The optimizer: learning rate, AdamW with clipping, the moving average, and which parameters train."""

import fnmatch
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from pipelines.contract.errors import UsageError, nearest
from trainers.config import OptimizerConfig

Tree = Any
EMA_WARMUP = 10


def learning_rate(config: OptimizerConfig, step: int) -> float:
    """The rate of a step, counted from 0: a line up to the peak, then down by the schedule.

    'cosine' is half a cosine down to the final rate, then level; 'rsqrt' is
    peak/sqrt(1 + n/rsqrt_steps), n steps after the peak.

    Steps 0, 1, 2 of `warmup_steps` 3 take a quarter, a half and three quarters of the peak, step 3 all of it.
    It is computed outside the compiled step, so that runs which differ only in it share one compilation.
    """
    if step < config.warmup_steps:
        # openpi's warm-up begins at peak/(warmup + 1), so that step 0 already moves; rates agree with its recorded
        # ones.
        return config.learning_rate * (step + 1) / (config.warmup_steps + 1)
    if config.schedule == "rsqrt":
        return config.learning_rate / math.sqrt(1.0 + (step - config.warmup_steps) / config.rsqrt_steps)
    span = max(config.decay_steps - config.warmup_steps, 1)
    fraction = min((step - config.warmup_steps) / span, 1.0)
    falling = config.learning_rate - config.final_learning_rate
    return config.final_learning_rate + 0.5 * falling * (1.0 + math.cos(math.pi * fraction))


def build_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """AdamW behind a bound on the gradient's global norm, as openpi trains pi0; updates still lack the rate."""
    return optax.chain(
        # The order is openpi's: gradients are clipped before Adam's moments see them, decay is added after.
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
        optax.add_decayed_weights(config.weight_decay),
    )


def move_average(ema: Tree, params: Tree, decay: float, step: jax.Array) -> Tree:
    """Moves the average towards `params`; the decay warms up as (1 + step)/(10 + step), so that early steps fade."""
    step = step.astype(jnp.float32)
    now = jnp.minimum(decay, (1.0 + step) / (EMA_WARMUP + step))
    return jax.tree.map(lambda average, value: average * now + value * (1.0 - now), ema, params)


def split_params(params: Tree, freeze: tuple[str, ...]) -> tuple[Tree, Tree]:
    """Splits into (trained, frozen), both of the full form with None where a parameter went to the other side.

    A pattern matches '/'-joined names as in a shell, `*` also across '/'; what a pattern after '!' matches trains all
    the same. UsageError if one matches nothing or if nothing is left to train.
    """
    names = [_joined(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    matched: dict[bool, set[str]] = {True: set(), False: set()}
    for pattern in freeze:
        found = fnmatch.filter(names, pattern.removeprefix("!"))
        if not found:
            raise UsageError(f"freeze: {pattern!r} matches no parameter. {nearest(pattern, names)}")
        matched[not pattern.startswith("!")].update(found)
    frozen_names = matched[True] - matched[False]
    if len(frozen_names) == len(names):
        raise UsageError(f"freeze: {', '.join(freeze)} leaves no parameter to train")

    def side(frozen: bool) -> Tree:
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf if (_joined(path) in frozen_names) is frozen else None, params
        )

    return side(False), side(True)


def merge_params(trained: Tree, frozen: Tree) -> Tree:
    """The inverse of `split_params`."""
    return jax.tree.map(
        lambda left, right: right if left is None else left, trained, frozen, is_leaf=lambda leaf: leaf is None
    )


def _joined(path: tuple[Any, ...]) -> str:
    return "/".join(str(getattr(part, "key", part)) for part in path)
