"""Published weights in and out: big_vision, openpi's orbax, Hugging Face's PaliGemma and pi0.

Every difference between a file and the model is listed by name; nothing is skipped in silence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from model.config import Pi0Config, Pi0SmallConfig
from model.distilbert import distilbert_from_huggingface
from model.params import Params, flatten, unflatten
from model.published.huggingface import (
    PALIGEMMA_STYLE,
    PI0_STYLE,
    from_huggingface,
    huggingface_config,
    to_huggingface,
)
from model.published.safetensors import read_safetensors, write_safetensors

Arrays = dict[str, np.ndarray]
Layout = Literal["big_vision", "openpi", "hf-paligemma", "hf-pi0"]
LAYOUTS: tuple[str, ...] = ("openpi", "hf-pi0", "hf-paligemma", "big_vision")
# A slot that takes no dim of the file keeps the value it was drawn with.
FRESH = -1
# Slot i of the 18 takes openpi's dim SLOTS_FROM_OPENPI[i]; the third base axis and the torso are new.
SLOTS_FROM_OPENPI = (*range(16), FRESH, FRESH)
# Only the action expert and the projections are absent from a PaliGemma file.
NOT_IN_PALIGEMMA = re.compile(r"^(action_|state_proj|time_mlp)|^PaliGemma/llm/.*_1(/|$)|lora")


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What came from a file and what did not, by name."""

    layout: Layout | Literal["hf-distilbert"]
    loaded: tuple[str, ...]
    fresh: tuple[str, ...]
    unread: tuple[str, ...]
    mismatched: tuple[str, ...]
    dropped: tuple[str, ...]

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
    slot_map: Sequence[int] | None = None,
    partial: bool = False,
) -> tuple[Params, LoadReport]:
    """Fills `initial` with the file's weights as float32.

    `slot_map[i]` is the file's action dim for our slot i, or -1 for a new slot, which keeps its initial
    value. A PaliGemma file leaves the action expert as initialised. ValueError lists every parameter that
    is missing or of another shape, unless `partial`.
    """
    layout, arrays, unread = read_weights(Path(path), config)
    wanted = flatten(initial)
    dropped: list[str] = []
    if slot_map is not None:
        arrays, dropped = remap_slots(arrays, wanted, slot_map)
    missing = sorted(set(wanted) - set(arrays))
    mismatched = [
        f"{name}: expected {tuple(wanted[name].shape)}; found {tuple(arrays[name].shape)}"
        for name in sorted(set(wanted) & set(arrays))
        if tuple(wanted[name].shape) != tuple(arrays[name].shape)
    ]
    # A PaliGemma file lacks the action expert by its nature; anything else that is missing is a mistake, and a policy
    # with one random layer trains on without any other sign of it.
    optional = layout in ("big_vision", "hf-paligemma")
    lacking = [name for name in missing if not (optional and NOT_IN_PALIGEMMA.search(name))]
    if (lacking or mismatched) and not partial:
        details = "\n  ".join([*(f"{name}: missing" for name in lacking), *mismatched])
        hint = "; for another action dim give a slot map" if mismatched and slot_map is None else ""
        raise ValueError(f"{path} ({layout}) does not fit the model{hint}:\n  {details}")
    loaded = [n for n in wanted if n in arrays and tuple(arrays[n].shape) == tuple(wanted[n].shape)]
    filled = {**wanted, **{name: jnp.asarray(arrays[name], jnp.float32) for name in loaded}}
    report = LoadReport(
        layout=layout,
        loaded=tuple(sorted(loaded)),
        fresh=tuple(missing),
        unread=tuple(sorted([*unread, *(set(arrays) - set(wanted))])),
        mismatched=tuple(mismatched),
        dropped=tuple(dropped),
    )
    return unflatten(filled), report


def load_text_encoder(path: str | Path, config: Pi0SmallConfig, params: Params) -> tuple[Params, LoadReport]:
    """Fills pi0-small's text encoder with Hugging Face's DistilBERT weights; ValueError names what differs."""
    found, unread = distilbert_from_huggingface(config.text, read_safetensors(Path(path)))
    wanted = flatten(params)
    arrays = {f"text/{name}": array for name, array in found.items()}
    mismatched = [
        f"{name}: expected {tuple(wanted[name].shape)}; found {array.shape}"
        for name, array in arrays.items()
        if tuple(wanted[name].shape) != array.shape
    ]
    if mismatched:
        raise ValueError(f"{path} does not fit the text encoder:\n  " + "\n  ".join(mismatched))
    filled = {**wanted, **{name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()}}
    report = LoadReport(
        layout="hf-distilbert",
        loaded=tuple(sorted(arrays)),
        fresh=tuple(sorted(set(wanted) - set(arrays))),
        unread=tuple(unread),
        mismatched=(),
        dropped=(),
    )
    return unflatten(filled), report


def export_params(config: Pi0Config, params: Params, path: str | Path, layout: Layout) -> Path:
    """Writes weights so that other programs read them, and returns what to hand to them.

    'openpi' makes the folder PATH/params; the hf layouts make PATH/model.safetensors and config.json;
    'big_vision' makes the file PATH (ending .npz). PaliGemma layouts hold images and Gemma only.
    FileExistsError if the target is there.
    """
    path = Path(path)
    target = {"openpi": path / "params", "big_vision": path}.get(layout, path / "model.safetensors")
    if target.exists():
        raise FileExistsError(f"{target} exists; choose another path or remove it")
    flat = {name: np.asarray(value, np.float32) for name, value in flatten(params).items()}
    if any("lora" in name for name in flat) and layout != "openpi":
        raise ValueError(f"layout {layout} has no low-rank adapters; export as openpi, or merge them first")
    if layout == "openpi":
        _write_orbax(target, flat)
    elif layout == "big_vision":
        target.parent.mkdir(parents=True, exist_ok=True)
        theirs = {_to_big_vision(n): a for n, a in flat.items() if not NOT_IN_PALIGEMMA.search(n)}
        np.savez(target, allow_pickle=False, **theirs)
    else:
        path.mkdir(parents=True, exist_ok=True)
        paligemma = layout == "hf-paligemma"
        kept = {n: a for n, a in flat.items() if not (paligemma and NOT_IN_PALIGEMMA.search(n))}
        theirs = to_huggingface(config, kept, PALIGEMMA_STYLE if paligemma else PI0_STYLE)
        write_safetensors(target, theirs)
        (path / "config.json").write_text(json.dumps(huggingface_config(config, layout), indent=2) + "\n")
    return target


def read_weights(path: Path, config: Pi0Config | None) -> tuple[Layout, Arrays, list[str]]:
    """Reads any layout into our flat names; also returns the file's names that the model does not have.

    The layout follows from the content; Hugging Face's needs the config, the others do not.
    FileNotFoundError or ValueError say what was looked for.
    """
    if not path.exists():
        raise FileNotFoundError(f"weights: expected a file or folder at {path}; found nothing")
    if path.suffix == ".npz":
        return "big_vision", *_read_big_vision(path)
    if path.suffix == ".safetensors" or any(path.glob("model*.safetensors*")):
        if config is None:
            raise ValueError(f"weights: {path} is in a Hugging Face layout; load it with load_params and a config")
        theirs = read_safetensors(path)
        ours, unread = from_huggingface(config, theirs)
        layout: Layout = "hf-pi0" if any("gemma_expert" in name for name in theirs) else "hf-paligemma"
        return layout, ours, unread
    for folder in (path, path / "params"):
        if (folder / "_METADATA").is_file():
            return "openpi", _read_orbax(folder), []
    raise ValueError(
        f"weights: expected {path} to be an .npz, a .safetensors, a folder with model.safetensors, or an "
        "orbax folder (with _METADATA, or with params/_METADATA); found none of these"
    )


def remap_slots(
    arrays: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], slot_map: Sequence[int]
) -> tuple[Arrays, list[str]]:
    """Picks action and state dims: with slot_map (0, -1), slot 0 takes dim 0 and slot 1 stays initial.

    Returns the new arrays and one line per parameter saying what was dropped and what is fresh.
    """
    axes = {
        "state_proj/kernel": 0,
        "action_in_proj/kernel": 0,
        "action_out_proj/kernel": 1,
        "action_out_proj/bias": 0,
    }
    out, lines = dict(arrays), []
    for name, axis in axes.items():
        if name not in arrays or name not in wanted:
            continue
        source = np.moveaxis(np.asarray(arrays[name]), axis, 0)
        target = np.moveaxis(np.array(wanted[name]), axis, 0)
        if len(slot_map) != len(target) or max(slot_map) >= len(source):
            raise ValueError(f"slot map: expected {len(target)} entries below {len(source)}; found {tuple(slot_map)}")
        for slot, dim in enumerate(slot_map):
            if dim != FRESH:
                target[slot] = source[dim]
        left = sorted(set(range(len(source))) - set(slot_map))
        size = float(np.linalg.norm(source[left])) if left else 0.0
        whole = float(np.linalg.norm(source))
        fresh = [slot for slot, dim in enumerate(slot_map) if dim == FRESH]
        lines.append(f"{name}: dims {left} dropped (norm {size:.3g} of {whole:.3g}); slots {fresh} initialised")
        out[name] = np.moveaxis(target, 0, axis)
    return out, lines


def _read_big_vision(path: Path) -> tuple[Arrays, list[str]]:
    ours: Arrays = {}
    unread = []
    with np.load(path) as file:
        for name in file.files:
            array = file[name]
            if array.dtype == np.dtype("V2"):  # numpy has no name for bfloat16 and stores it as raw bytes
                array = array.view(ml_dtypes.bfloat16)
            if name.startswith(("params/img/", "params/llm/")):
                ours["PaliGemma/" + name.removeprefix("params/")] = array
            elif name.startswith("PaliGemma/") or NOT_IN_PALIGEMMA.match(name):
                ours[name] = array
            else:
                unread.append(name)
    return ours, unread


def _to_big_vision(name: str) -> str:
    return "params/" + name.removeprefix("PaliGemma/")


def read_trained(source: Path, step: int | None = None) -> tuple[int | None, Arrays]:
    """Flat parameters of a training run, its newest checkpoint unless `step` is given, or of an openpi folder.

    Of a run, the moving average is taken where there is one. FileNotFoundError names what was looked for; ValueError
    for arrays that have changed since the run saved them, which would otherwise be published as they are.
    """
    checkpoints = source / "checkpoints"
    if not checkpoints.is_dir():
        _, arrays, _ = read_weights(source, None)
        return None, arrays
    steps = sorted(int(folder.name) for folder in checkpoints.iterdir() if folder.name.isdigit())
    if not steps or (step is not None and step not in steps):
        found = ", ".join(map(str, steps)) or "none"
        raise FileNotFoundError(f"{checkpoints}: expected checkpoint {step or 'of any step'}; found {found}")
    chosen = steps[-1] if step is None else step
    folder = checkpoints / str(chosen)
    trained = "ema" if (folder / "ema").is_dir() else "trained"
    parts = [part for part in (trained, "frozen") if (folder / part).is_dir()]
    read = {part: _read_orbax(folder / part) for part in parts}
    _check_sums(folder, read)
    return chosen, {name: array for part in parts for name, array in read[part].items()}


def _check_sums(folder: Path, parts: Mapping[str, Arrays]) -> None:
    """Compares the arrays of a checkpoint with the sums of their bits that were saved beside them."""
    saved = json.loads((folder / "progress" / "metadata").read_text())["bit_sums"]
    for part, arrays in parts.items():
        words = (np.ascontiguousarray(array).view(f"uint{8 * array.itemsize}") for array in arrays.values())
        found = sum(int(word.sum(dtype=np.uint64)) for word in words) % 2**32
        if found != saved[part]:
            message = "expected the arrays that the run saved; found others. Export another step"
            raise ValueError(f"{folder / part}: {message}")


def _read_orbax(folder: Path) -> Arrays:
    import orbax.checkpoint as ocp

    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.metadata(folder.absolute()).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        restored = reader.restore(folder.absolute(), restore_args=as_numpy)
    flat = flatten(restored.get("params", restored))
    return {name.removesuffix("/value"): np.asarray(array) for name, array in flat.items() if array is not None}


def _write_orbax(folder: Path, flat: Arrays) -> None:
    import orbax.checkpoint as ocp

    with ocp.PyTreeCheckpointer() as writer:
        writer.save(folder.absolute(), {"params": unflatten(flat)})
