"""Native columns of an entry's parts, their names and units, and the way from slots back to native numbers."""

import numpy as np
import pytest

from pipelines.contract.errors import UsageError
from pipelines.mapping.adapters import PartSource, Selector
from pipelines.mapping.forms import convert_part
from pipelines.mapping.native_vectors import check_invertible, columns_of, invert_part, native_units, part_names


def part(*selectors: tuple[str, int, int] | str, **about: object) -> PartSource:
    sources = tuple(
        Selector(key=s) if isinstance(s, str) else Selector(key=s[0], start=s[1], stop=s[2]) for s in selectors
    )
    return PartSource(sources=sources, **about)  # type: ignore[arg-type]


def test_columns_keep_the_order_of_the_source_and_leave_out_what_no_part_takes() -> None:
    parts = {
        "arm0": part(("q", 3, 5), form="joints"),
        "gripper0": part(("q", 0, 1), open=1, closed=0),
        "base": part("drive", form="value"),
    }
    columns = columns_of(parts, {"arm0": (0, 1), "gripper0": (6,), "base": (14, 15)})
    assert columns.width == 5
    assert columns.of_part == {"arm0": (1, 2), "gripper0": (0,), "base": (3, 4)}


def test_columns_chosen_by_name_stand_in_the_order_of_the_names() -> None:
    parts = {"arm0": part("q", names=("b", "a"), form="joints"), "gripper0": part("q", names=("g",), open=0, closed=1)}
    columns = columns_of(parts, {"arm0": (0, 1), "gripper0": (6,)})
    assert (columns.width, columns.of_part) == (3, {"arm0": (0, 1), "gripper0": (2,)})


FORMS = {
    "xyz_rotvec": 6,
    "xyz_euler_zyx": 6,
    "xyz_euler_zxy": 6,
    "xyz_rpy": 6,
    "xyz_yaw": 4,
    "xyz": 3,
    "joints": 6,
}


@pytest.mark.parametrize("form", FORMS)
def test_native_numbers_come_back(form: str) -> None:
    native = np.random.default_rng(0).uniform(-0.7, 0.7, (20, FORMS[form]))
    scale = 2.0 if form == "joints" else (2.0,) * 3 + (1.0,) * (FORMS[form] - 3)
    source = part(("x", 0, FORMS[form]), form=form, scale=scale, units=("cm",) if form != "joints" else ())
    there = convert_part(native, source)
    np.testing.assert_allclose(invert_part(there, source, FORMS[form]), native, atol=1e-12)


@pytest.mark.parametrize("form", ["xyz_quat_xyzw", "xyz_quat_wxyz"])
def test_quaternions_come_back_as_the_same_rotation(form: str) -> None:
    native = np.random.default_rng(1).normal(size=(20, 7))
    native[:, 3:] /= np.linalg.norm(native[:, 3:], axis=1, keepdims=True)
    source = part("x", form=form)
    back = invert_part(convert_part(native, source), source, 7)
    np.testing.assert_allclose(np.abs((back[:, 3:] * native[:, 3:]).sum(axis=1)), 1.0, atol=1e-12)
    np.testing.assert_allclose(back[:, :3], native[:, :3])


def test_fingers_of_a_gripper_come_back_alike() -> None:
    source = part(("x", 0, 2), open=0.04, closed=0.0)
    np.testing.assert_allclose(invert_part(np.array([[0.25]]), source, 2), [[0.03, 0.03]])


@pytest.mark.parametrize(
    "source, word", [(part("x", form="matrix"), "matrix"), (part("x", open=-1, closed=1, relative=True), "relative")]
)
def test_what_has_no_inverse_is_refused_by_name(source: PartSource, word: str) -> None:
    with pytest.raises(UsageError, match=f"entry: arm0: .*{word}.*use slots"):
        check_invertible("entry", {"arm0": source}, "use slots")


def test_names_and_units_say_what_each_number_is() -> None:
    arm = part(("x", 0, 2), form="joints", degrees=True)
    assert part_names("arm0", arm, 2, ("waist", "elbow"), "left_") == ["left_waist", "left_elbow"]
    assert part_names("arm0", arm, 2) == ["arm0_joint_0", "arm0_joint_1"]
    assert native_units("arm0", arm, 2, ("rad", "rad")) == ["degrees", "degrees"]
    grip = part("x", open=100, closed=0)
    assert native_units("gripper0", grip, 1, ("gripper",)) == ["100 open, 0 closed"]
    pose = part("x", form="xyz_yaw", units=("mm",))
    assert native_units("arm0", pose, 4, ("m", "m", "m", "rad")) == ["mm", "mm", "mm", "rad"]
