# ruff: noqa: F722
"""Only the images that are there, side by side: how a batch of mixed cameras skips the ones it lacks.

Almost all work of the prefix is done token by token. It is done here on packed tokens: the images that are there, one
behind the other, and the prompts. Only attention needs each sample's tokens in a row of its own, its valid tokens
first; queries, keys and values are moved there and the result is moved back. Since a token's position counts valid
tokens, this gives what masking gives. How many images are packed is part of the compiled program, so that it is
rounded up to one of a few sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Bool, Int, Shaped

from model.arrays import Array


@dataclass(frozen=True, kw_only=True)
class Packing:
    """A promise about a batch: of each of its `groups` equal runs of samples, at most `slots` images are there.

    An image beyond that would be lost. Groups are for samples that live on several devices: each packs its own.
    """

    slots: int
    groups: int = 1

    def __post_init__(self) -> None:
        if self.slots < 1 or self.groups < 1:
            raise ValueError(f"packing: expected slots and groups of 1 or more; found {self.slots} and {self.groups}")


def fit_packing(image_masks: Mapping[str, np.ndarray], *, groups: int = 1, sizes: int = 8) -> Packing | None:
    """Returns the smallest of `sizes` equally spaced packings that holds a batch, or None where all of it is needed.

    32 samples of 3 cameras are 96 images, so that the sizes are 12, 24, .. 84; 61 images there take 72. ValueError
    if the samples do not divide into `groups`.
    """
    there = np.stack([np.asarray(mask, bool) for mask in image_masks.values()], axis=1)
    if len(there) % groups:
        raise ValueError(f"packing: expected groups that divide {len(there)} samples; found {groups}")
    per_group = there.reshape(groups, -1)
    images = per_group.shape[1]
    # Few sizes rather than the exact number: each is a program of its own, which takes minutes to compile at full size.
    most = max(int(per_group.sum(1).max()), 1)
    slots = min(-(-images * size // sizes) for size in range(1, sizes + 1) if images * size >= most * sizes)
    return None if slots >= images else Packing(slots=slots, groups=groups)


@struct.dataclass
class Places:
    """Which slot holds which element, in each group; a number past the end says none.

    Two of three elements in two slots: element [0 2], slot [0 2 1], where the middle 2 is past the last slot.
    """

    element: Int[Array, "g p"]
    slot: Int[Array, "g i"]

    @property
    def kept(self) -> Bool[Array, "g i"]:
        """Which elements have a slot."""
        return self.slot < self.element.shape[1]

    def pack(self, elements: Shaped[Array, "g i *e"]) -> Shaped[Array, "g p *e"]:
        """Moves elements into their slots; slots without one are zero."""
        return _move(elements, self.element, self.slot)

    def unpack(self, slots: Shaped[Array, "g p *e"]) -> Shaped[Array, "g i *e"]:
        """Moves slots back to their elements; elements without one are zero."""
        return _move(slots, self.slot, self.element)


@struct.dataclass
class PackedRows:
    """Prefix tokens in two orders: packed in groups, and a row per sample with its valid tokens first."""

    places: Places
    valid: Bool[Array, "b s"]

    def pack(self, rows: Shaped[Array, "b s *e"]) -> Shaped[Array, "g p *e"]:
        """From a row per sample to packed tokens."""
        groups = self.places.slot.shape[0]
        return self.places.pack(rows.reshape(groups, -1, *rows.shape[2:]))

    def unpack(self, tokens: Shaped[Array, "g p *e"]) -> Shaped[Array, "b s *e"]:
        """From packed tokens to a row per sample; padding is zero."""
        return self.places.unpack(tokens).reshape(*self.valid.shape, *tokens.shape[2:])

    @property
    def positions(self) -> Int[Array, "g p"]:
        """Position of each packed token; 0 for those that no sample has."""
        elements, length = self.places.slot.shape[1], self.valid.shape[1]
        return jnp.where(self.places.element < elements, self.places.element % length, 0)


def place_images(packing: Packing, there: Bool[Array, "b n"]) -> Places:
    """Gives each image that is there the next slot of its group."""
    there = there.reshape(packing.groups, -1)
    slots = min(packing.slots, there.shape[1])
    slot = jnp.where(there, jnp.cumsum(there, axis=1) - 1, slots)
    return Places(element=_inverse(slot, slots), slot=slot)


def place_tokens(images: Places, valid: Bool[Array, "b s"], image_tokens: int, text_tokens: int) -> PackedRows:
    """Matches packed tokens (the images' slots, then all prompts) with rows of valid tokens first.

    `valid` is in the order of the unpacked prefix: a sample's cameras, then its prompt.
    """
    batch, length = valid.shape
    groups, slots = images.element.shape
    rows = batch // groups
    packed = slots * image_tokens + rows * text_tokens
    starts = images.slot.reshape(batch, -1, 1) * image_tokens
    of_images = (starts + jnp.arange(image_tokens)).reshape(batch, -1)
    row = jnp.arange(batch)[:, None] % rows
    of_text = slots * image_tokens + row * text_tokens + jnp.arange(text_tokens)
    # Padding gets an index past the end, which moving drops: no row may end in a slot that another one owns.
    source = jnp.where(valid, jnp.concatenate([of_images, of_text], axis=1), packed)
    target = row * length + jnp.cumsum(valid, axis=1) - 1
    empty = jnp.full(packed, rows * length)
    element = jax.vmap(lambda at, number: empty.at[at].set(number, mode="drop"))(
        source.reshape(groups, -1), target.reshape(groups, -1)
    )
    # Both directions are kept: attention needs tokens in rows, everything else packed, many times in each layer.
    places = Places(element=element, slot=_inverse(element, rows * length))
    return PackedRows(places=places, valid=jnp.arange(length) < valid.sum(1, keepdims=True))


def valid_first(
    tokens: Shaped[Array, "b s e"], valid: Bool[Array, "b s"]
) -> tuple[Shaped[Array, "b s e"], Bool[Array, "b s"]]:
    """Moves each row's padding to its end: with valid [1 0 1], tokens [a b c] become [a c b], valid [1 1 0]."""
    order = jnp.argsort(~valid, axis=1, stable=True)
    return jnp.take_along_axis(tokens, order[..., None], axis=1), jnp.take_along_axis(valid, order, axis=1)


def _inverse(index: Int[Array, "g i"], length: int) -> Int[Array, "g p"]:
    """Where each of `length` numbers stands in `index`; past the end where it does not."""
    count = index.shape[1]
    nowhere = jnp.full(length, count)
    return jax.vmap(lambda numbers: nowhere.at[numbers].set(jnp.arange(count), mode="drop"))(index)


# JAX's own gradient of a gather is a scatter that adds, which is slow on GPUs and, in bfloat16, depends on the order of
# its sums. Here every element goes to at most one slot, so that moving back is another gather.
@jax.custom_vjp
def _move(x: Shaped[Array, "g i *e"], index: Int[Array, "g p"], back: Int[Array, "g i"]) -> Shaped[Array, "g p *e"]:
    """x[index] in each group, zeros past the end. `back` is the inverse, by which gradients move: no sums needed."""
    # Filled: JAX by default clamps an index past the end to the last row, and padding would be another sample's token.
    return jax.vmap(lambda rows, places: rows.at[places].get(mode="fill", fill_value=0))(x, index)


def _move_forward(
    x: Shaped[Array, "g i *e"], index: Int[Array, "g p"], back: Int[Array, "g i"]
) -> tuple[Shaped[Array, "g p *e"], tuple[Int[Array, "g p"], Int[Array, "g i"]]]:
    return _move(x, index, back), (index, back)


def _move_backward(
    indices: tuple[Int[Array, "g p"], Int[Array, "g i"]], gradient: Shaped[Array, "g p *e"]
) -> tuple[Shaped[Array, "g i *e"], None, None]:
    index, back = indices
    return _move(gradient, back, index), None, None


_move.defvjp(_move_forward, _move_backward)
