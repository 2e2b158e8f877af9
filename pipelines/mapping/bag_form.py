"""What an entry of the format `bag` states beside its topics: clocks, episodes, success and instructions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pipelines.contract.document import Fields, ListOf, MapOf, Number, TextKind
from pipelines.contract.errors import UsageError

Stamp = Literal["header", "log"]
Cut = Literal["file", "folder", "markers", "gaps"]
# A stream of states that is silent for longer has no value to interpolate.
MAX_GAP_S = 0.5
# Types of messages that are only ever sent to a robot, whatever their topic is called.
COMMAND_TYPES = frozenset(
    {"trajectory_msgs/msg/JointTrajectory", "control_msgs/msg/GripperCommand", "control_msgs/msg/JointJog"}
)


@dataclass(frozen=True, kw_only=True)
class EpisodeCut:
    """How episodes are found.

    by: one a file; one a folder of files that follow one another; between markers; or where `topic` (any, if empty)
    pauses for `gap_s`. topic: of markers, with a field, such as `/recording:data`. start, stop: values of it that begin
    and end an episode; without them an episode lasts as long as the value is true, not zero, or the same text.
    stop_topic: whose messages end an episode, where it is another topic.
    """

    by: Cut = "file"
    topic: str = ""
    start: str = ""
    stop: str = ""
    stop_topic: str = ""
    gap_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class LabelSource:
    """Where a flag or a text of an episode stands: in a topic, in a file beside it, or in the names of its folders.

    topic: with a field; the last message counts. files: a glob below the input of CSV or JSON files with a row an
    episode: `key`, the column that names the episode (its key, or its file's or folder's name), and `column`, the
    value. folder: names of folders and what they say; `*` says that the name of the folder itself is the value.
    """

    topic: str = ""
    files: str = ""
    key: str = ""
    column: str = ""
    folder: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class BagForm:
    """See `docs/bags.md`.

    stamp: whether a message counts from its header's stamp or from when it was logged. clock: the topic whose samples
    are the steps, if it runs at the control rate; empty for that of the first arm's action. on_change: topics that are
    published when their value changes, so that the last one holds however long ago it was.
    """

    stamp: Stamp
    clock: str = ""
    on_change: tuple[str, ...] = ()
    max_gap_s: float = MAX_GAP_S
    episodes: EpisodeCut = EpisodeCut()
    success: LabelSource | None = None
    instruction: LabelSource | None = None


_TEXT = TextKind(about="a text")
_TOPIC = TextKind(about="a topic, with a field behind a colon")
_LABEL = Fields(
    about="where an episode's flag or text stands",
    fields={
        "topic": _TOPIC,
        "files": TextKind(about="a glob of CSV or JSON files below the input"),
        "key": TextKind(about="the column that names the episode"),
        "column": TextKind(about="the column of the value"),
        "folder": MapOf(about="names of folders and what they say", value=_TEXT),
    },
)
BAG = Fields(
    about="how bags are read",
    fields={
        "stamp": TextKind(about="whose clock counts", choices=get_args(Stamp)),
        "clock": _TOPIC,
        "on_change": ListOf(about="a list of topics", item=TextKind(about="a topic")),
        "max_gap_s": Number(about="seconds", above=0),
        "episodes": Fields(
            about="how episodes are found",
            fields={
                "by": TextKind(about="what an episode is", choices=get_args(Cut)),
                "topic": _TOPIC,
                "start": _TEXT,
                "stop": _TEXT,
                "stop_topic": _TOPIC,
                "gap_s": Number(about="seconds", above=0),
            },
            required=("by",),
        ),
        "success": _LABEL,
        "instruction": _LABEL,
    },
    required=("stamp",),
)


def parse_bag(where: str, entry: Mapping[str, Any]) -> BagForm:
    """Builds what an entry states under `bag`. Raises UsageError for what contradicts itself."""
    values = dict(entry)
    cut = EpisodeCut(**values.pop("episodes", {}))
    if cut.by == "markers" and not cut.topic or cut.by == "gaps" and not cut.gap_s:
        needed = "topic" if cut.by == "markers" else "gap_s"
        raise UsageError(f"{where}: episodes: by {cut.by} needs `{needed}`")
    if cut.by in ("file", "folder") and cut != EpisodeCut(by=cut.by):
        raise UsageError(f"{where}: episodes: by {cut.by} needs nothing else, found {dict(entry['episodes'])}")
    for key in ("success", "instruction"):
        if key in values:
            values[key] = _parse_label(f"{where}: {key}", values[key])
    on_change = tuple(values.pop("on_change", ()))
    return BagForm(episodes=cut, on_change=on_change, **values)


def restore_bag(content: Mapping[str, Any] | None) -> BagForm | None:
    """Builds what a manifest holds of an entry's `bag`, the fields of `BagForm` with tuples for lists."""
    if content is None:
        return None
    values = {**content, "episodes": EpisodeCut(**content["episodes"])}
    labels = {key: LabelSource(**values[key]) for key in ("success", "instruction") if values[key] is not None}
    return BagForm(**{**values, **labels})


def _parse_label(where: str, entry: Mapping[str, Any]) -> LabelSource:
    given = [key for key in ("topic", "files", "folder") if key in entry]
    if len(given) != 1 or ("files" in entry) != ("key" in entry and "column" in entry):
        expected = "expected `topic`, or `files` with `key` and `column`, or `folder`"
        raise UsageError(f"{where}: {expected}; found {dict(entry)}")
    folder = {str(name): str(value) for name, value in entry.get("folder", {}).items()} or None
    return LabelSource(**{**entry, "folder": folder})
