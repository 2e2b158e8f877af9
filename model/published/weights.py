"""Published weights as a policy's parameters: read one array at a time, drawn where a file has none, and reported.

Every difference between a file and the model is listed by name; nothing is skipped in silence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.config import Pi0Config, Pi0SmallConfig
from model.distilbert import distilbert_from_huggingface
from model.params import Params, flatten, unflatten
from model.published.files import Layout, WeightsFile, open_weights
from model.published.safetensors import read_safetensors

Arrays = dict[str, np.ndarray]
Draw = Callable[[Sequence[str]], Mapping[str, Any]]
# A slot that takes no dim of the file keeps the value it was drawn with.
FRESH = -1
# Slot i of the 18 takes openpi's dim SLOTS_FROM_OPENPI[i]; the third base axis and the torso are new.
SLOTS_FROM_OPENPI = (*range(16), FRESH, FRESH)
# Where the arrays have an axis of slots.
SLOT_AXES = {
    "state_proj/kernel": 0,
    "action_in_proj/kernel": 0,
    "action_out_proj/kernel": 1,
    "action_out_proj/bias": 0,
}
# Only the action expert and the projections are absent from a PaliGemma file.
NOT_IN_PALIGEMMA = re.compile(r"^(action_|state_proj|time_mlp)|^PaliGemma/llm/.*_1(/|$)|lora")
LORA = re.compile(r"(^|/|_)lora_[ab]$")


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What came from a file and what did not, by name. drawn: whole parameters, and those with slots of no dim."""

    layout: Layout
    loaded: tuple[str, ...]
    fresh: tuple[str, ...]
    unread: tuple[str, ...]
    mismatched: tuple[str, ...]
    dropped: tuple[str, ...]
    fresh_slots: tuple[str, ...] = ()

    @property
    def drawn(self) -> tuple[str, ...]:
        """Every parameter that holds numbers of no file."""
        of_other_shape = (line.partition(":")[0] for line in self.mismatched)
        return tuple(sorted({*self.fresh, *self.fresh_slots, *of_other_shape}))

    def __str__(self) -> str:
        parts = {
            "loaded": self.loaded,
            "not in the file, kept as initialised": self.fresh,
            "in the file, not read": self.unread,
            "of another shape, kept as initialised": self.mismatched,
            "changed by the slot map": self.dropped,
        }
        lines = [f"layout {self.layout}"]
        for title, names in parts.items():
            lines.append(f"{len(names)} {title}")
            lines += [f"  {name}" for name in names] if title != "loaded" else []
        return "\n".join(lines)


def load_params(
    path: str | Path,
    config: Pi0Config,
    initial: Params,
    *,
    draw: Draw | None = None,
    slot_map: Sequence[int] | None = None,
    partial: bool = False,
    layouts: Sequence[Layout] = (),
) -> tuple[Params, LoadReport]:
    """A policy's parameters, of the file where it has them, in the types and placements of `initial`.

    initial: arrays, or their shapes with `draw`, which makes those of the names that the file does not have. Each array
    goes to its devices as soon as it is read, so that neither the host nor a device ever holds all of them.
    `slot_map[i]` is the file's action dim for our slot i, or -1 for a new slot, which keeps its initial value.
    A PaliGemma file leaves the action expert as initialised, and every file may lack low-rank adapters. ValueError
    lists every other parameter that is missing or of another shape, unless `partial`, and a layout other than
    `layouts`, if given.
    """
    file = open_weights(Path(path), config)
    if layouts and file.layout not in layouts:
        raise ValueError(f"{path}: expected layout {' or '.join(layouts)}; found {file.layout}")
    wanted = flatten(initial)
    # A PaliGemma file lacks the action expert by its nature; anything else that is missing is a mistake, and a policy
    # with one random layer trains on without any other sign of it.
    optional = NOT_IN_PALIGEMMA if file.layout in ("big_vision", "hf-paligemma") else LORA
    return _filled(file, wanted, draw or _of(wanted), str(path), optional, slot_map, partial)


def _of(wanted: Mapping[str, Any]) -> Draw:
    return lambda names: {name: wanted[name] for name in names}


def load_text_encoder(
    path: str | Path, config: Pi0SmallConfig, params: Params, *, draw: Draw | None = None
) -> tuple[Params, LoadReport]:
    """pi0-small's parameters, of the text encoder Hugging Face's DistilBERT weights; else as `load_params`."""
    found, unread = distilbert_from_huggingface(config.text, read_safetensors(Path(path)))
    arrays = {f"text/{name}": (lambda array=array: array) for name, array in found.items()}
    file = WeightsFile(layout="hf-distilbert", arrays=arrays, unread=tuple(unread))
    wanted = flatten(params)
    return _filled(file, wanted, draw or _of(wanted), str(path), re.compile("^(?!text/)"), None, False)


def _filled(
    file: WeightsFile,
    wanted: Mapping[str, Any],
    draw: Draw,
    path: str,
    optional: re.Pattern[str],
    slot_map: Sequence[int] | None,
    partial: bool,
) -> tuple[Params, LoadReport]:
    fresh = sorted(set(wanted) - set(file.arrays))
    lacking = [f"{name}: missing" for name in fresh if not optional.search(name)]
    if lacking and not partial:
        raise ValueError(f"{path} ({file.layout}) does not fit the model:\n  " + "\n  ".join(lacking))
    remapped = [] if slot_map is None else [name for name in SLOT_AXES if name in file.arrays and name in wanted]
    start = draw(remapped) if remapped else {}
    filled: dict[str, Any] = {}
    mismatched: list[str] = []
    dropped: dict[str, str] = {}
    for name in (name for name in wanted if name in file.arrays):
        array = file.arrays[name]()
        if slot_map is not None and name in remapped:
            array, dropped[name] = remap_slots(name, array, np.asarray(start[name]), slot_map)
        if tuple(array.shape) == tuple(wanted[name].shape):
            filled[name] = _placed(array, wanted[name])
        else:
            mismatched.append(f"{name}: expected {tuple(wanted[name].shape)}; found {tuple(array.shape)}")
    if mismatched and not partial:
        hint = "; for another action dim give a slot map" if slot_map is None else ""
        raise ValueError(f"{path} ({file.layout}) does not fit the model{hint}:\n  " + "\n  ".join(mismatched))
    rest = draw([name for name in wanted if name not in filled])
    report = LoadReport(
        layout=file.layout,
        loaded=tuple(sorted(filled)),
        fresh=tuple(fresh),
        unread=tuple(sorted([*file.unread, *(set(file.arrays) - set(wanted))])),
        mismatched=tuple(mismatched),
        dropped=tuple(dropped[name] for name in remapped),
        fresh_slots=tuple(remapped) if slot_map is not None and FRESH in slot_map else (),
    )
    return unflatten({name: filled[name] if name in filled else rest[name] for name in wanted}), report


def _placed(array: np.ndarray, like: Any) -> jax.Array:
    """The array in the type of `like`, on its devices, each of which gets its own part alone."""
    sharding = getattr(like, "sharding", None)
    if sharding is None:
        return jnp.asarray(array, like.dtype)
    return jax.make_array_from_callback(
        tuple(like.shape), sharding, lambda index: np.asarray(array[index]).astype(like.dtype)
    )


def remap_slots(name: str, array: np.ndarray, initial: np.ndarray, slot_map: Sequence[int]) -> tuple[np.ndarray, str]:
    """Picks dims of one array of `SLOT_AXES`: with slot_map (0, -1), slot 0 takes dim 0 and slot 1 stays initial.

    Also returns a line that states what was dropped and what is fresh.
    """
    axis = SLOT_AXES[name]
    source, target = np.moveaxis(np.asarray(array), axis, 0), np.moveaxis(np.array(initial), axis, 0)
    if len(slot_map) != len(target) or max(slot_map) >= len(source):
        raise ValueError(f"slot map: expected {len(target)} entries below {len(source)}; found {tuple(slot_map)}")
    for slot, dim in enumerate(slot_map):
        if dim != FRESH:
            target[slot] = source[dim]
    left = sorted(set(range(len(source))) - set(slot_map))
    size = float(np.linalg.norm(source[left])) if left else 0.0
    fresh = [slot for slot, dim in enumerate(slot_map) if dim == FRESH]
    line = (
        f"{name}: dims {left} dropped (norm {size:.3g} of {float(np.linalg.norm(source)):.3g}); "
        f"slots {fresh} initialised"
    )
    return np.moveaxis(target, 0, axis), line
