"""One episode from its native file to canonical slots, with every fault named."""

import importlib
from collections.abc import Iterator, Sequence
from types import ModuleType

from pipelines.contract.embodiments import Embodiment
from pipelines.contract.episode import Episode
from pipelines.contract.errors import UsageError
from pipelines.contract.native import EpisodeLocation, NativeEpisode, Rejected
from pipelines.conversion.heartbeat import beat
from pipelines.conversion.outside_lists import apply_lists
from pipelines.conversion.plan import Job
from pipelines.jobs.cancelling import check_not_cancelled
from pipelines.mapping.adapters import FROM_LOG
from pipelines.mapping.to_slots import to_episode
from pipelines.mapping.validate import find_fault
from pipelines.storage.mirror import FilesOf, staged
from pipelines.storage.retry import faults_named


def read_episode(job: Job, located: EpisodeLocation, cameras: Sequence[str]) -> Episode:
    """Reads one episode into canonical slots and checks it.

    Raises Rejected for whatever is wrong with it, and OSError where only its disk or store failed temporarily.
    """
    with faults_named(located.reference.uri, "unreadable"):
        native = apply_lists(job, located, reader_of(job.adapter.format).read(located, job.adapter))
        embodiment = _embodiment_of(job, native)
        episode = to_episode(native, job.adapter, embodiment, cameras, job.task)
    if fault := find_fault(episode, job.adapter.max_loss):
        raise Rejected(*fault)
    return episode


def episodes_at_hand(job: Job, references: Sequence[EpisodeLocation], *, pictures: bool) -> Iterator[EpisodeLocation]:
    """The episodes one by one, each while its files are on this machine; shows the supervisor that work continues."""

    def on_wait(moved: bool) -> None:
        check_not_cancelled(job.directory)
        if moved:
            beat(job)

    files_of: FilesOf = reader_of(job.adapter.format).files_of
    for located in staged(references, files_of, pictures=pictures, kept_gb=job.input_cache_gb, on_wait=on_wait):
        check_not_cancelled(job.directory)
        beat(job)
        yield located


def reader_of(format: str) -> ModuleType:
    """The module that finds and reads a format; imported late, since each needs other libraries.

    Raises UsageError where one of them is not installed.
    """
    try:
        return importlib.import_module(f"pipelines.sources.{format}")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("", "pipelines"):
            raise
        extra = "pipelines,bag" if format == "bag" else "pipelines"
        advice = f"pip install 'embodimix[{extra}]'"
        raise UsageError(f"format {format}: expected the package {error.name}; install it: {advice}") from error


def _embodiment_of(job: Job, native: NativeEpisode) -> Embodiment:
    try:
        stated = native.robot or "" if job.adapter.robot == FROM_LOG else job.adapter.robot
        embodiment = job.robots.find(job.robot or stated)
        job.adapter.check_robot(embodiment)
    except UsageError as error:
        raise Rejected("unknown_robot", str(error)) from error
    return embodiment
