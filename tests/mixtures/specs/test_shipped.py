"""The shipped specs: they load, and their shares are the published ones."""

from pathlib import Path

import pytest

from mixtures.reports.plan import MixturePlan
from mixtures.reports.published import plan_published
from mixtures.specs.spec import load_spec
from tests.mixtures.groups.test_shares import OXE_MAGIC_SOUP
from tests.support.checkout import ROOT

SPECS = ROOT / "mixtures" / "specs"


def planned(name: str) -> MixturePlan:
    return plan_published(load_spec(SPECS / f"{name}.yaml"), None)


@pytest.mark.parametrize("path", sorted(SPECS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_spec_has_a_plan_whose_shares_add_up(path: Path) -> None:
    assert sum(group.probability for group in planned(path.stem).groups) == pytest.approx(1)


def test_the_magic_soup_has_the_published_shares_under_both_rules() -> None:
    by_power = {group.name: group for group in planned("oxe_magic_soup").groups}
    by_octo = {group.name: group for group in planned("oxe_magic_soup_octo").groups}
    assert len(by_power) == len(by_octo) == 24
    for name, _, n, octo, power in OXE_MAGIC_SOUP:
        assert by_power[name].n_steps == n
        assert 100 * by_power[name].probability == pytest.approx(power, abs=0.05), name
        assert 100 * by_octo[name].probability == pytest.approx(octo, abs=0.05), name


def test_openvla_draws_octos_soup_without_bc_z() -> None:
    octo = {group.name: group.probability for group in planned("oxe_magic_soup_octo").groups}
    left = 1 - octo.pop("bc_z")
    openvla = {group.name: group.probability for group in planned("oxe_magic_soup_openvla").groups}
    assert openvla == pytest.approx({name: share / left for name, share in octo.items()})


def test_pi0s_mixture_has_its_papers_shape() -> None:
    groups = planned("pi0_pretrain").groups
    in_house = [group for group in groups if group.name.startswith("in_house/")]
    assert len(in_house) == 68 and len({group.robot for group in in_house}) == 7
    assert sum(group.n_steps for group in in_house) == 903_000_000
    single = [group for group in in_house if group.robot[0] in ("ur5e", "franka")]
    assert sum(group.n_steps for group in single) == 106_000_000
    assert sum(group.probability for group in in_house) == pytest.approx(0.909)
    weights = [group.n_steps**0.43 for group in in_house]
    assert [group.probability for group in in_house] == pytest.approx([0.909 * w / sum(weights) for w in weights])


def test_two_stages_draw_from_one_spec() -> None:
    spec = SPECS / "two_stages.yaml"
    pretrain, posttrain = (plan_published(load_spec(spec, stage=stage), None) for stage in ("pretrain", "posttrain"))
    before = {group.name: group.probability for group in pretrain.groups}
    assert len(before) == 4 and before["open_data/bridge_v2"] == pytest.approx(0.2)
    after = {group.name: group.probability for group in posttrain.groups}
    assert after["tables/bus tables@ur5e"] == pytest.approx(0.1)
    parts = [after[f"laundry/fold laundry@{robot}"] for robot in ("arx_dual", "ur5e_dual")]
    assert parts == pytest.approx([0.9 * n**0.43 / (40**0.43 + 25**0.43) for n in (40, 25)])
