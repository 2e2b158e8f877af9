"""Episodes that occur twice, and gaps and variants in the language."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.contract.words import counted
from pipelines.quality.findings import Finding, finding
from pipelines.shards.stored_episodes import StoredEpisode

_PLACEHOLDERS = {
    "",
    "none",
    "null",
    "nan",
    "n/a",
    "na",
    "unknown",
    "todo",
    "tbd",
    "test",
    "dummy",
    "placeholder",
    "no instruction",
    "no language",
    "empty",
    "instruction",
    "language instruction",
    "...",
}


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What two copies of an episode have in common. motion: hash of state and action, "" without vectors."""

    where: str
    split: str
    episode_id: str
    motion: str


@dataclass(frozen=True, kw_only=True)
class LanguageFacts:
    """The texts of an episode: its task and all instructions that say something."""

    where: str
    task: str
    says_something: bool


def measure_identity(episode: StoredEpisode) -> Identity:
    """Returns what distinguishes an episode from others."""
    digest = hashlib.sha256(episode.state.tobytes() + episode.action.tobytes()).hexdigest()
    moves = episode.has_vectors and episode.n_steps > 2 and bool((episode.state != episode.state[0]).any())
    return Identity(
        where=episode.where, split=episode.split, episode_id=episode.episode_id, motion=digest if moves else ""
    )


def conclude_duplicates(scope: str, found: Sequence[Identity]) -> list[Finding]:
    """No episode occurs twice, least of all in two splits."""
    groups: dict[str, list[Identity]] = defaultdict(list)
    for identity in found:
        groups[identity.motion or identity.episode_id].append(identity)
    copies = [group for group in groups.values() if len(group) > 1]
    across = [group for group in copies if len({i.split for i in group}) > 1]
    within = [group for group in copies if len({i.split for i in group}) == 1]
    findings = []
    if across:
        splits = sorted({i.split for group in across for i in group})
        advice = "Remove the copies from one split: a validation on them measures memory."
        findings.append(_copies("leak", "error", " and ".join(splits), across, advice))
    if within:
        advice = "Convert again without the copies, or give them a smaller multiplier: they count several times."
        findings.append(_copies("duplicate", "warning", scope, within, advice))
    return findings


def measure_language(episode: StoredEpisode) -> LanguageFacts:
    """Returns whether an episode says what is done in it."""
    return LanguageFacts(where=episode.where, task=episode.task, says_something=says_something(episode))


def says_something(episode: StoredEpisode) -> bool:
    """Whether any text of the episode is more than a placeholder."""
    return any(_plain(text) not in _PLACEHOLDERS for text in (episode.task, *episode.language))


def conclude_language(scope: str, found: Sequence[LanguageFacts]) -> list[Finding]:
    """Every episode has an instruction, and one task one spelling."""
    findings = []
    silent = [language.where for language in found if not language.says_something]
    if silent:
        evidence = f"{len(silent)} of {counted(found, 'episode has', 'episodes have')} no instruction, or a placeholder"
        advice = "Name the adapter's language keys, give `--task`, or annotate: `embodimix annotate`."
        findings.append(finding("no_language", "warning", scope, evidence, advice, silent))
    spellings: dict[str, dict[str, str]] = defaultdict(dict)
    for language in found:
        spellings[_plain(language.task)].setdefault(language.task, language.where)
    variants = [texts for plain, texts in spellings.items() if len(texts) > 1 and plain not in _PLACEHOLDERS]
    if variants:
        listed = ", ".join(repr(text) for text in variants[0])
        evidence = f"{counted(variants, 'task is', 'tasks are')} spelled in several ways, such as {listed}"
        advice = "Choose one spelling: a mixture that groups by task gives each spelling a weight of its own."
        where = [episode for texts in variants for episode in texts.values()]
        findings.append(finding("language_variants", "warning", scope, evidence, advice, where))
    return findings


def _plain(text: str) -> str:
    """A text without case, surrounding punctuation and repeated blanks.

    >>> _plain(" Pick  the_cube. ")
    'pick the cube'
    """
    return re.sub(r"[\s_]+", " ", text).strip(" .!?;:,\"'").casefold()


def _copies(kind: str, severity: str, scope: str, groups: Sequence[Sequence[Identity]], advice: str) -> Finding:
    exact = sum(len({i.episode_id for i in group}) < len(group) for group in groups)
    evidence = (
        f"{counted(groups, 'episode occurs', 'episodes occur')} {sum(map(len, groups))} times; {exact} with equal "
        f"pictures and language, {len(groups) - exact} with equal state and action only"
    )
    where = [" = ".join(i.where for i in group) for group in groups]
    return finding(kind, severity, scope, evidence, advice, where)  # type: ignore[arg-type]
