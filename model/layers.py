"""How stacked layers run: one scan over them, what it keeps for the backward pass, which attention kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike

from model.config import Attention, Remat

WHOLE = "whole weights"
WEIGHTS_AXIS = "fsdp"  # of the mesh, over which weights are split; samples are split over all axes
FLOAT32 = ("scale", "bias")  # parameters that no product takes in the activations' type


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
        """`jax.lax.scan` of `body(x, layer) -> (x, output)`; x stays split by samples (`split_samples`)."""

        def split_body(x: Any, layer: Any) -> tuple[Any, Any]:
            x, output = body(split_samples(x), layer)
            return split_samples(x), output

        return jax.lax.scan(self._rematerialised(split_body), start, layers, unroll=self.unroll)

    def _rematerialised(self, body: Callable) -> Callable:
        policies = jax.checkpoint_policies
        if self.remat == "none":
            if not _is_split():
                return body
            # Gathered again in the backward pass: kept, the weights of all layers would be whole on every device.
            policy = policies.save_anything_except_these_names(WHOLE)
        else:
            policy = policies.dots_with_no_batch_dims_saveable if self.remat == "dots" else None
        return jax.checkpoint(body, prevent_cse=False, policy=policy)


PLAIN = Execution()


def split_samples(tree: Any) -> Any:
    """Keeps the first axis of every array over all devices of the mesh that the program is traced for, if any.

    Without it XLA sees weights split over devices, splits the activations by features to match, and moves those of
    the whole batch between devices in every layer. With it only the weights of one layer at a time are gathered.
    """
    if not _is_split():
        return tree
    mesh = jax.sharding.get_abstract_mesh()
    split = PartitionSpec(mesh.axis_names)
    return jax.tree.map(
        lambda array: array if array.shape[0] % mesh.size else jax.lax.with_sharding_constraint(array, split), tree
    )


def narrow_weights(layers: Any, dtype: DTypeLike) -> Any:
    """Stacked layers' weights in the type of the activations that they meet, where they are split over devices.

    Every product casts its weights anyway. Cast before the loop, half of the bytes are gathered in it: a cast inside
    would be done on the whole weights, since XLA gives it the sharding of its result.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.shape.get(WEIGHTS_AXIS, 1) == 1:
        return layers
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if path[-1].key in FLOAT32 else leaf.astype(dtype), layers
    )


def whole_weights(layer: Any) -> Any:
    """One layer's weights on every device of the mesh.

    Gathered here, layer by layer in the loop, and let go after it: else XLA gathers activations where a small batch
    makes that cheaper, which grows with the batch.
    """
    if not _is_split():
        return layer
    return jax.tree.map(lambda leaf: checkpoint_name(_gathered(leaf), WHOLE), layer)


@jax.custom_vjp
def _gathered(leaf: Any) -> Any:
    return jax.lax.with_sharding_constraint(leaf, PartitionSpec())


# A constraint's own gradient is constrained alike, so that every device would hold all of it; left to XLA, the sum over
# devices ends in the parts that they own.
_gathered.defvjp(lambda leaf: (_gathered(leaf), None), lambda _, gradient: (gradient,))


def _is_split() -> bool:
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and mesh.size > 1
