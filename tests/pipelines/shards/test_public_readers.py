"""Shards and sidecars read by public readers: TFDS by name, dlimp, Hugging Face datasets.

EMBODIMIX_RLDS_CHECKOUTS: a folder with a checkout named dlimp. EMBODIMIX_LEROBOT_TOOLS_PYTHON: an interpreter with
`datasets`. What neither names is left out.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.inputs.stored_episodes import make_episode, store_dataset

tfds = pytest.importorskip("tensorflow_datasets")
CHECKOUTS = os.environ.get("EMBODIMIX_RLDS_CHECKOUTS", "")
TOOLS = os.environ.get("EMBODIMIX_LEROBOT_TOOLS_PYTHON", "")
SIDECARS = """
import json, sys
from datasets import load_dataset
rows = load_dataset("parquet", data_files=sys.argv[1], split="train", cache_dir=sys.argv[2])
found = {row["source_key"]: {name: row[name] for name in ("state", "action", "language", "n_steps")} for row in rows}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a dataset `toy` 1.0.0: three episodes in two shards, the last without a wrist camera."""
    folder = tmp_path_factory.mktemp("data")
    episodes = [make_episode(0), make_episode(1, t=7), make_episode(2, wrist=False)]
    store_dataset(folder / "toy" / "1.0.0", {"train": [episodes[:2], episodes[2:]]})
    return folder


def expected() -> dict[bytes, Any]:
    return {
        f"ur5e/{i}".encode(): make_episode(i, t=t, wrist=wrist)
        for i, (t, wrist) in enumerate(((5, True), (7, True), (5, False)))
    }


@pytest.mark.parametrize("name", ["toy:1.0.0", "toy"])
def test_tfds_loads_it_by_name_from_its_data_dir(root: Path, name: str) -> None:
    found, info = tfds.load(name, data_dir=root, split="train", with_info=True)
    assert (info.name, str(info.version), info.splits["train"].num_examples) == ("toy", "1.0.0", 3)
    seen = set()
    for episode in found:
        key = episode["episode_metadata"]["source_key"].numpy()
        (steps,) = tfds.as_numpy(episode["steps"].batch(100))
        np.testing.assert_array_equal(steps["action_physical"], expected()[key].action)
        seen.add(key)
    assert seen == set(expected())


@pytest.mark.skipif(not CHECKOUTS, reason="EMBODIMIX_RLDS_CHECKOUTS unset")
def test_dlimp_maps_trajectories_and_decodes_frames(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(f"{CHECKOUTS}/dlimp")
    import dlimp
    import tensorflow as tf

    def chosen(trajectory: dict[str, Any]) -> dict[str, Any]:
        observation = trajectory["observation"]
        names = trajectory["traj_metadata"]["episode_metadata"]["source_key"]
        return {"key": names, "action": trajectory["action_physical"], "picture": observation["base_0_rgb"]}

    def decoded(frame: dict[str, Any]) -> dict[str, Any]:
        return {**frame, "picture": tf.io.decode_jpeg(frame["picture"])}

    trajectories = dlimp.DLataset.from_rlds(tfds.builder("toy", data_dir=root), shuffle=False).traj_map(chosen)
    found = {one["key"][0]: one for one in trajectories.as_numpy_iterator()}
    assert found.keys() == expected().keys()
    for key, episode in expected().items():
        np.testing.assert_array_equal(found[key]["action"], episode.action)
        assert found[key]["picture"].tolist() == episode.images["base_0_rgb"]
    frames = list(trajectories.flatten().frame_map(decoded).as_numpy_iterator())
    assert [frame["picture"].shape for frame in frames] == [(224, 224, 3)] * 17


@pytest.mark.skipif(not TOOLS, reason="EMBODIMIX_LEROBOT_TOOLS_PYTHON unset")
def test_hugging_face_datasets_reads_the_sidecars(root: Path, tmp_path: Path) -> None:
    sidecars = str(root / "toy/1.0.0/index/*.parquet")
    done = subprocess.run([TOOLS, "-c", SIDECARS, sidecars, str(tmp_path)], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert {key.encode() for key in found} == expected().keys()
    for key, episode in expected().items():
        row = found[key.decode()]
        assert row["n_steps"] == episode.n_steps and row["language"] == list(episode.language)
        np.testing.assert_array_equal(np.float32(row["action"]).reshape(-1, 18), episode.action)
