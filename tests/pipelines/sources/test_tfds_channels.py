"""Copies of datasets that were published in BGR: as published, repaired under the same name, or in doubt."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.contract.errors import UsageError
from pipelines.contract.images import decode_image
from pipelines.conversion.launch import ConversionRequest, convert
from pipelines.mapping.adapters import Adapter, get_adapter, with_channels
from pipelines.shards.dataset import Dataset
from pipelines.shards.stored_episodes import iter_stored
from pipelines.sources.tfds.channels import choose_channels
from tests.support.inputs.native_files import bridge_features, write_rlds

CAMERA = "observation/image_0"
# What hydra's entry says of its cameras, for the small episodes of Bridge.
HYDRA = replace(get_adapter("bridge_orig"), swapped_channels=(CAMERA,), published_size=(24, 32))


def red(height: int, width: int, form: str = "PNG") -> bytes:
    """A picture stored as red."""
    stream = io.BytesIO()
    Image.fromarray(np.tile(np.array([220, 30, 30], np.uint8), (height, width, 1))).save(stream, form, quality=95)
    return stream.getvalue()


def write(tmp_path: Path, *pictures: bytes) -> str:
    episodes = [bridge_features(i, image_0=[picture] * 12) for i, picture in enumerate(pictures)]
    return str(write_rlds(tmp_path / "in", {f"s{i}": [episode] for i, episode in enumerate(episodes)}))


@pytest.mark.parametrize(
    ("picture", "channels", "known"),
    [
        (red(24, 32), "as_published", f"red and blue of {CAMERA} are exchanged back: pictures are PNG 24x32"),
        (red(24, 32, "JPEG"), "as_published", "pictures are JPEG 24x32, as published in BGR"),
        (red(256, 256, "JPEG"), "repaired", f"red and blue of {CAMERA} are left: pictures are JPEG 256x256"),
    ],
)
def test_a_copy_is_known_by_the_size_of_its_pictures(tmp_path: Path, picture: bytes, channels: str, known: str) -> None:
    adapter = choose_channels(write(tmp_path, picture), HYDRA)
    assert adapter.channels == channels and known in adapter.channels_known


@pytest.mark.parametrize(
    ("pictures", "found"),
    [
        ([red(224, 224, "JPEG")], "found JPEG 224x224. Look at some pictures"),
        ([red(256, 256)], "found PNG 256x256"),
        ([red(24, 32), red(256, 256, "JPEG")], "found JPEG 256x256, PNG 24x32"),
        ([b"no picture"], "found no pictures that can be read here"),
    ],
)
def test_a_copy_in_doubt_is_refused_until_the_user_says_which_it_is(
    tmp_path: Path, pictures: list[bytes], found: str
) -> None:
    source = write(tmp_path, *pictures)
    with pytest.raises(UsageError, match=found):
        choose_channels(source, HYDRA)
    said = with_channels(HYDRA, "repaired")
    assert choose_channels(source, said) == said
    assert choose_channels(source, with_channels(HYDRA, "bgr")).channels == ""


@pytest.mark.parametrize(("channels", "color"), [("as_published", [30, 30, 220]), ("repaired", [220, 30, 30])])
def test_the_choice_decides_the_stored_colors_and_is_on_the_card(
    tmp_path: Path, channels: str, color: list[int]
) -> None:
    size = (24, 32) if channels == "as_published" else (256, 256)
    source = write(tmp_path, red(*size, "PNG" if channels == "as_published" else "JPEG"))
    root = str(tmp_path / "out")
    convert(ConversionRequest(source=source, output_root=root, name="x", version="1.0.0", adapter=HYDRA, n_workers=1))
    dataset = Dataset.open(tmp_path / "out/x/1.0.0")
    (episode,) = iter_stored(dataset)
    pixels = decode_image(episode.read_pictures("base_0_rgb", [3])[0])
    assert np.abs(pixels[112, 112].astype(int) - color).max() < 6
    manifest = json.loads((tmp_path / "out/x/1.0.0/manifest.json").read_text())
    assert manifest["adapter"]["channels"] == channels


def test_a_copy_that_was_published_at_the_size_of_repaired_ones_is_as_published(tmp_path: Path) -> None:
    """FMB is 256x256, and rlds_dataset_mod leaves its colours alone."""
    fmb = replace(HYDRA, published_size=get_adapter("fmb_dataset").published_size)
    assert choose_channels(write(tmp_path, red(256, 256, "JPEG")), fmb).channels == "as_published"


@pytest.mark.parametrize("adapter", [get_adapter("bridge_orig"), get_adapter("viola")], ids=lambda a: a.name)
def test_a_dataset_published_in_rgb_has_no_repaired_copy(adapter: Adapter) -> None:
    with pytest.raises(UsageError, match=f"--channels repaired: {adapter.name} was not published in BGR"):
        with_channels(adapter, "repaired")


def test_the_four_repaired_datasets_state_their_published_sizes() -> None:
    names = ("berkeley_autolab_ur5", "stanford_hydra", "utaustin_mutex", "berkeley_fanuc_manipulation")
    assert [get_adapter(name).published_size for name in names] == [(480, 640), (240, 320), (128, 128), (224, 224)]
