"""One try in a process of its own, with limits on time and memory, and its outcome."""

import hashlib
import multiprocessing
import os
import resource
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Literal, get_args

Outcome = Literal[
    "same",
    "refused by name",
    "clear error",
    "unprovable",
    "silent difference",
    "traceback",
    "hang",
    "ran or leaked",
]
# What a source may do to a conversion; the others are faults.
GOOD: frozenset[Outcome] = frozenset({"same", "refused by name", "clear error", "unprovable"})
HANG_S = 60.0
_MEMORY_BYTES = 6 << 30


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a conversion makes of a source: a hash of every episode that it keeps by its key, and what it names.

    rejects: key and reason of everything that is left out; of a whole file or store, its name and the reason.
    """

    episodes: Mapping[str, str]
    rejects: tuple[tuple[str, str], ...] = ()
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A try that gave no reading: `hang`, or the traceback."""

    what: Outcome
    text: str


@dataclass(kw_only=True)
class Tally:
    """How often each outcome came of tries of one kind, and the first of each bad one in words."""

    kind: str
    counts: Counter[Outcome] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)

    def add(self, outcome: Outcome, what: str) -> None:
        self.counts[outcome] += 1
        if outcome not in GOOD:
            self.bad.append(f"{self.kind}: {outcome}: {what}")


def attempt(read: Callable[[], Reading], limit_s: float = HANG_S) -> Reading | Failure:
    """Calls `read` in a forked process that may use 6 GiB more than this one."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(read, theirs))
    process.start()
    theirs.close()
    try:
        if not ours.poll(limit_s):
            return Failure(what="hang", text=f"no answer after {limit_s:.0f} s")
        answer: Reading | Failure = ours.recv()
        return answer
    except EOFError:
        process.join()
        return Failure(what="traceback", text=f"the process died with exit code {process.exitcode}")
    finally:
        process.kill()
        process.join()
        ours.close()


def _run(read: Callable[[], Reading], answer: Connection) -> None:
    now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + _MEMORY_BYTES, now + _MEMORY_BYTES))
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        answer.send(read())
    except BaseException:
        answer.send(Failure(what="traceback", text=traceback.format_exc(limit=-3)))


def judge(before: Reading, after: Reading | Failure, is_provable: bool) -> Outcome:
    """What a damage came to. is_provable: whether the source itself could show that these bytes are not its own."""
    if isinstance(after, Failure):
        return after.what
    if after.error:
        return "clear error"
    named = [key for key, _ in Counter(after.rejects) - Counter(before.rejects)]
    # Steps and cameras that an episode loses are named below its key.
    changed = [
        key
        for key, value in after.episodes.items()
        if before.episodes.get(key) != value and not any(name.startswith(f"{key}#") for name in named)
    ]
    # A file that cannot be read is one reject, however many episodes it held.
    whole_files = {key for key in named if "#" not in key}
    lost = [key for key in before.episodes if key not in after.episodes and key.partition("#")[0] not in whole_files]
    if changed or len(lost) > len(named):
        return "silent difference" if is_provable else "unprovable"
    return "refused by name" if named else "same"


def hash_of(parts: Sequence[Any]) -> str:
    """A hash of arrays, bytes and texts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else part.tobytes() if hasattr(part, "tobytes") else b"")
        digest.update(repr(part).encode() if isinstance(part, str | tuple | int | float) else b"\0")
    return digest.hexdigest()


def to_markdown(tallies: Sequence[Tally]) -> str:
    """The table of tries and outcomes, the faults at the right, and the faults in words below it."""
    names: tuple[Outcome, ...] = get_args(Outcome)
    lines = [f"| tries of | n | {' | '.join(names)} |", f"|---|{'---:|' * (len(names) + 1)}"]
    for tally in tallies:
        cells = [str(tally.counts[name] or "") for name in names]
        lines.append(f"| {tally.kind} | {tally.counts.total()} | {' | '.join(cells)} |")
    total = sum((tally.counts for tally in tallies), Counter[Outcome]())
    lines.append(f"| all | {total.total()} | {' | '.join(str(total[name] or '') for name in names)} |")
    return "\n".join([*lines, "", *(line for tally in tallies for line in tally.bad)])
