"""YAML documents read against declared fields: values keep their file, line and column, and mistakes name them."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipelines.contract.errors import UsageError, nearest

# Groups nest by two levels each, so that 20 groups inside one another take some 45; what is deeper holds itself.
MAX_DEPTH = 64
# A spec of ten thousand datasets has half as many values. Aliases of aliases stand for billions in some hundred bytes.
MAX_VALUES = 200_000
MAX_BYTES = 1 << 24
_MERGE = "tag:yaml.org,2002:merge"
# What stands for a value that nobody has given yet, in quotes, since YAML reads a bare one as the mark of a key.
OPEN_QUESTION = "?"


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A position in a text file; line and column count from 1. Line 0: the value came from no file, `file` names it."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


class SpecError(UsageError):
    """A document (a mixture spec, a registry) is wrong; the message begins with `file:line:column`."""

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
class Flag:
    """`true` or `false`; YAML's other spellings (yes, on) are refused, since YAML 1.2 reads them as text."""

    about: str


@dataclass(frozen=True, kw_only=True)
class Scalar:
    """`true`, `false` or a number: what a native flag can be compared with."""

    about: str


@dataclass(frozen=True, kw_only=True)
class Anything:
    """A part that is not examined: blocks that hold anchors only. Its value is None."""

    about: str


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


@dataclass(frozen=True, kw_only=True)
class Maybe:
    """A value of `kind`, or YAML's null, which reads as None."""

    kind: "Kind"

    @property
    def about(self) -> str:
        return self.kind.about


@dataclass(frozen=True, kw_only=True)
class Later:
    """A value that is read when it is used, so that a mistake in it stops only what uses it; it reads as `Unread`."""

    about: str


Kind = Number | TextKind | Maybe | Flag | Scalar | Anything | ListOf | Fields | MapOf | Named | AnyOf | Later


@dataclass(frozen=True, kw_only=True)
class MarkedValue:
    """A value and where it stands. A mapping's values and a list's items are MarkedValues again."""

    value: Any
    mark: Mark
    key_marks: Mapping[str, Mark] = field(default_factory=dict)

    def __contains__(self, key: str) -> bool:
        return key in self.value

    def __getitem__(self, key: str) -> "MarkedValue":
        value: MarkedValue = self.value[key]
        return value

    def plain(self, key: str, default: Any = None) -> Any:
        """The value of a key without its mark, or the default where the key is absent."""
        return self.value[key].value if key in self.value else default

    def unmarked(self) -> Any:
        """The value as YAML's own loader would give it: dicts, lists, text, numbers."""
        if isinstance(self.value, dict):
            return {key: value.unmarked() for key, value in self.value.items()}
        return [item.unmarked() for item in self.value] if isinstance(self.value, list) else self.value


class Unread:
    """A part of a file that was kept as it stands; see `Later`."""

    def __init__(self, file: str, node: yaml.Node) -> None:
        self._file = file
        self._node = node

    def read(self, kind: Kind) -> MarkedValue:
        """Reads it as `kind`, open questions included. Raises SpecError for the first mistake."""
        return _Reader(self._file, {}, may_ask=True).read(self._node, kind, 0)

    def peek(self, key: str) -> tuple[str, ...]:
        """The text or texts under a key, whatever else is wrong here; none where it holds none."""
        if not isinstance(self._node, yaml.MappingNode):
            return ()
        try:
            found = {name: node for name, _, node in _Reader(self._file, {}).pairs(self._node)}.get(key)
        except SpecError:  # a key that is given twice: reading will name it
            return ()
        items = found.value if isinstance(found, yaml.SequenceNode) else [found]
        return tuple(item.value for item in items if isinstance(item, yaml.ScalarNode))


def open_questions(value: MarkedValue, path: str = "") -> list[tuple[str, Mark]]:
    """Returns every open question, `"?"`, inside a value: its keys joined by dots, and where it stands."""
    if isinstance(value.value, dict):
        inner = value.value.items()
        return [found for key, item in inner for found in open_questions(item, f"{path}.{key}" if path else key)]
    if isinstance(value.value, list):
        return [found for i, item in enumerate(value.value) for found in open_questions(item, f"{path}[{i}]")]
    return [(path, value.mark)] if value.value == OPEN_QUESTION else []


def read_document(
    path: Path, kind: Kind, named: Mapping[str, Kind], what: str = "a mixture spec", loader: Any = yaml.SafeLoader
) -> MarkedValue:
    """Reads one YAML file as `kind`. Raises SpecError for the first mistake, UsageError for no file.

    loader: a YAML loader class; libyaml's is fifteen times as fast and words syntax errors otherwise.
    """
    try:
        # A device such as /dev/zero has no end.
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: expected {_readable(what)} in UTF-8, found: {error}") from error
    if len(text) > MAX_BYTES:
        raise UsageError(f"{path}: expected {_readable(what)} of at most {MAX_BYTES} characters, found a larger file")
    try:
        # Nodes and not values: only they know line and column, and keys that are given twice.
        node = yaml.compose(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        found = error.problem_mark or error.context_mark
        mark = Mark(file=str(path), line=found.line + 1 if found else 1, column=found.column + 1 if found else 1)
        is_question = _character_at(text, mark) == OPEN_QUESTION
        hint = f'; a value that is not known yet is "{OPEN_QUESTION}", in quotes' if is_question else ""
        raise SpecError(mark, f"not valid YAML: {error.problem or error.context}{hint}") from error
    except (yaml.YAMLError, RecursionError) as error:  # a NUL byte; brackets by the thousand
        fault = "nested too deep" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise SpecError(Mark(file=str(path), line=1, column=1), f"not valid YAML: {fault}") from None
    if node is None:
        raise SpecError(Mark(file=str(path), line=1, column=1), f"expected {what}, found an empty file")
    return _Reader(str(path), named).read(node, kind, 0)


def read_value(value: Any, kind: Kind, where: str) -> MarkedValue:
    """Reads a value that Python code wrote by the same rules as a file; mistakes name `where`. Raises SpecError."""
    return _Reader(where, {}).read(yaml.SafeDumper(io.StringIO()).represent_data(value), kind, 0)


class _Reader:
    """Walks YAML nodes beside the kinds they should have."""

    def __init__(self, file: str, named: Mapping[str, Kind], may_ask: bool = False) -> None:
        self.file = file
        self.named = named
        self.may_ask = may_ask
        self.n_values = 0

    def count(self, node: yaml.Node) -> None:
        self.n_values += 1
        if self.n_values > MAX_VALUES:
            raise SpecError(self.mark(node), f"expected at most {MAX_VALUES} values; do aliases hold aliases?")

    def mark(self, node: yaml.Node) -> Mark:
        if node.start_mark is None:
            return Mark(file=self.file, line=0, column=0)
        return Mark(file=self.file, line=node.start_mark.line + 1, column=node.start_mark.column + 1)

    def read(self, node: yaml.Node, kind: Kind, depth: int) -> MarkedValue:
        if depth > MAX_DEPTH:
            raise SpecError(self.mark(node), f"nested deeper than {MAX_DEPTH} levels; does an alias hold itself?")
        self.count(node)
        if isinstance(kind, Later):
            return MarkedValue(value=Unread(self.file, node), mark=self.mark(node))
        if self.may_ask and isinstance(node, yaml.ScalarNode) and node.value == OPEN_QUESTION:
            return MarkedValue(value=OPEN_QUESTION, mark=self.mark(node))
        if isinstance(kind, Named):
            return self.read(node, self.named[kind.name], depth)
        if isinstance(kind, Maybe):
            if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null":
                return MarkedValue(value=None, mark=self.mark(node))
            return self.read(node, kind.kind, depth)
        if isinstance(kind, AnyOf):
            return self.read(node, self.fitting(node, kind), depth)
        if isinstance(kind, Fields):
            return self.read_fields(node, kind, depth)
        if isinstance(kind, MapOf):
            return self.read_map(node, kind, depth)
        if isinstance(kind, ListOf):
            return self.read_list(node, kind, depth)
        return MarkedValue(value=self.scalar(node, kind), mark=self.mark(node))

    def scalar(self, node: yaml.Node, kind: Kind) -> Any:
        if isinstance(kind, Number):
            return self.number(node, kind)
        if isinstance(kind, TextKind):
            return self.text(node, kind)
        if isinstance(kind, Anything):
            return None
        if isinstance(node, yaml.ScalarNode) and node.value in ("true", "false"):
            return node.value == "true"
        if isinstance(kind, Scalar):
            return self.number(node, Number(about=kind.about))
        raise SpecError(self.mark(node), f"expected {kind.about} (true or false), found {_describe(node)}")

    def fitting(self, node: yaml.Node, kind: AnyOf) -> Kind:
        for option in kind.kinds:
            # By YAML type alone, so that a mistake inside is reported for the kind that was meant, not as fitting none.
            resolved = self.named[option.name] if isinstance(option, Named) else option
            if isinstance(node, _node_type(resolved)):
                return resolved
        raise SpecError(self.mark(node), f"expected {kind.about}, found {_describe(node)}")

    def read_fields(self, node: yaml.Node, kind: Fields, depth: int) -> MarkedValue:
        if not isinstance(node, yaml.MappingNode):
            raise SpecError(self.mark(node), f"expected {kind.about} (key: value), found {_describe(node)}")
        values: dict[str, MarkedValue] = {}
        key_marks: dict[str, Mark] = {}
        for key, mark, value_node in self.pairs(node):
            if key not in kind.fields:
                raise SpecError(mark, f"unknown key {key!r} in {kind.about}. {nearest(key, kind.fields)}")
            key_marks[key] = mark
            values[key] = self.read(value_node, kind.fields[key], depth + 1)
        for key in kind.required:
            if key not in values:
                raise SpecError(self.mark(node), f"expected the key {key!r} in {kind.about}, found {_keys(values)}")
        return MarkedValue(value=values, mark=self.mark(node), key_marks=key_marks)

    def read_map(self, node: yaml.Node, kind: MapOf, depth: int) -> MarkedValue:
        if not isinstance(node, yaml.MappingNode):
            raise SpecError(self.mark(node), f"expected {kind.about} (name: value), found {_describe(node)}")
        pairs = list(self.pairs(node))
        values = {key: self.read(value, kind.value, depth + 1) for key, _, value in pairs}
        return MarkedValue(value=values, mark=self.mark(node), key_marks={key: mark for key, mark, _ in pairs})

    def pairs(self, node: yaml.MappingNode, depth: int = 0) -> Iterator[tuple[str, Mark, yaml.Node]]:
        """Keys, where they stand, and values; those that `<<` merges in come first and give way to the mapping's own.

        Raises SpecError for a key that is given twice: YAML's own loader silently keeps the last one.
        """
        if depth > MAX_DEPTH:
            raise SpecError(self.mark(node), f"merged deeper than {MAX_DEPTH} levels; does an alias hold itself?")
        self.count(node)
        own: dict[str, Mark] = {}
        values: dict[str, tuple[str, Mark, yaml.Node]] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                merged = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for source in merged:
                    if not isinstance(source, yaml.MappingNode):
                        raise SpecError(self.mark(source), f"expected a mapping to merge, found {_describe(source)}")
                    # YAML's rule of `<<`: of several merged mappings the first one that has a key wins.
                    values = {pair[0]: pair for pair in self.pairs(source, depth + 1)} | values
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                continue
            key, mark = str(key_node.value), self.mark(key_node)
            if key in own:
                raise SpecError(mark, f"key {key!r} is given twice; the first is on line {own[key].line}")
            own[key] = mark
            values[key] = key, mark, value_node
        yield from values.values()

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
        return str(node.value)

    def number(self, node: yaml.Node, kind: Number) -> float | int:
        expected = f"expected {kind.about}{_range(kind)}, found {_describe(node)}"
        if not isinstance(node, yaml.ScalarNode) or node.tag.endswith((":bool", ":null")):
            raise SpecError(self.mark(node), expected)
        try:
            # Not by YAML's tag: YAML 1.1 reads 1e-4 as text and 1_000 as a number.
            value = float(node.value.replace("_", ""))
        except ValueError as error:
            raise SpecError(self.mark(node), expected) from error
        # NaN is above no bound, so that `at_most` alone would let it pass.
        fits = value == value and abs(value) != float("inf") and not (kind.integer and value != int(value))
        fits = fits and (kind.above is None or value > kind.above) and (kind.at_least is None or value >= kind.at_least)
        if not fits or (kind.at_most is not None and value > kind.at_most):
            # A part of a whole that was written in percent.
            hint = f". Did you mean {value / 100:g}?" if fits and kind.at_most == 1 and value <= 100 else ""
            raise SpecError(self.mark(node), expected + hint)
        return int(value) if kind.integer else value


def json_schema(kind: Kind) -> dict[str, Any]:
    """Says a kind as JSON Schema (draft 2020-12), for editors that complete and check YAML."""
    if isinstance(kind, Named):
        return {"$ref": f"#/$defs/{kind.name}"}
    if isinstance(kind, Maybe):
        return {"anyOf": [json_schema(kind.kind), {"type": "null"}]}
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
        # A bare 6 is a number in YAML, and read as the text that it is written as.
        schema |= {"type": "string", "enum": list(kind.choices)} if kind.choices else {"type": ["string", "number"]}
    elif isinstance(kind, (Flag, Scalar)):
        schema["type"] = "boolean" if isinstance(kind, Flag) else ["boolean", "number"]
    elif isinstance(kind, Number):
        limits = {"exclusiveMinimum": kind.above, "minimum": kind.at_least, "maximum": kind.at_most}
        schema |= {"type": "integer" if kind.integer else "number"}
        schema |= {name: limit for name, limit in limits.items() if limit is not None}
    return schema


def _character_at(text: str, mark: Mark) -> str:
    lines = text.splitlines()[mark.line - 1 : mark.line]
    return lines[0][mark.column - 1 : mark.column] if lines else ""


def _readable(what: str) -> str:
    """`a mixture spec` -> `a readable mixture spec`."""
    return f"a readable {what.split(' ', 1)[-1]}"


def _node_type(kind: Kind) -> type[yaml.Node]:
    if isinstance(kind, (Fields, MapOf)):
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
