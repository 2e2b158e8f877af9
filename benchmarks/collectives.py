"""How many bytes a compiled program moves between devices, counted in its text, loops as often as they turn."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
SIZES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
SIZES |= {"s64": 8, "u64": 8, "f64": 8}
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ([a-z][\w\-]*)\((.*)$")
SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
CALLED = re.compile(r"(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
NAME = re.compile(r'op_name="([^"]*)"')


@dataclass(frozen=True, kw_only=True)
class Collective:
    """One instruction. n_bytes: of its result on one device, of an all-reduce its array; turns: how often it runs."""

    kind: str
    n_bytes: int
    turns: int
    name: str


def bytes_by_kind(text: str) -> Counter[str]:
    """Bytes on each device of one run of a compiled program (`compiled.as_text()`), by kind of collective.

    A reduce-scatter counts its result, an all-reduce the array that it sums: a ring moves about twice as many bytes
    through each link for the latter, and as many as are counted for an all-gather.
    """
    counts = Counter[str]()
    for one in collectives(text):
        counts[one.kind] += one.n_bytes * one.turns
    return counts


def collectives(text: str) -> Iterator[Collective]:
    """Every collective that the entry computation reaches. ValueError for a loop of unknown length around one."""
    bodies = _computations(text)
    entry = next(name for name, (is_entry, _) in bodies.items() if is_entry)
    yield from _within(bodies, entry, 1)


def _within(bodies: dict[str, tuple[bool, list[str]]], name: str, turns: int) -> Iterator[Collective]:
    for line in bodies[name][1]:
        instruction = INSTRUCTION.match(line)
        if instruction is None:
            continue
        shape, operation, rest = instruction.groups()
        kind = operation.removesuffix("-start")
        if kind in KINDS:
            named = NAME.search(rest)
            size = _result_bytes(shape, is_start=operation.endswith("-start"))
            yield Collective(kind=kind, n_bytes=size, turns=turns, name=named.group(1) if named else "")
        elif operation in ("while", "call", "conditional", "fusion"):
            inner = [one for called in _called(rest) for one in _within(bodies, called, 1)]
            times = _turns(line, needed=bool(inner)) if operation == "while" else 1
            for one in inner:
                yield Collective(kind=one.kind, n_bytes=one.n_bytes, turns=one.turns * times * turns, name=one.name)


def _computations(text: str) -> dict[str, tuple[bool, list[str]]]:
    found: dict[str, tuple[bool, list[str]]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if head := COMPUTATION.match(line):
            lines = []
            found[head.group(2)] = (head.group(1) is not None, lines)
        else:
            lines.append(line)
    return found


def _called(rest: str) -> list[str]:
    branches = [name.strip().lstrip("%") for group in BRANCHES.findall(rest) for name in group.split(",")]
    return [*CALLED.findall(rest), *branches]


def _turns(line: str, *, needed: bool) -> int:
    found = TURNS.search(line)
    if found is None and needed:
        raise ValueError(f"expected a loop of known length around a collective; found {line.strip()[:200]}")
    return int(found.group(1)) if found else 1


def _result_bytes(shape: str, *, is_start: bool) -> int:
    sizes = [SIZES[kind] * math.prod(int(n) for n in dims.split(",") if n) for kind, dims in SHAPE.findall(shape)]
    # The start of an asynchronous one returns its operands as well, before its results.
    return sum(sizes[len(sizes) // 2 :] if is_start and len(sizes) % 2 == 0 else sizes)
