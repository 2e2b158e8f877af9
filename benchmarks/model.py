"""What the policy costs: against computing everything, as compiled at full size, and on this machine.

    python -m benchmarks.model tiny                     train steps on a CPU: cameras left out, packed, all computed
    python -m benchmarks.model count                    FLOP per sample at full size, by analysis
    python -m benchmarks.model compile                  full-size step and sampling, compiled: memory and FLOP, no run
    python -m benchmarks.model gpu --batch 16           samples/s, FLOP/s and latency on one GPU

The reference computes masked cameras, the last layer's unused half and one joint attention, as openpi does;
before anything is timed against it, its loss is checked against ours.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import resource
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.model_reference import Loss, bucketed_loss, everything_loss, forward_flops, traced_flops
from model import flow, policy
from model.config import Attention, Pi0Config, named_config
from model.inputs import CAMERAS, Observation, observation_from_batch
from model.packing import fit_packing
from model.params import Params

PEAK_TFLOPS = 989.0  # H100 and H200, bfloat16
KERNELS: tuple[Attention, ...] = ("plain", "auto")
GOALS = "goals: 40 samples/s with three cameras, 15 ms for 10 steps at batch 1"
MISSING = {  # cameras of the samples in turn
    "none missing": (3,),
    "one missing everywhere": (2,),
    "two missing everywhere": (1,),
    "mixed, a third missing": (3, 2, 1, 2),
    "mixed, half missing": (3, 1, 1, 1),
}


def main(arguments: list[str] | None = None) -> None:
    """Runs one of the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.model", description=__doc__.split("\n")[0])
    parser.add_argument("table", choices=("tiny", "count", "compile", "gpu"))
    parser.add_argument("--model", default="pi0")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parsed = parser.parse_args(arguments)
    device = jax.devices()[0]
    print(f"{platform.processor() or platform.machine()}, {device.device_kind}, jax {jax.__version__}")
    {"tiny": tiny_table, "count": count_table, "compile": compile_table, "gpu": gpu_table}[parsed.table](parsed)


def tiny_table(parsed: argparse.Namespace) -> None:
    """Train steps of the tiny config at batch 32, all ways in turn, best of the repeats."""
    config = named_config("tiny")
    params = jax.jit(policy.init_params, static_argnums=0)(config, jax.random.key(0))
    print("| cameras | everything, ms | masked | one pass a count | packed | everything / packed |")
    print("|---|---|---|---|---|---|")
    for name, pattern in MISSING.items():
        counts = np.resize(np.array(pattern), 32)
        whole, left_out = observation(config, counts, drop=False), observation(config, counts)
        packed = left_out.replace(packing=fit_packing(left_out.image_masks))
        ways = {
            "everything": (everything_loss, whole),
            "masked": (policy.loss_elements, left_out),
            "bucketed": (bucketed_loss(counts), left_out),
            "packed": (policy.loss_elements, packed),
        }
        steps = {way: (train_step(config, loss), seen) for way, (loss, seen) in ways.items()}
        losses = {way: float(step(params, seen)[1]) for way, (step, seen) in steps.items()}
        np.testing.assert_allclose(list(losses.values()), losses["everything"], rtol=1e-4)
        best = dict.fromkeys(steps, np.inf)
        for _ in range(parsed.repeats):
            for way, (step, seen) in steps.items():
                best[way] = min(best[way], cpu_seconds(step, params, seen))
        numbers = " | ".join(f"{1e3 * seconds:.0f}" for seconds in best.values())
        print(f"| {name} | {numbers} | {best['everything'] / best['packed']:.2f} |", flush=True)
    print("CPU time of the process, so that other work on the machine counts little")


def count_table(parsed: argparse.Namespace) -> None:
    """Forward FLOP per sample: what the reference's way costs, and ours; and what a traced step does."""
    config = named_config("pi0", action_dim=32)
    print("| cameras there | everything, TFLOP | only what counts, TFLOP | ratio |\n|---|---|---|---|")
    for there in (3, 2, 1):
        everything, lean = forward_flops(config, 3, lean=False), forward_flops(config, there, lean=True)
        print(f"| {there} of 3 | {everything / 1e12:.2f} | {lean / 1e12:.2f} | {everything / lean:.2f} |")
    params = shapes_of(config)
    print("\n| batch of 8, as traced, TFLOP per sample | forward | forward and backward |\n|---|---|---|")
    for name, pattern in MISSING.items():
        row = []
        for loss in (everything_loss, policy.loss_elements):
            counts = np.resize(np.array(pattern), 8)
            seen = observation(config, counts, drop=loss is not everything_loss)
            if loss is not everything_loss:
                seen = seen.replace(packing=fit_packing(seen.image_masks))
            mean = mean_loss(config, loss)
            row.append([traced_flops(f, params, seen) / 8e12 for f in (mean, jax.grad(mean))])
        (before, before_both), (after, after_both) = row
        print(f"| {name} | {before:.2f} → {after:.2f} | {before_both:.2f} → {after_both:.2f} |", flush=True)


def compile_table(parsed: argparse.Namespace) -> None:
    """Compiles the full-size train step and 10-step sampling from shapes alone: memory, and FLOP as traced."""
    params = shapes_of(named_config(parsed.model))
    print("| what | recomputed | batch | arguments, GB | temporary, GB | TFLOP per sample | compile, s |")
    print("|---|---|---|---|---|---|---|")
    for remat in ("none", "dots", "full"):
        config = named_config(parsed.model, remat=remat)
        step, optimizer = whole_step(config)
        for batch in (1, 2, 8):
            seen = jax.eval_shape(lambda config=config, batch=batch: observation(config, np.full(batch, 3)))
            state = params, jax.eval_shape(optimizer.init, params), params
            print(compiled_row("train step", remat, batch, step, (*state, seen)), flush=True)
    config = named_config(parsed.model)
    serving = jax.eval_shape(partial(policy.serving_params, config), params)
    seen = jax.eval_shape(lambda: observation(config, np.array([3])))
    noise = jax.ShapeDtypeStruct((1, config.horizon, config.action_dim), jnp.float32)
    for name, weights in (("10-step sample", params), ("10-step sample, as served", serving)):
        sample = jax.jit(partial(policy.sample_actions, config))
        print(compiled_row(name, "-", 1, sample, (weights, seen, noise)), flush=True)


def whole_step(config: Any) -> tuple[Any, optax.GradientTransformation]:
    """A train step that holds all that training holds: AdamW's moments and a moving average, updated in place."""
    optimizer = optax.adamw(1e-4)

    def step(params: Params, moments: Any, average: Params, seen: Observation) -> tuple:
        loss, grads = jax.value_and_grad(mean_loss(config, policy.loss_elements))(params, seen)
        updates, moments = optimizer.update(grads, moments, params)
        params = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda a, p: 0.99 * a + 0.01 * p, average, params)
        return params, moments, average, loss

    return jax.jit(step, donate_argnums=(0, 1, 2)), optimizer


def compiled_row(name: str, remat: str, batch: int, function: Any, inputs: tuple) -> str:
    """One row of the compile table."""
    start = time.perf_counter()
    memory = function.lower(*inputs).compile().memory_analysis()
    seconds = time.perf_counter() - start
    given, scratch = memory.argument_size_in_bytes / 1e9, memory.temp_size_in_bytes / 1e9
    flops = traced_flops(function, *inputs) / batch / 1e12
    return f"| {name} | {remat} | {batch} | {given:.2f} | {scratch:.2f} | {flops:.2f} | {seconds:.0f} |"


def gpu_table(parsed: argparse.Namespace) -> None:
    """Times whole train steps and 10-step sampling on this machine's device, with each attention kernel."""
    config = named_config(parsed.model)
    print("| what | attention | cameras | ms | samples/s | TFLOP/s | of peak |\n|---|---|---|---|---|---|---|")
    params = jax.jit(policy.init_params, static_argnums=0)(config, jax.random.key(0))
    serving = jax.jit(policy.serving_params, static_argnums=0)(config, params)
    one = jax.device_put(observation(config, np.array([3])))
    noise = jnp.zeros((1, config.horizon, config.action_dim))
    for kernel in KERNELS:
        sample = jax.jit(partial(policy.sample_actions, dataclasses.replace(config, attention=kernel)))
        seconds = best_wall(partial(sample, serving, one, noise), max(parsed.repeats, 20))
        row = f"10-step sample, batch 1 | {kernel} | none missing | {1e3 * seconds:.1f} | {1 / seconds:.1f}"
        print(f"| {row} | | |", flush=True)
    del serving, sample
    training = Training(config, params)
    for kernel in KERNELS:
        training.attend_by(kernel)
        for name, pattern in MISSING.items():
            counts = np.resize(np.array(pattern), parsed.batch)
            seconds = best_wall(partial(training.step_on, counts), parsed.repeats)
            rate, flops = parsed.batch / seconds, 0.0
            if isinstance(config, Pi0Config):
                flops = 3 * rate * np.mean([forward_flops(config, count, lean=True) for count in counts]) / 1e12
            row = f"train step, batch {parsed.batch} | {kernel} | {name} | {1e3 * seconds:.1f} | {rate:.1f}"
            print(f"| {row} | {flops:.0f} | {flops / PEAK_TFLOPS:.0%} |", flush=True)
    print(GOALS)


class Training:
    """A training state that steps on; the buffers of one step are those of the next."""

    def __init__(self, config: Any, params: Params) -> None:
        self._config = config
        self._step, optimizer = whole_step(config)
        self._state = [params, jax.jit(optimizer.init)(params), jax.tree.map(jnp.copy, params)]
        self._seen: dict[bytes, Observation] = {}

    def attend_by(self, kernel: Attention) -> None:
        """Uses this attention kernel from now on."""
        self._step, _ = whole_step(dataclasses.replace(self._config, attention=kernel))

    def step_on(self, counts: np.ndarray) -> jax.Array:
        """One step on samples with these numbers of cameras; the loss."""
        if counts.tobytes() not in self._seen:
            seen = observation(self._config, counts)
            seen = seen.replace(packing=fit_packing(seen.image_masks))
            self._seen = {counts.tobytes(): jax.device_put(seen)}
        *self._state, loss = self._step(*self._state, self._seen[counts.tobytes()])
        return loss


def observation(config: Any, counts: np.ndarray, *, drop: bool = True) -> Observation:
    """Sample i has the first `counts[i]` cameras; with `drop`, those that no sample has are left out."""
    batch, size = len(counts), config.image_size
    ramp = (np.arange(size * size * 3) % 256).astype(np.uint8).reshape(size, size, 3)
    pixels = np.broadcast_to(ramp, (batch, size, size, 3))
    return observation_from_batch(
        images=dict.fromkeys(CAMERAS, pixels),
        image_masks={name: index < counts for index, name in enumerate(CAMERAS)},
        tokenized_prompt=np.ones((batch, config.max_tokens), np.int32),
        tokenized_prompt_mask=np.broadcast_to(np.arange(config.max_tokens) < 12, (batch, config.max_tokens)),
        state=np.zeros((batch, config.action_dim)),
        drop_missing=drop,
    )


def shapes_of(config: Any) -> Params:
    """The parameters' shapes, without allocating them."""
    return jax.eval_shape(partial(policy.init_params, config), jax.random.key(0))


def mean_loss(config: Any, loss_elements: Loss) -> Any:
    """(params, observation) -> the mean loss at some noise and time."""

    def loss(params: Params, seen: Observation) -> jax.Array:
        shape = (seen.state.shape[0], config.horizon, config.action_dim)
        noise, time_ = jax.random.normal(jax.random.key(1), shape), flow.sample_time(jax.random.key(2), shape[0])
        return loss_elements(config, params, seen, jnp.zeros(shape), noise, time_).mean()

    return loss


def train_step(config: Any, loss_elements: Loss) -> Any:
    """Gradient of the mean loss and one AdamW update, jitted: (params, observation) -> (params, loss)."""
    optimizer = optax.adamw(1e-4)

    def step(params: Params, seen: Observation) -> tuple[Params, jax.Array]:
        loss, grads = jax.value_and_grad(mean_loss(config, loss_elements))(params, seen)
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        return optax.apply_updates(params, updates), loss

    return jax.jit(step)


def cpu_seconds(step: Any, *arguments: Any) -> float:
    """CPU time of this process for one call."""
    start = _cpu()
    jax.block_until_ready(step(*arguments))
    return _cpu() - start


def best_wall(call: Callable[[], Any], repeats: int) -> float:
    """Shortest wall time of a call, after a first one that compiles."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return min(times)


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
