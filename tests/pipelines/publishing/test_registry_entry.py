"""Entries for Octo's and OpenVLA's registries; where EMBODIMIX_RLDS_CHECKOUTS names some, read by their own loaders.

EMBODIMIX_RLDS_CHECKOUTS: a folder of checkouts named octo, openvla, openvla-oft and dlimp.
"""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.contract.errors import UsageError
from pipelines.contract.images import decode_image
from pipelines.conversion.launch import ConversionRequest, convert
from pipelines.mapping.adapters import get_adapter
from pipelines.publishing.registry_entry import registry_entry
from pipelines.shards.dataset import Dataset
from pipelines.shards.stored_episodes import StoredEpisode, iter_stored
from tests.support.checkout import ROOT
from tests.support.inputs.stored_episodes import make_episode, store_dataset
from trainers.main import main

CHECKOUTS = os.environ.get("EMBODIMIX_RLDS_CHECKOUTS", "")
END_EFFECTOR = {"control_mode": "ee_delta"}


def stored(folder: Path, *episodes: Any) -> Path:
    store_dataset(folder / "toy" / "1.0.0", {"train": [list(episodes)]})
    return folder / "toy" / "1.0.0"


def code(entry: Any, number: int) -> str:
    return str(entry.snippets[number].code)


def test_an_end_effector_for_octo(tmp_path: Path) -> None:
    entry = registry_entry(stored(tmp_path, replace(make_episode(0), **END_EFFECTOR)), "octo")
    assert [snippet.file for snippet in entry.snippets] == [
        "octo/data/oxe/oxe_dataset_configs.py",
        "octo/data/oxe/oxe_standardization_transforms.py",
        "octo/data/oxe/oxe_dataset_mixes.py",
    ]
    assert code(entry, 0) == (
        'OXE_DATASET_CONFIGS["toy:1.0.0"] = {\n'
        '    "image_obs_keys": {"primary": "base_0_rgb", "secondary": None, "wrist": "left_wrist_0_rgb"},\n'
        '    "depth_obs_keys": {"primary": None, "secondary": None, "wrist": None},\n'
        '    "proprio_encoding": ProprioEncoding.POS_EULER,\n'
        '    "action_encoding": ActionEncoding.EEF_POS,\n'
        "}\n"
    )
    assert code(entry, 1) == (
        "def toy_embodimix_transform(trajectory: Dict[str, Any]) -> Dict[str, Any]:\n"
        "    # ur5e, ee_delta, 20 Hz: m and rad.\n"
        "    # Grippers become 1 open, 0 closed; they are stored as 0 open, 1 closed.\n"
        '    state = trajectory["observation"]["state_physical"]\n'
        '    trajectory["observation"]["proprio"] = tf.concat([state[:, 0:6], 1 - state[:, 6:7]], axis=1)\n'
        '    action = trajectory["action_physical"]\n'
        '    trajectory["action"] = tf.concat([action[:, 0:6], 1 - action[:, 6:7]], axis=1)\n'
        "    return trajectory\n"
        "\n\n"
        'OXE_STANDARDIZATION_TRANSFORMS["toy:1.0.0"] = toy_embodimix_transform\n'
    )
    assert code(entry, 2) == 'OXE_NAMED_MIXES["toy:1.0.0"] = [("toy:1.0.0", 1.0)]\n'


def test_an_end_effector_for_openvla_has_its_own_state_keys(tmp_path: Path) -> None:
    entry = registry_entry(stored(tmp_path, replace(make_episode(0), **END_EFFECTOR)), "openvla")
    assert '    "state_obs_keys": ["EEF_state", None, "gripper_state"],\n' in code(entry, 0)
    assert 'trajectory["observation"]["EEF_state"] = state[:, 0:6]\n' in code(entry, 1)
    assert 'trajectory["observation"]["gripper_state"] = 1 - state[:, 6:7]\n' in code(entry, 1)


def test_six_joints_are_padded_to_octos_seven_and_that_is_said(tmp_path: Path) -> None:
    entry = registry_entry(stored(tmp_path, make_episode(0)), "octo")
    padded = "[action[:, 0:6], tf.zeros_like(action[:, 0:1]), 1 - action[:, 6:7]]"
    assert f'trajectory["action"] = tf.concat({padded}, axis=1)\n' in code(entry, 1)
    assert "JOINT_POS," in code(entry, 0) and "1 of the action's numbers are zeros" in "".join(entry.notes)
    assert "absolute joint targets" in "".join(entry.notes)


def test_a_state_without_an_arm_is_no_proprioception(tmp_path: Path) -> None:
    episode = replace(make_episode(0), **END_EFFECTOR)
    masked = replace(episode, state=episode.state * 0, state_mask=np.zeros_like(episode.state_mask))
    path = stored(tmp_path, masked)
    assert '"state_obs_keys": [None, None, None, None, None, None, None, None],' in code(
        registry_entry(path, "openvla"), 0
    )
    octo = registry_entry(path, "octo")
    assert "ProprioEncoding.NONE" in code(octo, 0)
    assert '["proprio"] = tf.zeros_like(trajectory["observation"]["state_physical"][:, :1])\n' in code(octo, 1)


def test_pictures_of_a_camera_that_an_episode_lacks_become_empty(tmp_path: Path) -> None:
    episodes = [replace(make_episode(i, wrist=i == 0), **END_EFFECTOR) for i in range(2)]
    entry = registry_entry(stored(tmp_path, *episodes), "octo")
    assert 'tf.where(mask[1], trajectory["observation"]["left_wrist_0_rgb"], "")' in code(entry, 1)


@pytest.mark.parametrize(
    ("project", "changes", "named"),
    [
        ("octo", {"control_mode": "joint_velocity"}, "joint_velocity"),
        ("octo", {"control_mode": "ee_absolute"}, "ee_absolute"),
        ("openvla", {}, "joint_position"),
    ],
)
def test_what_a_project_has_no_encoding_for_is_refused(
    tmp_path: Path, project: Any, changes: dict[str, Any], named: str
) -> None:
    path = stored(tmp_path, replace(make_episode(0), **changes))
    with pytest.raises(UsageError, match=f"action in mode {named} that fills arm0"):
        registry_entry(path, project)


def test_a_masked_gripper_is_refused_and_not_left_out(tmp_path: Path) -> None:
    episode = replace(make_episode(0), **END_EFFECTOR)
    mask = episode.action_mask & (np.arange(18) != 6)
    with pytest.raises(UsageError, match="has encodings for"):
        registry_entry(stored(tmp_path, replace(episode, action=episode.action * mask, action_mask=mask)), "octo")


def test_two_rates_are_refused(tmp_path: Path) -> None:
    episodes = [replace(make_episode(i), **END_EFFECTOR, control_hz=hz) for i, hz in enumerate((5.0, 10.0))]
    with pytest.raises(UsageError, match=r"found 2:\n.* at 5 Hz\n.* at 10 Hz"):
        registry_entry(stored(tmp_path, *episodes), "octo")


def test_the_command_prints_what_to_append(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = stored(tmp_path, replace(make_episode(0), **END_EFFECTOR))
    assert main(["registry-entry", str(path), "--for", "octo"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# toy for octo: make_oxe_dataset_kwargs_and_weights, data directory ")
    assert "\n# ---- append to octo/data/oxe/oxe_dataset_mixes.py\nOXE_NAMED_MIXES" in printed
    assert main(["registry-entry", str(path), "--for", "octo", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["append"]) == 3


SAMPLES = {"bridge": ("data/real/bridge_rlds", "bridge_orig"), "aloha": ("data/sim/aloha_hdf5", "aloha_hdf5")}


@pytest.fixture(scope="module")
def sample(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Converts a sample once."""
    root = tmp_path_factory.mktemp("converted")

    def get(name: str) -> Path:
        source, adapter = SAMPLES[name]
        folder = root / name / "1.0.0"
        if not folder.exists():
            request = ConversionRequest(
                source=str(shared / source),
                output_root=str(root),
                name=name,
                version="1.0.0",
                adapter=get_adapter(adapter),
            )
            convert(request)
        return folder

    return get


def columns(episode: StoredEpisode, side: str, pad: bool) -> np.ndarray:
    """What a project should see of an episode: arm by arm its numbers and 1 open; pad: a zero before the gripper."""
    values = getattr(episode, side)
    blocks = []
    for arm in ("0", "1"):
        if slots := episode.parts.get(f"arm{arm}"):
            gripper = 1 - values[:, list(episode.parts[f"gripper{arm}"])]
            blocks += [values[:, list(slots)], *([gripper * 0] if pad else []), gripper]
    return np.concatenate(blocks, axis=1)


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.skipif(not CHECKOUTS, reason="EMBODIMIX_RLDS_CHECKOUTS unset")
@pytest.mark.parametrize(
    ("name", "project", "views"),
    [
        ("bridge", "octo", {"primary": "base_0_rgb"}),
        ("bridge", "openvla", {"primary": "base_0_rgb"}),
        ("aloha", "octo", {"primary": "base_0_rgb", "wrist": "right_wrist_0_rgb"}),
        (
            "aloha",
            "openvla-oft",
            {"primary": "base_0_rgb", "left_wrist": "left_wrist_0_rgb", "right_wrist": "right_wrist_0_rgb"},
        ),
    ],
)
def test_their_own_loaders_read_equal_values_and_pictures(
    sample: Callable[[str], Path], tmp_path: Path, name: str, project: str, views: dict[str, str]
) -> None:
    folder = sample(name)
    entry = registry_entry(folder, "octo" if project == "octo" else "openvla")
    (tmp_path / "entry.json").write_text(json.dumps(entry.to_json()))
    script = [
        sys.executable,
        str(ROOT / "tests/support/foreign/foreign_oxe.py"),
        project,
        CHECKOUTS,
        str(folder.parent.parent),
    ]
    arguments = [f"{name}:1.0.0", str(tmp_path / "entry.json"), ",".join(views), str(tmp_path / "out.pickle")]
    done = subprocess.run([*script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = pickle.loads((tmp_path / "out.pickle").read_bytes())

    ours = [episode for episode in iter_stored(Dataset.open(folder))]
    pad = project == "openvla"
    by_action = {columns(one, "action", False).tobytes(): one for one in ours if one.split == "train"}
    assert len(found["trajectories"]) == sum(one.split == "train" for one in ours)
    for trajectory in found["trajectories"]:
        episode = by_action[trajectory["action"].tobytes()]
        np.testing.assert_array_equal(trajectory["observation"]["proprio"], columns(episode, "state", pad))
        assert set(trajectory["task"]["language_instruction"].tolist()) == {episode.task.encode()}
        for view, camera in views.items():
            here = camera in episode.pictures
            jpegs = episode.read_pictures(camera, range(episode.n_steps)) if here else [b""] * episode.n_steps
            assert trajectory["observation"][f"image_{view}"].tolist() == jpegs

    every = np.concatenate([columns(one, "action", False) for one in ours])
    low, high = ("p01", "p99") if project == "octo" else ("q01", "q99")
    assert found["statistics"]["num_transitions"] == len(every)
    for key, value in {"mean": every.mean(0), "std": every.std(0), "min": every.min(0), "max": every.max(0)}.items():
        np.testing.assert_allclose(found["statistics"]["action"][key], value, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["statistics"]["action"][low], np.quantile(every, 0.01, axis=0), atol=1e-5)
    np.testing.assert_allclose(found["statistics"]["action"][high], np.quantile(every, 0.99, axis=0), atol=1e-5)
    check_frames(found["frames"], by_action, views)


def check_frames(frames: dict[str, Any], by_action: dict[bytes, StoredEpisode], views: dict[str, str]) -> None:
    """One trajectory behind chunking and decoding: the chunk at each step, and pictures but for the decoder."""
    action = frames["action"].reshape(len(frames["action"]), 4, -1)
    # OpenVLA-OFT leaves the last steps out, whose chunks are not full.
    start = np.ascontiguousarray(action[:-3, 0]).tobytes()
    episode = next(one for values, one in by_action.items() if values.startswith(start))
    expected = columns(episode, "action", False)
    for h in range(4):
        np.testing.assert_array_equal(action[: len(expected) - 3, h], expected[h : len(expected) - 3 + h])
    for view, camera in views.items():
        shown = frames["observation"][f"image_{view}"][:, 0]
        if camera not in episode.pictures:
            assert not shown.any()
            continue
        for step in (0, episode.n_steps - 4):
            (jpeg,) = episode.read_pictures(camera, [step])
            # TensorFlow decodes by a faster and less exact method.
            assert np.abs(shown[step].astype(int) - decode_image(jpeg)).mean() < 1.5
