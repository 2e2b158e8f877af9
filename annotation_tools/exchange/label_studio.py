"""Label Studio: `tasks.json` of video timelines; the label of a region is its kind, its text a text area of its own.

Frames count from 1 and both ends of a range belong to it. Arms and confidence have no place there. The labelling
configuration that fits:

    <View>
      <Video name="video" value="$video" frameRate="$control_hz"/>
      <TimelineLabels name="kind" toName="video">
        <Label value="subtask"/><Label value="recovery"/><Label value="idle"/>
      </TimelineLabels>
      <TextArea name="text" toName="video" perRegion="true"/>
      <Choices name="success" toName="video" perRegion="true">
        <Choice value="yes"/><Choice value="no"/>
      </Choices>
    </View>
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from annotation_tools.exchange.clips import Clip, EpisodeNames
from pipelines.contract.episode import Segment
from pipelines.contract.errors import FailedWork
from pipelines.storage.files import write_atomically

_SUCCESS = {1: "yes", 0: "no"}


def write(directory: Path, clips: Sequence[Clip]) -> list[Path]:
    """Writes one file of all episodes; `$video` is `<episode_id>.mp4`."""
    path = directory / "tasks.json"
    tasks = [
        {
            "data": {
                "video": f"{clip.episode_id}.mp4",
                "episode_id": clip.episode_id,
                "task": clip.task,
                "control_hz": clip.control_hz,
            },
            "annotations": [{"result": [part for s, at in _numbered(clip) for part in _region(s, at)]}],
        }
        for clip in clips
    ]
    write_atomically(path, (json.dumps(tasks, indent=2, ensure_ascii=False) + "\n").encode())
    return [path]


def read(path: Path, names: EpisodeNames) -> dict[str, list[Segment]]:
    """Reads an export (JSON) of Label Studio; of several annotations of a task the last one counts."""
    file = path / "tasks.json" if path.is_dir() else path
    found = {}
    try:
        for task in json.loads(file.read_text()):
            brief = names.find(str(task["data"].get("episode_id") or Path(task["data"]["video"]).stem))
            if task["annotations"]:
                found[brief.episode_id] = _segments(task["annotations"][-1]["result"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise FailedWork(f"{file}: expected a JSON export of video timelines, found {error!r}") from error
    return found


def _numbered(clip: Clip) -> list[tuple[Segment, str]]:
    return [(segment, f"s{number}") for number, segment in enumerate(clip.segments)]


def _region(segment: Segment, identity: str) -> list[dict[str, Any]]:
    ranges = [{"start": segment.start + 1, "end": segment.end}]
    common = {"id": identity, "to_name": "video"}
    parts: list[dict[str, Any]] = [
        {
            **common,
            "from_name": "kind",
            "type": "timelinelabels",
            "value": {"ranges": ranges, "timelinelabels": [segment.kind]},
        },
        {**common, "from_name": "text", "type": "textarea", "value": {"ranges": ranges, "text": [segment.text]}},
    ]
    if segment.success in _SUCCESS:
        chosen = {"ranges": ranges, "choices": [_SUCCESS[segment.success]]}
        parts.append({**common, "from_name": "success", "type": "choices", "value": chosen})
    return parts


def _segments(result: Sequence[dict[str, Any]]) -> list[Segment]:
    texts = {part["id"]: " ".join(part["value"]["text"]) for part in result if part["type"] == "textarea"}
    choices = {part["id"]: part["value"]["choices"][0] for part in result if part["type"] == "choices"}
    success = {word: number for number, word in _SUCCESS.items()}
    return [
        Segment(
            start=span["start"] - 1,
            end=span["end"],
            text=texts.get(part["id"], ""),
            source="source",
            kind=part["value"]["timelinelabels"][0],
            success=success.get(choices.get(part["id"], ""), -1),
        )
        for part in result
        if part["type"] == "timelinelabels"
        for span in part["value"]["ranges"]
    ]
