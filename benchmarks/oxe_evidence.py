"""Our reading of every dataset of Octo's and OpenVLA's registries beside their own code's, on the same inputs.

    python -m benchmarks.oxe_evidence --octo SNAPSHOT --openvla SNAPSHOT --rdt SNAPSHOT \
        --ranges ../shared/cases/oxe_ranges.csv --write docs/oxe_evidence.md

A snapshot is a git directory or a checkout of the project; its code is run where it lies.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from benchmarks.oxe_registries import RdtScripts, Reading, Registry, commit_of, load_octo, load_openvla, load_rdt
from benchmarks.oxe_words import MORE_ACTIONS, MORE_STATES
from pipelines.contract.embodiments import get_embodiment
from pipelines.contract.episode import Episode
from pipelines.mapping.adapters import Adapter, get_adapter
from pipelines.mapping.to_slots import to_episode
from tests.support.checkout import ROOT
from tests.support.inputs.oxe_values import (
    ACTIONS,
    STATES,
    Motion,
    Quantity,
    action_motion,
    native_episode,
    read_ranges,
    state_motion,
)

Floats = NDArray[np.float64]
STEPS = 30
# Registered names that are no dataset of their own: OpenVLA's GNM sets under one name, an unpublished simulation.
NO_DATASETS = ("gnm_dataset", "mujoco_manip")
_RANGE_NAMES = {"bridge_oxe": "bridge", "bridge_orig": "bridgev2", "droid_ee_delta": "droid"}
# OpenVLA reads DROID as changes of the pose; our `droid` reads joints.
ENTRIES = {"droid": "droid_ee_delta"}
# Both projects take for Bridge's actions what the state then did.
RELABELLED = ("bridge_orig", "bridge_oxe")
QUANTITIES = ("action xyz", "action rotation", "action gripper", "state xyz", "state rotation", "state gripper")
RDT_QUANTITIES = ("action gripper", "state xyz", "state gripper")
_TOLERANCE = 2e-4


@dataclass(frozen=True, kw_only=True)
class Row:
    """One dataset: per quantity, what each project's reading is to ours."""

    dataset: str
    adapter: Adapter
    cells: dict[str, dict[str, str]]
    rdt: dict[str, str]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--octo", type=Path, required=True, help="git directory or checkout of octo-models/octo")
    parser.add_argument("--openvla", type=Path, required=True, help="git directory or checkout of openvla/openvla")
    parser.add_argument("--rdt", type=Path, required=True, help="the same of thu-ml/RoboticsDiffusionTransformer")
    parser.add_argument("--ranges", type=Path, required=True, help="published ranges of states, a CSV file")
    parser.add_argument("--write", type=Path, help="the page to write; printed if left out")
    options = parser.parse_args(arguments)
    registries, rdt = (load_octo(options.octo), load_openvla(options.openvla)), load_rdt(options.rdt)
    ranges = read_ranges(options.ranges)
    rows = [compare(dataset, registries, rdt, ranges) for dataset in list_datasets(registries)]
    commits = ", ".join(
        f"{r.name} {commit_of(p)}" for r, p in zip(registries, (options.octo, options.openvla), strict=True)
    )
    page = render(rows, commits)
    if options.write:
        options.write.write_text(page, encoding="utf-8")
        print(f"wrote {options.write}: {len(rows)} datasets")
    else:
        print(page)


def list_datasets(registries: Sequence[Registry]) -> list[str]:
    """Every name that either project registers, sorted."""
    return sorted({name for registry in registries for name in registry.transforms} - set(NO_DATASETS))


def compare(
    dataset: str, registries: Sequence[Registry], rdt: RdtScripts, ranges: dict[str, dict[str, Quantity]]
) -> Row:
    """Runs one episode through our adapter and through every registry that knows the dataset."""
    adapter = get_adapter(ENTRIES.get(dataset, dataset))
    if adapter.name in RELABELLED:
        adapter = replace(adapter, relabel="reached_states")
    state, action = make_motions(adapter, ranges)
    state_words = STATES.get(adapter.name, {}) | MORE_STATES.get(adapter.name, {})
    action_words = ACTIONS.get(adapter.name, {}) | MORE_ACTIONS.get(adapter.name, {})
    native = native_episode(adapter, state.n_steps, (state_words, state), (action_words, action))
    ours = to_episode(native, adapter, get_embodiment(adapter.robot), tuple(adapter.all_cameras))
    cells: dict[str, dict[str, str]] = {quantity: {} for quantity in QUANTITIES}
    for registry in registries:
        if dataset not in registry.transforms:
            continue
        try:
            theirs = registry.read(dataset, adapter.name, native)
        except (KeyError, TypeError, ValueError) as error:
            for quantity in QUANTITIES:
                cells[quantity][registry.name] = f"fails: {type(error).__name__}"
            continue
        for quantity, cell in compare_readings(adapter, ours, theirs):
            cells[quantity][registry.name] = cell
    theirs_of_rdt = rdt.read(dataset, adapter.name, native)
    return Row(dataset=dataset, adapter=adapter, cells=cells, rdt=compare_rdt(adapter, ours, theirs_of_rdt))


def compare_rdt(adapter: Adapter, ours: Episode, theirs: dict[str, Floats]) -> dict[str, str]:
    """Quantity -> how RDT's reading relates to ours on the steps that we keep; "-" where it has none."""
    lost = {step for stretch in ours.dropped for step in range(stretch.start, stretch.end)}
    kept = [step for step in range(ours.n_steps + len(lost)) if step not in lost]
    arm = "arm1" if "arm1" in ours.parts else "arm0"
    gripper = ours.parts.get(arm.replace("arm", "gripper"), ())
    sides = {"action": (ours.action, ours.action_mask), "state": (ours.state, ours.state_mask)}
    cells = dict.fromkeys(RDT_QUANTITIES, "-")
    for quantity, numbers in theirs.items():
        side = quantity.partition(" ")[0]
        if quantity.endswith("gripper"):
            cells[quantity] = relate_grippers(_our_part(*sides[side], gripper), numbers[kept], "action")
        elif adapter.control_mode.startswith("ee"):
            cells[quantity] = relate(_first(_our_part(*sides[side], ours.parts[arm]), 3), numbers[kept])
    return cells


def make_motions(adapter: Adapter, ranges: dict[str, dict[str, Quantity]]) -> tuple[Motion, Motion]:
    """A state and an action of as many steps, within the published ranges where there are any."""
    names = (
        adapter.name,
        *adapter.aliases,
        *({"bridge_oxe": ("bridge",), "bridge_orig": ("bridgev2",)}.get(adapter.name, ())),
    )
    known = next((ranges[name] for name in names if name in ranges), {})
    if adapter.name.startswith("droid"):
        known = ranges["droid"]
    state = state_motion(known or _SOME_RANGES, adapter.control_hz or 10.0)
    if {"left_eef_pos_x", "left_arm_joint_0_pos"} & set(known):
        state = replace(state, left=state_motion(known, adapter.control_hz or 10.0, "left_"))
    steps = np.linspace(0, state.n_steps - 1, STEPS).round().astype(int)
    state = _take(state, steps)
    published = read_ranges(ROOT / "tests/support/inputs/oxe_action_ranges.csv")
    found = next((published[name] for name in (adapter.name, *adapter.aliases) if name in published), _SOME_ACTIONS)
    action = action_motion(found, np.sin(np.arange(STEPS) / 3 + 0.5))
    # Commands to open, stay, close, stay, open and close; where there is no staying, to open and to close.
    levels = [1.0, 0.5, 0.0, 0.5, 1.0, 0.0] if _is_relative(adapter) else [1.0, 0.0]
    openness = np.repeat(levels, STEPS // len(levels))
    changes = action.changes.copy()
    ends = found["gripper"]
    least, greatest = (ends.least, ends.greatest) if ends.least < ends.greatest else (0, 1)
    changes[:, 6] = least + openness * (greatest - least)
    turns = Rotation.from_rotvec(0.05 * np.sin(np.arange(STEPS)[:, None] / 3 + np.arange(3)))
    action = replace(action, openness=openness, changes=changes, rotation=turns, joints=state.joints)
    return state, replace(action, left=replace(action, xyz=0.5 * action.xyz))


def compare_readings(adapter: Adapter, ours: Episode, theirs: Reading) -> Iterator[tuple[str, str]]:
    """Yields (quantity, how the registry's reading relates to ours) on the native steps that both keep."""
    lost = {step for stretch in ours.dropped for step in range(stretch.start, stretch.end)}
    kept = [step for step in range(ours.n_steps + len(lost)) if step not in lost]
    mine = [kept.index(step) for step in theirs.steps if step in kept]
    other = [i for i, step in enumerate(theirs.steps) if step in kept]
    arm = "arm1" if theirs.action.shape[1] == 7 and "arm1" in ours.parts else "arm0"
    slots = ours.parts.get(arm, ours.parts.get("base", ()))
    gripper = ours.parts.get(arm.replace("arm", "gripper"), ())
    for side, vector, encoding in (
        ("action", theirs.action, theirs.action_encoding),
        ("state", theirs.proprio, theirs.encoding),
    ):
        values, mask = (ours.action, ours.action_mask) if side == "action" else (ours.state, ours.state_mask)
        pose = _our_part(values[mine], mask, slots)
        finger = _our_part(values[mine], mask, gripper)
        xyz, rotation, grip = _their_parts(vector[other], encoding, side)
        if not adapter.control_mode.startswith("ee") or encoding.startswith("JOINT"):
            yield f"{side} xyz", relate_joints(pose, vector[other], adapter, encoding)
        else:
            as_pose = ", as a pose" if side == "action" and adapter.control_mode == "ee_absolute" else ""
            yield f"{side} xyz", relate(_first(pose, 3), xyz) + as_pose
            yield f"{side} rotation", relate_rotations(_last(pose, 3), rotation) + as_pose
        yield f"{side} gripper", relate_grippers(finger, grip, side)


def relate(a: Floats | None, b: Floats | None) -> str:
    """How our metres `a` relate to their numbers `b`, [n, k] each; None or zeros: there are none."""
    a, b = _some(a), _some(b)
    if a is None or b is None:
        return "none" if a is None and b is None else "left out here" if a is None else "only here"
    k = min(a.shape[1], b.shape[1])
    a, b = a[:, :k], b[:, :k]
    if np.allclose(a, b, atol=_TOLERANCE):
        return "same"
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = (a / b)[np.abs(b) > 1e-3]
    if len(ratios) and np.ptp(ratios) < 1e-3 * abs(ratios.mean()):
        return f"x {ratios.mean():.3g}"
    return "other"


def relate_rotations(a: Floats | None, b: Floats | None) -> str:
    """How our roll, pitch, yaw relate to their angles [n, 3] or quaternions [n, 4]."""
    a, b = _some(a), _some(b)
    if a is None or b is None:
        return relate(a, b)
    if b.shape[1] == 4:
        if not (np.linalg.norm(b, axis=1) > 0.5).all():
            return "other"
        return "same" if _angle(a, Rotation.from_quat(b)) < 1e-3 else "other"
    if a.shape[1] == 1:
        return "yaw, the roll there" if np.allclose(a[:, 0], b[:, 0], atol=_TOLERANCE) else "other"
    if np.allclose(a, b, atol=_TOLERANCE):
        return "same"
    if _angle(a, Rotation.from_euler("xyz", b)) < 1e-3:
        return "same, wrapped"
    for form, turned in (
        ("axis and angle", Rotation.from_rotvec(b)),
        ("yaw, pitch, roll", Rotation.from_euler("xyz", b[:, ::-1])),
    ):
        if _angle(a, turned) < 1e-3:
            return form
    if _angle(a, Rotation.from_euler("zxy", b)) < 1e-3:
        return "zxy angles"
    if _angle(a, Rotation.from_euler("xyz", b, degrees=True)) < 1e-3:
        return "degrees"
    scaled = relate(a, b)
    if scaled.startswith("x "):
        return scaled
    for factor in (0.1, 0.15, 0.5):
        if _angle(a, Rotation.from_rotvec(factor * b)) < 1e-3:
            return f"axis and angle, x {factor:g}"
    return "other"


def relate_grippers(a: Floats | None, b: Floats | None, side: str) -> str:
    """How our closedness relates to their openness, [n, 1] each; of the state, they keep what is stored."""
    reversed_ = "reversed" if side == "action" else "as stored, 1 closed"
    if a is None or b is None or not len(b):
        return relate(a, b)
    if np.ptp(b) == 0:
        return "constant there"
    openness, b = 1 - a[:, 0], b[:, 0]
    if np.allclose(openness, b, atol=1e-3):
        return "same"
    if np.allclose(1 - openness, b, atol=1e-3):
        return reversed_
    if ((openness > 0.5) == (b > 0.5)).all() and set(np.unique(b)) <= {0.0, 1.0}:
        return "same, rounded there"
    slope = np.corrcoef(openness, b)[0, 1]
    if abs(slope) > 0.97:
        return "same, own scale there" if slope > 0 else f"{reversed_}, own scale there"
    return "other"


def relate_joints(a: Floats | None, b: Floats, adapter: Adapter, encoding: str) -> str:
    """Joint modes: the joints side by side; where only they keep joints, so it says."""
    if adapter.control_mode.startswith("ee"):
        return "joints there"
    if encoding == "POS_QUAT":
        return "a pose there"
    a = _some(a)
    if a is None:
        return relate(a, b)
    return relate(a, b[:, : a.shape[1]])


def render(rows: Sequence[Row], commits: str) -> str:
    """The page. Raises ValueError where a difference has no explanation."""
    lines = [_INTRODUCTION.format(n=len(rows), commits=commits)]
    columns = (*QUANTITIES, *(f"RDT: {quantity}" for quantity in RDT_QUANTITIES))
    lines += [f"| dataset | entry | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    for row in rows:
        cells = [_merge(row.cells[quantity]) for quantity in QUANTITIES]
        cells += [row.rdt[quantity] for quantity in RDT_QUANTITIES]
        lines.append(f"| {row.dataset} | `{row.adapter.name}` | {' | '.join(cells)} |")
    lines += [
        "",
        _KINDS,
        "",
        "## Each difference, and its evidence",
        "",
        "Sources, by short name:",
        "",
        *read_sources(),
        "",
    ]
    comments = read_comments()
    reasons = yaml.safe_load((ROOT / "benchmarks/oxe_differences.yaml").read_text(encoding="utf-8"))
    for name in sorted({row.adapter.name for row in rows}):
        mine = [row for row in rows if row.adapter.name == name]
        differs = {
            cell
            for row in mine
            for by_project in row.cells.values()
            for cell in by_project.values()
            if cell not in _PLAIN
        }
        explained = reasons.get(name, "")
        if differs and not explained:
            raise ValueError(f"{name}: expected an explanation in benchmarks/oxe_differences.yaml of {sorted(differs)}")
        if (
            any(cell.startswith("reversed") for row in mine for cell in row.rdt.values())
            and "RDT" not in comments[name]
        ):
            raise ValueError(f"{name}: expected the entry's comment to say that RDT reads the gripper the other way")
        text = " ".join(part for part in (explained, comments.get(name, "")) if part)
        lines.append(f"- **{name}** ({row_mode(mine[0].adapter)}). {text}")
    return "\n".join(lines) + "\n"


def row_mode(adapter: Adapter) -> str:
    hz = f"{adapter.control_hz:g} Hz" if adapter.control_hz else "no published rate"
    return f"{adapter.control_mode}, {adapter.units}, {hz}"


def read_sources() -> list[str]:
    """The sources that comments of the registry name in short, as a list of its page."""
    lines = (ROOT / "pipelines/adapters_oxe.yaml").read_text(encoding="utf-8").splitlines()
    sources: list[str] = []
    for line in lines[: lines.index("blocks:")]:
        if match := re.fullmatch(r"#   (\w+) +(.+)", line):
            sources.append(f"- *{match[1]}* {match[2]}")
        elif line.startswith("#     "):
            sources[-1] += f" {line.strip('# ')}"
    return sources


def read_comments() -> dict[str, str]:
    """Entry -> the evidence that its comment in the registry cites."""
    found: dict[str, str] = {}
    for file in ("adapters.yaml", "adapters_oxe.yaml"):
        name = ""
        for line in (ROOT / "pipelines" / file).read_text(encoding="utf-8").splitlines():
            if match := re.fullmatch(r"  (\w+):", line):
                name = match[1]
            elif line.startswith("    # ") and name:
                found[name] = f"{found.get(name, '')} {line.strip('# ')}".strip()
    return found


def _merge(cells: dict[str, str]) -> str:
    if len(set(cells.values())) <= 1:
        return next(iter(cells.values()), "") or "-"
    return "; ".join(f"{project}: {cell or '-'}" for project, cell in cells.items())


def _their_parts(vector: Floats, encoding: str, side: str) -> tuple[Floats | None, Floats | None, Floats | None]:
    """xyz, rotation and gripper of a vector of theirs, as the project's encoding says."""
    k = vector.shape[1]
    if side == "action":
        if encoding.startswith("JOINT"):
            return None, None, vector[:, 7:8] if k == 8 else vector[:, 6:7]
        return vector[:, :3], vector[:, 3:6], vector[:, 6:7]
    if encoding == "NONE":
        return None, None, None
    if encoding == "POS_QUAT":
        return vector[:, :3], vector[:, 3:7], vector[:, 7:8] if k > 7 else None
    if encoding == "POS_EULER":
        return vector[:, :3], vector[:, 3:6] if k >= 6 else None, vector[:, 6 + k // 8 :][:, :1] if k > 6 else None
    if encoding.startswith("JOINT"):
        return None, None, vector[:, 6:7] if k == 14 else vector[:, 7:8] if k == 8 else None
    return vector[:, :3], None, None


def _our_part(values: NDArray[np.float32], mask: NDArray[np.bool_], slots: Sequence[int]) -> Floats | None:
    numbers = [slot for slot in slots if mask[slot]]
    if not numbers:
        return None
    kept = values[:, list(slots)].astype(np.float64)
    kept[:, [i for i, slot in enumerate(slots) if not mask[slot]]] = np.nan
    return kept


def _first(pose: Floats | None, n: int) -> Floats | None:
    return None if pose is None else _known(pose[:, :n])


def _last(pose: Floats | None, n: int) -> Floats | None:
    return None if pose is None else _known(pose[:, n:])


def _known(columns: Floats) -> Floats | None:
    kept = columns[:, ~np.isnan(columns).any(axis=0)]
    return kept if kept.shape[1] else None


def _some(columns: Floats | None) -> Floats | None:
    return None if columns is None or not columns.size or not np.any(columns) else columns


def _angle(rpy: Floats, rotation: Rotation) -> float:
    return float((Rotation.from_euler("xyz", rpy) * rotation.inv()).magnitude().max())


def _is_relative(adapter: Adapter) -> bool:
    return any(source.relative for source in adapter.action.values())


def _take(motion: Motion, steps: NDArray[np.int64]) -> Motion:
    return Motion(
        xyz=motion.xyz[steps],
        rotation=motion.rotation[steps],
        openness=motion.openness[steps],
        joints=motion.joints[steps],
        changes=motion.changes[steps],
        left=_take(motion.left, steps) if motion.left else None,
    )


def _span(least: float, greatest: float) -> Quantity:
    return Quantity(least=least, greatest=greatest, mean=(least + greatest) / 2, low=least, high=greatest)


_SOME_RANGES = {
    "eef_pos_x": _span(0.3, 0.6),
    "eef_pos_y": _span(-0.2, 0.3),
    "eef_pos_z": _span(0.1, 0.4),
    "gripper_open": _span(0.0, 1.0),
    **{f"arm_joint_{i}_pos": _span(-0.5 - 0.1 * i, 0.4) for i in range(7)},
}
_SOME_ACTIONS = {
    **{name: _span(-0.02 - 0.001 * i, 0.03) for i, name in enumerate("xyz")},
    **{name: _span(-0.05 - 0.01 * i, 0.06) for i, name in enumerate(("roll", "pitch", "yaw"))},
    "gripper": _span(0.0, 1.0),
}
# What needs no explanation of its own.
_PLAIN = (
    "same",
    "none",
    "only here",
    "joints there",
    "",
    "same, own scale there",
    "as stored, 1 closed",
    "as stored, 1 closed, own scale there",
)
_INTRODUCTION = """# Open X-Embodiment: our reading beside Octo's, OpenVLA's and RDT's

All {n} datasets that the registries of Octo and OpenVLA name, and RDT's scripts for those of them that it knows
({commits}). One generated episode per dataset, within the published ranges of its state and action,
goes through our adapter and through their own code; the table says what our numbers are to theirs. Made by
`python -m benchmarks.oxe_evidence`, which runs their code from snapshots and keeps none of it; it refuses to write a
difference from the registries that `benchmarks/oxe_differences.yaml` does not explain.
"""
_KINDS = """Cells: *same*; *x 0.05* ours is theirs times 0.05; *only here* a quantity that they leave out or fill with
zeros; *left out here* one that we mask off, since its meaning or unit is not known; *joints there* their state is joint
angles, which an end-effector mode has no slot for; *as a pose* they feed the numbers as changes, we as absolute poses;
*reversed* their open is our closed; *as stored, 1 closed* they keep the state's gripper as it is; *rounded there* they
round it to 0 or 1; *own scale there* a width in m or mm, or a command of -1..1, where we have 0..1; *wrapped* angles
that differ by whole turns; *axis and angle* numbers that they call roll, pitch, yaw; *constant there* the same number
at every step. Grippers are compared as openness, since theirs is 1 open."""

if __name__ == "__main__":
    main()
