"""A batch as a page: what the model really sees, to check before hours of training, or after a bad step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from mixtures.stream.batches import Batch
from pipelines.contract.slots import CAMERAS
from pipelines.contract.units import slot_names
from pipelines.contract.words import counted
from pipelines.pages.charts import legend, lines
from pipelines.pages.page import cell, figure, image, page, table_of_cells, verdict
from pipelines.storage.files import write_atomically

SHOWN = 16
PICTURE = 150  # pixels
WIDTH, HEIGHT, LIMIT = 330, 190, 1.5
# A picture whose brightest pixel is darker shows nothing; only masked cameras are meant to be black.
BLACK = 8
Parts = Mapping[str, Mapping[str, Sequence[int]]]


@dataclass(frozen=True, kw_only=True)
class ReplayedLosses:
    """Of a step that was computed again: each sample's loss, in the batch's order, and what the table says of it."""

    step: int
    losses: Sequence[float]
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def order(self) -> list[int]:
        """The worst sample first; a loss that is no number is the worst."""
        return sorted(range(len(self.losses)), key=lambda row: -_badness(self.losses[row]))


def write_batch_page(
    path: Path,
    batch: Batch,
    group_names: tuple[str, ...],
    cameras: tuple[str, ...],
    parts: Parts,
    replayed: ReplayedLosses | None = None,
) -> None:
    """Writes sentences, pictures and normalized chunks of the first samples; the file stands alone.

    parts: of every norm key, for the names of slots. replayed: losses, whose worst samples then come first.
    """
    order = list(range(len(batch.names))) if replayed is None else replayed.order
    shown = order[:SHOWN]
    title = "The first batch" if replayed is None else f"Step {replayed.step} again"
    note = (
        f"{len(shown)} of {counted(batch.names, 'sample')} as the model gets them. Charts: the normalized action "
        f"chunk from "
        f"-{LIMIT} to {LIMIT} by step, one line a slot, up to the episode's end; the dot at the axis is the state. "
        "Hatched: masked, the model does not look there."
    )
    head = _about_inputs(batch, cameras) if replayed is None else _about_losses(batch, group_names, replayed)
    samples = [_sample(batch, row, group_names, cameras, parts, replayed) for row in shown]
    content = [f"<h1>{escape(title)}</h1>", head, f"<p>{escape(note)}</p>", *samples]
    write_atomically(path, page(title, content, head=_STYLE).encode())


_STYLE = """<style>.masked { display: grid; place-items: center; width: 150px; height: 150px; color: var(--soft);
border: 1px solid var(--line); border-radius: 3px; background: repeating-linear-gradient(45deg, var(--card) 0 8px,
var(--paper) 8px 16px); }</style>"""


def _about_inputs(batch: Batch, cameras: tuple[str, ...]) -> str:
    """Whether the input survived: what is masked, what is black without being masked, what is cut off or silent."""
    columns = [CAMERAS.index(camera) for camera in cameras]
    is_there = batch.camera_mask[:, columns]
    is_black = batch.images[:, columns].max(axis=(2, 3, 4)) < BLACK
    lost = int((is_there & is_black).sum())
    used = batch.chunk_mask[:, :, None] & batch.action_mask[:, None, :]
    values = np.where(used, batch.action, 0)
    beyond = 100 * float((np.abs(values) > LIMIT).sum()) / max(int(used.sum()), 1)
    silent = sum(not text for text in batch.language)
    n_wrong = int((~np.isfinite(values)).sum())
    faults = [
        f"{counted(lost, 'picture is', 'pictures are')} black and not masked: the model would learn from nothing."
        if lost
        else "",
        f"{counted(n_wrong, 'number of the actions is', 'numbers of the actions are')} not finite." if n_wrong else "",
        f"{silent} of {counted(batch.names, 'sample has', 'samples have')} no sentence." if silent else "",
        f"{beyond:.1f} % of the actions lie beyond {LIMIT}: are the statistics those of this data?"
        if beyond > 5
        else "",
    ]
    known = (
        f"{int((~is_there).sum())} of {is_there.size} pictures are masked, since their episodes lack that camera; "
        f"{beyond:.1f} % of the actions lie beyond {LIMIT}."
    )
    found = [fault for fault in faults if fault]
    if lost or n_wrong:
        return verdict("bad", "Something did not survive on the way to the model.", *found, known)
    if found:
        return verdict("flag", "The input survived; look at this:", *found, known)
    return verdict("good", "The input survived: pictures, sentences and actions are there.", known)


def _about_losses(batch: Batch, group_names: tuple[str, ...], replayed: ReplayedLosses) -> str:
    """Which sample is bad."""
    order = replayed.order
    bad = [row for row in order if not np.isfinite(replayed.losses[row])]
    worst = order[0]
    name = f"{batch.names[worst]} of {group_names[batch.group[worst]]}"
    if bad:
        answer = (
            f"{len(bad)} of {counted(order, 'sample has', 'samples have')} a loss that is no number; the first "
            f"is {name}."
        )
    else:
        typical = float(np.median([replayed.losses[row] for row in order]))
        answer = (
            f"Every loss is finite; the largest, {replayed.losses[worst]:.4g}, is of {name} (median {typical:.4g})."
        )
    rows = [[cell(text, "wrong" if row in bad else "") for text in replayed.rows[row]] for row in order[:SHOWN]]
    return f"{verdict('bad' if bad else 'flag', answer)}{table_of_cells(replayed.header, rows)}"


def _sample(
    batch: Batch,
    row: int,
    group_names: tuple[str, ...],
    cameras: tuple[str, ...],
    parts: Parts,
    replayed: ReplayedLosses | None,
) -> str:
    figures = [_picture(batch, row, camera) for camera in cameras]
    about = f"{batch.names[row]}, {group_names[batch.group[row]]}, {batch.norm_key[row]}"
    loss = ""
    if replayed is not None:
        is_bad = not np.isfinite(replayed.losses[row])
        loss = f'<b class="{"bad" if is_bad else ""}">loss {replayed.losses[row]:.4g}</b> '
    text = escape(batch.language[row]) or "(no sentence)"
    return (
        f'<section class="card"><p>{loss}<b>{text}</b> <span class="muted">{escape(about)}</span></p>'
        f'<div class="row">{"".join(figures)}{_chart(batch, row, parts)}</div></section>'
    )


def _picture(batch: Batch, row: int, camera: str) -> str:
    number = CAMERAS.index(camera)
    if not batch.camera_mask[row, number]:
        return figure('<div class="masked">masked</div>', f"{camera}: the episode lacks it")
    pixels = batch.images[row, number]
    jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=85, colorspace="RGB")
    black = ", black but not masked" if pixels.max() < BLACK else ""
    shown = image(jpeg, f"{camera} of {batch.names[row]}", kind="jpeg", width=PICTURE)
    return figure(shown, f"{camera}{black}")


def _chart(batch: Batch, row: int, parts: Parts) -> str:
    """The chunk's slots over its steps, by their names."""
    key = batch.norm_key[row]
    named = slot_names(key.split("/")[1], parts.get(key, {}))
    slots = np.flatnonzero(batch.action_mask[row]).tolist()
    n_steps = int(batch.chunk_mask[row].sum())
    if not slots or not n_steps:
        return "<p class='muted'>No action.</p>"
    names = {slot: f"{named.get(slot, 'slot')} [{slot}]" for slot in slots}
    steps = np.arange(n_steps)
    series = {names[slot]: (steps, _finite(batch.action[row, :n_steps, slot])) for slot in slots}
    measured = batch.state_mask[row] & np.isfinite(batch.state[row])
    dots = {names[slot]: float(batch.state[row, slot]) for slot in slots if measured[slot]}
    limits = (-LIMIT, LIMIT)
    chart = lines(series, "step", "normalized", width=WIDTH, height=HEIGHT, y_range=limits, dots=dots)
    return f'<figure style="width:{WIDTH}px">{chart}<figcaption>{legend(list(series))}</figcaption></figure>'


def _finite(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """What is no number as a gap in the line."""
    return np.where(np.isfinite(values), values, np.nan).astype(np.float64)


def _badness(value: float) -> float:
    return value if np.isfinite(value) else float("inf")
