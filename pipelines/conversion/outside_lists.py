"""Lists from outside in a conversion: which episodes are kept, and what each is called, by the keys of the source."""

import functools
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from pipelines.contract.errors import UsageError
from pipelines.contract.native import EpisodeLocation, Found, NativeEpisode, Reject, Rejected
from pipelines.conversion.plan import Job
from pipelines.conversion.results import ShardResult
from pipelines.shards.episode_lists import (
    EpisodeList,
    EpisodeTexts,
    count_unmatched,
    join_key,
    read_episode_list,
    read_episode_texts,
)
from pipelines.storage.files import write_atomically
from pipelines.storage.paths import as_storage_path

_EPISODES, _TEXTS = "listed_episodes.json", "listed_texts.json"
# Formats whose scan does not open the records that hold an episode's own name.
_NAMED_INSIDE = ("rlds",)
_NOT_LISTED = "is not in the list of --episodes"


@dataclass(frozen=True, kw_only=True)
class OutsideLists:
    """What a user gives beside the source; None for nothing."""

    episodes: EpisodeList | None = None
    texts: EpisodeTexts | None = None


NO_LISTS = OutsideLists()


def read_lists(episodes: str, texts: str) -> OutsideLists:
    """Reads the given files. Raises UsageError, also for a list of steps: a conversion keeps whole episodes."""
    listed = read_episode_list(episodes) if episodes else None
    if listed and listed.has_ranges:
        raise UsageError(
            f"--episodes {episodes}: expected whole episodes, found ranges of steps. Convert without it, and let the "
            f"mixture take these steps: `filters: [{{keep: {{list: {listed.name}}}}}]`"
        )
    return OutsideLists(episodes=listed, texts=read_episode_texts(texts) if texts else None)


def only_listed(found: Found, lists: OutsideLists, format: str) -> Found:
    """Leaves out, as rejects, the episodes that are not listed; those of which only workers see the name stay."""
    if lists.episodes is None or format in _NAMED_INSIDE:
        return found
    is_listed = {located: located.reference.key in lists.episodes for located in found.episodes}
    others = [_reject_unlisted(located) for located, listed in is_listed.items() if not listed]
    kept = tuple(located for located, listed in is_listed.items() if listed)
    return replace(found, episodes=kept, rejects=(*found.rejects, *others))


def save_lists(job: Job, lists: OutsideLists) -> None:
    """Writes what workers need of the lists into the work folder."""
    if lists.episodes:
        write_atomically(job.work / _EPISODES, json.dumps(sorted(lists.episodes.ranges)).encode())
    if lists.texts:
        write_atomically(job.work / _TEXTS, json.dumps(lists.texts.texts).encode())


def apply_lists(job: Job, located: EpisodeLocation, native: NativeEpisode) -> NativeEpisode:
    """Returns the episode with its listed instructions. Raises Rejected (filtered) where it is not listed."""
    keys = [join_key(located.reference.key), join_key(native.reference.key)]
    if job.episodes_sha256 and not any(
        key in _load_episodes(_path(job, _EPISODES), job.episodes_sha256) for key in keys
    ):
        raise Rejected("filtered", f"{native.reference.key} {_NOT_LISTED}")
    if not job.texts_sha256:
        return native
    listed = _load_texts(_path(job, _TEXTS), job.texts_sha256)
    texts = next((tuple(listed[key]) for key in reversed(keys) if key in listed), ())
    if not texts:
        note = "the list of --language has no text for the episode, which keeps its own"
        return replace(native, inferred={**native.inferred, "listed_language": note})
    return replace(native, language=texts, task=texts[0])


def count_rows_without_episode(lists: OutsideLists, results: Sequence[ShardResult]) -> dict[str, int]:
    """By option, the rows that match no episode that was kept; options whose rows all do are left out."""
    keys = {key for result in results for kept in result.kept for key in (kept.source_key, kept.record_key) if key}
    unmatched = {}
    if lists.episodes:
        n_lost = count_unmatched(lists.episodes.ranges, keys) + lists.episodes.n_unknown
        unmatched[f"--episodes {lists.episodes.name}"] = n_lost
    if lists.texts:
        unmatched[f"--language {lists.texts.name}"] = count_unmatched(lists.texts.texts, keys) + lists.texts.n_unknown
    return {name: n for name, n in unmatched.items() if n}


def _reject_unlisted(located: EpisodeLocation) -> Reject:
    reference = located.reference
    return Reject(
        source_uri=reference.uri,
        source_key=reference.key,
        split=reference.split,
        level="episode",
        start=0,
        end=0,
        reason="filtered",
        detail=f"{reference.key} {_NOT_LISTED}",
    )


def _path(job: Job, name: str) -> str:
    return str(job.work / name)


@functools.lru_cache(maxsize=2)
def _load_episodes(path: str, sha256: str) -> Collection[str]:
    return frozenset(json.loads(as_storage_path(path).read_bytes()))


@functools.lru_cache(maxsize=2)
def _load_texts(path: str, sha256: str) -> Mapping[str, Sequence[str]]:
    content: Mapping[str, Sequence[str]] = json.loads(as_storage_path(path).read_bytes())
    return content
