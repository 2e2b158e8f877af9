"""Rematerialisation: what a scanned layer keeps for its backward pass."""

from __future__ import annotations

from collections.abc import Callable

import jax

from model.config import Remat


def rematerialised(block: Callable, remat: Remat) -> Callable:
    """Wraps a scan body: 'none' keeps all, 'dots' keeps products with weights, 'full' keeps the layer input."""
    if remat == "none":
        return block
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if remat == "dots" else None
    return jax.checkpoint(block, prevent_cse=False, policy=policy)
