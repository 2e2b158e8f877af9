"""Every key of a part and of a camera moves what comes out, and a bad value is refused by file and line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.contract.embodiments import get_embodiment
from pipelines.contract.episode import Episode, Reference
from pipelines.contract.errors import UsageError
from pipelines.contract.native import NativeEpisode, Rejected
from pipelines.contract.registries import use_registries
from pipelines.mapping.adapters import find_adapter, get_adapter, parse_adapter
from pipelines.mapping.entry_grammar import CAMERA, PART
from pipelines.mapping.explain import explain_adapter
from pipelines.mapping.to_slots import to_episode

T = 3
ENTRY = {"title": "x", "format": "rlds", "robot": "widowx", "control_mode": "ee_absolute", "units": "metric"}
ARM = {"from": "pose", "form": "xyz_rpy"}
GRIPPER = {"from": "grip", "open": 0, "closed": 1}
POSE = [0.1, 0.2, 0.3, 0.4, 0.5, 6.0]


def native(**changes: Any) -> NativeEpisode:
    """Three equal poses, a gripper that leaves 0..1, and two cameras of 4x6 whose every pixel differs."""
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    values: dict[str, Any] = {
        "arrays": {"pose": np.tile(POSE, (T, 1)), "grip": np.array([[0.2], [1.4], [0.5]])},
        "dim_names": {"pose": list("abcdef")},
        "frames": {"front": [pixels] * T, "side": [pixels + 100] * T},
    }
    return NativeEpisode(reference=Reference(uri="u", key="k"), n_steps=T, **values | changes)


def convert(arm: dict[str, Any], gripper: dict[str, Any], camera: Any = "front", **changes: Any) -> Episode:
    parts = {"arm0": arm, "gripper0": gripper}
    adapter = parse_adapter("x", ENTRY | {"state": parts, "action": parts, "cameras": {"base_0_rgb": camera}})
    return to_episode(native(**changes), adapter, get_embodiment("widowx"), ["base_0_rgb"])


# Key -> what it adds to the arm, what to the gripper, and the state that comes out at the second step.
PART_KEYS: dict[str, tuple[dict[str, Any], dict[str, Any], list[float]]] = {
    "names": ({"names": list("bacdef")}, {}, [0.2, 0.1, 0.3, 0.4, 0.5, 6.0, 1.4]),
    "form": ({"form": "xyz_euler_zyx"}, {}, [0.1, 0.2, 0.3, 6.0, 0.5, 0.4, 1.4]),
    "degrees": ({"degrees": True}, {}, [0.1, 0.2, 0.3, 0.4 * np.pi / 180, 0.5 * np.pi / 180, 6 * np.pi / 180, 1.4]),
    "scale": ({"scale": 2}, {}, [0.2, 0.4, 0.6, 0.8, 1.0, 12.0, 1.4]),
    "offset": ({"offset": [1, 0, 0, 0, 0, 0]}, {}, [1.1, 0.2, 0.3, 0.4, 0.5, 6.0, 1.4]),
    "wrap": ({"wrap": True}, {}, [0.1, 0.2, 0.3, 0.4, 0.5, 6.0 - 2 * np.pi, 1.4]),
    "open": ({}, {"open": -1}, [*POSE, 1.2]),
    "closed": ({}, {"closed": 2}, [*POSE, 0.7]),
    "clip": ({}, {"clip": True}, [*POSE, 1.0]),
    "relative": ({}, {"relative": True}, [*POSE, 1.0]),
    "next": ({}, {"next": True}, [*POSE, 0.5]),
    "units": ({"units": ["mm", "degrees"]}, {}, [1e-4, 2e-4, 3e-4, *(np.array(POSE[3:]) * np.pi / 180), 1.4]),
    "when": ({}, {"when": {"has_gripper": True}}, [*POSE, 0.0]),
}


def test_the_table_knows_every_key_of_a_part() -> None:
    assert set(PART_KEYS) == set(PART.fields) - {"from"}


@pytest.mark.parametrize("key", PART_KEYS)
def test_every_key_of_a_part_moves_what_comes_out(key: str) -> None:
    arm, gripper, expected = PART_KEYS[key]
    usual = convert(ARM, GRIPPER)
    assert usual.state[1, :7].tolist() == pytest.approx([*POSE, 1.4])
    episode = convert(ARM | arm, GRIPPER | gripper, flags={"has_gripper": 0.0})
    assert episode.state[1, :7].tolist() == pytest.approx(expected)
    assert not np.allclose(expected, usual.state[1, :7])


PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
CAMERA_KEYS: dict[str, tuple[dict[str, Any], np.ndarray]] = {
    "from": ({"from": ["absent", "side"]}, PIXELS + 100),
    "draw": ({"draw": ["side", "absent"]}, PIXELS + 100),
    "flip": ({"from": "front", "flip": "vertical"}, PIXELS[::-1]),
    "rotate": ({"from": "front", "rotate": 180}, PIXELS[::-1, ::-1]),
    "channels": ({"from": "front", "channels": "bgr"}, PIXELS[..., ::-1]),
    "crop": ({"from": "front", "crop": {"top": 1, "left": 2, "height": 3, "width": 4}}, PIXELS[1:4, 2:6]),
}


def test_the_table_knows_every_key_of_a_camera() -> None:
    # How often is drawn and the range of float pictures: test_cameras.py, sources/test_float_pictures.py.
    assert set(CAMERA_KEYS) == set(CAMERA.fields) - {"each", "range"}


@pytest.mark.parametrize("key", CAMERA_KEYS)
def test_every_key_of_a_camera_moves_what_comes_out(key: str) -> None:
    camera, expected = CAMERA_KEYS[key]
    episode = convert(ARM, GRIPPER, camera)
    assert np.array_equal(episode.images["base_0_rgb"][1], expected)


def test_a_picture_is_cropped_as_stored_then_turned() -> None:
    crop = {"top": 1, "left": 0, "height": 2, "width": 3}
    episode = convert(ARM, GRIPPER, {"from": "front", "crop": crop, "flip": "vertical", "rotate": 90})
    assert np.array_equal(episode.images["base_0_rgb"][0], np.rot90(PIXELS[1:3, :3][::-1], -1))


def test_a_crop_beyond_the_picture_rejects_the_episode() -> None:
    crop = {"top": 2, "left": 0, "height": 3, "width": 6}
    frames = convert(ARM, GRIPPER, {"from": "front", "crop": crop}).images["base_0_rgb"]
    with pytest.raises(Rejected, match="expected at least 5 rows and 6 columns to crop, found a picture of 4x6"):
        list(frames)


@pytest.mark.parametrize(
    ("part", "spec", "value", "expected"),
    [
        ("arm0", {"form": "xyz", "units": "cm"}, [100.0, 50, 0], [1.0, 0.5, 0]),
        ("arm0", {"form": "xyz_rotvec", "units": "degrees"}, [1.0, 2, 3, 0, 0, 90], [1.0, 2, 3, 0, 0, np.pi / 2]),
        ("arm0", {"form": "xyz_quat_xyzw", "units": "mm"}, [1000.0, 0, 0, 0, 0, 0, 1], [1.0, 0, 0, 0, 0, 0]),
        ("arm0", {"form": "xyz_yaw", "units": ["mm", "degrees"]}, [1000.0, 0, 0, 180], [1.0, 0, 0, np.pi]),
        (
            "arm0",
            {"form": "matrix", "units": "mm"},
            [*np.eye(4).ravel() + 2000 * np.eye(1, 16, 3)[0]],
            [2.0, 0, 0, 0, 0, 0],
        ),
    ],
)
def test_units_are_those_of_each_form(part: str, spec: dict, value: list[float], expected: list[float]) -> None:
    parts = {part: {"from": "pose"} | spec}
    adapter = parse_adapter("x", ENTRY | {"state": parts, "action": parts})
    arrays = {"pose": np.tile(np.array(value), (T, 1))}
    episode = to_episode(native(arrays=arrays, dim_names={}), adapter, get_embodiment("widowx"), [])
    assert episode.state[0][episode.state_mask].tolist() == pytest.approx(expected)


def test_joints_bases_and_torsos_have_units() -> None:
    entry = ENTRY | {"robot": "franka_mobile", "control_mode": "joint_position"}
    action = {
        "arm0": {"from": "a", "units": "degrees"},
        "base": {"from": "b", "units": ["cm", "degrees"]},
        "torso": {"from": "t", "units": "mm"},
    }
    arrays = {"a": np.full((T, 7), 180.0), "b": np.tile([10.0, 20.0, 90.0], (T, 1)), "t": np.full((T, 1), 300.0)}
    adapter = parse_adapter("x", entry | {"action": action})
    episode = to_episode(native(arrays=arrays, dim_names={}), adapter, get_embodiment("franka_mobile"), [])
    expected = [*[np.pi] * 7, 0.1, 0.2, np.pi / 2, 0.3]
    assert episode.action[0][episode.action_mask].tolist() == pytest.approx(expected)


def test_degrees_of_what_is_no_angle_are_refused() -> None:
    entry = ENTRY | {"robot": "franka_mobile", "control_mode": "joint_position"}
    with pytest.raises(UsageError, match="action: torso: degrees: expected joints or a pose"):
        parse_adapter("x", entry | {"action": {"torso": {"from": "t", "degrees": True}}})


def test_a_part_counts_where_the_episode_has_its_keys() -> None:
    gripper = GRIPPER | {"when": "present"}
    assert convert(ARM, gripper).state_mask[:8].tolist() == [True] * 7 + [False]
    episode = convert(ARM, gripper, arrays={"pose": np.tile(POSE, (T, 1))})
    assert episode.state_mask[:8].tolist() == [True] * 6 + [False] * 2
    assert episode.inferred["action/gripper0"] == "action gripper0 is masked off: the source has no grip"


def test_half_of_a_part_is_no_part() -> None:
    arm = {"from": ["pose", "more"], "form": "xyz_rpy", "when": "present"}
    with pytest.raises(Rejected, match="arm0: expected all of its keys or none; found pose without more"):
        convert(arm, GRIPPER)


def test_a_flag_that_decides_must_be_there() -> None:
    gripper = GRIPPER | {"when": {"has_gripper": True}}
    assert convert(ARM, gripper, flags={"has_gripper": 1.0}).state_mask[6]
    with pytest.raises(Rejected, match="gripper0: when: expected the episode's flag has_gripper; found none"):
        convert(ARM, gripper)


def test_the_new_keys_are_explained() -> None:
    action = {"arm0": ARM | {"units": "mm"}, "gripper0": GRIPPER | {"when": "present"}}
    crop = {"from": "front", "crop": {"top": 1, "left": 2, "height": 3, "width": 4}}
    shown = explain_adapter(parse_adapter("x", ENTRY | {"action": action, "cameras": {"base_0_rgb": crop}}))
    assert "<- pose[0] (mm)" in shown
    assert "<- grip (open 0, closed 1), where the source has it" in shown
    assert "pictures  of base_0_rgb: keep 3x4 from row 1 and column 2" in shown


FILE = """\
schema: embodimix.registry/v1
adapters:
  mine:
    title: x
    format: rlds
    robot: widowx
    control_mode: ee_absolute
    units: metric
    cameras:
      base_0_rgb: {camera}
    state:
      arm0: {arm}
      gripper0: {gripper}
"""
USUAL = {"camera": "front", "arm": "{from: pose, form: xyz_rpy}", "gripper": "{from: grip, open: 0, closed: 1}"}


@pytest.fixture(autouse=True)
def shipped_only() -> Iterator[None]:
    yield
    use_registries([])


@pytest.mark.parametrize(
    ("what", "value", "message"),
    [
        ("arm", "{from: pose, form: xyz_rpi}", r":12:\d+: .*form: 'xyz_rpi' is unknown. Did you mean 'xyz_rpy'"),
        ("arm", "{from: pose, names: a}", r":12:\d+: expected the source's own names of the dims, found 'a'"),
        (
            "arm",
            "{from: 'pose[0:6]', form: xyz_rpy, names: [a]}",
            r":12:\d+: .*names choose the columns of one whole key",
        ),
        ("arm", "{from: pose, degrees: 1}", r":12:\d+: expected whether angles are in degrees \(true or false\)"),
        ("arm", "{from: pose, scale: [1, x]}", r":12:\d+: expected a number, found 'x'"),
        ("arm", "{from: pose, offset: {}}", r":12:\d+: expected a number, or one for each dim, found a mapping"),
        ("arm", "{from: pose, wrap: maybe}", r":12:\d+: expected whether angles are differences"),
        ("arm", "{from: pose, units: miles}", r":12:\d+: expected a unit of the source's numbers, found 'miles'"),
        ("arm", "{from: pose, form: xyz, units: [m, mm]}", r":12:\d+: .*expected one unit of lengths, found m and mm"),
        ("arm", "{from: pose, form: xyz, units: rad}", r":12:\d+: .*units: xyz of arm0 has no angles, found rad"),
        ("arm", "{from: pose, units: mm}", r":12:\d+: .*units: joints of arm0 has no lengths, found mm"),
        (
            "arm",
            "{from: pose, degrees: true, units: rad}",
            r":12:\d+: .*`degrees` or an angle under `units`, found both",
        ),
        ("arm", "{from: pose, when: sometimes}", r":12:\d+: .*found 'sometimes'. Known: always, present"),
        (
            "arm",
            "{from: pose, when: {has_arm: yes}}",
            r":12:\d+: expected true, false or a number",
        ),
        ("gripper", "{from: grip, open: up, closed: 1}", r":13:\d+: expected a gripper's native value when open"),
        ("gripper", "{from: grip, open: 0}", r":13:\d+: .*grippers, and only they, state their values"),
        ("gripper", "{from: grip, open: 0, closed: 1, clip: 2}", r":13:\d+: expected whether a gripper is kept"),
        ("gripper", "{from: grip, open: 0, closed: 1, units: mm}", r":13:\d+: .*a gripper's are its values `open`"),
        ("camera", "{from: front, flip: up}", r":10:\d+: expected along which axis .*found 'up'"),
        ("camera", "{from: front, rotate: 45}", r":10:\d+: .*expected rotate 90, 180 or 270"),
        ("camera", "{from: front, channels: gbr}", r":10:\d+: expected the order of the colours, found 'gbr'"),
        ("camera", "{from: front, crop: [0, 0, 1, 1]}", r":10:\d+: expected the rectangle .*found a list"),
        (
            "camera",
            "{from: front, crop: {top: 0, left: 0, height: 0, width: 1}}",
            r":10:\d+: expected its rows \(whole, above",
        ),
        ("camera", "{from: front, crop: {top: 0}}", r":10:\d+: expected the key 'left' in the rectangle"),
    ],
)
def test_a_bad_value_is_refused_by_line(what: str, value: str, message: str, tmp_path: Path) -> None:
    text = FILE
    for key, usual in (USUAL | {what: value}).items():
        text = text.replace(f"{{{key}}}", usual)
    path = tmp_path / "my.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"my.yaml" + message):
        find_adapter(str(path))


def test_the_usual_file_is_right(tmp_path: Path) -> None:
    text = FILE
    for key, usual in USUAL.items():
        text = text.replace(f"{{{key}}}", usual)
    path = tmp_path / "my.yaml"
    path.write_text(text)
    assert find_adapter(str(path)).robot == get_adapter("bridge_orig").robot


def test_two_slots_show_two_rectangles_of_one_camera() -> None:
    halves = {
        slot: {"from": "front", "crop": {"top": 0, "left": left, "height": 4, "width": 3}}
        for slot, left in (("base_0_rgb", 0), ("left_wrist_0_rgb", 3))
    }
    parts = {"arm0": ARM, "gripper0": GRIPPER}
    adapter = parse_adapter("x", ENTRY | {"state": parts, "action": parts, "cameras": halves})
    images = to_episode(native(), adapter, get_embodiment("widowx"), list(halves)).images
    assert np.array_equal(images["base_0_rgb"][0], PIXELS[:, :3])
    assert np.array_equal(images["left_wrist_0_rgb"][0], PIXELS[:, 3:])


def test_a_camera_that_one_slot_crops_is_not_read_as_plain() -> None:
    cropped = {"from": "front", "crop": {"top": 0, "left": 0, "height": 4, "width": 3}}
    adapter = parse_adapter("x", ENTRY | {"cameras": {"base_0_rgb": "front", "left_wrist_0_rgb": cropped}})
    assert adapter.form_of("front").crop == (0, 0, 4, 3)


def test_two_ranges_of_one_camera_are_refused() -> None:
    cameras = {"base_0_rgb": {"from": "front", "range": 1}, "left_wrist_0_rgb": {"from": "front", "range": 255}}
    with pytest.raises(UsageError, match="expected one range of the pictures of front, found 1 and 255"):
        parse_adapter("x", ENTRY | {"cameras": cameras})


@pytest.mark.parametrize(
    ("arm", "gripper", "message"),
    [
        ({}, {"scale": 2}, "gripper0: scale: expected `open` and `closed`"),
        ({}, {"offset": 5}, "gripper0: offset: expected `open` and `closed`"),
        ({}, {"wrap": True}, "gripper0: wrap: expected `open` and `closed`"),
        ({}, {"form": "xyz_rpy"}, "gripper0 in ee_absolute is value; found xyz_rpy"),
        ({}, {"open": 1}, "expected two values `open` and `closed`, found 1.0 for both"),
        ({"clip": True}, {}, "arm0: clip: expected a gripper"),
        ({"relative": True}, {}, "arm0: relative: expected a gripper"),
        ({"form": "value", "units": "mm"}, {}, "arm0 in ee_absolute is xyz, .* matrix; found value"),
        ({"form": "joints"}, {}, "arm0 in ee_absolute is xyz, .* matrix; found joints"),
        ({"offset": [1, 2]}, {}, "offset: expected one number, or 6, one a dim, found 2"),
        ({"scale": 0}, {}, "scale: expected numbers other than 0"),
        ({"scale": [1] * 7}, {}, "scale: expected one number, or 6, one a dim, found 7"),
        ({}, {"from": "grip[1:1]"}, "expected dims such as .*, found 'grip\\[1:1\\]'"),
    ],
)
def test_keys_that_would_be_read_past_are_refused(arm: dict[str, Any], gripper: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        convert(ARM | arm, GRIPPER | gripper)


def test_a_pose_is_refused_where_joints_are_meant() -> None:
    parts = {"arm0": ARM, "gripper0": GRIPPER}
    with pytest.raises(UsageError, match="arm0 in joint_position is joints; found xyz_rpy"):
        parse_adapter("x", ENTRY | {"control_mode": "joint_position", "state": parts, "action": parts})


def test_a_first_command_of_no_motion_is_known_by_its_offset() -> None:
    still = {"from": "pose", "form": "xyz_rpy", "scale": 2, "offset": [-2 * number for number in POSE]}
    parts = {"arm0": still, "gripper0": GRIPPER}
    change = {"control_mode": "ee_delta", "drop_first": "zero_action"}
    adapter = parse_adapter("x", ENTRY | change | {"state": {}, "action": parts, "cameras": {"base_0_rgb": "front"}})
    episode = to_episode(native(), adapter, get_embodiment("widowx"), ["base_0_rgb"])
    assert [(d.start, d.end, d.reason) for d in episode.dropped] == [(0, 1, "first_step_zero_action")]
