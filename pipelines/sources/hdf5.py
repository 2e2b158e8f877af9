"""HDF5 files of any layout: keys to parts as the entry says, one episode a file or one a group."""

import fnmatch
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import h5py
import numpy as np
from numpy.typing import NDArray

from pipelines.contract.episode import Reference
from pipelines.contract.errors import FailedWork, UsageError
from pipelines.contract.facts import SourceFacts
from pipelines.contract.native import EpisodeLocation, Found, NativeEpisode, Reject, Rejected
from pipelines.mapping.adapters import Adapter
from pipelines.sources.float_pictures import note_floats
from pipelines.sources.folders import key_of, make_scan_reject, scan_files, source_root
from pipelines.sources.hdf5_files.datasets import (
    READ_ERRORS,
    describe_cameras,
    is_encoded,
    is_pictures,
    open_frames,
    open_hdf5_log,
    read_array,
    read_stated_success,
)
from pipelines.sources.hdf5_files.texts import read_instruction, read_named_texts, read_names, read_step_text
from pipelines.storage.mirror import local_path, own_file
from pipelines.storage.paths import RemotePath, StoragePath, as_storage_path
from pipelines.storage.retry import transient_cause

# Each layout has its own entry.
USUAL_ADAPTER = ""
_PATTERNS = ("*.hdf5", "*.h5", "*.hdf")
_PICTURE_STARTS = (b"\xff\xd8", b"\x89PNG")
# How a file or an episode states its own rate.
_RATES = ("control_hz", "control_freq", "fps")
_LISTED = 24
# What groups of an episode each are called.
_EPISODE_WORDS = ("demo", "traj", "episode", "ep_", "rollout", "run")


def find(source: str, adapter: Adapter) -> Found:
    """Lists the files at or below `source`, or the groups in them that the entry's `episodes` names.

    A file that cannot be read, and one without such a group, are rejects. Raises UsageError where there is no file,
    FailedWork where no file holds an episode.
    """
    root = source_root(source)
    scan = scan_files(root, *_PATTERNS) if not _is_file(root) else None
    paths: Sequence[StoragePath] = scan.found if scan else (root,)
    rejects: list[Reject] = list(scan.rejects) if scan else []
    if not paths and not rejects:
        raise UsageError(f"{source}: expected HDF5 files ({', '.join(_PATTERNS)}) at or below it, found none")
    episodes: list[EpisodeLocation] = []
    for path in paths:
        name = key_of(path, root)
        if not adapter.episodes:
            episodes.append(EpisodeLocation(reference=Reference(uri=str(path), key=name)))
            continue
        try:
            groups = _list_groups(path, adapter.episodes)
        except Rejected as error:
            rejects.append(make_scan_reject(path, root, error.reason, error.detail))
            continue
        episodes += [
            EpisodeLocation(reference=Reference(uri=str(path), key=f"{name}#{group}"), group=name) for group in groups
        ]
    if not episodes:
        raise FailedWork(f"{rejects[0].detail}; correct the entry's `episodes`, or remove the file")
    return Found(episodes=tuple(episodes), rejects=tuple(rejects))


files_of = own_file


def read(located: EpisodeLocation, adapter: Adapter) -> NativeEpisode:
    """Reads one episode; arrays and cameras go by their path in the file, or in the episode's group.

    Raises Rejected when the file is damaged, a key that the entry names is missing or of another length than the
    others, or a part of it is not stored. What the entry does not name is read where it fits, and left out where not.
    """
    path, group_path = local_path(as_storage_path(located.reference.uri)), _group_of(located)
    where = f"{path}#{group_path}" if group_path else str(path)
    try:
        with open_hdf5_log(path) as file:
            group = file[group_path] if group_path else file["/"]
            if not isinstance(group, h5py.Group):
                raise Rejected("missing_key", f"{where}: expected a group of an episode, found an array")
            found = _datasets_below(group)
            t = _count_steps(found, adapter, where)
            arrays = _read_numbers(found, t, adapter, where)
            pictures = {key: dataset for key, dataset in found.items() if _holds_pictures(dataset)}
            used = adapter.used_cameras(pictures)
            cameras = {key: dataset for key, dataset in pictures.items() if key in used or len(dataset) == t}
            frames = open_frames(path, cameras, t, adapter)
            names = {key: read_names(found[key]) for key in arrays}
            texts, step_text, inferred = _read_language(file, group, adapter, t, where)
            hz, flags = _read_rate(file, group), _read_flags(group)
            success = read_stated_success(group)
            cameras_found = describe_cameras({key: item for key, item in found.items() if key not in arrays})
    except READ_ERRORS as error:
        raise Rejected("unreadable_hdf5", f"{where}: {error}") from error
    return NativeEpisode(
        reference=located.reference,
        n_steps=t,
        arrays=arrays,
        frames=frames,
        dim_names={key: stated for key, stated in names.items() if stated},
        control_hz=hz,
        task=texts[0] if texts else "",
        language=texts,
        step_text=step_text,
        cameras_found=cameras_found,
        success=-1 if success is None else success,
        flags=flags,
        inferred=inferred | note_floats(frames),
    )


def explain_keys(source: str) -> str:
    """Says what the first file at or below a source holds, as the reason to write an entry."""
    root = source_root(source)
    path = root if _is_file(root) else next(iter(scan_files(root, *_PATTERNS).found), None)
    if path is None:
        raise UsageError(f"{source}: expected HDF5 files ({', '.join(_PATTERNS)}) at or below it, found none")
    try:
        with open_hdf5_log(path) as file:
            found = _datasets_below(file["/"])
            listed = [f"{key} {dataset.dtype} {list(dataset.shape)}" for key, dataset in found.items()]
    except READ_ERRORS as error:
        raise FailedWork(f"{path}: expected an HDF5 file, found: {error}") from error
    rest = f", and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return f"{path}, which holds {', '.join(listed[:_LISTED]) or 'no array'}{rest}"


def _is_file(root: StoragePath) -> bool:
    if isinstance(root, RemotePath):
        return any(fnmatch.fnmatchcase(root.name, pattern) for pattern in _PATTERNS)
    return root.is_file()


def _group_of(located: EpisodeLocation) -> str:
    """The path of an episode's group in its file; "" where the episode is the file."""
    return located.reference.key.removeprefix(f"{located.group}#") if located.group else ""


def _list_groups(path: StoragePath, pattern: str) -> list[str]:
    """The groups whose path matches a pattern such as `data/demo_*`. Raises Rejected where there are none."""
    parts = pattern.strip("/").split("/")
    try:
        with open_hdf5_log(path, levels=len(parts)) as file:
            groups = list(_match(file["/"], parts))
            top = ", ".join(file) or "nothing"
    except READ_ERRORS as error:
        if passing := transient_cause(error):
            raise passing from error
        raise Rejected("unreadable_hdf5", f"{path}: {error}") from error
    if not groups:
        raise Rejected("missing_key", f"{path}: expected groups {pattern}, as the entry's `episodes` says, found {top}")
    return groups


def _match(group: h5py.Group, parts: Sequence[str], before: str = "") -> Iterator[str]:
    for name in sorted(name for name in group if fnmatch.fnmatchcase(name, parts[0])):
        item = group[name]
        if not isinstance(item, h5py.Group):
            continue
        if len(parts) == 1:
            yield before + name
        else:
            yield from _match(item, parts[1:], f"{before}{name}/")


def _datasets_below(group: h5py.Group) -> dict[str, h5py.Dataset]:
    """Every array at or below a group, by its path from there."""
    found: dict[str, h5py.Dataset] = {}

    def add(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset) and item.shape is not None:
            found[name] = item

    group.visititems(add)
    return found


def _needed_keys(adapter: Adapter, found: Collection[str]) -> list[str]:
    """The keys that the entry names; of parts that only some episodes have, those that are there."""
    parts = (*adapter.state.values(), *adapter.action.values())
    keys = [s.key for part in parts for s in part.sources if part.when == "always" or s.key in found]
    return list(dict.fromkeys([*keys, *adapter.idle_when]))


def _count_steps(found: Mapping[str, h5py.Dataset], adapter: Adapter, where: str) -> int:
    """The steps of the keys that the entry names, which must be as long as each other; without any, of most arrays."""
    needed = _needed_keys(adapter, found)
    for key in needed:
        if key not in found or not found[key].ndim:
            listed = ", ".join(found) or "no array"
            hint = "" if adapter.episodes else _hint_at_groups(found)
            raise Rejected("missing_key", f"{where}: expected {key}, found {listed}{hint}")
    lengths = {key: len(found[key]) for key in needed}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{key} {n}" for key, n in lengths.items())
        raise Rejected("unequal_lengths", f"{where}: expected one row a step of every key of the entry, found {listed}")
    if lengths:
        return next(iter(lengths.values()))
    counts = Counter(len(dataset) for dataset in found.values() if dataset.ndim and len(dataset) > 1)
    if not counts:
        raise Rejected("no_steps", f"{where}: expected arrays of several steps, found none")
    return counts.most_common(1)[0][0]


def _hint_at_groups(found: Mapping[str, h5py.Dataset]) -> str:
    """Where a file looks like one of many episodes, how to say so: groups of one parent that hold the same keys."""
    pattern, groups = _alike_groups(found)
    if not pattern:
        return ""
    return f". It holds {len(groups)} groups alike: say `episodes: {pattern}` if each is an episode"


def _alike_groups(found: Mapping[str, h5py.Dataset]) -> tuple[str, list[str]]:
    """A pattern of groups of one parent that hold the same keys, and these groups; empty where there are none."""
    for depth in (1, 2):
        keys: dict[tuple[str, ...], set[str]] = {}
        for parts in (key.split("/") for key in found):
            if len(parts) > depth:
                keys.setdefault(tuple(parts[:depth]), set()).add("/".join(parts[depth:]))
        for parent in dict.fromkeys(group[:-1] for group in keys):
            inside = {group: held for group, held in keys.items() if group[:-1] == parent}
            first = next(iter(inside.values()))
            if len(inside) > 1 and all(held == first for held in inside.values()):
                return "/".join((*parent, "*")), ["/".join(group) for group in inside]
    return "", []


def probe(source: str, probe: Adapter) -> Adapter:
    """Completes an entry that asks for nothing: where the first file holds an episode a group, it says so."""
    return replace(probe, episodes=_look_at_groups(source)[0])


def describe(source: str, found: Found) -> SourceFacts:
    """Returns what an entry has to say besides its keys, for `embodimix inspect`."""
    pattern, n, is_sure = _look_at_groups(source)
    if not pattern:
        return SourceFacts(dialect="HDF5, an episode a file")
    why = f"the file holds {n} groups with the same keys"
    entry = f'"{pattern}"' if is_sure else '"?"'
    why += ": each is an episode" if is_sure else f": {pattern} if each is an episode, remove the key if not"
    return SourceFacts(dialect=f"HDF5, an episode a group ({pattern})", entry={"episodes": (entry, why)})


def _look_at_groups(source: str) -> tuple[str, int, bool]:
    """The pattern of an input's episodes within a file, how many groups match in the first, and whether that is sure.

    Groups count where they hold every array of the file and are numbered; sure are those that are called episodes, or
    differ in length, as parts of one robot would not. Empty where the first file holds no such groups.
    """
    root = source_root(source)
    path = root if _is_file(root) else next(iter(scan_files(root, *_PATTERNS).found), None)
    if path is None:
        return "", 0, False
    try:
        with open_hdf5_log(path) as file:
            found = _datasets_below(file["/"])
            pattern, groups = _alike_groups(found)
            outside = [key for key in found if not any(key.startswith(f"{group}/") for group in groups)]
            lengths = {group: max(map(len, _arrays_in(found, group)), default=0) for group in groups}
    except READ_ERRORS:
        return "", 0, False
    names = [group.rpartition("/")[2] for group in groups]
    if not pattern or outside or not all(any(letter.isdigit() for letter in name) for name in names):
        return "", 0, False
    is_called_so = all(any(word in name.lower() for word in _EPISODE_WORDS) for name in names)
    return pattern, len(groups), is_called_so or len(set(lengths.values())) > 1


def _arrays_in(found: Mapping[str, h5py.Dataset], group: str) -> list[h5py.Dataset]:
    return [dataset for key, dataset in found.items() if key.startswith(f"{group}/") and dataset.ndim]


def _read_numbers(found: Mapping[str, h5py.Dataset], t: int, adapter: Adapter, where: str) -> dict[str, NDArray]:
    """The arrays of numbers of t steps; of those that the entry does not name, the ones that can be read."""
    needed = set(_needed_keys(adapter, found))
    arrays: dict[str, NDArray] = {}
    for key, dataset in found.items():
        # A pose may be a 4x4 matrix a step; of what no part names, such arrays may be pictures or point clouds.
        is_numbers = dataset.dtype.kind in "fiub" and dataset.ndim in ((1, 2, 3) if key in needed else (1, 2))
        if key not in needed and (not is_numbers or len(dataset) != t or _holds_pictures(dataset)):
            continue
        if not is_numbers:
            shape = f"{dataset.dtype} {list(dataset.shape)}"
            raise Rejected("wrong_dims", f"{where}: {key}: expected numbers, one row a step, found {shape}")
        try:
            arrays[key] = read_array(dataset, f"{where}: {key}", adapter.sparse_chunks)
        except Rejected:
            if key in needed:
                raise
    return arrays


def _holds_pictures(dataset: h5py.Dataset) -> bool:
    """Whether an array is pictures [t, y, x, 3], or encoded ones, known by their first bytes: others may be texts."""
    if is_pictures(dataset):
        return bool(dataset.shape[-1] == 3)
    if not is_encoded(dataset) or not len(dataset):
        return False
    first = dataset[0]
    return (first.tobytes() if isinstance(first, np.ndarray) else bytes(first)).startswith(_PICTURE_STARTS)


def _read_language(
    file: h5py.File, group: h5py.Group, adapter: Adapter, t: int, where: str
) -> tuple[tuple[str, ...], tuple[str, ...] | None, dict[str, str]]:
    """Instructions, the text of each step, and what was concluded: the entry's keys first, then usual ones."""
    texts: dict[str, None] = {}
    step_text: tuple[str, ...] | None = None
    for key in adapter.language:
        named = read_named_texts(group, key) or read_named_texts(file["/"], key)
        if len(named) == t > 1 and len(set(named)) > 1:
            step_text = step_text or named
        texts |= dict.fromkeys(text for text in named if text)
    step_text = step_text or read_step_text(group, t, where)
    if texts:
        return tuple(texts), step_text, {}
    usual = read_instruction(group) or read_instruction(file["/"])
    note = "HDF5: instructions are taken from a usual key, which the entry does not name"
    return ((usual,), step_text, {"language": note}) if usual else ((), step_text, {})


def _read_rate(file: h5py.File, group: h5py.Group) -> float | None:
    stated = (node.attrs.get(key) for node in (group, file) for key in _RATES)
    rates = (float(value) for value in stated if isinstance(value, (int, float, np.number)))
    return next((rate for rate in rates if np.isfinite(rate) and rate > 0), None)


def _read_flags(group: h5py.Group) -> dict[str, float]:
    """The single numbers among an episode's attributes, for `keep_when`."""
    values = {key: value for key, value in group.attrs.items() if isinstance(value, (bool, int, float, np.generic))}
    return {key: float(value) for key, value in values.items() if np.asarray(value).dtype.kind in "fiub"}
