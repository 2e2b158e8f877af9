"""A published checkpoint as a run, to serve, evaluate and train on: its weights, statistics, robot and tokenizer.

The run is of layout pi32/v1, as wide as openpi's and LeRobot's vectors, and of openpi's loss: these policies learned to
take noise away in every dim, padding included, so that only all 32 of them give the actions that they give elsewhere.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from mixtures.actions.normalizer import action_form
from mixtures.locks import action_settings
from mixtures.specs.grammar import ActionMode
from mixtures.specs.spec import ActionRule
from model.config import DType, Pi0Config
from model.params import unflatten
from model.published.files import Layout, WeightsFile, find_tokenizer, open_weights, read_config_json
from model.published.sizes import sizes_of_weights
from model.published.weights import SLOT_AXES
from pipelines.contract.embodiments import get_embodiment
from pipelines.contract.errors import UsageError
from pipelines.contract.layouts import get_layout
from pipelines.contract.slots import CAMERAS, METRIC, PARTS, norm_key
from pipelines.shards.published import PublishedMap, published_statistics
from pipelines.shards.scales import Normalization
from pipelines.shards.statistics import save_statistics
from trainers.checkpoint import Checkpoints, Progress
from trainers.config import CheckpointConfig, OptimizerConfig, RunConfig, tokenizer_hash
from trainers.exchange.dims import STATE_ARRAYS
from trainers.exchange.statistics import PublishedStatistics, read_lerobot, read_openpi
from trainers.mesh import single_device_mesh, with_placement
from trainers.optimizer import split_params
from trainers.robots import Robot, save_robots
from trainers.run import RunDirectory
from trainers.step import TrainState

LAYOUT = "pi32/v1"
# openpi's numbers of text tokens (pi0_config.py), which its checkpoints do not hold.
MAX_TOKENS = {False: 48, True: 200}
Actions = Literal["absolute", "relative"]


@dataclass(frozen=True, kw_only=True)
class ImportRequest:
    """What an import is given. robot: ROBOT/CONTROL_MODE of the registry, whose slots the checkpoint's dims are.

    horizon, actions, normalization, cameras, control_hz, dtype: None takes what the checkpoint says, and is refused
    where it does not. asset: openpi's asset id. state_slots, action_slots: the slot of every dim; () for the robot's
    own slots, ascending.
    """

    checkpoint: Path
    run: Path
    robot: str
    units: str = METRIC
    asset: str | None = None
    horizon: int | None = None
    actions: Actions | None = None
    normalization: Normalization | None = None
    cameras: tuple[str, ...] = ()
    control_hz: float | None = None
    tokenizer: Path | None = None
    dtype: DType | None = None
    state_slots: tuple[int, ...] = ()
    action_slots: tuple[int, ...] = ()
    siglip_heads: int | None = None


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What became a run, in words for the report."""

    run: Path
    layout: Layout
    norm_key: str
    dims: tuple[int, int]
    statistics: Path
    tokenizer: Path | None
    cameras: Mapping[str, str]
    unread: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Policy:
    """What a checkpoint says of itself, in either layout."""

    config: Pi0Config
    statistics: PublishedStatistics
    mode: ActionMode
    cameras: Mapping[str, str]
    excluded: tuple[bool, ...] | None = None


def import_checkpoint(request: ImportRequest) -> Imported:
    """Writes the run. UsageError for what a checkpoint does not say, or says in a way that this project has not."""
    directory = RunDirectory(request.run)
    if directory.path.exists() and any(directory.path.iterdir()):
        raise UsageError(f"import: expected a new directory; found files in {request.run}")
    robot = _robot_of(request)
    policy = _read_policy(request)
    state, action = _slots(request, robot, policy)
    _check_form(request, robot, policy, action)
    n_slots = get_layout(LAYOUT).n_slots
    file = open_weights(request.checkpoint, policy.config)
    params = _widened(file, n_slots, state, action)
    config = _run_config(request, policy, n_slots)
    hz = robot.control_hz[0]
    statistics = published_statistics(
        robot.norm_key,
        n_slots,
        (state, _cut(policy.statistics.state, len(state))),
        (action, _cut(policy.statistics.action, len(action))),
        hz,
    )
    directory.path.mkdir(parents=True, exist_ok=True)
    _save_params(directory, config, params)
    save_statistics(directory.statistics_path, {robot.norm_key: statistics}, policy.statistics.normalization)
    save_robots(directory.robots_path, {robot.norm_key: robot}, LAYOUT)
    rule = ActionRule(horizon=policy.config.horizon, mode=policy.mode, normalization=policy.statistics.normalization)
    directory.write_lock({"schema": "embodimix.imported/v1", "layout": LAYOUT, "action": action_settings(rule)})
    directory.write_config(config)
    return Imported(
        run=request.run,
        layout=file.layout,
        norm_key=robot.norm_key,
        dims=(len(state), len(action)),
        statistics=policy.statistics.source,
        tokenizer=None if config.tokenizer is None else Path(config.tokenizer),
        cameras=policy.cameras,
        unread=file.unread,
    )


def _robot_of(request: ImportRequest) -> Robot:
    name, _, mode = request.robot.partition("/")
    if not mode:
        raise UsageError(f"--robot {request.robot}: expected ROBOT/CONTROL_MODE, such as trossen_dual/joint_position")
    embodiment = get_embodiment(name)
    vectors = embodiment.vectors(mode)
    key = norm_key(name, mode, request.units, vectors.layout)
    hz = request.control_hz or embodiment.control_hz
    return Robot(norm_key=key, parts=dict(vectors.action), control_hz=(float(hz),), layout=LAYOUT)


def _read_policy(request: ImportRequest) -> _Policy:
    said = read_config_json(request.checkpoint)
    try:
        if said.get("type") in ("pi0", "pi05"):
            return _read_lerobot(request, said)
        if said:
            raise UsageError(
                f"import: {request.checkpoint} says nothing of what normalizes it (config.json of type "
                f"{said.get('type', said.get('model_type'))!r}); expected a checkpoint of LeRobot's pi0 or of openpi"
            )
        return _read_openpi(request)
    except (ValueError, OSError, KeyError) as error:
        raise UsageError(f"import: {request.checkpoint}: {error}") from error


def _read_openpi(request: ImportRequest) -> _Policy:
    asked = {"--horizon": request.horizon, "--actions": request.actions}
    if unsaid := [flag for flag, value in asked.items() if value is None]:
        raise UsageError(
            f"import: openpi's checkpoints do not say {' and '.join(unsaid)}; take them from the training config "
            "(action_horizon; DeltaActions is relative)"
        )
    config = sizes_of_weights(request.checkpoint, horizon=request.horizon)
    # openpi normalizes all but pi0 by quantiles (training/config.py).
    normalization: Normalization = request.normalization or ("quantile" if config.pi05 else "zscore")
    return _Policy(
        config=replace(config, max_tokens=MAX_TOKENS[config.pi05], dtype=request.dtype or "bfloat16"),
        statistics=read_openpi(request.checkpoint, request.asset, normalization),
        mode="relative_to_first_state" if request.actions == "relative" else "absolute",
        cameras={camera: camera for camera in request.cameras or CAMERAS},
    )


def _read_lerobot(request: ImportRequest, said: Mapping[str, Any]) -> _Policy:
    asked = {"--horizon": request.horizon, "--actions": request.actions, "--normalization": request.normalization}
    if given := [flag for flag, value in asked.items() if value is not None]:
        raise UsageError(f"import: LeRobot's checkpoints say {', '.join(given)} themselves; leave it out")
    config = sizes_of_weights(
        request.checkpoint,
        horizon=said["chunk_size"],
        max_tokens=said["tokenizer_max_length"],
        dtype=request.dtype or said.get("dtype", "float32"),
        **({} if request.siglip_heads is None else {"siglip_heads": request.siglip_heads}),
    )
    state_dims = said["input_features"]["observation.state"]["shape"][0]
    if config.pi05 and "use_relative_actions" not in said and state_dims < said.get("max_state_dim", 32):
        raise UsageError(
            f"import: LeRobot 0.4 wrote pi0.5's state of {state_dims} dims into the prompt padded to "
            f"{said.get('max_state_dim', 32)}, later versions without padding; this project does as the latter, and "
            "config.json is of the former"
        )
    relative = bool(said.get("use_relative_actions"))
    return _Policy(
        config=config,
        statistics=read_lerobot(request.checkpoint, said),
        mode="relative_to_first_state" if relative else "absolute",
        cameras=_lerobot_cameras(said, request.cameras),
        excluded=_lerobot_relative(said) if relative else None,
    )


def _lerobot_cameras(said: Mapping[str, Any], chosen: Sequence[str]) -> dict[str, str]:
    """LeRobot's picture of each camera slot; its order of features is that of the tokens, and so is that of slots."""
    pictures = [name for name, about in said["input_features"].items() if about["type"] == "VISUAL"]
    pictures = [name for name in pictures if "empty_camera" not in name]
    last = [name.rpartition(".")[2] for name in pictures]
    slots = list(chosen) or (last if set(last) <= set(CAMERAS) else list(CAMERAS[: len(pictures)]))
    numbers = [CAMERAS.index(slot) for slot in slots]
    if len(slots) != len(pictures) or numbers != sorted(set(numbers)):
        raise UsageError(
            f"import: LeRobot's pictures {', '.join(pictures)}: expected as many of {', '.join(CAMERAS)}, in this "
            f"order; found {', '.join(slots)}. Name them with --cameras"
        )
    return dict(zip(slots, pictures, strict=True))


def _lerobot_relative(said: Mapping[str, Any]) -> tuple[bool, ...]:
    """Which dims LeRobot makes relative (relative_action_processor.py): all but those named by a word of the list."""
    words = [str(word).lower() for word in said.get("relative_exclude_joints") or [] if word]
    dims = said["output_features"]["action"]["shape"][0]
    names = said.get("action_feature_names")
    if not words or names is None:
        return (True,) * dims
    kept = [any(word in str(name).lower() for word in words) for name in names[:dims]]
    return tuple(not one for one in kept) + (True,) * (dims - len(kept))


def _slots(request: ImportRequest, robot: Robot, policy: _Policy) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The slot of every dim of state and action."""
    name, _, mode = request.robot.partition("/")
    vectors = get_embodiment(name).vectors(mode)
    own = {
        "state": request.state_slots or _ascending("state", vectors.state),
        "action": request.action_slots or _ascending("action", vectors.action),
    }
    for side, slots in own.items():
        dims = len(np.asarray(getattr(policy.statistics, side).center))
        # openpi pads the vectors of its published statistics to 32 in places.
        is_padded = dims == get_layout(LAYOUT).n_slots and _is_padding(getattr(policy.statistics, side), len(slots))
        if dims != len(slots) and not is_padded:
            raise UsageError(
                f"import: {side}: expected the {len(slots)} dims of {robot.norm_key}, slots "
                f"{', '.join(map(str, slots))}; found statistics of {dims} dims in {policy.statistics.source}. Choose "
                f"another --robot, or say the slot of each with --{side}-slots"
            )
    if policy.config.pi05 and own["state"] != tuple(sorted(own["state"])):
        raise UsageError("import: pi0.5 reads its state as words in the order of slots; give ascending --state-slots")
    return own["state"], own["action"]


def _is_padding(published: PublishedMap, start: int) -> bool:
    """Whether the dims from `start` on never held anything but one value."""
    return bool((np.asarray(published.half_range)[start:] < 1e-5).all())


def _ascending(side: str, parts: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
    """The slots of a robot's parts. UsageError where their order is not that of the parts: dims may be in either."""
    by_part = tuple(slot for part in PARTS for slot in parts.get(part, ()))
    if by_part != tuple(sorted(by_part)):
        listed = ",".join(map(str, by_part))
        raise UsageError(
            f"import: the checkpoint does not say in which order it has the {side}'s dims, which may be part by part; "
            f"say the slot of each with --{side}-slots ({listed} is part by part)"
        )
    return by_part


def _check_form(request: ImportRequest, robot: Robot, policy: _Policy, action: Sequence[int]) -> None:
    """UsageError where LeRobot's relative dims are not those that this project makes relative."""
    if policy.excluded is None:
        return
    form = action_form(robot.norm_key, robot.parts, robot.n_slots, policy.mode)
    ours = tuple(bool(form.relative[slot]) for slot in action)
    if ours != policy.excluded:
        raise UsageError(
            f"import: expected the arms' dims relative and no others, {ours}; LeRobot's config makes "
            f"{policy.excluded} so"
        )


def _widened(file: WeightsFile, n_slots: int, state: Sequence[int], action: Sequence[int]) -> dict[str, np.ndarray]:
    """All arrays; dims become slots, those of the robot its own, those of padding the others."""
    flat = file.read_all()
    for name, axis in SLOT_AXES.items():
        if name in flat:
            own = state if name in STATE_ARRAYS else action
            source = np.moveaxis(flat[name], axis, 0)
            others = [slot for slot in range(n_slots) if slot not in own]
            if len(source) < len(own) or len(source) > n_slots:
                raise UsageError(f"import: {name}: expected {len(own)} to {n_slots} dims; found {len(source)}")
            order = [*own, *others][: len(source)]
            target = np.zeros((n_slots, *source.shape[1:]), source.dtype)
            target[order] = source
            flat[name] = np.moveaxis(target, 0, axis)
    return flat


def _cut(published: PublishedMap, dims: int) -> PublishedMap:
    return PublishedMap(**{name: np.asarray(values)[:dims] for name, values in vars(published).items()})


def _run_config(request: ImportRequest, policy: _Policy, n_slots: int) -> RunConfig:
    tokenizer = request.tokenizer or find_tokenizer(request.checkpoint)
    return RunConfig(
        stage="pretrain",
        mixture="",
        weights=str(request.checkpoint.resolve()),
        tokenizer=None if tokenizer is None else str(tokenizer.resolve()),
        tokenizer_hash=None if tokenizer is None else tokenizer_hash(tokenizer),
        model="pi05" if policy.config.pi05 else "pi0",
        policy=replace(policy.config, action_dim=n_slots),
        cameras=tuple(policy.cameras),
        steps=1,
        loss="openpi",
        optimizer=OptimizerConfig(
            learning_rate=2.5e-5, final_learning_rate=2.5e-6, warmup_steps=0, decay_steps=1, ema_decay=0.0
        ),
        checkpoints=CheckpointConfig(),
    )


def _save_params(directory: RunDirectory, config: RunConfig, flat: Mapping[str, np.ndarray]) -> None:
    """Writes checkpoint 0, which holds parameters alone."""
    shapes = {name: jax.ShapeDtypeStruct(array.shape, np.float32) for name, array in flat.items()}
    placed = with_placement(single_device_mesh(), unflatten(shapes))
    params = jax.tree.map(
        lambda like, array: jax.device_put(np.asarray(array, np.float32), like.sharding), placed, unflatten(flat)
    )
    trained, frozen = split_params(params, ())
    state = TrainState(step=jax.numpy.zeros((), np.int32), trained=trained, frozen=frozen, optimizer=None, ema=None)
    checkpoints = Checkpoints(directory.checkpoints, config.checkpoints)
    try:
        checkpoints.save(state, Progress())
        checkpoints.finish()
    finally:
        checkpoints.close()


def report(imported: Imported) -> str:
    """What was made, a line each."""
    cameras = ", ".join(f"{slot} is {name}" for slot, name in imported.cameras.items())
    return "\n".join(
        [
            f"wrote {imported.run}: {imported.norm_key}, dims of state and action: {imported.dims}",
            f"layout {imported.layout}; {len(imported.unread)} arrays of the file left over",
            f"statistics: {imported.statistics}",
            f"tokenizer: {imported.tokenizer or 'none beside it; give --tokenizer'}",
            f"cameras: {cameras}",
        ]
    )


def to_json(imported: Imported) -> str:
    """The report as JSON."""
    return json.dumps(vars(imported), default=str, indent=1)
