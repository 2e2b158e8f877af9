"""Trained weights out, as openpi, LeRobot, transformers and big_vision read them; adapters merged into them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from model.config import Pi0Config
from model.params import Params, flatten, unflatten
from model.published.files import Arrays, Layout, open_weights, read_orbax
from model.published.huggingface import (
    INPUT_EMBEDDING,
    LEROBOT_STYLE,
    PALIGEMMA_STYLE,
    PI0_STYLE,
    huggingface_config,
    to_huggingface,
    unused_heads,
)
from model.published.safetensors import write_safetensors
from model.published.weights import NOT_IN_PALIGEMMA

STYLES: Mapping[str, Mapping[str, str]] = {
    "hf-paligemma": PALIGEMMA_STYLE,
    "hf-pi0": PI0_STYLE,
    "lerobot": LEROBOT_STYLE,
}


def export_params(config: Pi0Config, params: Params, path: str | Path, layout: Layout) -> Path:
    """Writes weights so that other programs read them, and returns what to hand to them.

    'openpi' makes the folder PATH/params; the hf layouts and 'lerobot' make PATH/model.safetensors, the former also
    config.json; 'big_vision' makes the file PATH (ending .npz). PaliGemma layouts hold images and Gemma only.
    FileExistsError if the target is there.
    """
    path = Path(path)
    target = {"openpi": path / "params", "big_vision": path}.get(layout, path / "model.safetensors")
    if target.exists():
        raise FileExistsError(f"{target} exists; choose another path or remove it")
    flat = {name: np.asarray(value, np.float32) for name, value in flatten(params).items()}
    if any("lora" in name for name in flat) and layout != "openpi":
        raise ValueError(f"layout {layout} has no low-rank adapters; give --merge-lora, or export as openpi")
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
        theirs = to_huggingface(config, kept, STYLES[layout])
        heads = {} if paligemma else unused_heads(config, layout, flat[INPUT_EMBEDDING])
        write_safetensors(target, theirs | heads)
        if layout != "lerobot":  # LeRobot's names the robot's inputs as well, which weights do not know
            (path / "config.json").write_text(json.dumps(huggingface_config(config, layout), indent=2) + "\n")
    return target


def merge_lora(flat: Mapping[str, np.ndarray]) -> Arrays:
    """Flat parameters without adapters, whose weights compute what the weights and the adapters did.

    With alpha = rank, an adapter adds A B to its weight. That of the attention's output is (sum over heads of x A)
    (sum over heads of B), so there every head's A meets the sum of all heads' B.
    """
    merged = {name: np.asarray(array, np.float32) for name, array in flat.items() if "lora" not in name}
    for name, down in flat.items():
        if not name.endswith("lora_a"):
            continue
        weight = name.removesuffix("lora_a") + "w" if name.endswith("/lora_a") else name.removesuffix("_lora_a")
        a, b = (np.asarray(array, np.float64) for array in (down, flat[name.removesuffix("a") + "b"]))
        if "attn_vec_einsum" in name:
            b = b.sum(axis=-3, keepdims=True)
        merged[weight] = (merged[weight] + a @ b).astype(np.float32)
    return merged


def read_trained(source: Path, step: int | None = None) -> tuple[int | None, Arrays]:
    """Flat parameters of a training run, its newest checkpoint unless `step` is given, or of an openpi folder.

    Of a run, the moving average is taken where there is one. FileNotFoundError names what was looked for; ValueError
    for arrays that have changed since the run saved them, which would otherwise be published as they are.
    """
    checkpoints = source / "checkpoints"
    if not checkpoints.is_dir():
        return None, open_weights(source, None).read_all()
    steps = sorted(int(folder.name) for folder in checkpoints.iterdir() if folder.name.isdigit())
    if not steps or (step is not None and step not in steps):
        found = ", ".join(map(str, steps)) or "none"
        raise FileNotFoundError(f"{checkpoints}: expected checkpoint {step or 'of any step'}; found {found}")
    chosen = steps[-1] if step is None else step
    folder = checkpoints / str(chosen)
    trained = "ema" if (folder / "ema").is_dir() else "trained"
    parts = [part for part in (trained, "frozen") if (folder / part).is_dir()]
    read = {part: read_orbax(folder / part) for part in parts}
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


def _to_big_vision(name: str) -> str:
    return "params/" + name.removeprefix("PaliGemma/")


def _write_orbax(folder: Path, flat: Arrays) -> None:
    import orbax.checkpoint as ocp

    with ocp.PyTreeCheckpointer() as writer:
        writer.save(folder.absolute(), {"params": unflatten(flat)})
