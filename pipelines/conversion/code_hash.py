"""The hash of the code that decides what a shard holds, for one format, one adapter entry and one robot.

It covers the syntax trees, without docstrings, of every module of ours that reading, mapping, checking and writing an
episode of the format imports, directly or through others. So a comment, a docstring, or another format's reader
changes nothing, and a changed line of a reader does.
"""

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from pipelines.contract.embodiments import Robots
from pipelines.contract.layouts import load_layouts
from pipelines.mapping.adapters import Adapter

# Where the packages lie: the checkout, or the folder of installed packages.
_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("pipelines", "annotation_tools")
# A worker's two passes; the reader of the format is loaded by name, so no import leads to it.
_WORKER = ("pipelines.conversion.measure", "pipelines.conversion.write")


def code_hash(adapter: Adapter, robots: Robots) -> str:
    """Returns the sha256 of the code and registry entries that a conversion with this adapter uses.

    robots: those that it may meet; where each log names its robot, all count.
    """
    digest = hashlib.sha256(_code_of(adapter.format).encode())
    known = [asdict(robot) for _, robot in sorted(robots.known.items())]
    entries = [asdict(adapter) | {"title": "", "note": ""}, *known]
    entries += map(asdict, load_layouts().values())
    digest.update(json.dumps(entries, sort_keys=True, default=str).encode())
    return digest.hexdigest()


@lru_cache
def _code_of(format: str) -> str:
    digest = hashlib.sha256()
    for module, tree in sorted(_trees_of(format).items()):
        digest.update(f"{module}\0{tree}\0".encode())
    return digest.hexdigest()


def code_modules(format: str) -> list[str]:
    """Returns the dotted names of the modules that a worker imports to convert a format, sorted."""
    return sorted(_trees_of(format))


def _trees_of(format: str) -> dict[str, str]:
    """The syntax tree, as text and without docstrings, of every module that a worker imports, by its dotted name."""
    waiting, found = [*_WORKER, f"pipelines.sources.{format}"], dict[str, str]()
    while waiting:
        module = waiting.pop()
        if module not in found:
            # Parsed once for both: parsing takes longer than all else that a conversion does before it reads.
            tree = ast.parse(_path_of(module).read_bytes())
            nodes = list(ast.walk(tree))
            waiting += _imported(nodes)
            _drop_docstrings(nodes)
            found[module] = ast.dump(tree)
    return found


def _imported(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """The modules of ours that a module imports, at any depth of its code: some when they are first used."""
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in _PACKAGES and _path_of(name).is_file())


def _path_of(module: str) -> Path:
    return _ROOT.joinpath(*module.split(".")).with_suffix(".py")


def _drop_docstrings(nodes: Iterable[ast.AST]) -> None:
    for node in nodes:
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:] or [ast.Pass()]
