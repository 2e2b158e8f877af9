"""A draft of a registry file for an input: an adapter entry and, where needed, a robot's, with reasons as comments."""

import json
import re
import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pipelines.contract.embodiments import load_embodiments
from pipelines.contract.errors import UsageError
from pipelines.contract.layouts import load_layouts
from pipelines.contract.native import NativeEpisode
from pipelines.contract.slots import LAYOUT
from pipelines.contract.words import counted
from pipelines.inspection.description import Description
from pipelines.inspection.evidence import OPEN_QUESTION, USUAL_ENDS, Guess, ask
from pipelines.inspection.known import Known, as_proposal, find_known
from pipelines.inspection.proposal import PartDraft, Proposal, propose
from pipelines.inspection.robots import RobotDraft, choose_robot
from pipelines.inspection.views import Views, choose_views
from pipelines.mapping.adapters import FROM_LOG, load_adapters
from pipelines.storage.paths import as_storage_path

_WIDTH = 110
# What the anchor of a question about several parts is called, by the key that it answers.
_ANCHORS = {"degrees": "joints", "form": "arm", "units": "lengths"}
_PLAIN = re.compile(r"[A-Za-z_/][\w./ -]*")
_WORDS = frozenset("true false null yes no on off y n".split())


@dataclass(frozen=True, kw_only=True)
class Draft:
    """Everything that a draft says of an input; `render` writes it. roomier: a layout that has room for more of it."""

    name: str
    description: Description
    known: Known
    proposal: Proposal
    robot: RobotDraft
    views: Views
    control_hz: Guess | None
    task: Guess | None
    roomier: str = ""
    language: tuple[str, ...] = ()


def make_draft(
    description: Description, episodes: Sequence[NativeEpisode], name: str = "", layout: str = LAYOUT
) -> Draft:
    """Returns what can be said of an input in a layout. Raises UsageError where no key looks like a robot's."""
    known = find_known(description, episodes)
    # A shipped entry says what its keys are in its robot's layout.
    if known.sure is not None and layout != LAYOUT:
        known = replace(known, sure=None)
    proposal = (
        as_proposal(known.sure, description, episodes)
        if known.sure is not None
        else propose(description, episodes, layout)
    )
    if proposal is None:
        keys = ", ".join(f"{f.key} [{f.width}]" for f in description.features if not f.is_bookkeeping) or "none"
        raise UsageError(f"{description.source}: expected keys that look like arms or a base, found {keys}")
    name = name or free_name(name_of(description.source))
    if known.is_of_logs:
        return _draft_of_logs(description, known, proposal, name)
    robot = choose_robot(description, proposal, f"{name}_robot")
    if known.sure is not None and not description.robots:
        robot = RobotDraft(
            name=known.sure.robot, why=f"as the shipped entry {known.sure.name} has it; is it this robot?"
        )
    return Draft(
        name=name,
        description=description,
        known=known,
        proposal=proposal,
        robot=robot,
        views=_views(description, known, proposal),
        control_hz=_rate(description, known),
        task=None if description.texts else ask("the instruction of its episodes; none is stored"),
        language=language_keys(episodes),
        roomier=_roomier(description, episodes, proposal),
    )


def _roomier(description: Description, episodes: Sequence[NativeEpisode], proposal: Proposal) -> str:
    """The first other layout in which fewer dims are left out; "" if there is none."""
    for layout in load_layouts() if proposal.misfits else ():
        other = propose(description, episodes, layout) if layout != proposal.layout else None
        if other and sum(map(len, other.misfits)) < sum(map(len, proposal.misfits)):
            return layout
    return ""


def _draft_of_logs(description: Description, known: Known, proposal: Proposal, name: str) -> Draft:
    """An entry that takes robot, parts and cameras from each log, and the robot where the registry lacks it."""
    robot = RobotDraft(name=FROM_LOG, why="")
    if not known.reads_logs:
        stated = description.robots[0] if description.robots else f"{name}_robot"
        robot = replace(choose_robot(replace(description, robots=()), proposal, stated), why="named so by the logs")
    return Draft(
        name=name,
        description=description,
        known=known,
        proposal=replace(proposal, state={}, action={}, widths={}),
        robot=robot,
        views=choose_views(description.cameras, has_two_arms="arm1" in proposal.action),
        control_hz=None,
        task=None if description.texts else ask("the instruction of its episodes; none is stored"),
    )


def free_name(name: str) -> str:
    """The name, or one beside it where a shipped entry has it already."""
    return f"own_{name}" if name in load_adapters() or name in load_embodiments() else name


def name_of(source: str) -> str:
    """A name for the entry: that of the input's folder, or the one above a version's.

    >>> name_of("data/My set/1.0.0"), name_of("logs/so101.zarr.zip")
    ('my_set', 'so101')
    """
    path = as_storage_path(source)
    names = [part for part in str(path).replace("\\", "/").split("/") if part not in ("", ".", "..")]
    while len(names) > 1 and re.fullmatch(r"\d+\.\d+\.\d+", names[-1]):
        names.pop()
    stem = (names[-1] if names else "own").split(".")[0]
    slug = re.sub(r"\W+", "_", stem).strip("_").lower() or "own"
    return slug if slug[0].isalpha() else f"set_{slug}"


def language_keys(episodes: Sequence[NativeEpisode]) -> tuple[str, ...]:
    """The native keys that a reader said it took instructions from, where an entry has to name them."""
    texts = [episode.inferred.get("language", "") for episode in episodes]
    found = (re.search(r"instructions are taken from (\S+),", text) for text in texts)
    return tuple(dict.fromkeys(match[1] for match in found if match))


def _views(description: Description, known: Known, proposal: Proposal) -> Views:
    if known.sure is not None:
        there = {camera.name for camera in description.cameras if not camera.why_left_out}
        slots = {
            slot: (next(name for name in names if name in there), f"as {known.sure.name} has it")
            for slot, names in known.sure.all_cameras.items()
            if there & set(names)
        }
        if slots:
            taken = {name for name, _ in slots.values()}
            left_out = tuple(camera.name for camera in description.cameras if camera.name not in taken)
            return Views(slots=slots, left_out=left_out)
    return choose_views(description.cameras, has_two_arms="arm1" in proposal.action)


def _rate(description: Description, known: Known) -> Guess | None:
    if "control_hz" in description.entry:
        return None
    entry_hz = known.sure.control_hz if known.sure is not None else None
    stated = description.control_hz
    if stated and entry_hz and abs(stated / entry_hz - 1) < 0.1:
        return Guess(value=entry_hz, why=f"as the shipped entry {known.sure.name if known.sure else ''} has it")
    if description.control_hz is not None:
        if description.rate_known.startswith("stated"):
            return None
        return Guess(value=description.control_hz, why=f"the rate {description.rate_known}")
    if known.sure is not None and known.sure.control_hz:
        return Guess(
            value=known.sure.control_hz, why=f"as the shipped entry {known.sure.name} has it; nothing states it"
        )
    return ask("steps a second; neither the source nor time stamps say")


def render(draft: Draft, file: str = "FILE") -> str:
    """The registry file, to be stored as `file`; its head names the lines of open questions."""
    lines = [*_blocks(draft), *_robots(draft), *_adapter(draft)]
    head_of = _head(draft, [], file)
    questions = [len(head_of) + i + 1 for i, line in enumerate(lines) if _asks(line)]
    return "\n".join([*_head(draft, questions, file), *lines]) + "\n"


def convert_command(draft: Draft, file: str) -> str:
    """The command that converts the input by the draft."""
    d = draft.description
    source = shlex.quote(d.source)
    return (
        f"embodimix convert {d.format} {source} data --name {draft.name} --version 1.0.0 --adapter {shlex.quote(file)}"
    )


def count_questions(text: str) -> int:
    """How many lines of a draft hold an open question."""
    return sum(_asks(line) for line in text.splitlines())


def _asks(line: str) -> bool:
    return f'"{OPEN_QUESTION}"' in line and not line.lstrip().startswith("#")


def _head(draft: Draft, questions: Sequence[int], file: str) -> list[str]:
    d = draft.description
    numbers = ", ".join(map(str, questions))
    many = f'{counted(questions, "open question")}, each a "?": line {numbers}.'
    asked = many if questions else "No question is open; read the reasons all the same."
    return [
        f"# Drafted by embodimix inspect from {d.source} ({d.dialect or d.format}).",
        f"# {asked}",
        f"# Then: {convert_command(draft, file)}",
        "schema: embodimix.registry/v1",
        "",
    ]


def _blocks(draft: Draft) -> list[str]:
    """Anchors for what several parts share, so that one line answers one question."""
    lines = []
    if _asks_for_drive(draft) and draft.control_hz:
        why = f"{draft.proposal.control_mode.why}. {draft.control_hz.why}"
        lines += [*_comment(why, 2), '  drive: &drive {control_mode: "?", control_hz: &rate "?"}']
    elif draft.control_hz and draft.control_hz.is_open:
        lines += [*_comment(draft.control_hz.why, 2), '  rate: &rate "?"']
    for name, asked in _shared(draft.proposal).items():
        keys = ", ".join(f"{key}: {_scalar(guess.value)}" for key, guess in asked.guesses.items())
        lines += [*_comment(asked.why, 2), f"  {name}: &{name} {{{keys}}}"]
    return ["blocks:", *lines, ""] if lines else []


def _asks_for_drive(draft: Draft) -> bool:
    """Whether both the control mode and the rate are open, which one line then answers."""
    return draft.proposal.control_mode.is_open and draft.control_hz is not None and draft.control_hz.is_open


@dataclass(frozen=True, kw_only=True)
class _Shared:
    """Values that several parts have in common: an anchor, its parts, and its comment."""

    guesses: Mapping[str, Guess]
    why: str
    parts: tuple[tuple[str, str], ...]


def _shared(proposal: Proposal) -> dict[str, _Shared]:
    """The anchors: grippers of one range with one question, and what else is asked of several parts alike."""
    groups: dict[tuple[object, ...], list[tuple[str, str, PartDraft]]] = {}
    for side in ("state", "action"):
        for part, draft in getattr(proposal, side).items():
            if part.startswith("gripper"):
                if any(guess.is_open for guess in draft.guesses.values()):
                    groups.setdefault(("gripper", draft.ends, draft.is_opposite), []).append((side, part, draft))
                continue
            for key, guess in draft.guesses.items():
                if guess.is_open:
                    groups.setdefault((key, guess.why), []).append((side, part, draft))
    found: dict[str, _Shared] = {}
    for (kind, *_), members in groups.items():
        base = "gripper" if kind == "gripper" else _ANCHORS.get(str(kind), str(kind))
        name = base if base not in found else f"{base}_{sum(known.startswith(base) for known in found) + 1}"
        parts = tuple((side, part) for side, part, _ in members)
        if kind == "gripper":
            found[name] = _Shared(guesses=_ends_of(members), why=_gripper_question(members), parts=parts)
        else:
            guess = members[0][2].guesses[str(kind)]
            found[name] = _Shared(guesses={str(kind): guess}, why=guess.why, parts=parts)
    return found


def _ends_of(members: Sequence[tuple[str, str, PartDraft]]) -> dict[str, Guess]:
    return {key: members[0][2].guesses[key] for key in ("open", "closed")}


def _gripper_question(members: Sequence[tuple[str, str, PartDraft]]) -> str:
    low, high = members[0][2].ends or (0.0, 1.0)
    told = (f"{', '.join(draft.names or draft.sources)}: {draft.guesses['open'].why}" for _, _, draft in members)
    seen = "; ".join(dict.fromkeys(told))
    if low == high:
        return f"It never moved from {low:g} in what was read: which values are open and closed? {seen}"
    only_seen = "" if (low, high) in USUAL_ENDS else " These are as far as was seen: the hand's own limits are better."
    against = " It runs against the state." if any(draft.is_opposite for _, _, draft in members) else ""
    return (
        f"Which end is open? Either open: {high:g}, closed: {low:g} or open: {low:g}, closed: {high:g}.{only_seen}"
        f"{against} Look at a picture with the hand open. {seen}"
    )


def _robots(draft: Draft) -> list[str]:
    robot = draft.robot
    if robot.slots is None:
        return []
    d = draft.description
    stated = ", ".join(d.robots) or "a robot that the source does not name"
    lines = [
        *_comment(f"{robot.why}. If it is one of those, name it below and remove this entry.", 2),
        f"  {robot.name}:",
    ]
    lines.append(f"    description: {_scalar(stated)}")
    lines.append(f"    control_hz: {_rate_value(draft)}")
    lines.append(f"    cameras: [{', '.join(draft.views.slots) or 'base_0_rgb'}]")
    if robot.base != "none":
        lines.append(f"    base: {robot.base}")
    for family, sides in robot.slots.items():
        listed = [f"layout: {robot.layout}"] if robot.layout != LAYOUT else []
        for side, slots in sides.items():
            listed.append(f"{side}: {{{', '.join(f'{part}: {numbers}' for part, numbers in slots.items())}}}")
        lines.append(f"    {family}: {{{', '.join(listed)}}}")
    return ["robots:", *lines, ""]


def _rate_value(draft: Draft) -> str:
    """The rate as YAML: of the draft, or the anchor of the question, or what the source states."""
    if draft.control_hz is None:
        stated, _ = draft.description.entry.get("control_hz", (_scalar(draft.description.control_hz), ""))
        return stated
    return "*rate" if draft.control_hz.is_open else _scalar(draft.control_hz.value)


def _adapter(draft: Draft) -> list[str]:
    d, p = draft.description, draft.proposal
    lines = ["adapters:", f"  {draft.name}:", f"    title: {_scalar(_title(draft))}", f"    format: {d.format}"]
    robot = FROM_LOG if draft.known.is_of_logs else draft.robot.name
    lines += _value("robot", Guess(value=robot, why="" if draft.robot.slots else draft.robot.why))
    if _asks_for_drive(draft):
        lines.append("    <<: *drive")
    else:
        lines += _value("control_mode", p.control_mode)
        if draft.control_hz:
            why = "" if draft.control_hz.is_open else draft.control_hz.why
            lines += [*_comment(why, 4), f"    control_hz: {_rate_value(draft)}"]
    lines += _value("units", p.units)
    for key, (text, why) in d.entry.items():
        lines += [*_comment(why, 4), f"    {key}: {text}"]
    lines += _cameras(draft.views) if draft.robot.name != FROM_LOG and not draft.known.is_of_logs else []
    shared = _shared(p)
    for side in ("state", "action"):
        parts = getattr(p, side)
        lines += [f"    {side}:", *_parts(side, parts, shared)] if parts else []
    if p.widths:
        listed = ", ".join(f"{_scalar(key)}: {width}" for key, width in p.widths.items())
        left = f"Left out: {'; '.join(p.misfits)}." if p.misfits else "Dims beyond those above are left out."
        lines += [*_comment(left, 4), f"    widths: {{{listed}}}"]
    if draft.language:
        lines.append(f"    language: [{', '.join(map(_scalar, draft.language))}]")
    lines += _value("task", draft.task) if draft.task else []
    return lines


def _title(draft: Draft) -> str:
    return f"{draft.name}, {draft.description.dialect or draft.description.format}"


def _value(key: str, guess: Guess) -> list[str]:
    return [*_comment(guess.why, 4), f"    {key}: {_scalar(guess.value)}"]


def _cameras(views: Views) -> list[str]:
    if not views.slots:
        return []
    lines = []
    if views.left_out:
        lines += _comment(f"Cameras that fill no slot: {', '.join(views.left_out)}.", 4)
    lines.append("    cameras:")
    for slot, (name, why) in views.slots.items():
        lines += [*_comment(why, 6), f"      {slot}: {_scalar(name)}"]
    return lines


def _parts(side: str, parts: Mapping[str, PartDraft], shared: Mapping[str, _Shared]) -> Iterator[str]:
    said = ""
    for part, draft in parts.items():
        anchors = [name for name, common in shared.items() if (side, part) in common.parts]
        own = {
            key: guess
            for key, guess in draft.guesses.items()
            if not any(key in shared[name].guesses for name in anchors)
        }
        reasons = dict.fromkeys([draft.why, *(guess.why for guess in own.values() if guess.why)])
        text = "; ".join(reason for reason in reasons if reason)
        if text != said:
            yield from _comment(text, 6)
        said = text
        merged = [f"<<: *{anchors[0]}"] if len(anchors) == 1 else []
        merged = [f"<<: [{', '.join(f'*{name}' for name in anchors)}]"] if len(anchors) > 1 else merged
        sources = [_scalar(source) for source in ((draft.key,) if draft.names else draft.sources)]
        fields = [*merged, f"from: {sources[0] if len(sources) == 1 else '[' + ', '.join(sources) + ']'}"]
        fields += [f"{key}: {_scalar(guess.value)}" for key, guess in own.items()]
        fields += [f"names: [{', '.join(map(_scalar, draft.names))}]"] if draft.names else []
        fields += ["next: true"] if draft.is_next else []
        yield f"      {part}: {{{', '.join(fields)}}}"


def _comment(text: str, indent: int) -> list[str]:
    pad = " " * indent + "# "
    return (
        textwrap.wrap(text, _WIDTH, initial_indent=pad, subsequent_indent=pad, break_on_hyphens=False) if text else []
    )


def _scalar(value: object) -> str:
    """A value as YAML: plain where nothing in it can be misread, else in quotes."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return f"{value:g}"
    if isinstance(value, list):
        return f"[{', '.join(map(_scalar, value))}]"
    text = str(value)
    is_plain = _PLAIN.fullmatch(text) and not text.endswith(" ") and text.lower() not in _WORDS
    return text if is_plain else json.dumps(text, ensure_ascii=False)
