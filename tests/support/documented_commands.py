"""Commands as documents name them, held against the parsers that would read them."""

import argparse
import importlib.util
import re
import runpy
import shlex
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

from pipelines.jobs.beam_options import option_parser
from tests.support.checkout import ROOT
from tests.support.documents import Block, shell_lines
from trainers.main import build_parser

# Where a command begins in a line: a shell's, or a line of shown output that says what to run next.
_OURS = re.compile(r"(?:^|\s)(?:\.venv/bin/)?embodimix ([a-z-].*)")
_MODULE = re.compile(r"(?:^|\s)(?:\.venv/bin/)?python -m ([\w.]+)(.*)")
_SCRIPT = re.compile(r"(?:^|\s)python ([\w./-]+\.py)")
_MAKE = re.compile(r"^(?:\$ )?(?:[A-Z_]+=\S+ )*make ([\w./-]+)")
# A line that shows the form of a command: [options], A | B, dots, words in capitals for a choice.
_FORM = re.compile(r"\[[-\w]|\s\|\s|\.\.\.|\bFORMAT\b")
# Options in sentences that are another program's.
FOREIGN_OPTIONS = {
    "--dataset.episodes": "lerobot-train",
    "--no-deps": "pip",
    "--sdk_location": "Beam's, of runners that it does not declare",
    "--shm-size": "docker",
    "--tests": ".ci/pythons",
}


class _Parsed(Exception):
    """A parser took the arguments, and nothing shall run."""


def faults(block: Block) -> Iterator[str]:
    """What is wrong with the commands of a block, each with `FILE:LINE`; an empty iterator where all parse."""
    for n, line in shell_lines(block.text):
        if block.marker == "skip":
            continue
        for fault in _line_faults(line):
            yield f"{block.path.name}:{block.line + n}: {fault}"


def _line_faults(line: str) -> Iterator[str]:
    if match := _OURS.search(line):
        if _FORM.search(match[1]):
            yield from form_faults(match[1])
        else:
            yield from _command_faults(shlex.split(_command_part(match[1])))
    elif match := _MODULE.search(line):
        yield from _module_faults(match[1], shlex.split(_command_part(match[2])))
    elif match := _SCRIPT.search(line):
        yield from [] if (ROOT / match[1]).exists() else [f"python {match[1]}: no {match[1]}"]
    elif match := _MAKE.match(line):
        if match[1] not in make_targets():
            yield f"make {match[1]}: the Makefile has no such target"


def _command_part(line: str) -> str:
    """A line without what stands behind its command: redirections, a comment in another column."""
    return re.split(r"\s[>&]+|(?<=\S)\s{3,}", line)[0]


def _command_faults(words: Sequence[str]) -> Iterator[str]:
    """What the parser of `embodimix` says of whole arguments."""
    parser = our_parser()
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "error", lambda _, message: _refuse(said, message))
        try:
            parsed, rest = parser.parse_known_args(list(words))
        except _Parsed:
            yield f"embodimix {shlex.join(words)}: {said[0]}"
            return
    if getattr(parsed, "takes_beam_options", False):
        rest = option_parser().parse_known_args(rest)[1]
    if rest:
        yield f"embodimix {shlex.join(words)}: unknown {rest}"


def _refuse(said: list[str], message: str) -> None:
    said.append(message)
    raise _Parsed


def form_faults(form: str) -> Iterator[str]:
    """What is wrong with the form of a command, such as `mix lock SPEC [--check LOCK]`: its words and option names."""
    words = re.sub(r"[\[\]]", " ", form).replace("|", " | ").split()
    parsers = [our_parser()]
    while below := [inner for parser in parsers for inner in [_below(parser)] if inner]:
        if not words or words[0].startswith("-") or not re.fullmatch(r"[a-z][a-z-]*", words[0]):
            # `embodimix train ... --option`: any of the commands below may have it.
            parsers = [choice for choices in below for choice in choices.values()]
            continue
        names = [words.pop(0)]
        while len(words) > 1 and words[0] == "|":
            names.append(words[1])
            words = words[2:]
        unknown = [name for name in names if not any(name in choices for choices in below)]
        if unknown:
            yield f"embodimix {form}: no command {unknown[0]}"
            return
        parsers = [choices[name] for choices in below for name in names if name in choices]
    known = {option for parser in parsers for action in parser._actions for option in action.option_strings}
    if any(parser.get_default("takes_beam_options") for parser in parsers):
        known |= _beam_options()
    for option in options(" ".join(words)):
        if option not in known:
            yield f"embodimix {form}: no option {option}"


def _below(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices
    return {}


def every_command(
    parser: argparse.ArgumentParser, name: str = "embodimix"
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command that runs, by its words, with its parser."""
    below = _below(parser)
    if not below:
        yield name, parser
    for word, choice in below.items():
        yield from every_command(choice, f"{name} {word}")


def options(text: str) -> list[str]:
    """The names of long options in a text, without their values."""
    return re.findall(r"(?<![\w-])--[a-zA-Z][\w.-]*[\w]", text)


def _module_faults(name: str, words: Sequence[str]) -> Iterator[str]:
    """What is wrong with `python -m name words`: ours by its own parser, which runs nothing; others by their text."""
    path = _module_file(name)
    if path is None:
        yield f"python -m {name}: no such module"
    elif name == "pytest":
        yield from (f"python -m pytest: no {word}" for word in words if "/" in word and not (ROOT / word).exists())
    elif not path.is_relative_to(ROOT) or ".venv" in path.parts:
        known = _pip_options(words[0]) if name == "pip" else options(path.read_text())
        lacking = [option for option in options(" ".join(words)) if option not in known]
        yield from (f"python -m {name}: no option {option}" for option in lacking)
    elif "parse_args(" not in path.read_text():
        yield from [f"python -m {name} takes no arguments, found {shlex.join(words)}"] if words else []
    else:
        yield from _own_module_faults(name, words)


def _own_module_faults(name: str, words: Sequence[str]) -> Iterator[str]:
    said: list[str] = []

    def parse(
        parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None, namespace: object = None
    ) -> None:
        parser.parse_known_args(arguments)[1] and parser.error(f"unknown arguments {shlex.join(words)}")
        raise _Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse)
        patch.setattr(argparse.ArgumentParser, "error", lambda _, message: _refuse(said, message))
        patch.setattr(sys, "argv", [name, *words])
        try:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        except _Parsed:
            pass
        else:
            said.append("it ran without parsing its arguments")
    yield from (f"python -m {name} {shlex.join(words)}: {message}" for message in said)


@cache
def our_parser() -> argparse.ArgumentParser:
    """The parser of `embodimix`, built once: it is asked for hundreds of lines."""
    return build_parser()


@cache
def _beam_options() -> frozenset[str]:
    return frozenset(option for action in option_parser()._actions for option in action.option_strings)


@cache
def _module_file(name: str) -> Path | None:
    """The file that `python -m name` runs, or None."""
    spec = importlib.util.find_spec(name)
    if spec and spec.submodule_search_locations:
        spec = importlib.util.find_spec(f"{name}.__main__")
    return Path(spec.origin) if spec and spec.origin else None


def _pip_options(command: str) -> list[str]:
    from pip._internal.commands import create_command

    parser = create_command(command).parser
    every = [*parser.option_list, *(option for group in parser.option_groups for option in group.option_list)]
    return [name for option in every for name in (*option._long_opts, *option._short_opts)]


@cache
def make_targets() -> frozenset[str]:
    """The targets of the Makefile."""
    return frozenset(re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def sentence_faults(path: Path) -> Iterator[str]:
    """What is wrong with commands and options that sentences name: `embodimix X --a`, `mix plan SPEC`, `--a VALUE`."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    for span in re.findall(r"`([^`\n]+)`", text):
        first = span.removeprefix(".venv/bin/").removeprefix("embodimix ").split(" ")[0]
        if match := re.fullmatch(r"(?:\.venv/bin/)?embodimix ([a-z-].*)", span):
            yield from (f"{path.name}: {fault}" for fault in form_faults(match[1]))
        elif match := re.fullmatch(r"python -m ([\w.]+)(.*)", span):
            known = _own_options() | set(options((_module_file(match[1]) or Path("/dev/null")).read_text()))
            if _module_file(match[1]) is None and not importlib.util.find_spec(match[1]):
                yield f"{path.name}: `{span}`: no such module"
            yield from (f"{path.name}: `{span}`: no {name}" for name in options(match[2]) if name not in known)
        elif match := re.match(r"python ([\w./-]+\.py)", span):
            yield from [] if (ROOT / match[1]).exists() else [f"{path.name}: `{span}`: no {match[1]}"]
        elif first in _below(our_parser()) and options(span):
            yield from (f"{path.name}: {fault}" for fault in form_faults(span))
        else:
            known = _own_options() | set(FOREIGN_OPTIONS)
            yield from (f"{path.name}: `{span}`: no command has {name}" for name in options(span) if name not in known)


@cache
def _own_options() -> frozenset[str]:
    """Every long option of `embodimix`, of Beam, and of the modules that have parsers of their own."""
    found = set(_beam_options())
    parsers = [our_parser()]
    while parsers:
        parser = parsers.pop()
        parsers += _below(parser).values()
        found |= {option for action in parser._actions for option in action.option_strings}
    for room in ("benchmarks", "model", "pipelines", "trainers"):
        for module in (ROOT / room).rglob("*.py"):
            found |= set(re.findall(r"add_argument\(\s*\"(--[\w-]+)\"", module.read_text()))
    return frozenset(found)
