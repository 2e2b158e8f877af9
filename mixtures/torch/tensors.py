"""Batches as PyTorch tensors that share numpy's memory."""

from dataclasses import fields
from typing import Any

import numpy as np
import torch

from mixtures.stream.batches import Batch


def as_tensors(tree: Any) -> Any:
    """The same dicts and lists with every numpy array as a tensor over its memory; all else stays as it is.

    A copy is made only where an array's strides are none that PyTorch has.

    >>> as_tensors({"a": np.arange(2), "names": ["x", "y"]})
    {'a': tensor([0, 1]), 'names': ['x', 'y']}
    """
    if isinstance(tree, np.ndarray):
        # A column of records may stand at strides that are no multiple of its items, which PyTorch does not know.
        fits = all(stride >= 0 and stride % tree.itemsize == 0 for stride in tree.strides)
        return torch.from_numpy(tree if fits else tree.copy())
    if isinstance(tree, dict):
        return {name: as_tensors(value) for name, value in tree.items()}
    if isinstance(tree, list) and not all(isinstance(value, str) for value in tree):
        return [as_tensors(value) for value in tree]
    return tree


def batch_tensors(batch: Batch) -> dict[str, Any]:
    """Every field of a batch by its name: arrays as tensors, texts as lists. The preset of who asks for none."""
    return as_tensors({field.name: getattr(batch, field.name) for field in fields(batch)})
