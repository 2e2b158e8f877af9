"""CPU seconds a frame of publishing, beside those of the encoder alone: `python -m benchmarks.publish DATASET`.

Both run in one thread on the same pictures; what is measured apart from the encoder is reading, decoding JPEGs,
statistics and tables.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from pipelines.contract.images import decode_image
from pipelines.publishing.encoding import opened_film
from pipelines.publishing.publication import Choice, Form, Publication, plan_publication
from pipelines.publishing.unit_files import read_jpegs, write_unit
from pipelines.shards.dataset import Dataset
from pipelines.shards.stored_episodes import iter_stored


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", metavar="DATASET")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (publication,) = plan_publication([Choice(path=arguments.dataset)], f"{folder}/out", Form(dims="robot"))
        n_frames = publication.n_steps * len(publication.cameras)
        encoder_s = encoder_seconds(publication, Path(folder), arguments.dataset)
        start = time.process_time()
        for unit in range(len(publication.units)):
            write_unit(publication, unit)
        publish_s = time.process_time() - start
    ratio = publish_s / encoder_s
    figures = {"frames": n_frames, "encoder_ms": 1000 * encoder_s / n_frames, "publish_ms": 1000 * publish_s / n_frames}
    print(json.dumps({**figures, "ratio": ratio}))


def encoder_seconds(publication: Publication, folder: Path, dataset: str) -> float:
    """CPU seconds of encoding every picture, decoded beforehand, as publishing encodes it."""
    assert publication.form.video is not None
    spent = 0.0
    for episode in iter_stored(Dataset.open(dataset)):
        for camera in publication.cameras:
            pictures = [decode_image(jpeg) for jpeg in read_jpegs(episode, camera)]
            start = time.process_time()
            with opened_film(folder / "film.mp4", publication.form.video, publication.fps) as film:
                for picture in pictures:
                    film.add(picture)
            spent += time.process_time() - start
    return spent


if __name__ == "__main__":
    main()
