"""The names that a source gives its dims: columns chosen by them, and orders that contradict an entry."""

import re
from collections.abc import Mapping, Sequence

from pipelines.contract.errors import nearest
from pipelines.contract.native import NativeEpisode, Rejected
from pipelines.mapping.adapters import FORMS, PartSource

_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_GRIPPER = {"gripper", "grip", "finger", "fingers", "claw", "jaw", "hand"}
_AXES = ("x", "y", "z")


def columns_by_name(native: NativeEpisode, key: str, names: Sequence[str]) -> list[int]:
    """Returns the column of each name. Raises Rejected (wrong_names) where the source gives none, or not this one."""
    given = list(native.dim_names.get(key, ()))
    if not given:
        listed = ", ".join(names)
        raise Rejected("wrong_names", f"{key}: expected dims named {listed}; found a source that names no dims")
    for name in names:
        if given.count(name) != 1:
            found = "twice" if name in given else f"{', '.join(given)}. {nearest(name, given)}"
            raise Rejected("wrong_names", f"{key}: expected a dim {name!r} once, found {found}")
    return [given.index(name) for name in names]


def check_names(native: NativeEpisode, parts: Mapping[str, PartSource], joints: Sequence[str] = ()) -> None:
    """Raises Rejected (wrong_names) where an entry's columns contradict the names that the source gives them.

    Contradictions: of two arms, arm0 (the left) holds dims named right, or arm1 left; a gripper is not the dim that is
    named so, or an arm takes it; numbered joints, or x, y, z, or an arm's joints as the robot's registry entry names
    them (`joints`, base to tool) stand in another order. Names that say none of this (motor_a) are not judged.
    """
    has_two_arms = any(part.endswith("1") for part in parts)
    for part, source in parts.items():
        for selector in source.sources:
            given = native.dim_names.get(selector.key, ())
            if source.names or selector.start is None or selector.stop is None or len(given) < selector.stop:
                continue
            taken = list(given[selector.start : selector.stop])
            fault = _contradiction(part, source, taken, given, has_two_arms)
            if not fault and part.startswith("arm") and source.form == "joints":
                fault = _wrong_joints(taken, joints)
            if fault:
                raise Rejected(
                    "wrong_names",
                    f"{part}: {selector}: {fault}; the source names these dims {', '.join(taken)}. "
                    "Choose them by `names:` in the adapter entry",
                )


def check_alike(native: NativeEpisode, state: Mapping[str, PartSource], action: Mapping[str, PartSource]) -> None:
    """Raises Rejected (wrong_names) where state and action name the same dims of a part in two orders.

    Whichever order is the robot's, one of both would land in the wrong slots.
    """
    for part in state.keys() & action.keys():
        first, second = (_names_of(native, side[part]) for side in (state, action))
        if first and second and first != second and sorted(first) == sorted(second):
            raise Rejected(
                "wrong_names",
                f"{part}: expected one order of dims in state and action, found {', '.join(first)} and "
                f"{', '.join(second)}. Choose them by `names:` in the adapter entry",
            )


def _names_of(native: NativeEpisode, source: PartSource) -> list[str]:
    """The names of a part's columns, in its order; none where a column has none."""
    names: list[str] = list(source.names)
    for selector in source.sources if not names else ():
        given = list(native.dim_names.get(selector.key, ()))
        taken = given[slice(selector.start, selector.stop)]
        if not taken or (selector.width is not None and len(taken) != selector.width):
            return []
        names += taken
    return names


def _contradiction(
    part: str, source: PartSource, taken: Sequence[str], given: Sequence[str], has_two_arms: bool
) -> str:
    """What is wrong, as `expected ..., found ...`; empty where nothing is."""
    words = [words_of(name) for name in taken]
    if has_two_arms and part[-1] in "01":
        wrong = "right" if part.endswith("0") else "left"
        if any(wrong in w for w in words):
            return f"expected the {'left' if wrong == 'right' else 'right'} arm's dims, found the {wrong} arm's"
    named_gripper = [bool(_GRIPPER & set(w)) for w in words]
    if part.startswith("gripper") and not any(named_gripper) and any(_GRIPPER & set(words_of(n)) for n in given):
        return "expected the dim that is named as a gripper, found another"
    if part.startswith("arm") and source.form == "joints" and len(taken) > 1 and sum(named_gripper) == 1:
        return "expected an arm's joints, found a gripper among them"
    if source.form in FORMS and source.form.startswith("xyz"):
        axes = [w[-1].lower() for w in words[:3] if w]
        if sorted(axes) == list(_AXES) and axes != list(_AXES):
            return f"expected x, y, z, found {', '.join(axes)}"
    return _wrong_numbers(words) if part.startswith("arm") and source.form == "joints" else ""


def _wrong_joints(taken: Sequence[str], joints: Sequence[str]) -> str:
    """The robot's own joints in another order: UR's driver lists them by the alphabet, the elbow first."""
    names = ["_".join(words_of(name)) for name in taken]
    found = [[i for i, name in enumerate(names) if joint in name] for joint in joints]
    order = [at[0] for at in found if len(at) == 1]
    if len(order) < len(joints) or len(set(order)) < len(order) or order == sorted(order):
        return ""
    return f"expected the robot's joints in the order {', '.join(joints)}, found another"


def _wrong_numbers(words: Sequence[Sequence[str]]) -> str:
    """joint_1, joint_0: names of one stem whose numbers fall."""
    stems = {tuple(word for word in w if not word.isdigit()) for w in words}
    numbers = [[int(word) for word in w if word.isdigit()] for w in words]
    if len(stems) == 1 and all(len(n) == 1 for n in numbers) and numbers != sorted(numbers):
        return "expected joints in the order of their numbers, found " + ", ".join(str(n[0]) for n in numbers)
    return ""


def words_of(name: str) -> list[str]:
    """`main_leftGripper.pos` -> main, left, gripper, pos."""
    return [word.lower() for word in _WORDS.findall(name)]
