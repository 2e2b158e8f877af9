"""Bridge v2 raw: dated folders of JPEG files and pickles."""

import json
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.contract.episode import DroppedSteps, Image, Reference
from pipelines.contract.errors import FailedWork, UsageError
from pipelines.contract.flags import parse_flag
from pipelines.contract.images import CorruptImage
from pipelines.contract.instructions import clean_instruction
from pipelines.contract.native import EpisodeLocation, Found, NativeEpisode, Rejected
from pipelines.mapping.adapters import Adapter
from pipelines.sources.folders import key_of, read_regular, scan_folders, source_root
from pipelines.sources.restricted_pickle import load_pickle
from pipelines.storage.mirror import Files, Listing, folder_files, local_path
from pipelines.storage.paths import as_storage_path
from pipelines.storage.retry import transient_cause

USUAL_ADAPTER = "bridge_raw"
_SESSION = re.compile(r"(\d{4}-\d{2}-\d{2})_\d{2}-\d{2}-\d{2}")
_PICTURE = re.compile(r"im_(\d+)\.jpg")
# Depth and masks lie beside the pictures in folders of other names.
_CAMERA = re.compile(r"images\d+")
_TRAJECTORY = re.compile(r"traj_group\d+[\\/]traj\d+$")
_WANTED = re.compile(r"(obs_dict|policy_out|agent_data)\.pkl|lang\.txt|images\d+/im_\d+\.jpg")
# The observation of these keys becomes the episode's arrays; the rest of obs_dict is bookkeeping.
_STATE_KEYS = ("full_state", "state", "desired_state", "qpos", "qvel")


def find(source: str, adapter: Adapter) -> Found:
    """Lists every `raw/traj_group*/traj*` folder at or below `source`, at any depth; tasks are their task folders."""
    root = source_root(source)
    scan = scan_folders(root, lambda folder, _: _TRAJECTORY.search(folder) is not None)
    if not scan.found:
        lost = f"; {scan.rejects[0].detail}" if scan.rejects else ""
        raise (FailedWork if lost else UsageError)(
            f"{source}: expected folders such as raw/traj_group0/traj0 below it, found none{lost}"
        )
    episodes = [EpisodeLocation(reference=Reference(uri=str(path), key=key_of(path, root))) for path in scan.found]
    tasks = dict.fromkeys(_task_of(Path(str(path))) for path in scan.found)
    return Found(episodes=tuple(episodes), rejects=scan.rejects, tasks=tuple(task for task in tasks if task))


def files_of(located: EpisodeLocation, listing: Listing, pictures: bool) -> Files:
    """What the reader opens of the folder (no depth pictures), and the nearest config.json above it."""
    return folder_files(located, listing, _WANTED, "config.json")


def read(located: EpisodeLocation, adapter: Adapter) -> NativeEpisode:
    """Reads one trajectory: T observations and T-1 actions, closed by an action of no motion that holds the gripper.

    The arrays are those of obs_dict and `actions`; frames go by camera topic and by folder (`images0`). Raises
    Rejected when files are missing, damaged, or of unequal lengths.
    """
    folder = local_path(as_storage_path(located.reference.uri))
    observations = _read_pickle(folder / "obs_dict.pkl", dict)
    actions = _stack_actions(_read_pickle(folder / "policy_out.pkl", list))
    arrays = {key: np.asarray(observations[key]) for key in _STATE_KEYS if key in observations}
    if "full_state" not in arrays:
        raise Rejected("missing_key", f"{folder}: obs_dict.pkl: expected full_state, found {', '.join(observations)}")
    t = len(arrays["full_state"])
    if len(actions) != t - 1:
        raise Rejected("unequal_lengths", f"{folder}: expected {t - 1} actions for {t} pictures, found {len(actions)}")
    arrays["actions"] = np.concatenate([actions, null_action(actions)])
    frames, missing = _list_frames(folder, t)
    language = _read_language(folder / "lang.txt")
    times = _read_times(observations, t, folder)
    rises = times is None or bool((np.diff(times) > 0).all())
    native = NativeEpisode(
        reference=located.reference,
        n_steps=t,
        arrays=arrays,
        frames=frames,
        missing_cameras=missing,
        timestamp_s=times,
        language=language,
        success=_read_success(folder),
        task=language[0] if language else _task_of(folder),
        inferred={} if rises else {"times": "Bridge: time stamps that repeat or go back were kept as they are"},
    )
    session = next((match for part in folder.parts if (match := _SESSION.fullmatch(part))), None)
    if adapter.shift_before and session and date.fromisoformat(session[1]) < date.fromisoformat(adapter.shift_before):
        return shift_actions(native)
    return native


def null_action(actions: np.ndarray) -> np.ndarray:
    """Returns [1, 7]: no motion, and the gripper where the last action put it.

    >>> null_action(np.array([[0.1, 0, 0, 0, 0, 0, 1.0]]))
    array([[0., 0., 0., 0., 0., 0., 1.]])
    """
    last = np.zeros_like(actions[-1:])
    last[:, -1] = actions[-1, -1]
    return last


def shift_actions(native: NativeEpisode) -> NativeEpisode:
    """Pairs every action with the observation after it: the first observation and the last real action go.

    Observations 0 1 2 3 with actions a b c and the null action 0 become 1 2 3 with a b 0.
    """
    actions = native.arrays["actions"]
    kept = {key: array[1:] for key, array in native.arrays.items()}
    kept["actions"] = np.concatenate([actions[:-2], null_action(actions[:-2])]) if len(actions) > 2 else actions[1:]
    return replace(
        native,
        n_steps=native.n_steps - 1,
        arrays=kept,
        frames={camera: frames[1:] for camera, frames in native.frames.items()},
        timestamp_s=None if native.timestamp_s is None else native.timestamp_s[1:],
        dropped=(DroppedSteps(start=0, end=1, reason="camera_delay_shift"),),
    )


class JpegFiles(Sequence[Image]):
    """The frames im_0.jpg, im_1.jpg, ... of one folder, read when asked for."""

    def __init__(self, folder: Path, numbers: range) -> None:
        self._folder = folder
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return JpegFiles(self._folder, self._numbers[index])
        path = self._folder / f"im_{self._numbers[index]}.jpg"
        try:
            return read_regular(path)
        except OSError as error:
            # A disk that fails temporarily is no damage; what keeps failing bars this episode, not the run.
            if transient_cause(error):
                raise
            raise CorruptImage(f"{path}: expected a JPEG, found: {error.strerror}") from error


def _read_pickle(path: Path, kind: type) -> Any:
    try:
        value = load_pickle(read_regular(path))
    except FileNotFoundError as error:
        raise Rejected("missing_file", f"{path}: expected it, found nothing") from error
    except pickle.UnpicklingError as error:
        raise Rejected("unreadable_pickle", f"{path}: {error}") from error
    if not isinstance(value, kind) or not value:
        raise Rejected("unreadable_pickle", f"{path}: expected a filled {kind.__name__}, found {type(value).__name__}")
    return value


def _stack_actions(steps: Sequence[Any]) -> np.ndarray:
    rows = [step.get("actions") if isinstance(step, Mapping) else step for step in steps]
    try:
        actions = np.asarray(rows, np.float64)
    except (TypeError, ValueError) as error:
        raise Rejected("unreadable_pickle", f"policy_out.pkl: expected numbers for every action: {error}") from error
    if actions.ndim != 2:
        raise Rejected("wrong_dims", f"policy_out.pkl: expected actions [t, 7], found shape {actions.shape}")
    return actions


def _list_frames(folder: Path, t: int) -> tuple[dict[str, Sequence[Image]], tuple[str, ...]]:
    """Frames by topic and by folder name, and the topics without a folder."""
    topics = _read_topics(folder)
    frames: dict[str, Sequence[Image]] = {}
    for path in sorted(path for path in folder.glob("images[0-9]*") if _CAMERA.fullmatch(path.name)):
        numbers = {int(match[1]) for file in path.glob("im_*.jpg") if (match := _PICTURE.fullmatch(file.name))}
        if lacking := sorted(set(range(t)) - numbers):
            expected = f"expected {t} frames im_0.jpg to im_{t - 1}.jpg"
            raise Rejected("missing_frames", f"{path}: {expected}, found {len(lacking)} missing: im_{lacking[0]}.jpg")
        if len(numbers) > t:
            # Nothing says which of them belong to which observation.
            raise Rejected("unequal_lengths", f"{path}: expected {t} frames, one an observation, found {len(numbers)}")
        frames[path.name] = JpegFiles(path, range(t))
    by_topic = {topic: frames[f"images{i}"] for i, topic in enumerate(topics) if f"images{i}" in frames}
    return frames | by_topic, tuple(topic for topic in topics if topic not in by_topic)


def _read_topics(folder: Path) -> list[str]:
    """The camera topics of the session, in the order of its images folders; none without a config.json."""
    path = next((parent / "config.json" for parent in folder.parents if (parent / "config.json").is_file()), None)
    if path is None:
        return []
    try:
        topics = json.loads(read_regular(path))["agent"]["env"][1]["camera_topics"]
        return [topic if isinstance(topic, str) else topic["name"] for topic in topics]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise Rejected("unreadable_config", f"{path}: expected agent.env[1].camera_topics: {error!r}") from error


def _read_language(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        return ()
    lines = [clean_instruction(line) for line in read_regular(path).decode("utf-8", errors="replace").splitlines()]
    return tuple(line for line in lines if line and not line.startswith("confidence"))


def _read_success(folder: Path) -> int:
    path = folder / "agent_data.pkl"
    if not path.is_file():
        return -1
    return parse_flag(_read_pickle(path, dict).get("traj_ok"))


def _read_times(observations: Mapping[str, Any], t: int, folder: Path) -> np.ndarray | None:
    """The times of the observations (s from the first), as they are; None where the trajectory states none.

    Raises Rejected where there are more or fewer than observations, or some are no numbers.
    """
    if observations.get("time_stamp") is None:
        return None
    times = np.asarray(observations["time_stamp"], np.float64).reshape(-1)
    if len(times) != t or not np.isfinite(times).all():
        raise Rejected(
            "wrong_times", f"{folder}: time_stamp: expected {t} finite numbers, found {len(times)} or others"
        )
    return times - times[0]


def _task_of(folder: Path) -> str:
    """The task folder's name, which stands above the number and the date; not an instruction, only a name."""
    for depth, parent in enumerate(folder.parents):
        if _SESSION.fullmatch(parent.name):
            return folder.parents[depth + 2].name.replace("_", " ")
    return ""
