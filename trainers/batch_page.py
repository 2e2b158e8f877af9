"""The first batch of a run as a page: what the model really sees, for a person to check before hours of training."""

from html import escape
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from mixtures.stream.batches import Batch
from pipelines.contract.slots import CAMERAS
from pipelines.pages.charts import COLOURS, svg
from pipelines.pages.page import figure, image, page
from pipelines.storage.files import write_atomically

SHOWN = 16
PICTURE = 150  # pixels
WIDTH, HEIGHT, LIMIT = 320, 150, 1.5


def write_batch_page(path: Path, batch: Batch, group_names: tuple[str, ...], cameras: tuple[str, ...]) -> None:
    """Writes names, sentences, pictures and normalized chunks of the first samples; the file stands alone."""
    shown = min(SHOWN, len(batch.names))
    title = f"The first batch: {shown} of {len(batch.names)} samples"
    note = (
        "Pictures as the model gets them (black: the episode lacks that camera), the sentence, and the normalized "
        f"action chunk from -{LIMIT} to {LIMIT}, one line a slot, up to the episode's end. Dots at the left: the state."
    )
    samples = [_sample(batch, row, group_names, cameras) for row in range(shown)]
    write_atomically(path, page(title, [f"<h1>{escape(title)}</h1><p>{escape(note)}</p>", *samples]).encode())


def _sample(batch: Batch, row: int, group_names: tuple[str, ...], cameras: tuple[str, ...]) -> str:
    figures = [_picture(camera, batch.images[row, CAMERAS.index(camera)]) for camera in cameras]
    chunk = batch.action[row][batch.chunk_mask[row]]
    lines = _lines(chunk, batch.state[row], batch.action_mask[row], len(batch.chunk_mask[row]))
    about = f"{batch.names[row]}, {group_names[batch.group[row]]}, {batch.norm_key[row]}"
    return (
        f'<section class="card"><p><b>{escape(batch.language[row])}</b> <span class="muted">{escape(about)}</span></p>'
        f'<div class="row">{"".join(figures)}{lines}</div></section>'
    )


def _picture(camera: str, pixels: NDArray[np.uint8]) -> str:
    jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=85, colorspace="RGB")
    return figure(image(jpeg, camera, kind="jpeg", width=PICTURE), camera)


def _lines(chunk: NDArray[np.float32], state: NDArray[np.float32], mask: NDArray[np.bool_], horizon: int) -> str:
    """An SVG of the chunk's slots over its steps."""
    drawn = []
    for number, slot in enumerate(np.flatnonzero(mask)):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(f"{_x(step, horizon):.1f},{_y(value):.1f}" for step, value in enumerate(chunk[:, slot]))
        drawn.append(f'<polyline fill="none" stroke="{colour}" points="{points}"><title>slot {slot}</title></polyline>')
        drawn.append(f'<circle r="3" fill="{colour}" cx="4" cy="{_y(state[slot]):.1f}"/>')
    return svg(WIDTH, HEIGHT, drawn, "action chunk")


def _x(step: int, horizon: int) -> float:
    return 10 + (WIDTH - 14) * step / max(horizon - 1, 1)


def _y(value: float) -> float:
    return HEIGHT / 2 * (1 - float(np.clip(np.nan_to_num(value), -LIMIT, LIMIT)) / LIMIT)
