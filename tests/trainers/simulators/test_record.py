"""MetaWorld's experts as in-house logs: what is stored is what the simulator had, and comes out of conversion so."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from annotation_tools.episodes import EpisodeStore
from pipelines.contract.errors import UsageError
from pipelines.contract.progress import set_quiet
from pipelines.mapping.adapters import get_adapter
from pipelines.sources.zarr import find, read
from trainers.main import main
from trainers.simulators.record import STEPS_A_PICTURE, STEPS_BEHIND, Recording, act_out, record, record_task
from trainers.simulators.sawyer_world import METAWORLD, SawyerWorld, expert
from trainers.simulators.worlds import FIRST_ROLLOUT_SEED

TASK = "drawer-open"


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes of one task, as the command writes them."""
    out = tmp_path_factory.mktemp("logs")
    assert main(["record", "metaworld", TASK, str(out), "--episodes", "2", "--processes", "1", "-q"]) == 0
    return out


@pytest.fixture(scope="module")
def data(logs: Path) -> Path:
    """The same as a dataset."""
    out = logs / "data"
    options = ["--name", "mw", "--version", "1.0.0", "--adapter", "metaworld", "-q"]
    assert main(["convert", "zarr", str(logs), str(out), *options]) == 0
    return out / "mw" / "1.0.0"


def test_the_commands_of_a_log_replayed_lead_to_its_states_and_to_success(logs: Path) -> None:
    located = find(str(logs), get_adapter("metaworld")).episodes[0]
    native = read(located, get_adapter("metaworld"))
    world = SawyerWorld()
    world.reset(TASK, 0)
    states = []
    for hand, gripper in zip(native.arrays["command/hand"], native.arrays["command/gripper"], strict=True):
        states.append(world.state())
        world.act(np.array([*hand, *gripper], np.float32))
    world.close()
    assert world.success
    logged = np.concatenate([native.arrays["hand/position"], native.arrays["gripper/position"]], axis=1)
    assert np.abs(np.stack(states) - logged).max() < 1e-3  # commands are float32, and contacts make more of that
    assert native.control_hz == 80 and native.success == 1


def test_conversion_fills_the_hands_slots_and_no_others(data: Path) -> None:
    store = EpisodeStore(data)
    brief = next(iter(store.briefs.values()))
    episode = store.episode(brief.episode_id)
    assert (brief.robot, brief.task) == ("metaworld_sawyer", "open the drawer")
    assert np.flatnonzero(episode.action_mask).tolist() == [0, 1, 2, 6]
    assert np.flatnonzero(episode.state_mask).tolist() == [0, 1, 2, 6]
    assert 0.009 < np.abs(episode.action[:, :3]).max() <= 0.01 + 1e-6  # at most 1 cm a step
    # A hand that opens drawers lies in front of the robot, above the table, and its first state is an open hand.
    assert (episode.state[:, 1] > 0.3).all() and (episode.state[:, 2] > 0).all() and episode.state[0, 6] < 0.1


def test_pictures_are_of_the_time_of_their_step_or_up_to_three_steps_older(logs: Path) -> None:
    native = read(find(str(logs), get_adapter("metaworld")).episodes[0], get_adapter("metaworld"))
    frames = native.frames["base_0_rgb"]
    assert len(frames) == native.n_steps
    changes = [k for k in range(1, 13) if not np.array_equal(frames[k], frames[k - 1])]
    assert changes == [STEPS_A_PICTURE, 2 * STEPS_A_PICTURE, 3 * STEPS_A_PICTURE]


def test_an_episode_ends_soon_after_its_success() -> None:
    world = SawyerWorld()
    log = act_out(world, TASK, 0, 0.0)
    world.reset(TASK, 0)
    policy, steps = expert(TASK), 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its experts command more than the simulator takes
        while not world.success:
            world.step(policy(world.observation))
            steps += 1
    world.close()
    assert log is not None and len(log.streams["hand"][0]) == steps + STEPS_BEHIND


def test_noise_moves_the_hand_and_not_what_the_log_says_was_commanded() -> None:
    world = SawyerWorld()
    clean, noisy = act_out(world, TASK, 0, 0.0), act_out(world, TASK, 0, 0.3)
    world.close()
    assert clean is not None and noisy is not None
    first = [log.streams["command"][1]["hand"][0] for log in (clean, noisy)]
    assert np.array_equal(first[0], first[1])
    reached = [log.streams["hand"][1]["position"][3] for log in (clean, noisy)]
    assert np.abs(reached[0] - reached[1]).max() > 1e-3


def test_what_is_there_is_kept(logs: Path) -> None:
    path = next((logs / "metaworld_sawyer" / TASK).iterdir())
    before = (path / "zarr.json").stat().st_mtime_ns
    counted = list[int]()
    again = record_task(Recording(tasks=(TASK,), out=logs, episodes=2), TASK, lambda: counted.append(1))
    assert (again.written, again.there) == (0, 2) and (path / "zarr.json").stat().st_mtime_ns == before
    assert len(counted) == 2


def test_progress_counts_the_episodes_of_all_processes(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_quiet(False)
    done = record(Recording(tasks=(TASK, TASK), out=logs, episodes=2), processes=2)
    assert [one.there for one in done] == [2, 2]
    assert "record: 4 of 4 episodes, 100 %" in capsys.readouterr().err


def test_scenes_differ_by_seed_and_are_the_same_for_one() -> None:
    world, seen = SawyerWorld(), []
    for seed in (3, 4, FIRST_ROLLOUT_SEED + 3, 3):
        world.reset("pick-place", seed)
        seen.append(world.observation[[4, 5, 36, 37, 38]].round(6).tolist())
    world.close()
    assert seen[0] == seen[3] and len({tuple(one) for one in seen}) == 3


def test_a_recording_takes_no_scene_of_rollouts() -> None:
    assert max(Recording(tasks=(TASK,), out=Path(), episodes=10, seed=999_980).seeds) < FIRST_ROLLOUT_SEED
    with pytest.raises(UsageError, match="expected 0 to 999980, so that the scenes of 10 episodes stay below 1000000"):
        Recording(tasks=(TASK,), out=Path(), episodes=10, seed=999_981)


def test_a_task_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["record", "metaworld", "drawer-opens", str(tmp_path)]) == 2
    assert "no task 'drawer-opens'. Did you mean 'drawer-open'" in capsys.readouterr().err
    assert len(METAWORLD.tasks) == 10


def test_a_log_of_a_hand_is_not_read_as_joints(logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--name", "mw", "--version", "1.0.0", "-q"]
    assert main(["convert", "zarr", str(logs), str(tmp_path / "plain"), *options]) == 1
    assert "metaworld_sawyer has no slots for control mode 'joint_position'" in capsys.readouterr().err
