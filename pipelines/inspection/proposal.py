"""How an input's columns can fill the slots: control mode, parts, units and polarity, each with its reason."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pipelines.contract.embodiments import load_embodiments
from pipelines.contract.layouts import LONG_ARM, Layout, get_layout
from pipelines.contract.native import NativeEpisode
from pipelines.contract.slots import LAYOUT
from pipelines.inspection.description import Description
from pipelines.inspection.evidence import (
    USUAL_ENDS,
    Guess,
    Relation,
    ask,
    describe_ends,
    gripper_ends,
    has_unit_quaternion,
    joint_units,
    relate,
    rotation_form,
    runs_against,
    span_of,
)
from pipelines.inspection.parts import Arm, Bodies, Body, Family, find_bodies
from pipelines.inspection.roles import Block
from pipelines.mapping.dim_names import words_of

_REACH_M = 3.0
# Bases turn slower than this (rad/s); what is faster is in degrees.
_MOST_TURN_RAD_S = 6.5
# A slope within this factor of one is one; a delay between command and motion makes it inexact.
_ABOUT = 2.0
_KINDS = {
    "vector": "dims that nothing names",
    "joints": "joints, since poses are taken",
    "hand": "a hand",
    "leg": "legs",
    "head": "a head",
    "torso": "a waist",
}
_OPENS = frozenset("width opening aperture open openness gap distance".split())
_CLOSES = frozenset("closed close closedness closing".split())
_JOINT_WORDS = frozenset("joint joints".split())
_POSE_WORDS = frozenset("eef effector tcp cartesian pose xyz position quaternion rpy".split())


@dataclass(frozen=True, kw_only=True)
class PartDraft:
    """One part of an entry: native dims as an entry selects them, and guesses about what they mean, by key.

    names: of the dims, where they and not the columns' numbers are to choose them. is_opposite: of an action's gripper,
    whether it rises where the state's falls.
    """

    sources: tuple[str, ...]
    width: int
    guesses: Mapping[str, Guess] = field(default_factory=dict)
    why: str = ""
    ends: tuple[float, float] | None = None
    names: tuple[str, ...] = ()
    is_next: bool = False
    is_opposite: bool = False

    @property
    def key(self) -> str:
        """The native key of the first dims."""
        return self.sources[0].partition("[")[0]


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What an adapter entry could say. misfits: what has no slot, in words; others: readings that were not taken."""

    control_mode: Guess
    units: Guess
    state: Mapping[str, PartDraft]
    action: Mapping[str, PartDraft]
    widths: Mapping[str, int] = field(default_factory=dict)
    misfits: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    layout: str = LAYOUT

    @property
    def n_open(self) -> int:
        """How many questions are open; those of state and action that are the same count once."""
        parts = [*self.state.values(), *self.action.values()]
        asked = {
            (part.ends, part.is_opposite) if part.ends else (key, guess.why)
            for part in parts
            for key, guess in part.guesses.items()
            if guess.is_open
        }
        return len(asked) + self.control_mode.is_open + self.units.is_open


def propose(description: Description, episodes: Sequence[NativeEpisode], layout: str = LAYOUT) -> Proposal | None:
    """Returns the best reading of an input's keys as a robot in a layout; None where no key looks like one."""
    room = get_layout(layout)
    states, actions = find_bodies(description, episodes, "state"), find_bodies(description, episodes, "action")
    has_action = bool(actions.by_family)
    if not (has_action or states.by_family):
        return None
    action_family, state_family = _choose(states, actions, room)
    action = (actions if has_action else states)[action_family]
    state = states[state_family] if state_family in states else None
    relation = _relation(episodes, state, action) if has_action else Relation(kind="absolute")
    family = _settle(description, episodes, (action_family, state_family), (action, state), states)
    mode, units, scale = _mode(family, relation, description.control_hz, has_action)
    builder = _Builder(episodes=episodes, description=description, layout=room)
    action_parts = builder.parts(action, family, mode, scale, is_next=not has_action, is_action=True)
    state_parts = builder.parts(state, family, mode, None, is_next=False, is_action=False) if state else {}
    state_parts, action_parts = _with_ends_of(state_parts, action_parts), _with_ends_of(action_parts, state_parts)
    if state and has_action:
        action_parts = builder.with_turned_grippers(action_parts, action, state)
    misfits: dict[str, list[str]] = {}
    for kind, columns in (*builder.misfits(state, family), *builder.misfits(action, family)):
        misfits.setdefault(kind, []).append(columns)
    return Proposal(
        control_mode=mode,
        units=units,
        state=state_parts,
        action=action_parts,
        widths=builder.widths([*state_parts.values(), *action_parts.values()]),
        misfits=tuple(f"{kind}: {', '.join(dict.fromkeys(columns))}" for kind, columns in misfits.items()),
        others=_others(states, actions, action_family, room),
        layout=layout,
    )


def _with_ends_of(parts: Mapping[str, PartDraft], others: Mapping[str, PartDraft]) -> dict[str, PartDraft]:
    """The parts, whose grippers have one scale with the other side's.

    A gripper that never moved has the ends of the other side's, if it is at one of them. Ends that are only as far as
    was seen are those of both sides together: one hand has one range, however far its command went.
    """
    found = dict(parts)
    for name, part in parts.items():
        ends = others[name].ends if name in others else None
        if not (part.ends and ends):
            continue
        if part.ends[0] == part.ends[1]:
            ends = ends if part.ends[0] in ends else part.ends
        elif part.ends in USUAL_ENDS or ends in USUAL_ENDS or not _overlap(part.ends, ends):
            continue
        else:
            ends = (min(part.ends[0], ends[0]), max(part.ends[1], ends[1]))
        found[name] = replace(part, ends=ends)
    return found


def _overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether two ranges share most of what they cover together."""
    common = min(one[1], other[1]) - max(one[0], other[0])
    return common > 0.5 * (max(one[1], other[1]) - min(one[0], other[0]))


def _choose(states: Bodies, actions: Bodies, room: Layout) -> tuple[Family, Family]:
    """The families of action and state: joints where both have them and they fit, else poses, else vectors."""
    own = actions if actions.by_family else states
    order: tuple[Family, ...] = ("joint", "ee", "unknown")
    if "joint" in own and "ee" in own and not _fits(own["joint"], room) and _fits(own["ee"], room):
        order = ("ee", "joint", "unknown")
    family = next(
        (f for f in order if f in own and (f in states or "unknown" in states)), next(f for f in order if f in own)
    )
    if family in states:
        return family, family
    if family == "unknown":
        return family, next((f for f in order if f in states), "unknown")
    return family, "unknown"


def _fits(body: Body, room: Layout) -> bool:
    return body.family == "ee" or all(arm.width <= _most(body, room) for arm in body.arms.values())


def _most(body: Body, room: Layout) -> int:
    """The most joints that an arm may have."""
    return LONG_ARM if len(body.arms) == 1 else len(room.parts["arm0"])


def _settle(
    description: Description,
    episodes: Sequence[NativeEpisode],
    families: Sequence[Family],
    bodies: Sequence[Body | None],
    states: Bodies,
) -> Family:
    """What arms are, where a side's keys say it, or the source's words or the numbers do; else unknown.

    No arm reaches three metres, seven numbers that hold no quaternion are joints, and a vector beside a key of joints
    is no second copy of them.
    """
    for family in families:
        if family != "unknown":
            return family
    for block in (arm.blocks[0] for body in bodies if body for arm in body.arms.values()):
        if (stated := family_in_words(block.feature.about)) is not None:
            return stated
        low, high = block.feature.low[block.start : block.start + 3], block.feature.high[block.start : block.start + 3]
        if max(np.nanmax(np.abs(low)), np.nanmax(np.abs(high))) > _REACH_M:
            return "joint"
        if block.width == 7 and not has_unit_quaternion(episodes, block.key, block.start + 3):
            return "joint"
    return "ee" if "joint" in states and families[-1] == "unknown" else "unknown"


def family_in_words(about: str) -> Family | None:
    """What a source's description says of a vector; None where it says nothing, or is the builder template's own text.

    >>> family_in_words("6x joint angles in rad, 1x gripper")
    'joint'
    """
    words = set(words_of(about))
    if "door opening angle" in about or "terminate episode" in about:
        return None
    is_joint, is_pose = bool(words & _JOINT_WORDS), bool(words & _POSE_WORDS)
    return None if is_joint == is_pose else "joint" if is_joint else "ee"


def _relation(episodes: Sequence[NativeEpisode], state: Body | None, action: Body) -> Relation:
    for number, arm in action.arms.items():
        own = state.arms.get(number) if state else None
        if own and own.blocks and len(own.blocks) == len(arm.blocks) and own.width == arm.width:
            return relate(episodes, own.blocks[0], arm.blocks[0])
    return Relation(kind="", why="state and action have no arm of equal width to compare")


def _mode(family: Family, relation: Relation, hz: float | None, has_action: bool) -> tuple[Guess, Guess, Guess | None]:
    """Control mode, units, and the scale of the action's arm, if it needs one."""
    metric = Guess(value="metric", why="")
    why = relation.why if has_action else "no key holds actions: the next state stands in for them"
    if relation.kind == "absolute":
        choices = {"joint": "joint_position", "ee": "ee_absolute"}
        if family in choices:
            return Guess(value=choices[family], why=why), metric, None
        return ask(f"{why}; joint_position or ee_absolute"), metric, None
    if relation.kind == "delta":
        return _mode_of_changes(family, relation, hz)
    what = {"joint": "joint_position or joint_velocity", "ee": "ee_delta or ee_absolute"}
    choices_of = what.get(family, "joint_position, joint_velocity, ee_delta or ee_absolute")
    return ask(f"{why}; {choices_of}"), metric, None


def _mode_of_changes(family: Family, relation: Relation, hz: float | None) -> tuple[Guess, Guess, Guess | None]:
    metric = Guess(value="metric", why="")
    slope = abs(relation.slope)
    is_per_step = 1 / _ABOUT < slope < _ABOUT
    is_per_second = bool(hz) and 1 / _ABOUT < slope / (hz or 1) < _ABOUT and not is_per_step
    scale: Guess | None = None
    if family == "joint":
        if is_per_step and hz:
            scale = Guess(value=round(hz, 3), why="changes a step, times the rate: rad/s")
        elif not is_per_second:
            scale = ask("what turns an action into rad/s; write units: native and 1 where nobody knows")
        return Guess(value="joint_velocity", why=relation.why), metric, scale
    if is_per_second and hz:
        scale = Guess(value=round(1 / hz, 6), why="speeds: the change of a step is one over the rate")
    elif not is_per_step:
        scale = ask("what turns an action into m and rad a step; write units: native and 1 where nobody knows")
    if family == "ee":
        return Guess(value="ee_delta", why=relation.why), metric, scale
    return ask(f"{relation.why}; ee_delta or joint_velocity"), metric, scale


def _others(states: Bodies, actions: Bodies, taken: Family, room: Layout) -> tuple[str, ...]:
    """Readings that fit, too, such as end-effector mode where joints were taken."""
    own = actions if actions.by_family else states
    found = []
    names = {"joint": "joint modes", "ee": "end-effector modes"}
    for family, body in own.by_family.items():
        if family != taken and family in names and family in states and _fits(body, room):
            keys = dict.fromkeys(block.key for arm in body.arms.values() for block in arm.blocks)
            found.append(f"{names[family]} fit the {room.n_slots} slots, too: {', '.join(keys)}")
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class _Builder:
    """Turns bodies into the parts of an entry."""

    episodes: Sequence[NativeEpisode]
    description: Description
    layout: Layout

    def parts(
        self, body: Body, family: Family, mode: Guess, scale: Guess | None, is_next: bool, is_action: bool
    ) -> dict[str, PartDraft]:
        parts: dict[str, PartDraft] = {}
        for number, arm in sorted(body.arms.items()):
            if self._is_of_family(arm, family):
                parts[f"arm{number}"] = self._arm(arm, family, mode, scale, is_next, _most(body, self.layout))
            if arm.gripper is not None:
                parts[f"gripper{number}"] = self._gripper(arm.gripper, is_next)
        if body.base and is_action:
            parts["base"] = self._base(body.base)
        for part, block in (("torso", body.torso), ("waist", body.waist), ("head", body.head)):
            if block and self._has_room(part, block):
                parts[part] = self._other(part, block)
        return parts

    def _base(self, block: Block) -> PartDraft:
        guesses: dict[str, Guess] = {}
        turn = _part_of(block, block.width - 1, block.width)
        if any("theta" in words_of(name) for name in turn.names):
            low, high = span_of([turn])
            most = max(abs(low), abs(high))
            # LeKiwi's base turns in degrees a second, and others call rad/s so.
            guesses["units"] = (
                Guess(value="degrees", why=f"it turns by up to {most:.3g} a second, too fast for rad")
                if most > _MOST_TURN_RAD_S
                else ask(f"it turns by up to {most:.3g} a second: rad or degrees")
            )
        return PartDraft(sources=(block.selector,), width=block.width, guesses=guesses, why=_named(block))

    def _other(self, part: str, block: Block) -> PartDraft:
        units = joint_units([block]) if part != "torso" else None
        guesses = {"degrees": units} if units and (units.is_open or units.value) else {}
        return PartDraft(sources=(block.selector,), width=block.width, guesses=guesses, why=_named(block))

    def _is_of_family(self, arm: Arm, family: Family) -> bool:
        """Whether an arm's columns can be of the family; joints are no pose, and are left out of end-effector modes."""
        kind = arm.blocks[0].kind
        return not (family == "ee" and kind == "joints") and not (family == "joint" and kind in ("pose", "position"))

    def _arm(self, arm: Arm, family: Family, mode: Guess, scale: Guess | None, is_next: bool, most: int) -> PartDraft:
        guesses: dict[str, Guess] = {}
        blocks = arm.blocks
        if family == "joint":
            is_speed = mode.value == "joint_velocity" and scale is not None
            units = joint_units(blocks) if not is_speed else None
            if units and (units.is_open or units.value):
                guesses["degrees"] = units
            blocks = tuple(_first(blocks, most))
        else:
            guesses["form"] = self._form(blocks, family)
            low, high = span_of([_part_of(blocks[0], 0, 3)])
            if (far := max(abs(low), abs(high))) > _REACH_M and scale is None and family == "ee":
                guesses["units"] = ask(f"positions reach {far:.4g}, beyond any arm in m: mm, cm or m")
        if scale is not None:
            guesses["scale"] = scale
        why, names = _named(arm.blocks[0]), self._names(blocks)
        if names and family == "joint":
            names, order = in_order(names)
            why = f"{why}; {order}"
        if family == "joint" and "degrees" not in guesses and mode.value != "joint_velocity":
            why = f"{why}; {joint_units(arm.blocks).why}"
        return PartDraft(
            sources=tuple(block.selector for block in blocks),
            width=sum(block.width for block in blocks),
            guesses=guesses,
            why=why,
            names=names,
            is_next=is_next,
        )

    def _names(self, blocks: Sequence[Block]) -> tuple[str, ...]:
        """The names by which an entry is to choose dims; of topics, whose messages may come in another order."""
        is_named = self.description.format == "bag" and len(blocks) == 1 and blocks[0].is_named
        return blocks[0].names if is_named else ()

    def _form(self, blocks: Sequence[Block], family: Family) -> Guess:
        width = sum(block.width for block in blocks)
        words = {
            word for block in blocks for word in [*words_of(block.key), *(w for n in block.names for w in words_of(n))]
        }
        rotation = blocks[1] if len(blocks) > 1 else _part_of(blocks[0], 3, blocks[0].width)
        if family == "unknown":
            return ask(f"{width} dims without names: joints, xyz_rpy, xyz_rotvec or xyz_quat_xyzw (7 dims)")
        if width == 3 or len(blocks) == 1 and rotation.width == 0:
            return Guess(value="xyz", why="three dims: a position without rotation")
        if rotation.width == 4:
            return _quaternion_form(rotation, words)
        return rotation_form(self.episodes, rotation, words)

    def _gripper(self, block: Block, is_next: bool) -> PartDraft:
        words = {*words_of(block.key), *(word for name in block.names for word in words_of(name))}
        low, high = gripper_ends(block, is_joint=bool(_JOINT_WORDS & words))
        seen = describe_ends(self.episodes, block)
        meant = "open" if words & _OPENS and not words & _CLOSES else ""
        meant = "closed" if words & _CLOSES and not words & _OPENS else meant
        # What was seen of a hand in m or ticks is no more than it was opened: its own ends are for a person to say.
        if meant and (low, high) in USUAL_ENDS:
            why = f"its name says how far it is {meant}; values run over {low:g} to {high:g}"
            opens = Guess(value=high if meant == "open" else low, why=why)
            closes = Guess(value=low if meant == "open" else high, why="")
        else:
            opens = closes = ask(f"its name says how far it is {meant}; {seen}" if meant else seen)
        return PartDraft(
            sources=(block.selector,),
            width=block.width,
            guesses={"open": opens, "closed": closes},
            why=_named(block),
            ends=(low, high),
            names=self._names([block]),
            is_next=is_next,
        )

    def with_turned_grippers(self, parts: Mapping[str, PartDraft], action: Body, state: Body) -> dict[str, PartDraft]:
        """The action's parts, with the grippers marked that rise where the state's fall."""
        found = dict(parts)
        for number, arm in action.arms.items():
            own = state.arms.get(number)
            name = f"gripper{number}"
            if own and own.gripper and arm.gripper and name in parts:
                is_opposite = runs_against(self.episodes, own.gripper, arm.gripper)
                found[name] = replace(parts[name], is_opposite=is_opposite)
        return found

    def misfits(self, body: Body | None, family: Family) -> Iterator[tuple[str, str]]:
        """What has no slot and its columns: joints beyond an arm's, legs, heads, hands, what nothing names or moves."""
        if body is None:
            return
        most = _most(body, self.layout)
        for arm in body.arms.values():
            if family == "joint" and arm.width > most:
                block = arm.blocks[0]
                names = block.names or tuple(f"{block.key}[{i}]" for i in range(block.start, block.stop))
                yield f"joints beyond the {most} of an arm", ", ".join(names[most:])
        rest = [("torso", body.torso), ("waist", body.waist), ("head", body.head)]
        left_out = [block for part, block in rest if block and not self._has_room(part, block)]
        for block in (*body.others, *left_out):
            yield _kind_of(block), f"{block.key}[{block.start}:{block.stop}]"

    def _has_room(self, part: str, block: Block) -> bool:
        """Whether a part has slots enough and is more than zeros that a logger filled in."""
        return block.width <= len(self.layout.parts.get(part, ())) and span_of([block]) != (0.0, 0.0)

    def widths(self, parts: Sequence[PartDraft]) -> dict[str, int]:
        """The native width of every key of which some columns are left out."""
        taken: dict[str, int] = {}
        for part in parts:
            for source in part.sources:
                key, _, span = source.partition("[")
                start, _, stop = span.rstrip("]").partition(":")
                taken[key] = max(taken.get(key, 0), int(stop or int(start) + 1) if span else 0)
        widths = {feature.key: feature.width for feature in self.description.features}
        return {key: widths[key] for key, end in taken.items() if end and end < widths.get(key, 0)}


def _quaternion_form(rotation: Block, words: set[str]) -> Guess:
    last = [words_of(name)[-1] for name in rotation.names] if rotation.names else []
    if last and last[0] in ("qw", "w") or "wxyz" in words:
        return Guess(value="xyz_quat_wxyz", why="its names begin with w")
    if last and last[-1] in ("qw", "w") or "xyzw" in words:
        return Guess(value="xyz_quat_xyzw", why="its names end with w")
    return ask(
        "four numbers of length one, a quaternion: xyz_quat_xyzw (ROS, robosuite, scipy) or xyz_quat_wxyz (MuJoCo)"
    )


def in_order(names: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """The names of an arm's joints from its base to its tool, as far as that is known, and how.

    Drivers of ROS publish joints by the alphabet, an elbow before a shoulder.

    >>> in_order(["axis_2", "axis_1"])
    (('axis_1', 'axis_2'), 'ordered by their numbers')
    """
    words = ["_".join(words_of(name)) for name in names]
    registry = load_embodiments()
    for robot in (registry[name] for name in registry if not registry.is_own(name)):
        found = [[i for i, name in enumerate(words) if joint in name] for joint in robot.joint_names]
        order = [at[0] for at in found if len(at) == 1]
        if len(order) == len(names) == len(set(order)):
            return tuple(names[i] for i in order), f"ordered from base to tool as {robot.name} has them"
    numbers = [[int(word) for word in words_of(name) if word.isdigit()] for name in names]
    if all(numbers) and len({tuple(found) for found in numbers}) == len(names):
        return tuple(names[i] for i in sorted(range(len(names)), key=lambda i: numbers[i])), "ordered by their numbers"
    return tuple(names), "in the order in which they are published: put them from base to tool"


def _first(blocks: Sequence[Block], most: int) -> list[Block]:
    """The first `most` columns of some blocks."""
    left, kept = most, []
    for block in blocks:
        if left > 0:
            kept.append(_part_of(block, 0, min(left, block.width)))
            left -= block.width
    return kept


def _part_of(block: Block, start: int, stop: int) -> Block:
    return replace(block, start=block.start + start, stop=block.start + min(stop, block.width))


def _named(block: Block) -> str:
    if block.is_named:
        return f"named {', '.join(block.names)}"
    return f"{block.width} of the {block.feature.width} dims of {block.key}, by their number and range"


def _kind_of(block: Block) -> str:
    still = " (always 0)" if span_of([block]) == (0.0, 0.0) else ""
    return _KINDS.get(block.kind, block.kind) + still
