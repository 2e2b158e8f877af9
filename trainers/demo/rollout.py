"""Closed loop in the demo's world: a trained policy observes, acts for a while, and observes again."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import jax
import numpy as np

from mixtures.mixture import open_mixture
from pipelines.contract.images import letterbox
from pipelines.contract.layouts import get_layout
from pipelines.contract.slots import CAMERAS, IMAGE_SIZE, LAYOUT, norm_key
from trainers.demo.labeler import sentences
from trainers.demo.logs import FULL, Series
from trainers.demo.outcomes import RolloutOutcome
from trainers.demo.pictures import draw_base, draw_wrist
from trainers.demo.script import draw_scene, first_state
from trainers.demo.world import Body, Command, Scene, State, base_to_world, hand_positions, is_success, step
from trainers.robots import Robot, open_loop_steps
from trainers.run import RunDirectory
from trainers.serving.acting import Actor
from trainers.serving.high_level import HighLevelPolicy, learn_nearest_state
from trainers.serving.observations import RobotObservation
from trainers.setup import read_best

CONTROL_MODE = "joint_position"
DURATION_S = 5.0
PIXELS = {"base": (224, 168), "wrist": (160, 120)}
SCENES = 7_000
OVER_M = 0.04


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One world that a policy acts in, as it stands now. closest: how near a hand came to each thing so far (m)."""

    scene: Scene
    state: State
    closest: tuple[float, ...]


class Instructor(Protocol):
    """Chooses the prompt of each observation."""

    def __call__(self, body: Body, trial: Trial, pictures: Mapping[str, np.ndarray]) -> str: ...


def roll_out(
    run: Path, spec: Path, series: Sequence[Series], episodes: int, seed: int, instructors: Mapping[str, Instructor]
) -> list[RolloutOutcome]:
    """Lets a run's policy act in new scenes of each series; the same seed gives every run the same scenes."""
    directory = RunDirectory(run)
    config, at_step, params = read_best(directory)
    mixture = open_mixture(spec, statistics=directory.recorded_statistics())
    # The evaluation's mixture knows robots that a post-trained run never saw; it is evaluated on them all the same.
    robots = {
        norm_key(one.body.robot, CONTROL_MODE): Robot(
            norm_key=norm_key(one.body.robot, CONTROL_MODE),
            parts=mixture.parts[norm_key(one.body.robot, CONTROL_MODE)],
            control_hz=(one.body.control_hz,),
        )
        for one in series
    }
    actor = Actor(config=config, step=at_step, params=params, robots=robots, normalizer=mixture.normalizer)
    outcomes = []
    for condition, instructor in instructors.items():
        for number, one in enumerate(series):
            trials = [_new_trial(one, (seed, SCENES + number, k)) for k in range(episodes)]
            robot = robots[norm_key(one.body.robot, CONTROL_MODE)]
            ends = run_trials(actor, robot, one.body, instructor, trials, jax.random.key(seed))
            outcomes.append(
                RolloutOutcome(
                    task=trials[0].scene.task,
                    robot=one.body.robot,
                    condition=condition,
                    episodes=episodes,
                    successes=sum(is_success(end.scene, end.state) for end in ends),
                    went_to_meant=sum(int(np.argmin(end.closest)) == end.scene.target for end in ends),
                    lifted_other=sum(lifted_other(end) for end in ends),
                )
            )
    return outcomes


def ask_task(body: Body, trial: Trial, pictures: Mapping[str, np.ndarray]) -> str:
    """Asks by the sentence of the whole task."""
    return trial.scene.task


def ask_script(body: Body, trial: Trial, pictures: Mapping[str, np.ndarray]) -> str:
    """Asks as one who knows the scene: to move over the thing, and once the hands are there, to take and lift it."""
    approach, take = sentences(trial.scene.task)
    hands = base_to_world(trial.state.base, hand_positions(body, trial.state.joints))
    handles = trial.state.items[trial.scene.target] + np.array(trial.scene.items[trial.scene.target].handles)
    is_over = bool((np.linalg.norm((hands - handles)[:, :2], axis=1) < OVER_M).all())
    is_holding = any(held is not None for held in trial.state.held)
    return take if is_over or is_holding else approach


@dataclass(frozen=True, kw_only=True)
class AskHighLevel:
    """Asks with the sentence that a high-level policy chooses."""

    policy: HighLevelPolicy

    def __call__(self, body: Body, trial: Trial, pictures: Mapping[str, np.ndarray]) -> str:
        return self.policy.next_sentence(trial.scene.task, state_vector(body, trial.state), pictures)


def run_trials(
    actor: Actor, robot: Robot, body: Body, instructor: Instructor, trials: Sequence[Trial], key: jax.Array
) -> list[Trial]:
    """Acts in every world until `DURATION_S` is over; a part of each chunk is carried out open loop, then comes the
    next observation."""
    steps = open_loop_steps(body.control_hz, actor.config.policy.horizon)
    for number in range(round(DURATION_S * body.control_hz / steps)):
        seen = [observed(body, trial, instructor) for trial in trials]
        chunks = actor.act_together(robot, seen, jax.random.fold_in(key, number))
        trials = [_carried_out(body, trial, chunk[:steps]) for trial, chunk in zip(trials, chunks, strict=True)]
    return list(trials)


def observed(body: Body, trial: Trial, instructor: Instructor) -> RobotObservation:
    """What the policy sees of one world, and its instruction."""
    pictures = look(body, trial)
    return RobotObservation(
        images=pictures, state=state_vector(body, trial.state), prompt=instructor(body, trial, pictures)
    )


def _carried_out(body: Body, trial: Trial, chunk: np.ndarray) -> Trial:
    state, closest = trial.state, np.array(trial.closest)
    for action in chunk:
        state = step(body, trial.scene, state, command_of(body, action))
        closest = np.minimum(closest, distances(body, trial.scene, state))
    return Trial(scene=trial.scene, state=state, closest=tuple(closest.tolist()))


def distances(body: Body, scene: Scene, state: State) -> np.ndarray:
    """How far the nearest hand is from a handle of each thing, float64 [items], m."""
    hands = base_to_world(state.base, hand_positions(body, state.joints))
    return np.array(
        [
            min(np.linalg.norm(hands - (place + np.array(handle)), axis=1).min() for handle in item.handles)
            for item, place in zip(scene.items, state.items, strict=True)
        ]
    )


def state_vector(body: Body, state: State) -> np.ndarray:
    """The measured joints and grippers in their slots, float32 [d]."""
    vector = np.zeros(get_layout(LAYOUT).n_slots, np.float32)
    for arm in range(body.n_arms):
        vector[7 * arm : 7 * arm + 6] = state.joints[arm]
        vector[7 * arm + 6] = state.gripper[arm]
    return vector


def command_of(body: Body, action: np.ndarray) -> Command:
    """The command of one physical action, float32 [d], of a robot with six joints an arm."""
    return Command(
        joints=np.stack([action[7 * arm : 7 * arm + 6] for arm in range(body.n_arms)]).astype(np.float64),
        gripper=np.clip([action[7 * arm + 6] for arm in range(body.n_arms)], 0.0, 1.0),
        base=action[14:17].astype(np.float64) if body.is_mobile else np.zeros(3),
    )


def look(body: Body, trial: Trial) -> dict[str, np.ndarray]:
    """What the robot's cameras see, as conversion would have stored it: uint8 [224, 224, 3] per camera."""
    shown = {CAMERAS[0]: draw_base(body, trial.scene, trial.state, *PIXELS["base"])}
    for arm in range(body.n_arms):
        shown[CAMERAS[1 + arm]] = draw_wrist(body, trial.scene, trial.state, arm, *PIXELS["wrist"])
    return {camera: letterbox(picture, IMAGE_SIZE) for camera, picture in shown.items()}


def lifted_other(trial: Trial) -> bool:
    """Whether another thing than the sentence means hangs clear of the table."""
    others = [index for index in range(len(trial.scene.items)) if index != trial.scene.target]
    return any(is_success(Scene(items=trial.scene.items, target=i, task=""), trial.state) for i in others)


def _new_trial(series: Series, seed: Sequence[int]) -> Trial:
    random = np.random.default_rng(list(seed))
    scene, places = draw_scene(series.task, series.colours, random)
    state = first_state(series.body, places, random)
    return Trial(scene=scene, state=state, closest=tuple(distances(series.body, scene, state).tolist()))


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m trainers.demo.rollout RUN SPEC EPISODES SEED [ROBOT ...]` prints the outcomes as JSON."""
    parser = argparse.ArgumentParser(description="Let a trained policy act in new scenes of the demo's world.")
    parser.add_argument("run", type=Path)
    parser.add_argument("spec", type=Path)
    parser.add_argument("episodes", type=int)
    parser.add_argument("seed", type=int)
    parser.add_argument("robots", nargs="*", default=["ur5e"])
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="TABLE",
        help="also ask by segment sentences: those of a script that knows the scene, and those of a high-level policy "
        "that learned from this table of DATASET/segments",
    )
    parsed = parser.parse_args(arguments)
    series = [one for one in FULL if one.body.robot in parsed.robots]
    instructors: dict[str, Instructor] = {"task": ask_task}
    if parsed.labels:
        learned = learn_nearest_state(parsed.labels.parents[1], parsed.labels, parsed.robots)
        instructors |= {"script": ask_script, "high_level": AskHighLevel(policy=learned)}
    outcomes = roll_out(parsed.run, parsed.spec, series, parsed.episodes, parsed.seed, instructors)
    print(json.dumps([vars(outcome) for outcome in outcomes], indent=1))


if __name__ == "__main__":
    main()
