"""Native arrays to the 18 slots: selection of dims, rotation forms, gripper polarity, masks."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.embodiments import Embodiment, Slots
from pipelines.contract.episode import DroppedSteps, Episode, Image, Segment
from pipelines.contract.frames import SwappedChannels, Tail
from pipelines.contract.native import NativeEpisode, Rejected
from pipelines.contract.slots import METRIC, N_SLOTS
from pipelines.mapping.adapters import FORMS, FROM_LOG, Adapter, PartSource, Selector
from pipelines.mapping.dim_names import check_names, columns_by_name
from pipelines.mapping.forms import convert_part

# Below this every number of a "zero action" must lie (m and rad, or rad from the first state); Bridge stores 1e-7.
ZERO_ACTION = 1e-5
Floats = NDArray[np.float64]
Parts = Mapping[str, PartSource]


def to_episode(
    native: NativeEpisode, adapter: Adapter, embodiment: Embodiment, cameras: Sequence[str], task: str = ""
) -> Episode:
    """Returns the episode in canonical slots and units.

    cameras: the slots that are features of the dataset. task: an instruction that replaces the source's.
    Raises Rejected when the native dims do not fit the adapter and the robot.
    """
    check_kept(native, adapter)
    native = filter_steps(native, adapter)
    state_parts, action_parts = parts_of(adapter, embodiment)
    vectors = embodiment.vectors(adapter.control_mode)
    check_widths(native, adapter, embodiment)
    state, state_mask = fill_slots(native, state_parts, vectors.state)
    action, action_mask = fill_slots(native, action_parts, vectors.action)
    hz = native.control_hz or adapter.control_hz or embodiment.control_hz
    t = native.n_steps
    language = (task,) if task else native.language or ((adapter.task,) if adapter.task else ())
    # A task that the user states replaces whatever the source says, its sentences of single steps too.
    segments = () if task or native.step_text is None else source_segments(native.step_text, t)
    return Episode(
        reference=native.reference,
        robot=embodiment.name,
        control_mode=adapter.control_mode,
        control_hz=hz,
        state=state,
        action=action,
        state_mask=state_mask,
        action_mask=action_mask,
        timestamp_s=np.arange(t) / hz if native.timestamp_s is None else native.timestamp_s - native.timestamp_s[0],
        parts=dict(vectors.action),
        images=_choose_frames(native, adapter, embodiment, cameras),
        dataset_cameras=tuple(cameras),
        task=language[0] if language else native.task,
        language=language,
        success=native.success,
        is_terminal=native.is_terminal,
        reward=np.zeros(t, np.float32) if native.reward is None else native.reward,
        discount=np.ones(t, np.float32) if native.discount is None else native.discount,
        is_idle=mark_idle(native, adapter),
        segments=segments,
        dropped=native.dropped,
        notes=dict(native.notes),
        inferred=dict(native.inferred) | note_wrapped(native, action_parts),
        units=METRIC if adapter.units == METRIC else adapter.name,
    )


def source_segments(step_text: Sequence[str], n_steps: int) -> tuple[Segment, ...]:
    """The source's own instructions as segments: a stretch of steps with one text each; a step without is in none.

    Raises Rejected when the number of texts is not that of the steps.

    >>> [(s.start, s.end, s.text) for s in source_segments(("open it", "open it", "", "put it in"), 4)]
    [(0, 2, 'open it'), (3, 4, 'put it in')]
    """
    if len(step_text) != n_steps:
        raise Rejected("wrong_dims", f"step_text: expected {n_steps} texts, one a step, found {len(step_text)}")
    starts = [i for i, text in enumerate(step_text) if i == 0 or text != step_text[i - 1]]
    return tuple(
        Segment(start=start, end=end, text=step_text[start], source="source")
        for start, end in zip(starts, [*starts[1:], n_steps], strict=True)
        if step_text[start].strip()
    )


def parts_of(adapter: Adapter, embodiment: Embodiment) -> tuple[Parts, Parts]:
    """Returns the native dims of each part for state and action; of `inhouse_log/v1`, they follow from the robot."""
    if adapter.robot != FROM_LOG:
        return adapter.state, adapter.action
    vectors = embodiment.vectors(adapter.control_mode)
    state = inhouse_parts(vectors.state, "joints/position", "gripper/position", "base/velocity", "torso/position")
    action = inhouse_parts(vectors.action, "command/joint_position", "command/gripper", "command/base", "command/torso")
    return state, action


def inhouse_parts(slots: Slots, joints: str, gripper: str, base: str, torso: str) -> Parts:
    """Names the columns of `inhouse_log/v1` arrays: left arm first in joints and grippers, base and torso apart.

    The base is logged as vx, vy, wz; one that cannot go sideways takes vx and wz.
    """
    n0, n1 = len(slots.get("arm0", ())), len(slots.get("arm1", ()))
    base_dims = (0, 2) if len(slots.get("base", ())) == 2 else (0, 1, 2)
    dims = {
        "arm0": (joints, range(n0)),
        "gripper0": (gripper, (0,)),
        "arm1": (joints, range(n0, n0 + n1)),
        "gripper1": (gripper, (1,)),
        "base": (base, base_dims),
        "torso": (torso, (0,)),
    }
    parts = {}
    for part in slots:
        key, numbers = dims[part]
        selectors = tuple(Selector(key=key, start=i, stop=i + 1) for i in numbers)
        if part.startswith("gripper"):
            parts[part] = PartSource(sources=selectors, form="value", open=0.0, closed=1.0)
        else:
            parts[part] = PartSource(sources=selectors, form="joints" if part.startswith("arm") else "value")
    return parts


def fill_slots(native: NativeEpisode, parts: Parts, slots: Slots) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Returns float32 [t, 18] and its mask [18]; slots without a native dim stay 0 and masked off."""
    values = np.zeros((native.n_steps, N_SLOTS), np.float32)
    mask = np.zeros(N_SLOTS, np.bool_)
    for part, source in parts.items():
        columns = select_part(native, source)
        n = _count_dims(source, len(slots[part]))
        if columns.shape[1] != n:
            keys, found = " + ".join(map(str, source.sources)), columns.shape[1]
            raise Rejected("wrong_dims", f"{part}: {keys}: expected {n} dims as {source.form}, found {found}")
        columns = convert_part(columns, source)
        if source.next:
            columns = np.concatenate([columns[1:], columns[-1:]])
        numbers = list(slots[part])
        if source.form in FORMS:
            numbers = [numbers[i] for i in FORMS[source.form][1]]
        values[:, numbers] = columns
        mask[numbers] = True
    return values, mask


def note_wrapped(native: NativeEpisode, parts: Parts) -> dict[str, str]:
    """Returns what is to be said of an episode whose changes of angles were wrapped; nothing where none had to be."""
    for source in parts.values():
        columns = select_part(native, source) if source.wrap else np.zeros((0, 0))
        if source.wrap and (convert_part(columns, source) != convert_part(columns, replace(source, wrap=False))).any():
            return {"wrapped_angles": "changes of an angle beyond half a turn are the short way round"}
    return {}


def _count_dims(source: PartSource, n_slots: int) -> int:
    """How many native dims a part takes: those of its form; a gripper's are selected one by one, or one."""
    if source.open is not None:
        return len(source.names) or sum(1 if selector.width is None else selector.width for selector in source.sources)
    return FORMS[source.form][0] if source.form in FORMS else n_slots


def select_part(native: NativeEpisode, source: PartSource) -> Floats:
    """Returns float64 [t, k], the native dims of a part. Raises Rejected on a key or a name that is not there."""
    if not source.names:
        return select(native, source.sources)
    (selector,) = source.sources
    return select(native, source.sources)[:, columns_by_name(native, selector.key, source.names)]


def select(native: NativeEpisode, sources: Sequence[Selector]) -> Floats:
    """Returns float64 [t, k], the selected native columns side by side. Raises Rejected on a key that is not there."""
    columns = []
    for selector in sources:
        if selector.key not in native.arrays:
            raise Rejected("missing_key", f"expected {selector.key}; found {', '.join(sorted(native.arrays))}")
        array = np.asarray(native.arrays[selector.key], np.float64)
        array = array.reshape(len(array), -1)
        columns.append(array if selector.start is None else array[:, selector.start : selector.stop])
    return np.concatenate(columns, axis=1)


def mark_idle(native: NativeEpisode, adapter: Adapter) -> NDArray[np.bool_]:
    """Returns bool [t]: the steps that the source itself marks as no motion."""
    idle = np.zeros(native.n_steps, np.bool_) if native.is_idle is None else native.is_idle
    for key, value in adapter.idle_when.items():
        flags = select(native, [Selector(key=key)])
        idle = idle | (flags[:, 0] == float(value))
    return idle


def check_widths(native: NativeEpisode, adapter: Adapter, embodiment: Embodiment) -> None:
    """Raises Rejected when a native key is narrower or wider than the adapter and robot account for.

    A wider key names the dims left over; an entry that leaves dims out on purpose says so under `widths`.
    """
    needed: dict[str, int] = {}
    named: dict[str, set[str]] = {}
    for parts in parts_of(adapter, embodiment):
        check_names(native, parts)
        for source in parts.values():
            for selector in source.sources:
                if selector.stop is not None:
                    needed[selector.key] = max(needed.get(selector.key, 0), selector.stop)
                if source.names:
                    named.setdefault(selector.key, set()).update(source.names)
    needed.update(adapter.widths)
    for key, names in named.items():
        columns_by_name(native, key, sorted(names))
        left_over = [name for name in native.dim_names.get(key, ()) if name not in names]
        if left_over and key not in adapter.widths:
            advice = f"leave dims out on purpose by `widths: {{{key}: n}}`"
            raise Rejected("wrong_dims", f"{key}: the entry names no part for {', '.join(left_over)}; {advice}")
    for key, width in needed.items():
        if key not in native.arrays:
            continue
        found = int(np.prod(native.arrays[key].shape[1:], dtype=int))
        if found != width:
            names = list(native.dim_names.get(key, ())) or [f"{key}[{i}]" for i in range(found)]
            extra = f"; left over: {', '.join(names[width:])}" if found > width else ""
            raise Rejected(
                "wrong_dims", f"{key}: expected {width} dims for robot {embodiment.name}, found {found}{extra}"
            )


def check_kept(native: NativeEpisode, adapter: Adapter) -> None:
    """Raises Rejected when the adapter keeps only episodes with another value of a flag."""
    for key, value in adapter.keep_when.items():
        if key not in native.flags:
            raise Rejected("missing_key", f"expected the episode's {key}; found {', '.join(sorted(native.flags))}")
        if native.flags[key] != float(value):
            raise Rejected("filtered", f"{key} is {native.flags[key]:g}; the adapter keeps {value}")


def filter_steps(native: NativeEpisode, adapter: Adapter) -> NativeEpisode:
    """Leaves out the first step where the adapter says so; the step is recorded in `dropped`."""
    if adapter.drop_first == "never" or native.n_steps < 2:
        return native
    arm = [source for part, source in adapter.action.items() if not part.startswith("gripper")]
    first = [np.abs(select_part(native, source)[0]).max(initial=0.0) for source in arm]
    if adapter.drop_first == "zero_action" and max(first, default=0.0) > ZERO_ACTION:
        return native
    reason = "first_step_zero_action" if adapter.drop_first == "zero_action" else "first_step"
    return drop_head(native, 1, reason)


def drop_head(native: NativeEpisode, n: int, reason: str) -> NativeEpisode:
    """Returns the episode without its first `n` steps."""
    cut = {name: None if (x := getattr(native, name)) is None else x[n:] for name in _PER_STEP}
    return replace(
        native,
        n_steps=native.n_steps - n,
        arrays={key: array[n:] for key, array in native.arrays.items()},
        frames={camera: Tail(frames, n) for camera, frames in native.frames.items()},
        dropped=(*native.dropped, DroppedSteps(start=0, end=n, reason=reason)),
        **cut,
    )


_PER_STEP = ("timestamp_s", "reward", "discount", "is_idle", "step_text")


def _choose_frames(
    native: NativeEpisode, adapter: Adapter, embodiment: Embodiment, cameras: Sequence[str]
) -> dict[str, Sequence[Image]]:
    """Returns the frames of each camera slot that the dataset and this episode have."""
    names = adapter.all_cameras or {camera: (camera,) for camera in embodiment.cameras}
    found = {slot: next((name for name in choices if name in native.frames), "") for slot, choices in names.items()}
    chosen = {slot: name for slot, name in found.items() if name}
    frames = {slot: native.frames[chosen[slot]] for slot in cameras if slot in chosen}
    swapped = {slot for slot in frames if chosen[slot] in adapter.swapped_channels}
    return {slot: SwappedChannels(f) if slot in swapped else f for slot, f in frames.items()}
