"""What a run shows while it trains: held-out loss, share of the peak, Weights & Biases; and a bad batch replayed."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.params import flatten
from model.published.export import export_params
from pipelines.contract.errors import FailedWork, UsageError
from tests.support.inputs.toy_mixture import quick_compilation, settings, stand_in
from trainers.config import flattened
from trainers.evaluation.replay import render, replay
from trainers.mesh import single_device_mesh, with_placement
from trainers.metrics import keep_until, read_metrics
from trainers.planning.work import train_flops
from trainers.run import RunDirectory
from trainers.setup import TrainingRequest, abstract_state, fresh_state, read_best
from trainers.train import train
from trainers.validation import Validation

pytestmark = pytest.mark.usefixtures("quick_compilation")
__all__ = ["quick_compilation"]
PEAK = 1e-3  # TFLOP/s of a very slow device


class FakeWandb:
    """Stands in for the wandb package; keeps what it was told."""

    def __init__(self) -> None:
        self.opened: dict[str, Any] = {}
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = False

    def init(self, **options: Any) -> "FakeWandb":
        self.opened = options
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished = True


def pretrain(run: Path, text: str = "toy", **changes: Any) -> Path:
    spec = run.parent / f"{run.name}.yaml"
    spec.write_text(text)
    train(
        TrainingRequest(
            stage="pretrain", spec=spec, run=run, overrides=settings(batch_size=4, **changes), show_progress=False
        )
    )
    return run


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch.setattr)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, quick_compilation: dict[str, str]) -> tuple[Path, FakeWandb]:
    fake = FakeWandb()
    run = tmp_path_factory.mktemp("watched") / "run"
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch.setattr)
        patch.setitem(sys.modules, "wandb", fake)
        pretrain(
            run,
            steps=5,
            eval_every=2,
            eval_samples=6,
            log_every=5,
            peak_tflops=PEAK,
            wandb="arms",
            checkpoints__every=2,
        )
    return run, fake


def test_held_out_loss_is_logged_per_group_when_it_is_time(watched: tuple[Path, FakeWandb]) -> None:
    lines = read_metrics(watched[0] / "metrics.jsonl")
    assert [line["step"] for line in lines] == [2, 4, 5]  # also between lines that are due by themselves
    for line in lines[:2]:
        losses = line["validation"]["group_loss"]
        assert set(losses) == {"push", "lift"} and line["validation_s"] > 0
        assert line["validation"]["loss"] == pytest.approx(0.5 * losses["push"] + 0.5 * losses["lift"])
    assert "validation" not in lines[2]
    assert lines[0]["validation"]["loss"] != lines[1]["validation"]["loss"]  # the policy has moved


def test_measuring_leaves_the_training_as_it_is(watched: tuple[Path, FakeWandb], tmp_path: Path) -> None:
    plain = pretrain(tmp_path / "plain", steps=5)
    measured, unmeasured = (read_metrics(run / "metrics.jsonl")[-1] for run in (watched[0], plain))
    assert (measured["loss"], measured["batches"]) == (unmeasured["loss"], unmeasured["batches"])


def test_the_share_of_the_peak_is_work_by_time(watched: tuple[Path, FakeWandb]) -> None:
    line = read_metrics(watched[0] / "metrics.jsonl")[-1]
    config = RunDirectory(watched[0]).read_config()
    work = 4 * train_flops(config.policy, 1) / 1e12
    assert line["mfu"] == pytest.approx(work / line["step_s"] / PEAK / jax.device_count())
    assert line["data_wait_share"] == pytest.approx(line["data_wait_s"] / line["step_s"])


def test_saving_is_no_time_of_a_step(watched: tuple[Path, FakeWandb]) -> None:
    lines = read_metrics(watched[0] / "metrics.jsonl")
    assert "checkpoint_s" in lines[-1] or "checkpoint_s" in lines[1]


def test_weights_and_biases_gets_the_same_curves(watched: tuple[Path, FakeWandb]) -> None:
    run, fake = watched
    assert (fake.opened["project"], fake.opened["name"], fake.opened["resume"]) == ("arms", "run", "allow")
    assert fake.opened["id"] == (run / "wandb_id").read_text() and fake.opened["config"]["batch_size"] == 4
    assert [step for step, _ in fake.logged] == [2, 4, 5] and fake.finished
    assert fake.logged[0][1]["validation/group_loss/push"] > 0


def test_without_weights_and_biases_the_flag_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match="--wandb arms: Weights & Biases is not installed; pip install wandb"):
        pretrain(tmp_path / "run", steps=1, wandb="arms")
    assert not RunDirectory(tmp_path / "run").exists()


def test_nothing_held_out_is_said_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mixture = SimpleNamespace(groups=(SimpleNamespace(n_validation_episodes=0),))
    with pytest.raises(UsageError, match="--eval-every: the mixture holds out no episodes; say `validation:"):
        Validation(SimpleNamespace(), None, mixture)  # type: ignore[arg-type]


def test_a_batch_that_stopped_a_run_is_replayed(tmp_path: Path) -> None:
    with pytest.raises(FailedWork, match="`embodimix train replay .*run` computes this batch again"):
        pretrain(tmp_path / "run", '{"nan": 13}', steps=9, checkpoints__every=2)
    report = replay(tmp_path / "run")
    assert (report.step, report.from_checkpoint) == (4, 2)
    stopped = json.loads((tmp_path / "run" / "not_finite_step_4.json").read_text())["samples"]
    worst, *others = report.samples
    assert worst.name == "toy/e1/3" and not np.isfinite(worst.loss) and not np.isfinite(worst.action)
    expected = {sample["name"]: sample["loss"] for sample in stopped}
    for sample in others:
        assert sample.loss == pytest.approx(expected[sample.name], rel=1e-5)
    assert all(not np.isfinite(row.norm) for row in report.gradients[:3])
    assert "toy/e1/3" in render(report)
    assert (tmp_path / "run" / "replay_step_4.html").exists()


def test_a_run_that_never_stopped_has_nothing_to_replay(watched: tuple[Path, FakeWandb]) -> None:
    with pytest.raises(UsageError, match="no loss was not finite here; name a step with --step N"):
        replay(watched[0])
    assert replay(watched[0], step=5).loss == pytest.approx(
        read_metrics(watched[0] / "metrics.jsonl")[-1]["loss"], rel=1e-5
    )


def trained_and_first(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters after training and those before, flat."""
    config, _, params = read_best(RunDirectory(run))
    mesh = single_device_mesh()
    first = fresh_state(config, mesh, with_placement(mesh, abstract_state(config)))
    return flatten(params), flatten(first.params)


def test_adapters_train_in_bfloat16_with_recomputation_and_the_rest_stays(tmp_path: Path) -> None:
    donor = pretrain(tmp_path / "donor", steps=1)
    config, _, params = read_best(RunDirectory(donor))
    export_params(config.policy, params, tmp_path / "weights", "openpi")
    run = pretrain(
        tmp_path / "run",
        steps=1,
        weights=str(tmp_path / "weights"),
        policy__prefix__lora_rank=2,
        policy__expert__lora_rank=2,
        policy__dtype="bfloat16",
        policy__remat="full",
        optimizer__ema_decay=0.0,
    )
    after, before = trained_and_first(run)
    types = {name: array.dtype for name, array in after.items()}
    assert types["PaliGemma/llm/layers/mlp/linear"] == jnp.bfloat16
    assert types["PaliGemma/llm/layers/mlp/linear_lora_a"] == types["PaliGemma/img/head/kernel"] == np.float32
    moved = {name for name in after if not np.allclose(after[name], before[name], atol=1e-6)}
    assert not {name for name in moved if "/llm/" in name and "lora" not in name}
    assert {"PaliGemma/img/embedding/kernel", "action_out_proj/kernel"} <= moved
    assert any("lora" in name for name in moved)


def test_pi0_small_trains_through_the_same_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"width": 16, "depth": 1, "mlp_dim": 16, "heads": 2}
    overrides = {
        "model": "pi0-small-tiny",
        "steps": 1,
        "batch_size": 4,
        "policy.text": sizes,
        "policy.encoder": sizes,
        "policy.expert": sizes,
        "policy.vit": sizes | {"patch_size": 112},
        "optimizer.ema_decay": 0.0,
    }
    (tmp_path / "toy.yaml").write_text("toy")
    train(
        TrainingRequest(
            stage="pretrain",
            spec=tmp_path / "toy.yaml",
            run=tmp_path / "run",
            overrides=flattened(overrides),
            show_progress=False,
        )
    )
    config, step, _ = read_best(RunDirectory(tmp_path / "run"))
    assert (type(config.policy).__name__, step) == ("Pi0SmallConfig", 1)
    after, before = trained_and_first(tmp_path / "run")
    assert any(not np.array_equal(after[name], before[name]) for name in after)


def test_a_run_starts_from_published_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    donor = pretrain(tmp_path / "donor", steps=1)
    config, _, params = read_best(RunDirectory(donor))
    export_params(config.policy, params, tmp_path / "weights", "openpi")
    run = pretrain(tmp_path / "run", steps=1, weights=str(tmp_path / "weights"), optimizer__learning_rate=1e-9)
    assert "parameters read, 0 drawn" in capsys.readouterr().err
    for name, array in flatten(read_best(RunDirectory(run))[2]).items():
        np.testing.assert_allclose(array, flatten(params)[name], atol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", ["statistics.json", "mixture.lock.json"])
def test_a_run_that_lost_a_file_says_which(tmp_path: Path, name: str, watched: tuple[Path, FakeWandb]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for kept in ("config.yaml", "statistics.json", "mixture.lock.json"):
        if kept != name:
            (run / kept).write_bytes((watched[0] / kept).read_bytes())
    spec = RunDirectory(run).read_config().mixture
    with pytest.raises(UsageError, match=f"{name}: expected what the run wrote when it started; found no such file"):
        train(TrainingRequest(stage="pretrain", spec=Path(spec), run=run, resume=True, show_progress=False))


def test_one_bad_line_of_metrics_loses_that_line_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": 1.0}).encode() for step in range(1, 6)]
    lines[1] = lines[1].replace(b"{", b"\xff")
    lines[3] = b"[1, 2]"
    path.write_bytes(b"\n".join(lines) + b"\n" + b'{"step": 6, "lo')
    assert [line["step"] for line in read_metrics(path)] == [1, 3, 5]
    assert "3 lines without metrics left out" in capsys.readouterr().err
    keep_until(path, 3)
    assert [line["step"] for line in read_metrics(path)] == [1, 3]
