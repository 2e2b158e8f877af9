"""Whether a copy of a dataset that was published as BGR still is: some copies were repaired without stating it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from pipelines.contract.errors import UsageError
from pipelines.contract.images import describe_picture
from pipelines.mapping.adapters import Adapter
from pipelines.shards.example_wire import ByteStrings, CorruptExample, parse_example
from pipelines.shards.tfrecord import CorruptRecord, read_record, scan_records
from pipelines.sources.folders import source_root
from pipelines.sources.tfds.version_folder import ShardFile, find_version_folder, list_shards
from pipelines.storage.paths import RemotePath

# rlds_dataset_mod, which repairs four datasets and keeps their names and versions, stores every picture like this.
_REPAIRED = ("JPEG", (256, 256))
_MOST_FILES = 3
_ADVICE = (
    "Look at some pictures, and give --channels as_published where red and blue are exchanged, --channels repaired "
    "where they are right"
)


def choose_channels(source: str, adapter: Adapter) -> Adapter:
    """Returns the entry with its `channels` settled by the pictures of a few records, and how that is known.

    A copy whose pictures have the published size is as published (BGR); one of 256x256 JPEG is taken for the repaired
    one. Raises UsageError where the pictures are neither, or some are each: then the user says it.
    """
    settled = {name for names in adapter.all_cameras.values() for name in names if adapter.form_of(name).channels}
    cameras = [camera for camera in adapter.swapped_channels if camera not in settled]
    if not cameras or adapter.channels:
        return adapter
    published = (adapter.published_size[0], adapter.published_size[1]) if adapter.published_size else None
    found = sorted(set(_find_pictures(source, cameras)))
    listed = ", ".join(f"{form} {y}x{x}" for form, (y, x) in found) or "no pictures that can be read here"
    if found and all(size == published for _, size in found):
        known = f"red and blue of {', '.join(cameras)} are exchanged back: pictures are {listed}, as published in BGR"
        return replace(adapter, channels="as_published", channels_known=known)
    if found == [_REPAIRED] and published != _REPAIRED[1]:
        known = f"red and blue of {', '.join(cameras)} are left: pictures are {listed}, as rlds_dataset_mod writes"
        return replace(adapter, channels="repaired", channels_known=known)
    size = "x".join(map(str, published or ()))
    raise UsageError(
        f"{source}: {adapter.name} was published in BGR ({', '.join(cameras)}: {size}), and copies of it were repaired "
        f"(JPEG 256x256); found {listed}. {_ADVICE}"
    )


def _find_pictures(source: str, cameras: Sequence[str]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Form and size (y, x) of the first picture of each camera in the first record of a few files on a disk."""
    folder = find_version_folder(source_root(source))
    files = list_shards(folder).there
    for file in files[:: max(1, len(files) // _MOST_FILES)][:_MOST_FILES]:
        features = _first_record(file)
        for camera in cameras:
            values = features.get(f"steps/{camera}")
            if isinstance(values, ByteStrings) and len(values) and (described := describe_picture(values[0])):
                yield described


def _first_record(file: ShardFile) -> dict[str, object]:
    if isinstance(file.path, RemotePath):
        return {}
    try:
        span = next(iter(scan_records(file.path)), None)
        return dict(parse_example(read_record(file.path, *span))) if span else {}
    except (CorruptRecord, CorruptExample):
        # The conversion rejects such a record by name; it is no evidence about colours.
        return {}
