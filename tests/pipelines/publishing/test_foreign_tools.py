"""Published datasets under lerobot-doctor and macrodata-refiner.

EMBODIMIX_LEROBOT_TOOLS_PYTHON: an interpreter with `lerobot-doctor`, `macrodata-refiner` and `datasets`, which the
tests only run.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pipelines.contract.images import decode_image
from pipelines.publishing.publication import Choice, Form, plan_publication
from pipelines.publishing.publishing import publish
from tests.support.checkout import ROOT
from tests.support.inputs.stored_episodes import make_episode, store_dataset

pytest.importorskip("av", reason="videos are written with PyAV, of the extra `pipelines`")
TOOLS = os.environ.get("EMBODIMIX_LEROBOT_TOOLS_PYTHON", "")
pytestmark = pytest.mark.skipif(not TOOLS, reason="EMBODIMIX_LEROBOT_TOOLS_PYTHON unset")
LENGTHS = (12, 15, 11)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes with two cameras, v3.0, AV1."""
    folder = tmp_path_factory.mktemp("toy")
    store_dataset(folder / "toy/1.0.0", {"train": [[make_episode(i, t=t) for i, t in enumerate(LENGTHS)]]})
    (publication,) = plan_publication([Choice(path=str(folder / "toy/1.0.0"))], str(folder / "out"), Form(dims="robot"))
    publish([publication])
    return folder / "out"


def test_lerobot_doctor_finds_no_failure(published: Path) -> None:
    doctor = Path(TOOLS).with_name("lerobot-doctor")
    done = subprocess.run([str(doctor), str(published), "--json"], capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    found = {check["name"]: (check["severity"], check["messages"]) for check in report["checks"]}
    assert {"Metadata & Format Compliance", "Temporal Consistency", "Video Integrity"} <= set(found)
    assert [name for name, (severity, _) in found.items() if severity == "FAIL"] == []
    for name in ("Metadata & Format Compliance", "Temporal Consistency", "Video Integrity", "Feature Consistency"):
        assert found[name][0] == "PASS", found[name]


def test_macrodata_refiner_reads_equal_vectors_texts_and_frames(published: Path, tmp_path: Path) -> None:
    script = str(ROOT / "tests/support/foreign/foreign_refiner.py")
    subprocess.run([TOOLS, script, str(published), str(tmp_path / "out.npz")], check=True, capture_output=True)
    found = np.load(tmp_path / "out.npz")
    assert found["robot"] == "ur5e"
    for i, t in enumerate(LENGTHS):
        episode = make_episode(i, t=t)
        np.testing.assert_array_equal(found[f"{i}/action"], episode.action[:, :7])
        np.testing.assert_array_equal(found[f"{i}/state"], episode.state[:, :7])
        assert found[f"{i}/about"].tolist() == [t, 20]
        assert episode.task in found[f"{i}/task"].tolist()
        np.testing.assert_allclose(found[f"{i}/mean"], episode.action[:, :7].mean(axis=0), atol=1e-6)
        for camera in ("base_0_rgb", "left_wrist_0_rgb"):
            colours = [decode_image(jpeg).mean(axis=(0, 1)) for jpeg in episode.images[camera]]
            # Its decoder also yields the frame at `to_timestamp`, the next episode's first.
            seen = found[f"{i}/observation.images.{camera}"]
            assert len(seen) in (t, t + 1) and np.abs(seen[:t] - colours).max() < 4
