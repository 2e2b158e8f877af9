"""An adapter entry as a table: how each native dim lands in which slot."""

from collections.abc import Iterator

from pipelines.contract.embodiments import get_embodiment
from pipelines.contract.errors import UsageError
from pipelines.contract.layouts import Slots
from pipelines.contract.slots import CAMERAS, LAYOUT, METRIC, is_joint_mode
from pipelines.contract.units import describe_unit, part_quantities
from pipelines.mapping.adapters import FORMS, FROM_LOG, Adapter, PartSource, load_adapters
from pipelines.mapping.to_slots import Parts, parts_of

_POSE = ("x", "y", "z", "roll", "pitch", "yaw")
Row = tuple[int, str, str, str]


def explain_adapter(adapter: Adapter, robot: str = "") -> str:
    """Returns the entry in words and one line per slot. robot: which robot to show it for, if not the entry's own.

    Raises UsageError when the robot comes from each log and none is named.
    """
    if adapter.robot == FROM_LOG and not robot:
        raise UsageError(f"adapter {adapter.name}: the robot comes from each log; name one, such as --robot ur5e_dual")
    embodiment = get_embodiment(robot or adapter.robot)
    if adapter.robot != FROM_LOG:
        adapter.check_robot(embodiment)
    vectors = embodiment.vectors(adapter.control_mode)
    state, action = parts_of(adapter, embodiment)
    hz = adapter.control_hz or embodiment.control_hz
    lines = [f"{adapter.name}: {adapter.title}"]
    lines.append(
        f"  format {adapter.format}; robot {embodiment.name}; {adapter.control_mode}; {hz:g} Hz; {adapter.units} units"
        + (f"; layout {vectors.layout}" if vectors.layout != LAYOUT else "")
    )
    if adapter.aliases:
        lines.append(f"  also known as {', '.join(adapter.aliases)}")
    lines.append("  cameras")
    lines += [f"    {camera:<18} <- {_camera(adapter, embodiment.cameras, camera)}" for camera in CAMERAS]
    for side, parts, slots in (("state", state, vectors.state), ("action", action, vectors.action)):
        lines.append(f"  {side}")
        rows = list(slot_rows(adapter.control_mode, side, parts, slots, adapter.units))
        lines += [f"    {slot:>2}  {name:<15} {unit:<17} <- {native}" for slot, name, unit, native in rows]
        masked = sorted({n for numbers in slots.values() for n in numbers} - {row[0] for row in rows})
        if masked:
            lines.append(f"    masked off, since the source has no such dim: {', '.join(map(str, masked))}")
    lines.append(f"  language  {', '.join(adapter.language) or adapter.task or 'as the format stores it'}")
    lines += [f"  {line}" for line in _filters(adapter)]
    if adapter.note:
        lines.append(f"  note      {adapter.note}")
    return "\n".join(lines)


def registry_table() -> str:
    """Returns every entry as a row of a Markdown table."""
    lines = ["| entry | format | robot | mode | Hz | units | cameras | state | action | note |", "|---" * 10 + "|"]
    for name, adapter in sorted(load_adapters().items()):
        cameras = ", ".join(names[0].removeprefix("observation/") for names in adapter.all_cameras.values())
        cells = [
            f"`{name}`",
            adapter.format,
            _robot(adapter),
            adapter.control_mode,
            f"{adapter.control_hz or 0:g}",
            adapter.units,
            cameras,
            _parts(adapter.state),
            _parts(adapter.action),
            adapter.note,
        ]
        shown = [cell if cell not in ("", "0") else "-" for cell in cells]
        lines.append(f"| {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def slot_rows(control_mode: str, side: str, parts: Parts, slots: Slots, units: str = METRIC) -> Iterator[Row]:
    """Yields (slot, name, unit, native dims) for every slot that a native dim lands in.

    units: of the entry. Native ones are those of the action, and of joint positions, which are of one kind with it.
    """
    in_own_units = units != METRIC and (side == "action" or control_mode == "joint_position")
    for part, source in parts.items():
        numbers = slots[part]
        filled = FORMS[source.form][1] if source.form in FORMS else tuple(range(len(numbers)))
        natives = _native_dims(source, FORMS[source.form][0] if source.form in FORMS else len(numbers))
        quantities = part_quantities(part, len(numbers), control_mode, side)
        for i, native in zip(filled, natives, strict=True):
            name = part if len(numbers) == 1 else f"{part} {_dim_name(part, control_mode, i)}"
            later = ", one step later" if source.next else ""
            later += "" if source.when == "always" else f", where {_condition(source)}"
            is_native = in_own_units and not part.startswith("gripper")
            yield numbers[i], name, "native" if is_native else describe_unit(quantities[i]), native + later


def _condition(source: PartSource) -> str:
    if isinstance(source.when, str):
        return "the source has it"
    return " and ".join(f"{key} = {value}" for key, value in source.when.items())


def _native_dims(source: PartSource, n: int) -> list[str]:
    """What each filled slot is made of; `n` native dims in all."""
    dims = [f"{source.sources[0]}[{name}]" for name in source.names]
    for selector in source.sources if not source.names else ():
        if selector.start is None or selector.stop is None:
            rest = n - len(dims)
            width = rest if selector is source.sources[-1] else 3
            dims += [selector.key if width == 1 else f"{selector.key}[{i}]" for i in range(width)]
        else:
            dims += [f"{selector.key}[{i}]" for i in range(selector.start, selector.stop)]
    if source.open is not None:
        how = ", clipped to 0..1" if source.clip else ", else as before" if source.relative else ""
        shown = f"the mean of {' '.join(dims)}" if len(dims) > 1 else dims[0]
        return [f"{shown} (open {source.open:g}, closed {source.closed:g}{how})"]
    scales = source.scale if isinstance(source.scale, tuple) else (source.scale,) * len(dims)
    offsets = source.offset if isinstance(source.offset, tuple) else (source.offset,) * len(dims)
    dims = [dim if scale == 1.0 else f"{scale:g} * {dim}" for scale, dim in zip(scales, dims, strict=True)]
    dims = [dim if offset == 0.0 else f"{dim} {offset:+g}" for offset, dim in zip(offsets, dims, strict=True)]
    dims = [f"{dim} ({', '.join(source.units)})" for dim in dims] if source.units else dims
    if source.form == "matrix":
        return [f"{source.sources[0]} (4x4 matrix)"] * 6
    if source.form.startswith(("xyz_quat", "xyz_rotvec", "xyz_euler")):
        rotation = f"{' '.join(dims[3:])} ({source.form.removeprefix('xyz_')} to roll, pitch, yaw)"
        return dims[:3] + [rotation] * 3
    return [f"{dim} (degrees)" for dim in dims] if source.degrees else dims


def _dim_name(part: str, control_mode: str, i: int) -> str:
    if part.startswith("arm"):
        return f"joint {i + 1}" if is_joint_mode(control_mode) else _POSE[i]
    return str(i)


def _parts(parts: Parts) -> str:
    """The native dims of each part in short."""
    return "; ".join(
        f"{part} {' + '.join(map(str, source.sources))}".replace("observation/", "")
        + (f"[{source.names[0]}{' .. ' + source.names[-1] if len(source.names) > 1 else ''}]" if source.names else "")
        + (f" ({source.form})" if source.form not in ("joints", "value", "xyz_rpy") else "")
        for part, source in parts.items()
    )


def _robot(adapter: Adapter) -> str:
    """The robot, with its layout where that is not the default one."""
    if adapter.robot == FROM_LOG:
        return adapter.robot
    layout = get_embodiment(adapter.robot).vectors(adapter.control_mode).layout
    return adapter.robot if layout == LAYOUT else f"{adapter.robot} ({layout})"


def _camera(adapter: Adapter, usual: tuple[str, ...], camera: str) -> str:
    if adapter.robot == FROM_LOG:
        return f"camera/{camera.removesuffix('_rgb')} where the log has it" if camera in usual else "none (masked)"
    native = adapter.all_cameras.get(camera)
    if native is None:
        return "none (masked)"
    shown = " or ".join(native)
    if each := adapter.drawn.get(camera):
        shown = f"one of {', '.join(native)}, drawn for each {each}"
    return shown if camera in adapter.cameras else f"{shown} where the source has it"


def _filters(adapter: Adapter) -> Iterator[str]:
    if adapter.drop_first == "zero_action":
        yield "drops     the first step of an episode if its action is zero; counted in rejects.parquet"
    if adapter.drop_first == "always":
        yield "drops     the first step of every episode; counted in rejects.parquet"
    for key, value in adapter.idle_when.items():
        yield f"idle      steps with {key} = {value}"
    for key, value in adapter.keep_when.items():
        yield f"keeps     only episodes with {key} = {value}; the others are counted as filtered"
    for camera in adapter.swapped_channels:
        yield f"swaps     red and blue of {camera}, unless the copy is a repaired one (--channels)"
    for slot, form in adapter.camera_forms.items():
        top, left, height, width = form.crop or (0, 0, 0, 0)
        changes = [f"keep {height}x{width} from row {top} and column {left}"] if form.crop else []
        changes += [f"flip {form.flip}"] if form.flip else []
        changes += [f"rotate {form.rotate} degrees clockwise"] if form.rotate else []
        changes += ["swap red and blue"] if form.channels == "bgr" else []
        changes += [f"numbers up to {form.range}"] if form.range else []
        if changes:
            yield f"pictures  of {slot}: {', '.join(changes)}"
    if adapter.relabel == "reached_states":
        yield "relabels  arm actions by the change of the state; the last step is dropped and counted"
    for key in adapter.compressed:
        yield f"unpacks   {key} (zlib)"
    if adapter.shift_before:
        yield f"shifts    actions to the next observation in sessions before {adapter.shift_before}"
