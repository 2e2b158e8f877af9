"""What a run is: one frozen tree of settings, with defaults per stage and model, changed by dotted names."""

import dataclasses
import hashlib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from model.config import NAMED, CameraAugmentation, DType, Pi0Config, PolicyConfig, config_from_dict, named_config
from model.published.files import find_tokenizer
from pipelines.contract.errors import UsageError, nearest
from pipelines.contract.layouts import get_layout
from pipelines.contract.slots import CAMERAS, LAYOUT
from trainers.config_document import read_config, read_settings

SCHEMA = "embodimix.run/v1"
WITH_ADAPTERS = "-lora"
Stage = Literal["pretrain", "posttrain"]
Loss = Literal["masked", "openpi"]
Schedule = Literal["cosine", "rsqrt"]
WeightsLayout = Literal["openpi", "lerobot", "hf", "big_vision"]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with linear warm-up and a decay.

    learning_rate is the peak. schedule 'cosine': it falls to final_learning_rate at decay_steps and stays there;
    'rsqrt': it falls as 1/sqrt(1 + n/rsqrt_steps), n steps after the warm-up, and never ends. ema_decay 0 keeps no
    moving average. clip_norm bounds the global norm of the gradient.
    """

    learning_rate: float
    final_learning_rate: float
    warmup_steps: int
    decay_steps: int
    ema_decay: float
    schedule: Schedule = "cosine"
    rsqrt_steps: float = 10_000.0
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 1e-10
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "eps", "clip_norm", "decay_steps", "rsqrt_steps"):
            _require(getattr(self, name) > 0, f"optimizer.{name}", "a positive number", getattr(self, name))
        for name in ("warmup_steps", "final_learning_rate", "weight_decay"):
            _require(getattr(self, name) >= 0, f"optimizer.{name}", "zero or more", getattr(self, name))
        _require(
            self.warmup_steps < self.decay_steps,
            "optimizer.warmup_steps",
            f"fewer than decay_steps ({self.decay_steps})",
            self.warmup_steps,
        )
        for name in ("b1", "b2", "ema_decay"):
            _require(0 <= getattr(self, name) < 1, f"optimizer.{name}", "at least 0 and below 1", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """A checkpoint every `every` steps and at the end; the newest `keep` stay, and all of multiples of keep_every."""

    every: int = 1000
    keep: int = 2
    keep_every: int = 0

    def __post_init__(self) -> None:
        _require(self.every > 0, "checkpoints.every", "a positive number of steps", self.every)
        _require(self.keep > 0, "checkpoints.keep", "at least 1", self.keep)
        _require(self.keep_every >= 0, "checkpoints.keep_every", "zero or more", self.keep_every)


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """Random changes of training's inputs, drawn by (seed, position); validation, evaluation and serving have none.

    By camera, see `model.augmentation`. state_noise: standard deviation that is added to measured slots of the
    normalized state. state_dropout: share of samples whose state is 0, the middle of its range. prompt_dropout: share
    of samples whose prompt is empty.
    """

    base_0_rgb: CameraAugmentation = CameraAugmentation()
    left_wrist_0_rgb: CameraAugmentation = CameraAugmentation()
    right_wrist_0_rgb: CameraAugmentation = CameraAugmentation()
    state_noise: float = 0.0
    state_dropout: float = 0.0
    prompt_dropout: float = 0.0

    def __post_init__(self) -> None:
        if not self.state_noise >= 0:
            raise ValueError(f"state_noise: expected zero or more; found {self.state_noise}")
        for name in ("state_dropout", "prompt_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a share of 0 to 1; found {getattr(self, name)}")

    @property
    def cameras(self) -> dict[str, CameraAugmentation]:
        return {name: getattr(self, name) for name in CAMERAS}

    @property
    def changes_pictures(self) -> bool:
        return any(camera.is_on for camera in self.cameras.values())

    @property
    def changes_numbers_or_words(self) -> bool:
        return max(self.state_noise, self.state_dropout, self.prompt_dropout) > 0


_COLOURS = CameraAugmentation(brightness=0.3, contrast=0.4, hue=0.1)
AUGMENTATIONS: Mapping[str, AugmentationConfig] = {
    "none": AugmentationConfig(),
    # openpi's `preprocess_observation`: crops and turns not on wrist cameras, whose view is fixed to the hand.
    "openpi": AugmentationConfig(
        base_0_rgb=dataclasses.replace(_COLOURS, crop=0.95, rotation_deg=5.0),
        left_wrist_0_rgb=_COLOURS,
        right_wrist_0_rgb=_COLOURS,
    ),
}


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything a run's result depends on, beside the mixture's lock and the statistics.

    stage, init: posttrain starts from the weights of the run directory `init`. weights: published weights to start
    from instead (any layout that `model.published.files` reads); parameters that the file lacks are drawn.
    weights_layout: the layout that these must have; None lets the content decide. slot_map: the file's action dim for
    each slot, -1 for a slot that starts fresh; () for the same dims, or openpi's 32 on 18 slots.
    tokenizer: the SentencePiece file of a model with PaliGemma's vocabulary; small models bring their own.
    tokenizer_hash: 16 digits of that file's sha256, compared each time it is opened; None in runs before version 0.2.
    mixture: path of the mixture YAML. cameras: the camera slots that any of its groups has.
    model: the name given; policy: the sizes it stands for, with changes.
    steps: optimizer steps, each over batch_size samples, split into `accumulate` equal parts one after another.
    loss: 'masked' counts only real slots and steps inside the episode; 'openpi' averages over all of them.
    flow_time_shift: moves flow times toward noise (`model.flow.sample_time`); 1 as published.
    freeze: patterns (fnmatch, on '/'-joined names) of parameters that stay as they are; one that begins with '!' names
    exceptions. frozen_dtype: the type that weights of products have in memory and checkpoints if they stay.
    fsdp: devices that the parameters are split over; samples are split over all devices.
    batches_ahead: batches that are read while one is computed; 0 for what the stream finds right.
    log_every: steps between lines of metrics. eval_every: steps between measurements of the flow loss of held-out
    episodes, on at most eval_samples of each group; 0 for none. peak_tflops: a device's peak, for the share of it that
    is used (MFU); None takes it from the table in `trainers.planning.work`. wandb: the project at Weights & Biases.
    """

    schema: str = SCHEMA
    stage: Stage
    mixture: str
    init: str | None = None
    weights: str | None = None
    weights_layout: WeightsLayout | None = None
    slot_map: tuple[int, ...] = ()
    tokenizer: str | None = None
    tokenizer_hash: str | None = None
    model: str
    policy: PolicyConfig
    cameras: tuple[str, ...]
    steps: int
    batch_size: int = 32
    accumulate: int = 1
    seed: int = 0
    loss: Loss = "masked"
    flow_time_shift: float = 1.0
    freeze: tuple[str, ...] = ()
    frozen_dtype: DType = "float32"
    fsdp: int = 1
    batches_ahead: int = 0
    log_every: int = 1
    eval_every: int = 0
    eval_samples: int = 64
    peak_tflops: float | None = None
    wandb: str | None = None
    optimizer: OptimizerConfig
    checkpoints: CheckpointConfig
    augmentation: AugmentationConfig = AugmentationConfig()

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "fsdp", "log_every", "eval_samples"):
            _require(getattr(self, name) > 0, name, "a positive number", getattr(self, name))
        _require(self.batches_ahead >= 0, "batches_ahead", "zero or more", self.batches_ahead)
        _require(self.eval_every >= 0, "eval_every", "zero or more", self.eval_every)
        _require(self.peak_tflops is None or self.peak_tflops > 0, "peak_tflops", "a positive number", self.peak_tflops)
        _require(self.flow_time_shift > 0, "flow_time_shift", "a positive number", self.flow_time_shift)
        divides = self.batch_size % self.accumulate == 0
        _require(divides, "batch_size", f"a multiple of accumulate ({self.accumulate})", self.batch_size)


SET_BY_COMMAND = {"schema", "stage", "mixture", "init", "cameras", "policy", "tokenizer_hash"}
# What a resumed run may change: how far it goes and how it is watched, not what it computes.
FREE_ON_RESUME = (
    "steps",
    "fsdp",
    "batches_ahead",
    "log_every",
    "eval_every",
    "eval_samples",
    "peak_tflops",
    "wandb",
    "checkpoints.every",
    "checkpoints.keep",
    "checkpoints.keep_every",
)


def resolve_config(
    *,
    stage: Stage,
    mixture: Path,
    horizon: int,
    cameras: tuple[str, ...],
    overrides: Mapping[str, Any],
    layout: str = LAYOUT,
    init: Path | None = None,
    init_config: RunConfig | None = None,
) -> RunConfig:
    """Returns the run's config: defaults of the stage and model, then `overrides` by dotted name.

    layout: of the mixture's vectors, which the model is as wide as.
    Of an `init` run its model is taken over; another --model is refused. UsageError names a wrong setting.
    """
    given = dict(overrides)
    for setting in SET_BY_COMMAND & given.keys():
        raise UsageError(f"{setting} is set by the command and its arguments; remove it from the settings")
    name = given.pop("model", None) or (init_config.model if init_config else "tiny")
    policy = _named_policy(name) if init_config is None else _adopted_policy(name, init_config, init)
    n_slots = get_layout(layout).n_slots
    shape = {"horizon": horizon} | ({} if init_config is not None else {"action_dim": n_slots})
    policy = _replaced_policy(policy, shape | _taken(given, "policy."))
    if policy.action_dim != n_slots:
        whose = "the setting policy.action_dim" if init_config is None else f"the model of {init}"
        raise UsageError(f"{mixture}: layout {layout} has {n_slots} slots; {whose} has action_dim {policy.action_dim}")
    if init_config is not None and policy.horizon != init_config.policy.horizon:
        raise UsageError(
            f"{mixture}: expected action.horizon {init_config.policy.horizon}, as in {init}; found {horizon}"
        )
    if init_config is not None:
        given.setdefault("tokenizer", init_config.tokenizer)
    if given.get("weights") is not None and given.get("tokenizer") is None:
        beside = find_tokenizer(Path(checked("weights", given["weights"], str)))
        given["tokenizer"] = None if beside is None else str(beside)
    for file in ("weights", "tokenizer"):
        if given.get(file) is not None:
            # Absolute, since a run is resumed, evaluated and served from other folders.
            given[file] = str(Path(checked(file, given[file], str)).resolve())
            _require(Path(given[file]).exists(), file, "a file or folder that exists", given[file])
    if given.get("tokenizer") is not None:
        same_file = init_config is not None and given["tokenizer"] == init_config.tokenizer
        # The hash of the first run stays, so that a file that was replaced under the same path is refused.
        known = init_config.tokenizer_hash if init_config is not None and same_file else None
        given["tokenizer_hash"] = known or tokenizer_hash(given["tokenizer"])
    given.setdefault("freeze", lora_freeze(policy))
    # What every use casts to the activations' type anyway; older runs, which do not say, keep float32.
    given.setdefault("frozen_dtype", policy.dtype)
    steps = checked("steps", given.pop("steps", 1000), int)
    _require(steps > 0, "steps", "a positive number", steps)
    optimizer = _optimizer_defaults(stage, name, steps) | _taken(given, "optimizer.")
    # A tenth of the rate that is used, also where only the rate was given: openpi's schedules decay to a tenth.
    if "optimizer.final_learning_rate" not in overrides:
        optimizer["final_learning_rate"] = 0.1 * checked("learning_rate", optimizer["learning_rate"], float)
    return RunConfig(
        stage=stage,
        mixture=str(mixture.resolve()),
        init=None if init is None else str(init.resolve()),
        model=name,
        policy=policy,
        cameras=cameras,
        steps=steps,
        optimizer=_built(OptimizerConfig, optimizer, "optimizer."),
        checkpoints=_built(CheckpointConfig, _taken(given, "checkpoints."), "checkpoints."),
        augmentation=replaced(_augmentation_default(name), _taken(given, "augmentation."), "augmentation."),
        **_checked_fields(RunConfig, given, ""),
    )


def tokenizer_hash(path: str | Path) -> str:
    """The first 16 digits of a tokenizer file's sha256. UsageError where it cannot be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise UsageError(f"tokenizer: expected a file that can be read at {path}; found: {error}") from error


def lora_freeze(policy: PolicyConfig) -> tuple[str, ...]:
    """What stays by default: of an expert with adapters all but those, as openpi trains its LoRA variants.

    The image encoder and the projections train, and so does an expert without adapters.
    """
    if not isinstance(policy, Pi0Config):
        return ()
    with_adapters = bool(policy.prefix.lora_rank), bool(policy.expert.lora_rank)
    return {
        (True, True): ("*/llm/*", "!*lora*"),
        (True, False): ("*/llm/*", "!*_1/*", "!*lora*"),
        (False, True): ("*/llm/*_1/*", "!*lora*"),
        (False, False): (),
    }[with_adapters]


def resumed(saved: RunConfig, overrides: Mapping[str, Any], run: Path) -> RunConfig:
    """Returns the saved config with the changes a resumed run may make; UsageError names any other change."""
    config = saved
    for name, value in overrides.items():
        changed = replaced(config, {name: value})
        # A flag that repeats the saved value is no change: the same command must work in a restart loop.
        if changed != config and name not in FREE_ON_RESUME:
            raise UsageError(
                f"--resume: {name} is {lookup(saved, name)!r} in {run}/config.yaml; found {value!r}. "
                f"Leave it out to resume, or start another run directory (free to change: {', '.join(FREE_ON_RESUME)})"
            )
        config = changed
    return config


def replaced(config: Any, changes: Mapping[str, Any], prefix: str = "") -> Any:
    """Returns a frozen dataclass with the fields at dotted names replaced at once, checked against their types."""
    hints = typing.get_type_hints(type(config))
    fields: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        head, _, rest = name.partition(".")
        if head not in hints or (rest and not dataclasses.is_dataclass(getattr(config, head))):
            raise UsageError(f"unknown setting {prefix + name!r}. {nearest(head, hints)}")
        if rest:
            inner.setdefault(head, {})[rest] = value
        else:
            fields[head] = checked(prefix + name, value, hints[head])
    for head, nested in inner.items():
        fields[head] = replaced(getattr(config, head), nested, f"{prefix}{head}.")
    try:
        return dataclasses.replace(config, **fields)
    except ValueError as error:
        raise UsageError(f"{prefix.removesuffix('.')}: {error}") from error


def lookup(config: Any, name: str) -> Any:
    """Returns the value at a dotted name."""
    for part in name.split("."):
        config = getattr(config, part)
    return config


def flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turns nested settings into dotted names.

    >>> flattened({"steps": 5, "optimizer": {"b1": 0.9}})
    {'steps': 5, 'optimizer.b1': 0.9}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def read_overrides(path: Path) -> dict[str, Any]:
    """Reads settings from a YAML file, as dotted names. UsageError names the file, the line and the column."""
    return read_settings(path, RunConfig, SET_BY_COMMAND)


def to_yaml(config: RunConfig) -> str:
    """Writes the resolved config, readable by `from_yaml`."""
    tree = dataclasses.asdict(config)
    return yaml.safe_dump(_plain(tree), sort_keys=False)


def from_yaml(path: Path) -> RunConfig:
    """Reads back `to_yaml`. UsageError names the file and the line of what is no setting, twice there, or missing."""
    tree = read_config(path, RunConfig, "the config of a run")
    if tree["schema"] != SCHEMA:
        raise UsageError(f"{path}: expected a run config with schema {SCHEMA!r}; found {tree['schema']!r}")
    try:
        policy = config_from_dict(tree["policy"])
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path}: policy: {error}") from error
    nested = {"optimizer": OptimizerConfig(**tree["optimizer"]), "checkpoints": CheckpointConfig(**tree["checkpoints"])}
    if "augmentation" in tree:  # runs before version 0.2 have none
        nested["augmentation"] = replaced(AugmentationConfig(), flattened(tree["augmentation"]), "augmentation.")
    names = {name: checked(name, tree[name], tuple[str, ...]) for name in ("cameras", "freeze") if name in tree}
    slots = {"slot_map": tuple(tree.get("slot_map", ()))}
    return RunConfig(**tree | nested | names | slots | {"policy": policy})


def checked(name: str, value: Any, hint: Any) -> Any:
    """Returns `value` as the annotated type, integers as floats where a float belongs; UsageError otherwise."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise UsageError(f"{name}: unknown choice {value!r}. {nearest(str(value), map(str, choices))}")
        return value
    if origin in (types.UnionType, typing.Union):
        return None if value is None else checked(name, value, typing.get_args(hint)[0])
    if hint == tuple[int, ...]:
        if not isinstance(value, list | tuple) or not all(type(item) is int for item in value):
            raise UsageError(f"{name}: expected a list of whole numbers; found {value!r}")
        return tuple(value)
    if origin is tuple:
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
            raise UsageError(f"{name}: expected a list of names; found {value!r}")
        return tuple(items)
    if hint is float and isinstance(value, str | int) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-4 as text
        except ValueError:
            raise UsageError(f"{name}: expected a number; found {value!r}") from None
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise UsageError(f"{name}: expected {hint.__name__}; found {value!r}")
    return value


def _named_policy(name: str) -> PolicyConfig:
    if name not in NAMED:
        raise UsageError(f"--model: unknown model {name!r}. {nearest(name, NAMED)}")
    return named_config(name)


def _adopted_policy(name: str, init_config: RunConfig, init: Path | None) -> PolicyConfig:
    """The starting run's policy; with adapters where `name` is its model with those."""
    policy = init_config.policy
    if name == init_config.model:
        return policy
    if name != f"{init_config.model}{WITH_ADAPTERS}" or name not in NAMED:
        raise UsageError(
            f"--model {name}: expected {init_config.model!r}, the model of {init}, or the same with adapters; "
            "leave --model out, or start from a run of that model"
        )
    adapted = _named_policy(name)
    assert isinstance(policy, Pi0Config) and isinstance(adapted, Pi0Config)
    ranks = {f"{expert}.lora_rank": getattr(adapted, expert).lora_rank for expert in ("prefix", "expert")}
    return _replaced_policy(policy, ranks)


def _replaced_policy(policy: PolicyConfig, changes: Mapping[str, Any]) -> PolicyConfig:
    return replaced(policy, changes, "policy.")


def augmentation_settings(name: str) -> dict[str, Any]:
    """All settings of a named augmentation, by dotted name; UsageError for another name."""
    if name not in AUGMENTATIONS:
        raise UsageError(f"--augmentation: unknown choice {name!r}. {nearest(name, AUGMENTATIONS)}")
    return flattened({"augmentation": dataclasses.asdict(AUGMENTATIONS[name])})


def _augmentation_default(model: str) -> AugmentationConfig:
    """openpi's for the full sizes; none for small models, which learn from drawn pictures."""
    return AUGMENTATIONS["none" if "tiny" in model else "openpi"]


def _optimizer_defaults(stage: Stage, model: str, steps: int) -> dict[str, Any]:
    """Small models learn at 1e-3; the full size at openpi's 2.5e-5 in post-training and twice that before it."""
    small = "tiny" in model
    peaks = {"pretrain": 1e-3, "posttrain": 3e-4} if small else {"pretrain": 5e-5, "posttrain": 2.5e-5}
    return {
        "learning_rate": peaks[stage],
        "warmup_steps": min(1000, steps // 10),
        "decay_steps": steps,
        "ema_decay": 0.99 if small else 0.999,
    }


def _taken(given: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Removes the settings below `prefix` from `given` and returns them by their short names."""
    names = [name for name in given if name.startswith(prefix)]
    return {name.removeprefix(prefix): given.pop(name) for name in names}


def _built(kind: type, values: Mapping[str, Any], prefix: str) -> Any:
    return kind(**_checked_fields(kind, values, prefix))


def _checked_fields(kind: type, values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    for name in values:
        if name not in hints:
            known = [prefix + hint for hint in hints]
            raise UsageError(f"unknown setting {prefix + name!r}. {nearest(prefix + name, known)}")
    return {name: checked(prefix + name, value, hints[name]) for name, value in values.items()}


def _plain(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {key: _plain(value) for key, value in tree.items()}
    return list(tree) if isinstance(tree, tuple) else tree


def _require(holds: bool, name: str, expected: str, found: Any) -> None:
    if not holds:
        raise UsageError(f"{name}: expected {expected}; found {found}")
