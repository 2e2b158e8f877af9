"""Which camera goes to which slot by its name."""

import pytest

from pipelines.inspection.description import CameraView
from pipelines.inspection.views import choose_views


@pytest.mark.parametrize(
    ("names", "slots"),
    [
        (["observation.images.wrist", "observation.images.front"], {"base_0_rgb": 1, "left_wrist_0_rgb": 0}),
        (
            ["cam_low", "cam_high", "cam_left_wrist", "cam_right_wrist"],
            {"base_0_rgb": 1, "left_wrist_0_rgb": 2, "right_wrist_0_rgb": 3},
        ),
        (["robot0_eye_in_hand_image", "agentview_image"], {"base_0_rgb": 1, "left_wrist_0_rgb": 0}),
        (["observation.images.ego_view"], {"base_0_rgb": 0}),
        (["camera_0", "camera_1"], {"base_0_rgb": 0}),
        (["depth", "rgb"], {"base_0_rgb": 1}),
    ],
)
def test_cameras_go_to_slots_by_their_names(names: list[str], slots: dict[str, int]) -> None:
    views = choose_views([CameraView(name=name, size=None, stored="JPEG") for name in names], has_two_arms=True)
    assert {slot: name for slot, (name, _) in views.slots.items()} == {slot: names[i] for slot, i in slots.items()}


def test_the_only_wrist_camera_of_one_arm_is_the_left_one_whatever_its_side() -> None:
    views = choose_views([CameraView(name="right_wrist", size=None, stored="JPEG")], has_two_arms=False)
    assert list(views.slots) == ["left_wrist_0_rgb"]


def test_a_camera_without_a_meaning_is_pointed_out() -> None:
    views = choose_views([CameraView(name=f"camera_{i}", size=None, stored="JPEG") for i in range(2)], False)
    assert "look at its pictures" in views.slots["base_0_rgb"][1]
    assert views.left_out == ("camera_1",)
