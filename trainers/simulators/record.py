"""MetaWorld's scripted experts as in-house logs, which are converted like any robot's."""

import multiprocessing
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.contract.errors import UsageError
from pipelines.contract.progress import progress_bar
from trainers.simulators.inhouse_writer import LoggedEpisode, write_episode
from trainers.simulators.sawyer_world import CAMERAS, CONTROL_HZ, M_A_STEP, MAX_STEPS, SENTENCES, SawyerWorld, expert
from trainers.simulators.worlds import FIRST_ROLLOUT_SEED, Picture

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

# Pictures at 20 Hz, as robots' cameras have them; a rollout looks again at multiples of that.
STEPS_A_PICTURE = 4
# What is shown of an episode behind its success: the hand that stays there.
STEPS_BEHIND = 12
STEP_NS = round(1e9 / CONTROL_HZ)
LOOK_EVERY_S = 0.5
# In a process of a pool: the episodes that all of them have recorded.
_counter: "Synchronized[int] | None" = None


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What to record. episodes: successful ones of each task. noise: standard deviation, in steps of 1 cm, by which the
    hand strays from what the expert commands; the log holds the commands. seed: of the first scene."""

    tasks: tuple[str, ...]
    out: Path
    episodes: int
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.episodes < 1 or not 0 <= self.noise <= 1:
            raise UsageError(f"expected 1 episode or more and noise of 0 to 1; found {self.episodes} and {self.noise}")
        if not 0 <= self.seed <= FIRST_ROLLOUT_SEED - 2 * self.episodes:
            raise UsageError(
                f"--seed {self.seed}: expected 0 to {FIRST_ROLLOUT_SEED - 2 * self.episodes}, so that the scenes of "
                f"{self.episodes} episodes stay below {FIRST_ROLLOUT_SEED}, where those of rollouts begin"
            )

    @property
    def seeds(self) -> range:
        """One for each try: an expert that fails may do so every other time."""
        return range(self.seed, self.seed + 2 * self.episodes)


@dataclass(frozen=True, kw_only=True)
class RecordedTask:
    """What became of one task: logs written, logs that were there before, and tries in which the expert failed."""

    task: str
    written: int
    there: int
    failed: int


def record(recording: Recording, processes: int) -> list[RecordedTask]:
    """Writes `OUT/metaworld_sawyer/TASK/SEED.zarr`; episodes that are there are kept. Several tasks side by side."""
    processes = min(processes, len(recording.tasks))
    with progress_bar(recording.episodes * len(recording.tasks), "episode", "record") as bar:
        if processes <= 1:
            return [record_task(recording, task, bar.update) for task in recording.tasks]
        # Contexts of OpenGL do not survive a fork.
        context = multiprocessing.get_context("spawn")
        counter = context.Value("q", 0)
        with context.Pool(processes, initializer=_count_in, initargs=(counter,)) as pool:
            begun = [pool.apply_async(_record_one, (recording, task)) for task in recording.tasks]
            pool.close()
            while not all(one.ready() for one in begun):
                time.sleep(LOOK_EVERY_S)
                bar.update(counter.value - bar.n)
            bar.update(counter.value - bar.n)
            return [one.get() for one in begun]


def _count_in(counter: "Synchronized[int]") -> None:
    """In a process of the pool: where the episodes of all processes are counted."""
    global _counter
    _counter = counter


def _record_one(recording: Recording, task: str) -> RecordedTask:
    return record_task(recording, task, _count)


def _count() -> None:
    assert _counter is not None
    with _counter.get_lock():
        _counter.value += 1


def record_task(recording: Recording, task: str, on_episode: Callable[[], object]) -> RecordedTask:
    """Records one task, scene after scene, until so many episodes have succeeded; `on_episode` is called for each."""
    folder = recording.out / "metaworld_sawyer" / task
    folder.mkdir(parents=True, exist_ok=True)
    written = there = failed = 0
    world = SawyerWorld()
    try:
        for seed in recording.seeds:
            if written + there == recording.episodes:
                break
            path = folder / f"{seed:06d}.zarr"
            if path.exists():
                there += 1
            elif episode := act_out(world, task, seed, recording.noise):
                write_episode(path, episode)
                written += 1
            else:
                failed += 1
                continue
            on_episode()
    finally:
        world.close()
    return RecordedTask(task=task, written=written, there=there, failed=failed)


def act_out(world: SawyerWorld, task: str, seed: int, noise: float) -> LoggedEpisode | None:
    """One episode of a task's expert; None where it does not succeed."""
    world.reset(task, seed)
    policy, random = expert(task), np.random.default_rng([seed, 1])
    states, commands = list[np.ndarray](), list[np.ndarray]()
    pictures: dict[str, list[Picture]] = {name: [] for name in CAMERAS}
    left = MAX_STEPS
    while left:
        if len(states) % STEPS_A_PICTURE == 0:
            for name, picture in world.pictures().items():
                pictures[name].append(picture)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the simulator clips what its experts command, as is done here
            command = np.clip(policy(world.observation), -1, 1)
        states.append(world.state())
        commands.append(command)
        strayed = command + np.array([*random.normal(0, noise, 3), 0]) if noise else command
        was_success = world.success
        world.step(strayed)
        left = min(left - 1, STEPS_BEHIND) if world.success and not was_success else left - 1
    return _as_log(task, seed, noise, np.stack(states), np.stack(commands), pictures) if world.success else None


def _as_log(
    task: str, seed: int, noise: float, states: np.ndarray, commands: np.ndarray, pictures: dict[str, list[Picture]]
) -> LoggedEpisode:
    at = np.arange(len(states), dtype=np.int64) * STEP_NS
    seen = at[::STEPS_A_PICTURE]
    moves, closings = commands[:, :3] * M_A_STEP, (commands[:, 3:] + 1) / 2
    return LoggedEpisode(
        robot="metaworld_sawyer",
        task=SENTENCES[task][0],
        control_hz=CONTROL_HZ,
        success=True,
        streams={
            "hand": (at, {"position": states[:, :3]}),
            "gripper": (at, {"position": states[:, 3:]}),
            "command": (at, {"hand": moves.astype(np.float32), "gripper": closings.astype(np.float32)}),
        },
        cameras={name.removesuffix("_rgb"): (seen, np.stack(shown)) for name, shown in pictures.items()},
        notes={"operator": "MetaWorld's scripted expert", "scene_seed": seed, "noise": noise, "metaworld_task": task},
    )
