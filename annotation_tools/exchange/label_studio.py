"""Label Studio: `tasks.json` of video timelines; the label of a region is its kind, its text a text area of its own.

Frames count from 1 and both ends of a range belong to it. The format cannot hold arms and confidence.
The labelling configuration that fits:

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
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from annotation_tools.exchange.clips import Clip, Collector, EpisodeNames, Imported
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
                "source_key": clip.source_key,
                "task": clip.task,
                "control_hz": clip.control_hz,
            },
            "annotations": [{"result": [part for s, at in _numbered(clip) for part in _region(s, at)]}],
        }
        for clip in clips
    ]
    write_atomically(path, (json.dumps(tasks, indent=2, ensure_ascii=False) + "\n").encode())
    return [path]


def read(path: Path, names: EpisodeNames) -> Imported:
    """Reads an export (JSON) of Label Studio; of several annotations of a task the last one that was not cancelled.

    A task is known by its `episode_id`, or else by the name of its video: an episode's id, key or file.
    """
    file = path / "tasks.json" if path.is_dir() else path
    found = Collector(where=str(file))
    try:
        for task in json.loads(file.read_text()):
            done = [entry for entry in task["annotations"] if not entry.get("was_cancelled")]
            if not done:
                continue
            name = str(task["data"].get("episode_id") or _video_name(task["data"]["video"]))
            if (match := names.match(name)) is None:
                found.absent.append(name)
            else:
                segments = _segments(done[-1]["result"])
                # A video of the source's name shows the source's frames; one of our id, our steps.
                found.add(match, segments if name == match.brief.episode_id else match.place(segments))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise FailedWork(f"{file}: expected a JSON export of video timelines, found {error!r}") from error
    return found.finish()


def _video_name(video: str) -> str:
    """The name of a video's file; Label Studio puts eight hex digits before the names of files that it uploads."""
    name = Path(video).stem
    return re.sub(r"^[0-9a-f]{8}-", "", name) if "/upload/" in video else name


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
