"""Files of published weights, recognised by their content: every array under our name, read when it is asked for.

Nothing here holds more than one array in memory, since a policy of 13 GB must fit beside what a host does otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np

from model.config import Pi0Config
from model.params import flatten, unflatten
from model.published.huggingface import from_huggingface
from model.published.safetensors import read_safetensors

Arrays = dict[str, np.ndarray]
Layout = Literal["big_vision", "openpi", "lerobot", "hf-paligemma", "hf-pi0", "hf-distilbert"]
# Those of whole policies or their backbone, which `model.published.export` writes.
LAYOUTS: tuple[str, ...] = ("openpi", "lerobot", "hf-pi0", "hf-paligemma", "big_vision")
# What a command's user names: a family of layouts, of which the content says the member.
FAMILIES: Mapping[str, tuple[Layout, ...]] = {
    "openpi": ("openpi",),
    "lerobot": ("lerobot",),
    "hf": ("hf-pi0", "hf-paligemma"),
    "big_vision": ("big_vision",),
}


# As openpi, LeRobot and Hugging Face name PaliGemma's SentencePiece model, and BERT's vocabulary.
TOKENIZERS = ("paligemma_tokenizer.model", "tokenizer.model", "vocab.txt")


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """arrays: by our flat names, functions that read one each. unread: names that the model has nothing for."""

    layout: Layout
    arrays: Mapping[str, Callable[[], np.ndarray]]
    unread: tuple[str, ...] = ()

    def read_all(self) -> Arrays:
        """Every array."""
        return {name: read() for name, read in self.arrays.items()}


def open_weights(path: Path, config: Pi0Config | None) -> WeightsFile:
    """Recognises the layout by the content. Hugging Face's and LeRobot's need the config, the others do not.

    FileNotFoundError or ValueError say what was looked for.
    """
    if not path.exists():
        raise FileNotFoundError(f"weights: expected a file or folder at {path}; found nothing")
    if path.suffix == ".npz":
        return _open_big_vision(path)
    if path.suffix == ".safetensors" or any(path.glob("model*.safetensors*")):
        if config is None:
            raise ValueError(f"weights: {path} is in a Hugging Face layout, whose sizes the model's config must say")
        theirs = read_safetensors(path)
        ours, unread = from_huggingface(config, theirs)
        return WeightsFile(layout=_torch_layout(path, theirs), arrays=ours, unread=tuple(unread))
    orbax = orbax_folder(path)
    if orbax is not None:
        return WeightsFile(layout="openpi", arrays=_open_orbax(orbax))
    raise ValueError(
        f"weights: expected {path} to be an .npz, a .safetensors, a folder with model.safetensors, or an "
        "orbax folder (with _METADATA, or with params/_METADATA); found none of these"
    )


def find_tokenizer(weights: Path) -> Path | None:
    """The tokenizer's file in the folder of weights, its assets, or the folder above; None if there is none."""
    folder = weights if weights.is_dir() else weights.parent
    folders = (folder, folder / "assets", folder.parent)
    return next((f / name for f in folders for name in TOKENIZERS if (f / name).is_file()), None)


def orbax_folder(path: Path) -> Path | None:
    """The folder of parameters in an openpi checkpoint: the path itself or its `params`; None if it is neither."""
    return next((folder for folder in (path, path / "params") if (folder / "_METADATA").is_file()), None)


def read_orbax(folder: Path) -> Arrays:
    """Every array of a folder that orbax wrote, at once."""
    import jax
    import orbax.checkpoint as ocp

    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.metadata(folder.absolute()).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        restored = reader.restore(folder.absolute(), restore_args=as_numpy)
    return {_name_in_orbax(name): np.asarray(array) for name, array in flatten(restored).items() if array is not None}


def orbax_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every array of a folder that orbax wrote, by our names."""
    return {_name_in_orbax(name): tuple(about.shape) for name, about in _orbax_metadata(folder).items()}


def read_config_json(path: Path) -> dict[str, Any]:
    """The config.json beside weights in a file or folder; empty where there is none. ValueError if it is no JSON."""
    file = (path if path.is_dir() else path.parent) / "config.json"
    if not file.is_file():
        return {}
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file}: expected JSON; found {error}") from error


def _torch_layout(path: Path, theirs: Mapping[str, np.ndarray]) -> Layout:
    if not any("gemma_expert" in name for name in theirs):
        return "hf-paligemma"
    # LeRobot's policies wrap their network as `model`, and their config names the kind of policy as `type`.
    wrapped = any(name.startswith("model.") for name in theirs)
    return "lerobot" if wrapped or "type" in read_config_json(path) else "hf-pi0"


def _open_big_vision(path: Path) -> WeightsFile:
    named = {}
    unread = []
    with np.load(path) as file:
        for name in file.files:
            ours = _from_big_vision(name)
            if ours is None:
                unread.append(name)
            else:
                named[ours] = partial(_read_npz, path, name)
    return WeightsFile(layout="big_vision", arrays=named, unread=tuple(unread))


def _from_big_vision(name: str) -> str | None:
    if name.startswith(("params/img/", "params/llm/")):
        return "PaliGemma/" + name.removeprefix("params/")
    ours = ("PaliGemma/", "action_", "state_proj/", "time_mlp_")
    return name if name.startswith(ours) else None


def _read_npz(path: Path, name: str) -> np.ndarray:
    with np.load(path) as file:
        array = file[name]
    # numpy has no name for bfloat16 and stores it as raw bytes
    return array.view(ml_dtypes.bfloat16) if array.dtype == np.dtype("V2") else array


def _open_orbax(folder: Path) -> dict[str, Callable[[], np.ndarray]]:
    return {
        _name_in_orbax(name): partial(_read_orbax_array, folder, name, about)
        for name, about in _orbax_metadata(folder).items()
    }


def _orbax_metadata(folder: Path) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.metadata(folder.absolute()).item_metadata.tree
    return {name: about for name, about in flatten(tree).items() if about is not None}


def _name_in_orbax(name: str) -> str:
    return name.removeprefix("params/").removesuffix("/value")


def _read_orbax_array(folder: Path, name: str, about: Any) -> np.ndarray:
    import jax
    import orbax.checkpoint as ocp

    item = unflatten({name: jax.ShapeDtypeStruct(about.shape, about.dtype)})
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
    args = ocp.args.PyTreeRestore(item=item, restore_args=as_numpy, partial_restore=True)
    with ocp.PyTreeCheckpointer() as reader:
        return np.asarray(flatten(reader.restore(folder.absolute(), args=args))[name])
