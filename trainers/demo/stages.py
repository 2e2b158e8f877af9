"""Stages of the demo: commands run as processes, watched, logged, and not repeated once they are done."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipelines.contract.errors import FailedWork
from pipelines.storage.files import write_atomically

POLL_S = 0.2
LINE_EVERY_S = 15.0
TAIL_LINES = 25
# Quiet TensorFlow, prompt logs; stages that compile the same step share the result.
ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One command of the demo.

    name: also the name of its log. title: for people. arguments: those of `python -m`, module first.
    output: where its standard output goes, if it is a result; else to the log with everything else.
    """

    name: str
    title: str
    arguments: tuple[str, ...]
    output: Path | None = None

    @property
    def shown(self) -> str:
        """The command as a person would type it."""
        module, *rest = self.arguments
        name = ["embodimix"] if module == "trainers.main" else ["python", "-m", module]
        return shlex.join([*name, *rest])


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """What a stage took. cpu: of its process and those it waited for; on an idle machine they decide the wall time."""

    wall: float
    cpu: float


class Runner:
    """Runs stages, up to `width` side by side, and keeps the seconds of each in `times.json`."""

    def __init__(self, folder: Path, n_stages: int) -> None:
        self._folder, self._n_stages, self._begun = folder, n_stages, 0
        self._times_path = folder / "times.json"
        folder.mkdir(parents=True, exist_ok=True)
        self.seconds: dict[str, Seconds] = {}
        if self._times_path.exists():
            times = json.loads(self._times_path.read_text())
            self.seconds = {name: Seconds(**seconds) for name, seconds in times.items()}

    def run(self, stages: Sequence[Stage], width: int = 1) -> None:
        """Runs stages that are not done yet. FailedWork, with the end of its log, if one fails; the others end."""
        waiting, running = list(stages), list[_Running]()
        try:
            while waiting or running:
                while waiting and len(running) < width:
                    stage = waiting.pop(0)
                    self._begun += 1
                    number = f"[{self._begun}/{self._n_stages}]"
                    if stage.name in self.seconds:
                        print(f"{number} {stage.title}: done before", flush=True)
                        continue
                    print(f"{number} {stage.title}\n      $ {stage.shown}", flush=True)
                    running.append(_Running(stage, self._folder / f"{stage.name}.log"))
                time.sleep(POLL_S)
                running = [task for task in running if not self._is_over(task)]
        finally:
            for task in running:
                task.process.terminate()
                task.process.wait()

    def _is_over(self, task: "_Running") -> bool:
        code = task.poll()
        if code is None:
            task.show_progress()
            return False
        task.close()
        if code:
            raise FailedWork(
                f"{task.stage.title} failed with exit code {code}:\n  $ {task.stage.shown}\n"
                f"{_tail(task.log, TAIL_LINES)}\nIts whole output: {task.log}. The same command resumes at this stage."
            )
        taken = Seconds(wall=round(time.monotonic() - task.start, 1), cpu=round(task.cpu_s, 1))
        self.seconds[task.stage.name] = taken
        times = {name: vars(seconds) for name, seconds in self.seconds.items()}
        write_atomically(self._times_path, json.dumps(times, indent=1).encode())
        print(f"      {task.stage.title}: {taken.wall:.0f} s, {taken.cpu:.0f} s of CPU", flush=True)
        return True


class _Running:
    """A stage's process and its log."""

    def __init__(self, stage: Stage, log: Path) -> None:
        self.stage, self.log, self.start = stage, log, time.monotonic()
        self._shown_at, self.cpu_s = self.start, 0.0
        self._files: list[IO[bytes]] = [open(log, "wb")]
        if stage.output is not None:
            self._files.append(open(stage.output, "wb"))
        environment = os.environ | ENVIRONMENT | {"JAX_COMPILATION_CACHE_DIR": str(log.parent / "xla")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", *stage.arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._files[-1],
            stderr=self._files[0],
            env=environment,
        )

    def poll(self) -> int | None:
        """The exit code once the process has ended, and then `cpu_s` as well."""
        pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
        if not pid:
            return None
        self.cpu_s = usage.ru_utime + usage.ru_stime
        # The process is reaped here, where its usage is known, and `subprocess` must not wait for it again.
        self.process.returncode = os.waitstatus_to_exitcode(status)
        return self.process.returncode

    def show_progress(self) -> None:
        """Prints the last line of the log at intervals."""
        now = time.monotonic()
        if now - self._shown_at < LINE_EVERY_S:
            return
        self._shown_at = now
        last = _tail(self.log, 1).strip()[:110]
        print(f"      {self.stage.title}: {now - self.start:4.0f} s  {last}", flush=True)

    def close(self) -> None:
        for file in self._files:
            file.close()


def _tail(log: Path, lines: int) -> str:
    """The last lines of a log; of a progress bar, which rewrites its line, the newest state."""
    text = log.read_bytes()[-20_000:].decode(errors="replace")
    kept = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n") if line.strip()]
    return "\n".join(kept[-lines:])
