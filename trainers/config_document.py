"""The settings of a run as a YAML document: its kinds follow from the config's own fields, so both always agree."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from model.config import Pi0Config, Pi0SmallConfig
from pipelines.contract.document import (
    AnyOf,
    Fields,
    Flag,
    Kind,
    ListOf,
    MarkedValue,
    Maybe,
    Number,
    SpecError,
    TextKind,
    read_document,
)

POLICIES = (Pi0Config, Pi0SmallConfig)


def read_config(path: Path, config: type, what: str) -> dict[str, Any]:
    """Reads a whole config of dataclass type `config` as a plain tree; SpecError names file, line and column.

    Every field without a default is required, so that a file that was cut is not taken for a shorter one.
    """
    return read_document(path, fields_of(config, what, required=True), {}, what).unmarked()


def read_settings(path: Path, config: type, left_out: set[str]) -> dict[str, Any]:
    """Reads some settings, nested or under dotted names, and returns them by dotted name.

    left_out: fields that the command sets. SpecError for one that is given twice in two spellings.
    """
    nested = fields_of(config, "settings of a run", required=False)
    known = {name: kind for name, kind in nested.fields.items() if name not in left_out}
    known |= {name: kind for name, kind in dotted(nested).items() if name.partition(".")[0] not in left_out}
    if "policy" in nested.fields:  # the policy itself is chosen by `model`; its fields can be changed
        known |= {name: kind for name, kind in dotted(nested).items() if name.startswith("policy.")}
        known["policy"] = nested.fields["policy"]
    kind = Fields(about="settings of a run", fields=known)
    flat: dict[str, Any] = {}
    for name, value in _leaves(read_document(path, kind, {}, "settings of a run")):
        if name in flat:
            raise SpecError(value.mark, f"{name!r} is given twice, nested and under its dotted name")
        flat[name] = value.unmarked()
    return flat


def fields_of(config: type, about: str, *, required: bool) -> Fields:
    """The kind of a mapping that holds the fields of a dataclass.

    >>> kind = fields_of(Pi0Config, "a policy", required=True)
    >>> kind.required, kind.fields["horizon"].integer
    (('siglip', 'prefix', 'expert'), True)
    """
    hints = typing.get_type_hints(config)
    needed = [
        field.name
        for field in dataclasses.fields(config)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    return Fields(
        about=about,
        fields={name: kind_of(name, hint, required=required) for name, hint in hints.items()},
        required=tuple(needed) if required else (),
    )


def kind_of(name: str, hint: Any, *, required: bool) -> Kind:
    """The kind of one field, by its annotation."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return TextKind(about=name, choices=arguments)
    if origin in (types.UnionType, typing.Union):
        inner = [argument for argument in arguments if argument is not type(None)]
        if len(inner) < len(arguments):
            return Maybe(kind=kind_of(name, inner[0], required=required))
        return _merged(name, [fields_of(one, name, required=False) for one in inner])
    if origin is tuple and arguments[0] is int:
        return ListOf(about=name, item=Number(about=f"a number in {name}", integer=True), may_be_empty=True)
    if origin is tuple:
        item = TextKind(about=f"a name in {name}")
        return AnyOf(about=f"{name}, a list of names", kinds=(ListOf(about=name, item=item, may_be_empty=True), item))
    if dataclasses.is_dataclass(hint):
        return fields_of(typing.cast(type, hint), name, required=required)
    if hint is bool:
        return Flag(about=name)
    return Number(about=name, integer=hint is int) if hint in (int, float) else TextKind(about=name)


def dotted(kind: Fields, prefix: str = "") -> dict[str, Kind]:
    """The kinds below a mapping by dotted name, mappings included.

    >>> sorted(dotted(Fields(about="a", fields={"b": Fields(about="b", fields={"c": Flag(about="c")})})))
    ['b.c']
    """
    found: dict[str, Kind] = {}
    for name, inner in kind.fields.items():
        if prefix:
            found[prefix + name] = inner
        if isinstance(inner, Fields):
            found |= dotted(inner, f"{prefix}{name}.")
    return found


def _merged(name: str, options: list[Fields]) -> Fields:
    """A mapping that holds the fields of any of several; which of them fit together is checked when it is built."""
    fields: dict[str, Kind] = {}
    for option in options:
        for key, kind in option.fields.items():
            before = fields.get(key)
            both = isinstance(before, Fields) and isinstance(kind, Fields)
            fields[key] = _merged(key, [typing.cast(Fields, before), typing.cast(Fields, kind)]) if both else kind
    return Fields(about=name, fields=fields)


def _leaves(value: MarkedValue, prefix: str = "") -> list[tuple[str, MarkedValue]]:
    if not isinstance(value.value, Mapping):
        return [(prefix.removesuffix("."), value)]
    return [leaf for key, inner in value.value.items() for leaf in _leaves(inner, f"{prefix}{key}.")]
