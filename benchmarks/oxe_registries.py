"""The published transforms of Octo and OpenVLA, run from snapshots of their repositories; nothing is copied."""

import subprocess
import sys
import types
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from pipelines.contract.native import NativeEpisode
from tests.support.oxe_values import CARDS

Floats = NDArray[np.float64]
# Keys that hold one number a step without an axis for it, as the datasets' cards have them.
_SCALARS = {
    "bridge_oxe": ("action/open_gripper",),
    "viola": ("action/gripper_closedness_action", "action/terminate_episode"),
    "berkeley_autolab_ur5": ("action/gripper_closedness_action",),
    "columbia_cairlab_pusht_real": ("action/gripper_closedness_action",),
    "toto": ("action/open_gripper",),
    "berkeley_mvp": ("observation/gripper",),
    "berkeley_rpt": ("observation/gripper",),
    "fmb_dataset": ("observation/state_gripper_pose",),
    "rh20t": ("action/gripper", "observation/gripper_width"),
}
# OpenVLA has a transform of ppgm and no configuration; those of its T-DROID, which it treats alike.
_UNCONFIGURED = {
    "state_obs_keys": ["EEF_state", None, "gripper_state"],
    "state_encoding": "POS_EULER",
    "action_encoding": "EEF_POS",
}
_DEPTH = ("image_with_depth", "depth_image", "depth", "depth_additional_view")
_STEP = "native_step"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a registry makes of an episode: action [n, k] and proprio [n, k], and which native steps they belong to.

    encoding: how the project says that proprio is to be read, such as POS_EULER.
    """

    action: Floats
    proprio: Floats
    encoding: str
    action_encoding: str
    steps: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Registry:
    """One project's transforms and dataset configurations."""

    name: str
    transforms: Mapping[str, Callable[[dict], dict]]
    configs: Mapping[str, Mapping[str, Any]]

    def read(self, dataset: str, entry: str, native: NativeEpisode) -> Reading:
        """Runs the transform on one episode. Raises whatever the project's own code raises."""
        trajectory = self.transforms[dataset](_trajectory(native, entry))
        config = self.configs.get(dataset, _UNCONFIGURED)
        observation = trajectory["observation"]
        steps = observation[_STEP].numpy()
        columns = {key: _column(value) for key, value in observation.items()}
        zeros = np.zeros((len(steps), 1))
        keys = config.get("state_obs_keys", ("proprio",) if "proprio" in columns else (None,))
        encoding = config.get("proprio_encoding", config.get("state_encoding"))
        return Reading(
            action=np.asarray(trajectory["action"], np.float64),
            proprio=np.concatenate([zeros if key is None else columns[key] for key in keys], axis=1),
            encoding=_name(encoding) if any(keys) else "NONE",
            action_encoding=_name(config["action_encoding"]),
            steps=steps,
        )


def _column(value: Any) -> NDArray:
    array = value.numpy()
    return array[:, None] if array.ndim == 1 else array


def _name(encoding: Any) -> str:
    return getattr(encoding, "name", encoding)


def load_octo(snapshot: Path) -> Registry:
    """snapshot: a git directory or checkout of octo-models/octo."""
    _stub_foreign()
    files = {
        "octo.data.utils.data_utils": "octo/data/utils/data_utils.py",
        "octo.data.oxe.oxe_dataset_configs": "octo/data/oxe/oxe_dataset_configs.py",
        "octo.data.oxe.oxe_standardization_transforms": "octo/data/oxe/oxe_standardization_transforms.py",
    }
    modules = {name: _load(name, snapshot, file) for name, file in files.items()}
    return Registry(
        name="Octo",
        transforms=modules["octo.data.oxe.oxe_standardization_transforms"].OXE_STANDARDIZATION_TRANSFORMS,
        configs=modules["octo.data.oxe.oxe_dataset_configs"].OXE_DATASET_CONFIGS,
    )


def load_openvla(snapshot: Path) -> Registry:
    """snapshot: a git directory or checkout of openvla/openvla."""
    _stub_foreign()
    folder = "prismatic/vla/datasets/rlds"
    files = {
        "prismatic.vla.datasets.rlds.utils.data_utils": f"{folder}/utils/data_utils.py",
        "prismatic.vla.datasets.rlds.oxe.utils.droid_utils": f"{folder}/oxe/utils/droid_utils.py",
        "prismatic.vla.datasets.rlds.oxe.configs": f"{folder}/oxe/configs.py",
        "prismatic.vla.datasets.rlds.oxe.transforms": f"{folder}/oxe/transforms.py",
    }
    modules = {name: _load(name, snapshot, file) for name, file in files.items()}
    return Registry(
        name="OpenVLA",
        transforms=modules["prismatic.vla.datasets.rlds.oxe.transforms"].OXE_STANDARDIZATION_TRANSFORMS,
        configs=modules["prismatic.vla.datasets.rlds.oxe.configs"].OXE_DATASET_CONFIGS,
    )


def commit_of(snapshot: Path) -> str:
    """The first seven digits of the snapshot's commit."""
    return _git(snapshot, "rev-parse", "--short=7", "HEAD").strip()


def _trajectory(native: NativeEpisode, entry: str) -> dict[str, Any]:
    """The episode as `tf.data` gives it to a transform: nested by the first part of each key, [t, ...] tensors."""
    import tensorflow as tf

    t = native.n_steps
    steps = tf.range(t)
    trajectory: dict[str, Any] = {"observation": {_STEP: steps}, "is_first": steps == 0}
    for key, array in native.arrays.items():
        values: Any = array[:, 0] if key in _SCALARS.get(entry, ()) else array
        if entry == "kuka" and key in _UNPACKED:
            values = [zlib.compress(row.astype("<f4").tobytes()) for row in array]
        _put(trajectory, key, tf.constant(values))
    for name in CARDS[entry]["images"]:
        _put(trajectory, name, tf.fill([t], b"jpeg"))
    observation = trajectory["observation"]
    observation |= {key: tf.zeros([t, 2, 2, 1]) for key in _DEPTH}
    observation["natural_language_instruction"] = trajectory["language_instruction"] = tf.fill([t], b"do it")
    observation["instruction"] = tf.tile(tf.constant([[100, 111, 0, 0]]), [t, 1])
    return trajectory


_UNPACKED = ("observation/clip_function_input/base_pose_tool_reached", "observation/gripper_closed")


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    """`observation/present/xyz` is the key `present/xyz` of the observation."""
    head, _, rest = key.partition("/")
    if rest:
        tree.setdefault(head, {})[rest] = value
    else:
        tree[head] = value


def _stub_foreign() -> None:
    """Puts empty modules where the transforms import packages that they do not need for a single trajectory."""
    for name in ("dlimp", "tqdm", "prismatic.overwatch"):
        sys.modules.setdefault(name, _Anything(name))
    graphics = "tensorflow_graphics.geometry.transformation"
    module = types.ModuleType(graphics)
    module.euler = types.SimpleNamespace(from_quaternion=_euler_of_quaternion)  # type: ignore[attr-defined]
    for name in ("tensorflow_graphics", "tensorflow_graphics.geometry"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules[graphics] = module
    sys.modules["tensorflow_graphics.geometry"].transformation = module  # type: ignore[attr-defined]


class _Anything(types.ModuleType):
    """A module of which every attribute can be called and means nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: _Anything(name)


def _euler_of_quaternion(quaternion: Any) -> Any:
    """tensorflow_graphics' own: xyzw to the angles of Rz Ry Rx."""
    import tensorflow as tf

    return tf.constant(Rotation.from_quat(quaternion.numpy()).as_euler("xyz"), tf.float32)


def _load(name: str, snapshot: Path, file: str) -> types.ModuleType:
    """Executes one file of a snapshot as the module `name`; its packages stay empty."""
    parts = name.split(".")
    for i in range(1, len(parts)):
        package = ".".join(parts[:i])
        if package not in sys.modules:
            sys.modules[package] = types.ModuleType(package)
            sys.modules[package].__path__ = []
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(_git(snapshot, "show", f"HEAD:{file}"), file, "exec"), module.__dict__)
    return module


def _git(snapshot: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(snapshot), *arguments], capture_output=True, text=True, check=True).stdout
