"""A page of real decoded samples of every group: pictures, text, the chunk in physical units, masks."""

import base64
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import simplejpeg

from mixtures.mixture import Group, Mixture
from mixtures.reports.plan import slots_in_words
from mixtures.stream.batches import Batch, Stream
from pipelines.contract.slots import CAMERAS
from pipelines.contract.units import describe_unit, part_quantities
from pipelines.pages.charts import legend, lines
from pipelines.pages.page import page

PICTURE_QUALITY = 80


def preview_page(mixture: Mixture, per_group: int = 3, split: str = "train", most_groups: int = 60) -> str:
    """The first `per_group` samples that the stream would draw of each group."""
    sections = [
        f"<h1>Samples of {escape(mixture.spec.name)}</h1><p class='muted'>The first {per_group} draws of each group, "
        f"split {split}, seed {mixture.spec.seed}. Chunks of {mixture.horizon} steps, {mixture.spec.action.mode}; "
        "dashed behind the end of the episode.</p>"
    ]
    drawn = [g for g, size in zip(mixture.groups, mixture.splits[split].sizes, strict=True) if size > 0]
    for group in drawn[:most_groups]:
        with Stream(mixture, batch_size=per_group, split=split, groups=[group.name]) as stream:
            sections.append(_group_section(group, stream.batch_at(0), mixture))
    if len(drawn) > most_groups:
        sections.append(f"<p class='muted'>{len(drawn) - most_groups} more groups are not shown.</p>")
    return page(f"Samples of {mixture.spec.name}", sections)


def _group_section(group: Group, batch: Batch, mixture: Mixture) -> str:
    head = f"{100 * group.probability:.2f} % of draws, {group.n_episodes:,} episodes, {group.n_steps:,} steps"
    samples = "".join(_sample(batch, i, mixture) for i in range(len(batch.step)))
    return f"<h2>{escape(group.name)}</h2><p class='muted'>{head}</p>{samples}"


def _sample(batch: Batch, i: int, mixture: Mixture) -> str:
    kind = "segment" if batch.is_segment_text[i] else "task"
    rate = f"{batch.control_hz[i]:g} Hz"
    state, action = (slots_in_words(np.flatnonzero(mask[i]).tolist()) for mask in (batch.state_mask, batch.action_mask))
    missing = [name for name, has in zip(CAMERAS, batch.camera_mask[i], strict=True) if not has]
    masks = f"state slots {state or 'none'}, action slots {action or 'none'}"
    masks += f", masked: {', '.join(missing)}" if missing else ""
    facts = f"{batch.names[i]} &middot; {escape(batch.norm_key[i])} &middot; {rate} &middot; {masks}"
    text = f"<p><b>{escape(batch.language[i]) or '(no text)'}</b> <span class='muted'>({kind})</span></p>"
    pictures = "".join(
        f"<figure>{_picture(batch.images[i, camera])}<figcaption>{name}</figcaption></figure>"
        for camera, name in enumerate(CAMERAS)
        if batch.camera_mask[i, camera]
    )
    charts = _charts(batch, i, mixture.parts[batch.norm_key[i]])
    return f"{text}<p class='muted'>{facts}</p><div class='row sample'>{pictures}{charts}</div>"


def _picture(image: np.ndarray) -> str:
    data = base64.b64encode(simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=PICTURE_QUALITY)).decode()
    return f'<img width="224" height="224" alt="" src="data:image/jpeg;base64,{data}">'


def _charts(batch: Batch, i: int, parts: Mapping[str, Sequence[int]]) -> str:
    """One chart for each part of the robot that acts in this sample."""
    seconds = np.arange(batch.action.shape[1]) / batch.control_hz[i]
    inside = int(batch.chunk_mask[i].sum())
    figures = []
    for part, slots in parts.items():
        used = [slot for slot in slots if batch.action_mask[i, slot]]
        if not used:
            continue
        series = {f"{slot}": (seconds[:inside], batch.action_physical[i, :inside, slot]) for slot in used}
        ends = {}
        if inside < len(seconds):
            ends = {f"{s} after": (seconds[inside - 1 :], batch.action_physical[i, inside - 1 :, s]) for s in used}
        chart = lines(
            series | ends, "s", _unit(part, len(slots), batch.norm_key[i]), width=330, height=190, dashed=list(ends)
        )
        figures.append(f"<figure>{chart}<figcaption>{part}, slots {legend(list(series))}</figcaption></figure>")
    return "".join(figures)


def _unit(part: str, n_slots: int, norm_key: str) -> str:
    """The units of a part's actions."""
    quantities = part_quantities(part, n_slots, norm_key.split("/")[1], "action")
    return ", ".join(dict.fromkeys(map(describe_unit, quantities)))
