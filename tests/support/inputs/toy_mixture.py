"""A mixture and its stream made of arithmetic instead of datasets on disk, for tests of the trainer alone.

As a script it is the embodimix command on that mixture:
`python tests/support/inputs/toy_mixture.py train pretrain ...`.
"""

import hashlib
import json
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mixtures.stream.batches import Batch
from pipelines.contract.errors import FailedWork
from pipelines.contract.slots import CAMERAS
from pipelines.shards.statistics import NormStatistics, load_statistics, save_statistics, summarize_episode
from trainers.config import RunConfig, flattened

HORIZON = 4
# Settings of a model that compiles in a few seconds.
SMALL = {
    "policy.siglip": {"width": 16, "depth": 1, "mlp_dim": 16, "heads": 2, "patch_size": 112},
    "policy.prefix": {"width": 16, "depth": 1, "mlp_dim": 16, "heads": 2, "head_dim": 8},
    "policy.expert": {"width": 16, "depth": 1, "mlp_dim": 16, "heads": 2, "head_dim": 8},
    "policy.max_tokens": 8,
}
NORM_KEYS = ("toy_arm/joint_position/pi18/v1", "toy_base/joint_position/pi18/v1")
SLOTS = {NORM_KEYS[0]: tuple(range(7)), NORM_KEYS[1]: (*range(7), 14, 15)}
PARTS = {
    NORM_KEYS[0]: {"arm0": tuple(range(6)), "gripper0": (6,)},
    NORM_KEYS[1]: {"arm0": tuple(range(6)), "gripper0": (6,), "base": (14, 15)},
}


def toy_statistics(scale: float) -> dict[str, NormStatistics]:
    """Per norm key the statistics of uniform numbers in [-scale, scale]."""
    values = np.random.default_rng(3).uniform(-scale, scale, (200, 18)).astype(np.float32)
    masks = {key: np.isin(np.arange(18), slots) for key, slots in SLOTS.items()}
    return {key: summarize_episode(key, values, values, mask, mask) for key, mask in masks.items()}


@dataclass(frozen=True)
class ToyMixture:
    """Two groups, `push` and `lift`, one per norm key. The YAML's text is all that the lock depends on."""

    path: Path
    statistics: dict[str, NormStatistics]
    horizon: int = HORIZON
    cameras: tuple[str, ...] = ("base_0_rgb",)
    layout: str = "pi18/v1"
    n_slots: int = 18
    parts: dict[str, dict[str, tuple[int, ...]]] = field(default_factory=lambda: PARTS)

    @property
    def spec(self) -> Any:
        action = SimpleNamespace(normalization="quantile", rate_hz=None)
        return SimpleNamespace(path=self.path, seed=5, name="toy", action=action)

    @property
    def groups(self) -> tuple[Any, ...]:
        return tuple(
            SimpleNamespace(
                name=name,
                probability=0.5,
                norm_keys=(key,),
                n_validation_episodes=3,
                n_steps=500_000,
                control_hz=(20.0,),
                effective_epochs=lambda draws: 0.5 * draws / 500_000,
            )
            for name, key in zip(("push", "lift"), NORM_KEYS, strict=True)
        )

    @property
    def probabilities(self) -> np.ndarray:
        return np.array([0.5, 0.5])

    def lock(self) -> dict[str, Any]:
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        action = {"horizon": self.horizon, "mode": "absolute", "normalization": "quantile"}
        return {"schema": "embodimix.lock/v1", "text": digest, "action": action}

    def check_lock(self, lock: dict[str, Any]) -> None:
        if lock != self.lock():
            raise FailedWork(f"{self.path}: the mixture has changed since it was locked")

    def save_statistics(self, path: Path) -> None:
        save_statistics(path, self.statistics)

    def near_recorded(self, batch: Batch, action: np.ndarray) -> np.ndarray:
        return action

    def rates_of(self, norm_key: str) -> tuple[float, ...]:
        return (20.0,)

    def action_mean(self, norm_key: str) -> np.ndarray:
        return self.statistics[norm_key].action.mean

    def unnormalize_batch_action(self, batch: Batch, action: np.ndarray) -> np.ndarray:
        affines = [self.statistics[key].action.affine("quantile") for key in batch.norm_key]
        center = np.stack([affine.center for affine in affines])[:, None]
        half = np.stack([affine.half_range for affine in affines])[:, None]
        return ((action * half + center) * batch.action_mask[:, None]).astype(np.float32)


def open_toy_mixture(path: Path, statistics: Path | None = None, **_: Any) -> ToyMixture:
    """Stands in for `mixtures.mixture.open_mixture`; a file that says `nan: N` poisons position N."""
    own = toy_statistics(scale=1.0)
    return ToyMixture(path=Path(path), statistics=own | (load_statistics(statistics) if statistics else {}))


class ToyStream:
    """Stands in for `mixtures.stream.batches.Stream`: sample i follows from i; its picture's brightness its action."""

    def __init__(self, mixture: ToyMixture, *, batch_size: int, split: str = "train", **options: Any) -> None:
        self.mixture, self.batch_size, self.split = mixture, batch_size, split
        self.groups = options.get("groups")
        self.rows = batch_size // options.get("host_count", 1)
        self.first_row = options.get("host_index", 0) * self.rows
        self.n_samples = 30 if split == "validation" else 1_000_000
        text = mixture.path.read_text()
        self.poison = json.loads(text)["nan"] if text.startswith("{") else -1

    def __enter__(self) -> "ToyStream":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def close(self) -> None:
        pass

    def batches(self, start: int = 0, stop: int | None = None, **_: Any) -> Any:
        while stop is None or start < stop:
            yield self.batch_at(start)
            start += self.batch_size

    def samples(self, position: int, count: int) -> Any:
        positions = np.arange(position, position + count)
        return SimpleNamespace(position=positions, group=positions % 2)

    def names(self, samples: Any) -> list[str]:
        return [f"toy/e{p // 10}/{p % 10}" for p in samples.position]

    def batch_at(self, position: int) -> Batch:
        """This host's rows of the batch, cut from the whole."""
        whole = self.whole_batch_at(position)
        rows = slice(self.first_row, self.first_row + self.rows)
        fields = {name: value for name, value in vars(whole).items() if name != "next_position"}
        return Batch(next_position=whole.next_position, **{name: value[rows] for name, value in fields.items()})

    def whole_batch_at(self, position: int) -> Batch:
        positions = np.arange(position, position + self.batch_size)
        names = [group.name for group in self.mixture.groups]
        group = np.full(len(positions), names.index(self.groups[0])) if self.groups else positions % 2
        keys = [NORM_KEYS[index] for index in group]
        mask = np.stack([np.isin(np.arange(18), SLOTS[key]) for key in keys])
        random = np.random.default_rng([position, self.split == "train"])
        level = random.uniform(-1, 1, len(positions))
        level[positions == self.poison] = np.nan
        action = (level[:, None, None] * np.ones((1, HORIZON, 18)) * mask[:, None]).astype(np.float32)
        images = np.zeros((len(positions), 3, 224, 224, 3), np.uint8)
        images[:, 0] = np.nan_to_num((level + 1) * 127).astype(np.uint8)[:, None, None, None]
        chunk_mask = np.arange(HORIZON)[None] < (1 + positions % HORIZON)[:, None]
        state = np.zeros((len(positions), 18), np.float32)
        batch = Batch(
            position=positions,
            next_position=int(positions[-1] + 1),
            group=group.astype(np.int32),
            dataset=["toy"] * len(positions),
            episode_id=[f"e{p // 10}" for p in positions],
            step=(positions % 10).astype(np.int32),
            names=[f"toy/e{p // 10}/{p % 10}" for p in positions],
            images=images,
            camera_mask=np.tile(np.isin(CAMERAS, self.mixture.cameras), (len(positions), 1)),
            state=state,
            state_mask=mask,
            action=action,
            action_mask=mask,
            chunk_mask=chunk_mask,
            language=["push it" if index == 0 else "lift it" for index in group],
            norm_key=keys,
            state_physical=state,
            action_physical=action,
            control_hz=np.full(len(positions), 10.0, np.float32),
            is_segment_text=np.zeros(len(positions), bool),
        )
        physical = self.mixture.unnormalize_batch_action(batch, action)
        return Batch(**{**vars(batch), "action_physical": physical})


def moved_params(config: RunConfig) -> Any:
    """Parameters moved off their start, where the last layers of some variants are zero and nothing passes."""
    import jax

    from model import policy

    drawn = jax.jit(policy.init_params, static_argnums=0)(config.policy, jax.random.key(0))
    leaves, tree = jax.tree.flatten(drawn)
    rng = np.random.default_rng(1)
    return tree.unflatten([leaf + 0.2 * rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves])


def stream_batch(folder: Path) -> Batch:
    """Two samples with random pictures of all cameras and random states."""
    (folder / "toy.yaml").write_text("toy")
    mixture = ToyMixture(path=folder / "toy.yaml", statistics=toy_statistics(1.0), cameras=CAMERAS)
    batch = ToyStream(mixture, batch_size=2).batch_at(0)
    rng = np.random.default_rng(0)
    return replace(
        batch,
        images=rng.integers(0, 256, batch.images.shape, np.uint8),
        state=rng.uniform(-1, 1, batch.state.shape).astype(np.float32) * batch.state_mask,
    )


def settings(**changes: Any) -> dict[str, Any]:
    """The small model's settings by dotted name, and others with `__` for the dot."""
    return flattened(SMALL) | {name.replace("__", "."): value for name, value in changes.items()}


@pytest.fixture(scope="module")
def quick_compilation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Compiles with few optimizations and remembers programs for the session; yields the same for a subprocess."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    cache = tmp_path_factory.getbasetemp() / "xla"
    names = {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(cache),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: jax.config.values[name] for name in names}
    for name, value in names.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield {name.upper(): str(value) for name, value in names.items()}
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes, as if the disk were full there."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def train_toy(folder: Path, **changes: Any) -> Path:
    """One step on the toy mixture; returns the run's folder. changes: of the settings, with `__` for the dot."""
    from trainers.setup import TrainingRequest
    from trainers.train import train

    (folder / "toy.yaml").write_text("toy")
    request = TrainingRequest(
        stage="pretrain",
        spec=folder / "toy.yaml",
        run=folder / "run",
        show_progress=False,
        overrides=settings(**{"batch_size": 4, "steps": 1} | changes),
    )
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch.setattr)
        train(request)
    return folder / "run"


def stand_in(patch: Any) -> None:
    """Puts the toy in the place of mixtures on disk; `patch(module, name, value)` sets an attribute."""
    import trainers.evaluation.evaluate
    import trainers.evaluation.replay
    import trainers.setup
    import trainers.train
    import trainers.validation

    for module in (trainers.evaluation.evaluate, trainers.setup, trainers.evaluation.replay):
        patch(module, "open_mixture", open_toy_mixture)
    for module in (trainers.evaluation.evaluate, trainers.train, trainers.validation, trainers.evaluation.replay):
        patch(module, "Stream", ToyStream)


if __name__ == "__main__":
    from trainers.main import main

    stand_in(setattr)
    sys.exit(main())
