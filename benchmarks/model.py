"""What the policy costs: against computing everything, as compiled at full size, and on the machine at hand.

    python -m benchmarks.model tiny                     train step, cameras left out against all computed
    python -m benchmarks.model count                    FLOP per sample at full size, by analysis
    python -m benchmarks.model compile --batch 1        full-size step and sampling compiled: memory, no run
    python -m benchmarks.model run --model pi0 --batch 16    samples/s, FLOP/s and latency; for a GPU

The reference computes masked cameras, the last layer's unused half and one joint attention, as openpi does;
before it is timed, its loss is checked against ours.
"""

from __future__ import annotations

import argparse
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

from model import flow, gemma, pi0, policy
from model.attention import apply_rope, attend, attention_mask, token_positions
from model.config import GemmaConfig, Pi0Config, named_config
from model.inputs import CAMERAS, Observation
from model.params import Params
from model.siglip import dense

Loss = Callable[..., jax.Array]


def main(arguments: list[str] | None = None) -> None:
    """Runs one of the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.model", description=__doc__.split("\n")[0])
    parser.add_argument("table", choices=("tiny", "count", "compile", "run"))
    parser.add_argument("--model", default="pi0")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parsed = parser.parse_args(arguments)
    device = jax.devices()[0]
    print(f"{platform.processor() or platform.machine()}, {device.device_kind}, jax {jax.__version__}")
    {"tiny": tiny_table, "count": count_table, "compile": compile_table, "run": run_table}[parsed.table](parsed)


def tiny_table(parsed: argparse.Namespace) -> None:
    """Train steps of the tiny config at batch 32, ours and the reference's in turn, best of the repeats."""
    config, batch = named_config("tiny"), 32
    params = jax.jit(policy.init_params, static_argnums=0)(config, jax.random.key(0))
    print("| cameras there | everything computed, ms | only what counts, ms | ratio |\n|---|---|---|---|")
    for there in (3, 2, 1):
        seen = observation(config, batch, there)
        full, lean = observation(config, batch, there, keep_missing=True), seen
        steps = {
            "everything": (train_step(config, everything_loss), full),
            "lean": (train_step(config, policy.loss_elements), lean),
        }
        losses = {name: float(step(params, batch_of)[1]) for name, (step, batch_of) in steps.items()}
        np.testing.assert_allclose(losses["lean"], losses["everything"], rtol=1e-4)
        best = {name: np.inf for name in steps}
        for _ in range(parsed.repeats):
            for name, (step, batch_of) in steps.items():
                best[name] = min(best[name], cpu_seconds(step, params, batch_of))
        ratio = best["everything"] / best["lean"]
        print(
            f"| {there} of 3 | {1e3 * best['everything']:.0f} | {1e3 * best['lean']:.0f} | {ratio:.2f} |",
            flush=True,
        )
    print("CPU time of the process, so that other work on the machine counts little")


def count_table(parsed: argparse.Namespace) -> None:
    """Forward FLOP per sample: what the reference's way costs, and ours."""
    config = named_config("pi0", action_dim=32)
    print("| cameras there | everything, TFLOP | only what counts, TFLOP | ratio |\n|---|---|---|---|")
    for there in (3, 2, 1):
        everything, lean = forward_flops(config, 3, lean=False), forward_flops(config, there, lean=True)
        print(f"| {there} of 3 | {everything / 1e12:.2f} | {lean / 1e12:.2f} | {everything / lean:.2f} |")


def compile_table(parsed: argparse.Namespace) -> None:
    """Compiles the full-size train step and 10-step sampling from shapes alone and prints their memory."""
    config = named_config(parsed.model)
    params = jax.eval_shape(partial(policy.init_params, config), jax.random.key(0))
    print("| what | cameras | arguments, GB | temporary, GB | compile, s |\n|---|---|---|---|---|")
    for there in (3, 1):
        seen = jax.eval_shape(lambda there=there: observation(config, parsed.batch, there))
        noise = jax.ShapeDtypeStruct((parsed.batch, config.horizon, config.action_dim), jnp.float32)
        step, sample = train_step(config, policy.loss_elements), jax.jit(partial(policy.sample_actions, config))
        for name, function, inputs in (
            ("train step", step, (params, seen)),
            ("10-step sample", sample, (params, seen, noise)),
        ):
            start = time.perf_counter()
            memory = function.lower(*inputs).compile().memory_analysis()
            seconds = time.perf_counter() - start
            given, scratch = memory.argument_size_in_bytes / 1e9, memory.temp_size_in_bytes / 1e9
            row = f"{name}, batch {parsed.batch} | {there} | {given:.2f} | {scratch:.2f} | {seconds:.0f}"
            print(f"| {row} |", flush=True)


def run_table(parsed: argparse.Namespace) -> None:
    """Times gradient steps and sampling on the device at hand."""
    config = named_config(parsed.model)
    params = jax.jit(policy.init_params, static_argnums=0)(config, jax.random.key(0))
    print("| what | cameras | ms | samples/s | TFLOP/s |\n|---|---|---|---|---|")
    for there in (3, 2, 1):
        seen = jax.device_put(observation(config, parsed.batch, there))
        step = train_step(config, policy.loss_elements)
        seconds = best_wall(step, parsed.repeats, params, seen)
        rate = parsed.batch / seconds
        achieved = 3 * rate * forward_flops(config, there, lean=True) / 1e12 if isinstance(config, Pi0Config) else 0
        print(
            f"| gradient, batch {parsed.batch} | {there} | {1e3 * seconds:.1f} | {rate:.1f} | {achieved:.0f} |",
            flush=True,
        )
    one = jax.device_put(observation(config, 1, 3))
    noise = jnp.zeros((1, config.horizon, config.action_dim))
    sample = jax.jit(partial(policy.sample_actions, config))
    seconds = best_wall(sample, parsed.repeats, params, one, noise)
    print(f"| 10-step sample, batch 1 | 3 | {1e3 * seconds:.1f} | {1 / seconds:.1f} | |")


def observation(config: Any, batch: int, there: int, *, keep_missing: bool = False) -> Observation:
    """An observation with `there` of three cameras; the missing ones are left out, or masked."""
    names = CAMERAS if keep_missing else CAMERAS[:there]
    size = config.image_size
    ramp = jnp.arange(size * size * 3).reshape(size, size, 3) % 256
    pictures = jnp.broadcast_to(ramp.astype(jnp.uint8), (batch, size, size, 3))
    return Observation(
        images={name: pictures for name in names},
        image_masks={name: jnp.full(batch, name in CAMERAS[:there]) for name in names},
        tokenized_prompt=jnp.ones((batch, config.max_tokens), jnp.int32),
        tokenized_prompt_mask=jnp.broadcast_to(jnp.arange(config.max_tokens) < 12, (batch, config.max_tokens)),
        state=jnp.zeros((batch, config.action_dim)),
    )


def train_step(config: Any, loss_elements: Loss) -> Any:
    """Gradient of the mean loss and one AdamW update, jitted: (params, observation) -> (params, loss)."""
    optimizer = optax.adamw(1e-4)

    def mean_loss(params: Params, seen: Observation) -> jax.Array:
        shape = (seen.state.shape[0], config.horizon, config.action_dim)
        noise, time_ = (
            jax.random.normal(jax.random.key(1), shape),
            flow.sample_time(jax.random.key(2), shape[0]),
        )
        return loss_elements(config, params, seen, jnp.zeros(shape), noise, time_).mean()

    def step(params: Params, seen: Observation) -> tuple[Params, jax.Array]:
        loss, grads = jax.value_and_grad(mean_loss)(params, seen)
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        return optax.apply_updates(params, updates), loss

    return jax.jit(step)


def everything_loss(
    config: Pi0Config,
    params: Params,
    seen: Observation,
    actions: jax.Array,
    noise: jax.Array,
    time_: jax.Array,
) -> jax.Array:
    """The loss by one joint pass: both experts through every layer, one attention over all tokens."""
    llm = params["PaliGemma"]["llm"]
    prefix, prefix_valid = pi0.embed_prefix(config, params, seen)
    suffix = pi0.embed_suffix(config, params, seen.state, flow.interpolate(noise, actions, time_), time_)
    valid, starts_block = pi0.whole_sequence(prefix_valid, suffix.starts_block)
    mask, positions = attention_mask(valid, starts_block), token_positions(valid)
    length = prefix.shape[1]
    places = (positions[:, :length], positions[:, length:])

    def body(streams: tuple, layers: tuple) -> tuple[tuple, None]:
        normed = [
            gemma.rms_norm(x, layer["pre_attention_norm"], None)[0] for x, layer in zip(streams, layers, strict=True)
        ]
        caches = [gemma.keys_values(*each) for each in zip(layers, normed, places, strict=True)]
        queries = [
            apply_rope(gemma.project(x, layer["q_einsum"], "bse,nek->bsnk", "", ""), place)
            for x, layer, place in zip(normed, layers, places, strict=True)
        ]
        k, v = (jnp.concatenate(parts, 1) for parts in zip(*[(c.k, c.v) for c in caches], strict=True))
        mixed = attend(jnp.concatenate(queries, 1), k, v, mask, config.attention)
        out = []
        for x, layer, part in zip(streams, layers, jnp.split(mixed, [length], axis=1), strict=True):
            x = x + gemma.project(part, layer["attn_vec_einsum"], "bsnk,nke->bse", "", "")
            out.append(x + gemma.feed_forward(layer["mlp"], gemma.rms_norm(x, layer["pre_ffw_norm"], None)[0]))
        return tuple(out), None

    streams = (prefix.astype(config.dtype), suffix.tokens.astype(config.dtype))
    layers = tuple(gemma.expert_layers(llm["layers"], index) for index in (0, 1))
    streams, _ = pi0.execution(config).scan(body, streams, layers)
    out, _ = gemma.rms_norm(streams[1], llm["final_norm_1"], None)
    predicted = dense(out[:, -config.horizon :].astype(jnp.float32), params["action_out_proj"])
    return jnp.square(predicted - flow.target_velocity(noise, actions))


def forward_flops(config: Pi0Config, cameras: int, *, lean: bool) -> float:
    """FLOP of one sample's forward pass: two per multiply-add in products with weights and in attention."""
    vit, tokens = config.siglip, config.siglip.tokens
    block = 4 * vit.width**2 + 2 * vit.width * vit.mlp_dim + 2 * tokens * vit.width
    patches = 3 * vit.patch_size**2 * vit.width + vit.width * config.prefix.width
    images = cameras * tokens * (vit.depth * block + patches)
    prefix = cameras * tokens + config.max_tokens
    suffix = config.horizon + (0 if config.pi05 else 1)
    seen = prefix if lean else prefix + suffix
    depth, heads = config.prefix.depth, config.prefix.heads * config.prefix.head_dim
    first = depth * (_gemma_weights(config.prefix) + 2 * seen * heads)
    if lean:
        kv = 2 * config.prefix.width * config.prefix.kv_heads * config.prefix.head_dim
        first -= _gemma_weights(config.prefix) + 2 * seen * heads - kv
    second = depth * (_gemma_weights(config.expert) + 2 * (prefix + suffix) * heads)
    width, dims = config.expert.width, config.action_dim
    ends = config.horizon * (2 * dims * width + (0 if config.pi05 else 3 * width**2)) + dims * width
    return 2.0 * (images + prefix * first + suffix * second + ends)


def _gemma_weights(config: GemmaConfig) -> int:
    attention = 2 * config.width * config.heads * config.head_dim
    return attention + 2 * config.width * config.kv_heads * config.head_dim + 3 * config.width * config.mlp_dim


def cpu_seconds(step: Any, *arguments: Any) -> float:
    """CPU time of this process for one call."""
    start = _cpu()
    jax.block_until_ready(step(*arguments))
    return _cpu() - start


def best_wall(step: Any, repeats: int, *arguments: Any) -> float:
    """Shortest wall time of a call, after a first one that compiles."""
    jax.block_until_ready(step(*arguments))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(step(*arguments))
        times.append(time.perf_counter() - start)
    return min(times)


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
