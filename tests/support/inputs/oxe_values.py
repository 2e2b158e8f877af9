"""Open X-Embodiment episodes of realistic size: published quantities in native arrays, as each dataset stores them.

How a dataset stores a quantity is described by words, one or more columns each, in the order of the native key:
`xyz` metres; `xy`; `rpy`, `ypr`, `zxy`, `rotvec`, `quat` (xyzw), `wxyz` a rotation in that form; `rows`, `columns` a
pose as a flat matrix; `open`, `closed`, `+-closed`, `+-open` a gripper; `j6`, `j7` joints in rad; `rot`, `yaw`,
`gripper` numbers of an action as published; `zeros3` three zeros. `*1000` and `/12.5` multiply and divide what is
stored; `left:` takes the quantities of the left arm.
"""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from pipelines.contract.episode import Reference
from pipelines.contract.native import NativeEpisode
from pipelines.mapping.adapters import Adapter
from tests.support.checkout import ROOT
from tests.support.inputs.native_files import picture

Floats = NDArray[np.float64]
SPEED_M_S = 0.5
CARDS = yaml.safe_load((ROOT / "tests/support/inputs/oxe_cards.yaml").read_text())["cards"]

# Where each dataset keeps the state that RDT publishes ranges of, as its data/preprocess_scripts read it.
STATES: dict[str, dict[str, str]] = {
    "fractal20220817_data": {
        "observation/base_pose_tool_reached": "xyz quat",
        "observation/gripper_closed": "closed",
    },
    "kuka": {
        "observation/clip_function_input/base_pose_tool_reached": "xyz quat",
        "observation/gripper_closed": "closed",
    },
    "bridge_oxe": {"observation/state": "xyz rpy open"},
    "bridge_orig": {"observation/state": "xyz rpy open"},
    "taco_play": {"observation/robot_obs": "xyz rpy open/12.3843 zeros8"},
    "jaco_play": {"observation/end_effector_cartesian_pos": "xyz quat"},
    "berkeley_cable_routing": {"observation/robot_state": "xyz quat"},
    "viola": {"observation/ee_states": "columns", "observation/gripper_states": "open/12.905"},
    "berkeley_autolab_ur5": {"observation/robot_state": "zeros6 xyz quat closed zeros1"},
    "language_table": {"observation/effector_translation": "xy"},
    "columbia_cairlab_pusht_real": {"observation/robot_state": "xy"},
    "stanford_kuka_multimodal": {"observation/ee_position": "xyz", "observation/ee_orientation": "quat"},
    "stanford_hydra": {"observation/state": "xyz quat rpy zeros14 open/12.324 zeros2"},
    "austin_buds": {"observation/state": "zeros7 open/12.5 columns"},
    "austin_sailor": {"observation/state_ee": "columns", "observation/state_gripper": "open/12.85"},
    "austin_sirius": {"observation/state_ee": "columns", "observation/state_gripper": "open/12.55"},
    "nyu_franka_play": {"observation/state": "zeros7 xyz rpy"},
    "maniskill": {"observation/tcp_pose": "zeros3 wxyz", "observation/state": "zeros7 open/25 open/25 zeros9"},
    "furniture_bench": {"observation/state": "xyz quat zeros27 open/12.507"},
    "ucsd_pick_and_place": {"observation/state": "xyz*10 rpy open*6.03"},
    "bc_z": {
        "observation/present/xyz": "xyz",
        "observation/present/axis_angle": "rotvec",
        "observation/present/sensed_close": "closed",
    },
    "utokyo_pr2_opening_fridge": {"observation/state": "xyz*1000 rpy open*86.66"},
    "utokyo_pr2_tabletop_manipulation": {"observation/state": "xyz*1000 rpy open*86.12"},
    "utokyo_xarm_pick_and_place": {"observation/end_effector_pose": "xyz ypr"},
    "utokyo_xarm_bimanual": {"observation/pose_l": "left:xyz left:ypr", "observation/pose_r": "xyz ypr"},
    "berkeley_mvp": {"observation/joint_pos": "j7", "observation/gripper": "closed"},
    "berkeley_rpt": {"observation/joint_pos": "j7", "observation/gripper": "closed"},
    "kaist_nonprehensile": {"observation/state": "zeros14 xyz quat"},
    "tokyo_u_lsmo": {"observation/state": "xyz rpy zeros7"},
    "dlr_sara_pour": {"observation/state": "xyz zxy"},
    "dlr_sara_grid_clamp": {"observation/state": "xyz zxy zeros6"},
    "dlr_edan_shared_control": {"observation/state": "xyz zxy closed"},
    "stanford_robocook": {"observation/state": "xyz rpy open/13.03"},
    "iamlab_cmu_pickup_insert": {"observation/state": "zeros7 open zeros12"},
    "uiuc_d3field": {"observation/state": "rows"},
    "utaustin_mutex": {"observation/state": "zeros7 open/13.21 columns"},
    "berkeley_fanuc_manipulation": {
        "observation/end_effector_state": "xyz quat",
        "observation/state": "zeros6 closed zeros6",
    },
    "cmu_play_fusion": {"observation/state": "zeros7 open/11.765"},
    "droid": {"observation/joint_position": "j7", "observation/gripper_position": "closed"},
    "droid_cartesian": {"observation/cartesian_position": "xyz rpy", "observation/gripper_position": "closed"},
    "fmb_dataset": {"observation/eef_pose": "xyz quat", "observation/state_gripper_pose": "closed"},
    "roboset": {"observation/state": "j7 open"},
    "rh20t": {"observation/tcp_base": "xyz rpy"},
    "aloha_mobile": {"observation/state": "left:j6 left:open j6 open"},
    "aloha_static": {"observation/state": "left:j6 left:open j6 open"},
}

_WORLD = {"action/world_vector": "xyz", "action/rotation_delta": "rot"}
_COMMANDS = _WORLD | {"action/gripper_closedness_action": "+-closed"}
# Where each dataset keeps the action that OpenVLA publishes ranges of, as its transforms read it.
ACTIONS: dict[str, dict[str, str]] = {
    "fractal20220817_data": _COMMANDS,
    "kuka": _COMMANDS,
    "bridge_orig": {"action": "xyz rot open"},
    "taco_play": {"action/rel_actions_world": "xyz rot +-open"},
    "jaco_play": {"action/world_vector": "xyz", "action/gripper_closedness_action": "+-closed"},
    "berkeley_cable_routing": _WORLD,
    "roboturk": _COMMANDS,
    "viola": _COMMANDS,
    "berkeley_autolab_ur5": _COMMANDS,
    "toto": _WORLD | {"action/open_gripper": "open"},
    "stanford_hydra": {"action": "xyz rot closed"},
    "austin_buds": {"action": "xyz rot +-closed"},
    "nyu_franka_play": {"action": "zeros7 xyz rot +-open zeros1"},
    "furniture_bench": {"action": "xyz quat +-closed"},
    "ucsd_kitchen": {"action": "xyz rot open zeros1"},
    "austin_sailor": {"action": "xyz rot +-closed"},
    "austin_sirius": {"action": "xyz rot +-closed"},
    "dlr_edan_shared_control": {"action": "xyz rot closed"},
    "iamlab_cmu_pickup_insert": {"action": "xyz wxyz open"},
    "utaustin_mutex": {"action": "xyz rot +-closed"},
    "berkeley_fanuc_manipulation": {"action": "xyz rot"},
    "cmu_stretch": {"action": "xyz rot open zeros1"},
    "bc_z": {
        "action/future/xyz_residual": "xyz zeros27",
        "action/future/axis_angle_residual": "rot zeros27",
        "action/future/target_close": "closed zeros9",
    },
    "fmb_dataset": {"action": "xyz rot gripper"},
    "dobbe": {"action": "xyz rot open"},
    "nyu_door_opening_surprising_effectiveness": _WORLD | {"action/gripper_closedness_action": "gripper"},
    "columbia_cairlab_pusht_real": _WORLD,
    "stanford_mask_vit": {"action": "xyz yaw gripper"},
    "utokyo_pr2_opening_fridge": {"action": "xyz rot gripper zeros1"},
    "utokyo_pr2_tabletop_manipulation": {"action": "xyz rot gripper zeros1"},
    "utokyo_xarm_pick_and_place": {"action": "xyz rot gripper"},
    "nyu_rot": {"action": "xyz rot gripper"},
    "ucsd_pick_and_place": {"action": "xyz gripper"},
    "imperialcollege_sawyer_wrist_cam": {"action": "xyz rot gripper zeros1"},
}


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """Published numbers of one dimension of one dataset; low, high: between them lie 98 % of its values."""

    least: float
    greatest: float
    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Motion:
    """What one arm does in every step: xyz [t, 3] m, rotation, openness [t] 0..1, joints [t, 7] rad.

    changes: [t, 7], published numbers of an action as stored: xyz, three angles, a gripper.
    """

    xyz: Floats
    rotation: Rotation
    openness: Floats
    joints: Floats
    changes: Floats
    left: "Motion | None" = None

    @property
    def n_steps(self) -> int:
        return len(self.xyz)


def read_ranges(path: Path) -> dict[str, dict[str, Quantity]]:
    """Returns dataset -> quantity -> numbers of a CSV file: dataset, quantity, min, max, mean and perhaps q01, q99."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    found: dict[str, dict[str, Quantity]] = {}
    for row in rows:
        least, greatest, mean = (float(row[column]) for column in ("min", "max", "mean"))
        low, high = float(row.get("q01", least)), float(row.get("q99", greatest))
        quantity = Quantity(least=least, greatest=greatest, mean=mean, low=low, high=high)
        found.setdefault(row["dataset"], {})[row["quantity"]] = quantity
    return found


@dataclass(frozen=True, kw_only=True)
class Way:
    """From the mean to the least, to the greatest and back to the mean, all dims together, at a control rate."""

    hz: float
    length_m: float

    @property
    def share(self) -> Floats:
        """[t] in -1 (least) .. 0 (mean) .. 1 (greatest)."""
        n = max(4, int(np.ceil(self.length_m / SPEED_M_S * self.hz)))
        return np.concatenate(
            [np.linspace(0, -1, n), np.linspace(-1, 1, 2 * n)[1:], np.linspace(1, 0, n)[1:]]  # fmt: skip
        )

    def of(self, quantity: Quantity) -> Floats:
        share = self.share
        down, up = quantity.least - quantity.mean, quantity.greatest - quantity.mean
        return quantity.mean + np.where(share < 0, -share * down, share * up)


ZERO = Quantity(least=0, greatest=0, mean=0, low=0, high=0)
UNIT = Quantity(least=0, greatest=1, mean=0.5, low=0, high=1)


def state_motion(ranges: dict[str, Quantity], hz: float, side: str = "") -> Motion:
    """One arm that visits the published least and greatest of every quantity at 0.5 m/s."""
    ends = [ranges.get(f"{side}eef_pos_{axis}", ZERO) for axis in "xyz"]
    joints = [ranges.get(f"{side}arm_joint_{i}_pos", ZERO) for i in range(7)]
    # Both arms and their joints take as long as the longest of their ways, at 0.5 m/s or 1 rad/s.
    spans = [q.greatest - q.least for name, q in ranges.items() if "eef_pos" in name or "_joint_" in name]
    way = Way(hz=hz, length_m=float(np.linalg.norm(spans)))
    rotation = mean_rotation([ranges.get(f"{side}eef_angle_{i}", ZERO).mean for i in range(6)])
    return Motion(
        xyz=np.stack([way.of(end) for end in ends], axis=1),
        rotation=rotation * Rotation.from_rotvec(np.outer(0.3 * way.share + 0.1, [0.1, 0, 1])),
        openness=way.of(ranges.get(f"{side}gripper_open", UNIT)),
        joints=np.stack([way.of(joint) for joint in joints], axis=1),
        changes=np.zeros((len(way.share), 7)),
    )


def mean_rotation(columns: list[float]) -> Rotation:
    """The rotation whose matrix begins with about these two columns; none where they are not published."""
    first, second = np.array(columns[:3]), np.array(columns[3:])
    if not first.any() or not second.any():
        return Rotation.identity()
    first = first / np.linalg.norm(first)
    second = second - first * (first @ second)
    second = second / np.linalg.norm(second)
    return Rotation.from_matrix(np.stack([first, second, np.cross(first, second)], axis=1))


def action_motion(ranges: dict[str, Quantity], rows: Floats) -> Motion:
    """rows [t], of all dims together: -1..1 of the way to what 98 % stay within; +-inf the published extremes."""
    share, values = np.where(np.isfinite(rows), rows, 0), []
    for name in ("x", "y", "z", "roll", "pitch", "yaw", "gripper"):
        q = ranges[name]
        typical = q.mean + np.where(share < 0, share * (q.mean - q.low), share * (q.high - q.mean))
        values.append(np.select([np.isposinf(rows), np.isneginf(rows)], [q.greatest, q.least], typical))
    changes = np.stack(values, axis=1)
    return Motion(
        xyz=changes[:, :3],
        rotation=Rotation.from_rotvec(np.tile([0.0, 0.0, 0.01], (len(rows), 1))),
        openness=np.round(changes[:, 6]),
        joints=np.zeros((len(rows), 7)),
        changes=changes,
    )


def native_episode(adapter: Adapter, t: int, *layers: tuple[Mapping[str, str], Motion]) -> NativeEpisode:
    """Returns an episode of `t` steps with every key of the dataset's card; each layer puts a motion into some keys."""
    card = CARDS[adapter.name]
    arrays = {key: np.tile(_resting_row(card, key, width), (t, 1)) for key, width in card["numbers"].items()}
    arrays |= {key: np.tile(np.array(row, np.float64), (t, 1)) for key, row in card.get("zlib", {}).items()}
    for words_of, motion in layers:
        for key, words in words_of.items():
            columns = np.concatenate([encode(word, motion) for word in words.split()], axis=1)
            if columns.shape != arrays[key].shape:
                raise ValueError(f"{adapter.name}: {key}: expected {arrays[key].shape}, found {columns.shape}")
            arrays[key] = columns
    names = {name for choices in adapter.all_cameras.values() for name in choices}
    return NativeEpisode(
        reference=Reference(uri="made", key=adapter.name),
        n_steps=t,
        arrays={key: array.astype(np.float32) for key, array in arrays.items()},
        frames={name: [picture(0)] * t for name in names},
        flags={key: float(value) for key, value in card.get("episode", {}).items()},
    )


def encode(word: str, motion: Motion) -> Floats:
    """Returns [t, k], the columns that one word stands for."""
    match = re.fullmatch(r"(left:)?([+a-z-]+?)(\d*)(?:([*/])(-?[\d.]+))?", word)
    if not match:
        raise ValueError(f"expected a word such as xyz*1000 or zeros3, found {word!r}")
    side, name, count, sign, factor = match.groups()
    arm = motion.left if side and motion.left else motion
    columns = _COLUMNS_OF[name](arm, int(count or 0))
    if sign:
        columns = columns * float(factor) if sign == "*" else columns / float(factor)
    return columns


def _resting_row(card: Mapping, key: str, width: int) -> Floats:
    row = np.array(card.get("values", {}).get(key, np.zeros(width)), np.float64)
    if start := card.get("quaternion", {}).get(key):
        row[start : start + 4] = (0, 0, 0, 1)
    return row


def _flat_pose(arm: Motion) -> Floats:
    pose = np.tile(np.eye(4), (arm.n_steps, 1, 1))
    pose[:, :3, :3], pose[:, :3, 3] = arm.rotation.as_matrix(), arm.xyz
    return pose


def _published_action(arm: Motion, _: int) -> Floats:
    return arm.changes[:, 6:7]


def _openness(arm: Motion, _: int) -> Floats:
    return arm.openness[:, None]


_COLUMNS_OF = {
    "xyz": lambda arm, _: arm.xyz,
    "xy": lambda arm, _: arm.xyz[:, :2],
    "rpy": lambda arm, _: arm.rotation.as_euler("xyz"),
    "ypr": lambda arm, _: arm.rotation.as_euler("xyz")[:, ::-1],
    "zxy": lambda arm, _: arm.rotation.as_euler("zxy"),
    "rotvec": lambda arm, _: arm.rotation.as_rotvec(),
    "quat": lambda arm, _: arm.rotation.as_quat(),
    "wxyz": lambda arm, _: np.roll(arm.rotation.as_quat(), 1, axis=1),
    "rows": lambda arm, _: _flat_pose(arm).reshape(-1, 16),
    "columns": lambda arm, _: _flat_pose(arm).transpose(0, 2, 1).reshape(-1, 16),
    "open": _openness,
    "closed": lambda arm, n: 1 - _openness(arm, n),
    "+-open": lambda arm, n: 2 * _openness(arm, n) - 1,
    "+-closed": lambda arm, n: 1 - 2 * _openness(arm, n),
    "gripper": _published_action,
    "rot": lambda arm, _: arm.changes[:, 3:6],
    "yaw": lambda arm, _: arm.changes[:, 5:6],
    "j": lambda arm, n: arm.joints[:, :n],
    "zeros": lambda arm, n: np.zeros((arm.n_steps, n)),
}
