"""Reviews in SQLite: every save is durable at once, so that a kill at any moment loses nothing that was saved."""

import hashlib
import itertools
import json
import math
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pipelines.contract.episode import Segment
from pipelines.contract.errors import FailedWork
from pipelines.segments.tables import Annotation, to_parquet
from pipelines.storage.files import write_atomically

Status = Literal["draft", "done"]
HOLD_S = 90.0
_SCHEMA_VERSION = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS layer (
    episode_id TEXT, annotator TEXT, revision INTEGER, episode_hash TEXT, segments TEXT, status TEXT, seconds REAL,
    created TEXT, author TEXT, PRIMARY KEY (episode_id, annotator));
CREATE TABLE IF NOT EXISTS kept (
    episode_id TEXT, annotator TEXT, segments TEXT, reason TEXT, created TEXT, author TEXT);
CREATE TABLE IF NOT EXISTS hold (episode_id TEXT, annotator TEXT, until REAL, PRIMARY KEY (episode_id, annotator));
CREATE TABLE IF NOT EXISTS exported (annotator TEXT, sha256 TEXT, PRIMARY KEY (annotator, sha256));
"""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One annotator's segments of one episode. revision: counts saves. seconds: time spent on it. author: who saved."""

    episode_id: str
    annotator: str
    revision: int
    episode_hash: str
    segments: tuple[Segment, ...]
    status: Status
    seconds: float
    created: str
    author: str


class StaleSave(FailedWork):
    """A save that started from an older revision; it is kept aside, and the newer layer stays. `current` is that."""

    def __init__(self, current: Layer) -> None:
        self.current = current
        super().__init__(
            f"episode {current.episode_id}: {current.author} saved revision {current.revision} in between; "
            "your version is kept aside"
        )


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one annotator has done: episodes, and the median of seconds spent on one."""

    annotator: str
    done: int
    drafts: int
    median_s: float


class ReviewStore:
    """The layers of all annotators, in one SQLite file."""

    def __init__(self, path: Path) -> None:
        """Opens or makes the file. Raises FailedWork where it is no review file of this schema."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        try:
            self._database = sqlite3.connect(path, check_same_thread=False, timeout=30.0, isolation_level=None)
            # Readers do not wait for a writer in WAL mode, and FULL syncs each save: a power cut loses nothing that was
            # saved.
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            found = self._database.execute("PRAGMA user_version").fetchone()[0]
            if found not in (0, _SCHEMA_VERSION):
                raise FailedWork(f"{path}: expected review schema {_SCHEMA_VERSION}, found {found}")
            self._database.executescript(_TABLES)
            self._database.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")
        except sqlite3.DatabaseError as error:
            raise FailedWork(f"{path}: expected a review file, found {error}") from error

    def close(self) -> None:
        self._database.close()

    def layer(self, episode_id: str, annotator: str) -> Layer | None:
        """One annotator's layer, None where nothing was saved."""
        rows = self._layers("WHERE episode_id = ? AND annotator = ?", (episode_id, annotator))
        return rows[0] if rows else None

    def layers(self, episode_id: str) -> list[Layer]:
        """Everyone's layers of an episode, by annotator."""
        return self._layers("WHERE episode_id = ? ORDER BY annotator", (episode_id,))

    def save(
        self,
        episode_id: str,
        annotator: str,
        segments: Sequence[Segment],
        *,
        base_revision: int,
        episode_hash: str,
        status: Status = "draft",
        seconds: float = 0.0,
        author: str = "",
    ) -> int:
        """Saves a layer, durably when this returns, and returns its new revision, base_revision + 1.

        Raises StaleSave where the layer's revision is another than `base_revision`; what was sent is kept.
        """
        text = json.dumps([asdict(segment) for segment in segments])
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        author = author or annotator
        with self._lock, _transaction(self._database):
            current = self.layer(episode_id, annotator) or _nothing(episode_id, annotator)
            if current.revision != base_revision:
                # Kept beside the newer version: a person's work is never dropped, whoever saved first.
                row = (episode_id, annotator, text, "stale save", now, author)
                self._database.execute("INSERT INTO kept VALUES (?, ?, ?, ?, ?, ?)", row)
            else:
                self._database.execute(
                    "INSERT OR REPLACE INTO layer VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (episode_id, annotator, base_revision + 1, episode_hash, text, status, seconds, now, author),
                )
        if current.revision != base_revision:
            raise StaleSave(current)
        return base_revision + 1

    def kept(self, episode_id: str) -> list[tuple[str, tuple[Segment, ...]]]:
        """Versions that lost against a newer one: author and segments, in order of time."""
        rows = self._rows("SELECT author, segments FROM kept WHERE episode_id = ? ORDER BY rowid", (episode_id,))
        return [(author, _segments(text)) for author, text in rows]

    def hold(self, episode_id: str, annotator: str, now_s: float) -> None:
        """Records that an annotator works on an episode, for `HOLD_S` from now."""
        with self._lock:
            self._database.execute(
                "INSERT OR REPLACE INTO hold VALUES (?, ?, ?)", (episode_id, annotator, now_s + HOLD_S)
            )

    def release(self, episode_id: str, annotator: str) -> None:
        """Records that an annotator has left an episode."""
        with self._lock:
            self._database.execute("DELETE FROM hold WHERE episode_id = ? AND annotator = ?", (episode_id, annotator))

    def holders(self, now_s: float) -> dict[str, set[str]]:
        """The annotators that work on each episode."""
        found: dict[str, set[str]] = {}
        for episode_id, annotator in self._rows("SELECT episode_id, annotator FROM hold WHERE until > ?", (now_s,)):
            found.setdefault(episode_id, set()).add(annotator)
        return found

    def statuses(self) -> dict[str, dict[str, Status]]:
        """By episode and annotator, for every episode that anyone saved."""
        found: dict[str, dict[str, Status]] = {}
        for episode_id, annotator, status in self._rows("SELECT episode_id, annotator, status FROM layer", ()):
            found.setdefault(episode_id, {})[annotator] = status
        return found

    def work(self) -> list[Work]:
        """What everyone has done, by name."""
        found = self._rows("SELECT annotator, status, seconds FROM layer ORDER BY seconds", ())
        # Files of earlier versions may hold seconds that JSON has no number for; one of them must not stop the page.
        rows = [(name, status, seconds if math.isfinite(seconds) else 0.0) for name, status, seconds in found]
        result = []
        for name in sorted({row[0] for row in rows}):
            spent = [seconds for annotator, status, seconds in rows if annotator == name and status == "done"]
            drafts = sum(annotator == name and status == "draft" for annotator, status, _ in rows)
            median = spent[len(spent) // 2] if spent else 0.0
            result.append(Work(annotator=name, done=len(spent), drafts=drafts, median_s=median))
        return result

    def export(self, directory: Path, tool_version: str) -> list[Path]:
        """Writes everyone's finished layers as segment tables, `<annotator>.parquet`; returns the files.

        A file of that name that no export of this store wrote (a labeler's table, or the same person's from another
        machine) stays: the table is then `<annotator>-2.parquet`, and a merge shows where the two disagree.
        """
        paths = []
        layers = self._layers("WHERE status = 'done' ORDER BY annotator, episode_id", ())
        for annotator in sorted({layer.annotator for layer in layers}):
            rows = [
                Annotation(
                    episode_id=layer.episode_id,
                    episode_hash=layer.episode_hash,
                    segment=segment,
                    annotator=annotator,
                    created=layer.created,
                    tool_version=tool_version,
                )
                for layer in layers
                if layer.annotator == annotator
                for segment in layer.segments
            ]
            content = to_parquet(rows)
            paths.append(self._own_path(directory, annotator))
            # Noted before it is written: after a kill in between, the file must still count as this store's own.
            row = (annotator, hashlib.sha256(content).hexdigest())
            with self._lock:
                self._database.execute("INSERT OR IGNORE INTO exported VALUES (?, ?)", row)
            write_atomically(paths[-1], content)
        return paths

    def _own_path(self, directory: Path, annotator: str) -> Path:
        """The first of `<annotator>.parquet`, `<annotator>-2.parquet`, ... that is free or was written by an export."""
        own = {sha256 for (sha256,) in self._rows("SELECT sha256 FROM exported WHERE annotator = ?", (annotator,))}
        names = (f"{annotator}{'' if n == 1 else f'-{n}'}.parquet" for n in itertools.count(1))
        paths = (directory / name for name in names)
        return next(p for p in paths if not p.exists() or hashlib.sha256(p.read_bytes()).hexdigest() in own)

    def _rows(self, query: str, values: tuple[str | float, ...]) -> list[tuple]:
        # One connection serves all threads; without the lock a reader could see half a transaction.
        with self._lock:
            return self._database.execute(query, values).fetchall()

    def _layers(self, condition: str, values: tuple[str, ...]) -> list[Layer]:
        columns = "episode_id, annotator, revision, episode_hash, segments, status, seconds, created, author"
        rows = self._rows(f"SELECT {columns} FROM layer {condition}", values)
        return [
            Layer(
                episode_id=row[0],
                annotator=row[1],
                revision=row[2],
                episode_hash=row[3],
                segments=_segments(row[4]),
                status=row[5],
                seconds=row[6] if math.isfinite(row[6]) else 0.0,
                created=row[7],
                author=row[8],
            )
            for row in rows
        ]


class _transaction:
    """A transaction that holds the write lock from its beginning."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self.database = database

    def __enter__(self) -> None:
        # A transaction that begins as a reader may fail when it first writes, after it decided by an old revision.
        self.database.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.database.execute("COMMIT" if kind is None else "ROLLBACK")


def _segments(text: str) -> tuple[Segment, ...]:
    """Segments as they were saved; letters that an earlier version accepted and UTF-8 cannot encode are replaced."""
    whole = json.dumps(json.loads(text), ensure_ascii=False).encode("utf-8", "replace").decode()
    return tuple(Segment(**{**row, "arms": tuple(row["arms"])}) for row in json.loads(whole))


def _nothing(episode_id: str, annotator: str) -> Layer:
    return Layer(
        episode_id=episode_id,
        annotator=annotator,
        revision=0,
        episode_hash="",
        segments=(),
        status="draft",
        seconds=0.0,
        created="",
        author=annotator,
    )
