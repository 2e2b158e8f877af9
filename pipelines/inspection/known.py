"""Shipped entries that read an input as it is, by the converter's own checks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipelines.contract.embodiments import get_embodiment
from pipelines.contract.errors import EmbodimixError
from pipelines.contract.native import UNREADABLE, NativeEpisode
from pipelines.inspection.description import Description
from pipelines.inspection.evidence import Guess, ask, gripper_ends
from pipelines.inspection.proposal import PartDraft, Proposal
from pipelines.inspection.robots import registered_names
from pipelines.inspection.roles import Block
from pipelines.mapping.adapters import FROM_LOG, Adapter, PartSource, load_adapters
from pipelines.mapping.formats import list_formats
from pipelines.mapping.to_slots import to_episode
from pipelines.mapping.validate import find_fault
from pipelines.sources.lerobot_files.units import Ranges, infer_units

# How far values may lie beyond an entry's range, as a share of it. Where the entry clips, nothing would be rejected:
# a hand that opens wider than the entry's would be stored as one that does not.
_SPARE, _CLIPPED = 0.15, 0.01
# Keys that every other dataset has, too: an entry that fits by them alone says nothing about what they mean.
_COMMON = frozenset({"state", "action", "actions", "observation/state", "observation.state"})


@dataclass(frozen=True, kw_only=True)
class Known:
    """Entries of the registry whose keys and dims an input has and whose units its numbers do not contradict.

    sure: the one whose keys are those of one software, or whose robot the source names, so that its reading counts as
    evidence; None if none is.
    is_of_logs: whether each log states its robot and parts; reads_logs: whether these robots are all registered.
    """

    entries: tuple[str, ...]
    sure: Adapter | None = None
    is_of_logs: bool = False
    reads_logs: bool = False


def find_known(description: Description, episodes: Sequence[NativeEpisode]) -> Known:
    """Tries every shipped entry of the input's format on the first episode that was read."""
    usual = list_formats()[description.format]
    registry = load_adapters()
    if usual and registry[usual].robot == FROM_LOG:
        return Known(entries=(usual,), is_of_logs=True, reads_logs=all(map(_has_robot, episodes)))
    adapters = [registry[name] for name in registry if not registry.is_own(name)]
    fitting = [
        adapter
        for adapter in adapters
        if adapter.format == description.format and adapter.robot != FROM_LOG and _reads(adapter, episodes[0])
    ]
    fitting.sort(key=lambda adapter: (adapter.name != usual, -_n_cameras(adapter, description)))
    named = {name for robot in description.robots for name in registered_names(robot)}
    sure = [adapter for adapter in fitting if not _keys(adapter) <= _COMMON or adapter.robot in named]
    return Known(entries=tuple(adapter.name for adapter in fitting), sure=sure[0] if sure else None)


def _has_robot(episode: NativeEpisode) -> bool:
    try:
        get_embodiment(episode.robot or "")
    except EmbodimixError:
        return False
    return True


def _reads(adapter: Adapter, episode: NativeEpisode) -> bool:
    try:
        converted = to_episode(episode, adapter, get_embodiment(adapter.robot), ())
    except (EmbodimixError, *UNREADABLE):
        return False
    fault = find_fault(converted, adapter.max_loss)
    return fault is None or fault[0] in ("one_step", "holes", "no_camera")


def _keys(adapter: Adapter) -> set[str]:
    parts = (*adapter.state.values(), *adapter.action.values())
    return {selector.key for part in parts for selector in part.sources}


def _n_cameras(adapter: Adapter, description: Description) -> int:
    there = {camera.name for camera in description.cameras}
    return sum(bool(there & set(names)) for names in adapter.all_cameras.values())


def as_proposal(adapter: Adapter, description: Description, episodes: Sequence[NativeEpisode]) -> Proposal:
    """What a shipped entry says, as a proposal; grippers whose values do not run over its range become questions."""
    why = f"as the shipped entry {adapter.name} has it, whose keys these are"
    if _keys(adapter) <= _COMMON:
        why = f"as the shipped entry {adapter.name} has it, since the source names a {', '.join(description.robots)}"
    if adapter.by_units:
        return _with_units(adapter, description, why)
    sides = {
        side: {part: _part(source, description, why) for part, source in parts.items()}
        for side, parts in (("state", adapter.state), ("action", adapter.action))
    }
    return Proposal(
        control_mode=Guess(value=adapter.control_mode, why=why),
        units=Guess(value=adapter.units, why=""),
        state=sides["state"],
        action=sides["action"],
        widths=adapter.widths,
    )


def _with_units(adapter: Adapter, description: Description, why: str) -> Proposal:
    """The proposal of the entry for the units that the numbers are certain of; else the units are a question."""
    state, action = description.feature("observation.state"), description.feature("action")
    units, reason = "", "state and action are not both there"
    if state and action:
        low, high = (np.concatenate([getattr(state, side), getattr(action, side)]) for side in ("low", "high"))
        units, reason = infer_units(state.names, Ranges(low=low, high=high))
    entry = load_adapters()[adapter.by_units[units]] if units else adapter
    proposal = as_proposal(replace(entry, by_units={}), description, ())
    if units:
        known = Guess(value=entry.units, why=f"joints are in {units}: {reason}")
        return replace(proposal, units=known)
    question = ask(
        f"Degrees or percent of each joint's range? {reason[:1].upper()}{reason[1:]}. true: degrees. For percent, as "
        f"use_degrees=False of the robot's configuration gives: write scale: 0.01 here, and units: native below"
    )
    sides = {
        side: {
            part: replace(draft, guesses={**draft.guesses, "degrees": question}) if part.startswith("arm") else draft
            for part, draft in getattr(proposal, side).items()
        }
        for side in ("state", "action")
    }
    return replace(proposal, state=sides["state"], action=sides["action"])


def _part(source: PartSource, description: Description, why: str) -> PartDraft:
    guesses: dict[str, Guess] = {}
    usual = {"scale": 1.0, "offset": 0.0, "degrees": False, "clip": False, "relative": False}
    for key, default in usual.items():
        if (value := getattr(source, key)) != default:
            guesses[key] = Guess(value=list(value) if isinstance(value, tuple) else value, why="")
    if source.form not in ("joints", "value"):
        guesses["form"] = Guess(value=source.form, why="")
    ends = _ends(source, description)
    if source.open is not None and source.closed is not None:
        expected = sorted((source.open, source.closed))
        if ends and not _agree(ends, expected, _CLIPPED if source.clip else _SPARE):
            opens = closes = ask(f"{why.split(', whose')[0]}: {source.open:g} open, {source.closed:g} closed")
            guesses.pop("clip", None)
        else:
            opens, closes = Guess(value=source.open, why=""), Guess(value=source.closed, why="")
            ends = (expected[0], expected[1])
        guesses |= {"open": opens, "closed": closes}
    n = sum(selector.width or _width(description, selector.key) for selector in source.sources)
    return PartDraft(
        sources=tuple(map(str, source.sources)),
        width=len(source.names) or n,
        guesses=guesses,
        why=why,
        ends=ends,
        is_next=source.next,
    )


def _width(description: Description, key: str) -> int:
    feature = description.feature(key)
    return feature.width if feature else 0


def _ends(source: PartSource, description: Description) -> tuple[float, float] | None:
    feature = description.feature(source.sources[0].key)
    if source.open is None or feature is None:
        return None
    start = source.sources[0].start or 0
    stop = source.sources[0].stop or feature.width
    return gripper_ends(Block(feature=feature, start=start, stop=stop, kind="gripper"))


def _agree(ends: tuple[float, float], expected: Sequence[float], spare: float) -> bool:
    """Whether values stay within an entry's range, with some of it to spare, and use a tenth of it."""
    width = expected[1] - expected[0]
    inside = ends[0] >= expected[0] - spare * width and ends[1] <= expected[1] + spare * width
    return inside and ends[1] - ends[0] > 0.1 * width
