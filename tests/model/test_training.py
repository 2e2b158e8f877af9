"""Six recorded training steps, and the gradients that must be zero."""

import json
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from model import policy
from model.params import Params, flatten, unflatten
from model.published import check
from trainers.config import OptimizerConfig
from trainers.optimizer import learning_rate

pytestmark = pytest.mark.shared


def test_six_steps_with_moving_average_end_where_the_reference_did(shared: Path) -> None:
    stem = shared / "goldens/openpi/pi0_d32"
    case = check.load_case(stem)
    recorded = dict(np.load(f"{stem}_train6.npz"))
    meta = json.loads(str(recorded["meta_json"]))
    schedule = _reference_schedule(meta["lr"])
    sizes = meta["optimizer"]
    optimizer = optax.chain(
        optax.clip_by_global_norm(sizes["clip_gradient_norm"]),
        optax.adamw(schedule, b1=sizes["b1"], b2=sizes["b2"], eps=sizes["eps"], weight_decay=sizes["weight_decay"]),
    )

    @jax.jit
    def step(params: Params, moments: optax.OptState, noise: jax.Array, time: jax.Array) -> tuple:
        def mean_loss(params: Params) -> jax.Array:
            actions = case.inputs["actions"]
            return policy.loss_elements(case.config, params, case.observation, actions, noise, time).mean()

        loss, grads = jax.value_and_grad(mean_loss)(params)
        updates, moments = optimizer.update(grads, moments, params)
        return optax.apply_updates(params, updates), moments, loss, optax.tree.norm(grads)

    params = average = case.params
    moments = optimizer.init(params)
    with jax.default_matmul_precision("highest"):
        for i in range(meta["n_steps"]):
            noise, time = recorded[f"in/noise/{i}"], recorded[f"in/time/{i}"]
            assert float(schedule(i)) == pytest.approx(recorded[f"out/lr/{i}"], rel=1e-6)
            params, moments, loss, norm = step(params, moments, noise, time)
            assert float(loss) == pytest.approx(recorded[f"out/loss/{i}"], rel=1e-4)
            assert float(norm) == pytest.approx(recorded[f"out/grad_norm/{i}"], rel=1e-3)
            average = jax.tree.map(lambda a, p: meta["ema_decay"] * a + (1 - meta["ema_decay"]) * p, average, params)
    _assert_moved_alike(flatten(params), f"{stem}_train6_params.npz", flatten(case.params))
    _assert_moved_alike(flatten(average), f"{stem}_train6_ema.npz", flatten(case.params))


def test_what_nothing_reads_gets_exactly_zero_gradient(shared: Path) -> None:
    case = check.load_case(shared / "goldens/openpi/pi0_d18")
    actions, noise, time = (case.inputs[key] for key in ("actions", "noise", "time"))
    watched = ("llm/layers/attn/q_einsum/w", "llm/layers/attn/attn_vec_einsum/w", "llm/layers/mlp/linear")
    watched += ("llm/layers/mlp/gating_einsum", "llm/layers/pre_ffw_norm/scale")

    def mean_loss(part: dict[str, jax.Array]) -> jax.Array:
        params = unflatten({**flatten(case.params), **part})
        return policy.loss_elements(case.config, params, case.observation, actions, noise, time).mean()

    part = {
        name: array for name, array in flatten(case.params).items() if name.endswith((*watched, "llm/final_norm/scale"))
    }
    grads = jax.jit(jax.grad(mean_loss))(part)
    assert not np.any(grads.pop("PaliGemma/llm/final_norm/scale"))
    assert len(grads) == 5
    for name, grad in grads.items():
        assert not np.any(grad[-1]), name
        assert np.any(grad[0]), name


def test_the_learning_rate_is_openpis_cosine(shared: Path) -> None:
    case = np.load(shared / "goldens/openpi/lr_schedules.npz")
    config = OptimizerConfig(
        learning_rate=2.5e-5,
        final_learning_rate=2.5e-6,
        warmup_steps=1000,
        decay_steps=30_000,
        ema_decay=0.999,
    )
    found = [learning_rate(config, int(step)) for step in case["steps"]]
    np.testing.assert_allclose(found, case["cosine_default"], rtol=2e-5)  # float32


def _reference_schedule(sizes: dict[str, float]) -> optax.Schedule:
    return optax.warmup_cosine_decay_schedule(
        init_value=sizes["peak_lr"] / (sizes["warmup_steps"] + 1),
        peak_value=sizes["peak_lr"],
        warmup_steps=sizes["warmup_steps"],
        decay_steps=sizes["decay_steps"],
        end_value=sizes["decay_lr"],
    )


def _assert_moved_alike(found: dict, recorded_path: str, start: dict) -> None:
    """Compares the way each parameter went, not where it stands: Adam moves by about the rate whatever the
    gradient, so parameters whose true gradient is zero (SigLIP's key bias) are left to chance."""
    recorded = dict(np.load(recorded_path))
    assert set(found) == set(recorded)
    moved = {name: np.asarray(found[name] - start[name], np.float64) for name in found}
    wanted = {name: np.asarray(recorded[name] - start[name], np.float64) for name in found}
    kept = [name for name in found if not name.endswith("MultiHeadDotProductAttention_0/key/bias")]
    error = np.sqrt(sum(np.square(moved[name] - wanted[name]).sum() for name in kept))
    size = np.sqrt(sum(np.square(wanted[name]).sum() for name in kept))
    assert error < 2e-3 * size
    for name in kept:
        np.testing.assert_allclose(found[name], recorded[name], atol=1e-4, err_msg=name)
