"""Shards that were written to since their index was compiled: read once, and compared with the sidecar's hash."""

import json
from collections.abc import Sequence
from pathlib import Path

from pipelines.shards.dataset import check_hash
from pipelines.shards.sidecar import parse_shard_name
from pipelines.storage.files import write_atomically


def check_times(path: Path, home: Path, shards: Sequence[Path], times_ns: Sequence[int]) -> None:
    """Compares when local shards were last written to with the times in the file `path`, and notes them there.

    The first time there is nothing to compare with. Later the shards whose time differs are read. Raises FailedWork
    for one whose sha256 is not that of its sidecar below `home`.
    """
    known = _known(path, list(times_ns))
    for shard, before_ns, now_ns in zip(shards, known, times_ns, strict=True):
        if before_ns != now_ns:
            sidecar = parse_shard_name(shard.name).sidecar_path(home)
            check_hash(shard, sidecar, "It changed under its index; copy it again.")
    if known != list(times_ns) or not path.exists():
        write_atomically(path, json.dumps(list(times_ns)).encode())


def _known(path: Path, now_ns: list[int]) -> list[int]:
    """The times noted in a file; the present ones where there is no file, and none where it is cut."""
    try:
        times = json.loads(path.read_text())
    except FileNotFoundError:
        return now_ns
    except (OSError, ValueError):
        times = None
    return times if isinstance(times, list) and len(times) == len(now_ns) else [0] * len(now_ns)
