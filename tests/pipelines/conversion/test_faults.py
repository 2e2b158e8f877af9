"""Faults from outside, each run for real: reads that fail, workers and launchers that die, disks that fill."""

import contextlib
import errno
import io
import os
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.contract.errors import FailedWork, UsageError
from pipelines.contract.native import Rejected
from pipelines.conversion import launch
from pipelines.conversion import write as writing
from pipelines.conversion.graph import ConvertShard
from pipelines.conversion.launch import convert
from pipelines.conversion.measure import measure_shard, merge_measured, settle_measured
from pipelines.conversion.plan import ConversionPlan, Job
from pipelines.conversion.write import convert_shard
from pipelines.jobs.local_workers import descendants
from pipelines.shards.dataset import Dataset
from pipelines.storage import retry
from pipelines.storage.retry import transient_cause
from tests.pipelines.conversion.test_convert import POISON, command, hash_files, make_conversion, read_rejects
from tests.support.inputs.native_files import bridge_features, write_rlds
from tests.support.servers.memory_store import MemoryStore
from tests.support.waiting import wait_for

N = 12
FOLDER = "tiny/1.0.0"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rlds(tmp_path_factory.mktemp("source") / "tiny", {"train": [bridge_features(i) for i in range(N)]})


@pytest.fixture(scope="module")
def hashes(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What an undisturbed conversion writes."""
    root = tmp_path_factory.mktemp("reference")
    convert(make_conversion(source, root, n_workers=1))
    return hash_files(root / FOLDER)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "PAUSES_S", (0.01, 0.01, 0.01))


class Flaky(io.BufferedReader):
    """A file whose reads fail as those of a network disk do, as often as `failures` says in all."""

    failures = 0

    def read(self, size: int | None = -1) -> bytes:
        if Flaky.failures > 0:
            Flaky.failures -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().read(size)


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Flaky]]:
    """Every TFRecord file of the source is read through `Flaky`."""
    open_path = Path.open

    def open_flaky(path: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if path.name.startswith("tiny-train.tfrecord-00000-of-00001") and mode == "rb":
            return Flaky(io.FileIO(path))
        return open_path(path, mode, *rest, **options)

    monkeypatch.setattr(Path, "open", open_flaky)
    yield Flaky
    Flaky.failures = 0


def test_a_read_that_fails_twice_then_works_changes_nothing(
    flaky: type[Flaky], source: Path, hashes: dict[str, str], tmp_path: Path
) -> None:
    flaky.failures = 2
    counts = convert(make_conversion(source, tmp_path, n_workers=1))
    assert (counts["episodes_out"], counts["episodes_rejected"]) == (N, 0)
    assert flaky.failures == 0
    assert hash_files(tmp_path / FOLDER) == hashes


def test_reads_that_keep_failing_end_the_run_and_no_episode_is_called_damaged(
    flaky: type[Flaky], source: Path, hashes: dict[str, str], tmp_path: Path
) -> None:
    conversion = make_conversion(source, tmp_path, n_workers=1)
    run_beam = launch.run_beam

    def run_beam_on_a_bad_disk(*arguments: Any) -> None:
        flaky.failures = 10**6
        run_beam(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "run_beam", run_beam_on_a_bad_disk)
        with pytest.raises(FailedWork, match=r"measuring train-0000\d-of-00003 of .*: failed 4 times.*Input/output"):
            convert(conversion)
    flaky.failures = 0
    assert convert(conversion)["episodes_rejected"] == 0
    assert hash_files(tmp_path / FOLDER) == hashes


def test_a_store_that_drops_connections_changes_nothing(
    source: Path, hashes: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    MemoryStore.objects.clear()
    for path in source.iterdir():
        MemoryStore.objects[f"mem://bucket/in/{path.name}"] = path.read_bytes()
    dropped: Counter[str] = Counter()
    open_object = MemoryStore.open

    class Dropping(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if dropped["reads"] < 2 and self.tell():
                dropped["reads"] += 1
                raise ConnectionResetError(errno.ECONNRESET, "connection reset by peer")
            return super().read(min(1000, size) if size and size > 0 else size)

    def open_dropping(self: MemoryStore, path: str, *_: Any, **__: Any) -> io.BytesIO:
        if dropped["opens"] < 2:
            dropped["opens"] += 1
            raise TimeoutError("no answer")
        return Dropping(open_object(self, path).getvalue())

    monkeypatch.setattr(MemoryStore, "open", open_dropping)
    counts = convert(make_conversion("mem://bucket/in", tmp_path, n_workers=1))  # type: ignore[arg-type]
    assert dropped == {"opens": 2, "reads": 2}
    assert (counts["episodes_out"], counts["episodes_rejected"]) == (N, 0)
    MemoryStore.objects.clear()


def test_what_may_pass_is_told_from_what_is_damaged() -> None:
    assert transient_cause(OSError("Can't read data (file read failed: errno = 5, error message = ...)"))
    assert transient_cause(OSError("Unable to open file (truncated file: eof = 96)")) is None
    assert transient_cause(FileNotFoundError(errno.ENOENT, "x")) is None
    try:
        try:
            raise OSError(errno.ESTALE, "stale file handle")
        except OSError as error:
            raise Rejected("unreadable_hdf5", "x") from error
    except Rejected as error:
        assert transient_cause(error).errno == errno.ESTALE


@pytest.mark.parametrize("stage", ["annotate", "write_shard"])
def test_a_writer_that_comes_late_changes_nothing(
    stage: str, source: Path, hashes: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that a cluster gave up is in the middle of a shard, or at its end, when others have done its part."""
    job, plan = prepare(source, tmp_path)
    shard = min(plan.shards)
    measured = settle_measured(merge_measured([measure_shard(job, each) for each in plan.shards]), job)
    is_there, done_by_others = threading.Event(), threading.Event()
    work, raised = getattr(writing, stage), []

    def work_late(*arguments: Any, **options: Any) -> Any:
        result = work(*arguments, **options)
        if threading.current_thread() is late:
            is_there.set()
            assert done_by_others.wait(120)
        return result

    def write() -> None:
        try:
            convert_shard(job, shard, measured)
        except OSError as error:
            raised.append(type(error))

    late = threading.Thread(target=write)
    monkeypatch.setattr(writing, stage, work_late)
    late.start()
    try:
        assert is_there.wait(120)
        convert(make_conversion(source, tmp_path))
        assert hash_files(tmp_path / FOLDER) == hashes
    finally:
        done_by_others.set()
        late.join()
    assert raised == [FileNotFoundError]
    for options_hash in (job.options_hash, "of other options"):
        with pytest.raises(FileNotFoundError):
            convert_shard(replace(job, options_hash=options_hash), shard, measured)
    assert hash_files(tmp_path / FOLDER) == hashes


def prepare(source: Path, root: Path) -> tuple[Job, ConversionPlan]:
    """An output with a plan, in which no shard is begun."""
    wanted = make_conversion(source, root)
    plan = launch.plan_conversion(wanted, None)
    job = launch.make_job(wanted, plan)
    launch.prepare_output(job, plan, None)
    return job, plan


def test_shards_of_a_conversion_without_a_plan_go_before_another_begins(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / FOLDER
    (folder / "index").mkdir(parents=True)
    left = [folder / "tiny-train.tfrecord-00000-of-00002", folder / "index" / "tiny-train-00000-of-00002.parquet"]
    for path in left:
        path.write_bytes(b"of other options")
    prepare(source, tmp_path)
    assert not any(path.exists() for path in left)


def test_a_folder_of_other_files_is_never_converted_into(source: Path, tmp_path: Path) -> None:
    wanted = make_conversion(source, tmp_path)
    plan = launch.plan_conversion(wanted, None)
    job = launch.make_job(wanted, plan)
    assert launch.read_finished(job, wanted, plan) is None
    (tmp_path / FOLDER).mkdir(parents=True)
    (tmp_path / FOLDER / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="expected an empty folder or an unfinished conversion, found thesis.tex"):
        launch.read_finished(job, wanted, plan)


def test_a_task_that_is_repeated_writes_no_finished_shard_again(source: Path, tmp_path: Path) -> None:
    job, plan = prepare(source, tmp_path)
    shard = min(plan.shards)
    measured = settle_measured(measure_shard(job, shard), job)
    first = list(ConvertShard(job).process(shard, measured))
    (path,) = tmp_path.glob(f"{FOLDER}/*tfrecord*")
    written = path.stat().st_ino
    assert list(ConvertShard(job).process(shard, measured)) == first
    assert path.stat().st_ino == written
    path.write_bytes(b"cut off")
    assert list(ConvertShard(job).process(shard, measured)) == first
    assert path.stat().st_ino != written


WAIT_S = 240.0  # Other work on the machine can make anything slow.
PROCESSES = ["--runner=FnApiRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2"]


@pytest.mark.cluster
def test_a_worker_process_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    source = write_rlds(tmp_path / "in", {"train": [bridge_features(i) for i in range(N)]})
    convert(make_conversion(source, tmp_path / "undisturbed", n_shards=6))
    expected = hash_files(tmp_path / "undisturbed" / FOLDER)
    root = tmp_path / "out"
    options = ["--shards", "6", *PROCESSES]
    launcher = subprocess.Popen(command(source, root, *options), stderr=subprocess.PIPE, text=True)
    wait_for(lambda: any(root.glob(f"{FOLDER}/.work/results/*.json")), launcher)
    workers = worker_pids(launcher.pid)
    for pid in workers[:1]:
        kill(pid)
    _, said = launcher.communicate(timeout=WAIT_S)
    # The worker may have done its part before; where the runner waits for it, the supervisor ends the run loudly.
    if launcher.returncode:
        assert "run the same command again" in said
        assert not (root / FOLDER / "dataset_info.json").exists()
    wait_for(lambda: not any(is_running(pid) for pid in workers))
    subprocess.run(command(source, root, "--shards", "6"), check=True, capture_output=True)
    assert hash_files(root / FOLDER) == expected


@pytest.mark.cluster
def test_a_killed_worker_ends_the_run_at_once_and_by_name(source: Path, tmp_path: Path) -> None:
    launcher = subprocess.Popen(command(source, tmp_path, *PROCESSES), stderr=subprocess.PIPE, text=True)
    seen: list[int] = []
    wait_for(lambda: seen.extend(worker_pids(launcher.pid)) or seen, launcher)
    kill(seen[0])
    _, said = launcher.communicate(timeout=WAIT_S)
    assert launcher.returncode == 1
    assert "a worker process was killed (SIGKILL)" in said
    assert "Finished shards are kept; run the same command again" in said


def worker_pids(pid: int) -> list[int]:
    """The Beam workers among the descendants of a process."""
    return [each for each in descendants(pid) if is_worker(each)]


def is_worker(pid: int) -> bool:
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # It ended while it was looked at.
        return False
    return b"sdk_worker_main" in line and b"/sh\0" not in line


def kill(pid: int) -> None:
    """Kills a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_poison_episode_in_each_shard_is_named_and_the_rest_kept(tmp_path: Path) -> None:
    root = tmp_path / "out"
    healthy = write_rlds(tmp_path / "healthy", {"train": [bridge_features(i) for i in range(N)]})
    convert(make_conversion(healthy, root, name="healthy"))
    rows = [shard.n_episodes for shard in Dataset.open(root / "healthy/1.0.0").splits["train"]]
    plan = launch.plan_conversion(make_conversion(healthy, root), None)
    firsts = [int(episodes[0].reference.key.rsplit("#")[1]) for _, episodes in sorted(plan.shards.items())]
    faults = dict(zip(firsts, ("non_finite", "corrupt_image", "wrong_dims"), strict=True))
    episodes = [POISON[faults[i]] if i in faults else bridge_features(i) for i in range(N)]
    counts = convert(make_conversion(write_rlds(tmp_path / "in", {"train": episodes}), root))
    assert (counts["episodes_in"], counts["episodes_out"], counts["episodes_rejected"]) == (N, N - 3, 3)
    assert sorted(read_rejects(root / FOLDER)) == sorted((str(i), reason) for i, reason in faults.items())
    assert [shard.n_episodes for shard in Dataset.open(root / FOLDER).splits["train"]] == [n - 1 for n in rows]


def test_of_two_launchers_at_once_one_works_and_one_says_so(
    source: Path, hashes: dict[str, str], tmp_path: Path
) -> None:
    arguments = command(source, tmp_path, "--shards", "3", "--workers", "1")
    both = [subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in both]
    codes = [process.returncode for process in both]
    # The second may also come when the first has ended: then it finds the work done.
    assert 0 in codes and set(codes) <= {0, 2}
    refused = [text for text, code in zip(said, codes, strict=True) if code]
    assert all("another embodimix convert is writing there" in text for text in refused)
    assert hash_files(tmp_path / FOLDER) == hashes


FILL = """
mount -t tmpfs -o size={size}k none {root} || exit 77
{launch} 2> {root}/../said && exit 78
[ -e {root}/tiny/1.0.0/dataset_info.json ] && exit 79
mount -o remount,size=100m {root} && {launch} && cp -r {root}/tiny {root}/../whole
"""


@pytest.mark.parametrize("n_workers", ["1", "2"])
def test_a_disk_that_is_full_ends_loudly_and_more_room_finishes(
    source: Path, hashes: dict[str, str], n_workers: str, tmp_path: Path
) -> None:
    """A small file system of its own, in a name space that ends with the command."""
    root = tmp_path / "small"
    root.mkdir()
    shown = " ".join(command(source, root, "--shards", "3", "--workers", n_workers))
    script = FILL.format(size=150, root=root, launch=shown)
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True)
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip("needs the right to mount a file system")
    assert done.returncode == 0, (done.returncode, done.stderr)
    said = (tmp_path / "said").read_text()
    assert "No space left on device" in said and "run the same command again" in said
    assert "Traceback" not in said
    assert hash_files(tmp_path / "whole/1.0.0") == hashes
