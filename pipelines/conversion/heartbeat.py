"""The heartbeat that the supervisor of a local run watches: when a worker last did something.

The time is the machine's monotonic clock, which all processes of a machine share, so that a clock that is set back or
forward by an hour is neither work nor the lack of it. The file lies in a folder that only this user may enter.
"""

import hashlib
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from pipelines.conversion.plan import Job

# A sign costs a write; a supervisor that waits for minutes needs no more than one a second.
_BEAT_S = 1.0
_last_beat_s: dict[str, float] = {}


def beat(job: Job) -> None:
    """Records that work continues, at most once a second."""
    now = time.monotonic()
    if now - _last_beat_s.get(job.options_hash, -_BEAT_S) < _BEAT_S:
        return
    _last_beat_s[job.options_hash] = now
    path = heartbeat_path(job)
    part = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    # A worker of a cluster may have no disk that it may write to, and no supervisor watches it from this machine.
    with suppress(OSError):
        # Made again each time: a cache cleaner may remove the folder while a conversion runs.
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part.write_text(repr(now))
        os.replace(part, path)


def last_beat_s(job: Job) -> float | None:
    """The monotonic time of the last sign of work, in s; None where there is none to read."""
    try:
        return float(heartbeat_path(job).read_text())
    except (OSError, ValueError):
        return None


def end_heartbeat(job: Job) -> None:
    """Removes the file once the run has ended."""
    heartbeat_path(job).unlink(missing_ok=True)
    _last_beat_s.pop(job.options_hash, None)


def heartbeat_path(job: Job) -> Path:
    """The file of this machine and user that holds the time of the last sign of work.

    Not in the shared folder of temporary files: there another user could hold the name, or a clean-up remove it.
    """
    name = hashlib.sha256(f"{job.directory}\0{job.options_hash}".encode()).hexdigest()[:16]
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "embodimix" / "heartbeats" / f"{name}.beat"
