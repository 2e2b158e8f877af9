"""The layouts of vectors: the slots of every part, which robots fit, and maps from one layout to another."""

from pathlib import Path

import pytest

from pipelines.contract import layouts
from pipelines.contract.embodiments import fit_parts, parse_embodiment
from pipelines.contract.errors import UsageError
from pipelines.contract.layouts import Layout, get_layout, load_layouts, parse_slots
from pipelines.contract.slots import layout_of, norm_key, units_of

BODY = {"arm0": 7, "gripper0": 1, "arm1": 7, "gripper1": 1, "base": 3, "torso": 1, "waist": 4, "head": 3}


def test_the_default_layout_has_the_mission_s_18_slots() -> None:
    layout = get_layout("pi18/v1")
    assert layout.n_slots == 18
    assert dict(layout.parts) == {
        "arm0": (0, 1, 2, 3, 4, 5),
        "gripper0": (6,),
        "arm1": (7, 8, 9, 10, 11, 12),
        "gripper1": (13,),
        "base": (14, 15, 16),
        "torso": (17,),
    }


def test_the_wide_layout_puts_what_openpi_has_no_slot_for_behind_the_18() -> None:
    layout = get_layout("pi32/v1")
    assert layout.n_slots == 32
    assert layout.fit(BODY) == {
        "arm0": (0, 1, 2, 3, 4, 5, 18),
        "gripper0": (6,),
        "arm1": (7, 8, 9, 10, 11, 12, 19),
        "gripper1": (13,),
        "base": (14, 15, 16),
        "torso": (17,),
        "waist": (20, 21, 22, 23),
        "head": (24, 25, 26),
    }
    assert layout.reserved == (27, 28, 29, 30, 31)


@pytest.mark.parametrize("layout", ["pi18/v1", "pi32/v1"])
def test_openpi_s_dims_keep_their_meaning(layout: str) -> None:
    """openpi, docs/norm_stats.md: 0-5 and 6, 7-12 and 13, base 14-15; a robot of seven joints 0-6 and 7."""
    six, seven = {"arm0": 6, "gripper0": 1, "arm1": 6, "gripper1": 1, "base": 2}, {"arm0": 7, "gripper0": 1}
    assert get_layout(layout).fit(six) == {
        "arm0": (0, 1, 2, 3, 4, 5),
        "gripper0": (6,),
        "arm1": (7, 8, 9, 10, 11, 12),
        "gripper1": (13,),
        "base": (14, 15),
    }
    assert get_layout(layout).fit(seven) == {"arm0": (0, 1, 2, 3, 4, 5, 6), "gripper0": (7,)}


def test_a_layout_says_where_the_slots_of_another_go() -> None:
    assert get_layout("pi32/v1").slots_from("pi18/v1") == tuple(range(18))
    assert get_layout("pi18/v1").slots_from("pi18/v1") == tuple(range(18))
    assert get_layout("pi18/v1").slots_from("pi32/v1") is None


def test_a_robot_that_does_not_fit_names_the_layout_that_has_room() -> None:
    dims = {"arm0": [f"left_{i}" for i in range(1, 8)], "arm1": [f"right_{i}" for i in range(1, 8)]}
    with pytest.raises(
        UsageError, match=r"18 slots of pi18/v1; left over are arm0: left_7; arm1: right_7. `layout: pi32/v1`"
    ):
        fit_parts("openarm", dims)
    assert fit_parts("openarm", dims, "pi32/v1")["arm1"] == (7, 8, 9, 10, 11, 12, 19)


def test_slots_are_read_in_their_order() -> None:
    assert parse_slots("0-5+18") == (0, 1, 2, 3, 4, 5, 18)
    with pytest.raises(UsageError, match="expected slots such as 0-5, 6 or 0-5\\+18, found '0..5'"):
        parse_slots("0..5")


def test_an_unknown_layout_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="layout 'pi3/v1' is unknown. Did you mean"):
        get_layout("pi3/v1")


def test_a_robot_s_state_and_action_share_their_slots() -> None:
    """A lone arm of seven joints lies elsewhere than one of two, so that a state of one arm alone would move."""
    entry = {
        "description": "x",
        "control_hz": 10,
        "cameras": ["base_0_rgb"],
        "joint": {
            "layout": "pi32/v1",
            "state": {"arm0": "0-6", "gripper0": "7"},
            "action": {"arm0": "0-5+18", "gripper0": "6", "arm1": "7-12+19", "gripper1": "13"},
        },
    }
    with pytest.raises(UsageError, match=r"robot x: (arm0|gripper0): expected one set of slots for state and action"):
        parse_embodiment("x", entry)


def test_norm_keys_name_their_layout_and_units() -> None:
    key = norm_key("openarm", "joint_position", "own", "pi32/v1")
    assert key == "openarm/joint_position/pi32/v1/own"
    assert (layout_of(key), units_of(key)) == ("pi32/v1", "own")
    assert (layout_of(f"{key}@15hz"), units_of(f"{key}@15hz")) == ("pi32/v1", "own")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reserved": (27, 28, 29, 30)}, "expected every slot from 0 to 31 in one part or reserved"),
        ({"lone_arm": {"arm0": (0, 1, 2, 3, 4, 5, 14)}}, "expected slots of arms and grippers only"),
    ],
)
def test_a_wrong_layout_is_refused(change: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Layout(**{**vars(get_layout("pi32/v1")), **change})


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (("from: {pi18/v1: 0-17}", "from: {pi18/v1: 0-16+18}"), r"layouts.yaml:\d+:\d+: .*expected a robot of"),
        (("from: {pi18/v1: 0-17}", "from: {pi18/v1: 0-16}"), "expected 18 different slots below 32"),
        (("from: {pi18/v1: 0-17}", "from: {pi9/v1: 0-8}"), "expected a layout that stands before it"),
    ],
)
def test_a_map_that_changes_what_a_slot_means_is_refused(
    written: tuple[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = Path(layouts.__file__).parents[1].joinpath("layouts.yaml").read_text()
    assert text.count(written[0]) == 1
    (tmp_path / "layouts.yaml").write_text(text.replace(*written))
    monkeypatch.setattr("pipelines.contract.layouts.resources.files", lambda package: tmp_path)
    layouts._load.cache_clear()
    try:
        with pytest.raises(UsageError, match=message):
            load_layouts()
    finally:
        monkeypatch.undo()
        layouts._load.cache_clear()


def test_slots_that_fall_are_refused() -> None:
    with pytest.raises(UsageError, match="expected slots from the lowest to the highest, found '5-0'"):
        parse_slots("5-0")
