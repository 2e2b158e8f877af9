"""The adapter registry: what an entry may say, and how an entry is shown."""

import pytest

from pipelines.contract.embodiments import get_embodiment
from pipelines.contract.errors import UsageError
from pipelines.mapping.adapters import get_adapter, load_adapters, parse_adapter, parse_selector
from pipelines.mapping.explain import explain_adapter, registry_table
from tests.support.checkout import ROOT

ARM = {"from": "state[0:6]", "form": "xyz_rpy"}
GRIPPER = {"from": "state[6]", "open": 1, "closed": 0}
ENTRY = {
    "title": "x",
    "format": "rlds",
    "robot": "widowx",
    "control_mode": "ee_delta",
    "cameras": {"base_0_rgb": "observation/image"},
    "state": {"arm0": ARM, "gripper0": GRIPPER},
}


@pytest.mark.parametrize("name", sorted(load_adapters()))
def test_every_entry_can_be_explained(name: str) -> None:
    adapter = get_adapter(name)
    robot = "ur5e_dual" if adapter.robot == "from_log" else ""
    assert explain_adapter(adapter, robot).startswith(f"{name}: ")


def test_an_alias_finds_its_entry() -> None:
    assert get_adapter("bridge_dataset").name == "bridge_orig"


def test_an_unknown_adapter_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'bridge_org' is not in the registry. Did you mean 'bridge_orig'"):
        get_adapter("bridge_org")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"controll_hz": 5}, "unknown key 'controll_hz'. Did you mean 'control_hz'"),
        ({"format": "rdls"}, "'rdls' is unknown. Did you mean 'rlds'"),
        ({"control_mode": "ee_detla"}, "Did you mean 'ee_delta'"),
        ({"robot": "widowxx"}, "robot 'widowxx' is not in the embodiment registry. Did you mean 'widowx'"),
        ({"cameras": {"base_0": "image"}}, "Did you mean 'base_0_rgb'"),
        ({"drop_first": "sometimes"}, "drop_first: 'sometimes'"),
        ({"state": {"arm1": ARM}}, "robot widowx has no arm1"),
        ({"state": {"arm0": {"from": "state[0:7]"}}}, "expects 6 dims as joints, found 7"),
        ({"state": {"arm0": {"from": "state[0:6]", "form": "xyz_quat_xyzw"}}}, "expects 7 dims as xyz_quat_xyzw"),
        ({"state": {"arm0": {"from": "state[0:6", "form": "xyz_rpy"}}}, r"such as action\[0:6\] or action\[6\]"),
        ({"state": {"arm0": ARM | {"frm": 1}}}, "unknown key 'frm'. Did you mean 'from'"),
        ({"state": {"gripper0": {"from": "state[6]"}}}, "grippers, and only they, state their values"),
        ({"state": {"arm0": ARM | {"open": 1, "closed": 0}}}, "grippers, and only they, state their values"),
    ],
)
def test_a_wrong_entry_is_refused(change: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_adapter("x", ENTRY | change)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(UsageError, match="expected robot; found"):
        parse_adapter("x", {key: value for key, value in ENTRY.items() if key != "robot"})


def test_a_robot_with_other_parts_than_the_entry_is_refused() -> None:
    with pytest.raises(UsageError, match="mobile_arx has no slots for control mode 'ee_delta'"):
        get_adapter("bridge_orig").check_robot(get_embodiment("mobile_arx"))


@pytest.mark.parametrize("text", ["action", "action[6]", "observation/state[0:6]"])
def test_selectors_read_as_they_print(text: str) -> None:
    assert str(parse_selector(text)) == text


def test_explain_shows_where_each_dim_lands() -> None:
    lines = explain_adapter(get_adapter("bridge_orig")).splitlines()
    assert "     6  gripper0        0 open, 1 closed  <- action[6] (open 1, closed 0)" in lines
    assert "     5  arm0 yaw        rad a step        <- action[5]" in lines
    assert "    right_wrist_0_rgb  <- none (masked)" in lines


def test_explain_needs_a_robot_where_logs_tell_it() -> None:
    with pytest.raises(UsageError, match="name one, such as --robot ur5e_dual"):
        explain_adapter(get_adapter("inhouse_log"))
    shown = explain_adapter(get_adapter("inhouse_log"), "mobile_arx")
    assert "    15  base 1          rad/s             <- command/base[2]" in shown.splitlines()


def test_the_registry_page_is_the_registry() -> None:
    page = ROOT / "docs/registry.md"
    assert page.read_text().endswith(registry_table()), "make it again: embodimix convert --explain all"
