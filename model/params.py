# ruff: noqa: F722
"""Parameter trees: declared shapes and initialisers, made, named and counted."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import Float, PRNGKeyArray

from model.arrays import Array

LARGEST_TOGETHER = 16**4

Params = Mapping[str, Any]
Initialiser = Callable[[PRNGKeyArray, tuple[int, ...]], Array]


@dataclass(frozen=True, kw_only=True)
class ParameterSpec:
    """One parameter: its shape and how it is drawn."""

    shape: tuple[int, ...]
    init: Initialiser


def zeros(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "*shape"]:
    return jnp.zeros(shape, jnp.float32)


def ones(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "*shape"]:
    return jnp.ones(shape, jnp.float32)


@dataclass(frozen=True)
class Normal:
    """Draws from N(0, std^2)."""

    std: float

    def __call__(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "*shape"]:
        return self.std * jax.random.normal(key, shape, jnp.float32)


def normal(std: float) -> Initialiser:
    """Draws from N(0, std^2)."""
    return Normal(std)


def fan_in(inputs: int) -> Initialiser:
    """Draws from N(0, 1 / inputs), which keeps the size of what passes through."""
    return normal(inputs**-0.5)


def draw(specs: Mapping[str, ParameterSpec], key: PRNGKeyArray) -> Params:
    """Makes every parameter; each one's key depends on its name alone, so that adding one moves no other.

    Small normal ones of like size are drawn together and cut to length, which gives the same values as one by
    one (element i of a draw depends on the key and on i) and compiles many times faster.
    """
    names = list(specs)
    numbers = jnp.array([zlib.crc32(name.encode()) for name in names], jnp.uint32)
    keys = dict(zip(names, jax.vmap(jax.random.fold_in, (None, 0))(key, numbers), strict=True))
    groups: dict[int, list[str]] = {}
    for name, spec in specs.items():
        groups.setdefault(_drawn_size(spec), []).append(name)
    flat = {name: specs[name].init(keys[name], specs[name].shape) for name in groups.pop(0, [])}
    for size, members in groups.items():
        drawn = jax.vmap(lambda k, size=size: jax.random.normal(k, (size,)))(jnp.stack([keys[n] for n in members]))
        for name, values in zip(members, drawn, strict=True):
            spec = specs[name]
            assert isinstance(spec.init, Normal)
            flat[name] = spec.init.std * values[: math.prod(spec.shape)].reshape(spec.shape)
    return unflatten({name: flat[name] for name in names})


def _drawn_size(spec: ParameterSpec) -> int:
    """The power of 16 that a small normal parameter fits in; 0 for what is made alone."""
    size = math.prod(spec.shape)
    if not isinstance(spec.init, Normal) or size > LARGEST_TOGETHER:
        return 0
    return 16 ** math.ceil(math.log(max(size, 2), 16))


def flatten(params: Params) -> dict[str, Any]:
    """Names each leaf by its path joined with '/'."""
    return traverse_util.flatten_dict(dict(params), sep="/")


def unflatten(flat: Mapping[str, Any]) -> Params:
    """Inverse of `flatten`."""
    return traverse_util.unflatten_dict(dict(flat), sep="/")


def prefixed(prefix: str, specs: Mapping[str, ParameterSpec]) -> dict[str, ParameterSpec]:
    """Puts `specs` below a name."""
    return {f"{prefix}/{name}": spec for name, spec in specs.items()}


def param_count(params: Params) -> int:
    """Number of values in a tree of arrays or shapes."""
    return sum(int(leaf.size) for leaf in jax.tree.leaves(params))
