"""Work counted in the traced program, against numbers by hand and the published ones."""

import jax
import jax.numpy as jnp
import pytest

from model.config import named_config
from trainers.planning.work import count_flops, forward_flops, peak_tflops, train_flops


def test_products_and_convolutions_count_two_per_multiplication() -> None:
    product = jax.make_jaxpr(lambda a, b: a @ b)(jnp.zeros((3, 4)), jnp.zeros((4, 5)))
    assert count_flops(product) == 2 * 3 * 4 * 5

    def convolve(images: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(images, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    traced = jax.make_jaxpr(convolve)(jnp.zeros((1, 4, 4, 3)), jnp.zeros((2, 2, 3, 7)))
    assert count_flops(traced) == 2 * (2 * 2 * 7) * (2 * 2 * 3)


def test_a_loop_counts_as_often_as_it_runs_and_a_branch_as_its_costliest() -> None:
    def loop(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda carry, _: (jax.jit(jnp.matmul)(carry, carry), None), x, length=6)[0]

    def branch(x: jax.Array) -> jax.Array:
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ x, lambda: x)

    assert count_flops(jax.make_jaxpr(loop)(jnp.zeros((2, 2)))) == 6 * 16
    assert count_flops(jax.make_jaxpr(branch)(jnp.zeros((2, 2)))) == 16


def test_the_full_size_takes_the_published_work() -> None:
    three, two = (forward_flops(named_config("pi0"), cameras) for cameras in (3, 2))
    assert three == pytest.approx(4.04e12 * (1 - 0.046), rel=0.005)  # nothing reads the last layer's prefix
    assert two / three == pytest.approx(0.68, abs=0.02)  # 65 samples/s become 96
    assert train_flops(named_config("pi0"), 3) == 3 * three


def test_peaks_are_known_by_the_devices_name() -> None:
    assert peak_tflops("NVIDIA H100 80GB HBM3") == peak_tflops("NVIDIA H200") == 989.0
    assert (peak_tflops("NVIDIA H100 PCIe"), peak_tflops("TPU v5 lite"), peak_tflops("cpu")) == (756.0, 197.0, None)
