"""Parameter trees: declared shapes and initialisers, made, named and counted."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

Params = Mapping[str, Any]
Initialiser = Callable[[jax.Array, tuple[int, ...]], jax.Array]


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One parameter: its shape and how it is drawn."""

    shape: tuple[int, ...]
    init: Initialiser


def zeros(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jnp.zeros(shape, jnp.float32)


def ones(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jnp.ones(shape, jnp.float32)


def normal(std: float) -> Initialiser:
    """Draws from N(0, std^2)."""
    return lambda key, shape: std * jax.random.normal(key, shape, jnp.float32)


def fan_in(inputs: int) -> Initialiser:
    """Draws from N(0, 1 / inputs), which keeps the size of what passes through."""
    return normal(inputs**-0.5)


def draw(specs: Mapping[str, Spec], key: jax.Array) -> Params:
    """Makes every parameter; each one's key depends on its name alone, so that adding one moves no other."""
    flat = {
        name: spec.init(jax.random.fold_in(key, zlib.crc32(name.encode())), spec.shape)
        for name, spec in specs.items()
    }
    return unflatten(flat)


def flatten(params: Params) -> dict[str, Any]:
    """Names each leaf by its path joined with '/'."""
    return traverse_util.flatten_dict(dict(params), sep="/")


def unflatten(flat: Mapping[str, Any]) -> Params:
    """Inverse of `flatten`."""
    return traverse_util.unflatten_dict(dict(flat), sep="/")


def prefixed(prefix: str, specs: Mapping[str, Spec]) -> dict[str, Spec]:
    """Puts `specs` below a name."""
    return {f"{prefix}/{name}": spec for name, spec in specs.items()}


def param_count(params: Params) -> int:
    """Number of values in a tree of arrays or shapes."""
    return sum(int(leaf.size) for leaf in jax.tree.leaves(params))
