"""Numbers of episodes for formats that know no other name, and the file that lists which episode each number is."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from annotation_tools.exchange.clips import Clip
from pipelines.contract.errors import FailedWork
from pipelines.storage.files import write_atomically

FILE = "embodimix_episodes.json"
SCHEMA = "embodimix.exported_episodes/v1"


def number_clips(clips: Sequence[Clip]) -> dict[int, Clip]:
    """A number for each episode: that of the LeRobot dataset they all come from, or else 0, 1, ... in their order.

    Numbers that are made here mean nothing without the file that `write_numbers` writes.
    """
    own = {clip.lerobot_index: clip for clip in clips if clip.lerobot_index is not None}
    return own if len(own) == len(clips) else dict(enumerate(clips))


def write_numbers(directory: Path, numbered: Mapping[int, Clip] | Mapping[str, Clip]) -> Path:
    """Writes which episode each number is, by id and by the source's key."""
    episodes = {str(n): {"episode_id": c.episode_id, "source_key": c.source_key} for n, c in numbered.items()}
    content = json.dumps({"schema": SCHEMA, "episodes": episodes}, indent=1)
    write_atomically(directory / FILE, content.encode())
    return directory / FILE


def read_numbers(directory: Path) -> dict[str, str]:
    """Number to episode id, as an export wrote it; {} where there is no such file. Raises FailedWork for another."""
    path = directory / FILE
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']!r}")
        return {number: episode["episode_id"] for number, episode in content["episodes"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FailedWork(f"{path}: expected the episodes of an export ({SCHEMA}), found {error!r}") from error
