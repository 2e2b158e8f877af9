"""Pictures of a dataset beside those of its source, read again: a sheet to compare by eye.

python -m pipelines.conversion.contact_sheet DATASET SHEET.png [--episodes 2] [--frames 3]
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.episode import Reference
from pipelines.contract.errors import EmbodimixError, FailedWork
from pipelines.contract.images import decode_image, decode_jpeg, letterbox
from pipelines.contract.native import EpisodeLocation
from pipelines.conversion.plan import Job
from pipelines.conversion.read_episode import read_episode, reader_of
from pipelines.conversion.used_entries import stored_robots
from pipelines.mapping.adapters import restore_adapter
from pipelines.shards.dataset import Dataset
from pipelines.shards.manifest import MANIFEST_FILE, EpisodeEntry, load_manifest
from pipelines.shards.sidecar import jpeg_offsets, read_sidecar
from pipelines.storage.mirror import staged

_GAP, _LINE = 4, 16


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One frame in the source, letterboxed, and in the shard: uint8 [y, x, 3] each."""

    title: str
    source: NDArray[np.uint8]
    stored: NDArray[np.uint8]

    @property
    def mean_difference(self) -> float:
        """Mean absolute difference in levels of 0..255."""
        return float(np.abs(self.source.astype(np.int16) - self.stored).mean())


def compare_frames(dataset_path: Path, n_episodes: int, n_frames: int) -> list[Pair]:
    """Returns pairs of frames of episodes spread over the dataset, every camera, first to last step.

    Raises FailedWork when the dataset has no manifest or its source is no longer there.
    """
    dataset = Dataset.open(dataset_path)
    manifest = load_manifest(dataset.path)
    if manifest is None:
        raise FailedWork(f"{dataset_path / MANIFEST_FILE}: expected the manifest of a conversion, found nothing")
    episodes = manifest.episodes
    chosen = [episodes[i] for i in np.linspace(0, len(episodes) - 1, min(n_episodes, len(episodes)), dtype=int)]
    job = Job(
        directory=str(dataset.path),
        name=dataset.name,
        version=dataset.version,
        adapter=restore_adapter(manifest.adapter),
        robot=manifest.robot or "",
        robots=stored_robots(manifest),
    )
    sources = staged([_located(entry) for entry in chosen], reader_of(job.adapter.format).files_of, pictures=True)
    return [
        pair
        for entry, source in zip(chosen, sources, strict=True)
        for pair in _compare_episode(dataset, job, entry, source, n_frames)
    ]


def draw_sheet(pairs: Sequence[Pair]) -> NDArray[np.uint8]:
    """Returns a sheet, uint8 [y, x, 3]: above each source frame its title, below it the stored frame."""
    from PIL import Image, ImageDraw

    size, columns = pairs[0].source.shape[0], 6
    rows = -(-len(pairs) // columns)
    height = 2 * size + _LINE + 2 * _GAP
    sheet = Image.new("RGB", (columns * (size + _GAP), rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    for i, pair in enumerate(pairs):
        x, y = i % columns * (size + _GAP), i // columns * height
        draw.text((x + 2, y + 2), f"{pair.title}  diff {pair.mean_difference:.1f}", fill="black")
        sheet.paste(Image.fromarray(pair.source), (x, y + _LINE))
        sheet.paste(Image.fromarray(pair.stored), (x, y + _LINE + size + _GAP))
    return np.asarray(sheet)


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the sheet and prints the greatest difference."""
    from PIL import Image

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("sheet", type=Path)
    parser.add_argument("--episodes", type=int, default=2)
    parser.add_argument("--frames", type=int, default=3)
    parsed = parser.parse_args(arguments)
    try:
        pairs = compare_frames(parsed.dataset, parsed.episodes, parsed.frames)
    except EmbodimixError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    Image.fromarray(draw_sheet(pairs)).save(parsed.sheet)
    worst = max(pair.mean_difference for pair in pairs)
    print(f"{parsed.sheet}: {len(pairs)} frames; greatest mean difference {worst:.2f} of 255")
    return 0


def _located(entry: EpisodeEntry) -> EpisodeLocation:
    reference = Reference(uri=entry.source_uri, key=entry.source_key, split=entry.split)
    return EpisodeLocation(reference=reference, place=entry.place)


def _compare_episode(
    dataset: Dataset, job: Job, entry: EpisodeEntry, source: EpisodeLocation, n_frames: int
) -> list[Pair]:
    episode = read_episode(job, source, dataset.cameras)
    files = dataset.splits[entry.split][entry.shard]
    row = read_sidecar(files.sidecar).slice(entry.record, 1).to_pylist()[0]
    steps = np.linspace(0, episode.n_steps - 1, n_frames, dtype=int)
    pairs = []
    for camera, frames in episode.images.items():
        lengths = np.array(row[f"{camera}_lengths"])
        offsets = jpeg_offsets(row[f"{camera}_base"], lengths)
        for step in steps:
            with files.shard.open("rb") as file:
                file.seek(int(offsets[step]))
                stored = decode_jpeg(file.read(int(lengths[step])))
            frame = frames[int(step)]
            pixels = decode_image(frame) if isinstance(frame, bytes) else frame
            title = f"{source.reference.key[-22:]} {camera.split('_')[0]} {step}"
            pairs.append(Pair(title=title, source=letterbox(pixels), stored=stored))
    return pairs


if __name__ == "__main__":
    sys.exit(main())
