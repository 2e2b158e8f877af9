"""A checkpoint of openpi as a run in use: served to openpi's client over a socket, and evaluated on episodes."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from openpi_client.websocket_client_policy import WebsocketClientPolicy

import trainers.main
from model import policy
from model.inputs import CAMERAS, Observation
from model.published.check import load_case
from model.tokenizer import tokenizer_for
from tests.support.foreign.openpi_checkpoint import import_request, openpi_folder, write_vocabulary
from tests.support.inputs.mixture_data import make_episode, write_dataset, write_spec
from tests.support.inputs.toy_mixture import quick_compilation
from tests.support.servers.policy_server import ServerInThread
from trainers.exchange.importing import import_checkpoint
from trainers.serving.acting import Actor

pytestmark = [pytest.mark.shared, pytest.mark.usefixtures("quick_compilation")]
__all__ = ["quick_compilation"]
KEY = "ur5e/joint_position/pi18/v1"
RULE = "validation: {fraction: 0.5, by: episode, min_per_group: 1}\naction: {horizon: 50, normalization: zscore}\n"


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vocabulary(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def imported(
    shared: Path, tmp_path_factory: pytest.TempPathFactory, vocabulary: Path, quick_compilation: dict[str, str]
) -> Path:
    folder = tmp_path_factory.mktemp("imported")
    import_checkpoint(import_request(openpi_folder(shared, folder / "pi0"), folder / "run", vocabulary))
    return folder / "run"


@pytest.fixture
def running(imported: Path) -> Iterator[ServerInThread]:
    running = ServerInThread(Actor.of_run(imported), robot="ur5e")
    yield running
    running.end()


def test_openpis_client_gets_what_openpis_weights_and_statistics_give(
    shared: Path, vocabulary: Path, running: ServerInThread
) -> None:
    """The truth are the recorded parameters, and openpi's Normalize and Unnormalize written out."""
    case = load_case(shared / "goldens/openpi/pi0_d32")
    stats = json.loads((shared / "goldens/openpi/norm_stats.json").read_text())["norm_stats"]["actions"]
    mean, std = np.array(stats["mean"]), np.array(stats["std"])
    random = np.random.default_rng(0)
    picture, state = random.integers(0, 256, (224, 224, 3), np.uint8), mean + 0.3 * std
    sent = {"images": {"base_0_rgb": picture}, "state": state, "prompt": "w3 w5"}
    answer = WebsocketClientPolicy("127.0.0.1", running.port).infer(sent)
    normalized = np.zeros((1, 32), np.float32)
    normalized[0, :7] = (state.astype(np.float32) - mean) / (std + 1e-6)
    ids, mask = tokenizer_for(case.config, vocabulary).encode("w3 w5")
    black = np.zeros((1, 224, 224, 3), np.uint8)
    seen = Observation(
        images={camera: black for camera in CAMERAS} | {"base_0_rgb": picture[None]},
        image_masks={camera: np.array([camera == "base_0_rgb"]) for camera in CAMERAS},
        tokenized_prompt=ids[None],
        tokenized_prompt_mask=mask[None],
        state=normalized,
    )
    noise = jax.random.normal(jax.random.fold_in(jax.random.key(0), 0), (50, 32))[None]
    actions = np.asarray(jax.jit(partial(policy.sample_actions, case.config))(case.params, seen, noise))[0, :, :7]
    expected = actions * (std + 1e-6) + mean
    assert answer["actions"].shape == (16, 7)
    np.testing.assert_allclose(answer["actions"], expected[:16], atol=1e-3 * std.max(), rtol=1e-4)


def test_an_imported_run_is_evaluated_on_episodes_of_another_mixture(
    imported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    episodes = [make_episode(i, n_steps=4, robot="ur5e", segments=False) for i in range(2)]
    write_dataset(tmp_path, "ur5e", episodes)
    spec = write_spec(tmp_path, f"layout: pi32/v1\ndatasets:\n  - {{path: ur5e/1.0.0}}\n{RULE}")
    report = evaluated(imported, spec, capsys)
    assert (report["own_mixture"], report["mixture"], report["step"]) == (False, "test", 0)
    (group,) = report["groups"]
    assert group["samples"] == 4
    # Actions are number + t / 100 + slot / 1000 + 0.01; the first slot's mean of the checkpoint is 0.00577.
    rows = report["slots"][KEY]
    assert [row["slot"] for row in rows] == list(range(7))
    steps = np.array([t / 100 for start in range(4) for t in range(start, 4)])
    of_episode = [float(np.abs(number + 0.01 + steps - 0.00576929).mean()) for number in (0, 1)]
    assert min(abs(rows[0]["mean_action"] - expected) for expected in of_episode) < 1e-6
    assert all(np.isfinite(row["policy"]) for row in rows)


def evaluated(run: Path, spec: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    command = ["eval", str(run), "--spec", str(spec), "--samples", "4", "--batch-size", "2", "--json", "--no-plots"]
    assert trainers.main.main(command) == 0
    return json.loads(capsys.readouterr().out)


def test_a_mixture_of_another_layout_or_rule_is_refused(
    imported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path, "ur5e", [make_episode(i, n_steps=4, robot="ur5e", segments=False) for i in range(2)])
    body = "datasets:\n  - {path: ur5e/1.0.0}\n"
    narrow = write_spec(tmp_path, body + RULE, "narrow.yaml")
    assert trainers.main.main(["eval", str(imported), "--spec", str(narrow)]) == 2
    assert f"expected statistics of the 18 slots of pi18/v1, the layout of {narrow}" in capsys.readouterr().err
    quantile = write_spec(tmp_path, f"layout: pi32/v1\n{body}{RULE.replace('zscore', 'quantile')}", "quantile.yaml")
    assert trainers.main.main(["eval", str(imported), "--spec", str(quantile)]) == 2
    assert "expected the run's action settings" in capsys.readouterr().err
