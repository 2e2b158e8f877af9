"""Parity check: a recorded case (parameters, inputs, outputs) against this implementation.

    python -m model.published.check ../shared/goldens/openpi/pi0_d32 [MORE CASES]
    python -m model.published.check --all ../shared/goldens

CASE is a path stem: CASE.npz holds inputs and outputs, CASE_params.npz the parameters, CASE_grads.npz, where
present, the gradients of the mean loss. The config is derived from the parameter shapes. Float32 cases run at
the highest matmul precision. Exit code 1 when an array is out of tolerance.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model import flow, pi0
from model.attention import attention_mask, token_positions
from model.config import Pi0Config, config_from_params
from model.gemma import Cache, run_expert
from model.inputs import CAMERAS, Observation
from model.params import Params, flatten, unflatten

Arrays = dict[str, np.ndarray]
# (rms of the difference, largest difference), both over the rms of the expected array.
TOLERANCES = {"float32": (3e-5, 3e-4), "bfloat16": (3e-2, 3e-1)}
GRADIENT_TOLERANCES = {"float32": (1e-4, 2e-3), "bfloat16": (3e-2, 3e-1)}
SUMMARY_HEAD = """| case | arrays that agree | velocity off by | loss | samples | gradient norm |
|---|---|---|---|---|---|"""


@dataclass(frozen=True, kw_only=True)
class ComparedArray:
    """One compared array; masks and positions count unequal values in both columns."""

    name: str
    rel_rms: float
    max_abs: float
    limits: tuple[float, float]
    ok: bool


@dataclass(frozen=True, kw_only=True)
class Case:
    """A recorded case as read from disk."""

    name: str
    config: Pi0Config
    params: Params
    observation: Observation
    inputs: Arrays
    outputs: Arrays
    grads: Arrays | None


def main(arguments: list[str] | None = None) -> int:
    """Checks each case and prints its table."""
    parser = argparse.ArgumentParser(prog="python -m model.published.check", description=__doc__.split("\n")[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help="path stem, e.g. goldens/openpi/pi0_d32")
    parser.add_argument("--all", type=Path, metavar="FOLDER", help="every case below this folder, one line each")
    parsed = parser.parse_args(arguments)
    if bool(parsed.cases) == bool(parsed.all):
        parser.error("expected either cases or --all FOLDER")
    failed = 0
    for stem in parsed.cases:
        rows = check_case(load_case(Path(stem)))
        print(f"{stem}\n{results_table(rows)}")
        failed += sum(not row.ok for row in rows)
    if parsed.all:
        print(SUMMARY_HEAD)
        for stem in find_cases(parsed.all):
            rows = check_case(load_case(stem))
            print(summary(stem.name, rows), flush=True)
            failed += sum(not row.ok for row in rows)
    return 1 if failed else 0


def find_cases(folder: Path) -> list[Path]:
    """Stems of all recorded cases below `folder`. ValueError if there is none."""
    stems = [path.with_suffix("") for path in sorted(folder.rglob("*.npz")) if _is_case(path)]
    if not stems:
        raise ValueError(f"{folder}: expected .npz files with inputs, outputs and parameters beside them; found none")
    return stems


def load_case(stem: Path) -> Case:
    """Reads a case; a `_bf16` case uses the parameters of its float32 twin."""
    arrays = dict(np.load(f"{stem}.npz"))
    meta = json.loads(str(arrays["meta_json"]))
    inputs = {key[3:]: value for key, value in arrays.items() if key.startswith("in/")}
    outputs = {key[4:]: value for key, value in arrays.items() if key.startswith("out/")}
    flat = dict(np.load(f"{str(stem).removesuffix('_bf16')}_params.npz"))
    config = config_from_params(
        {name: value.shape for name, value in flat.items()},
        horizon=inputs["actions"].shape[1],
        max_tokens=inputs["tokenized_prompt"].shape[1],
        dtype=meta["dtype"],
    )
    observation = Observation(
        images={name: inputs[f"image_u8/{name}"] for name in CAMERAS},
        image_masks={name: inputs[f"image_mask/{name}"] for name in CAMERAS},
        tokenized_prompt=inputs["tokenized_prompt"],
        tokenized_prompt_mask=inputs["tokenized_prompt_mask"],
        state=inputs["state"],
    )
    grads = Path(f"{stem}_grads.npz")
    return Case(
        name=stem.name,
        config=config,
        params=unflatten(flat),
        observation=observation,
        inputs=inputs,
        outputs=outputs,
        grads=dict(np.load(grads)) if grads.exists() else None,
    )


def check_case(case: Case) -> list[ComparedArray]:
    """Compares everything that the case recorded."""
    return forward_rows(case) + gradient_rows(case)


def forward_rows(case: Case) -> list[ComparedArray]:
    """Compares masks, tokens, caches, velocity, loss and samples."""
    with jax.default_matmul_precision("highest"):
        found = jax.tree.map(np.asarray, jax.jit(intermediates, static_argnums=0)(case.config, *_traced(case)))
        found |= {"mean_loss": found["loss_elem"].mean(), "loss_per_step": found["loss_elem"].mean(-1)}
        found |= samples(case)
    return compared(case, found)


def compared(case: Case, found: Mapping[str, np.ndarray]) -> list[ComparedArray]:
    """One row per array that is both found and recorded."""
    return [
        _compare(name, np.asarray(found[name]), expected, case)
        for name, expected in sorted(case.outputs.items())
        if name in found
    ]


def gradient_rows(case: Case) -> list[ComparedArray]:
    """Compares gradients; a leaf also passes when its error is negligible beside the global norm, and a
    gradient that must be zero has to be so to 1e-6 of that norm. Nothing for a case without gradients."""
    if case.grads is None:
        return []
    limits = GRADIENT_TOLERANCES[case.config.dtype]
    with jax.default_matmul_precision("highest"):
        found = gradients(case)
    norm = global_norm(case.grads)
    rows = [_closeness("grad_global_norm", np.asarray(global_norm(found)), case.outputs["grad_global_norm"], limits)]
    for name, expected in case.grads.items():
        row = _closeness(f"grad {name}", found[name], expected, limits)
        error = float(np.sqrt(np.square(found[name] - expected, dtype=np.float64).sum()) / norm)
        if not expected.any():
            row = ComparedArray(
                name=f"{row.name} (zero)", rel_rms=error, max_abs=error, limits=(1e-6, 1e-6), ok=error <= 1e-6
            )
        elif not row.ok and error < 0.1 * limits[0]:
            row = ComparedArray(
                name=f"{row.name} (small)",
                rel_rms=error,
                max_abs=error,
                limits=(0.1 * limits[0],) * 2,
                ok=True,
            )
        rows.append(row)
    return rows


def intermediates(config: Pi0Config, params: Params, observation: Observation, inputs: Arrays) -> dict[str, Any]:
    """Loss and velocity by the public functions, and what lies between by the parts they are made of."""
    time, noise, actions = inputs["time"], inputs["noise"], inputs["actions"]
    noisy = flow.interpolate(noise, actions, time)
    prefix_tokens, prefix_valid = pi0.embed_prefix(config, params, observation)
    suffix = pi0.embed_suffix(config, params, observation.state, noisy, time)
    valid, starts_block = pi0.whole_sequence(prefix_valid, suffix.starts_block)
    length = prefix_valid.shape[1]
    prefix = pi0.encode_prefix(config, params, observation)
    suffix_out, suffix_cache = pi0.run_suffix(config, params, prefix, observation.state, noisy, time)
    prefix_out, prefix_cache = run_expert(
        params["PaliGemma"]["llm"],
        0,
        prefix_tokens.astype(config.dtype),
        attention_mask(prefix_valid, starts_block[:length]),
        token_positions(prefix_valid),
    )
    cache: Cache = jax.tree.map(lambda a, b: jnp.concatenate([a, b], 2), prefix_cache, suffix_cache)
    image_tokens = jnp.split(prefix_tokens[:, : -config.max_tokens], len(CAMERAS), axis=1)
    found: dict[str, Any] = {f"image_tokens/{name}": tokens for name, tokens in zip(CAMERAS, image_tokens, strict=True)}
    if suffix.cond is not None:
        found["adarms_cond"] = suffix.cond
    return found | {
        "loss_elem": pi0.loss_elements(config, params, observation, actions, noise, time),
        "v_t": pi0.velocity(config, params, observation, noisy, time),
        "x_t": noisy,
        "u_t": flow.target_velocity(noise, actions),
        "time_sincos": flow.time_embedding(time, config.expert.width),
        "prefix_tokens": prefix_tokens,
        "suffix_tokens": suffix.tokens,
        "prefix_out": prefix_out,
        "suffix_out": suffix_out,
        "kv_k": cache.k,
        "kv_v": cache.v,
        "prefix_mask": prefix_valid,
        "suffix_mask": valid[:, length:],
        "prefix_ar_mask": starts_block[:length],
        "suffix_ar_mask": starts_block[length:],
        "attn_mask": attention_mask(valid, starts_block),
        "positions": token_positions(valid),
    }


def samples(case: Case) -> Arrays:
    """The recorded Euler samples, each at its number of steps."""
    prefix = "sample_actions_steps"
    sample = jax.jit(pi0.sample_actions, static_argnums=(0, 4))
    noise = case.inputs["sample_noise"]
    return {
        name: np.asarray(sample(case.config, case.params, case.observation, noise, int(name.removeprefix(prefix))))
        for name in case.outputs
        if name.startswith(prefix)
    }


def gradients(case: Case) -> Arrays:
    """d(mean loss over b, h and d) / d(parameter) by flat name."""

    def mean_loss(params: Params, observation: Observation, inputs: Arrays) -> jax.Array:
        return pi0.loss_elements(
            case.config, params, observation, inputs["actions"], inputs["noise"], inputs["time"]
        ).mean()

    return jax.tree.map(np.asarray, flatten(jax.jit(jax.grad(mean_loss))(*_traced(case))))


def results_table(rows: list[ComparedArray]) -> str:
    """One line per array."""
    lines = [
        f"{'ok  ' if row.ok else 'FAIL'} {row.name:72s} rel_rms={row.rel_rms:.1e} (<= {row.limits[0]:.0e}) "
        f"max={row.max_abs:.1e} (<= {row.limits[1]:.0e})"
        for row in rows
    ]
    return "\n".join([*lines, f"{sum(row.ok for row in rows)} of {len(rows)} arrays agree"])


def summary(name: str, rows: list[ComparedArray]) -> str:
    """A case as one line of a Markdown table: arrays that agree, and how far the velocity and the worst sample and
    gradient are off; '-' where nothing of the kind is recorded."""

    def worst(start: str) -> str:
        errors = [row.rel_rms for row in rows if row.name.startswith(start)]
        return f"{max(errors):.1e}" if errors else "-"

    agree = f"{sum(row.ok for row in rows)} of {len(rows)}"
    off = " | ".join(worst(start) for start in ("v_t", "loss_elem", "sample_actions", "grad_global_norm"))
    return f"| `{name}` | {agree} | {off} |"


def _is_case(path: Path) -> bool:
    """Whether inputs, outputs and parameters are recorded; training runs have steps as well, and are no case."""
    params = Path(f"{str(path.with_suffix('')).removesuffix('_bf16')}_params.npz")
    if not params.exists():
        return False
    with np.load(path) as arrays:
        return "in/image_u8/base_0_rgb" in arrays and "out/v_t" in arrays


def _traced(case: Case) -> tuple[Params, Observation, Arrays]:
    return case.params, case.observation, {key: case.inputs[key] for key in ("actions", "noise", "time")}


def _compare(name: str, found: np.ndarray, expected: np.ndarray, case: Case) -> ComparedArray:
    limits = TOLERANCES[case.config.dtype]
    if found.shape != expected.shape:
        return ComparedArray(
            name=f"{name} {found.shape} for {expected.shape}",
            rel_rms=np.inf,
            max_abs=np.inf,
            limits=limits,
            ok=False,
        )
    if expected.dtype == bool or name == "positions":
        unequal = float((found != expected).sum())
        return ComparedArray(name=name, rel_rms=unequal, max_abs=unequal, limits=(0, 0), ok=not unequal)
    rows = _defined_rows(name, case)
    return _closeness(name, found[rows], expected[rows], limits)


def _defined_rows(name: str, case: Case) -> Any:
    """Selects the tokens whose value is defined: padding and masked cameras are not compared."""
    if name in ("prefix_out", "prefix_tokens"):
        return case.outputs["prefix_mask"]
    if name in ("kv_k", "kv_v"):
        valid = case.outputs["prefix_mask"]
        suffix = np.ones((valid.shape[0], case.outputs[name].shape[2] - valid.shape[1]), np.bool_)
        layers = case.outputs[name].shape[0]
        return np.broadcast_to(np.concatenate([valid, suffix], axis=1), (layers, *case.outputs[name].shape[1:3]))
    if name.startswith("image_tokens/"):
        return case.inputs[f"image_mask/{name.split('/')[1]}"]
    return ...


def _closeness(name: str, found: np.ndarray, expected: np.ndarray, limits: tuple[float, float]) -> ComparedArray:
    difference = found.astype(np.float64) - expected.astype(np.float64)
    size = np.sqrt(np.mean(np.square(expected, dtype=np.float64))) + 1e-12
    rel_rms = float(np.sqrt(np.mean(np.square(difference))) / size)
    max_abs = float(np.abs(difference).max() / size)
    return ComparedArray(
        name=name,
        rel_rms=rel_rms,
        max_abs=max_abs,
        limits=limits,
        ok=bool(rel_rms <= limits[0] and max_abs <= limits[1]),
    )


def global_norm(grads: Mapping[str, np.ndarray]) -> float:
    """Root of the sum of squares over all leaves."""
    return float(np.sqrt(sum(np.square(leaf, dtype=np.float64).sum() for leaf in grads.values())))


if __name__ == "__main__":
    sys.exit(main())
