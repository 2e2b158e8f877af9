"""Where a loader stands in the global order: the state that datasets save, and how to read it out of a loader's."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from mixtures.locks import make_lock
from mixtures.mixture import Mixture
from pipelines.contract.errors import UsageError

SCHEMA = "embodimix.torch/v1"
State = dict[str, Any]
# What a state must agree in with the stream that continues it; sizes of batches and numbers of processes may differ.
_BINDING = ("schema", "split", "seed", "groups", "lock")


def order_of(mixture: Mixture, split: str, seed: int | None, groups: tuple[str, ...] | None) -> State:
    """What decides the global order, as a state names it: the mixture's lock as a hash, and what is drawn from it."""
    # A lock's text: tuples in it are lists in a file, and its order is the order of the groups.
    text = json.dumps(make_lock(mixture), sort_keys=True)
    return {
        "schema": SCHEMA,
        "split": split,
        "seed": mixture.spec.seed if seed is None else seed,
        "groups": None if groups is None else list(groups),
        "lock": hashlib.sha256(text.encode()).hexdigest(),
    }


def next_position(state: Mapping[str, Any], order: Mapping[str, Any]) -> int:
    """The first position that was not yielded yet. Raises UsageError for the state of another order.

    state: a dataset's, or that of a StatefulDataLoader over it with any number of workers. Workers take turns, so the
    lowest of their positions is the loader's, but for the batches it yielded since it last asked them.
    """
    found = list(_states_in(state))
    if not found:
        raise UsageError("expected the state of a stream's dataset, or of a StatefulDataLoader over one; found neither")
    for one in found:
        _check(one, order)
    # A loader's workers hold the dataset's state, where it began, beside the iterator's.
    at = [one for one in found if one["is_iterator"]] or found
    first = min(at, key=lambda one: one["position"])
    return int(first["position"] + state.get("_steps_since_snapshot", 0) * first["batch_size"])


def _states_in(tree: Any) -> Iterator[Mapping[str, Any]]:
    """Every dataset's state inside a loader's, which nests them by fetcher and worker."""
    if not isinstance(tree, Mapping):
        return
    if str(tree.get("schema", "")).startswith("embodimix.torch/"):
        yield tree
        return
    for value in tree.values():
        yield from _states_in(value)


def _check(state: Mapping[str, Any], order: Mapping[str, Any]) -> None:
    for name in _BINDING:
        if state.get(name) != order[name]:
            raise UsageError(
                f"{name}: expected {order[name]!r}, as this dataset draws; the state has {state.get(name)!r}. It "
                "belongs to another order of samples: restore the mixture and its data, or start again at position 0"
            )
