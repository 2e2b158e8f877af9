"""Which native camera fills a slot, and draws among several."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.cli import with_cameras, with_max_loss
from pipelines.contract.embodiments import get_embodiment
from pipelines.contract.episode import Episode, Reference
from pipelines.contract.errors import UsageError
from pipelines.contract.native import NativeEpisode
from pipelines.mapping.adapters import get_adapter, parse_adapter, with_channels
from pipelines.mapping.cameras import CameraForm, draw_cameras, parse_camera
from pipelines.mapping.explain import explain_adapter
from pipelines.mapping.to_slots import to_episode

DROID = get_adapter("droid_raw")
EXTERIORS = ("exterior_1", "exterior_2")


def make_native(t: int = 8, cameras: tuple[str, ...] = EXTERIORS) -> NativeEpisode:
    """The frames of camera k are JPEG-like bytes `k, step`."""
    names = ("observation/robot_state/joint_positions", "action/joint_position")
    grippers = ("observation/robot_state/gripper_position", "action/gripper_position")
    arrays = {name: np.zeros((t, 7)) for name in names} | {name: np.zeros(t) for name in grippers}
    arrays["observation/controller_info/movement_enabled"] = np.ones(t)
    frames = {name: [f"{name} {step}".encode() for step in range(t)] for name in cameras}
    return NativeEpisode(reference=Reference(uri="u", key="lab/1"), n_steps=t, arrays=arrays, frames=frames)


def convert(option: str, native: NativeEpisode) -> Episode:
    return to_episode(native, with_cameras(DROID, [option]), get_embodiment("franka"), ["base_0_rgb"])


def test_a_fixed_choice_takes_the_other_exterior_camera() -> None:
    episode = convert("base_0_rgb=exterior_2", make_native(3))
    assert list(episode.images["base_0_rgb"]) == [b"exterior_2 0", b"exterior_2 1", b"exterior_2 2"]


def test_a_draw_shows_one_camera_at_each_step_and_says_how_often() -> None:
    episode = convert("base_0_rgb=exterior_1|exterior_2", make_native())
    shown = [frame.decode().split() for frame in episode.images["base_0_rgb"]]
    assert [int(step) for _, step in shown] == list(range(8))
    assert [int(camera[-1]) for camera, _ in shown] == [1, 1, 2, 2, 1, 1, 1, 1]
    assert episode.notes == {"base_0_rgb/drawn/exterior_1": 6.0, "base_0_rgb/drawn/exterior_2": 2.0}


def test_a_draw_is_even_and_depends_on_the_key_alone() -> None:
    numbers = draw_cameras("lab/1", "base_0_rgb", EXTERIORS, 4000, "step")
    assert abs(numbers.mean() - 0.5) < 0.03
    assert np.array_equal(draw_cameras("lab/1", "base_0_rgb", EXTERIORS, 100, "step"), numbers[:100])
    assert not np.array_equal(draw_cameras("lab/2", "base_0_rgb", EXTERIORS, 100, "step"), numbers[:100])
    episodes = [draw_cameras(f"lab/{i}", "base_0_rgb", EXTERIORS, 5, "episode") for i in range(40)]
    assert all(len(set(drawn)) == 1 for drawn in episodes) and {int(drawn[0]) for drawn in episodes} == {0, 1}


def test_a_draw_of_which_one_camera_is_there_takes_it() -> None:
    episode = convert("base_0_rgb=exterior_1|exterior_2", make_native(2, ("exterior_2",)))
    assert list(episode.images["base_0_rgb"]) == [b"exterior_2 0", b"exterior_2 1"]
    assert episode.notes == {}


def test_an_entry_declares_a_draw() -> None:
    entry = {"title": "t", "format": "droid", "robot": "franka", "control_mode": "joint_position", "units": "metric"}
    draw = {"draw": ["exterior_1", "exterior_2"], "each": "episode"}
    adapter = parse_adapter("x", entry | {"cameras": {"base_0_rgb": draw, "left_wrist_0_rgb": "wrist"}})
    assert adapter.cameras == {"base_0_rgb": EXTERIORS, "left_wrist_0_rgb": ("wrist",)}
    assert adapter.drawn == {"base_0_rgb": "episode"}
    shown = explain_adapter(replace(DROID, cameras=adapter.cameras, drawn=adapter.drawn), "")
    assert "one of exterior_1, exterior_2, drawn for each episode" in shown
    with pytest.raises(UsageError, match="draw: expected two cameras or more, found exterior_1"):
        parse_adapter("x", entry | {"cameras": {"base_0_rgb": {"draw": ["exterior_1"]}}})


def test_the_share_that_may_be_lost_is_an_option() -> None:
    assert DROID.max_loss == 0.1
    assert with_max_loss(DROID, None) == DROID
    assert with_max_loss(DROID, 0.9).max_loss == 0.9
    with pytest.raises(UsageError, match="--max-loss: expected a share from 0 to 1, found 1.5"):
        with_max_loss(DROID, 1.5)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("base_0_rgb", "expected SLOT=NAME"),
        ("base_0_rgb=", "expected SLOT=NAME"),
        ("base=exterior_1", "slot 'base' is unknown"),
    ],
)
def test_other_forms_of_the_option_are_refused(option: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        with_cameras(DROID, [option])


def test_a_mapping_says_how_pictures_are_stored() -> None:
    stored = {"from": ["agentview_rgb", "front"], "flip": "vertical", "channels": "bgr", "range": 255}
    choice = parse_camera("base_0_rgb", stored)
    assert choice.names == ("agentview_rgb", "front") and choice.each is None
    assert choice.form == CameraForm(flip="vertical", channels="bgr", range=255)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"flip": "vertical"}, "expected cameras under `from`, or under `draw`"),
        ({"from": "a", "draw": ["a", "b"]}, "expected cameras under `from`, or under `draw`"),
        ({"from": "a", "each": "step"}, "expected cameras under `from`, or under `draw`"),
        ({"from": "a", "rotate": 45}, "expected rotate 90, 180 or 270"),
        ({"from": "a", "range": 100}, "range 1 or 255"),
    ],
)
def test_a_mapping_that_makes_no_sense_is_an_error(spec: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_camera("base_0_rgb", spec)


def test_an_entry_tells_the_form_of_each_native_camera() -> None:
    adapter = get_adapter("libero_hdf5")
    assert adapter.form_of("agentview_rgb") == CameraForm(flip="vertical")
    assert adapter.form_of("another") == CameraForm()
    shown = explain_adapter(with_channels(adapter, "bgr"))
    assert "pictures  of base_0_rgb: flip vertical, swap red and blue" in shown
