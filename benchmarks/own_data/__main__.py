"""A newcomer's way with six sets of one's own: inspect, draft, edit, convert, check, one mixture, two training steps.

    python -m benchmarks.own_data [--command PATH/embodimix] [--folder FOLDER] [--only NAME ...]

Writes small sets in the forms of other people's tools, runs each command in a process of its own in an empty folder,
and prints how many commands and edited lines each set took. Plain TFDS then reads what was stored, and every number,
instruction and picture is compared with what the set shows. --command: that of another environment, such as one that
holds the wheel alone; its Python reads with TFDS. Exit code 1 where a command failed or a number is another.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.own_data.twins import TWINS, Twin

# What a newcomer who knows the robot answers to each draft: what is found -> what stands there afterwards.
_DEGREES = {'degrees: "?"': "degrees: true"}
_WIDTH = {'open: "?", closed: "?"': "open: 0.085, closed: 0"}
_ANSWERS: dict[str, Mapping[str, str]] = {
    "so101_v21": _DEGREES,
    "so101_v30": _DEGREES,
    "aloha": {'task: "?"': 'task: "lift the cube"'},
    "umi": {'task: "?"': 'task: "fold the towel"', **_WIDTH},
    "bag": _WIDTH,
    "tfds": {'rate "?"': "rate 10", 'form: "?"': "form: xyz_rpy", 'open: "?", closed: "?"': "open: 1, closed: 0"},
}
_STEPS = 2


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one set took, and what is wrong with it; dataset: where its shards lie."""

    twin: Twin
    n_commands: int
    n_edited: int
    dataset: Path
    faults: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Desk:
    """The newcomer's folder, and the command that is typed in it."""

    folder: Path
    command: tuple[str, ...]
    python: str

    def run(self, *arguments: object) -> str:
        """Returns what a command printed; RuntimeError with all of it where it failed."""
        return self._run([*self.command, *map(str, arguments)])

    def run_python(self, *arguments: object) -> str:
        return self._run([self.python, *map(str, arguments)])

    def _run(self, command: Sequence[str]) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "EMBODIMIX_REGISTRY"}
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.own_data", description=__doc__)
    parser.add_argument("--command", type=Path, help="the embodimix of another environment")
    parser.add_argument("--folder", type=Path, help="an empty folder to work in, which is kept")
    parser.add_argument("--only", nargs="+", choices=[twin.name for twin in TWINS], help="these sets alone")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="embodimix-own-") as folder:
        desk = _desk((arguments.folder or Path(folder)).resolve(), arguments.command)
        rows = [_bring_in(desk, twin) for twin in TWINS if twin.name in (arguments.only or _ANSWERS)]
        trained = _train(desk, [row.dataset for row in rows])
    print(_to_markdown(rows, trained))
    for row in rows:
        for fault in row.faults:
            print(f"! {row.twin.name}: {fault}")
    return int(trained != _STEPS or any(row.faults for row in rows))


def _desk(folder: Path, command: Path | None) -> Desk:
    folder.mkdir(parents=True, exist_ok=True)
    if command is None:
        return Desk(folder=folder, command=(sys.executable, "-m", "trainers.main"), python=sys.executable)
    command = command.absolute()
    return Desk(folder=folder, command=(str(command),), python=str(command.with_name("python")))


def _bring_in(desk: Desk, twin: Twin) -> Row:
    """Types the commands for one set: the draft, what the draft says is next, and the check."""
    truth = desk.folder / f"truth/{twin.name}.npz"
    source = twin.write(desk.folder / "logs", truth).relative_to(desk.folder)
    draft = desk.folder / f"{twin.name}.yaml"
    desk.run("inspect", source, "--draft", draft.name)
    n_edited = _answer(draft, _ANSWERS[twin.name])
    said = next(line for line in draft.read_text().splitlines() if line.startswith("# Then: embodimix "))
    desk.run(*said.removeprefix("# Then: embodimix ").split())
    words = said.split()
    dataset = desk.folder / "data" / words[words.index("--name") + 1] / "1.0.0"
    desk.run("check", dataset.relative_to(desk.folder))
    compare = Path(__file__).with_name("compare.py")
    faults = json.loads(desk.run_python(compare, truth, dataset).splitlines()[-1])
    return Row(twin=twin, n_commands=3, n_edited=n_edited, dataset=dataset, faults=tuple(faults))


def _answer(draft: Path, answers: Mapping[str, str]) -> int:
    """Edits a draft; returns the number of lines that are other ones afterwards."""
    before = draft.read_text()
    after = before
    for asked, answer in answers.items():
        if asked not in after:
            raise RuntimeError(f"{draft}: expected the question {asked}, found\n{before}")
        after = after.replace(asked, answer)
    draft.write_text(after)
    return sum(a != b for a, b in zip(before.splitlines(), after.splitlines(), strict=True))


def _train(desk: Desk, datasets: Sequence[Path]) -> int:
    """Trains on one mixture of all sets; returns the steps of the run's metrics."""
    listed = "\n".join(f"      - {{path: {path.relative_to(desk.folder)}}}" for path in datasets)
    spec = "schema: embodimix.mixture/v1\nname: own\nseed: 1\ngroups:\n  - name: own\n    datasets:\n"
    (desk.folder / "mixture.yaml").write_text(f"{spec}{listed}\n")
    desk.run("train", "pretrain", "mixture.yaml", "--model", "tiny", "--steps", _STEPS, "--run", "runs/own")
    lines = (desk.folder / "runs/own/metrics.jsonl").read_text().splitlines()
    return max(json.loads(line).get("step", 0) for line in lines)


def _to_markdown(rows: Sequence[Row], trained: int) -> str:
    lines = ["| set | commands | edited lines | numbers, words, pictures | steps trained |", "|---|---:|---:|---|---:|"]
    for row in rows:
        equal = "differ" if row.faults else "as written"
        lines.append(f"| {row.twin.title} | {row.n_commands} | {row.n_edited} | {equal} | {trained} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
