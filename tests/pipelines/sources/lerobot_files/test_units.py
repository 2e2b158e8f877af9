"""Degrees or percent of range: stated where it is certain, asked for where it is not, never assumed."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.contract.embodiments import get_embodiment
from pipelines.contract.episode import Episode
from pipelines.contract.errors import UsageError
from pipelines.mapping.adapters import Adapter, get_adapter
from pipelines.mapping.explain import explain_adapter
from pipelines.mapping.to_slots import to_episode
from pipelines.sources.lerobot import find, read
from pipelines.sources.lerobot_files.units import choose_units
from tests.support.inputs.lerobot_writer import MOTORS, make_rows, write_v2

SO100 = get_adapter("lerobot_so100")
NEW = [f"{name}.pos" for name in MOTORS]


def write(root: Path, most: float, names: list[str] | None, reach: int = 1) -> Path:
    """A dataset whose joints reach +-`most`, `reach` of them; grippers go from 0 to 100."""
    columns = make_rows(0, 5)
    joints = np.zeros((5, 6), np.float32)
    joints[:, :reach] = np.array([-most, 0, most, 1, 2])[:, None]
    joints[:, reach:5] = 20
    joints[:, 5] = [0, 25, 50, 75, 100]
    write_v2(root, [columns | {"observation.state": joints, "action": joints}])
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    for key in ("observation.state", "action"):
        info["features"][key]["names"] = names
    path.write_text(json.dumps(info))
    return root


def convert(root: Path, adapter: Adapter) -> Episode:
    native = read(find(str(root), adapter).episodes[0], adapter)
    return to_episode(native, adapter, get_embodiment("so100"), ["base_0_rgb"])


def test_old_names_are_degrees(tmp_path: Path) -> None:
    root = write(tmp_path, 90, [f"main_{name}" for name in MOTORS])
    adapter = choose_units(str(root), SO100, "")
    assert replace(adapter, units_known="") == SO100
    episode = convert(root, adapter)
    assert episode.state[2, 0] == pytest.approx(np.pi / 2)
    assert episode.norm_key == "so100/joint_position/pi18/v1"
    assert episode.inferred["units"].startswith("joints are read as degrees: motors have the names")


def test_values_beyond_100_are_degrees_whatever_the_names(tmp_path: Path) -> None:
    adapter = choose_units(str(write(tmp_path, 130, NEW)), SO100, "")
    assert (adapter.name, "values reach 130" in adapter.units_known) == ("lerobot_so100", True)


def test_joints_cut_off_at_100_are_percent(tmp_path: Path) -> None:
    root = write(tmp_path, 100, NEW, reach=2)
    adapter = choose_units(str(root), SO100, "")
    assert adapter.name == "lerobot_so100_percent"
    episode = convert(root, adapter)
    assert episode.state[:, 0].tolist() == pytest.approx([-1, 0, 1, 0.01, 0.02])
    assert episode.state[:, 6].tolist() == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    assert episode.norm_key == "so100/joint_position/pi18/v1/lerobot_so100_percent"


@pytest.mark.parametrize(
    ("most", "names", "message"),
    [
        (99.5, NEW, "values up to 99.5 with names that end in .pos are either"),
        (90, None, "values up to 90 with dims without names are either"),
        (3.1, ["a", "b", "c", "d", "e", "f"], "values stay within"),
    ],
)
def test_what_is_not_certain_is_asked_for(tmp_path: Path, most: float, names: list[str] | None, message: str) -> None:
    root = write(tmp_path, most, names)
    if most < 7:
        info = root / "meta/stats.json"
        low = {"min": [-most] * 5 + [0], "max": [most] * 5 + [100]}
        info.write_text(json.dumps({"observation.state": low, "action": low}))
    with pytest.raises(UsageError, match=f"{message}.*Give --units degrees or --units percent"):
        choose_units(str(root), SO100, "")
    for units, entry in (("degrees", "lerobot_so100"), ("percent", "lerobot_so100_percent")):
        adapter = choose_units(str(root), SO100, units)
        assert (adapter.name, adapter.units_known) == (entry, f"joints are read as {units}: stated by the user")


def test_the_entry_of_percent_is_a_statement(tmp_path: Path) -> None:
    root = write(tmp_path, 99.5, NEW)
    assert choose_units(str(root), get_adapter("lerobot_so100_percent"), "").name == "lerobot_so100_percent"


def test_percent_is_shown_as_no_angle() -> None:
    shown = explain_adapter(get_adapter("lerobot_so100_percent")).splitlines()
    assert "     0  arm0 joint 1    native            <- 0.01 * observation.state[0]" in shown
    assert "     6  gripper0        0 open, 1 closed  <- action[5] (open 100, closed 0)" in shown
    assert not any(" rad " in line for line in shown)


def test_percent_ends_at_100(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--units percent: expected joints within -100 to 100, found .* reach 130"):
        choose_units(str(write(tmp_path, 130, NEW)), SO100, "percent")


def test_units_of_an_entry_without_a_choice_are_refused(tmp_path: Path) -> None:
    aloha = get_adapter("lerobot_aloha")
    assert choose_units(str(tmp_path), aloha, "") == aloha
    with pytest.raises(UsageError, match="expected an entry that has a choice of units, found lerobot_aloha"):
        choose_units(str(tmp_path), aloha, "degrees")
    with pytest.raises(UsageError, match="'radians' is unknown. Known: degrees, percent"):
        choose_units(str(tmp_path), SO100, "radians")


def test_statistics_of_the_dataset_are_read_in_place_of_its_tables(tmp_path: Path) -> None:
    root = write(tmp_path, 90, NEW)
    lines = [{"stats": {key: {"min": [-120.0] * 6, "max": [90.0] * 6} for key in ("observation.state", "action")}}]
    (root / "meta/episodes_stats.jsonl").write_text(json.dumps(lines[0]) + "\n")
    assert "values reach 120" in choose_units(str(root), SO100, "").units_known


def test_a_koch_of_before_june_2025_is_refused_for_its_gripper(tmp_path: Path) -> None:
    root = write(tmp_path, 90, [f"main_{name}" for name in MOTORS])
    with pytest.raises(UsageError, match="lerobot_koch reads grippers of 0 to 100; motors named main_shoulder_pan"):
        choose_units(str(root), get_adapter("lerobot_koch"), "degrees")


@pytest.mark.parametrize("units", ["degrees", "percent"])
def test_what_options_change_in_an_entry_outlives_the_choice_of_units(tmp_path: Path, units: str) -> None:
    cameras = {"base_0_rgb": ("observation.images.mine",)}
    asked = replace(SO100, cameras=cameras, max_loss=0.5)
    found = choose_units(str(write(tmp_path, 80, NEW)), asked, units)
    entered = get_adapter(SO100.by_units[units])
    assert (found.cameras, found.max_loss) == (cameras, 0.5)
    assert (found.name, found.state, found.units) == (entered.name, entered.state, entered.units)
