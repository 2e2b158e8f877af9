"""The conversion job on small sources: nothing lost, nothing twice, nothing that looks whole and is not."""

import errno
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.contract.errors import FailedWork, UsageError
from pipelines.contract.reject_reasons import explain
from pipelines.conversion import launch, supervision
from pipelines.conversion.graph import ConvertAll
from pipelines.conversion.launch import (
    ConversionRequest,
    convert,
    make_job,
    plan_conversion,
    run_beam,
)
from pipelines.conversion.plan import Job
from pipelines.conversion.supervision import supervised
from pipelines.jobs.beam_options import make_beam_options
from pipelines.jobs.cancelling import at_work, check_not_cancelled
from pipelines.jobs.running import worker_message
from pipelines.mapping.adapters import get_adapter, parse_adapter
from pipelines.shards.dataset import Dataset
from pipelines.shards.sidecar import read_sidecar
from pipelines.storage import files
from tests.support.inputs.native_files import bridge_features, picture, write_rlds
from tests.support.waiting import wait_for
from trainers.main import main

TRAIN = "tiny-train.tfrecord-00000-of-00001"
FACTS = ("--name", "tiny", "--version", "1.0.0", "--adapter", "bridge_orig", "--workers", "1")
N = 10


def make_conversion(source: Path, root: Path, **changes: Any) -> ConversionRequest:
    options: dict[str, Any] = {"name": "tiny", "version": "1.0.0", "adapter": get_adapter("bridge_orig"), "n_shards": 3}
    return ConversionRequest(source=str(source), output_root=str(root), **options | changes)


def command(source: Path, root: Path, *options: str) -> list[str]:
    """The command of `make_conversion`, for a process of its own."""
    arguments = [str(source), str(root), "--name", "tiny", "--version", "1.0.0", "--adapter", "bridge_orig"]
    return [sys.executable, "-m", "trainers.main", "convert", "rlds", *arguments, *options]


def hash_files(folder: Path) -> dict[str, str]:
    """sha256 of every file of a dataset, by relative path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def read_rejects(folder: Path) -> list[tuple[str, str]]:
    rows = pq.read_table(folder / "rejects.parquet").to_pylist()
    return [(row["source_key"].rsplit("#")[-1], row["reason"]) for row in rows if row["level"] == "episode"]


def corrupted(features: dict[str, Any], name: str, index: int | list[int], value: float) -> dict[str, Any]:
    values = np.array(features[name])
    values[index] = value
    return features | {name: values}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rlds(tmp_path_factory.mktemp("source") / "tiny", {"train": [bridge_features(i) for i in range(N)]})


@pytest.fixture(scope="module")
def reference(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one worker makes of the source, without interruption."""
    root = tmp_path_factory.mktemp("reference")
    counts = convert(make_conversion(source, root, n_workers=1))
    assert (counts["episodes_in"], counts["episodes_out"], counts["steps_out"]) == (N, N, 11 * N)
    return root / "tiny/1.0.0"


def test_every_episode_is_in_exactly_one_shard(reference: Path) -> None:
    dataset = Dataset.open(reference)
    rows = [row for path in dataset.sidecars("train") for row in read_sidecar(path).to_pylist()]
    assert sorted(row["source_key"] for row in rows) == sorted(f"{TRAIN}#{i}" for i in range(N))
    assert [shard.n_episodes for shard in dataset.splits["train"]] == [3, 3, 4]
    dataset.verify_hashes()


def test_the_manifest_says_where_each_episode_went(reference: Path) -> None:
    manifest = json.loads((reference / "manifest.json").read_text())
    table = read_sidecar(reference / "index/train-00001-of-00003.parquet")
    told = [e["source_key"] for e in manifest["episodes"] if e["shard"] == 1]
    assert told == table["source_key"].to_pylist()
    assert manifest["counts"]["rejects"] == {"first_step_zero_action": N}
    assert manifest["counts"]["steps_dropped"] == N
    assert [manifest[name] for name in ("robot", "task", "appended_to", "rejected")] == [None, None, None, []]
    assert not (reference / ".work").exists()


def test_the_manifest_tells_the_robot_and_the_task_that_were_given(tmp_path: Path) -> None:
    source = write_rlds(tmp_path / "in", {"train": [bridge_features(0)]})
    convert(make_conversion(source, tmp_path / "out", robot="ur5e", task="wave", n_shards=1))
    manifest = json.loads((tmp_path / "out/tiny/1.0.0/manifest.json").read_text())
    assert (manifest["robot"], manifest["task"]) == ("ur5e", "wave")


def test_bytes_do_not_depend_on_the_number_of_workers(source: Path, reference: Path, tmp_path: Path) -> None:
    convert(make_conversion(source, tmp_path, n_workers=3))
    assert hash_files(tmp_path / "tiny/1.0.0") == hash_files(reference)


def test_repeating_the_command_does_nothing(source: Path, reference: Path) -> None:
    before = hash_files(reference)
    # What a launcher leaves that is killed at its very end.
    (reference / ".work").mkdir()
    (reference / ".work/measured.json").write_text("{}")
    counts = convert(make_conversion(source, reference.parents[1]))
    assert counts["already_done"] and counts["episodes_out"] == N
    assert hash_files(reference) == before


def test_only_unfinished_shards_are_done_again(source: Path, reference: Path, tmp_path: Path) -> None:
    conversion = make_conversion(source, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "finish_dataset", lambda *_: (_ for _ in ()).throw(FailedWork("stopped")))
        with pytest.raises(FailedWork, match="stopped"):
            convert(conversion)
    folder = tmp_path / "tiny/1.0.0"
    assert not (folder / "dataset_info.json").exists()
    (folder / "index/train-00001-of-00003.parquet").unlink()
    kept = (folder / "tiny-train.tfrecord-00000-of-00003").stat().st_mtime_ns
    convert(conversion)
    assert (folder / "tiny-train.tfrecord-00000-of-00003").stat().st_mtime_ns == kept
    assert hash_files(folder) == hash_files(reference)


@pytest.mark.slow
@pytest.mark.parametrize("n_workers", ["1", "2"])
def test_a_conversion_killed_at_any_moment_goes_on_to_the_same_bytes(
    source: Path, reference: Path, n_workers: str, tmp_path: Path
) -> None:
    convert_again = command(source, tmp_path, "--shards", "3", "--workers", n_workers)
    work = tmp_path / "tiny/1.0.0/.work"
    for moment in ("plan.json", "measured.json", "results"):
        process = subprocess.Popen(convert_again, stderr=subprocess.DEVNULL)
        while not (work / moment).exists() and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (tmp_path / "tiny/1.0.0/dataset_info.json").exists():  # It was quicker than the kill.
            Dataset.open(tmp_path / "tiny/1.0.0").verify_hashes()
    subprocess.run(convert_again, check=True)
    assert hash_files(tmp_path / "tiny/1.0.0") == hash_files(reference)


POISON = {
    "one_step": bridge_features(1, t=1),
    "non_finite": corrupted(bridge_features(2), "steps/action", 30, np.nan),
    "absurd_value": corrupted(bridge_features(3), "steps/action", [30, 37], 80.0),
    "absurd_jump": corrupted(bridge_features(4), "steps/observation/state", [28, 42], 3.0),
    "wrong_dims": bridge_features(5, action=np.zeros(12 * 9, np.float32)),
    "missing_key": bridge_features(6, state=None),
    "corrupt_image": bridge_features(7, image_0=[b"\xff\xd8 no picture"] * 12),
    "no_camera": bridge_features(8, image_0=None),
}


def test_poison_is_counted_by_name_and_the_rest_is_kept(tmp_path: Path) -> None:
    episodes = [bridge_features(0), *POISON.values(), bridge_features(9)]
    source = write_rlds(tmp_path / "in", {"train": episodes})
    counts = convert(make_conversion(source, tmp_path / "out"))
    folder = tmp_path / "out/tiny/1.0.0"
    assert read_rejects(folder) == [(str(i + 1), reason) for i, reason in enumerate(POISON)]
    assert (counts["episodes_in"], counts["episodes_out"], counts["episodes_rejected"]) == (10, 2, 8)
    rows = [row for path in Dataset.open(folder).sidecars("train") for row in read_sidecar(path).to_pylist()]
    assert sorted(row["source_key"][-1] for row in rows) == ["0", "9"]
    rejected = json.loads((folder / "manifest.json").read_text())["rejected"]
    assert [(reject["source_key"][-1], reject["reason"]) for reject in rejected] == read_rejects(folder)
    card = (folder / "card.md").read_text()
    assert " 2 of 10 episodes, 22 steps, " in card
    assert all(f"\n| {reason} | episode or steps | 1 | {explain(reason).meaning} | " in card for reason in POISON)


def test_the_summary_says_what_was_left_out_and_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_rlds(tmp_path / "in", {"train": [bridge_features(0), POISON["non_finite"]]})
    assert main(["convert", "rlds", str(source), str(tmp_path / "out"), *FACTS]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "tiny/1.0.0: 1 of 2 episodes, 11 steps, " in lines[0]
    assert lines[1] == "  left out: 1 episode, 1 single step (first_step_zero_action 1, non_finite 1)"
    assert "    non_finite: NaN or infinity in a state or an action. Repair or drop these steps in the source." in lines


@pytest.mark.parametrize("version", ["01.02.03", "1.0", "1.0.0.0", "1.0.x", "\u0661.0.0", "1.0.0\n"])
def test_a_version_that_tfds_would_not_read_is_refused_before_all_work(tmp_path: Path, version: str) -> None:
    with pytest.raises(UsageError, match="expected MAJOR.MINOR.PATCH such as 1.0.0, without leading zeros"):
        make_conversion(tmp_path / "not there", tmp_path, version=version)


def cut_scan(jpeg: bytes) -> bytes:
    """A JPEG whose scan ends early, with the marker that ends a whole one."""
    return jpeg[: len(jpeg) * 3 // 4] + b"\xff\xd9"


@pytest.mark.parametrize(("trust", "kept"), [(False, 1), (True, 2)])
def test_a_cut_picture_that_would_be_copied_is_a_reject(tmp_path: Path, trust: bool, kept: int) -> None:
    frames = [picture(step, 224) for step in range(12)]
    cut = [*frames[:7], cut_scan(frames[7]), *frames[8:]]
    episodes = [bridge_features(0, image_0=frames), bridge_features(1, image_0=cut)]
    source = write_rlds(tmp_path / "in", {"train": episodes})
    assert convert(make_conversion(source, tmp_path / "out", trust_images=trust))["episodes_out"] == kept
    assert read_rejects(tmp_path / "out/tiny/1.0.0") == ([] if trust else [("1", "corrupt_image")])


def test_a_shard_in_which_all_are_poison_is_empty_and_the_dataset_whole(tmp_path: Path) -> None:
    source = write_rlds(tmp_path / "in", {"train": [bridge_features(0), POISON["non_finite"]]})
    counts = convert(make_conversion(source, tmp_path / "out", n_shards=2))
    assert counts["episodes_out"] == 1
    assert sorted(s.n_episodes for s in Dataset.open(tmp_path / "out/tiny/1.0.0").splits["train"]) == [0, 1]


def test_when_nothing_is_kept_there_is_no_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_rlds(tmp_path / "in", {"train": [POISON["non_finite"], POISON["wrong_dims"]]})
    arguments = ["convert", "rlds", str(source), str(tmp_path / "out"), "--name", "tiny", "--version", "1.0.0"]
    assert main([*arguments, "--adapter", "bridge_orig"]) == 1
    assert "every episode was rejected (non_finite 1, wrong_dims 1)" in capsys.readouterr().err
    folder = tmp_path / "out/tiny/1.0.0"
    assert not (folder / "dataset_info.json").exists()
    assert len(read_rejects(folder)) == 2


def test_a_truncated_file_keeps_what_is_whole(tmp_path: Path) -> None:
    source = write_rlds(tmp_path / "in", {"train": [bridge_features(i) for i in range(4)]})
    path = source / TRAIN
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 5 // 8])
    counts = convert(make_conversion(source, tmp_path / "out"))
    assert (counts["episodes_in"], counts["episodes_out"]) == (4, 2)
    assert read_rejects(tmp_path / "out/tiny/1.0.0") == [("2", "truncated_file"), ("3", "truncated_file")]


def test_a_camera_that_no_episode_has_is_an_error(source: Path, tmp_path: Path) -> None:
    entry = {
        "title": "x",
        "format": "rlds",
        "robot": "widowx",
        "control_mode": "ee_delta",
        "units": "metric",
        "cameras": {"base_0_rgb": "observation/image_0", "left_wrist_0_rgb": "observation/wrist"},
        "action": {"arm0": {"from": "action[0:6]", "form": "xyz_rpy"}},
        "widths": {"action": 7},
    }
    expected = (
        r"camera observation/wrist for left_wrist_0_rgb, but none of 10 episodes has it; found .*observation/image_0"
    )
    with pytest.raises(FailedWork, match=expected):
        convert(make_conversion(source, tmp_path, adapter=parse_adapter("x", entry)))
    assert not (tmp_path / "tiny/1.0.0/dataset_info.json").exists()


def test_a_camera_that_some_episodes_lack_is_black_and_masked(tmp_path: Path) -> None:
    with_wrist = bridge_features(0)
    with_wrist["steps/observation/wrist"] = with_wrist["steps/observation/image_0"]
    source = write_rlds(tmp_path / "in", {"train": [with_wrist, bridge_features(1)]})
    entry = {
        "title": "x",
        "format": "rlds",
        "robot": "widowx",
        "control_mode": "ee_delta",
        "units": "metric",
        "cameras": {"base_0_rgb": "observation/image_0", "left_wrist_0_rgb": "observation/wrist"},
        "action": {"arm0": {"from": "action[0:6]", "form": "xyz_rpy"}},
        "widths": {"action": 7},
    }
    counts = convert(make_conversion(source, tmp_path / "out", adapter=parse_adapter("x", entry), n_shards=1))
    assert counts["cameras"]["left_wrist_0_rgb"] == {"present": 1, "missing": 1}
    rows = read_sidecar(tmp_path / "out/tiny/1.0.0/index/train-00000-of-00001.parquet").to_pylist()
    masks = {row["source_key"][-1]: row["camera_mask"] for row in rows}
    assert masks == {"0": [True, True, False], "1": [True, False, False]}


@pytest.mark.parametrize("change", [{"task": "other words"}, {"n_shards": 2}, {"robot": "ur5e"}])
def test_a_finished_dataset_is_never_mixed_with_another(source: Path, reference: Path, change: dict) -> None:
    before = hash_files(reference)
    with pytest.raises(UsageError, match="found one made with other options.*Choose another --version"):
        convert(make_conversion(source, reference.parents[1], **change))
    assert hash_files(reference) == before


def test_a_folder_of_something_else_is_left_alone(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny/1.0.0"
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("words")
    with pytest.raises(UsageError, match="expected an empty folder or an unfinished conversion, found thesis.txt"):
        convert(make_conversion(source, tmp_path))


def test_an_unfinished_conversion_with_other_options_starts_over(source: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "finish_dataset", lambda *_: (_ for _ in ()).throw(FailedWork("stopped")))
        with pytest.raises(FailedWork):
            convert(make_conversion(source, tmp_path, n_shards=5))
    convert(make_conversion(source, tmp_path))
    assert len(list((tmp_path / "tiny/1.0.0").glob("*.tfrecord-*"))) == 3


def test_two_launchers_on_one_output_are_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    with open(tmp_path / "tiny/.1.0.0.lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another embodimix convert is writing there"):
            convert(make_conversion(source, tmp_path))


def test_a_full_disk_ends_loudly_and_the_rerun_finishes(
    source: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if "tfrecord" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(FailedWork, match="(?s)No space left on device.*run the same command again"):
        convert(make_conversion(source, tmp_path))
    monkeypatch.setattr(files.os, "fsync", sync)
    assert not (tmp_path / "tiny/1.0.0/dataset_info.json").exists()
    assert not list((tmp_path / "tiny/1.0.0").glob("*tfrecord*"))
    convert(make_conversion(source, tmp_path))
    assert hash_files(tmp_path / "tiny/1.0.0") == hash_files(reference)


def test_whoever_gets_a_failure_finds_a_quiet_folder(source: Path, tmp_path: Path) -> None:
    """Beam's local runner tells of the first failure while other threads are still at work."""
    job = make_job(make_conversion(source, tmp_path), plan_conversion(make_conversion(source, tmp_path), None))
    begun, ended = threading.Event(), threading.Event()

    def write_until_called_off() -> None:
        with at_work(job.directory):
            begun.set()
            with pytest.raises(FailedWork, match="left undone, since another one failed"):
                while True:
                    check_not_cancelled(job.directory)
            time.sleep(0.05)
            ended.set()

    class FailsBesideAWriter(ConvertAll):
        def expand(self, pipeline: Any) -> Any:
            threading.Thread(target=write_until_called_off).start()
            assert begun.wait(60)
            raise FailedWork("the disk is gone")

    with pytest.raises(FailedWork, match="the disk is gone. Finished shards are kept"):
        run_beam(FailsBesideAWriter(job, (), ()), make_beam_options(()))
    assert ended.is_set()
    with pytest.raises(FailedWork, match="left undone"), at_work(job.directory):
        pass


def test_statistics_can_be_given(source: Path, reference: Path, tmp_path: Path) -> None:
    given = str(reference / "statistics.json")
    convert(make_conversion(source, tmp_path, splits=("train",), statistics=given, version="1.0.1"))
    assert (tmp_path / "tiny/1.0.1/statistics.json").read_text() == (reference / "statistics.json").read_text()


def test_given_statistics_must_know_the_robot(source: Path, reference: Path, tmp_path: Path) -> None:
    given = str(reference / "statistics.json")
    with pytest.raises(FailedWork, match="expected norm key ur5e/ee_delta/pi18/v1. Did you mean 'widowx"):
        convert(make_conversion(source, tmp_path, statistics=given, robot="ur5e"))


def test_a_share_of_train_moves_to_val_by_hash(source: Path, tmp_path: Path) -> None:
    convert(make_conversion(source, tmp_path, val_fraction=0.3))
    splits = Dataset.open(tmp_path / "tiny/1.0.0").splits
    counts = {name: sum(shard.n_episodes for shard in shards) for name, shards in splits.items()}
    assert sum(counts.values()) == N and 1 <= counts["val"] <= 5


def test_a_hung_run_is_given_up(watched: Job, gave_up: list[str]) -> None:
    with supervised(watched, {}, no_progress_s=0.3):
        wait_for(lambda: gave_up)
    assert gave_up[0].startswith("no worker has made progress for ")


def test_a_run_whose_worker_was_killed_is_given_up(watched: Job, gave_up: list[str]) -> None:
    def run_worker() -> None:
        raise RuntimeError("Worker subprocess exited with return code 137")

    with supervised(watched, {}, no_progress_s=600):
        threading.Thread(target=run_worker).start()
        wait_for(lambda: gave_up)
    assert gave_up[0].startswith("a worker process was killed (SIGKILL)")


@pytest.fixture
def gave_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Why the supervisor ended the run, in place of ending this process."""
    reasons: list[str] = []
    monkeypatch.setattr(supervision, "_give_up", reasons.append)
    return reasons


@pytest.fixture
def watched(tmp_path: Path) -> Job:
    (tmp_path / ".work/results").mkdir(parents=True)
    return Job(directory=str(tmp_path), name="x", version="1.0.0", adapter=get_adapter("bridge_orig"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--runner=DaskRunner"], "DaskRunner is refused: it reports success with wrong results"),
        (["--runner=DirectRunner"], "DirectRunner is refused"),
        (["--shard=4"], "neither embodimix nor Beam knows this option. Did you mean '--shards'"),
        (["--temp_locaton=gs://x"], "Did you mean '--temp_location'"),
    ],
)
def test_unfit_runners_and_mistyped_options_are_refused(flags: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_beam_options(flags)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rdls", "x", "y"], "Did you mean 'rlds'"),
        (["rlds", "x", "y", "--adapter", "bridge_raw"], "expected one of format rlds, found one of format bridge"),
        (["rlds", "x", "y", "--adapter", "bridge_org"], "Did you mean 'bridge_orig'"),
        (["rlds", "x", "y", "--adapter", "bridge_orig", "--robot", "wido"], "Did you mean 'widowx'"),
        (["rlds", "bridge_dataset/1.0.0", "y", "--version", "1.0"], "--version: expected MAJOR.MINOR.PATCH"),
        (["rlds", "unheard_of", "y"], "INPUT unheard_of: expected a file or folder, found none"),
        (["rlds", "x"], "expected OUTPUT_ROOT"),
    ],
)
def test_wrong_use_exits_with_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    version = [] if "--version" in arguments else ["--version", "1.0.0"]
    assert main(["convert", *arguments, "--name", "tiny", *version]) == 2
    assert message in capsys.readouterr().err


def test_a_workers_words_are_shown_without_the_traceback() -> None:
    text = 'Traceback (most recent):\n  File "x"\npipelines.files.DiskFull: a: expected room [while running "x"]\n'
    assert worker_message(text) == "a: expected room"


def test_a_workers_last_line_is_shown_where_it_names_no_error() -> None:
    assert worker_message("one line") == "one line"
    assert worker_message("first\n  last.\n\n") == "last"
    assert worker_message(" \n") == "the job failed without a message"
