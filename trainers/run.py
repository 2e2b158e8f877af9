"""The run directory: everything a result depends on, under fixed names, claimed by one process at a time.

RUN/config.yaml            the resolved config (trainers.config)
    mixture.lock.json      groups, probabilities and dataset fingerprints it trains on
    statistics.json        what normalizes state and action, per norm key
    robots.json            slots, parts and rates of the robots it learned to drive
    checkpoints/<step>/    parameters, optimizer, moving average, and the position in the stream
    metrics.jsonl          one line per logged step; tensorboard/ the same as curves
    eval/                  reports of `embodimix eval`
"""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.contract.errors import FailedWork, UsageError
from pipelines.shards.dataset import INFO_FILE
from pipelines.storage.files import write_atomically
from trainers.config import RunConfig, from_yaml, to_yaml

_MOST_RUNS = 5

CLAIM = ".claim"


@dataclass(frozen=True)
class RunDirectory:
    """The paths inside one run directory; they are computed, and only the read and write methods touch the disk."""

    path: Path

    @property
    def config_path(self) -> Path:
        return self.path / "config.yaml"

    @property
    def lock_path(self) -> Path:
        return self.path / "mixture.lock.json"

    @property
    def statistics_path(self) -> Path:
        return self.path / "statistics.json"

    @property
    def robots_path(self) -> Path:
        return self.path / "robots.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    def exists(self) -> bool:
        """Whether a run was set up here. Its config is written last, so that a kill in between leaves no half run."""
        return self.config_path.exists()

    def read_config(self) -> RunConfig:
        """Raises UsageError where no run was set up."""
        if not self.exists():
            raise UsageError(f"{self.path}: expected a run directory with config.yaml; found {_found_at(self.path)}")
        return from_yaml(self.config_path)

    def read_lock(self) -> dict[str, Any]:
        """UsageError where it is missing: what the run trained on would no longer be known."""
        path = self._present(self.lock_path)
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError, RecursionError) as error:
            message = f"{path}: expected the lock that the run wrote when it started, found: {error}. Restore it"
            raise UsageError(message) from error

    def recorded_statistics(self) -> Path:
        """The file that normalizes what this run's policy sees and does. UsageError where it is missing."""
        return self._present(self.statistics_path)

    def _present(self, path: Path) -> Path:
        if not path.exists():
            raise UsageError(f"{path}: expected what the run wrote when it started; found no such file. Restore it")
        return path

    def write_config(self, config: RunConfig) -> None:
        write_atomically(self.config_path, to_yaml(config).encode())

    def write_lock(self, lock: dict[str, Any]) -> None:
        write_atomically(self.lock_path, json.dumps(lock, indent=1).encode())

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Holds the directory for this process; FailedWork if another one trains in it."""
        self.path.mkdir(parents=True, exist_ok=True)
        # A lock of the system rather than a file that means "taken": the system releases that of a killed process.
        with open(self.path / CLAIM, "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FailedWork(f"{self.path}: another process is training in this run directory") from None
            yield


def _found_at(path: Path) -> str:
    """What lies where a run was expected, and which runs are near."""
    found = "a file" if path.is_file() else "a dataset" if (path / INFO_FILE).exists() else "none"
    near = sorted({config.parent for folder in ("*", "runs/*") for config in Path().glob(f"{folder}/config.yaml")})
    if not near:
        return f"{found}. `embodimix train pretrain SPEC --run DIR` makes one"
    return f"{found}. Runs from here: {', '.join(map(str, near[:_MOST_RUNS]))}"
