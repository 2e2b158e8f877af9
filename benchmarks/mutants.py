"""Mutation testing, sampled: single changes of code by cosmic-ray's operators, and whether the nearest tests see them.

    pip install -c constraints.txt -e '.[mutants]'
    python -m benchmarks.mutants --modules 60 --each 10 --seed 17 --json mutants.json

It works in copies of the checkout, each with a warm process that forks a child for every run of tests
(`benchmarks/warm_tests.py`). The nearest tests of a module are those that mirror it, then those that import it, or
import what imports it. A mutant that changes annotations or docstrings alone is none.
"""

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal, TypeVar

from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pipelines", "mixtures", "model", "trainers", "annotation_tools")
MOST_TEST_FILES = 2
# Operators that need the names of the variables to change.
_NEED_ARGUMENTS = {"core/VariableInserter", "core/VariableReplacer"}
Verdict = Literal["killed", "survived", "timeout"]
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One changed spot of a module: the operator, which of its occurrences, the line, and the changed source."""

    module: str
    operator: str
    occurrence: int
    line: int
    before: str
    after: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of the nearest tests for a mutant."""

    module: str
    operator: str
    line: int
    before: str
    after: str
    verdict: Verdict
    seconds: float


def largest_modules(n: int, prefix: str) -> list[Path]:
    """The `n` modules with the most lines whose dotted name begins with `prefix`, the largest first."""
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if path.name != "__init__.py"]
    paths = [path for path in paths if _dotted(path).startswith(prefix)]
    return sorted(paths, key=lambda path: (-path.read_text().count("\n"), str(path)))[:n]


def tests_by_module() -> dict[str, list[Path]]:
    """The nearest test files of every module, the one that mirrors it first; none where no test leads to it."""
    imports = {path: _imported(path) for package in (*PACKAGES, "tests") for path in (ROOT / package).rglob("*.py")}
    direct: dict[str, list[Path]] = defaultdict(list)
    through: dict[str, list[Path]] = defaultdict(list)
    for path, names in imports.items():
        for name in names:
            (direct if path.name.startswith("test_") else through)[name].append(path)
    nearest = {}
    for path in imports:
        if path.is_relative_to(ROOT / "tests"):
            continue
        module = _dotted(path)
        mirror = ROOT / "tests" / path.relative_to(ROOT).parent / f"test_{path.name}"
        found = [mirror] if mirror.exists() else []
        found += sorted(set(direct[module]) - set(found))
        found += sorted({t for user in through[module] for t in direct[_dotted(user)]} - set(found))
        nearest[module] = found[:MOST_TEST_FILES]
    return nearest


def untested_modules() -> list[str]:
    """Modules that no test file imports."""
    tests = [path for path in (ROOT / "tests").rglob("*.py")]
    named = {name for path in tests for name in _imported(path)}
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if path.name != "__init__.py"]
    return sorted(_dotted(path) for path in paths if _dotted(path) not in named)


def mutants_of(path: Path, n: int, randomness: random.Random) -> list[Mutant]:
    """Samples `n` mutants of a module over all operators and occurrences."""
    from cosmic_ray.ast import get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    source = path.read_text()
    plain = _without_words(source)
    nodes = list(_nodes(get_ast(source)))
    places = {}
    for name in sorted(set(operator_names()) - _NEED_ARGUMENTS):
        operator = get_operator(name)()
        if count := sum(len(list(operator.mutation_positions(node))) for node in nodes):
            places[name] = count
    found: list[Mutant] = []
    # A family first (numbers, comparisons, `and`, decorators ...), then one of it: the tool has over a hundred
    # operators that exchange one binary operator for another, most of which end in a TypeError that any test sees.
    families: dict[str, list[str]] = defaultdict(list)
    for name in places:
        families[name.partition("_")[0]].append(name)
    for _ in range(5 * n):
        if len(found) == n or not families:
            break
        name = randomness.choice(families[randomness.choice(sorted(families))])
        occurrence = randomness.randrange(places[name])
        try:
            mutated = mutate_code(source, get_operator(name)(), occurrence)
        except (AttributeError, IndexError, TypeError, ValueError):
            continue  # An operator of the tool that does not understand this piece of syntax.
        if mutated is None or any(mutated == other.source for other in found):
            continue
        try:
            if _without_words(mutated) == plain:
                continue
        except SyntaxError:
            continue
        line, before, after = _first_difference(source, mutated)
        found.append(
            Mutant(
                module=_dotted(path),
                operator=name.removeprefix("core/"),
                occurrence=occurrence,
                line=line,
                before=before,
                after=after,
                source=mutated,
            )
        )
    return found


def _nodes(node: Any) -> Iterator[Any]:
    """A syntax tree of parso, node by node, in the order in which the tool walks it."""
    yield node
    for child in getattr(node, "children", ()):
        yield from _nodes(child)


def judge(mutant: Mutant, copy: "Copy", tests: Sequence[Path], timeout_s: float) -> Outcome:
    """Puts a mutant into a copy of the checkout, runs the tests, and takes it out again."""
    path = copy.checkout.joinpath(*mutant.module.split(".")).with_suffix(".py")
    original = path.read_text()
    path.write_text(mutant.source)
    started = time.monotonic()
    try:
        code = copy.run_tests(tests, timeout_s)
    finally:
        path.write_text(original)
    verdict: Verdict = "timeout" if code is None else "survived" if code == 0 else "killed"
    shown = {key: value for key, value in asdict(mutant).items() if key not in ("source", "occurrence")}
    return Outcome(**shown, verdict=verdict, seconds=round(time.monotonic() - started, 1))


class Copy:
    """A copy of the checkout and the warm process that runs tests in it."""

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        environment = os.environ | {"PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1", "MPLBACKEND": "Agg"}
        command = [sys.executable, "-m", "benchmarks.warm_tests"]
        self._runner = subprocess.Popen(
            command, cwd=checkout, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run_tests(self, tests: Sequence[Path], timeout_s: float) -> int | None:
        """The exit status of the tests; None where they took too long, as endless loops do."""
        assert self._runner.stdin is not None and self._runner.stdout is not None
        names = [str(test.relative_to(ROOT)) for test in tests]
        self._runner.stdin.write(json.dumps({"tests": names, "timeout_s": timeout_s}) + "\n")
        self._runner.stdin.flush()
        answer: int | None = json.loads(self._runner.stdout.readline())["status"]
        return answer

    def close(self) -> None:
        """Ends the process."""
        self._runner.kill()
        self._runner.wait()


def copies(n: int, folder: Path) -> list[Copy]:
    """Copies of the tracked files, one for each process, with ../shared beside them."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    made = []
    for i in range(n):
        checkout = folder / str(i) / "checkout"
        for name in filter(None, tracked.split("\0")):
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, checkout / name)
        if (ROOT.parent / "shared").is_dir():
            (checkout.parent / "shared").symlink_to(ROOT.parent / "shared")
        made.append(Copy(checkout))
    return made


def table(outcomes: Sequence[Outcome], untested: Mapping[str, int]) -> str:
    """Killed and survived mutants per room, in Markdown."""
    rooms: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome in outcomes:
        rooms[outcome.module.rpartition(".")[0]][outcome.verdict] += 1
    lines = ["| room | mutants | killed | timed out | survived |", "|---|---|---|---|---|"]
    for room, n in [*sorted(rooms.items()), ("all", sum(rooms.values(), Counter()))]:
        lines.append(f"| {room} | {n.total()} | {n['killed']} | {n['timeout']} | {n['survived']} |")
    if untested:
        lines.append(f"\nWithout a test that leads to them: {', '.join(sorted(untested))}")
    return "\n".join(lines)


def _imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] in (*PACKAGES, "tests")}


def _dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def _without_words(source: str) -> str:
    """The syntax tree without docstrings and annotations, whose change no test can see."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(value=None)
    return ast.dump(tree)


def _first_difference(before: str, after: str) -> tuple[int, str, str]:
    pairs: Iterator[tuple[str, str]] = zip(before.splitlines(), after.splitlines(), strict=False)
    for number, (old, new) in enumerate(pairs, 1):
        if old != new:
            return number, old.strip(), new.strip()
    return 0, "", ""


def main() -> int:
    """Prints the table and the survivors; exit code 0 whatever survives, since each must be reviewed by a person."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modules", type=int, default=60, help="the largest modules (60)")
    parser.add_argument("--each", type=int, default=10, help="mutants of each (10)")
    parser.add_argument("--only", default="", metavar="PREFIX", help="modules whose dotted name begins so")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--limit-s", type=float, default=120.0, help="processor seconds for one mutant (120)")
    parser.add_argument("--trust-tests", action="store_true", help="the suite has just passed: do not run it unchanged")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every outcome there")
    parsed = parser.parse_args()
    nearest, randomness = tests_by_module(), random.Random(parsed.seed)
    paths = largest_modules(parsed.modules, parsed.only)
    untested = Counter(_dotted(path) for path in paths if not nearest[_dotted(path)])
    mutants = [m for path in paths if nearest[_dotted(path)] for m in mutants_of(path, parsed.each, randomness)]
    randomness.shuffle(mutants)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(parsed.processes) as pool:
        free: SimpleQueue[Copy] = SimpleQueue()
        opened = copies(parsed.processes, Path(folder))
        for copy in opened:
            free.put(copy)

        def in_copy(work: Callable[[Copy], Result]) -> Result:
            copy = free.get()
            try:
                return work(copy)
            finally:
                free.put(copy)

        def judge_one(mutant: Mutant) -> Outcome:
            return in_copy(lambda copy: judge(mutant, copy, nearest[mutant.module], parsed.limit_s))

        # Tests that fail or take too long by themselves would pass for sharp eyes.
        suites = [] if parsed.trust_tests else sorted({tuple(nearest[mutant.module]) for mutant in mutants})
        codes = pool.map(lambda suite: in_copy(lambda copy: copy.run_tests(suite, parsed.limit_s)), suites)
        for suite, code in zip(suites, tqdm(codes, total=len(suites), unit="suite"), strict=True):
            if code != 0:
                said = "take too long" if code is None else "fail"
                sys.exit(f"{' '.join(map(str, suite))}: expected tests that pass on the code as it is; they {said}")

        for outcome in tqdm(pool.map(judge_one, mutants), total=len(mutants), unit="mutant"):
            outcomes.append(outcome)
            if parsed.json:
                parsed.json.write_text(json.dumps([asdict(each) for each in outcomes], indent=1))
        for copy in opened:
            copy.close()
    print(table(outcomes, untested))
    for outcome in sorted(outcomes, key=lambda each: (each.module, each.line)):
        if outcome.verdict == "survived":
            print(f"{outcome.module}:{outcome.line} {outcome.operator}\n  - {outcome.before}\n  + {outcome.after}")
    print(f"\nModules that no test imports: {', '.join(untested_modules()) or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
