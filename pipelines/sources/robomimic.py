"""robomimic's layout: one HDF5 file with many demonstrations, as robosuite, LIBERO, RoboCasa and Isaac Lab write it."""

from collections.abc import Mapping
from dataclasses import replace

import h5py
import numpy as np
from numpy.typing import NDArray

from pipelines.contract.episode import Reference
from pipelines.contract.errors import FailedWork, UsageError
from pipelines.contract.facts import SourceFacts
from pipelines.contract.native import MAX_PROMISED, EpisodeLocation, Found, NativeEpisode, Reject, Rejected
from pipelines.mapping.adapters import Adapter
from pipelines.sources.float_pictures import note_floats
from pipelines.sources.folders import key_of, make_scan_reject, scan_files, source_root
from pipelines.sources.hdf5_files.datasets import (
    READ_ERRORS,
    describe_cameras,
    open_frames,
    open_hdf5_log,
    read_array,
    read_arrays,
    read_stated_success,
)
from pipelines.sources.hdf5_files.texts import read_instruction, read_json, read_names, read_step_text
from pipelines.storage.mirror import local_path, own_file
from pipelines.storage.paths import RemotePath, StoragePath, as_storage_path
from pipelines.storage.retry import transient_cause

USUAL_ADAPTER = "robomimic"
# Masks that are splits. Of two that name the same demonstration, the later counts: what is held out must not train.
_SPLITS = {"train": "train", "valid": "val", "val": "val", "test": "test"}
_LIBERO_KEYS = {"ee_pos", "ee_ori"}


def find(source: str, adapter: Adapter) -> Found:
    """Lists every `data/demo_*` of every `*.hdf5` at or below `source`; masks called as splits are splits.

    source: a folder or one file. A file that cannot be read, and a demonstration that a mask or a count of the file
    promises and that is not there, are rejects.
    """
    root = source_root(source)
    is_file = root.name.endswith((".hdf5", ".h5")) if isinstance(root, RemotePath) else root.is_file()
    paths: tuple[StoragePath, ...] = (root,) if is_file else ()
    rejects: list[Reject] = []
    if not is_file:
        scan = scan_files(root, "*.hdf5", "*.h5")
        paths, rejects = scan.found, list(scan.rejects)
    if not paths and not rejects:
        raise UsageError(f"{source}: expected robomimic files (*.hdf5) at or below it, found none")
    episodes: list[EpisodeLocation] = []
    tasks: dict[str, None] = {}
    for path in paths:
        try:
            with open_hdf5_log(path) as file:
                found = _list_demos(file, path, root)
                tasks |= dict.fromkeys(_list_tasks(file, each=not isinstance(path, RemotePath)))
        except (Rejected, *READ_ERRORS) as error:
            if passing := transient_cause(error):
                raise passing from error
            detail = f"{path}: expected a robomimic file with demonstrations under data, found {error}"
            reason = error.reason if isinstance(error, Rejected) else "unreadable_hdf5"
            rejects.append(make_scan_reject(path, root, reason, detail))
            continue
        episodes += found.episodes
        rejects += found.rejects
    if not episodes:
        raise FailedWork(f"{rejects[0].detail}; remove the file, or repair it")
    return Found(episodes=tuple(episodes), rejects=tuple(rejects), tasks=tuple(tasks))


files_of = own_file


def read(located: EpisodeLocation, adapter: Adapter) -> NativeEpisode:
    """Reads one demonstration; arrays go by `actions` and `obs/...`, frames by camera (`agentview_image`).

    Raises Rejected when the file is damaged, the arrays are of unequal lengths, or fewer than the file promises.
    """
    path, demo = local_path(as_storage_path(located.reference.uri)), located.reference.key.rsplit("#", 1)[1]
    where = f"{path}#{demo}"
    try:
        with open_hdf5_log(path) as file:
            group = file["data"][demo]
            t = len(group["actions"])
            _check_promised(group, t, where)
            found = {key: item for key, item in group["obs"].items() if isinstance(item, h5py.Dataset)}
            _check_dialect(set(found), file["data"], adapter, where)
            _check_controller(file["data"], adapter, where)
            vectors = [f"obs/{key}" for key, item in found.items() if item.ndim < 3 and item.dtype.kind in "fiub"]
            arrays = read_arrays(group, ["actions", "rewards", "dones", *vectors], t, where, adapter.sparse_chunks)
            cameras_found = describe_cameras(group["obs"])
            frames = open_frames(path, group["obs"], t, adapter)
            names = {key: read_names(group[key]) for key in arrays}
            hz = _read_control_hz(file)
            instruction = read_instruction(group) or read_instruction(file["data"])
            step_text = read_step_text(group, t, where) or read_step_text(group["obs"], t, where)
            success, inferred = read_demo_success(group, arrays)
    except READ_ERRORS as error:
        raise Rejected("unreadable_hdf5", f"{where}: {error}") from error
    rewards = arrays.get("rewards")
    return NativeEpisode(
        reference=located.reference,
        n_steps=t,
        arrays=arrays,
        frames=frames,
        dim_names={key: stated for key, stated in names.items() if stated},
        control_hz=hz,
        task=instruction,
        language=(instruction,) if instruction else (),
        step_text=step_text,
        cameras_found=cameras_found,
        success=success,
        reward=None if rewards is None else rewards.astype(np.float32).reshape(t),
        inferred=inferred | note_floats(frames),
    )


def describe(source: str, found: Found) -> SourceFacts:
    """Returns what the first file's env_args state of robot, environment and controller, for `embodimix inspect`."""
    with open_hdf5_log(as_storage_path(found.episodes[0].reference.uri)) as file:
        arguments = read_json(file["data"].attrs.get("env_args"))
    kwargs = arguments.get("env_kwargs") if isinstance(arguments, Mapping) else None
    kwargs = kwargs if isinstance(kwargs, Mapping) else {}
    robots = kwargs.get("robots") or ()
    name = arguments.get("env_name") if isinstance(arguments, Mapping) else None
    controller = kwargs.get("controller_configs")
    kind = controller.get("type") if isinstance(controller, Mapping) else None
    return SourceFacts(
        dialect="robomimic's HDF5" + (f", environment {name}" if name else ""),
        robot=" and ".join(map(str, [robots] if isinstance(robots, str) else robots)),
        tasks=found.tasks,
        notes=(f"env_args states the controller {kind}",) if kind else (),
    )


def read_demo_success(group: h5py.Group, arrays: Mapping[str, NDArray]) -> tuple[int, dict[str, str]]:
    """Returns 1, 0 or -1 (unknown), and how it was inferred where the file does not state it.

    A `success` attribute or array states it. A sparse reward (0 and 1 only) that reaches 1 means success, since
    robosuite gives it for nothing else. So do `dones` that are set (robomimic marks states of success), unless
    rewards are shaped. Rewards of all zeros mean nothing: RoboCasa's good demonstrations have them.
    """
    if (stated := read_stated_success(group)) is not None:
        return stated, {}
    rewards, dones = arrays.get("rewards", np.zeros(0)), arrays.get("dones", np.zeros(0))
    is_sparse = bool(np.isin(rewards, (0, 1)).all())
    if is_sparse and (rewards == 1).any():
        return 1, {"success": "success read from a sparse reward of 1"}
    if is_sparse and (dones == 1).any():
        return 1, {"success": "success read from robomimic's dones"}
    return -1, {}


def _list_demos(file: h5py.File, path: StoragePath, root: StoragePath) -> Found:
    """The demonstrations of a file, and those that its masks or counts promise. Raises KeyError where it has none."""
    data, name = file["data"], key_of(path, root)
    demos = sorted(data)
    if not demos:
        raise KeyError("no demonstrations")
    splits = _read_splits(file)
    episodes = [
        EpisodeLocation(
            reference=Reference(uri=str(path), key=f"{name}#{demo}", split=splits.get(demo, "train")), group=name
        )
        for demo in demos
    ]
    lost = {demo: f"the mask of {split} names {demo}" for demo, split in splits.items() if demo not in data}
    n_promised = int(data.attrs.get("num_demos", 0))
    if n_promised > MAX_PROMISED:
        raise Rejected("wrong_attributes", f"num_demos: expected at most {MAX_PROMISED}, found {n_promised}")
    for number in range(len(demos), n_promised - len(lost)):
        lost[f"lost_{number}"] = f"num_demos promises {n_promised} demonstrations"
    # In an object store, each demonstration would be a call.
    n_steps = None if isinstance(path, RemotePath) else _count_steps(data)
    promised = int(data.attrs.get("total", 0))
    if n_steps is not None and not lost and promised > n_steps:
        lost["lost_steps"] = f"total promises {promised} steps and {n_steps} are there"
    rejects = [
        replace(
            make_scan_reject(path, root, "promised_missing", f"{path}: {why}, found {len(demos)} others"),
            source_key=f"{name}#{demo}",
        )
        for demo, why in lost.items()
    ]
    return Found(episodes=tuple(episodes), rejects=tuple(rejects))


def _count_steps(data: h5py.Group) -> int | None:
    """The steps of all demonstrations, as each counts its own; None where one does not."""
    counts = [demo.attrs.get("num_samples") for demo in data.values()]
    if not all(isinstance(count, (int, np.integer)) for count in counts):
        return None
    return sum(int(count) for count in counts)


def _list_tasks(file: h5py.File, each: bool) -> list[str]:
    """The instructions that a file states, or else the name of its environment.

    each: whether to ask every demonstration, which in an object store would be a call for each.
    """
    data = file["data"]
    demos = [demo for demo in data.values() if isinstance(demo, h5py.Group)] if each else []
    stated = [read_instruction(demo) for demo in demos]
    stated += [read_instruction(data)] if not stated or not all(stated) else []
    content = read_json(data.attrs.get("env_args"))
    name = content.get("env_name") if isinstance(content, Mapping) else None
    return [text for text in stated if text] or ([str(name)] if name else [])


def _check_promised(group: h5py.Group, t: int, where: str) -> None:
    promised = int(group.attrs.get("num_samples", t))
    if promised > t:
        raise Rejected("promised_missing", f"{where}: num_samples promises {promised} steps, found {t}")
    if promised < t:
        raise Rejected("unequal_lengths", f"{where}: expected the {promised} steps of num_samples, found {t}")


def _check_dialect(keys: set[str], data: h5py.Group, adapter: Adapter, where: str) -> None:
    """Raises Rejected for LIBERO's keys under another entry, and for pictures that an entry would turn wrongly."""
    wanted = {selector.key for part in adapter.state.values() for selector in part.sources}
    if wanted and keys >= _LIBERO_KEYS and not any(key.removeprefix("obs/") in keys for key in wanted):
        raise Rejected(
            "missing_key",
            f"{where}: expected {', '.join(sorted(wanted))}, found LIBERO's keys; give --adapter libero_hdf5",
        )
    turned = [form for form in adapter.camera_forms.values() if form.flip or form.rotate]
    if turned and data.attrs.get("macros_image_convention") == "opencv":
        raise Rejected(
            "wrong_attributes",
            f"{where}: the file says that pictures are upright "
            f"(macros_image_convention opencv); entry {adapter.name} would turn them",
        )


def _check_controller(data: h5py.Group, adapter: Adapter, where: str) -> None:
    """Raises Rejected where the file's own controller is another than the entry's scale is of.

    robosuite states it in env_args: one controller, or since 1.5 one for each part of the robot.
    """
    source = adapter.action.get("arm0")
    arguments = read_json(data.attrs.get("env_args"))
    kwargs = arguments.get("env_kwargs") if isinstance(arguments, Mapping) else None
    stated = kwargs.get("controller_configs") if isinstance(kwargs, Mapping) else None
    if isinstance(stated, Mapping) and isinstance(stated.get("body_parts"), Mapping):
        stated = next(iter(stated["body_parts"].values()))
    if source is None or not isinstance(source.scale, tuple) or not isinstance(stated, Mapping):
        return
    # A command of 1 is 0.05 m under one controller and a joint angle under another: the scale is the controller's.
    expected = {"type": "OSC_POSE", "control_delta": True, "input_type": "delta", "output_max": list(source.scale)}
    for key, value in expected.items():
        found = stated.get(key, value)
        if key == "output_max" and isinstance(found, (int, float)):
            found = [found] * len(source.scale)
        if found != value:
            raise Rejected(
                "wrong_attributes",
                f"{where}: entry {adapter.name} expects a controller with {key} {value}, env_args states {found}; "
                "it needs an entry with another control_mode or `scale`",
            )


def _read_splits(file: h5py.File) -> dict[str, str]:
    masks = file["mask"] if "mask" in file else {}
    names = {
        split: [name.decode("utf-8", "replace") for name in read_array(masks[mask], f"mask/{mask}")]
        for mask, split in _SPLITS.items()
        if mask in masks
    }
    return {demo: split for split, demos in names.items() for demo in demos}


def _read_control_hz(file: h5py.File) -> float | None:
    try:
        return float(read_json(file["data"].attrs["env_args"])["env_kwargs"]["control_freq"])
    except (KeyError, ValueError, TypeError):
        return None
