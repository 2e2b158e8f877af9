"""YAML documents read against declared fields: values keep their file, line and column, and mistakes name them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipelines.contract.errors import UsageError, nearest

MAX_DEPTH = 16


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A place in a text file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class SpecError(UsageError):
    """A mixture spec is wrong; the message begins with `file:line:column`."""

    def __init__(self, mark: Mark, message: str) -> None:
        super().__init__(f"{mark}: {message}")
        self.mark = mark


@dataclass(frozen=True, kw_only=True)
class Number:
    """A number, `above` < value or `at_least` <= value, and value <= `at_most`; whole if `integer`."""

    about: str
    integer: bool = False
    above: float | None = None
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True, kw_only=True)
class TextKind:
    """A string; one of `choices` if there are any."""

    about: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ListOf:
    """A list of one kind of item, not empty unless `may_be_empty`."""

    about: str
    item: "Kind"
    may_be_empty: bool = False


@dataclass(frozen=True, kw_only=True)
class Fields:
    """A mapping with known keys. `recursive` fields are looked up by name, so that a kind can hold itself."""

    about: str
    fields: Mapping[str, "Kind"]
    required: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MapOf:
    """A mapping from any names to one kind of value."""

    about: str
    value: "Kind"


@dataclass(frozen=True, kw_only=True)
class Named:
    """A kind by its name in the table of kinds; it lets a mapping hold more of its own kind."""

    name: str
    about: str = ""


@dataclass(frozen=True, kw_only=True)
class AnyOf:
    """A value of the first of these kinds that fits its YAML type (text, list or mapping)."""

    about: str
    kinds: tuple["Kind", ...]


Kind = Number | TextKind | ListOf | Fields | MapOf | Named | AnyOf


@dataclass(frozen=True, kw_only=True)
class MarkedValue:
    """A value and where it stands. A mapping's values and a list's items are MarkedValues again."""

    value: Any
    mark: Mark
    key_marks: Mapping[str, Mark] = field(default_factory=dict)

    def __contains__(self, key: str) -> bool:
        return key in self.value

    def __getitem__(self, key: str) -> "MarkedValue":
        return self.value[key]

    def plain(self, key: str, default: Any = None) -> Any:
        """The value of a key without its place, or the default where the key is absent."""
        return self.value[key].value if key in self.value else default


def read_document(path: Path, kind: Kind, named: Mapping[str, Kind]) -> MarkedValue:
    """Reads one YAML file as `kind`. Raises SpecError for the first mistake, UsageError for no file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: expected a readable mixture spec in UTF-8, found: {error}") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        place = error.problem_mark or error.context_mark
        mark = Mark(file=str(path), line=place.line + 1 if place else 1, column=place.column + 1 if place else 1)
        raise SpecError(mark, f"not valid YAML: {error.problem or error.context}") from error
    if node is None:
        raise SpecError(Mark(file=str(path), line=1, column=1), "expected a mixture spec, found an empty file")
    return _Reader(str(path), named).read(node, kind, 0)


class _Reader:
    """Walks YAML nodes beside the kinds they should have."""

    def __init__(self, file: str, named: Mapping[str, Kind]) -> None:
        self.file = file
        self.named = named

    def mark(self, node: yaml.Node) -> Mark:
        return Mark(file=self.file, line=node.start_mark.line + 1, column=node.start_mark.column + 1)

    def read(self, node: yaml.Node, kind: Kind, depth: int) -> MarkedValue:
        if depth > MAX_DEPTH:
            raise SpecError(self.mark(node), f"nested deeper than {MAX_DEPTH} levels; does an alias hold itself?")
        if isinstance(kind, Named):
            return self.read(node, self.named[kind.name], depth)
        if isinstance(kind, AnyOf):
            return self.read(node, self.fitting(node, kind), depth)
        if isinstance(kind, Fields):
            return self.read_fields(node, kind, depth)
        if isinstance(kind, MapOf):
            return self.read_map(node, kind, depth)
        if isinstance(kind, ListOf):
            return self.read_list(node, kind, depth)
        if isinstance(kind, Number):
            return MarkedValue(value=self.number(node, kind), mark=self.mark(node))
        return MarkedValue(value=self.text(node, kind), mark=self.mark(node))

    def fitting(self, node: yaml.Node, kind: AnyOf) -> Kind:
        for option in kind.kinds:
            resolved = self.named[option.name] if isinstance(option, Named) else option
            if isinstance(node, _node_type(resolved)):
                return resolved
        raise SpecError(self.mark(node), f"expected {kind.about}, found {_describe(node)}")

    def read_fields(self, node: yaml.Node, kind: Fields, depth: int) -> MarkedValue:
        if not isinstance(node, yaml.MappingNode):
            raise SpecError(self.mark(node), f"expected {kind.about} (key: value), found {_describe(node)}")
        values: dict[str, MarkedValue] = {}
        key_marks: dict[str, Mark] = {}
        for key_node, value_node in node.value:
            key, mark = str(key_node.value), self.mark(key_node)
            if key not in kind.fields:
                raise SpecError(mark, f"unknown key {key!r} in {kind.about}. {nearest(key, kind.fields)}")
            if key in values:
                raise SpecError(mark, f"key {key!r} stands twice; the first is on line {key_marks[key].line}")
            key_marks[key] = mark
            values[key] = self.read(value_node, kind.fields[key], depth + 1)
        for key in kind.required:
            if key not in values:
                raise SpecError(self.mark(node), f"expected the key {key!r} in {kind.about}, found {_keys(values)}")
        return MarkedValue(value=values, mark=self.mark(node), key_marks=key_marks)

    def read_map(self, node: yaml.Node, kind: MapOf, depth: int) -> MarkedValue:
        if not isinstance(node, yaml.MappingNode):
            raise SpecError(self.mark(node), f"expected {kind.about} (name: value), found {_describe(node)}")
        marks = {str(key.value): self.mark(key) for key, _ in node.value}
        values = {str(key.value): self.read(value, kind.value, depth + 1) for key, value in node.value}
        return MarkedValue(value=values, mark=self.mark(node), key_marks=marks)

    def read_list(self, node: yaml.Node, kind: ListOf, depth: int) -> MarkedValue:
        if not isinstance(node, yaml.SequenceNode):
            raise SpecError(self.mark(node), f"expected {kind.about}, found {_describe(node)}")
        if not node.value and not kind.may_be_empty:
            raise SpecError(self.mark(node), f"expected {kind.about}, found an empty list")
        return MarkedValue(value=[self.read(item, kind.item, depth + 1) for item in node.value], mark=self.mark(node))

    def text(self, node: yaml.Node, kind: TextKind) -> str:
        if not isinstance(node, yaml.ScalarNode) or node.tag == "tag:yaml.org,2002:null":
            raise SpecError(self.mark(node), f"expected {kind.about}, found {_describe(node)}")
        if kind.choices and node.value not in kind.choices:
            message = f"expected {kind.about}, found {node.value!r}. {nearest(node.value, kind.choices)}"
            raise SpecError(self.mark(node), message)
        return node.value

    def number(self, node: yaml.Node, kind: Number) -> float | int:
        expected = f"expected {kind.about}{_range(kind)}, found {_describe(node)}"
        if not isinstance(node, yaml.ScalarNode) or node.tag.endswith((":bool", ":null")):
            raise SpecError(self.mark(node), expected)
        try:
            value = float(node.value.replace("_", ""))
        except ValueError as error:
            raise SpecError(self.mark(node), expected) from error
        fits = value == value and abs(value) != float("inf") and not (kind.integer and value != int(value))
        fits = fits and (kind.above is None or value > kind.above) and (kind.at_least is None or value >= kind.at_least)
        if not fits or (kind.at_most is not None and value > kind.at_most):
            raise SpecError(self.mark(node), expected)
        return int(value) if kind.integer else value


def json_schema(kind: Kind) -> dict[str, Any]:
    """Says a kind as JSON Schema (draft 2020-12), for editors that complete and check YAML."""
    if isinstance(kind, Named):
        return {"$ref": f"#/$defs/{kind.name}"}
    schema: dict[str, Any] = {"description": kind.about}
    if isinstance(kind, AnyOf):
        schema["anyOf"] = [json_schema(option) for option in kind.kinds]
    elif isinstance(kind, Fields):
        schema |= {"type": "object", "additionalProperties": False, "required": list(kind.required)}
        schema["properties"] = {key: json_schema(value) for key, value in kind.fields.items()}
    elif isinstance(kind, MapOf):
        schema |= {"type": "object", "additionalProperties": json_schema(kind.value)}
    elif isinstance(kind, ListOf):
        schema |= {"type": "array", "items": json_schema(kind.item), "minItems": 0 if kind.may_be_empty else 1}
    elif isinstance(kind, TextKind):
        schema |= {"type": "string"} | ({"enum": list(kind.choices)} if kind.choices else {})
    else:
        limits = {"exclusiveMinimum": kind.above, "minimum": kind.at_least, "maximum": kind.at_most}
        schema |= {"type": "integer" if kind.integer else "number"}
        schema |= {name: limit for name, limit in limits.items() if limit is not None}
    return schema


def _node_type(kind: Kind) -> type[yaml.Node]:
    if isinstance(kind, Fields):
        return yaml.MappingNode
    return yaml.SequenceNode if isinstance(kind, ListOf) else yaml.ScalarNode


def _describe(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return repr(node.value) if node.value else "nothing"
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"


def _keys(values: Mapping[str, MarkedValue]) -> str:
    return "the keys " + ", ".join(values) if values else "no keys"


def _range(kind: Number) -> str:
    words = []
    if kind.above is not None:
        words.append(f"above {kind.above:g}")
    if kind.at_least is not None:
        words.append(f"at least {kind.at_least:g}")
    if kind.at_most is not None:
        words.append(f"at most {kind.at_most:g}")
    return " (" + ", ".join((["whole"] if kind.integer else []) + words) + ")" if words or kind.integer else ""
