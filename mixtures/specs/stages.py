"""What a training stage changes in a mixture spec: overrides laid over the document before it is read.

1. `seed`, `draws` and `corrupt_images` of a stage replace the spec's; `weighting`, `language`, `kinds` and
   `group_multipliers` replace key by key, and what a stage leaves out stays.
2. `filters` of a stage come after the spec's own, so that a stage narrows and never widens.
3. `groups` changes groups by their path (`in_house`, or `open_data/bridge` for a group inside one, included or not)
   by the same two rules. `leave_out` takes groups out with all that they hold.
4. The result is a spec like any other: fixed shares must still fit, and groups without one divide what is left.

Validation and action have no overrides: an episode that `fraction` holds out in one stage is held out in all, and a
sample looks alike, so that one policy can go through every stage.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipelines.contract.document import MarkedValue, SpecError
from pipelines.contract.errors import nearest

REPLACED = ("seed", "draws", "corrupt_images", "share", "multiplier", "max_epochs", "min_share")
MERGED = ("language", "kinds", "group_multipliers")


@dataclass(frozen=True, kw_only=True)
class GroupChanges:
    """What a stage changes in groups, by path."""

    overrides: Mapping[str, MarkedValue] = field(default_factory=dict)
    left_out: Mapping[str, MarkedValue] = field(default_factory=dict)

    def check(self, paths: list[str]) -> None:
        """Raises SpecError for a path that no group has."""
        for path, named in {**self.overrides, **self.left_out}.items():
            if path not in paths:
                raise SpecError(
                    named.mark, f"the stage names a group {path!r} that is not there. {nearest(path, paths)}"
                )


def lay_over(document: MarkedValue, stage: str | None) -> tuple[MarkedValue, GroupChanges]:
    """The spec as a stage has it, and what is to be changed in its groups; nothing for one that it does not name."""
    stages = document.plain("stages", {})
    if stage is None or stage not in stages:
        return document, GroupChanges()
    override = stages[stage]
    left_out = {item.value: item for item in override.plain("leave_out", [])}
    return changed(document, override), GroupChanges(overrides=override.plain("groups", {}), left_out=left_out)


def changed(document: MarkedValue, override: MarkedValue | None, keys: Sequence[str] | None = None) -> MarkedValue:
    """A mapping of the spec with an override's values (or those of `keys`), which keep their marks."""
    if override is None:
        return document
    values: dict[str, MarkedValue] = dict(document.value)
    for key, value in override.value.items():
        if keys is not None and key not in keys:
            continue
        before = values.get(key)
        if key in REPLACED or (before is None and key in (*MERGED, "weighting", "filters")):
            values[key] = value
        elif before is None:
            continue  # changes of groups are laid over the groups, not over the spec
        elif key in MERGED:
            values[key] = _merged(before, value, before.value)
        elif key == "weighting":
            says_power = "alpha" in value or "temperature" in value
            kept = {k: v for k, v in before.value.items() if not (says_power and k in ("alpha", "temperature"))}
            values[key] = _merged(before, value, kept)
        elif key == "filters":
            values[key] = replace(value, value=[*before.value, *value.value])
    marks = {**document.key_marks, **{key: mark for key, mark in override.key_marks.items() if key in values}}
    return replace(document, value=values, key_marks=marks)


def _merged(before: MarkedValue, value: MarkedValue, kept: Mapping[str, Any]) -> MarkedValue:
    return replace(value, value={**kept, **value.value}, key_marks={**before.key_marks, **value.key_marks})
