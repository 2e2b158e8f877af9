"""Devices as a mesh: samples are split over all of them, large parameters over its `fsdp` axis."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from model.layers import WEIGHTS_AXIS
from pipelines.contract.errors import UsageError

Tree = Any
Function = TypeVar("Function", bound=Callable[..., Any])
AXES = ("data", WEIGHTS_AXIS)
# Smaller arrays are copied to every device: splitting them saves nothing and costs a gather each.
MIN_SPLIT_BYTES = 4 * 2**20


def build_mesh(fsdp: int, *, batch_size: int, accumulate: int = 1) -> Mesh:
    """All devices of all processes as [data, fsdp], in the order of processes, so that rows of a batch stay local.

    UsageError if the devices do not divide by `fsdp`, or one part of a batch does not divide by the devices.
    """
    devices = jax.devices()
    if len(devices) % fsdp:
        raise UsageError(f"fsdp: expected a divisor of the {len(devices)} devices; found {fsdp}")
    if batch_size // accumulate % len(devices):
        raise UsageError(
            f"batch_size: expected a multiple of {len(devices)} devices x {accumulate} parts "
            f"= {len(devices) * accumulate}; found {batch_size}"
        )
    return Mesh(np.array(devices).reshape(-1, fsdp), AXES)


def single_device_mesh() -> Mesh:
    """The first device of this process alone, as evaluation uses it."""
    return Mesh(np.array(jax.local_devices()[:1]).reshape(1, 1), AXES)


def split_state(mesh: Mesh, shapes: Tree) -> Tree:
    """The placement of each array of a state, given arrays or shapes: see `split_array`."""
    return jax.tree.map(lambda leaf: NamedSharding(mesh, split_array(mesh, leaf)), shapes)


def split_array(mesh: Mesh | AbstractMesh, leaf: Any) -> PartitionSpec:
    """Splits the longest axis that `fsdp` divides, if the array is large; else every device holds all of it.

    With fsdp 4: f32 [1024, 4096] -> (None, 'fsdp'); f32 [1024] -> (); f32 [4097, 1023] -> ().
    """
    fsdp = mesh.shape["fsdp"]
    # The longest axis, not always the first: stacked layers have 18 or 27 of them, which 8 devices do not divide.
    size = int(np.prod(leaf.shape)) * leaf.dtype.itemsize
    fitting = [axis for axis, length in enumerate(leaf.shape) if length % fsdp == 0]
    if fsdp == 1 or size < MIN_SPLIT_BYTES or not fitting:
        return PartitionSpec()
    longest = max(fitting, key=lambda axis: leaf.shape[axis])
    return PartitionSpec(*[None] * longest, "fsdp")


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds all of it."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The first axis of every array over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def place_batch(mesh: Mesh, batch: Tree) -> Tree:
    """Sends this process's rows of a batch to its devices, as parts of the whole batch's arrays."""
    sharding = split_batch(mesh)
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)


def traced_on(mesh: Mesh, function: Function) -> Function:
    """The function, traced for this mesh: the model keeps its activations split by samples (`model.layers`)."""

    @wraps(function)
    def traced(*inputs: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*inputs)

    return traced  # type: ignore[return-value]


def with_placement(mesh: Mesh, shapes: Tree) -> Tree:
    """Shapes with their placement, as a checkpoint is read."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        split_state(mesh, shapes),
    )
