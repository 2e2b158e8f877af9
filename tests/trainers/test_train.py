"""Training runs: resumed equals uninterrupted, what a run directory holds, and wrong uses told apart."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from pipelines.contract.errors import FailedWork, UsageError
from pipelines.shards.statistics import load_statistics, save_statistics
from tests.support.checkout import ROOT
from tests.support.inputs.toy_mixture import (
    NORM_KEYS,
    file_size_limit,
    quick_compilation,
    settings,
    stand_in,
    toy_statistics,
)
from tests.support.waiting import wait_for
from trainers.metrics import read_metrics
from trainers.run import RunDirectory
from trainers.setup import TrainingRequest, read_best
from trainers.train import Summary, memory_explained, placed_ahead, train

pytestmark = pytest.mark.usefixtures("quick_compilation")
__all__ = ["quick_compilation"]
Train = Callable[..., Summary]


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "toy.yaml"
    path.write_text("toy")
    return path


@pytest.fixture
def run_training(spec: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    stand_in(monkeypatch.setattr)

    def run_training(
        run: Path,
        *,
        stage: Any = "pretrain",
        init: Path | None = None,
        resume: bool = False,
        spec: Path = spec,
        **changes: Any,
    ) -> Summary:
        overrides = changes if resume or init else settings(batch_size=4, **changes)
        overrides = {name.replace("__", "."): value for name, value in overrides.items()}
        return train(
            TrainingRequest(
                stage=stage, spec=spec, run=run, init=init, overrides=overrides, resume=resume, show_progress=False
            )
        )

    return run_training


def same_parameters(first: Path, second: Path) -> None:
    before, after = (read_best(RunDirectory(path))[2] for path in (first, second))
    jax.tree.map(np.testing.assert_array_equal, before, after)


def batches(run: Path) -> list[tuple[int, str, str]]:
    return [(line["step"], line["batch"], line["batches"]) for line in read_metrics(run / "metrics.jsonl")]


def test_two_steps_and_a_resume_to_four_equal_four_steps(tmp_path: Path, run_training: Train) -> None:
    whole = run_training(tmp_path / "whole", steps=4)
    run_training(tmp_path / "parts", steps=2, optimizer__decay_steps=4)
    parts = run_training(tmp_path / "parts", steps=4, resume=True)
    assert (parts.step, parts.batches) == (4, whole.batches)
    assert batches(tmp_path / "parts") == batches(tmp_path / "whole")
    same_parameters(tmp_path / "whole", tmp_path / "parts")


def test_killed_again_and_again_a_run_ends_as_if_it_never_was(
    tmp_path: Path, spec: Path, run_training: Train, quick_compilation: dict[str, str]
) -> None:
    whole = run_training(tmp_path / "whole", steps=30, checkpoints__every=4)
    config = tmp_path / "small.yaml"
    config.write_text(json.dumps(settings(batch_size=4, steps=30, checkpoints__every=4)))
    command = [
        sys.executable,
        str(ROOT / "tests/support/inputs/toy_mixture.py"),
        "train",
        "pretrain",
        str(spec),
        "--run",
        str(tmp_path / "killed"),
        "--config",
        str(config),
        "--resume",
        "--quiet",
    ]
    for steps_seen in (1, 9, 17):
        process = subprocess.Popen(command, env=os.environ | quick_compilation)
        wait_for(lambda seen=steps_seen: len(batches(tmp_path / "killed")) >= seen, process)
        time.sleep(random.uniform(0.0, 0.1))  # in the middle of a step, or of a checkpoint in the background
        process.send_signal(signal.SIGKILL)
        assert process.wait() in (-signal.SIGKILL, 0)
    killed = run_training(tmp_path / "killed", resume=True)
    assert (killed.step, killed.batches) == (30, whole.batches)
    assert batches(tmp_path / "killed") == batches(tmp_path / "whole")
    same_parameters(tmp_path / "whole", tmp_path / "killed")


def test_a_disk_that_fills_up_stops_the_run_and_loses_nothing(tmp_path: Path, run_training: Train) -> None:
    whole = run_training(tmp_path / "whole", steps=6)
    run_training(tmp_path / "run", steps=2, optimizer__decay_steps=6)
    with file_size_limit(20_000), pytest.raises(FailedWork, match="checkpoint 4 was not saved .* Make room and give"):
        run_training(tmp_path / "run", steps=6, resume=True, checkpoints__every=2)
    assert read_best(RunDirectory(tmp_path / "run"))[1] == 2
    assert run_training(tmp_path / "run", steps=6, resume=True).batches == whole.batches
    same_parameters(tmp_path / "whole", tmp_path / "run")


def test_sigterm_saves_the_step_and_says_so(
    tmp_path: Path, spec: Path, run_training: Train, quick_compilation: dict[str, str]
) -> None:
    run_training(tmp_path / "run", steps=1)
    command = [
        sys.executable,
        str(ROOT / "tests/support/inputs/toy_mixture.py"),
        "train",
        "pretrain",
        str(spec),
        "--run",
        str(tmp_path / "run"),
        "--steps",
        "100000",
        "--resume",
        "--quiet",
    ]
    process = subprocess.Popen(command, env=os.environ | quick_compilation, stdout=subprocess.PIPE, text=True)
    wait_for(lambda: len(batches(tmp_path / "run")) > 3, process)
    process.terminate()
    printed, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    step = len(batches(tmp_path / "run"))
    assert f"stopped by signal 15 after step {step}, saved" in printed
    assert read_best(RunDirectory(tmp_path / "run"))[1] == step


def test_training_imports_neither_tensorflow_nor_beam(
    tmp_path: Path, spec: Path, quick_compilation: dict[str, str]
) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(json.dumps(settings(batch_size=4, steps=2)))
    script = (
        "import sys; from tests.support.inputs.toy_mixture import stand_in; from trainers.main import main\n"
        "stand_in(setattr)\n"
        f"code = main(['train', 'pretrain', {str(spec)!r}, '--run', {str(tmp_path / 'run')!r}, "
        f"'--config', {str(config)!r}, '--quiet'])\n"
        "print(code, [name for name in ('tensorflow', 'tensorflow_datasets', 'apache_beam') if name in sys.modules])"
    )
    environment = os.environ | quick_compilation | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


def test_a_run_directory_holds_what_its_result_depends_on(tmp_path: Path, run_training: Train) -> None:
    run_training(tmp_path / "run", steps=3, checkpoints__every=2, checkpoints__keep=1)
    run = RunDirectory(tmp_path / "run")
    assert run.read_config().batch_size == 4
    assert run.read_lock()["schema"] == "embodimix.lock/v1"
    assert set(load_statistics(run.statistics_path)) == set(NORM_KEYS)
    assert [path.name for path in run.checkpoints.iterdir()] == ["3"]
    assert list(run.tensorboard.glob("events.*"))
    (audited,) = [json.loads(line) for line in (run.path / "audit.jsonl").read_text().splitlines()]
    assert (audited["draws"], audited["excess_repeats"]) == (12, 0)
    page = (run.path / "first_batch.html").read_text()
    assert page.count("<section") == 4 and "push it" in page and "toy/e0/3" in page


def test_a_line_of_metrics_names_the_loss_of_each_group(tmp_path: Path, run_training: Train) -> None:
    run_training(tmp_path / "run", steps=1)
    (line,) = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert set(line["group_loss"]) == {"push", "lift"}
    assert (line["step"], line["position"]) == (1, 4)
    assert line["learning_rate"] == pytest.approx(1e-3)


def test_a_run_that_exists_is_not_overwritten(tmp_path: Path, run_training: Train) -> None:
    run_training(tmp_path / "run", steps=1)
    with pytest.raises(UsageError, match="a run exists already. Give --resume"):
        run_training(tmp_path / "run", steps=1)


def test_a_setting_that_fails_leaves_no_run_behind(tmp_path: Path, run_training: Train) -> None:
    with pytest.raises(UsageError, match="fsdp: expected a divisor of the 1 devices"):
        run_training(tmp_path / "run", steps=1, fsdp=2)
    assert not RunDirectory(tmp_path / "run").exists()
    run_training(tmp_path / "run", steps=1)


def test_other_files_are_not_taken_for_a_run(tmp_path: Path, run_training: Train) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(UsageError, match="found files that are no run"):
        run_training(tmp_path / "photos", steps=1)


def test_a_resume_names_the_setting_that_changed(tmp_path: Path, run_training: Train) -> None:
    run_training(tmp_path / "run", steps=1)
    with pytest.raises(UsageError, match="batch_size is 4 in .*config.yaml; found 8"):
        run_training(tmp_path / "run", resume=True, batch_size=8)


def test_a_resume_to_fewer_steps_is_refused(tmp_path: Path, run_training: Train) -> None:
    run_training(tmp_path / "run", steps=2)
    with pytest.raises(UsageError, match="--steps: expected at least 2, where the run is; found 1"):
        run_training(tmp_path / "run", resume=True, steps=1)
    assert RunDirectory(tmp_path / "run").read_config().steps == 2


def test_a_changed_mixture_is_refused(tmp_path: Path, spec: Path, run_training: Train) -> None:
    run_training(tmp_path / "run", steps=1)
    spec.write_text("another toy")
    with pytest.raises(FailedWork, match="has changed since it was locked"):
        run_training(tmp_path / "run", resume=True)


def test_a_second_process_is_kept_out(tmp_path: Path, run_training: Train) -> None:
    with RunDirectory(tmp_path / "run").claimed(), pytest.raises(FailedWork, match="another process is training"):
        run_training(tmp_path / "run", steps=1)


def test_a_loss_that_is_not_finite_stops_and_names_the_sample(tmp_path: Path, spec: Path, run_training: Train) -> None:
    spec.write_text('{"nan": 13}')  # position 13 is the second sample of the fourth batch of four
    with pytest.raises(FailedWork, match="step 4: expected a finite loss.*from samples toy/e1/3 "):
        run_training(tmp_path / "run", steps=9, checkpoints__every=2)
    assert read_best(RunDirectory(tmp_path / "run"))[1] == 2
    samples = json.loads((tmp_path / "run" / "not_finite_step_4.json").read_text())["samples"]
    assert [sample["name"] for sample in samples] == ["toy/e1/2", "toy/e1/3", "toy/e1/4", "toy/e1/5"]


def test_the_next_batch_is_sent_while_one_is_computed() -> None:
    sent: list[int] = []
    placed = placed_ahead(iter([1, 2, 3]), lambda batch: sent.append(batch) or 10 * batch)  # type: ignore[arg-type]
    first = next(placed)
    assert (first.batch, first.on_device) == (1, 10)
    deadline = time.monotonic() + 60
    while sent != [1, 2] and time.monotonic() < deadline:
        time.sleep(0.001)
    assert sent == [1, 2]  # one ahead, and only one
    assert [item.batch for item in placed] == [2, 3]


def test_a_batch_that_cannot_be_sent_stops_the_run() -> None:
    def fail(batch: Any) -> Any:
        raise FailedWork(f"batch {batch}")

    with pytest.raises(FailedWork, match="batch 1"):
        next(placed_ahead(iter([1]), fail))  # type: ignore[list-item]


def test_a_device_without_memory_is_told_what_to_change() -> None:
    with pytest.raises(FailedWork, match="out of memory.*--accumulate 2 or more.*--batch-size"), memory_explained():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes")
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), memory_explained():
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")


def test_post_training_starts_from_the_average_with_a_fresh_optimizer(tmp_path: Path, run_training: Train) -> None:
    run_training(tmp_path / "pre", steps=3)
    run_training(
        tmp_path / "post",
        stage="posttrain",
        init=tmp_path / "pre",
        steps=1,
        batch_size=4,
        optimizer__learning_rate=1e-9,
        optimizer__ema_decay=0.0,
    )
    before, after = (read_best(RunDirectory(tmp_path / name)) for name in ("pre", "post"))
    assert after[1] == 1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), before[2], after[2])


def test_post_training_keeps_the_statistics_that_pretraining_knew(tmp_path: Path, run_training: Train) -> None:
    run_training(tmp_path / "pre", steps=1)
    known = toy_statistics(scale=5.0)
    save_statistics(tmp_path / "pre" / "statistics.json", {NORM_KEYS[0]: known[NORM_KEYS[0]]})
    run_training(tmp_path / "post", stage="posttrain", init=tmp_path / "pre", steps=1, batch_size=4)
    kept = load_statistics(tmp_path / "post" / "statistics.json")
    assert kept[NORM_KEYS[0]].action.max[0] == known[NORM_KEYS[0]].action.max[0]
    assert kept[NORM_KEYS[1]].action.max[0] < 1.0  # new to this run: the mixture's own, of scale 1


def test_post_training_needs_a_run_of_the_same_model(tmp_path: Path, run_training: Train) -> None:
    with pytest.raises(UsageError, match="--init .*: expected a run directory"):
        run_training(tmp_path / "post", stage="posttrain", init=tmp_path / "nothing", steps=1)
    run_training(tmp_path / "pre", steps=1)
    with pytest.raises(UsageError, match="--model pi0: expected 'tiny', the model of"):
        run_training(tmp_path / "post", stage="posttrain", init=tmp_path / "pre", steps=1, model="pi0")
    message = r"expected \[1, 2, 16, 32\], as this run's model has it; found \[1, 2, 16, 16\]"
    with pytest.raises(UsageError, match=message):
        run_training(tmp_path / "other", stage="posttrain", init=tmp_path / "pre", steps=1, policy__prefix__mlp_dim=32)
