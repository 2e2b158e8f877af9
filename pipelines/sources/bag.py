"""Bags (MCAP, rosbag2, ROS 1): topics with their own rates and clocks, brought to the control rate of an entry."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.episode import Image, Reference
from pipelines.contract.errors import FailedWork, UsageError
from pipelines.contract.facts import SourceFacts
from pipelines.contract.flags import parse_flag
from pipelines.contract.instructions import clean_instruction
from pipelines.contract.native import EpisodeLocation, Found, NativeEpisode, Reject, Rejected
from pipelines.mapping.adapters import Adapter
from pipelines.mapping.bag_form import BagForm
from pipelines.mapping.cameras import CameraForm
from pipelines.sources.alignment import Aligned, align, check_pauses, latest_index
from pipelines.sources.bags.columns import clock_key, held_before, keys_of, merge_streams, streams_of
from pipelines.sources.bags.cuts import find_cuts
from pipelines.sources.bags.kept_topics import Kept, KeptTopics, key_of_files
from pipelines.sources.bags.labels import read_label
from pipelines.sources.bags.logs.inputs import METADATA, PATTERNS, Bag, bag_at, find_bags, open_bag
from pipelines.sources.bags.logs.log import MAX_TIME_NS, Log
from pipelines.sources.bags.logs.unpacked import ENDING
from pipelines.sources.bags.overview import TopicFacts, facts_of, look_at, probe_of
from pipelines.sources.bags.packets import KEY_FRAME_LEAD_S, PACKETS, PacketFrames, find_keys
from pipelines.sources.bags.pictures import COMPRESSED, RAW, TopicPictures, check_pictures
from pipelines.sources.bags.topics import Pictures, Topics, normal_type, read_topics, read_values, split_key
from pipelines.sources.bags.transforms import Chain, chains_of, is_static, with_chains, with_links, with_transforms
from pipelines.sources.folders import key_of, make_scan_reject, source_root
from pipelines.storage.mirror import Files, Listing, fetched, local_path, own_file
from pipelines.storage.paths import RemotePath, StoragePath, as_storage_path
from pipelines.storage.retry import faults_named

# Each robot's topics are its own.
USUAL_ADAPTER = ""
CAMERA_TYPES = COMPRESSED | RAW | PACKETS
# What is read before and behind an episode that is a stretch of a bag, for values that hold or pass over its ends.
_LEAD_S = 1.0
_RANGED = (".mcap", ".bag", ".active")
_RESAMPLED = "bag: the clock runs at another rate than control_hz; steps are an even grid at control_hz"
_KEPT = KeptTopics()
_DAMAGED = "bag: a file was cut off or has no whole index; what could be read was taken"


def find(source: str, adapter: Adapter) -> Found:
    """Lists the episodes of every bag at or below `source`; those within a file by their times."""
    form, root = _form_of(adapter), source_root(source)
    bags, scanned = find_bags(root, form.episodes.by == "folder")
    rejects = list(scanned)
    episodes: list[EpisodeLocation] = []
    for bag in bags:
        key = key_of(bag.path, root)
        if form.episodes.by in ("file", "folder"):
            episodes.append(EpisodeLocation(reference=Reference(uri=str(bag.path), key=key)))
            continue
        try:
            with faults_named(bag.path, "unreadable_bag"):
                cuts = _find_cuts(bag, adapter)
        except Rejected as error:
            rejects.append(make_scan_reject(bag.path, root, error.reason, error.detail))
            continue
        if not cuts:
            rejects.append(_reject_unmarked(bag, root, form))
        for number, cut in enumerate(cuts):
            reference = Reference(uri=str(bag.path), key=f"{key}#{number:04d}")
            episodes.append(EpisodeLocation(reference=reference, place=cut))
    if not bags and rejects:
        raise FailedWork(f"{source}: expected bags, found none that can be read: {rejects[0].detail}")
    if not bags:
        raise UsageError(f"{source}: expected bags ({', '.join(PATTERNS)}) at or below it, found none")
    return Found(episodes=tuple(episodes), rejects=tuple(rejects))


def files_of(located: EpisodeLocation, listing: Listing, pictures: bool) -> Files:
    """The bag's files; none of one of which the reader takes a stretch by its index."""
    path = as_storage_path(located.reference.uri)
    assert isinstance(path, RemotePath)
    if path.name.endswith((*_RANGED, ".db3", ENDING)):
        return {} if located.place and path.name.endswith(_RANGED) else own_file(located, listing, pictures)
    below = listing.below(path).items()
    files = {file: stat for file, stat in below if file.name.endswith((*_RANGED, ".db3", ENDING, METADATA))}
    return {} if located.place and _are_ranged([file.name for file in files]) else files


def read(located: EpisodeLocation, adapter: Adapter) -> NativeEpisode:
    """Reads one episode; arrays go by key (`/joint_states:position`), frames by topic and are read when asked for.

    Notes hold per topic the age of its samples, gaps, lost samples, repeated stamps, and the time from header to log.
    Raises Rejected when the bag is damaged, lacks a topic, or holds other types than the entry expects.
    """
    reference, form = located.reference, _form_of(adapter)
    path = as_storage_path(reference.uri)
    bag = bag_at(path if _is_read_there(located) else local_path(path), form.episodes.by == "folder")
    log = with_transforms(open_bag(bag), keys_of(adapter), bag.distro)
    start_ns, stop_ns = located.place or (0, MAX_TIME_NS)
    chains = chains_of(log)
    topics, later = _kept_topics(log, adapter, bag, start_ns, stop_ns)
    there = {name: _from_first_key(log, pictures, adapter) for name, pictures in topics.pictures.items()}
    cameras = {name: pictures for name, (pictures, _) in there.items() if len(pictures.times)}
    assert adapter.control_hz is not None
    streams, columns = streams_of(topics, adapter)
    _check_clock(chains, clock_key(adapter))
    clock = _clock_of(topics, adapter, start_ns, stop_ns, reference.uri)
    streams = held_before(streams, int(clock[0]))
    stamps = {name: pictures.times for name, pictures in cameras.items()}
    aligned = align(streams, stamps, clock, adapter.control_hz, reference.uri)
    for key, stream in streams.items():
        if stream.is_interpolated:
            what = f"{reference.uri}: {key}: expected states"
            check_pauses(_around(stream.times, aligned.grid), form.max_gap_s, what)
    task = clean_instruction(_read_instruction(log, form, reference, start_ns, stop_ns, bag.distro))
    return NativeEpisode(
        reference=reference,
        n_steps=len(aligned.grid),
        arrays=with_chains(merge_streams(aligned.arrays, columns), chains),
        frames={
            name: _frames(log, pictures, there[name][1], latest_index(pictures.times, aligned.grid), adapter)
            for name, pictures in cameras.items()
        },
        robot=adapter.robot,
        dim_names={key: own.names for key, own in columns.items() if own.names},
        control_hz=adapter.control_hz,
        timestamp_s=(aligned.grid - aligned.grid[0]) / 1e9,
        task=task,
        language=(task,) if task else (),
        success=_read_success(log, form, reference, start_ns, stop_ns, bag.distro),
        missing_cameras=later,
        cameras_found=_describe_cameras(log),
        dropped=aligned.dropped,
        notes=_make_notes(topics, aligned, log),
        inferred=_inferred(topics, aligned, log, form),
    )


def probe(source: str, blank: Adapter) -> Adapter:
    """Completes an entry that asks for nothing, so that it reads every stream of the first bag; for `inspect`."""
    _, topics, _ = _look(source)
    return probe_of(topics, blank)


def describe(source: str, found: Found) -> SourceFacts:
    """Returns the topics of the first bag with their types, rates and jitter, for `embodimix inspect`."""
    first, topics, n_bags = _look(source)
    return facts_of(first, topics, n_bags)


def _look(source: str) -> tuple[Bag, Mapping[str, TopicFacts], int]:
    root = source_root(source)
    bags, rejects = find_bags(root, whole_folders=False)
    if not bags:
        raise UsageError(f"{source}: " + (rejects[0].detail if rejects else "expected bags at or below it, found none"))
    copies = {} if bags[0].is_ranged else {file: file.stat() for file in bags[0].files if isinstance(file, RemotePath)}
    with fetched(copies):
        log = open_bag(replace(bags[0], files=tuple(local_path(file) if copies else file for file in bags[0].files)))
        try:
            return bags[0], look_at(log, bags[0].distro), len(bags)
        finally:
            log.close()


def _form_of(adapter: Adapter) -> BagForm:
    assert adapter.bag is not None, "an entry of this format has it"
    return adapter.bag


def _are_ranged(names: Sequence[str]) -> bool:
    return all(name.endswith(_RANGED) for name in names if name != METADATA)


def _is_read_there(located: EpisodeLocation) -> bool:
    """Whether a part of an object is read where it lies; see `files_of`."""
    path = as_storage_path(located.reference.uri)
    if not isinstance(path, RemotePath) or not located.place:
        return False
    return path.name.endswith(_RANGED) or not local_path(path).exists()


def _find_cuts(bag: Bag, adapter: Adapter) -> list[tuple[int, int]]:
    form = _form_of(adapter)
    clock = split_key(clock_key(adapter))[0]
    if bag.is_ranged:
        return _cuts_of(bag, form, clock)
    copies = {file: file.stat() for file in bag.files if isinstance(file, RemotePath)}
    with fetched(copies):
        here = Bag(path=bag.path, files=tuple(local_path(file) for file in bag.files), distro=bag.distro)
        return _cuts_of(here, form, clock)


def _cuts_of(bag: Bag, form: BagForm, clock: str) -> list[tuple[int, int]]:
    log = with_transforms(open_bag(bag), [clock], bag.distro)
    try:
        if form.episodes.by == "gaps" and not form.episodes.topic:
            _check_clock(chains_of(log), clock)
        return find_cuts(log, form.episodes, clock, bag.distro)
    finally:
        log.close()


def _reject_unmarked(bag: Bag, root: StoragePath, form: BagForm) -> Reject:
    what = f"pauses of {form.episodes.gap_s:g} s" if form.episodes.by == "gaps" else f"markers on {form.episodes.topic}"
    return make_scan_reject(bag.path, root, "no_steps", f"{bag.path}: expected episodes by {what}, found none")


def _kept_topics(log: Log, adapter: Adapter, bag: Bag, start_ns: int, stop_ns: int) -> tuple[Topics, tuple[str, ...]]:
    """What `_read_topics` returns, from the pass before where that is still known."""
    key = key_of_files(bag, (start_ns, stop_ns))
    kept = _KEPT.take(key, adapter) if key else None
    if kept is not None:
        log.damage[:] = kept.damage
        return kept.topics, kept.missing
    topics, missing = _read_topics(log, adapter, bag, start_ns, stop_ns)
    if key:
        _KEPT.keep(key, adapter, Kept(topics=topics, missing=missing, damage=tuple(log.damage)))
    return topics, missing


def _read_topics(log: Log, adapter: Adapter, bag: Bag, start_ns: int, stop_ns: int) -> tuple[Topics, tuple[str, ...]]:
    """What the entry uses of a range of the log, and the cameras that the log lacks."""
    form = _form_of(adapter)
    there = {channel.topic: normal_type(channel.type) for channel in log.channels.values()}
    used = adapter.used_cameras([topic for topic, type in there.items() if type in CAMERA_TYPES])
    lead_s = KEY_FRAME_LEAD_S if any(there[camera] in PACKETS for camera in used) else _LEAD_S
    begin, end = (max(0, start_ns - int(lead_s * 1e9)), min(MAX_TIME_NS, stop_ns + int(_LEAD_S * 1e9)))
    keys = with_links(keys_of(adapter), chains_of(log))
    late = [key for key in keys if split_key(key)[0] in form.on_change or is_static(key)] if start_ns else []
    topics = read_topics(log, [key for key in keys if key not in late], used, form.stamp, begin, end, bag.distro)
    if late:
        # The value that holds when the episode begins may have been set long before.
        topics = topics.joined(read_topics(log, late, (), form.stamp, 0, end, bag.distro))
    missing = tuple(name for names in adapter.all_cameras.values() for name in names if name not in there)
    return topics, missing


def _check_clock(chains: Mapping[str, Chain], key: str) -> None:
    """Raises Rejected where the steps are to follow a chain of transforms, each of which has stamps of its own."""
    if key in chains:
        there = ", ".join(link.key.rpartition(" ")[2] for link in chains[key])
        raise Rejected(
            "missing_key", f"{key}: expected a `clock` of `bag`, since others lie between: name one of {there}"
        )


def _clock_of(topics: Topics, adapter: Adapter, start_ns: int, stop_ns: int, where: str) -> NDArray[np.int64]:
    """Stamps of the clock's messages that were logged within the episode."""
    key = clock_key(adapter)
    samples = topics.samples.get(key, ())
    if not samples:
        raise Rejected("no_steps", f"{where}: {key}: expected messages within the episode, found none")
    logged = topics.logged[split_key(key)[0]]
    stamps = topics.stamps[split_key(key)[0]]
    inside = (logged >= start_ns) & (logged <= stop_ns)
    own = np.isin(stamps, np.concatenate([one.times for one in samples]))
    clock = stamps[inside & own]
    if not len(clock):
        raise Rejected("no_steps", f"{where}: {key}: expected messages within the episode, found none")
    return clock


def _from_first_key(log: Log, pictures: Pictures, adapter: Adapter) -> tuple[Pictures, NDArray[np.bool_] | None]:
    """A camera's pictures; of packets those from the first that can be decoded, and which can be by themselves.

    None of a camera that holds depth. Raises Rejected where the entry names such a one.
    """
    if pictures.type not in PACKETS:
        try:
            check_pictures(log, pictures)
        except Rejected:
            if any(pictures.topic in names for names in adapter.all_cameras.values()):
                raise
            return pictures.since(len(pictures.times)), None
        return pictures, None
    keys = find_keys(log, pictures)
    first = int(np.argmax(keys)) if keys.any() else len(keys)
    return pictures.since(first), keys[first:]


def _frames(
    log: Log, pictures: Pictures, keys: NDArray[np.bool_] | None, numbers: NDArray[np.int64], adapter: Adapter
) -> Sequence[Image]:
    if keys is not None:
        return PacketFrames(log, pictures, numbers, keys)
    # What is still to be turned or to have its colours exchanged must not become a JPEG before.
    return TopicPictures(log, pictures, numbers, is_plain=adapter.form_of(pictures.topic) == CameraForm())


def _around(times: NDArray[np.int64], grid: NDArray[np.int64]) -> NDArray[np.int64]:
    """The stamps from the last before an episode's first step to the first behind its last."""
    first = max(int(np.searchsorted(times, grid[0], side="right")) - 1, 0)
    return times[first : int(np.searchsorted(times, grid[-1])) + 1]


def _read_instruction(log: Log, form: BagForm, reference: Reference, start: int, stop: int, distro: str) -> str:
    if form.instruction is not None:
        return read_label(form.instruction, log, reference.uri, reference.key, start, stop, distro)
    cut = form.episodes
    if cut.by != "markers" or cut.start or cut.stop_topic:
        return ""
    # A marker that is a text, as `/task`, is the instruction of what it marks; a truth value or number is none.
    values = [value for time_ns, value in read_values(log, cut.topic, start, start, distro) if time_ns == start]
    return next((value for value in values if any(letter.isalpha() for letter in value) and value != "true"), "")


def _read_success(log: Log, form: BagForm, reference: Reference, start: int, stop: int, distro: str) -> int:
    if form.success is None:
        return -1
    return parse_flag(read_label(form.success, log, reference.uri, reference.key, start, stop, distro))


def _describe_cameras(log: Log) -> str:
    found = {channel.topic: channel.type for channel in log.channels.values() if "mage" in channel.type}
    return ", ".join(f"{topic} ({type})" for topic, type in sorted(found.items()))


def _make_notes(topics: Topics, aligned: Aligned, log: Log) -> Mapping[str, float]:
    notes = dict(aligned.notes)
    for topic, (greatest, mean) in topics.late_ms.items():
        notes[f"{topic}/header_to_log_ms_max"] = greatest
        notes[f"{topic}/header_to_log_ms_mean"] = mean
    notes |= {f"{topic}/n_repeated": float(n) for topic, n in topics.repeated.items() if n}
    return notes | ({"bag/n_damages": float(len(log.damage))} if log.damage else {})


def _inferred(topics: Topics, aligned: Aligned, log: Log, form: BagForm) -> dict[str, str]:
    inferred = {} if aligned.is_clock else {"resampled": _RESAMPLED}
    if log.damage:
        inferred["damaged"] = _DAMAGED
    if any(topics.repeated.values()):
        inferred["repeated"] = "bag: messages that repeat the stamp of the one before them were left out"
    if form.stamp == "header" and topics.unstamped:
        listed = ", ".join(sorted(topics.unstamped))
        inferred["unstamped"] = f"bag: {listed}: without a stamp in the header; the times of the log count"
    return inferred
