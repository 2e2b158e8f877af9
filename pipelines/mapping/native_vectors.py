"""A robot's vectors as its source has them: which native columns the parts of an entry take, and the way back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.errors import UsageError
from pipelines.mapping.adapters import FORMS, PartSource
from pipelines.mapping.part_units import ANGLES, FIRST_ANGLE, LENGTHS, to_slot_units

Floats = NDArray[np.float64]
_QUATERNIONS = ("xyz_quat_xyzw", "xyz_quat_wxyz")
# Forms whose numbers follow from the slots; a matrix has other numbers for the same pose.
INVERTIBLE = (
    *("joints", "value", "xyz", "xy", "xyz_yaw", "xyz_rpy", "xyz_rotvec", "xyz_euler_zyx", "xyz_euler_zxy"),
    *_QUATERNIONS,
)
_AXES: dict[str, tuple[str, ...]] = {
    "xyz": ("x", "y", "z"),
    "xy": ("x", "y"),
    "xyz_yaw": ("x", "y", "z", "yaw"),
    "xyz_rpy": ("x", "y", "z", "roll", "pitch", "yaw"),
    "xyz_rotvec": ("x", "y", "z", "rx", "ry", "rz"),
    "xyz_euler_zyx": ("x", "y", "z", "yaw", "pitch", "roll"),
    "xyz_euler_zxy": ("x", "y", "z", "rz", "rx", "ry"),
    "xyz_quat_xyzw": ("x", "y", "z", "qx", "qy", "qz", "qw"),
    "xyz_quat_wxyz": ("x", "y", "z", "qw", "qx", "qy", "qz"),
}
_BASE = {3: ("vx", "vy", "wz"), 2: ("vx", "wz"), 1: ("vx",)}


@dataclass(frozen=True, kw_only=True)
class NativeColumns:
    """The columns of one vector in the source's order, without those that no part takes.

    of_part: for each part its columns, in the order of its numbers. width: of the vector.
    """

    of_part: Mapping[str, tuple[int, ...]]
    width: int


def columns_of(parts: Mapping[str, PartSource], slots: Mapping[str, Sequence[int]]) -> NativeColumns:
    """Lays the keys of an entry side by side, in the order in which its parts name them.

    Columns of a key that is taken whole stand in its own order; those chosen by names, in that of the names.
    """
    taken: dict[str, list[tuple[int, int]]] = {}
    keys: dict[str, int] = {}
    for part, source in parts.items():
        n, own = n_native(source, len(slots[part])), list[tuple[int, int]]()
        for number, selector in enumerate(source.sources):
            name = f"{selector.key}:{part}" if source.names else selector.key
            key = keys.setdefault(name, len(keys))
            if selector.start is not None and selector.stop is not None:
                own += [(key, i) for i in range(selector.start, selector.stop)]
            else:
                # Of several keys that are taken whole only the sum is known, and only their order counts.
                is_last = number == len(source.sources) - 1
                own += [(key, i) for i in range(n - len(own) if is_last else 1)]
        taken[part] = own
    order = {column: i for i, column in enumerate(sorted({c for own in taken.values() for c in own}))}
    return NativeColumns(of_part={part: tuple(order[c] for c in own) for part, own in taken.items()}, width=len(order))


def n_native(source: PartSource, n_slots: int) -> int:
    """How many native numbers a part has; of a gripper's key that is taken whole, one."""
    widths = [selector.width for selector in source.sources]
    if source.names:
        return len(source.names)
    if source.open is not None:
        return sum(1 if width is None else width for width in widths)
    return FORMS[source.form][0] if source.form in FORMS else n_slots


def filled_slots(source: PartSource, slots: Sequence[int]) -> list[int]:
    """The slots of a part that its numbers fill."""
    return [slots[i] for i in FORMS[source.form][1]] if source.form in FORMS else list(slots)


def check_invertible(where: str, parts: Mapping[str, PartSource], advice: str) -> None:
    """Raises UsageError for a part whose native numbers do not follow from its slots."""
    for part, source in parts.items():
        if source.relative or source.form not in INVERTIBLE:
            what = "a relative gripper" if source.relative else f"form {source.form}"
            raise UsageError(f"{where}: {part}: {what} has no one inverse; {advice}")


def invert_part(x: Floats, source: PartSource, n: int) -> Floats:
    """What `convert_part` turns into x: [t, k] in slot units -> [t, n] native; all fingers of a gripper are alike."""
    if source.open is not None and source.closed is not None:
        return np.repeat(source.open + x * (source.closed - source.open), n, axis=1)
    if source.form in (*_QUATERNIONS, "xyz_rotvec", "xyz_euler_zyx", "xyz_euler_zxy"):
        x = np.concatenate([x[:, :FIRST_ANGLE], _from_rpy(x[:, FIRST_ANGLE:], source.form)], axis=1)
    # A factor of each dim, m and rad by default.
    x = x / to_slot_units(np.ones_like(x), source.form, source.units)
    first_angle = 0 if source.form == "joints" else FIRST_ANGLE
    if source.degrees:
        x = np.concatenate([x[:, :first_angle], np.rad2deg(x[:, first_angle:])], axis=1)
    return (x - np.asarray(source.offset)) / np.asarray(source.scale)


def part_names(part: str, source: PartSource, n: int, joints: Sequence[str] = (), side: str = "") -> list[str]:
    """A name for each native number of a part. joints: what the robot's drivers call an arm's; side: of two arms.

    >>> from pipelines.mapping.adapters import Selector
    >>> part_names("arm0", PartSource(sources=(Selector(key="pose"),), form="xyz_rotvec"), 6)
    ['arm0_x', 'arm0_y', 'arm0_z', 'arm0_rx', 'arm0_ry', 'arm0_rz']
    """
    if source.names:
        return list(source.names)
    if source.form in _AXES:
        return [f"{part}_{axis}" for axis in _AXES[source.form]]
    if part.startswith("arm"):
        return [f"{side}{name}" for name in joints] if len(joints) == n else [f"{part}_joint_{i}" for i in range(n)]
    if part == "base" and n in _BASE:
        return [f"base_{axis}" for axis in _BASE[n]]
    return [part] if n == 1 else [f"{part}_{i}" for i in range(n)]


def native_units(part: str, source: PartSource, n: int, slot_units: Sequence[str]) -> list[str]:
    """The unit of each native number of a part. slot_units: of the slots that it fills, `native` where unknown."""
    if source.open is not None and source.closed is not None:
        return [f"{source.open:g} open, {source.closed:g} closed"] * n
    length = next((unit for unit in source.units if unit in LENGTHS), "m")
    angle = "degrees" if source.degrees else next((unit for unit in source.units if unit in ANGLES), "rad")
    named = [_renamed(unit, length, angle) for unit in slot_units]
    if source.form in _QUATERNIONS:
        named = [*named[:FIRST_ANGLE], "1", "1", "1", "1"]
    scales, offsets = (np.broadcast_to(np.asarray(value), n) for value in (source.scale, source.offset))
    return [_scaled(unit, float(s), float(o)) for unit, s, o in zip(named, scales, offsets, strict=True)]


def _renamed(unit: str, length: str, angle: str) -> str:
    if unit.startswith("rad"):
        return angle + unit[len("rad") :]
    return length + unit[1:] if unit in ("m", "m/s") else unit


def _scaled(unit: str, scale: float, offset: float) -> str:
    """`x` times the scale plus the offset has the unit.

    >>> _scaled("m", 0.05, 0.0), _scaled("rad", 1.0, 0.0)
    ('x, with 0.05 x in m', 'rad')
    """
    if (scale, offset) == (1.0, 0.0):
        return unit
    moved = f" {'+' if offset > 0 else '-'} {abs(offset):g}" if offset else ""
    return f"x, with {scale:g} x{moved} in {unit}"


def _from_rpy(rpy: Floats, form: str) -> Floats:
    # scipy takes 0.4 s to import; most entries need none of it.
    from scipy.spatial.transform import Rotation

    if form == "xyz_euler_zyx":
        return rpy[:, ::-1]
    rotation = Rotation.from_euler("xyz", rpy)
    if form == "xyz_rotvec":
        return rotation.as_rotvec()
    if form == "xyz_euler_zxy":
        return rotation.as_euler("zxy")
    quaternion = rotation.as_quat()
    return quaternion if form == "xyz_quat_xyzw" else np.roll(quaternion, 1, axis=1)
