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
from tests.support.inputs.oxe_values import CARDS

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


@dataclass(frozen=True, kw_only=True)
class RdtScripts:
    """RoboticsDiffusionTransformer's own reading, one script a dataset: grippers as openness, poses in metres."""

    snapshot: Path

    def read(self, dataset: str, entry: str, native: NativeEpisode) -> dict[str, Floats]:
        """Returns `action gripper` [t, 1], `state gripper` [t, 1], `state xyz` [t, 3], where it has them.

        Empty where it has no script, or one for files of another layout (Bridge v2, ALOHA, RoboSet).
        """
        name = _RDT_SCRIPTS.get(entry, dataset)
        try:
            module = _load(f"rdt_{name}", self.snapshot, f"data/preprocess_scripts/{name}.py")
        except subprocess.CalledProcessError:
            return {}
        steps = _run_steps(module.process_step, _trajectory(native, entry, packed=False), native.n_steps)
        found: dict[str, Floats] = {}
        if not steps:
            return found
        for side, vectors in (("action", "action"), ("state", "observation")):
            names = _text(steps[0][vectors].get("format", b"")).replace(" ", "").split(",")
            for quantity, wanted in _RDT_QUANTITIES.items():
                columns = [names.index(name) for name in wanted if name in names]
                if columns and (side == "state" or quantity == "gripper"):
                    rows = [step[vectors]["arm_concat"].numpy()[columns] for step in steps]
                    found[f"{side} {quantity}"] = np.array(rows, np.float64)
        return found


# RDT gives `gripper_open` and the first joint of the gripper one slot in its vector (configs/state_vec.py).
_RDT_QUANTITIES = {
    "gripper": ("gripper_open", "gripper_joint_0_pos"),
    "xyz": ("eef_pos_x", "eef_pos_y", "eef_pos_z"),
}
_RDT_SCRIPTS = {"bridge_oxe": "bridge", "bridge_orig": "bridgev2", "fmb_dataset": "fmb"}


def load_rdt(snapshot: Path) -> RdtScripts:
    """snapshot: a git directory or checkout of thu-ml/RoboticsDiffusionTransformer."""
    _stub_foreign()
    _load("data.utils", snapshot, "data/utils.py")
    return RdtScripts(snapshot=snapshot)


def commit_of(snapshot: Path) -> str:
    """The first seven digits of the snapshot's commit."""
    return _git(snapshot, "rev-parse", "--short=7", "HEAD").strip()


def _trajectory(native: NativeEpisode, entry: str, packed: bool = True) -> dict[str, Any]:
    """The episode as `tf.data` gives it to a transform: nested by the first part of each key, [t, ...] tensors."""
    import tensorflow as tf

    t = native.n_steps
    steps = tf.range(t)
    trajectory: dict[str, Any] = {"observation": {_STEP: steps}, "is_first": steps == 0}
    for key, array in native.arrays.items():
        values: Any = array[:, 0] if key in _SCALARS.get(entry, ()) else array
        if packed and entry == "kuka" and key in _UNPACKED:
            values = [zlib.compress(row.astype("<f4").tobytes()) for row in array]
        _put(trajectory, key, tf.constant(values > 0.5 if key.endswith("open_gripper") else values))
    for name in CARDS[entry]["images"]:
        _put(trajectory, name, tf.fill([t], b"jpeg"))
    observation = trajectory["observation"]
    observation |= {key: tf.zeros([t, 2, 2, 1]) for key in _DEPTH}
    observation["natural_language_instruction"] = trajectory["language_instruction"] = tf.fill([t], b"do it")
    observation["instruction"] = tf.tile(tf.constant([[100, 111, 0, 0]]), [t, 1])
    return trajectory


def _run_steps(process: Callable[[dict], dict], trajectory: dict[str, Any], t: int) -> list[dict[str, Any]]:
    """Every step through one of RDT's scripts; none where the script wants keys that the RLDS dataset lacks.

    Some datasets hold their end flag as a float, others as three integers, which the scripts compare as they are.
    """
    import tensorflow as tf

    for end_flag in (tf.constant(0.0), tf.constant([0, 0, 0])):
        try:
            return [process(_step(trajectory, i, end_flag)) for i in range(t)]
        except (KeyError, TypeError):
            return []
        except tf.errors.InvalidArgumentError:
            continue
    return []


def _step(trajectory: dict[str, Any], i: int, end_flag: Any) -> dict[str, Any]:
    """Step `i` as TFDS gives one, with the flags that RDT's scripts look at."""
    import tensorflow as tf

    step: dict[str, Any] = {"is_terminal": tf.constant(False)}
    for key, value in trajectory.items():
        step[key] = {name: column[i] for name, column in value.items()} if isinstance(value, dict) else value[i]
    if isinstance(step.get("action"), dict):
        step["action"]["terminate_episode"] = end_flag
    return step


def _text(value: Any) -> str:
    return value.numpy().decode() if hasattr(value, "numpy") else value.decode()


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
    for name in ("dlimp", "tqdm", "prismatic.overwatch", "imageio", "cv2"):
        sys.modules.setdefault(name, _Anything(name))
    graphics = "tensorflow_graphics.geometry.transformation"
    stubs = {
        "euler": {"from_quaternion": _rotated("from_quat", "as_euler")},
        "quaternion": {"from_euler": _rotated("from_euler", "as_quat")},
        "rotation_matrix_3d": {
            "from_euler": _rotated("from_euler", "as_matrix"),
            "from_quaternion": _rotated("from_quat", "as_matrix"),
        },
    }
    for name in ("tensorflow_graphics", "tensorflow_graphics.geometry", graphics):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules["tensorflow_graphics.geometry"].transformation = sys.modules[graphics]  # type: ignore[attr-defined]
    for name, functions in stubs.items():
        module = types.ModuleType(f"{graphics}.{name}")
        module.__dict__.update(functions)
        sys.modules[f"{graphics}.{name}"] = module
        setattr(sys.modules[graphics], name, module)


class _Anything(types.ModuleType):
    """A module of which every attribute can be called and means nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: _Anything(name)


def _rotated(read: str, write: str) -> Callable[[Any], Any]:
    """tensorflow_graphics' conversions: quaternions xyzw, angles of Rz Ry Rx."""
    import tensorflow as tf

    def convert(values: Any) -> Any:
        first = ("xyz",) if read == "from_euler" else ()
        rotation = getattr(Rotation, read)(*first, values.numpy())
        return tf.constant(getattr(rotation, write)(*(("xyz",) if write == "as_euler" else ())), tf.float32)

    return convert


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
