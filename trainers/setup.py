"""How a run starts, new or resumed: its mixture, config, statistics and first state."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from mixtures.mixture import Mixture, open_mixture
from model import policy
from model.params import flatten
from pipelines.contract.errors import UsageError
from trainers.checkpoint import Checkpoints, Progress
from trainers.config import RunConfig, Stage, resolve_config, resumed
from trainers.exchange.starting import adopted_params, draw_options, published_params, refuse_frozen
from trainers.mesh import single_device_mesh, split_state, with_placement
from trainers.metrics import import_wandb
from trainers.optimizer import merge_params
from trainers.prompts import states_as_words
from trainers.robots import write_robots
from trainers.run import CLAIM, RunDirectory
from trainers.step import TrainState, new_state


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """The options of one training. overrides: settings by dotted name; resume: continue the run if it exists."""

    stage: Stage
    spec: Path
    run: Path
    init: Path | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    resume: bool = False
    show_progress: bool = True


def set_up(run: RunDirectory, request: TrainingRequest) -> tuple[RunConfig, Mixture]:
    """Resolves a new run, or resumes the one that exists and checks that nothing it depends on has changed.

    Nothing is written yet: see `record`.
    """
    check_training_request(run, request)
    mixture = open_mixture(request.spec, statistics=_frozen_statistics(run, request.init), stage=request.stage)
    config = _resumed(run, request, mixture) if run.exists() else _new_run(request, mixture)
    if config.wandb is not None:
        import_wandb(config)
    return config, mixture


def record_run(run: RunDirectory, config: RunConfig, mixture: Mixture) -> None:
    """Writes what the run depends on, the config last, once every check has passed."""
    if not run.exists():
        run.write_lock(mixture.lock())
        mixture.save_statistics(run.statistics_path)
    # Also for older runs, which lack this file, when they are resumed.
    if not run.robots_path.exists():
        write_robots(run.robots_path, mixture)
    run.write_config(config)


def check_training_request(run: RunDirectory, request: TrainingRequest) -> None:
    """UsageError if the run directory or the starting run are not what the command expects."""
    if run.exists() and not request.resume:
        raise UsageError(f"--run {run.path}: a run exists already. Give --resume to continue it, or another directory")
    if (
        not run.exists()
        and not request.resume
        and run.path.is_dir()
        and any(entry.name != CLAIM for entry in run.path.iterdir())
    ):
        raise UsageError(f"--run {run.path}: expected an empty or new directory; found files that are no run")
    if request.init is not None and not RunDirectory(request.init).exists():
        raise UsageError(f"--init {request.init}: expected a run directory with config.yaml; found none")


def start_or_restore(config: RunConfig, mesh: Mesh, checkpoints: Checkpoints) -> tuple[TrainState, Progress]:
    """Returns the newest whole checkpoint, or the state before the first step, placed on the mesh."""
    # From shapes alone, so that a restored state is never in memory beside a drawn one.
    like = with_placement(mesh, abstract_state(config))
    restored = checkpoints.restore_newest(like)
    if restored is not None:
        return restored
    return fresh_state(config, mesh, like), Progress()


def fresh_state(config: RunConfig, mesh: Mesh, like: TrainState) -> TrainState:
    """The state before the first step: from another run, from published weights, or drawn.

    Every array is made on the devices that hold it: the state of pi0 is 52 GB, and no single device has room for it.
    """
    placement = split_state(mesh, like)
    if config.init is not None or config.weights is not None:
        params = _init_params(config, mesh, like) if config.init is not None else published_params(config, like)
        # The parameters are given away, so that they are not there twice.
        return jax.jit(partial(new_state, config), out_shardings=placement, donate_argnums=0)(params)
    refuse_frozen(like, list(flatten(merge_params(like.trained, like.frozen))), "a run from the start")
    start = jax.jit(
        lambda key: new_state(config, policy.init_params(config.policy, key)),
        out_shardings=placement,
        compiler_options=draw_options(),
    )
    return start(jax.random.key(config.seed))


def read_best(run: RunDirectory, mesh: Mesh | None = None) -> tuple[RunConfig, int, Any]:
    """Returns a run's config, its newest checkpoint's step, and the parameters to act with (the moving average).

    They are placed on the mesh, or on this process's first device. UsageError where there is no checkpoint yet.
    """
    config = run.read_config()
    if not run.checkpoints.is_dir():
        raise UsageError(f"{run.path}: expected a checkpoint; found none yet. Train it first")
    checkpoints = Checkpoints(run.checkpoints)
    try:
        steps = checkpoints.steps()
        if not steps:
            raise UsageError(f"{run.path}: expected a checkpoint; found none yet. Train it first")
        like = with_placement(mesh or single_device_mesh(), abstract_state(config))
        state = checkpoints.restore_best(steps[-1], like)
        return config, steps[-1], state.best_params
    finally:
        checkpoints.close()


def _frozen_statistics(run: RunDirectory, init: Path | None) -> Path | None:
    """The statistics that replace the datasets' own: this run's, else those of the run it starts from.

    What a policy learned is valid only under the normalization that it was trained with, so post-training keeps
    pretraining's statistics for every norm key that pretraining knew; new norm keys bring their own.
    """
    if run.exists():
        return run.recorded_statistics()
    return None if init is None else RunDirectory(init).recorded_statistics()


def _resumed(run: RunDirectory, request: TrainingRequest, mixture: Mixture) -> RunConfig:
    saved = run.read_config()
    if not saved.mixture:
        raise UsageError(f"--resume: {run.path} was imported and trained nowhere here; start from it with --init")
    if saved.stage != request.stage:
        raise UsageError(f"--resume: {run.path} is a {saved.stage} run; found `train {request.stage}`")
    # A position means the same sample only in the same mixture.
    mixture.check_lock(run.read_lock())
    return resumed(saved, request.overrides, run.path)


def _new_run(request: TrainingRequest, mixture: Mixture) -> RunConfig:
    init_config = None if request.init is None else _init_config(RunDirectory(request.init), mixture)
    config = resolve_config(
        stage=request.stage,
        mixture=request.spec,
        horizon=mixture.horizon,
        cameras=mixture.cameras,
        layout=mixture.layout,
        init=request.init,
        init_config=init_config,
        overrides=request.overrides,
    )
    normalization = mixture.spec.action.normalization
    if states_as_words(config.policy) and normalization != "quantile":
        raise UsageError(
            f"{mixture.spec.path}: expected action.normalization quantile for a pi0.5 model, which reads the state as "
            f"256 bins of -1 to 1; found {normalization!r}, which leaves that range"
        )
    return config


def _init_config(init: RunDirectory, mixture: Mixture) -> RunConfig:
    """The starting run's config; UsageError if this mixture states actions in another way."""
    before, now = init.read_lock()["action"], mixture.lock()["action"]
    for name, value in now.items():
        if before.get(name) != value:
            raise UsageError(
                f"{mixture.spec.path}: expected action.{name} {before.get(name)!r}, as in {init.path}; found {value!r}"
            )
    return init.read_config()


def _init_params(config: RunConfig, mesh: Mesh, like: TrainState) -> Any:
    assert config.init is not None
    _, _, found = read_best(RunDirectory(Path(config.init)), mesh)
    return adopted_params(config, like, found)


def abstract_state(config: RunConfig) -> TrainState:
    """Shapes and types of the state, for reading a checkpoint without building one first."""
    return jax.eval_shape(lambda: new_state(config, policy.init_params(config.policy, jax.random.key(config.seed))))
