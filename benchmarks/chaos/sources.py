"""A small source of every format, and what a conversion reads of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chaos.outcomes import Reading, hash_of
from pipelines.contract.errors import EmbodimixError
from pipelines.contract.images import CorruptImage, to_jpeg
from pipelines.contract.native import Rejected
from pipelines.contract.slots import CAMERAS
from pipelines.conversion.launch import ConversionRequest, find_episodes
from pipelines.conversion.plan import Job
from pipelines.conversion.read_episode import read_episode
from pipelines.mapping.adapters import get_adapter
from tests.pipelines.sources.test_dp import write_buffer
from tests.pipelines.sources.test_lerobot import write_v2, write_v3
from tests.pipelines.sources.test_zarr import write_log
from tests.support.inputs.hdf5_files import write_aloha, write_robomimic
from tests.support.inputs.native_files import bridge_features, write_rlds

# The adapter entry of each source, which names its format.
ADAPTERS: Mapping[str, str] = {
    "rlds": "bridge_orig",
    "lerobot v2.1": "lerobot_aloha",
    "lerobot v3.0": "lerobot_aloha",
    "in-house zarr": "inhouse_log",
    "replay buffer": "dp_replay",
    "aloha": "aloha_hdf5",
    "robomimic": "robomimic",
    "droid": "droid_raw",
    "bridge": "bridge_raw",
}
# Damaged bytes that a format's own checksums, or its structure alone, show. Others are what a logger might have
# recorded: HDF5's plain numbers, a JPEG's pixels, a chunk of zarr without a checksum.
CHECKSUMMED = frozenset({"rlds"})
# Formats in which nothing promises a file: one that is deleted was never there.
UNPROMISED = frozenset({"aloha", "robomimic"})


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source on the disk. path: what `embodimix convert` is given."""

    name: str
    path: Path

    @property
    def files(self) -> list[Path]:
        return sorted(path for path in self.path.rglob("*") if path.is_file())


def write_source(name: str, root: Path, samples: Path | None) -> Source | None:
    """Writes a source of two episodes or more; DROID's and Bridge's are copies of samples, None without them."""
    path = root / name.replace(" ", "_")
    if name in ("droid", "bridge"):
        if samples is None:
            return None
        from tests.pipelines.sources.test_fuzz_trees import copy_bridge, copy_droid

        (copy_droid if name == "droid" else copy_bridge)(path, samples)
    elif name == "rlds":
        write_rlds(path, {"train": [bridge_features(i) for i in range(3)], "val": [bridge_features(9)]})
    elif name.startswith("lerobot"):
        (write_v2 if name.endswith("v2.1") else write_v3)(path)
    elif name == "in-house zarr":
        write_log(path / "ur5e/lift/a.zarr")
        write_log(path / "ur5e/lift/b.zarr")
    elif name == "replay buffer":
        write_buffer(path / "a.zarr")
    else:
        path.mkdir(parents=True)
        for i in range(2):
            (write_aloha if name == "aloha" else write_robomimic)(path / f"episode_{i}.hdf5")
    return Source(name=name, path=path)


def read_source(source: Source) -> Reading:
    """Reads every episode as a worker of a conversion does."""
    adapter = get_adapter(ADAPTERS[source.name])
    request = ConversionRequest(source=str(source.path), output_root="out", name="x", version="1.0.0", adapter=adapter)
    job = Job(directory="out", name="x", version="1.0.0", adapter=adapter, task="lift")
    try:
        found = find_episodes(request)
    except EmbodimixError as error:
        return Reading(episodes={}, error=str(error))
    rejects = [(reject.source_key, str(reject.reason)) for reject in found.rejects]
    episodes = {}
    for located in found.episodes:
        key = located.reference.key
        try:
            episode = read_episode(job, located, CAMERAS)
            pictures = [to_jpeg(frame) for frames in episode.images.values() for frame in frames]
        except Rejected as error:
            rejects.append((key, str(error.reason)))
            continue
        except CorruptImage:
            rejects.append((key, "corrupt_image"))
            continue
        except EmbodimixError as error:
            return Reading(episodes={}, error=str(error))
        rejects += [(f"{key}#steps", str(dropped.reason)) for dropped in episode.dropped]
        # A camera whose file is gone leaves the episode without it; manifest and card count such cameras.
        absent = [camera for camera in episode.dataset_cameras if camera not in episode.images]
        rejects += [(f"{key}#{camera}", "missing_cameras") for camera in absent]
        parts = [episode.state, episode.action, tuple(episode.language), *episode.images, *pictures]
        episodes[key] = hash_of(parts)
    return Reading(episodes=episodes, rejects=tuple(rejects))
