"""Watching a local run: progress over its shards, and a loud end when a worker was killed or nothing happens."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from pipelines.conversion.heartbeat import beat, end_heartbeat, last_beat_s
from pipelines.conversion.local_workers import deaths_noted, end_processes, killed_worker_message
from pipelines.conversion.plan import Job

_POLL_S = 0.2
# In an object store each look at the results is a paid listing.
_REMOTE_POLL_S = 10.0


@contextmanager
def supervised(job: Job, n_shards: int, no_progress_s: float) -> Iterator[None]:
    """Shows a progress bar over shards, and ends this process loudly when a worker process was killed, or nothing was
    done for `no_progress_s`.

    A dead worker makes Beam's local runner wait for ever. With 0 s there is no limit of our own.
    """
    beat(job)
    ended = threading.Event()
    # Beam 2.77's local runner was still waiting 60 s after a worker was killed, so the launcher watches by itself.
    with deaths_noted() as deaths:
        watcher = threading.Thread(target=_watch, args=(job, n_shards, no_progress_s, deaths, ended), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
            end_heartbeat(job)


def _watch(job: Job, n_shards: int, no_progress_s: float, deaths: list[str], ended: threading.Event) -> None:
    results, poll_s = job.work / "results", _POLL_S if isinstance(job.work, Path) else _REMOTE_POLL_S
    last_s = time.monotonic()
    with tqdm(total=n_shards, unit="shard", desc=f"convert {job.name}", disable=not sys.stderr.isatty()) as bar:
        while not ended.wait(poll_s):
            bar.update(sum(1 for _ in results.glob("*.json")) - bar.n)
            last_s = max(last_s, last_beat_s(job) or last_s)
            silent_s = time.monotonic() - last_s
            if deaths:
                _give_up(killed_worker_message(deaths[0]))
            if no_progress_s and silent_s > no_progress_s:
                _give_up(f"no worker has made progress for {silent_s:.0f} s; a worker may have been killed")
        bar.update(sum(1 for _ in results.glob("*.json")) - bar.n)


def _give_up(reason: str) -> None:
    """Ends this process and the workers it started, with a message."""
    advice = "Finished shards are kept; run the same command again"
    print(f"embodimix convert: {reason}. {advice}", file=sys.stderr, flush=True)
    end_processes()
    # The main thread waits inside Beam's runner, where no exception of this thread reaches it.
    os._exit(1)
