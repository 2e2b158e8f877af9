"""The presets: the form that each trainer's code reads, and arrays that equal the stream's to the bit."""

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra `torch`")

from mixtures.mixture import Mixture, open_mixture  # noqa: E402
from mixtures.stream.batches import Batch, Stream  # noqa: E402
from mixtures.torch import groot, lerobot, openpi, openvla  # noqa: E402
from mixtures.torch.datasets import StreamDataset, StreamSamples, as_is  # noqa: E402
from mixtures.torch.fields import action_slots  # noqa: E402
from pipelines.contract.errors import UsageError  # noqa: E402
from pipelines.contract.slots import CAMERAS  # noqa: E402
from tests.support.inputs.mixture_data import make_episode, write_dataset, write_spec  # noqa: E402

KEY = "arx/joint_position/pi18/v1"
SPEC = "seed: 3\nweighting: {alpha: 0.43}\ndatasets: [{path: a/1.0.0}]\naction: {horizon: 6}\n"
STATE, MASK = "observation.state", "observation.images.left_wrist_0_rgb_padding_mask"


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    root = tmp_path_factory.mktemp("presets")
    missing = [(), CAMERAS[1:2]]
    write_dataset(root, "a", [make_episode(i, missing=missing[i % 2]) for i in range(4)])
    return open_mixture(write_spec(root, SPEC), cache=root / "cache")


@pytest.fixture(scope="module")
def batch(mixture: Mixture) -> Batch:
    """A batch in which some samples lack the wrist camera."""
    with Stream(mixture, batch_size=8) as stream:
        found = stream.batch_at(0)
    assert 0 < found.camera_mask[:, 1].sum() < 8
    return found


@pytest.fixture(scope="module")
def whole(mixture: Mixture) -> Batch:
    """Two samples with both cameras, the second of them three steps before its episode's end."""
    with Stream(mixture, batch_size=1) as stream:
        rows = [episode.row for episode in stream.episodes()]
        found = stream.gather(rows, [9] * len(rows))
        there = np.flatnonzero(found.camera_mask[:, 1]).tolist()
        return stream.gather([rows[i] for i in there[:2]], [2, 9])


def tokenize(prompt: str, state: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Stands in for openpi's tokenizer: the length of the prompt, and that of the state."""
    return np.array([len(prompt), -1 if state is None else len(state), 0]), np.array([True, True, False])


def test_openpi_gets_the_streams_arrays_in_32_dims(batch: Batch) -> None:
    made = openpi.OpenpiPreset(tokenize=tokenize, framework="jax")(batch)
    assert list(made["image"]) == ["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"]
    for i, camera in enumerate(CAMERAS):
        assert made["image"][camera].base is not None and made["image"][camera].dtype == np.uint8
        np.testing.assert_array_equal(made["image"][camera], batch.images[:, i])
        np.testing.assert_array_equal(made["image_mask"][camera], batch.camera_mask[:, i])
    assert (made["state"].shape, made["actions"].shape) == ((8, 32), (8, 6, 32))
    np.testing.assert_array_equal(made["state"][:, :18], batch.state)
    np.testing.assert_array_equal(made["actions"][..., :18], batch.action)
    assert not made["actions"][..., 18:].any()
    assert made["tokenized_prompt"].tolist()[0] == [len(batch.language[0]), -1, 0]


def test_openpi_in_pytorch_is_the_same_memory(batch: Batch) -> None:
    made = openpi.OpenpiPreset(tokenize=tokenize)(batch)
    assert made["image"]["base_0_rgb"].data_ptr() == batch.images.ctypes.data
    np.testing.assert_array_equal(made["actions"].numpy()[..., :18], batch.action)


def test_pi05_reads_the_measured_slots_in_the_prompt(batch: Batch) -> None:
    made = openpi.OpenpiPreset(tokenize=tokenize, state_in_prompt=True)(batch)
    assert made["tokenized_prompt"][:, 1].tolist() == [7] * 8


def test_a_model_that_is_too_narrow_is_refused(batch: Batch) -> None:
    with pytest.raises(UsageError, match="expected at most 14 dims, found 18"):
        openpi.OpenpiPreset(tokenize=tokenize, action_dim=14)(batch)


def test_the_commanded_slots_are_those_of_the_robot(mixture: Mixture) -> None:
    assert action_slots(mixture) == (0, 1, 2, 3, 4, 5, 6)


def test_act_gets_unit_pictures_and_the_streams_chunks(mixture: Mixture, whole: Batch) -> None:
    made = lerobot.act(mixture)(whole)
    image = made["observation.images.base_0_rgb"]
    assert (image.shape, image.dtype) == ((2, 3, 224, 224), torch.float32)
    np.testing.assert_array_equal(
        image.numpy(), np.moveaxis(whole.images[:, 0], -1, 1).astype(np.float32) / np.float32(255)
    )
    np.testing.assert_array_equal(made[STATE].numpy(), whole.state[:, :7])
    np.testing.assert_array_equal(made["action"].numpy(), whole.action[..., :7])
    assert made["action"].data_ptr() == whole.action.ctypes.data
    assert made["action_is_pad"].tolist() == [[False] * 6, [False, False, False, True, True, True]]
    assert made["task"] == whole.language


def test_physical_values_and_other_slots_on_request(mixture: Mixture, whole: Batch) -> None:
    made = lerobot.act(mixture, values="physical", slots=(6, 0), state_slots=(1,), image_size=(96, 128))(whole)
    np.testing.assert_array_equal(made["action"].numpy(), whole.action_physical[..., [6, 0]])
    np.testing.assert_array_equal(made[STATE].numpy(), whole.state_physical[:, [1]])
    assert made["observation.images.base_0_rgb"].shape == (2, 3, 96, 128)


def test_diffusion_has_an_axis_of_observed_steps(mixture: Mixture, whole: Batch) -> None:
    made = lerobot.diffusion(mixture)(whole)
    assert made[STATE].shape == (2, 1, 7)
    assert made["observation.images.base_0_rgb"].shape == (2, 1, 3, 224, 224)
    assert made["action"].shape == (2, 6, 7)


def test_smolvla_masks_the_cameras_that_samples_lack(mixture: Mixture, batch: Batch) -> None:
    def words(texts: list[str]) -> dict[str, list[list[int]]]:
        assert all(text.endswith("\n") and not text.endswith("\n\n") for text in texts)
        return {"input_ids": [[1, 2]] * len(texts), "attention_mask": [[1, 0]] * len(texts)}

    made = lerobot.smolvla(mixture, tokenize=words)(batch)
    assert made[MASK].tolist() == batch.camera_mask[:, 1].tolist()
    assert made["observation.language.tokens"].shape == (8, 2)
    assert made["observation.language.attention_mask"][0].tolist() == [True, False]


@pytest.mark.parametrize("preset", [lerobot.act, lerobot.diffusion, lerobot.pi0, openvla.openvla])
def test_a_trainer_without_masks_refuses_a_missing_camera_by_name(mixture: Mixture, batch: Batch, preset: Any) -> None:
    with pytest.raises(UsageError, match="a/.*: expected a picture of left_wrist_0_rgb, which this sample lacks"):
        preset(mixture)(batch)
    preset(mixture, missing="pad")(batch)


def test_a_slot_that_a_robot_lacks_is_refused_or_zero(mixture: Mixture, whole: Batch) -> None:
    with pytest.raises(UsageError, match=f"expected slot 9 of state, which {KEY} does not have"):
        lerobot.act(mixture, slots=(6, 9))(whole)
    made = lerobot.act(mixture, slots=(6, 9), missing="pad", values="physical")(whole)
    np.testing.assert_array_equal(made["action"].numpy()[..., 0], whole.action_physical[..., 6])
    assert not made["action"][..., 1].any()


def test_lerobots_statistics_are_those_of_the_recorded_values(mixture: Mixture) -> None:
    found = lerobot.dataset_stats(mixture, KEY, [0, 6])
    # State slot s of episode n at step t is n + t / 100 + s / 1000, of four episodes of twelve steps.
    np.testing.assert_allclose(found[STATE]["mean"], [1.555, 1.561], atol=1e-6)
    np.testing.assert_allclose(found["action"]["min"], [0.01, 0.016], atol=1e-6)
    with pytest.raises(UsageError, match="no pool 'arx/joint'"):
        lerobot.dataset_stats(mixture, "arx/joint", [0])


def test_openvla_gets_the_frames_of_its_own_loader(mixture: Mixture, whole: Batch) -> None:
    frame = openvla.openvla(mixture)(whole)[0]
    assert frame["dataset_name"] == "a"
    assert frame["task"] == {"language_instruction": whole.language[0].encode()}
    np.testing.assert_array_equal(frame["observation"]["image_primary"][0], whole.images[0, 0])
    np.testing.assert_array_equal(frame["observation"]["image_wrist"][0], whole.images[0, 1])
    assert frame["observation"]["proprio"].shape == (1, 7)
    assert (frame["action"].shape, frame["action"].dtype) == ((6, 7), np.float32)
    statistics = mixture.absolute_statistics[KEY].action
    low, high = statistics.quantiles["q01"][:6], statistics.quantiles["q99"][:6]
    expected = np.clip(2 * (whole.action_physical[0, :, :6] - low) / (high - low + 1e-8) - 1, -1, 1)
    np.testing.assert_allclose(frame["action"][:, :6], expected, atol=1e-6)
    # Ours is the fraction closed, OpenVLA's is 1 open.
    np.testing.assert_allclose(frame["action"][:, 6], 1 - whole.action_physical[0, :, 6], atol=1e-7)


def test_openvlas_statistics_turn_the_gripper_over(mixture: Mixture) -> None:
    preset = openvla.openvla(mixture)
    found = openvla.dataset_statistics(mixture, KEY, preset)
    assert found["action"]["mask"] == [True] * 6 + [False]
    assert found["num_transitions"] == 48
    own = mixture.absolute_statistics[KEY].action
    assert found["action"]["max"][6] == 1 - own.min[6]
    assert found["action"]["q01"][6] <= found["action"]["q99"][6]


def test_openvlas_own_transform_and_collator_follow(mixture: Mixture, whole: Batch) -> None:
    preset = openvla.openvla(mixture, transform=lambda frame: frame["task"], collate=len)
    assert preset(whole) == 2


def test_groot_gets_physical_parts_and_only_views_that_are_there(mixture: Mixture, batch: Batch) -> None:
    steps = groot.groot(mixture, {KEY: "new_embodiment"}, views={"left_wrist_0_rgb": "wrist"})(batch)
    assert set(steps[0]) == {"images", "states", "actions", "text", "embodiment", "metadata"}
    assert [bool(step["images"]) for step in steps] == batch.camera_mask[:, 1].tolist()
    np.testing.assert_array_equal(steps[0]["states"]["arm0"], batch.state_physical[:1, :6])
    for step, action, inside in zip(steps, batch.action_physical, batch.chunk_mask, strict=True):
        np.testing.assert_array_equal(step["actions"]["gripper0"], action[: inside.sum(), 6:7])
    assert {len(step["actions"]["arm0"]) for step in steps} > {6}
    assert steps[0]["text"] == batch.language[0]
    with pytest.raises(UsageError, match="expected pools of"):
        groot.groot(mixture, {"ur5e": "x"})


def test_groots_statistics_come_by_part(mixture: Mixture) -> None:
    found = groot.part_statistics(mixture, KEY)
    assert {part: len(values["q99"]) for part, values in found["action"].items()} == {"arm0": 6, "gripper0": 1}


def test_presets_work_in_workers_and_sample_by_sample(mixture: Mixture) -> None:
    preset = partial(_both, lerobot.act(mixture, cameras={"base_0_rgb": "observation.image"}))
    loader = torch.utils.data.DataLoader(
        StreamDataset(mixture, batch_size=4, stop=16, preset=preset), batch_size=None, num_workers=2
    )
    batches = list(loader)
    samples = StreamSamples(mixture, n_positions=16, preset=preset)
    assert torch.equal(batches[2]["observation.image"][3], samples[11]["observation.image"])
    assert torch.equal(batches[3]["action"][0], samples[12]["action"])
    assert batches[3]["task"][0] == samples[12]["task"]


def test_numpy_arrays_pass_a_loader_as_they_are(mixture: Mixture, batch: Batch) -> None:
    dataset = StreamDataset(mixture, batch_size=8, stop=8, preset=groot.groot(mixture, {KEY: "new_embodiment"}))
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=1, collate_fn=as_is)
    picture = next(iter(loader))[0]["images"]["base_0_rgb"][0]
    assert isinstance(picture, np.ndarray)
    np.testing.assert_array_equal(picture, batch.images[0, 0])


def _both(preset: Any, batch: Batch) -> Any:
    return preset(batch)


def test_an_open_mixture_does_not_go_to_spawned_workers(mixture: Mixture, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected the path of a spec"):
        pickle.dumps(StreamDataset(mixture, batch_size=4))
