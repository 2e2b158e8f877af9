"""AgiBot World: `task_info/task_<n>.json`, whose episodes hold `label_info.action_config` and `key_frame`.

Episodes are known by `episode_id`, the number of their folder. A recovery is also a key frame "Failure recovery"; an
idle segment has the skill "Idle". The format cannot hold arms, success and confidence. Frames are the source's, half
open.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from annotation_tools.exchange.clips import Clip, Collector, EpisodeNames, Imported
from pipelines.contract.episode import Segment, SegmentKind
from pipelines.contract.errors import FailedWork
from pipelines.storage.files import write_atomically

_RECOVERY, _IDLE, _ID = "Failure recovery", "Idle", "embodimix_episode_id"


def write(directory: Path, clips: Sequence[Clip]) -> list[Path]:
    """Writes one file per task, numbered from 1 in the order of the tasks' names."""
    paths = []
    own = {clip.episode_id: clip.own_number for clip in clips}
    # Numbers are the source's own or all made here: a mixture could name one episode by another one's number.
    is_numbered = None not in own.values() and len(set(own.values())) == len(own)
    numbers = own if is_numbered else {clip.episode_id: i for i, clip in enumerate(clips)}
    for number, task in enumerate(sorted({clip.task for clip in clips}), start=1):
        episodes = [_episode(clip, numbers[clip.episode_id], number) for clip in clips if clip.task == task]
        paths.append(directory / "task_info" / f"task_{number}.json")
        write_atomically(paths[-1], (json.dumps(episodes, indent=2, ensure_ascii=False) + "\n").encode())
    return paths


def read(path: Path, names: EpisodeNames) -> Imported:
    """Reads all task files. Raises FailedWork for files of another form, and where the dataset has no such episode."""
    files = sorted(path.glob("task_info/task_*.json")) or sorted(path.glob("task_*.json"))
    if not files:
        raise FailedWork(f"{path}: expected task_info/task_*.json, found none")
    found = Collector(where=str(path))
    for file in files:
        try:
            for episode in json.loads(file.read_text()):
                # Some releases misspell the key.
                info = episode.get("label_info") or episode["lable_info"]
                name = str(episode.get(_ID, episode["episode_id"]))
                if (match := names.match(name)) is None:
                    found.absent.append(name)
                else:
                    found.add(match, match.place(_segments(info)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FailedWork(f"{file}: expected episodes with label_info.action_config, found {error!r}") from error
    return found.finish()


def _episode(clip: Clip, own_number: int | None, task: int) -> dict[str, Any]:
    spans = [(segment, *clip.frames(segment)) for segment in clip.segments]
    actions = [
        {"start_frame": start, "end_frame": end, "action_text": s.text, "skill": _IDLE if s.kind == "idle" else ""}
        for s, start, end in spans
    ]
    recoveries = [{"start": start, "end": end, "comment": _RECOVERY} for s, start, end in spans if s.kind == "recovery"]
    return {
        "episode_id": own_number,
        _ID: clip.episode_id,
        "task_id": task,
        "task_name": clip.task,
        "init_scene_text": "",
        "label_info": {"action_config": actions, "key_frame": recoveries},
    }


def _segments(info: dict[str, Any]) -> list[Segment]:
    recoveries = {
        (frame["start"], frame["end"]) for frame in info.get("key_frame", []) if frame.get("comment") == _RECOVERY
    }
    segments = []
    for action in info["action_config"]:
        start, end = action["start_frame"], action["end_frame"]
        kind: SegmentKind = "subtask"
        if action.get("skill") == _IDLE:
            kind = "idle"
        elif any(low < end and start < high for low, high in recoveries):
            kind = "recovery"
        segments.append(Segment(start=start, end=end, text=action["action_text"], kind=kind, source="source"))
    return segments
