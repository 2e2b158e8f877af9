"""The first batch of a run as a page: what the model really sees, for a person to check before hours of training."""

import base64
import html
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from mixtures.stream.batches import Batch
from pipelines.contract.slots import CAMERAS
from pipelines.storage.files import write_atomically

SHOWN = 16
CSS = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #222 }
section { border-top: 1px solid #ddd; padding: .8rem 0; display: flex; gap: .6rem; flex-wrap: wrap }
figure { margin: 0 } figcaption { color: #666; font-size: 12px } img { width: 150px; height: 150px }
p { width: 100%; margin: 0 } svg { background: #f6f7f9 }
"""
COLORS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#17becf")
WIDTH, HEIGHT, LIMIT = 320, 150, 1.5


def write_batch_page(path: Path, batch: Batch, group_names: tuple[str, ...], cameras: tuple[str, ...]) -> None:
    """Writes names, sentences, pictures and normalized chunks of the first samples; the file stands alone."""
    title = f"The first batch: {min(SHOWN, len(batch.names))} of {len(batch.names)} samples"
    samples = [_sample(batch, row, group_names, cameras) for row in range(min(SHOWN, len(batch.names)))]
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{CSS}</style><h1>{title}</h1>"
        "<p>Pictures as the model gets them (black: the episode lacks that camera), the sentence, and the normalized "
        f"action chunk from -{LIMIT} to {LIMIT}, one line a slot, up to the episode's end. Dots at the left: the state."
        f"</p>{''.join(samples)}</html>"
    )
    write_atomically(path, page.encode())


def _sample(batch: Batch, row: int, group_names: tuple[str, ...], cameras: tuple[str, ...]) -> str:
    name, group = html.escape(batch.names[row]), html.escape(group_names[batch.group[row]])
    figures = [_picture(camera, batch.images[row, CAMERAS.index(camera)]) for camera in cameras]
    chunk = batch.action[row][batch.chunk_mask[row]]
    return (
        f"<section><p><b>{html.escape(batch.language[row])}</b> &nbsp; {name} &nbsp; {group} &nbsp; "
        f"{html.escape(batch.norm_key[row])}</p>{''.join(figures)}"
        f"{_lines(chunk, batch.state[row], batch.action_mask[row], len(batch.chunk_mask[row]))}</section>"
    )


def _picture(camera: str, pixels: NDArray[np.uint8]) -> str:
    jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=85, colorspace="RGB")
    source = base64.b64encode(jpeg).decode()
    image = f'<img alt="{camera}" src="data:image/jpeg;base64,{source}">'
    return f"<figure>{image}<figcaption>{camera}</figcaption></figure>"


def _lines(chunk: NDArray[np.float32], state: NDArray[np.float32], mask: NDArray[np.bool_], horizon: int) -> str:
    """An SVG of the chunk's slots over its steps."""
    drawn = []
    for number, slot in enumerate(np.flatnonzero(mask)):
        color = COLORS[number % len(COLORS)]
        points = " ".join(f"{_x(step, horizon):.1f},{_y(value):.1f}" for step, value in enumerate(chunk[:, slot]))
        drawn.append(f'<polyline fill="none" stroke="{color}" points="{points}"><title>slot {slot}</title></polyline>')
        drawn.append(f'<circle r="3" fill="{color}" cx="4" cy="{_y(state[slot]):.1f}"/>')
    return f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="action chunk">{"".join(drawn)}</svg>'


def _x(step: int, horizon: int) -> float:
    return 10 + (WIDTH - 14) * step / max(horizon - 1, 1)


def _y(value: float) -> float:
    return HEIGHT / 2 * (1 - float(np.clip(np.nan_to_num(value), -LIMIT, LIMIT)) / LIMIT)
