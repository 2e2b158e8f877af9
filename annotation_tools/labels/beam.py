"""Labels at scale: the same questions asked by a Beam job, whose workers share the folder of answers."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from annotation_tools.episodes import EpisodeStore
from annotation_tools.labels.labelers import Labeler, LabelerAnswer, QuestionRefused, Usage
from annotation_tools.labels.request import LabelRequest
from annotation_tools.labels.run import AnswerCache, DeadLetter, LabelLimits, LabelOutcome, label_episode, label_run
from pipelines.contract.episode import Segment, SegmentSource
from pipelines.storage.files import write_atomically
from pipelines.storage.paths import StoragePath, as_storage_path

Proposals = Sequence[tuple[str, Sequence[Segment]]]


class LabelEpisode(beam.DoFn):
    """Asks what has no answer yet about an episode and puts answers into the cache; yields the questions that failed.

    dataset, cache: folders that every worker sees.
    """

    def __init__(self, dataset: str, labeler: Labeler, cache: str, limits: LabelLimits) -> None:
        self.dataset, self.labeler, self.cache, self.limits = dataset, labeler, cache, limits

    def setup(self) -> None:
        self.store = EpisodeStore(self.dataset)
        self.answers = AnswerCache(as_storage_path(self.cache))

    def process(self, element: tuple[str, Sequence[Segment]]) -> Iterator[DeadLetter]:
        episode_id, segments = element
        _, dead = label_episode(self.store, self.labeler, episode_id, segments, self.answers, self.limits)
        letters = _letters_path(as_storage_path(self.cache), episode_id)
        if dead:
            write_atomically(letters, json.dumps([asdict(letter) for letter in dead]).encode())
        else:
            letters.unlink(missing_ok=True)
        yield from dead


def label_with_beam(
    dataset: StoragePath,
    labeler: Labeler,
    proposals: Proposals,
    cache: StoragePath,
    limits: LabelLimits,
    options: PipelineOptions,
    created: str,
    tool_version: str,
) -> LabelOutcome:
    """Runs the job and collects its results; a rerun asks only questions without a usable answer.

    Limits on rate and retries hold for each worker; a limit on cost is for the estimate beforehand.
    """
    with beam.Pipeline(options=options) as pipeline:
        (
            pipeline
            | "Episodes" >> beam.Create([(episode_id, tuple(segments)) for episode_id, segments in proposals])
            | "Spread over workers" >> beam.Reshuffle()
            | "Ask what is not known" >> beam.ParDo(LabelEpisode(str(dataset), labeler, str(cache), limits))
        )
    letters = [letter for episode_id, _ in proposals for letter in _read_letters(cache, episode_id)]
    failed = {letter.episode_id for letter in letters}
    answered = [entry for entry in proposals if entry[0] not in failed]
    known = _Known(
        name=labeler.name, fingerprint=labeler.fingerprint, wants_pictures=labeler.wants_pictures, source=labeler.source
    )
    once = LabelLimits(attempts=1, answers=1)
    outcome = label_run(EpisodeStore(dataset), known, answered, AnswerCache(cache), once, created, tool_version)
    return replace(outcome, dead_letters=(*letters, *outcome.dead_letters), asked=0)


@dataclass(frozen=True, kw_only=True)
class _Known:
    """Stands for a labeler whose answers are all in the cache."""

    name: str
    fingerprint: str
    wants_pictures: bool
    source: SegmentSource

    def answer(self, request: LabelRequest, complaint: str) -> LabelerAnswer:
        raise QuestionRefused("expected an answer of the job, found none")

    def estimate(self, request: LabelRequest) -> Usage:
        return Usage()


def _letters_path(cache: StoragePath, episode_id: str) -> StoragePath:
    return cache / "failed" / f"{episode_id}.json"


def _read_letters(cache: StoragePath, episode_id: str) -> list[DeadLetter]:
    path = _letters_path(cache, episode_id)
    return [DeadLetter(**letter) for letter in json.loads(path.read_text())] if path.exists() else []
