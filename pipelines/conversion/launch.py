"""Launching a conversion: options, lock, plan, the Beam run under a supervisor, and the closing."""

import fcntl
import json
import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from tqdm import tqdm

from pipelines.contract.embodiments import get_embodiment
from pipelines.contract.errors import EmbodimixError, FailedWork, UsageError
from pipelines.contract.native import Found, Reject
from pipelines.conversion.append import Base, carry_shards, load_base, number_after, only_new
from pipelines.conversion.beam_options import check_reach, is_handed_over, is_local, make_beam_options
from pipelines.conversion.cancelling import call_in, call_off
from pipelines.conversion.code_hash import code_hash
from pipelines.conversion.graph import ConvertAll
from pipelines.conversion.heartbeat import beat, end_heartbeat, last_beat_s
from pipelines.conversion.local_workers import deaths_noted, end_processes, killed_worker_message, report_failures_once
from pipelines.conversion.manifest import finish_dataset, remove_tree, trash_path
from pipelines.conversion.measure import load_measured
from pipelines.conversion.plan import ConversionPlan, Job, count_episodes, is_saved, make_plan, options_hash, save_plan
from pipelines.conversion.read_episode import reader_of
from pipelines.conversion.results import load_result
from pipelines.mapping.adapters import FROM_LOG, Adapter
from pipelines.shards.dataset import INFO_FILE
from pipelines.shards.statistics import load_statistics
from pipelines.sources.folders import source_root
from pipelines.storage.files import sweep_leftovers, write_atomically
from pipelines.storage.mirror import DEFAULT_KEPT_GB, forget_copies, with_urls
from pipelines.storage.paths import RemotePath, StoragePath, as_storage_path
from pipelines.storage.retry import with_retries

_NAME = re.compile(r"[a-zA-Z]\w*")
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_POLL_S = 0.2
# One episode is read and encoded in this time on any disk; what takes longer is left to the process's end.
_CALL_OFF_S = 60.0
_REMOTE_POLL_S = 10.0


@dataclass(frozen=True, kw_only=True)
class ConversionRequest:
    """What the user asked for.

    units: the units of the source's joints, where the adapter has a choice and the source does not state them.
    append: the version that new episodes are added to. no_progress_s: a local run that shows no sign of work for so
    long is stopped. input_cache_gb: what a worker process keeps on its disk of an input in an object store.
    partial: an input that lacks files is taken as it is.
    """

    source: str
    output_root: str
    name: str
    version: str
    adapter: Adapter
    robot: str = ""
    task: str = ""
    units: str = ""
    n_shards: int | None = None
    splits: tuple[str, ...] = ()
    val_fraction: float = 0.0
    statistics: str = ""
    append: str = ""
    n_workers: int | None = None
    no_progress_s: float = 600.0
    input_cache_gb: float = DEFAULT_KEPT_GB
    partial: bool = False
    beam_flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(f"--name: expected letters, digits and _, a letter first; found {self.name!r}")
        if not _VERSION.fullmatch(self.version):
            raise UsageError(f"--version: expected MAJOR.MINOR.PATCH such as 1.0.0, found {self.version!r}")
        if not 0 <= self.val_fraction < 1:
            raise UsageError(f"--val-fraction: expected 0 up to 1, found {self.val_fraction}")
        if not self.input_cache_gb >= 0:
            raise UsageError(f"--input-cache: expected 0 GB or more, found {self.input_cache_gb}")
        if self.append and (not _VERSION.fullmatch(self.append) or self.statistics):
            raise UsageError(f"--append: expected a version such as 1.0.0 and no --statistics, found {self.append!r}")
        for name, value in (("--shards", self.n_shards), ("--workers", self.n_workers)):
            if value is not None and value < 1:
                raise UsageError(f"{name}: expected 1 or more, found {value}")
        if self.robot:
            if self.adapter.robot != FROM_LOG:
                self.adapter.check_robot(get_embodiment(self.robot))
            get_embodiment(self.robot)

    @property
    def directory(self) -> StoragePath:
        return source_root(self.output_root) / self.name / self.version


def convert(conversion: ConversionRequest) -> dict[str, Any]:
    """Converts a source into a dataset, or goes on where an earlier run ended; returns the counts of the manifest.

    A launcher that leaves the job to a template returns `handed_over` alone, since there is nothing to close yet.
    Raises UsageError when the output holds something else, FailedWork when work failed or nothing was kept.
    """
    beam_options = make_beam_options(conversion.beam_flags, conversion.n_workers)
    FileSystems.set_options(beam_options)
    check_reach(beam_options, {"INPUT": conversion.source, "OUTPUT_ROOT": conversion.output_root})
    conversion = with_units(conversion)
    with locked(conversion.directory):
        base = find_base(conversion)
        plan = plan_conversion(conversion, base)
        job = make_job(conversion, plan, base)
        if counts := read_finished(job):
            # A launcher that was killed at its very end left it.
            remove_tree(job.work)
            return counts
        report_promised(conversion.source, plan.rejects)
        prepare_output(job, plan, statistics_of(conversion, base))
        every = tuple(sorted(plan.shards))
        todo = tuple(shard for shard in every if load_result(job, shard) is None)
        before = load_measured(job)
        if todo or before is None:
            with supervised(job, len(every), conversion.no_progress_s if is_local(beam_options) else 0):
                run_beam(ConvertAll(job, every, todo, before), beam_options)
            if is_handed_over(beam_options):
                return {"handed_over": True}
        results = [result for shard in every if (result := load_result(job, shard))]
        measured = load_measured(job)
        if len(results) < len(every) or measured is None:
            raise FailedWork(f"{job.directory}: expected {len(every)} shards, found {len(results)}; run it again")
        n_planned = count_episodes(plan) + len(plan.rejects)
        if base is None:
            return finish_dataset(job, n_planned, measured, results, plan.rejects)
        n_planned += base.manifest["counts"]["episodes_in"]
        results += carry_shards(base, plan, job.place)
        return finish_dataset(job, n_planned, measured, results, (*plan.rejects, *base.rejects))


def with_units(conversion: ConversionRequest) -> ConversionRequest:
    """Settles the entry where a source may have one of several units. Raises UsageError where nobody says which."""
    if not conversion.adapter.by_units and not conversion.units:
        return conversion
    from pipelines.sources.lerobot_units import choose_units

    return replace(conversion, adapter=choose_units(conversion.source, conversion.adapter, conversion.units))


def find_base(conversion: ConversionRequest) -> Base | None:
    """Opens the version that is added to, if there is one."""
    if not conversion.append:
        return None
    return load_base(conversion.directory.parent, conversion.append, conversion.version, conversion.adapter)


def plan_conversion(conversion: ConversionRequest, base: Base | None) -> ConversionPlan:
    """Scans the input and assigns its episodes, or those that are new, to shards."""
    found = find_episodes(conversion)
    if base is None:
        return make_plan(found, conversion.n_shards, conversion.val_fraction, conversion.splits)
    plan = make_plan(only_new(found, base), conversion.n_shards, conversion.val_fraction, conversion.splits)
    return number_after(plan, base)


def statistics_of(conversion: ConversionRequest, base: Base | None) -> StoragePath | None:
    """The file of statistics that are given instead of measured, if any."""
    if base is not None:
        return base.dataset.path / "statistics.json"
    return as_storage_path(conversion.statistics) if conversion.statistics else None


def find_episodes(conversion: ConversionRequest) -> Found:
    """Scans the input. Raises UsageError when it is not what the format's reader expects, FailedWork when it cannot be
    read."""
    reader = reader_of(conversion.adapter.format)
    find = getattr(reader, "find_part", None) if conversion.partial else reader.find
    if find is None:
        raise UsageError(f"--partial: format {conversion.adapter.format} promises no files; leave the option out")
    try:
        found: Found = with_retries(lambda: find(conversion.source, conversion.adapter), conversion.source)
    except OSError as error:
        raise FailedWork(f"{conversion.source}: expected an input that can be read, found: {error}") from error
    if conversion.task and len(found.tasks) > 1:
        listed = ", ".join(map(repr, sorted(found.tasks)[:3]))
        raise UsageError(
            f"--task: expected an input of one task, found {len(found.tasks)} ({listed}). Leave --task out, or convert "
            "each task by itself"
        )
    return found


def report_promised(source: str, rejects: Sequence[Reject]) -> None:
    """Says before any work begins what the input promises and does not hold."""
    reasons = Counter(reject.reason for reject in rejects if reject.level == "episode")
    if reasons:
        listed = ", ".join(f"{reason} {n}" for reason, n in reasons.most_common())
        print(
            f"{source}: {reasons.total()} episodes cannot be read ({listed}); the first: {rejects[0].detail}",
            file=sys.stderr,
        )


def make_job(conversion: ConversionRequest, plan: ConversionPlan, base: Base | None = None) -> Job:
    """Returns what workers need, with the hash of everything that decides the output's bytes."""
    frozen = b""
    if given := statistics_of(conversion, base):
        load_statistics(given)
        frozen = given.read_bytes()
    job = Job(
        directory=str(conversion.directory),
        name=conversion.name,
        version=conversion.version,
        adapter=conversion.adapter,
        robot=conversion.robot,
        task=conversion.task,
        has_frozen_statistics=bool(frozen),
        appended_to=conversion.append,
        fixed_cameras=base.dataset.cameras if base else (),
        input_cache_gb=conversion.input_cache_gb,
        partial=conversion.partial,
    )
    return replace(job, options_hash=options_hash(job, plan, frozen))


def read_finished(job: Job) -> dict[str, Any] | None:
    """Returns the counts of a complete dataset that this very job made; None where there is none yet.

    Raises UsageError when the version folder holds anything else.
    """
    directory = job.place
    if not directory.exists() or not any(True for _ in directory.iterdir()):
        return None
    manifest_path = directory / "manifest.json"
    if (directory / INFO_FILE).exists():
        manifest = json.loads(manifest_path.read_text()) if manifest_path.exists() else {}
        if manifest.get("options_hash") == job.options_hash:
            same_code = manifest.get("code_hash") == code_hash(job.adapter, job.robot)
            return manifest["counts"] | {"already_done": True, "same_code": same_code}
        raise UsageError(
            f"{directory}: expected no dataset or this very one, found one made with other options or input "
            f"(options {manifest.get('options_hash', 'unknown')}, now {job.options_hash}). "
            "Choose another --version, or remove that folder"
        )
    # A launcher that was killed while it cleared an unfinished conversion left no more than these two.
    names = sorted({path.name for path in directory.iterdir()} - {"index", trash_path(job.work).name})
    if names and not job.work.exists() and "rejects.parquet" not in names:
        raise UsageError(
            f"{directory}: expected an empty folder or an unfinished conversion, found {', '.join(names[:3])}"
        )
    return None


def prepare_output(job: Job, plan: ConversionPlan, statistics: StoragePath | None) -> None:
    """Sweeps what dead writers left, and what an unfinished conversion with other options left; saves the plan."""
    directory = job.place
    sweep_leftovers(directory)
    if is_saved(job):
        return
    for path in [*directory.glob(f"{job.name}-*.tfrecord-*"), *directory.glob("index/*.parquet")]:
        path.unlink()
    remove_tree(job.work)
    if statistics:
        write_atomically(job.frozen_path, statistics.read_bytes())
    save_plan(job, plan)


def run_beam(transform: ConvertAll, options: PipelineOptions) -> None:
    """Runs the graph to its end. Raises FailedWork with the worker's own words when it fails.

    After a failure, or Ctrl-C, no thread of this process writes any more.
    """
    output = transform.job.directory
    call_in(output)
    report_failures_once()
    try:
        with beam.Pipeline(options=options) as pipeline:
            _ = pipeline | "Convert" >> transform
    except BaseException as error:
        call_off(output, _CALL_OFF_S)
        if not isinstance(error, (RuntimeError, OSError, EmbodimixError)):
            raise
        message = worker_message(with_urls(str(error)))
        raise FailedWork(f"{message}. Finished shards are kept; run the same command again") from error
    finally:
        forget_copies()


def worker_message(text: str) -> str:
    """Returns the last error that a worker reported, without Beam's traceback around it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Full|Work|Exception|Rejected)\b.*:", line)]
    message = errors[-1] if errors else (lines[-1] if lines else "the job failed without a message")
    message = re.sub(r"\s*\[while running .*", "", message)
    return re.sub(r"^[\w.]+\.(FailedWork|DiskFull|UsageError): ", "", message).rstrip(".")


@contextmanager
def locked(directory: StoragePath) -> Iterator[None]:
    """Holds the output for one launcher; the lock ends with the process, however it ends. Raises UsageError.

    Object stores have no such locks; there, two launchers of the same job write the same bytes twice.
    """
    if isinstance(directory, RemotePath):
        yield
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    path = directory.parent / f".{directory.name}.lock"
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A lock file that another launcher removed when it ended locks nothing.
            is_ours = path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino
        except BlockingIOError:
            is_ours = False
        if not is_ours:
            raise UsageError(f"{directory}: another embodimix convert is writing there; wait for it or stop it")
        yield
        path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


@contextmanager
def supervised(job: Job, n_shards: int, no_progress_s: float) -> Iterator[None]:
    """Shows a progress bar over shards, and ends this process loudly when a worker process was killed, or nothing was
    done for `no_progress_s`.

    A dead worker makes Beam's local runner wait for ever; 0 waits as long as the runner does.
    """
    beat(job)
    ended = threading.Event()
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
    """Ends this process and the workers it started; a hung runner cannot be asked to."""
    advice = "Finished shards are kept; run the same command again"
    print(f"embodimix convert: {reason}. {advice}", file=sys.stderr, flush=True)
    end_processes()
    os._exit(1)
