"""The work that a step takes: floating-point operations counted from the traced model, and a device's peak."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr

from model import policy
from model.config import PolicyConfig
from model.inputs import Observation
from pipelines.contract.slots import CAMERAS

# Dense bfloat16 peak in TFLOP/s by the beginning of the device's kind, the longest that fits; makers' data sheets.
PEAK_TFLOPS: Mapping[str, float] = {
    "NVIDIA H100": 989.0,
    "NVIDIA H100 PCIe": 756.0,
    "NVIDIA H200": 989.0,
    "NVIDIA GH200": 989.0,
    "NVIDIA B200": 2250.0,
    "NVIDIA A100": 312.0,
    "NVIDIA L40S": 362.0,
    "NVIDIA L4": 121.0,
    "NVIDIA GeForce RTX 4090": 165.0,
    "TPU v4": 275.0,
    "TPU v5 lite": 197.0,
    "TPU v5": 459.0,
    "TPU v6 lite": 918.0,
}
PRODUCTS = ("dot_general", "conv_general_dilated")


def peak_tflops(device_kind: str) -> float | None:
    """The peak of one device in TFLOP/s, or None where the table has none (a CPU).

    >>> peak_tflops("NVIDIA H100 80GB HBM3"), peak_tflops("NVIDIA H100 PCIe"), peak_tflops("cpu")
    (989.0, 756.0, None)
    """
    fitting = [kind for kind in PEAK_TFLOPS if device_kind.startswith(kind)]
    return PEAK_TFLOPS[max(fitting, key=len)] if fitting else None


def forward_flops(config: PolicyConfig, cameras: int) -> float:
    """Floating-point operations of one sample's forward pass in products of matrices: two per multiplication.

    Counted in the traced program, layers of a loop each time they run. Full size, three cameras, 48 tokens: 3.85e12,
    without the last layer's work on the prefix, which nothing reads.
    """
    params = jax.eval_shape(partial(policy.init_params, config), jax.random.key(0))
    observation = jax.eval_shape(partial(_empty_observation, config, cameras))
    chunk = jax.ShapeDtypeStruct((1, config.horizon, config.action_dim), jnp.float32)
    time = jax.ShapeDtypeStruct((1,), jnp.float32)
    traced = jax.make_jaxpr(partial(policy.loss_elements, config))(params, observation, chunk, chunk, time)
    return float(count_flops(traced))


def _empty_observation(config: PolicyConfig, cameras: int) -> Observation:
    """One sample's inputs with nothing in them, for their shapes."""
    side, words = config.image_size, (1, config.max_tokens)
    return Observation(
        images=dict.fromkeys(CAMERAS[:cameras], jnp.zeros((1, side, side, 3), jnp.uint8)),
        image_masks=dict.fromkeys(CAMERAS[:cameras], jnp.ones(1, jnp.bool_)),
        tokenized_prompt=jnp.zeros(words, jnp.int32),
        tokenized_prompt_mask=jnp.ones(words, jnp.bool_),
        state=jnp.zeros((1, config.action_dim), jnp.float32),
    )


def train_flops(config: PolicyConfig, cameras: int) -> float:
    """Of one sample's training step as model FLOPs are counted: three forward passes, recomputation not counted."""
    return 3.0 * forward_flops(config, cameras)


def count_flops(traced: ClosedJaxpr | Jaxpr) -> int:
    """Two per multiplication of every matrix product and convolution; a loop's body as often as it runs."""
    inner = traced.jaxpr if isinstance(traced, ClosedJaxpr) else traced
    return sum(_of_equation(equation) for equation in inner.eqns)


def _of_equation(equation: Any) -> int:
    name = equation.primitive.name
    made = math.prod(equation.outvars[0].aval.shape) if name in PRODUCTS else 0
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2 * made * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = equation.params["dimension_numbers"].rhs_spec[0]
        return 2 * made * math.prod(kernel) // kernel[outputs]
    times = equation.params["length"] if name == "scan" else 1
    return times * sum(count_flops(part) for part in _parts(equation))


def _parts(equation: Any) -> list[Any]:
    """The programs inside an equation; of a branch the costliest."""
    if equation.primitive.name == "cond":
        return [max(equation.params["branches"], key=count_flops)]
    values = [*equation.params.values()]
    return [value for value in values if isinstance(value, ClosedJaxpr | Jaxpr)]
