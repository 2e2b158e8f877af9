"""Conversions that are killed at random moments, run again until they end, and compared byte by byte."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.chaos.outcomes import Tally
from tests.support.inputs.native_files import bridge_features, write_rlds

_N_EPISODES = 48
_MOST_RUNS = 60


def try_kills(root: Path, seconds: float, seed: int) -> Tally:
    """Kills a conversion again and again until it ends by itself; as often as there is time for."""
    source = write_rlds(root / "in", {"train": [bridge_features(i) for i in range(_N_EPISODES)]})
    begin = time.monotonic()
    _run(source, root / "whole", None)
    wall_s = time.monotonic() - begin
    expected = _hashes(root / "whole")
    tally, chance = Tally(kind="kills of a conversion"), random.Random(seed)
    while time.monotonic() - begin < max(seconds, 3 * wall_s):
        out = root / "out"
        n_kills = 0
        # Most of a run is the start of Python: the moments are spread over what comes after it.
        while _run(source, out, chance.uniform(0.2, 0.7) * wall_s) and n_kills < _MOST_RUNS:
            n_kills += 1
            tally.add("same", "")
        _run(source, out, None)
        if (found := _hashes(out)) != expected:
            names = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
            tally.add("silent difference", f"after {n_kills} kills: {', '.join(names)}")
        shutil.rmtree(out)
    return tally


def _run(source: Path, out: Path, kill_after_s: float | None) -> bool:
    """Converts; returns whether it was killed. Raises RuntimeError where it fails by itself."""
    command = [sys.executable, "-m", "trainers.main", "convert", "rlds", str(source), str(out)]
    facts = ["--name", "x", "--version", "1.0.0", "--adapter", "bridge_orig", "--workers", "2", "--shards", "8"]
    process = subprocess.Popen(
        [*command, *facts], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        _, said = process.communicate(timeout=kill_after_s)
    except subprocess.TimeoutExpired:
        # The process is the leader of its own session, so that this ends its workers too, and no others.
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True
    if process.returncode:
        raise RuntimeError(f"the conversion failed with exit code {process.returncode}: {said.decode()[-500:]}")
    return False


def _hashes(out: Path) -> dict[str, str]:
    """The hash of every file that readers use; the manifest and the card state times of day."""
    folder = out / "x/1.0.0"
    files = [*folder.glob("*.tfrecord-*"), *folder.glob("index/*"), *folder.glob("*.json"), *folder.glob("*.parquet")]
    kept = sorted(path for path in files if path.name != "manifest.json")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}
