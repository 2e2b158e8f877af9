"""The parameters that a run starts from, another run's or published ones: each on its devices, what they lack drawn.

No device and no host ever holds all of them: they are read, drawn and placed array by array.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from model import policy
from model.config import Pi0Config
from model.params import flatten, unflatten
from model.published.weights import LORA, LoadReport, load_params, load_text_encoder
from pipelines.contract.errors import UsageError
from trainers.config import RunConfig
from trainers.exchange.beside import find_norm_statistics, find_slot_map, layouts_of
from trainers.optimizer import merge_params
from trainers.step import TrainState

Tree = Any
SHOWN = 3


def published_params(config: RunConfig, like: TrainState) -> Tree:
    """The model's parameters as the file of `--weights` has them, the rest drawn, with a report of both on stderr.

    like: the state's shapes with their placement. UsageError if the file does not fit, or if what it lacks would stay.
    """
    assert config.weights is not None
    wanted = merge_params(like.trained, like.frozen)
    draw = drawer(config, flatten(wanted))
    try:
        if isinstance(config.policy, Pi0Config):
            params, report = load_params(
                config.weights,
                config.policy,
                wanted,
                draw=draw,
                slot_map=find_slot_map(config),
                layouts=layouts_of(config.weights_layout),
            )
        else:  # pi0-small has no published weights of its own; its text encoder is DistilBERT
            params, report = load_text_encoder(config.weights, config.policy, wanted, draw=draw)
    except (ValueError, OSError) as error:
        raise UsageError(f"--weights: {error}") from error
    refuse_frozen(like, report.drawn, f"--weights {config.weights}")
    print(summary(config, report), file=sys.stderr)
    return params


def adopted_params(config: RunConfig, like: TrainState, found: Tree) -> Tree:
    """Another run's parameters in the types of this one; adapters that it has not are drawn.

    UsageError names the first one that is missing or of another shape.
    """
    wanted, held = flatten(merge_params(like.trained, like.frozen)), flatten(found)
    fresh = [name for name in wanted if name not in held and LORA.search(name)]
    for name in sorted((wanted.keys() | held.keys()) - set(fresh)):
        expected, has = (_shape(tree.get(name)) for tree in (wanted, held))
        if expected != has:
            hint = " (embodimix export --merge-lora makes weights without adapters)" if LORA.search(name) else ""
            raise UsageError(
                f"--init {config.init}: {name}: expected {expected}, as this run's model has it; found {has}{hint}. "
                "Leave out the settings of policy.*, or start from another run"
            )
    refuse_frozen(like, fresh, f"--init {config.init}")
    drawn = drawer(config, wanted)(fresh)
    return unflatten({n: drawn[n] if n in drawn else held[n].astype(wanted[n].dtype) for n in wanted})


def refuse_frozen(like: TrainState, drawn: Sequence[str], source: str) -> None:
    """UsageError names parameters that hold random numbers and would keep them."""
    frozen = {name for name, leaf in flatten(like.frozen).items() if leaf is not None}
    random = sorted(frozen.intersection(drawn))
    if random:
        more = f" and {len(random) - SHOWN} more" if len(random) > SHOWN else ""
        raise UsageError(
            f"freeze: {', '.join(random[:SHOWN])}{more} would stay as drawn at random, since {source} does not have "
            "them. Start from weights that hold them, or let them train: --freeze '!PATTERN'"
        )


def drawer(config: RunConfig, wanted: Mapping[str, Any]) -> Callable[[Sequence[str]], dict[str, jax.Array]]:
    """The function from names to freshly drawn parameters, in the types and placements of `wanted`."""

    def draw(names: Sequence[str]) -> dict[str, jax.Array]:
        if not names:
            return {}

        def make(key: jax.Array) -> dict[str, jax.Array]:
            # Those that are not asked for are not computed: XLA drops what reaches no output.
            flat = flatten(policy.init_params(config.policy, key))
            return {name: flat[name].astype(wanted[name].dtype) for name in names}

        placement = {name: wanted[name].sharding for name in names}
        return jax.jit(make, out_shardings=placement, compiler_options=draw_options())(jax.random.key(config.seed))

    return draw


def draw_options() -> dict[str, Any] | None:
    """Drawing parameters runs once, so on a CPU optimizing it costs far more than it saves."""
    if jax.default_backend() != "cpu":
        return None
    return {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def summary(config: RunConfig, report: LoadReport) -> str:
    """What was read, dropped and drawn, a line each."""
    kept = f"{config.weights} ({report.layout}): {len(report.loaded)} parameters read, {len(report.fresh)} drawn, "
    lines = [f"{kept}{len(report.unread)} of the file left over", *report.dropped]
    lines += [f"drawn: {name}" for name in report.fresh]
    lines += [f"left over: {name}" for name in report.unread]
    lines.append(f"tokenizer: {config.tokenizer or 'the built-in one'}")
    assert config.weights is not None
    if beside := find_norm_statistics(Path(config.weights)):
        lines.append(f"norm statistics beside it, not used here ({', '.join(beside)}): embodimix import keeps them")
    return "\n".join(lines)


def _shape(leaf: Any) -> str:
    return "nothing" if leaf is None else str(list(leaf.shape))
