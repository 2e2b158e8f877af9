"""State and action of a published episode: the source's own dims and units, the robot's in slot units, or all slots."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.embodiments import Embodiment
from pipelines.contract.errors import UsageError
from pipelines.contract.layouts import Slots
from pipelines.contract.units import Side, key_units
from pipelines.mapping.adapters import FORMS, Adapter, PartSource, Selector
from pipelines.mapping.native_vectors import (
    check_invertible,
    columns_of,
    filled_slots,
    invert_part,
    native_units,
    part_names,
)
from pipelines.mapping.to_slots import parts_of

Dims = Literal["native", "robot", "slots"]
KEYS: dict[Side, str] = {"state": "observation.state", "action": "action"}
_ADVICE = "publish the robot's dims in m, rad and 0 open .. 1 closed by --dims robot"


@dataclass(frozen=True, kw_only=True)
class PartColumns:
    """The columns of one part in the published vector, and the slots that they come from. source: as the entry has
    it, for native numbers; without, the slots' own are published."""

    slots: tuple[int, ...]
    columns: tuple[int, ...]
    form: str
    source: PartSource | None = None


@dataclass(frozen=True, kw_only=True)
class PublishedVector:
    """One vector of the published dataset: the name and unit of each dim, and the parts that fill them."""

    names: tuple[str, ...]
    units: tuple[str, ...]
    parts: Mapping[str, PartColumns]

    def convert(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Physical slots [t, d] -> float32 [t, k]; a dim of no part is 0."""
        published = np.zeros((len(values), len(self.names)))
        for part in self.parts.values():
            own, columns = values[:, list(part.slots)].astype(np.float64), list(part.columns)
            published[:, columns] = own if part.source is None else invert_part(own, part.source, len(columns))
        return published.astype(np.float32)

    def entry(self, key: str) -> dict[str, Any]:
        """What an adapter entry says of these parts, so that the published dataset converts back."""
        return {name: _part_entry(key, name, part) for name, part in self.parts.items()}


def slot_vector(norm_key: str, parts: Slots, mask: NDArray[np.bool_], side: Side) -> PublishedVector:
    """All slots of the layout, in their order; 0 where the robot has none."""
    units = key_units(norm_key, parts, side, len(mask))
    named = _slot_names(parts)
    columns = {
        part: PartColumns(slots=own, columns=own, form=_form(part, slots, own, norm_key))
        for part, slots in parts.items()
        if (own := tuple(slot for slot in slots if mask[slot]))
    }
    names = tuple(named.get(slot, f"slot_{slot}") if mask[slot] else f"slot_{slot}" for slot in range(len(mask)))
    return PublishedVector(names=names, units=units, parts=columns)


def robot_vector(norm_key: str, parts: Slots, mask: NDArray[np.bool_], side: Side) -> PublishedVector:
    """The robot's own dims part by part, in m, rad (or these per second) and 0 open .. 1 closed."""
    whole = slot_vector(norm_key, parts, mask, side)
    order = [slot for part in whole.parts.values() for slot in part.slots]
    return PublishedVector(
        names=tuple(whole.names[slot] for slot in order),
        units=tuple(whole.units[slot] for slot in order),
        parts={
            name: PartColumns(slots=part.slots, columns=tuple(order.index(slot) for slot in part.slots), form=part.form)
            for name, part in whole.parts.items()
        },
    )


def native_vector(
    norm_key: str, adapter: Adapter, embodiment: Embodiment, mask: NDArray[np.bool_], side: Side
) -> PublishedVector:
    """The dims of the source in its order, units and gripper values, without those that the entry does not use.

    Raises UsageError where the entry cannot be turned round, or does not fill the slots that the episodes have.
    """
    slots: Slots = getattr(embodiment.vectors(adapter.control_mode), side)
    sources = parts_of(adapter, embodiment)[0 if side == "state" else 1]
    filled = {part: filled_slots(source, slots[part]) for part, source in sources.items()}
    there = {part: source for part, source in sources.items() if mask[filled[part]].all()}
    if (found := sorted(slot for part in there for slot in filled[part])) != np.flatnonzero(mask).tolist():
        raise UsageError(
            f"adapter {adapter.name}: {side}: expected an entry that fills the slots of the episodes, "
            f"{np.flatnonzero(mask).tolist()}, found {found}; {_ADVICE}"
        )
    check_invertible(f"adapter {adapter.name}: {side}", there, _ADVICE)
    columns = columns_of(there, slots)
    units = key_units(norm_key, slots, side, len(mask))
    names, named_units = [""] * columns.width, [""] * columns.width
    two_arms = "arm1" in slots
    for part, source in there.items():
        own = columns.of_part[part]
        word = ("left_" if part.endswith("0") else "right_") if two_arms else ""
        for column, name, unit in zip(
            own,
            part_names(part, source, len(own), embodiment.joint_names, word),
            native_units(part, source, len(own), [units[slot] for slot in filled[part]]),
            strict=True,
        ):
            names[column], named_units[column] = name, unit
    return PublishedVector(
        names=tuple(names),
        units=tuple(named_units),
        parts={
            part: PartColumns(slots=tuple(filled[part]), columns=columns.of_part[part], form=source.form, source=source)
            for part, source in there.items()
        },
    )


def _slot_names(parts: Slots) -> dict[int, str]:
    names: dict[int, str] = {}
    for part, slots in parts.items():
        source = PartSource(sources=(Selector(key=part),), form="value")
        names |= dict(zip(slots, part_names(part, source, len(slots)), strict=True))
    return names


def _form(part: str, slots: Sequence[int], filled: Sequence[int], norm_key: str) -> str:
    """How the published numbers of a part are to be read: a pose may have no roll and pitch."""
    if not part.startswith("arm"):
        return "joints" if part in ("waist", "head") else "value"
    if norm_key.split("/")[1].startswith("joint"):
        return "joints"
    numbers = tuple(slots.index(slot) for slot in filled)
    forms = [form for form in ("xyz_rpy", "xyz_yaw", "xyz", "xy") if FORMS[form][1] == numbers]
    if not forms:
        raise UsageError(f"{norm_key}: {part}: expected a pose, found slots {list(filled)}")
    return forms[0]


def _part_entry(key: str, name: str, part: PartColumns) -> dict[str, Any]:
    entry: dict[str, Any] = {"from": [f"{key}[{a}:{b}]" for a, b in _runs(part.columns)]}
    if name.startswith("gripper"):
        values = (0.0, 1.0) if part.source is None else (part.source.open, part.source.closed)
        return entry | {"open": values[0], "closed": values[1]}
    entry["form"] = part.form
    if part.source is not None:
        entry |= {"degrees": True} if part.source.degrees else {}
        entry |= {"units": list(part.source.units)} if part.source.units else {}
        for word, usual in (("scale", 1.0), ("offset", 0.0)):
            value = getattr(part.source, word)
            if value != usual:
                entry[word] = list(value) if isinstance(value, tuple) else value
    return entry


def _runs(columns: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbouring columns as [start, end).

    >>> _runs((0, 1, 2, 9))
    [(0, 3), (9, 10)]
    """
    runs: list[tuple[int, int]] = []
    for column in columns:
        if runs and runs[-1][1] == column:
            runs[-1] = runs[-1][0], column + 1
        else:
            runs.append((column, column + 1))
    return runs
