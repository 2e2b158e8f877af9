"""Octo, OpenVLA and OpenVLA-OFT as other programs: their own loaders, with an entry appended to their registries.

    python foreign_oxe.py PROJECT CHECKOUTS DATA_ROOT DATASET ENTRY.json VIEWS OUT.pickle

PROJECT: octo, openvla or openvla-oft, a folder of CHECKOUTS, which also holds dlimp. Their data code is copied to a
scratch folder and ENTRY's code appended to the copy, as a user would paste it. VIEWS: cameras to load, with commas.
Writes what the loader yields: its statistics, the trajectories with neither normalized, and the frames of one decoded.
"""

import importlib
import json
import logging
import pickle
import shutil
import sys
import tempfile
import types
from pathlib import Path

import numpy as np

TREES = {
    "octo": ("octo/data", "octo/utils"),
    "openvla": ("prismatic/vla/datasets/rlds",),
    "openvla-oft": ("prismatic/vla/datasets/rlds", "prismatic/vla/constants.py"),
}
HORIZON = 4


def main() -> None:
    project, checkouts, root, name, entry, views, out = sys.argv[1:8]
    with tempfile.TemporaryDirectory() as scratch:
        copy_code(Path(checkouts), project, Path(scratch), json.loads(Path(entry).read_text())["append"])
        sys.path[:0] = [scratch, f"{checkouts}/dlimp"]
        found = (from_octo if project == "octo" else from_openvla)(root, name, views.split(","))
    Path(out).write_bytes(pickle.dumps(found))


def copy_code(checkouts: Path, project: str, scratch: Path, append: dict[str, str]) -> None:
    for tree in TREES[project]:
        source, target = checkouts / project / tree, scratch / tree
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)
    for file, code in append.items():
        with open(scratch / file, "a") as opened:
            opened.write(f"\n\n{code}")


def from_octo(root: str, name: str, views: list[str]) -> dict:
    stand_in("huggingface_hub", hf_hub_download=None)
    oxe, loader = importlib.import_module("octo.data.oxe"), importlib.import_module("octo.data.dataset")
    (kwargs,), weights = oxe.make_oxe_dataset_kwargs_and_weights(name, root, views, load_proprio=True)
    _, statistics = loader.make_dataset_from_rlds(**kwargs, train=True)
    plain, _ = loader.make_dataset_from_rlds(**kwargs, train=True, skip_norm=True)
    kwargs |= {"skip_norm": True}
    frames = loader.make_single_dataset(
        kwargs, train=True, traj_transform_kwargs={"window_size": 1, "action_horizon": HORIZON}
    )
    return collect(plain, statistics, frames, weights)


def from_openvla(root: str, name: str, views: list[str]) -> dict:
    # The packages' own __init__ import models, of which the loader uses nothing.
    for package in ("prismatic", "prismatic.vla", "prismatic.vla.datasets"):
        stand_in(package, __path__=[f"{sys.path[0]}/{package.replace('.', '/')}"])
    stand_in("prismatic.overwatch", initialize_overwatch=logging.getLogger)
    for package in ("tensorflow_graphics", "tensorflow_graphics.geometry"):
        stand_in(package)
    stand_in("tensorflow_graphics.geometry.transformation")
    oxe = importlib.import_module("prismatic.vla.datasets.rlds.oxe")
    loader = importlib.import_module("prismatic.vla.datasets.rlds.dataset")
    mixture = oxe.OXE_NAMED_MIXTURES[name]
    (kwargs,), weights = oxe.get_oxe_dataset_kwargs_and_weights(root, mixture, views)
    _, statistics = loader.make_dataset_from_rlds(**kwargs, train=True)
    plain_kwargs = {**kwargs, "dataset_statistics": neutral(statistics), "action_proprio_normalization_type": "normal"}
    plain, _ = loader.make_dataset_from_rlds(**plain_kwargs, train=True)
    chunks = {"window_size": 1, "future_action_window_size": HORIZON - 1}
    frames, _, _ = loader.make_single_dataset(
        {**kwargs, "dataset_statistics": neutral(statistics), "action_proprio_normalization_type": "normal"},
        train=True,
        traj_transform_kwargs=chunks,
        frame_transform_kwargs={"resize_size": dict.fromkeys(views, (224, 224))},
    )
    return collect(plain, statistics, frames, weights)


def neutral(statistics: dict) -> dict:
    """Statistics with which OpenVLA, which always normalizes, leaves values as they are: it adds 1e-8 to deviations."""
    kept = {key: statistics[key] for key in ("num_transitions", "num_trajectories")}
    for key in ("action", "proprio"):
        zeros = np.zeros_like(np.array(statistics[key]["mean"]))
        kept[key] = {"mean": zeros, "std": zeros + 1 - 1e-8, "min": zeros - 1, "max": zeros + 1}
    return kept


def collect(plain, statistics: dict, frames, weights: list[float]) -> dict:
    kept = {side: {name: np.array(value) for name, value in statistics[side].items()} for side in ("action", "proprio")}
    counts = {name: int(statistics[name]) for name in ("num_transitions", "num_trajectories")}
    trajectories = list(plain.as_numpy_iterator())
    first = next(frames.as_numpy_iterator())
    return {"statistics": kept | counts, "weights": weights, "trajectories": trajectories, "frames": first}


def stand_in(name: str, **members: object) -> None:
    """A module in place of one that the loaders import and these datasets do not need."""
    module = types.ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module
    parent, _, last = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], last, module)


if __name__ == "__main__":
    main()
