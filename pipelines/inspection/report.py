"""A description as lines of a terminal of 80 columns, and as JSON."""

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pipelines.contract.words import counted
from pipelines.inspection.description import CameraView, Description, Feature
from pipelines.inspection.draft import Draft, convert_command, count_questions, render
from pipelines.inspection.recognition import Recognition

WIDTH = 80
_MOST_COLUMNS = 16
_MOST_ENTRIES = 4
_OUTCOMES = {1: "succeeded", 0: "failed", -1: "unknown"}


def use_lines(draft: Draft, file: str = "") -> list[str]:
    """Whether the input can be used, and the next command. file: where the draft was written, if it was."""
    d, p = draft.description, draft.proposal
    mode = "?" if p.control_mode.is_open else str(p.control_mode.value)
    parts = [f"{part} {draft_part.width}" for part, draft_part in p.action.items()]
    shown = f"{mode} of {draft.robot.name}: {', '.join(parts)}" if parts else "robot and parts as each log states them"
    lines = _wrapped(f"  slots      {shown}", 13)
    if p.action and all(part.is_next for part in p.action.values()):
        text = (
            "no key holds what was commanded: the next step's state stands in for it. If one does, name it in the draft"
        )
        lines += _wrapped(f"  action     {text}", 13)
    lines += [line for text in p.misfits for line in _wrapped(f"  no slot    {text}", 13)]
    if draft.roomier:
        lines += _wrapped(f"  layout     {draft.roomier} has room for more of it: --layout {draft.roomier}", 13)
    lines += [line for text in p.others for line in _wrapped(f"  or         {text}", 13)]
    sure = draft.known.sure
    listed = sure.name if sure else ", ".join(draft.known.entries[:_MOST_ENTRIES])
    listed += ", ..." if not sure and len(draft.known.entries) > _MOST_ENTRIES else ""
    if sure or draft.known.reads_logs:
        lines += _wrapped(f"  entry      {listed} (shipped) reads it", 13)
    elif draft.known.entries and not draft.known.is_of_logs:
        lines += _wrapped(f"  entry      {listed} (shipped) have these keys; they are common ones", 13)
    n = count_questions(render(draft))
    many = f"{counted(n, 'question')} to answer" if n else "no question open"
    if not file:
        return [*lines, *_wrapped(f"  next       embodimix inspect {d.source} --draft my.yaml   ({many})", 13)]
    lines += _wrapped(f"  draft      {file}: {many}; each guess has its reason", 13)
    return [*lines, *_wrapped(f"  next       {convert_command(draft, file)}", 13)]


def describe_lines(description: Description, use: Sequence[str] = ()) -> list[str]:
    """What is there, the most important first. use: whether it can be used, as `use_lines` says it."""
    d = description
    lines = [*_wrapped(f"{d.source}: {d.dialect or d.about}"), f"  format     {d.format}"]
    more = " or more" if d.is_more else ""
    steps = f", {counted(d.n_steps, 'step')}" if d.n_steps else ""
    if len(d.splits) > 1:
        steps += f" ({', '.join(f'{name} {n}' for name, n in sorted(d.splits.items()))})"
    lines.append(f"  episodes   {d.n_episodes}{more}{steps}; {d.n_read} read, of {_span(d.lengths)} steps")
    lines.append(f"  robot      {', '.join(d.robots) or 'not stated'}")
    rate = "not stated" if d.control_hz is None else f"{d.control_hz:g} Hz ({d.rate_known})"
    lines.append(f"  rate       {rate}")
    lines += _wrapped(f"  language   {_language(d)}", 13)
    lines.append(f"  outcome    {', '.join(f'{_OUTCOMES[key]} {n}' for key, n in sorted(d.success.items()))}")
    lines += use
    lines.append("  cameras" + ("" if d.cameras else "    none"))
    lines += [f"    {line}" for line in map(_camera, d.cameras)]
    lines.append("  numbers    " + ("ranges of the whole source" if any(f.in_all for f in d.features) else "as read"))
    lines += [f"    {line}" for feature in d.features if not feature.is_bookkeeping for line in _feature(feature)]
    counts = [feature.key for feature in d.features if feature.is_bookkeeping]
    lines += _wrapped(f"    also {', '.join(counts)}", 9) if counts else []
    lines += [line for note in d.notes for line in _wrapped(f"  note       {note}", 13)]
    if d.rejects:
        listed = ", ".join(f"{reason} {n}" for reason, n in d.rejects.items())
        lines += _wrapped(f"  unusable   {sum(d.rejects.values())} ({listed})", 13)
    lines += [line for fault in d.faults for line in _wrapped(f"  fault      {fault}", 13)]
    return lines


def misfit_lines(source: str, recognition: Recognition) -> list[str]:
    """Which formats an input nearly is, and why it is not."""
    holds = ", ".join(f"{n} {suffix}" for suffix, n in recognition.holds.items()) or "nothing"
    lines = [f"{source}: of no format that embodimix reads", *_wrapped(f"  holds      {holds}", 13)]
    for name, reason in recognition.near.items():
        lines += _wrapped(f"  not {name:<10} {reason}", 17)
    if recognition.others:
        lines += _wrapped(f"  has no files of {', '.join(recognition.others)}", 4)
    return lines


def to_json(description: Description) -> dict[str, Any]:
    """The description as JSON holds it; numbers that are not finite are null."""
    d = description
    plain = {key: value for key, value in vars(d).items() if key not in ("features", "cameras", "success")}
    return plain | {
        "success": {_OUTCOMES[key]: n for key, n in d.success.items()},
        "cameras": [vars(camera) for camera in d.cameras],
        "features": [
            vars(feature) | {side: _numbers(getattr(feature, side)) for side in ("low", "high")}
            for feature in d.features
        ],
    }


def _numbers(values: Any) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def _language(d: Description) -> str:
    if not d.texts:
        return "none"
    shown = ", ".join(f'"{textwrap.shorten(text, 60)}"' for text in d.texts[:2])
    shown += f" and {len(d.texts) - 2} more" if len(d.texts) > 2 else ""
    shown += f"; {d.n_without_text} of {d.n_read} without" if d.n_without_text else ""
    return shown + ("; a text of its own for single steps" if d.n_with_step_texts else "")


def _camera(view: CameraView) -> str:
    size = f"{view.size[1]}x{view.size[0]}" if view.size else "size unknown"
    rate = f", {view.rate_hz:g} Hz" if view.rate_hz else ""
    return f"{view.name}  {size} {view.stored}{rate}" + (f"; {view.why_left_out}" if view.why_left_out else "")


def _feature(feature: Feature) -> Iterator[str]:
    unit = f", {feature.unit}" if feature.unit else ""
    whole = f"{np.nanmin(feature.low):.4g} to {np.nanmax(feature.high):.4g}" if np.isfinite(feature.low).any() else "-"
    yield f"{feature.key} [{feature.width}] {feature.dtype}{unit}  {whole}"
    if feature.about:
        yield from (f"  {line}" for line in textwrap.wrap(f'"{feature.about}"', WIDTH - 8))
    if feature.width > 1 and feature.width <= _MOST_COLUMNS or feature.names:
        names = feature.names or [str(i) for i in range(feature.width)]
        cells = [f"{n} {_range(lo, hi)}" for n, lo, hi in zip(names, feature.low, feature.high, strict=True)]
        yield from _in_columns(cells)


def _range(low: float, high: float) -> str:
    return f"{low:.3g}" if low == high else f"{low:.3g}..{high:.3g}"


def _in_columns(cells: Sequence[str]) -> Iterator[str]:
    width = max(len(cell) for cell in cells) + 2
    per_line = max(1, (WIDTH - 6) // width)
    for start in range(0, len(cells), per_line):
        yield "  " + "".join(cell.ljust(width) for cell in cells[start : start + per_line]).rstrip()


def _span(lengths: Sequence[int]) -> str:
    return f"{min(lengths)}" if min(lengths) == max(lengths) else f"{min(lengths)} to {max(lengths)}"


def _wrapped(text: str, indent: int = 2) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    ) or [text]
