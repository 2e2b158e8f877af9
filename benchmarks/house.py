"""How the code is built, in numbers: modules per folder, sizes, comments, docstrings, types, circles.

    python -m benchmarks.house [CHECKOUT ...]

Several checkouts stand side by side, for example a worktree of an earlier commit and this one.
"""

import argparse
import ast
import io
import os
import statistics
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("pipelines", "mixtures", "model", "trainers", "annotation_tools")


@dataclass(frozen=True, kw_only=True)
class Module:
    """One module as measured: lines in all, of comments, of docstrings; the length of each function."""

    path: Path
    n_lines: int
    n_comment_lines: int
    n_docstring_lines: int
    function_lines: tuple[int, ...]
    n_arguments: int
    n_typed_arguments: int
    n_dict_arguments: int


def measure(root: Path) -> list[Module]:
    """Measures every module of the packages below a checkout."""
    return [_measure(path) for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]


def _measure(path: Path) -> Module:
    text = path.read_text()
    tree = ast.parse(text)
    functions = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    arguments = [
        argument
        for function in functions
        for argument in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
        if argument.arg not in ("self", "cls")
    ]
    comments = {
        token.start[0]
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    }
    return Module(
        path=path,
        n_lines=text.count("\n"),
        n_comment_lines=len(comments),
        n_docstring_lines=sum(_docstring_lines(tree)),
        function_lines=tuple((f.end_lineno or f.lineno) - f.lineno + 1 for f in functions),
        n_arguments=len(arguments),
        n_typed_arguments=sum(argument.annotation is not None for argument in arguments),
        n_dict_arguments=sum(_is_dict(argument.annotation) for argument in arguments),
    )


def _docstring_lines(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if ast.get_docstring(node) is not None:
                yield (node.body[0].end_lineno or 0) - node.body[0].lineno + 1


def _is_dict(annotation: ast.expr | None) -> bool:
    """Whether an argument is a dict of anything, which does not name its keys."""
    return annotation is not None and ast.unparse(annotation).startswith(("dict[str, Any", "Mapping[str, Any"))


def rows_of(root: Path, with_tools: bool) -> dict[str, str]:
    """One column of the table."""
    modules = measure(root)
    lines = sum(module.n_lines for module in modules)
    # The docstring of a package alone does not count as a module.
    sizes = [module.n_lines for module in modules if module.n_lines > 1]
    functions = sorted(n for module in modules for n in module.function_lines)
    folders: dict[Path, int] = {}
    for module in modules:
        if module.path.name != "__init__.py":
            folders[module.path.parent] = folders.get(module.path.parent, 0) + 1
    fullest = max(folders, key=lambda folder: folders[folder])
    arguments = sum(module.n_arguments for module in modules)
    rows = {
        "modules": str(sum(folders.values())),
        "folders": str(len(folders)),
        "modules in the fullest folder": f"{folders[fullest]} ({fullest.relative_to(root)})",
        "lines of a module, median / largest": f"{statistics.median(sizes):.0f} / {max(sizes)}",
        "lines of a function, median / 99 % / largest": f"{statistics.median(functions):.0f} / "
        f"{functions[int(0.99 * len(functions))]} / {functions[-1]}",
        "comment lines": f"{100 * sum(m.n_comment_lines for m in modules) / lines:.1f} %",
        "docstring lines": f"{100 * sum(m.n_docstring_lines for m in modules) / lines:.1f} %",
        "typed arguments": f"{100 * sum(m.n_typed_arguments for m in modules) / arguments:.1f} %",
        "arguments that are dict[str, Any]": f"{100 * sum(m.n_dict_arguments for m in modules) / arguments:.1f} %",
    }
    if with_tools:
        rows["mypy errors (plain)"] = _mypy_errors(root)
        rows["circles between siblings"] = str(_circles(root))
    return rows


def _mypy_errors(root: Path) -> str:
    command = [sys.executable, "-m", "mypy", "--cache-dir", os.devnull, *PACKAGES]
    out = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout.strip()
    return out.splitlines()[-1] if out else "mypy printed nothing"


def _circles(root: Path) -> int:
    """The number of imports whose removal would leave no circle between the rooms and modules of a folder.

    Of the packages themselves and of every folder in them, lazy imports included, by grimp.
    """
    import grimp

    sys.path.insert(0, str(root))
    try:
        graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    finally:
        sys.path.remove(str(root))
    return sum(len(graph.nominate_cycle_breakers(package)) for package in PACKAGES)


def main() -> None:
    """Prints the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs="*", type=Path, default=[Path.cwd()])
    parser.add_argument("--quick", action="store_true", help="without mypy and the graph of imports")
    parsed = parser.parse_args()
    columns = [rows_of(root.resolve(), not parsed.quick) for root in parsed.checkouts]
    print(f"| | {' | '.join(str(root) for root in parsed.checkouts)} |")
    print("|---|" + "---|" * len(columns))
    for name in columns[0]:
        print(f"| {name} | {' | '.join(column[name] for column in columns)} |")


if __name__ == "__main__":
    main()
