# ruff: noqa: F722
"""Flow matching: the path from noise to actions, its time, and walking along it.

Flow time has two conventions. Here, as in openpi, t = 1 is noise and t = 0 is data:

    x_t = t * noise + (1 - t) * actions        velocity u = dx/dt = noise - actions
    sampling walks from t = 1 to t = 0 in steps of dt = -1/N

The paper writes tau = 1 - t: A^tau = tau * A + (1 - tau) * noise, tau = 0 is noise, and it walks upward.
Training draws t = 0.999 * Beta(1.5, 1) + 0.001, which is the paper's p(tau) = Beta((s - tau) / s; 1.5, 1)
with s = 0.999: both prefer noisy samples and never draw tau > s.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, PRNGKeyArray

from model.arrays import Array

ALPHA = 1.5  # of Beta(ALPHA, 1)
CUTOFF = 0.999  # the paper's s
MIN_PERIOD = 4e-3
MAX_PERIOD = 4.0


def sample_time(key: PRNGKeyArray, batch: int, shift: float = 1.0) -> Float[Array, " b"]:
    """Draws flow times in (0.001, 1]. The inverse of Beta(a, 1)'s distribution function is u^(1/a).

    shift: 1 as published; above 1 it moves every time toward noise, t -> s t / (1 + (s - 1) t), as Esser et al. do
    for large images (Scaling Rectified Flow Transformers, 2024): the many like steps of a smooth chunk give its mean
    away through much noise, so that without it a small model seldom has to use its observation.
    """
    uniform = 1.0 - jax.random.uniform(key, (batch,), jnp.float32)
    time = uniform ** (1.0 / ALPHA) * CUTOFF + (1.0 - CUTOFF)
    return time if shift == 1.0 else shift * time / (1.0 + (shift - 1.0) * time)


def interpolate(
    noise: Float[Array, "b h d"], actions: Float[Array, "b h d"], time: Float[Array, " b"]
) -> Float[Array, "b h d"]:
    """x_t on the straight path from `noise` (t = 1) to `actions` (t = 0)."""
    t = time[:, None, None]
    return t * noise + (1.0 - t) * actions


def target_velocity(noise: Float[Array, "b h d"], actions: Float[Array, "b h d"]) -> Float[Array, "b h d"]:
    """dx/dt of the straight path."""
    return noise - actions


def time_embedding(time: Float[Array, " b"], width: int) -> Float[Array, "b e"]:
    """sin | cos of 2 pi t / period, periods log-spaced from 4e-3 to 4.0; float32."""
    fraction = jnp.linspace(0.0, 1.0, width // 2, dtype=jnp.float32)
    period = MIN_PERIOD * (MAX_PERIOD / MIN_PERIOD) ** fraction
    angle = time.astype(jnp.float32)[:, None] * (1.0 / period * 2.0 * jnp.pi)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def integrate(
    velocity: Callable[[Float[Array, "b h d"], Float[Array, " b"]], Float[Array, "b h d"]],
    noise: Float[Array, "b h d"],
    num_steps: int,
) -> Float[Array, "b h d"]:
    """Euler from t = 1 (noise) to t = 0 (actions) in `num_steps` equal steps."""
    dt = -1.0 / num_steps

    def step(x: Float[Array, "b h d"], index: Int[Array, ""]) -> tuple[Float[Array, "b h d"], None]:
        time = jnp.full(x.shape[:1], 1.0 + index * dt, jnp.float32)
        return x + dt * velocity(x, time), None

    actions, _ = jax.lax.scan(step, noise, jnp.arange(num_steps))
    return actions
