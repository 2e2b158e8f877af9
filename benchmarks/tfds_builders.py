"""The conversion's work done by TFDS's own builders: read RLDS, decode, resize, encode, store; in turn or with Beam."""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import simplejpeg
import tensorflow_datasets as tfds
from PIL import Image

_SOURCE = ""


def _features() -> tfds.features.FeaturesDict:
    image = tfds.features.Image(shape=(224, 224, 3), dtype=np.uint8, encoding_format="jpeg")
    floats = tfds.features.Tensor(shape=(7,), dtype=np.float32)
    steps = {
        "observation": {"image_0": image, "state": floats},
        "action": floats,
        "language_instruction": tfds.features.Text(),
    }
    return tfds.features.FeaturesDict({"steps": tfds.features.Dataset(steps)})


def _read(index: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """One episode of the source by its number, pictures resized."""
    undecoded = {"steps": {"observation": {"image_0": tfds.decode.SkipDecoding()}}}
    builder = tfds.builder_from_directory(_SOURCE)
    split = f"train[{index}:{index + 1}]" if index >= 0 else "train"
    for number, episode in enumerate(builder.as_dataset(split=split, decoders=undecoded)):
        yield str(max(index, number)), {"steps": [_convert(step) for step in episode["steps"].as_numpy_iterator()]}


def _convert(step: dict[str, Any]) -> dict[str, Any]:
    pixels = simplejpeg.decode_jpeg(step["observation"]["image_0"], "RGB")
    resized = np.asarray(Image.fromarray(pixels).resize((224, 224), Image.Resampling.BILINEAR))
    return {
        "observation": {"image_0": resized, "state": step["observation"]["state"]},
        "action": step["action"],
        "language_instruction": step["language_instruction"],
    }


class SequentialToy(tfds.core.GeneratorBasedBuilder):
    """Yields the episodes one after another."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, features=_features())

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": _read(-1)}

    def _generate_examples(self) -> Iterator[Any]:
        raise NotImplementedError


class BeamToy(SequentialToy):
    """Gives Beam the numbers of the episodes."""

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        beam = tfds.core.lazy_imports.apache_beam
        n_episodes = tfds.builder_from_directory(_SOURCE).info.splits["train"].num_examples
        return {"train": beam.Create(range(n_episodes)) | beam.FlatMap(_read)}


def main(kind: str, source: str, output: str) -> None:
    """Builds the dataset in `output`."""
    global _SOURCE
    _SOURCE = source
    builder = (BeamToy if kind == "beam" else SequentialToy)(data_dir=output)
    config = None
    if kind == "beam":
        from apache_beam.options.pipeline_options import PipelineOptions

        options = PipelineOptions(["--runner=FnApiRunner", "--direct_num_workers=2"])
        config = tfds.download.DownloadConfig(beam_options=options)
    builder.download_and_prepare(download_config=config)


if __name__ == "__main__":
    main(*sys.argv[1:])
