"""How stacked layers run: one scan over them, what it keeps for the backward pass, which attention kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from model.config import Attention, Remat


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Choices that change cost and not results.

    `remat`: 'none' keeps all for the backward pass, 'dots' keeps products with weights, 'full' keeps each
    layer's input. `unroll` layers are laid out one after the other per loop step: a loop compiles once for
    any depth, while a few small layers run faster without one. `attention`: see `model.attention.attend`.
    """

    remat: Remat = "none"
    unroll: int = 1
    attention: Attention = "auto"

    def scan(self, body: Callable, start: Any, layers: Any) -> tuple[Any, Any]:
        """`jax.lax.scan` of `body(x, layer) -> (x, output)`."""
        return jax.lax.scan(self._rematerialised(body), start, layers, unroll=self.unroll)

    def _rematerialised(self, body: Callable) -> Callable:
        if self.remat == "none":
            return body
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if self.remat == "dots" else None
        return jax.checkpoint(body, prevent_cse=False, policy=policy)


PLAIN = Execution()
