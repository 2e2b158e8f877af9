"""Provokes mistakes, each in a folder of its own."""

import contextlib
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.mistakes.cases import MISTAKES
from benchmarks.mistakes.preparing import DATASET, SPEC, write
from benchmarks.mistakes.records import Mistake, Outcome
from tests.support.inputs.mixture_data import make_episode, write_dataset

HOME = Path(__file__).resolve().parents[2]


def provoke(mistake: Mistake, folder: Path) -> Outcome:
    """Makes the mistake in a folder of its own that holds a dataset and a mixture of it."""
    episodes = [make_episode(number) for number in range(2)]
    write_dataset(folder / "data", "toy", episodes, n_shards=1)
    write(SPEC, f"schema: embodimix.mixture/v1\nname: toy\ndatasets: [{{path: {DATASET}}}]\n")(folder)
    mistake.prepare(folder)
    arguments = [_filled(argument, folder) for argument in mistake.arguments]
    began = time.monotonic()
    code, message = _in_process(arguments, folder) if not mistake.program else _alone(mistake, arguments, folder)
    return Outcome(mistake=mistake, message=message, code=code, seconds=time.monotonic() - began)


def _filled(argument: str, folder: Path) -> str:
    if argument == "PORT":
        return (folder / "port").read_text()
    if argument == "EPISODE":
        from annotation_tools.episodes import EpisodeStore

        return next(iter(EpisodeStore(folder / DATASET).briefs))
    return argument


def _in_process(arguments: Sequence[str], folder: Path) -> tuple[int, str]:
    from trainers.main import main

    said = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = main(arguments)
        except SystemExit as end:  # argparse's own
            code = int(end.code or 0)
        except Exception as error:
            code, message = 1, f"Traceback (most recent call last): {error!r}"
            said.write(message)
    return code, said.getvalue()


def _alone(mistake: Mistake, arguments: Sequence[str], folder: Path) -> tuple[int, str]:
    environment = os.environ | {"PYTHONPATH": str(HOME)}
    command = [sys.executable, "-c", mistake.program, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def provoke_all(kind: str = "") -> Iterator[Outcome]:
    """Every mistake of a kind, or every one."""
    os.environ.setdefault("EMBODIMIX_CACHE", tempfile.mkdtemp(prefix="embodimix-mistakes-"))
    for mistake in MISTAKES:
        if kind in ("", mistake.kind):
            with tempfile.TemporaryDirectory(prefix="embodimix-mistake-") as folder:
                yield provoke(mistake, Path(folder))
