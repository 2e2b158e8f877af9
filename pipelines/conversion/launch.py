"""Launching a conversion: options, lock, plan, the Beam run, and finalizing."""

import fcntl
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.contract.embodiments import get_embodiment
from pipelines.contract.errors import FailedWork, UsageError, advising
from pipelines.contract.native import Found, Reject
from pipelines.contract.progress import phase
from pipelines.contract.words import counted
from pipelines.conversion.append import Base, carry_shards, load_base, number_after, only_new
from pipelines.conversion.code_hash import code_hash
from pipelines.conversion.fingerprints import Mode, check_unchanged, fingerprint_input
from pipelines.conversion.graph import ConvertAll
from pipelines.conversion.manifest import finish_dataset
from pipelines.conversion.measure import load_measured
from pipelines.conversion.outside_lists import (
    NO_LISTS,
    OutsideLists,
    count_rows_without_episode,
    only_listed,
    read_lists,
    save_lists,
)
from pipelines.conversion.plan import (
    WORK,
    ConversionPlan,
    Job,
    count_episodes,
    is_saved,
    load_origin,
    make_plan,
    options_hash,
    save_plan,
)
from pipelines.conversion.read_episode import reader_of
from pipelines.conversion.results import load_result
from pipelines.conversion.supervision import supervised
from pipelines.conversion.used_entries import check_same_robots, robots_for
from pipelines.jobs.beam_options import check_reach, is_local, make_beam_options, writes_template
from pipelines.jobs.running import run_graph
from pipelines.mapping.adapters import FROM_LOG, Adapter
from pipelines.shards.dataset import INFO_FILE
from pipelines.shards.manifest import InputRecord, Manifest, load_manifest
from pipelines.shards.statistics import load_statistics
from pipelines.sources.folders import source_root
from pipelines.storage.files import remove_tree, sweep_leftovers, write_atomically
from pipelines.storage.mirror import DEFAULT_KEPT_GB, forget_copies
from pipelines.storage.paths import RemotePath, StoragePath, as_storage_path
from pipelines.storage.retry import with_retries

_NAME = re.compile(r"[a-zA-Z]\w*")
# As TFDS reads it: a part with a leading zero is no version there.
_VERSION = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*)){2}")


@dataclass(frozen=True, kw_only=True)
class ConversionRequest:
    """The options of one conversion.

    units: the units of the source's joints, where the adapter has a choice and the source does not state them.
    append: the version that new episodes are added to. partial: an input that lacks files is taken as it is.
    trust_images: copies pictures without decoding them once. verify_input: `fast` compares sizes, times, first and last
    bytes of the input's files with those of an earlier run, `full` all bytes. restart: discards an unfinished
    conversion. no_progress_s: a local run that shows no sign of work for so long is stopped. input_cache_gb: what a
    worker process keeps on its disk of an input in an object store. episodes, texts: files from outside that list the
    episodes to keep, and their instructions, by the keys of the source.
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
    trust_images: bool = False
    verify_input: Mode = "fast"
    restart: bool = False
    n_workers: int | None = None
    no_progress_s: float = 600.0
    input_cache_gb: float = DEFAULT_KEPT_GB
    partial: bool = False
    episodes: str = ""
    texts: str = ""
    beam_flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(
                f"--name: expected letters, digits and _, a letter first; found {self.name!r}. "
                f"Such as: {re.sub('[^A-Za-z0-9]+', '_', self.name).lstrip('_0123456789') or 'my_data'}"
            )
        if not _VERSION.fullmatch(self.version):
            expected = "MAJOR.MINOR.PATCH such as 1.0.0, without leading zeros"
            raise UsageError(f"--version: expected {expected}; found {self.version!r}")
        if not 0 <= self.val_fraction < 1:
            raise UsageError(f"--val-fraction: expected 0 up to 1, found {self.val_fraction}")
        if not self.input_cache_gb >= 0:
            raise UsageError(f"--input-cache: expected 0 GB or more, found {self.input_cache_gb}")
        if self.append and (not _VERSION.fullmatch(self.append) or self.statistics):
            raise UsageError(f"--append: expected a version such as 1.0.0 and no --statistics, found {self.append!r}")
        for name, value in (("--shards", self.n_shards), ("--workers", self.n_workers)):
            if value is not None and value < 1:
                raise UsageError(f"{name}: expected 1 or more, found {value}")
        if self.task and self.texts:
            raise UsageError("--task and --language: expected one of them, since each replaces every instruction")
        if self.robot:
            if self.adapter.robot != FROM_LOG:
                self.adapter.check_robot(get_embodiment(self.robot))
            get_embodiment(self.robot)

    @property
    def directory(self) -> StoragePath:
        return source_root(self.output_root) / self.name / self.version


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a launch: the manifest of the whole dataset, or None where a template holds the job.

    already_done: an earlier run had finished it. same_code: by this version of the code.
    """

    manifest: Manifest | None
    already_done: bool = False
    same_code: bool = True

    def to_json(self) -> dict[str, Any]:
        if self.manifest is None:
            return {"handed_over": True}
        content = self.manifest.counts.to_json() | {"inferred": dict(self.manifest.inferred)}
        return content | ({"already_done": True, "same_code": self.same_code} if self.already_done else {})


def convert(conversion: ConversionRequest) -> dict[str, Any]:
    """Converts a source; returns `run_conversion`'s outcome as JSON, the counts of the manifest first of all."""
    return run_conversion(conversion).to_json()


def run_conversion(conversion: ConversionRequest) -> Outcome:
    """Converts a source into a dataset, or resumes where an earlier run ended.

    Raises UsageError when the output holds something else or the input was changed meanwhile, FailedWork when work
    failed or nothing was kept.
    """
    beam_options = make_beam_options(conversion.beam_flags, conversion.n_workers)
    FileSystems.set_options(beam_options)
    check_reach(beam_options, {"INPUT": conversion.source, "OUTPUT_ROOT": conversion.output_root})
    conversion = with_colors(with_units(conversion))
    with locked(conversion.directory):
        base = find_base(conversion)
        lists = read_lists(conversion.episodes, conversion.texts)
        phase(f"convert {conversion.name}: scanning {conversion.source}")
        plan = plan_conversion(conversion, base, lists)
        job = make_job(conversion, plan, base, lists)
        if finished := read_finished(job, conversion, plan):
            # A launcher that was killed at its very end left it.
            remove_tree(job.work)
            return finished
        report_promised(conversion.source, plan.rejects)
        # Before the plan is saved: a resumed run must notice that its finished shards are of other files.
        source = check_input(job, conversion, plan)
        prepare_output(job, plan, statistics_of(conversion, base), source, lists)
        every = tuple(sorted(plan.shards))
        todo = tuple(shard for shard in every if load_result(job, shard) is None)
        before = load_measured(job)
        if todo or before is None:
            planned = {shard: len(plan.shards[shard]) for shard in every}
            with supervised(job, planned, conversion.no_progress_s if is_local(beam_options) else 0):
                run_beam(ConvertAll(job, every, todo, before), beam_options)
            if writes_template(beam_options):
                return Outcome(manifest=None)
        return Outcome(manifest=close_conversion(job, conversion, plan, base, source, lists))


def close_conversion(
    job: Job,
    conversion: ConversionRequest,
    plan: ConversionPlan,
    base: Base | None,
    source: InputRecord,
    lists: OutsideLists,
) -> Manifest:
    """Finalizes a dataset. Raises FailedWork where shards are missing or the input changed meanwhile."""
    every = tuple(sorted(plan.shards))
    results = [result for shard in every if (result := load_result(job, shard))]
    measured = load_measured(job)
    if len(results) < len(every) or measured is None:
        raise FailedWork(f"{job.directory}: expected {len(every)} shards, found {len(results)}; run it again")
    # A file that was replaced while workers read it would leave episodes of two inputs in one dataset.
    now = read_input(conversion, plan, source.mode)
    check_unchanged(source, now, "until the conversion ended", "Give --restart to convert the current input")
    n_planned = count_episodes(plan) + len(plan.rejects)
    unmatched = count_rows_without_episode(lists, results)
    if base is None:
        return finish_dataset(job, n_planned, measured, results, plan.rejects, source, None, unmatched)
    n_planned += base.manifest.counts.episodes_in
    results += carry_shards(base, plan, job.folder)
    # The base's manifest keeps the fingerprints of its own input, which may have been deleted since.
    rejects = (*plan.rejects, *base.rejects)
    return finish_dataset(job, n_planned, measured, results, rejects, source, base.manifest, unmatched)


def read_input(conversion: ConversionRequest, plan: ConversionPlan, mode: str) -> InputRecord:
    """Takes the fingerprints of the input's files. Raises FailedWork when one cannot be read."""
    uris = [located.reference.uri for episodes in plan.shards.values() for located in episodes]
    uris += [reject.source_uri for reject in plan.rejects]
    source, output = source_root(conversion.source), conversion.directory.parent
    chosen: Mode = "full" if mode == "full" else "fast"
    try:
        return with_retries(lambda: fingerprint_input(source, uris, output, chosen), conversion.source)
    except OSError as error:
        raise FailedWork(f"{conversion.source}: expected an input that can be read, found: {error}") from error


def check_input(job: Job, conversion: ConversionRequest, plan: ConversionPlan) -> InputRecord:
    """Returns the fingerprints of the input's files, which must be those of an unfinished conversion, if there is one.

    Raises UsageError that names what changed, unless the user asked to restart.
    """
    saved = load_origin(job)
    if saved is None or saved.input is None:
        return read_input(conversion, plan, conversion.verify_input)
    # Two fingerprints compare only if they were taken in the same way.
    now = read_input(conversion, plan, saved.input.mode)
    if conversion.restart:
        remove_tree(job.work)
        return now if now.mode == conversion.verify_input else read_input(conversion, plan, conversion.verify_input)
    what = f"since an unfinished conversion began in {job.directory}"
    check_unchanged(saved.input, now, what, "Put it back, or give --restart to start over with the current input")
    return now


def with_units(conversion: ConversionRequest) -> ConversionRequest:
    """Settles the entry where a source may have one of several units. Raises UsageError where neither states which."""
    if not conversion.adapter.by_units and not conversion.units:
        return conversion
    from pipelines.sources.lerobot_files.meta import find_root
    from pipelines.sources.lerobot_files.units import choose_units

    with advising(conversion.source):
        find_root(source_root(conversion.source))
    return replace(conversion, adapter=choose_units(conversion.source, conversion.adapter, conversion.units))


def with_colors(conversion: ConversionRequest) -> ConversionRequest:
    """Settles the order of colours where copies of a dataset differ in it. Raises UsageError where it stays unknown."""
    if not conversion.adapter.swapped_channels:
        return conversion
    from pipelines.sources.tfds.channels import choose_channels

    return replace(conversion, adapter=choose_channels(conversion.source, conversion.adapter))


def find_base(conversion: ConversionRequest) -> Base | None:
    """Opens the version that is added to, if there is one."""
    if not conversion.append:
        return None
    return load_base(conversion.directory.parent, conversion.append, conversion.version, conversion.adapter)


def plan_conversion(conversion: ConversionRequest, base: Base | None, lists: OutsideLists = NO_LISTS) -> ConversionPlan:
    """Scans the input and assigns its episodes, or those that are listed or new, to shards."""
    found = only_listed(find_episodes(conversion), lists, conversion.adapter.format)
    if base is None:
        return make_plan(found, conversion.n_shards, conversion.val_fraction, conversion.splits)
    plan = make_plan(
        only_new(found, base, as_storage_path(conversion.source)),
        conversion.n_shards,
        conversion.val_fraction,
        conversion.splits,
    )
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
        with advising(conversion.source):
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
    """Prints before any work begins what the input promises and does not hold, and what the scan could not read."""
    # What a list leaves out on purpose could be read.
    rejects = [reject for reject in rejects if reject.reason != "filtered"]
    reasons = Counter(reject.reason for reject in rejects if reject.level == "episode")
    if reasons:
        listed = ", ".join(f"{reason} {n}" for reason, n in reasons.most_common())
        print(
            f"{source}: cannot read {counted(reasons.total(), 'episode')} ({listed}); the first: {rejects[0].detail}",
            file=sys.stderr,
        )


def make_job(
    conversion: ConversionRequest,
    plan: ConversionPlan,
    base: Base | None = None,
    lists: OutsideLists = NO_LISTS,
) -> Job:
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
        robots=robots_for(conversion.adapter, conversion.robot),
        task=conversion.task,
        has_frozen_statistics=bool(frozen),
        appended_to=conversion.append,
        fixed_cameras=base.dataset.cameras if base else (),
        trust_images=conversion.trust_images,
        input_cache_gb=conversion.input_cache_gb,
        partial=conversion.partial,
        episodes_sha256=lists.episodes.sha256 if lists.episodes else "",
        texts_sha256=lists.texts.sha256 if lists.texts else "",
    )
    if base:
        check_same_robots(base.manifest, job.robots, f"--append {conversion.append}")
    return replace(job, options_hash=options_hash(job, plan, frozen))


def read_finished(job: Job, conversion: ConversionRequest, plan: ConversionPlan) -> Outcome | None:
    """Returns the outcome of a complete dataset that this same job made; None where there is none yet.

    Raises UsageError when the version folder holds anything else, or the input's files are others than they were.
    """
    directory = job.folder
    if not directory.exists() or not any(True for _ in directory.iterdir()):
        return None
    if (directory / INFO_FILE).exists():
        manifest = load_manifest(directory)
        if manifest is not None and manifest.options_hash == job.options_hash:
            check_same_robots(manifest, job.robots, str(directory))
            if manifest.input is not None:
                now = read_input(conversion, plan, manifest.input.mode)
                advice = "A finished dataset is never overwritten: choose another --version for the current input"
                check_unchanged(manifest.input, now, f"since {directory} was made of it", advice)
            same_code = manifest.code_hash == code_hash(job.adapter, job.robots)
            return Outcome(manifest=manifest, already_done=True, same_code=same_code)
        raise UsageError(
            f"{directory}: expected no dataset or this very one, found one made with other options or input "
            f"(options {manifest.options_hash if manifest else 'unknown'}, now {job.options_hash}). "
            "Choose another --version, or remove that folder"
        )
    # A launcher that was killed while it cleared an unfinished conversion left no more than these two.
    names = sorted({path.name for path in directory.iterdir()} - {"index", f"{WORK}.gone"})
    if names and not job.work.exists() and "rejects.parquet" not in names:
        raise UsageError(
            f"{directory}: expected an empty folder or an unfinished conversion, found {', '.join(names[:3])}"
        )
    return None


def prepare_output(
    job: Job,
    plan: ConversionPlan,
    statistics: StoragePath | None,
    source: InputRecord | None = None,
    lists: OutsideLists = NO_LISTS,
) -> None:
    """Removes temporary files of dead writers and an unfinished conversion with other options; saves the plan."""
    directory = job.folder
    sweep_leftovers(directory)
    if is_saved(job):
        return
    for path in [*directory.glob(f"{job.name}-*.tfrecord-*"), *directory.glob("index/*.parquet")]:
        path.unlink()
    remove_tree(job.work)
    if statistics:
        write_atomically(job.frozen_path, statistics.read_bytes())
    save_lists(job, lists)
    save_plan(job, plan, source)


def run_beam(transform: ConvertAll, options: PipelineOptions) -> None:
    """Runs the graph to its end; see `run_graph`."""
    try:
        run_graph("Convert", transform, options, transform.job.directory, "shards")
    finally:
        forget_copies()


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
