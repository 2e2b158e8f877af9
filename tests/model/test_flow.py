"""Flow time, its embedding, and Euler steps."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import flow


def test_time_one_is_noise_and_zero_is_data() -> None:
    noise, actions = jnp.full((2, 1, 1), 8.0), jnp.full((2, 1, 1), 4.0)
    np.testing.assert_allclose(flow.interpolate(noise, actions, jnp.array([1.0, 0.25]))[:, 0, 0], [8.0, 5.0])
    np.testing.assert_allclose(flow.target_velocity(noise, actions)[:, 0, 0], [4.0, 4.0])


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_euler_undoes_a_constant_velocity(steps: int) -> None:
    noise, actions = jnp.full((1, 2, 3), 8.0), jnp.full((1, 2, 3), 4.0)
    out = flow.integrate(lambda x, time: noise - actions, noise, steps)
    np.testing.assert_allclose(out, actions, rtol=1e-6)


def test_euler_visits_the_times_from_one_downwards() -> None:
    out = flow.integrate(lambda x, time: jnp.broadcast_to(time[:, None, None], x.shape), jnp.zeros((1, 1, 1)), 4)
    assert out[0, 0, 0] == pytest.approx(-(1.0 + 0.75 + 0.5 + 0.25) / 4)


def test_times_follow_the_papers_beta() -> None:
    time = np.asarray(flow.sample_time(jax.random.key(0), 200_000))
    fractions = np.array([0.01, 0.1, 0.5, 0.9, 0.99])
    np.testing.assert_allclose(np.quantile(time, fractions), 0.001 + 0.999 * fractions ** (2 / 3), atol=3e-3)
    assert time.min() > 0.001 and time.max() <= 1.0


@pytest.mark.shared
@pytest.mark.parametrize("width", [32, 1024])
def test_time_embedding_equals_the_recorded_one(shared: Path, width: int) -> None:
    case = np.load(shared / "goldens/openpi/time_embedding.npz")
    found = flow.time_embedding(jnp.asarray(case["t"]), width)
    np.testing.assert_allclose(found, case[f"emb_{width}"], atol=2e-4)


@pytest.mark.shared
def test_time_quantiles_equal_the_recorded_ones(shared: Path) -> None:
    case = np.load(shared / "goldens/openpi/time_embedding.npz")
    time = np.asarray(flow.sample_time(jax.random.key(1), 400_000))
    inner = slice(1, -1)  # the extremes of a sample are its size's, not the distribution's
    np.testing.assert_allclose(
        np.quantile(time, case["beta_q"][inner]), case["beta_quantiles_analytic"][inner], atol=4e-3
    )


def test_shifted_times_lie_nearer_to_noise_and_keep_their_ends() -> None:
    plain, shifted = (np.asarray(flow.sample_time(jax.random.key(0), 1000, shift)) for shift in (1.0, 9.0))
    np.testing.assert_allclose(shifted, 9 * plain / (1 + 8 * plain), rtol=1e-6)
    assert shifted.max() <= 1.0 and shifted.min() > plain.min()
