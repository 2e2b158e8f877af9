"""Classic mistakes, put into the model one at a time: each must make some test fail.

    python -m benchmarks.model_mutations ../shared/goldens [--only TEXT] [--json FILE]

For each mistake the table shows how far the velocity of the case pi0_d32 moves, how far the reference
implementation recorded it to move (mutation_table.json), and which tests notice. Exit code 1 if one goes
unnoticed. Nothing is compiled whole, so that it takes a few
minutes on two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from model import attention, flow, gemma, inputs, pi0, tokenizer
from model.published import check

TESTS = ("attention", "units", "flow", "tokenizer")
# Pictures and full-size shapes know nothing of the mistakes.
SLOW = ("resize", "pictures", "size")
TEXT_TOKENS = 48


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """One mistake: names in modules of `model` and what replaces them.

    `recorded` is its name in mutation_table.json, where it has one.
    """

    name: str
    replaced: tuple[tuple[Any, str, Any], ...]
    recorded: str | None = None


@dataclass
class Verdicts:
    """A pytest plugin that keeps the names of failed tests."""

    failed: list[str] = field(default_factory=list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid.split("/")[-1])


def main(arguments: list[str] | None = None) -> int:
    """Applies each mistake, runs the tests, prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.model_mutations", description=__doc__)
    parser.add_argument("goldens", type=Path)
    parser.add_argument("--only", default="", help="mistakes whose name holds this text")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parsed = parser.parse_args(arguments)
    recorded = {
        row["mutation"]: row["v_t_rel_rms"] for row in json.loads((parsed.goldens / "mutation_table.json").read_text())
    }
    chosen = [mutation for mutation in mutations() if parsed.only in mutation.name]
    rows = []
    case = check.load_case(parsed.goldens / "openpi/pi0_d32")
    for mutation in chosen:
        rows.append(judge(mutation, case, recorded))
        print(line(rows[-1]), flush=True)
    if parsed.json:
        parsed.json.write_text(json.dumps(rows, indent=1) + "\n")
    unnoticed = [row["mistake"] for row in rows if row["control"] == bool(row["failed"])]
    print(f"{len(rows) - len(unnoticed)} of {len(rows)} as they should be" + "".join(f"\n  {n}" for n in unnoticed))
    return 1 if unnoticed else 0


def judge(mutation: Mutation, case: check.Case, recorded: Mapping[str, float]) -> dict[str, Any]:
    """One row: how far the velocity moved, and what noticed.

    First the arrays that `test_every_recorded_array_agrees` compares; only if all agree, the literal tests.
    """
    with applied(mutation):
        inputs = {name: case.inputs[name] for name in ("actions", "noise", "time")}
        with jax.disable_jit(), jax.default_matmul_precision("highest"):
            rows = check.compared(case, check.intermediates(case.config, case.params, case.observation, inputs))
        failed = [f"goldens: {row.name}" for row in rows if not row.ok]
        failed = failed or literal_failures()
    return {
        "mistake": mutation.name,
        "control": not mutation.replaced,
        "rel_rms": next(row.rel_rms for row in rows if row.name == "v_t"),
        "recorded": recorded.get(mutation.recorded or ""),
        "failed": failed,
    }


def literal_failures() -> list[str]:
    """Names of the literal tests that fail now."""
    verdicts = Verdicts()
    options = ["-q", "--no-header", "--no-summary", "-p", "no:cacheprovider"]
    options += ["-k", " and ".join(f"not {name}" for name in SLOW)]
    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main([*options, *(f"tests/model/test_{name}.py" for name in TESTS)], plugins=[verdicts])
    for name in [name for name in sys.modules if name.endswith(tuple(f"test_{test}" for test in TESTS))]:
        del sys.modules[name]
    return verdicts.failed


@contextlib.contextmanager
def applied(mutation: Mutation) -> Iterator[None]:
    """Puts the mistake wherever its name was imported, and takes it back afterwards."""
    undo: list[tuple[Any, str, Any]] = []
    for module, name, wrong in mutation.replaced:
        original = getattr(module, name)
        holders = [m for key, m in sys.modules.items() if key.split(".")[0] == "model"] + [module]
        for holder in holders:
            if getattr(holder, name, None) is original or holder is module:
                undo.append((holder, name, getattr(holder, name)))
                setattr(holder, name, wrong)
    try:
        yield
    finally:
        for holder, name, original in reversed(undo):
            setattr(holder, name, original)


def line(row: dict[str, Any]) -> str:
    """One row as a line of a Markdown table."""
    recorded = "" if row["recorded"] is None else f"{row['recorded']:.1e}"
    tests = sorted(row["failed"], key=lambda name: ("goldens" in name, name))
    shown = ", ".join(f"`{name.removeprefix('test_').replace('.py::', ': ')}`" for name in tests[:3])
    more = f" and {len(tests) - 3} more" if len(tests) > 3 else ""
    return f"| {row['mistake']} | {row['rel_rms']:.1e} | {recorded} | {shown or 'none'}{more} |"


def mutations() -> list[Mutation]:
    """The recorded mistakes under their recorded names, and some of flow, sampling and prompts."""
    renamed = {
        "timestep passed as 1-t": [(flow, "time_embedding", _of_time(lambda t: 1.0 - t))],
        "positions=arange (padding not skipped)": [(attention, "token_positions", _arange_positions)],
        "no block boundary before state (prefix sees state)": [
            (pi0, "embed_suffix", _blocks(lambda b: b.at[0].set(False)))
        ],
        "no boundary state|actions (state sees actions)": [
            (pi0, "embed_suffix", _blocks(lambda b: b.at[1].set(False)))
        ],
        "actions causal": [(pi0, "embed_suffix", _blocks(jnp.ones_like))],
        "prompt causal": [(pi0, "prefix_blocks", lambda length: jnp.arange(length) >= length - TEXT_TOKENS)],
        "missing cameras not masked": [(pi0, "embed_prefix", _all_cameras_there)],
        "camera order swapped L/R wrist": [(pi0, "CAMERAS", tuple(inputs.CAMERAS[i] for i in (0, 2, 1)))],
        "images in [0,1] not [-1,1]": [(inputs, "to_unit_range", lambda image: image.astype(jnp.float32) / 255.0)],
        "exact (erf) GELU": [(jax.nn, "gelu", _exact_gelu)],
        "no sqrt(width) embedding scale": [(gemma, "embed_text", lambda table, tokens: table[tokens])],
        "interleaved RoPE": [(attention, "apply_rope", _interleaved_rope)],
        "time max_period=10": [(flow, "MAX_PERIOD", 10.0)],
        "time emb cos|sin order": [(flow, "time_embedding", _cosine_first)],
        "RMSNorm weight=scale instead of 1+scale": [(gemma, "rms_norm", _scale_alone)],
        "gate/up swapped (expert 0)": [(gemma, "expert_layers", _swapped("mlp", "gating_einsum"))],
        "k/v swapped (expert 0)": [(gemma, "expert_layers", _swapped("kv_einsum", "w"))],
        "RMSNorm eps 1e-5 (at these activation scales)": [(gemma, "EPS", 1e-5)],
    }
    own = {
        "velocity target turned round": [(flow, "target_velocity", lambda noise, actions: actions - noise)],
        "time 0 is noise": [(flow, "interpolate", _from_data)],
        "Euler from 0 to 1": [(flow, "integrate", _euler_upwards)],
        "times from Beta(1, 1.5)": [(flow, "ALPHA", 1.0 / 1.5)],
        "prompt without begin token": [(tokenizer, "BOS", tokenizer.EOS)],
        "prompt not cleaned": [(tokenizer, "clean_prompt", str)],
    }
    return [
        Mutation(name="none (control)", replaced=(), recorded="none (control)"),
        *(Mutation(name=name, replaced=tuple(changes), recorded=name) for name, changes in renamed.items()),
        *(Mutation(name=name, replaced=tuple(changes)) for name, changes in own.items()),
    ]


def _of_time(change: Callable[[jax.Array], jax.Array]) -> Callable:
    original = flow.time_embedding
    return lambda time, width: original(change(time), width)


def _arange_positions(valid: jax.Array) -> jax.Array:
    return jnp.broadcast_to(jnp.arange(valid.shape[1]), valid.shape)


def _blocks(change: Callable[[jax.Array], jax.Array]) -> Callable:
    original = pi0.embed_suffix

    def wrong(*arguments: Any) -> pi0.Suffix:
        suffix = original(*arguments)
        return suffix.replace(starts_block=change(suffix.starts_block))

    return wrong


def _all_cameras_there(config: Any, params: Any, observation: inputs.Observation) -> tuple:
    there = {name: jnp.ones_like(mask) for name, mask in observation.image_masks.items()}
    return _EMBED_PREFIX(config, params, observation.replace(image_masks=there))


_EMBED_PREFIX = pi0.embed_prefix
_GELU = jax.nn.gelu


def _exact_gelu(x: jax.Array, approximate: bool = True) -> jax.Array:
    return _GELU(x, approximate=False)


def _interleaved_rope(x: jax.Array, positions: jax.Array) -> jax.Array:
    half = x.shape[-1] // 2
    angle = positions[..., None, None] / attention.ROPE_BASE ** (jnp.arange(half) / half)
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    even, odd = x[..., 0::2], x[..., 1::2]
    return jnp.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1).reshape(x.shape)


def _cosine_first(time: jax.Array, width: int) -> jax.Array:
    return jnp.roll(_TIME_EMBEDDING(time, width), width // 2, axis=-1)


_TIME_EMBEDDING = flow.time_embedding
_RMS_NORM = gemma.rms_norm


def _scale_alone(x: jax.Array, params: Any, cond: Any) -> tuple:
    lowered = {"scale": params["scale"] - 1.0} if "scale" in params else params
    return _RMS_NORM(x, lowered, cond)


def _swapped(group: str, name: str) -> Callable:
    original = gemma.expert_layers

    def wrong(layers: Any, index: int) -> Any:
        picked = original(layers, index)
        if index:
            return picked
        return {**picked, group: {**picked[group], name: picked[group][name][:, ::-1]}}

    return wrong


def _from_data(noise: jax.Array, actions: jax.Array, time: jax.Array) -> jax.Array:
    t = time[:, None, None]
    return (1.0 - t) * noise + t * actions


def _euler_upwards(velocity: Callable, noise: jax.Array, num_steps: int) -> jax.Array:
    x = noise
    for index in range(num_steps):
        x = x - velocity(x, jnp.full(x.shape[:1], index / num_steps)) / num_steps
    return x


if __name__ == "__main__":
    sys.exit(main())
