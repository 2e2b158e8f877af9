"""A page of real decoded samples of every group: pictures, text, the chunk in physical units, masks."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape

import numpy as np
import simplejpeg

from mixtures.mixture import Group, Mixture
from mixtures.reports.plan import slots_in_words
from mixtures.stream.batches import Batch, Stream
from pipelines.contract.slots import CAMERAS, METRIC, units_of
from pipelines.contract.units import describe_unit, slot_names, slot_quantities
from pipelines.contract.words import counted
from pipelines.pages.charts import legend, lines
from pipelines.pages.page import figure, image, page

PICTURE_QUALITY = 80
PICTURE_WIDTH = 224
CHART_WIDTH = 330


def preview_page(mixture: Mixture, per_group: int = 3, split: str = "train", most_groups: int = 60) -> str:
    """The first `per_group` samples that the stream would draw of each group."""
    drawn = list(first_draws(mixture, per_group, split, most_groups))
    n_groups = sum(size > 0 for size in mixture.splits[split].sizes)
    left_out = f" {n_groups - len(drawn)} more groups are not shown." if n_groups > len(drawn) else ""
    sections = [
        f"<h1>Samples of {escape(mixture.spec.name)}</h1>",
        f"<p>Is this your data? The first {'draw' if per_group == 1 else f'{per_group} draws'} of each group, as the "
        "stream decodes: pictures, the sentence, and the chunk of actions in physical units. "
        "Grippers run from 0 (open) to 1 (closed).</p>",
        f"<p class='muted'>Split {split}, seed {mixture.spec.seed}. Chunks of {counted(mixture.horizon, 'step')}, "
        f"{mixture.spec.action.mode}; dashed behind the end of the episode.{left_out}</p>",
        *(_group_section(group, batch, mixture) for group, batch in drawn),
    ]
    return page(f"Samples of {mixture.spec.name}", sections)


def first_draws(
    mixture: Mixture, per_group: int, split: str = "train", most_groups: int | None = None
) -> Iterator[tuple[Group, Batch]]:
    """The first samples that the stream would draw of each group that has any."""
    drawn = [g for g, size in zip(mixture.groups, mixture.splits[split].sizes, strict=True) if size > 0]
    for group in drawn[:most_groups]:
        with Stream(mixture, batch_size=per_group, split=split, groups=[group.name]) as stream:
            yield group, stream.batch_at(0)


def _group_section(group: Group, batch: Batch, mixture: Mixture) -> str:
    head = (
        f"{100 * group.probability:.2f} % of draws, {counted(group.n_episodes, 'episode')}, "
        f"{counted(group.n_steps, 'step')}"
    )
    samples = "".join(sample_section(batch, i, mixture) for i in range(len(batch.step)))
    return f"<h2>{escape(group.name)}</h2><p class='muted'>{head}</p>{samples}"


def sample_section(batch: Batch, i: int, mixture: Mixture) -> str:
    """One sample of a batch for a page: its sentence, where it is from, pictures, and charts of its chunk."""
    kind = "segment" if batch.is_segment_text[i] else "task"
    rate = f"{batch.control_hz[i]:g} Hz"
    state, action = (slots_in_words(np.flatnonzero(mask[i]).tolist()) for mask in (batch.state_mask, batch.action_mask))
    missing = [name for name, has in zip(CAMERAS, batch.camera_mask[i], strict=True) if not has]
    masks = f"state slots {state or 'none'}, action slots {action or 'none'}"
    masks += f", masked: {', '.join(missing)}" if missing else ""
    facts = f"{escape(batch.names[i])} &middot; {escape(batch.norm_key[i])} &middot; {rate} &middot; {masks}"
    text = f"<p><b>{escape(batch.language[i]) or '(no text)'}</b> <span class='muted'>({kind})</span></p>"
    pictures = "".join(
        figure(_picture(batch.images[i, camera], f"{name} of {batch.names[i]}"), name)
        for camera, name in enumerate(CAMERAS)
        if batch.camera_mask[i, camera]
    )
    charts = _charts(batch, i, mixture.parts[batch.norm_key[i]])
    return f"{text}<p class='muted'>{facts}</p><div class='row sample'>{pictures}{charts}</div>"


def _picture(pixels: np.ndarray, alt: str) -> str:
    jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=PICTURE_QUALITY)
    return image(jpeg, alt, kind="jpeg", width=PICTURE_WIDTH)


def _charts(batch: Batch, i: int, parts: Mapping[str, Sequence[int]]) -> str:
    """The charts of each part of the robot that acts in this sample: one for each unit, with slots by their names."""
    seconds = np.arange(batch.action.shape[1]) / batch.control_hz[i]
    inside = int(batch.chunk_mask[i].sum())
    control_mode = batch.norm_key[i].split("/")[1]
    names, units = slot_names(control_mode, parts), slot_quantities(control_mode, parts, "action")
    figures = []
    for part, slots in parts.items():
        used = [slot for slot in slots if batch.action_mask[i, slot]]
        # Metres and radians on one axis would flatten the smaller of them to a line.
        for unit in dict.fromkeys(describe_unit(units[slot]) for slot in used if slot in units):
            alike = [slot for slot in used if slot in units and describe_unit(units[slot]) == unit]
            figures.append(_chart(batch, i, alike, [names[slot] for slot in alike], seconds, inside, part, unit))
    return "".join(figures)


def _chart(
    batch: Batch,
    i: int,
    slots: Sequence[int],
    names: Sequence[str],
    seconds: np.ndarray,
    inside: int,
    part: str,
    unit: str,
) -> str:
    action = batch.action_physical[i]
    series = {name: (seconds[:inside], action[:inside, slot]) for name, slot in zip(names, slots, strict=True)}
    ends = {}
    if inside < len(seconds):
        rest = slice(inside - 1, None)
        ends = {f"{name}, after": (seconds[rest], action[rest, slot]) for name, slot in zip(names, slots, strict=True)}
    # One axis for every gripper, so that half open looks half open in every sample.
    y_range = (0.0, 1.0) if part.startswith("gripper") else None
    native = units_of(batch.norm_key[i]) != METRIC and not part.startswith("gripper")
    y_label = "the source's own unit" if native else unit
    chart = lines(series | ends, "s", y_label, width=CHART_WIDTH, height=190, dashed=list(ends), y_range=y_range)
    colours = legend([f"{name} (slot {slot})" for name, slot in zip(names, slots, strict=True)])
    return f'<figure style="width:{CHART_WIDTH}px">{chart}<figcaption>{colours}</figcaption></figure>'
