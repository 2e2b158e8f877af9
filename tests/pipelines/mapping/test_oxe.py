"""Every Open X-Embodiment entry, on a tiny dataset with that dataset's published feature structure."""

import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmarks.oxe_evidence import read_comments
from pipelines.contract.embodiments import get_embodiment
from pipelines.contract.episode import Episode
from pipelines.contract.images import decode_image
from pipelines.contract.native import Rejected
from pipelines.conversion.launch import ConversionRequest, convert
from pipelines.mapping.adapters import get_adapter, load_adapters
from pipelines.mapping.forms import relative_to_absolute
from pipelines.mapping.to_slots import to_episode
from pipelines.mapping.validate import find_fault
from pipelines.sources.rlds import find, read
from tests.support.checkout import ROOT
from tests.support.inputs.native_files import picture, write_rlds

T = 3
CARDS = yaml.safe_load((ROOT / "tests/support/inputs/oxe_cards.yaml").read_text())["cards"]
QUATERNION = [0.0, 0.0, 0.09983341664682815, 0.9950041652780258]  # 0.2 rad about z, xyzw.
INSTRUCTION = "put the cup away"
# The names that the registries of Octo and OpenVLA know, short of simulated and private ones.
OCTO_58 = """bridge_dataset fractal20220817_data kuka taco_play jaco_play berkeley_cable_routing roboturk
nyu_door_opening_surprising_effectiveness viola berkeley_autolab_ur5 toto language_table columbia_cairlab_pusht_real
stanford_kuka_multimodal_dataset_converted_externally_to_rlds nyu_rot_dataset_converted_externally_to_rlds
stanford_hydra_dataset_converted_externally_to_rlds austin_buds_dataset_converted_externally_to_rlds
nyu_franka_play_dataset_converted_externally_to_rlds maniskill_dataset_converted_externally_to_rlds
furniture_bench_dataset_converted_externally_to_rlds cmu_franka_exploration_dataset_converted_externally_to_rlds
ucsd_kitchen_dataset_converted_externally_to_rlds ucsd_pick_and_place_dataset_converted_externally_to_rlds
austin_sailor_dataset_converted_externally_to_rlds austin_sirius_dataset_converted_externally_to_rlds bc_z
utokyo_pr2_opening_fridge_converted_externally_to_rlds utokyo_pr2_tabletop_manipulation_converted_externally_to_rlds
utokyo_xarm_pick_and_place_converted_externally_to_rlds utokyo_xarm_bimanual_converted_externally_to_rlds robo_net
berkeley_mvp_converted_externally_to_rlds berkeley_rpt_converted_externally_to_rlds
kaist_nonprehensile_converted_externally_to_rlds stanford_mask_vit_converted_externally_to_rlds
tokyo_u_lsmo_converted_externally_to_rlds dlr_sara_pour_converted_externally_to_rlds
dlr_sara_grid_clamp_converted_externally_to_rlds dlr_edan_shared_control_converted_externally_to_rlds
asu_table_top_converted_externally_to_rlds stanford_robocook_converted_externally_to_rlds
imperialcollege_sawyer_wrist_cam iamlab_cmu_pickup_insert_converted_externally_to_rlds uiuc_d3field utaustin_mutex
berkeley_fanuc_manipulation cmu_playing_with_food cmu_play_fusion cmu_stretch aloha_static_dataset
aloha_dagger_dataset aloha_mobile_dataset fmb_dataset dobbe roboset rh20t""".split()
OPENVLA_MORE = """bridge_oxe bridge_orig berkeley_gnm_recon berkeley_gnm_cory_hall berkeley_gnm_sac_son droid ppgm
ppgm_static ppgm_wrist tdroid_carrot_in_bowl tdroid_pour_corn_in_pot tdroid_flip_pot_upright
tdroid_move_object_onto_plate tdroid_knock_object_over tdroid_cover_object_with_towel droid_wipe
libero_spatial_no_noops libero_object_no_noops libero_goal_no_noops libero_10_no_noops""".split()


def make_features(card: dict[str, Any]) -> dict[str, Any]:
    """One episode of T equal steps with the card's features."""
    features: dict[str, Any] = {
        "steps/is_first": (np.arange(T) == 0).astype(np.int64),
        "steps/is_last": (np.arange(T) == T - 1).astype(np.int64),
        "steps/is_terminal": (np.arange(T) == T - 1).astype(np.int64),
        "steps/reward": np.zeros(T, np.float32),
    }
    for key, width in card["numbers"].items():
        row = np.array(card.get("values", {}).get(key, (np.arange(width) + 1) / 100), np.float32)
        if start := card.get("quaternion", {}).get(key):
            row[start : start + 4] = QUATERNION
        assert len(row) == width
        features[f"steps/{key}"] = np.tile(row, T)
    for key, row in card.get("zlib", {}).items():
        features[f"steps/{key}"] = [zlib.compress(np.array(row, "<f4").tobytes())] * T
    for key, width in card.get("code_points", {}).items():
        row = np.zeros(width, np.int64)
        row[: len(INSTRUCTION)] = [ord(letter) for letter in INSTRUCTION]
        features[f"steps/{key}"] = np.tile(row, T)
    for number, key in enumerate(card["images"]):
        features[f"steps/{key}"] = [picture(10 * number + t) for t in range(T)]
    for number, key in enumerate(card.get("texts", ())):
        features[f"steps/{key}"] = [(INSTRUCTION if number == 0 else f"{INSTRUCTION} {number}").encode()] * T
    return features | {key: np.array([value]) for key, value in card.get("episode", {}).items()}


def read_card(name: str, tmp_path: Path) -> Episode:
    adapter = get_adapter(name)
    source = write_rlds(tmp_path / name, {"train": [make_features(CARDS[name])]}, name=name)
    native = read(find(str(source), adapter).episodes[0], adapter)
    return to_episode(native, adapter, get_embodiment(adapter.robot), tuple(adapter.all_cameras))


@pytest.mark.parametrize("name", sorted(CARDS))
def test_the_cards_values_land_in_their_slots(name: str, tmp_path: Path) -> None:
    episode = read_card(name, tmp_path)
    for values, mask, side in (
        (episode.state, episode.state_mask, "state"),
        (episode.action, episode.action_mask, "action"),
    ):
        expected = CARDS[name][side]
        if isinstance(expected, list):
            expected = dict(zip(_slots(episode, len(expected)), expected, strict=True))
        assert np.flatnonzero(mask).tolist() == sorted(expected)
        for slot, value in expected.items():
            assert values[0, slot] == pytest.approx(value, abs=1e-6), f"{side} slot {slot}"
    assert episode.language[0] == INSTRUCTION
    assert list(episode.images) == list(get_adapter(name).all_cameras)
    assert find_fault(episode) is None


def test_every_entry_of_the_registry_has_a_card() -> None:
    entries = {name for name, adapter in load_adapters().items() if adapter.format == "rlds"}
    assert entries == set(CARDS)


@pytest.mark.parametrize("name", sorted(CARDS))
def test_an_entry_declares_its_units_and_cites_its_evidence(name: str) -> None:
    """The rate, the units and every gripper's sign come from somewhere, and the entry's comment says from where."""
    files = [(ROOT / "pipelines" / file).read_text() for file in ("adapters.yaml", "adapters_oxe.yaml")]
    entry = next(found[0] for text in files if (found := re.search(rf"^  {name}:\n(    .*\n|\n)+", text, re.M)))
    comments = " ".join(line.strip() for line in entry.splitlines() if line.strip().startswith("#"))
    assert re.search(r"^    units: (metric|native)$", entry, re.M)
    assert "rate: " in comments and "units: " in comments
    adapter = get_adapter(name)
    if "gripper0" in {*adapter.state, *adapter.action}:
        assert "gripper: " in comments


@pytest.mark.parametrize("name", ["stanford_mask_vit", "ppgm"])
def test_a_rate_that_nobody_published_is_said_to_be_assumed(name: str, tmp_path: Path) -> None:
    episode = read_card(name, tmp_path)
    assert "no control rate is published" in episode.inferred["control_rate"]
    assert "control_rate" not in read_card("viola", tmp_path).inferred


def test_the_evidence_page_has_every_registered_name_and_the_entries_own_comments() -> None:
    page, comments = (ROOT / "docs/oxe_evidence.md").read_text(), read_comments()
    for name in {*OCTO_58, *OPENVLA_MORE}:
        shown = "droid_ee_delta" if name == "droid" else get_adapter(name).name
        assert f"| {name} | `{shown}` |" in page
        assert comments[shown] in page, f"{shown}: make the page again: benchmarks/oxe_evidence.py"


@pytest.mark.parametrize("name", [*OCTO_58, *OPENVLA_MORE])
def test_names_of_public_registries_are_known(name: str) -> None:
    assert get_adapter(name).format == "rlds"


def test_kuka_failures_are_filtered_and_counted(tmp_path: Path) -> None:
    adapter = get_adapter("kuka")
    features = make_features(CARDS["kuka"]) | {"success": np.array([0])}
    source = write_rlds(tmp_path / "kuka", {"train": [features]})
    native = read(find(str(source), adapter).episodes[0], adapter)
    assert native.success == 0
    with pytest.raises(Rejected, match="filtered: success is 0; the adapter keeps 1"):
        to_episode(native, adapter, get_embodiment("kuka_iiwa"), ())


def test_the_wrist_channels_of_the_ur5_are_swapped_back(tmp_path: Path) -> None:
    episode = read_card("berkeley_autolab_ur5", tmp_path)
    stored = decode_image(picture(0))  # hand_image is the first of the card's images.
    assert np.array_equal(episode.images["left_wrist_0_rgb"][0], stored[..., ::-1])
    assert episode.images["base_0_rgb"][0] == picture(10)


@pytest.mark.parametrize("name", ["stanford_hydra", "utaustin_mutex", "berkeley_fanuc_manipulation", "fmb_dataset"])
def test_channels_of_sets_that_store_bgr_are_swapped_back(name: str, tmp_path: Path) -> None:
    episode, native = read_card(name, tmp_path), [names[0] for names in get_adapter(name).all_cameras.values()]
    for slot, key in zip(episode.images, native, strict=True):
        stored = decode_image(picture(10 * CARDS[name]["images"].index(key)))
        assert np.array_equal(episode.images[slot][0], stored[..., ::-1])


def test_droid_knows_success_from_the_path_and_keeps_three_instructions(tmp_path: Path) -> None:
    adapter = get_adapter("droid")
    features = make_features(CARDS["droid"])
    for folder, success in (("success", 1), ("failure", 0), ("other", -1)):
        path = f"gs://x/droid_raw/1.0.1/SIM/{folder}/2024-05-06/a/trajectory.h5"
        source = write_rlds(tmp_path / folder, {"train": [features | {"episode_metadata/file_path": [path.encode()]}]})
        native = read(find(str(source), adapter).episodes[0], adapter)
        assert (native.success, len(native.language)) == (success, 3)


def test_relative_gripper_commands_hold_until_the_next() -> None:
    commands = np.array([0.5, 0.5, 1.0, 0.5, 0.0, 0.5])[:, None]
    assert relative_to_absolute(commands)[:, 0].tolist() == [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    assert relative_to_absolute(np.full((3, 1), 0.5))[:, 0].tolist() == [0.0, 0.0, 0.0]
    assert relative_to_absolute(np.array([[0.5], [0.0]]))[:, 0].tolist() == [1.0, 0.0]


def test_a_zlib_bomb_is_rejected(tmp_path: Path) -> None:
    adapter = get_adapter("kuka")
    features = make_features(CARDS["kuka"])
    features["steps/observation/gripper_closed"] = [zlib.compress(bytes(1 << 24))] * T
    source = write_rlds(tmp_path / "kuka", {"train": [features]})
    with pytest.raises(Rejected, match="absurd_size"):
        read(find(str(source), adapter).episodes[0], adapter)


def test_an_entry_converts_from_its_folders_name(tmp_path: Path) -> None:
    name = "utokyo_xarm_bimanual"
    source = write_rlds(tmp_path / name / "0.1.0", {"train": [make_features(CARDS[name])] * 2}, name=name)
    adapter, root = get_adapter(source.parent.name), str(tmp_path / "out")
    counts = convert(
        ConversionRequest(source=str(source), output_root=root, name=name, version="1.0.0", adapter=adapter)
    )
    assert (counts["episodes_out"], counts["steps_out"]) == (2, 6)


def _slots(episode: Episode, n: int) -> list[int]:
    """The first `n` slots that the robot's parts use, in order."""
    return sorted(slot for slots in episode.parts.values() for slot in slots)[:n]
