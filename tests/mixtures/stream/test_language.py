"""Which text a sample gets: its step's own, its episode's, or none, and never a motion phrase unless asked for."""

from dataclasses import replace
from pathlib import Path

import pytest

from annotation_tools.episodes import EpisodeStore
from annotation_tools.merge import bake
from mixtures.mixture import open_mixture
from mixtures.stream.batches import Stream
from pipelines.contract.episode import Episode, Segment
from pipelines.contract.errors import FailedWork
from pipelines.segments.tables import Annotation
from tests.support.inputs.mixture_data import make_episode, write_dataset, write_spec

OPEN, CLOSE = "open the drawer", "close the drawer"


def spoken(number: int, segments: tuple[Segment, ...], language: tuple[str, ...]) -> Episode:
    episode = make_episode(number, cameras=("base_0_rgb",), language=language, segments=False)
    return replace(episode, segments=segments, task=language[0] if language else "")


def drawn(folder: Path, episode: Episode, language: str = "{}") -> list[set[str]]:
    """The texts that positions 0 to 479 draw of each of the 12 steps."""
    folder.mkdir(exist_ok=True)
    write_dataset(folder, "a", [episode], n_shards=1)
    spec = write_spec(folder, f"datasets: [{{path: a/1.0.0}}]\nlanguage: {language}\n")
    texts: list[set[str]] = [set() for _ in range(12)]
    with Stream(open_mixture(spec, cache=folder / "cache"), batch_size=48) as stream:
        for batch in stream.batches(0, 480):
            for step, text in zip(batch.step.tolist(), batch.language, strict=True):
                texts[step].add(text)
    return texts


def test_a_step_never_gets_the_sentence_of_another_step(tmp_path: Path) -> None:
    segments = (
        Segment(start=0, end=5, text=OPEN, source="source"),
        Segment(start=7, end=12, text=CLOSE, source="source"),
    )
    found = drawn(tmp_path, spoken(0, segments, (OPEN, CLOSE)))
    assert found == [{OPEN}] * 5 + [{""}] * 2 + [{CLOSE}] * 5


def test_the_task_of_the_whole_episode_holds_at_every_step(tmp_path: Path) -> None:
    segments = (Segment(start=0, end=5, text=OPEN, source="source"),)
    found = drawn(tmp_path, spoken(0, segments, ("tidy up", "clean the kitchen")))
    assert found == [{OPEN, "tidy up", "clean the kitchen"}] * 5 + [{"tidy up", "clean the kitchen"}] * 7


def test_the_phrase_of_a_proposal_is_drawn_only_where_the_mixture_asks(tmp_path: Path) -> None:
    segments = (Segment(start=0, end=12, text="move the arm slightly"),)
    episode = spoken(0, segments, ("flip the pot",))
    assert drawn(tmp_path / "not", episode) == [{"flip the pot"}] * 12
    assert drawn(tmp_path / "asked", episode, "{proposals: true}") == [{"flip the pot", "move the arm slightly"}] * 12


def test_an_episode_without_language_stays_without(tmp_path: Path) -> None:
    assert drawn(tmp_path, spoken(0, (Segment(start=0, end=12, text="move up"),), ())) == [{""}] * 12


@pytest.mark.parametrize("source", ["human", "model", "source"])
def test_labelled_segments_are_texts(tmp_path: Path, source: str) -> None:
    segments = (Segment(start=0, end=12, text="grasp", source=source),)  # type: ignore[arg-type]
    assert drawn(tmp_path, spoken(0, segments, ("fold",)), "{segment: 1, task: 0}") == [{"grasp"}] * 12


def test_a_lock_from_before_without_segment_texts_goes_on(tmp_path: Path) -> None:
    write_dataset(tmp_path, "a", [make_episode(0)], n_shards=1)
    spec = write_spec(tmp_path, "datasets: [{path: a/1.0.0}]\nlanguage: {segment: 0}\n")
    mixture = open_mixture(spec, cache=tmp_path / "cache")
    lock = mixture.lock()
    del lock["language"]["proposals"], lock["normalization"]
    mixture.check_lock(lock)


def test_a_lock_from_before_drew_the_phrases_of_proposals(tmp_path: Path) -> None:
    write_dataset(tmp_path, "a", [make_episode(0)], n_shards=1)
    mixture = open_mixture(write_spec(tmp_path, "datasets: [{path: a/1.0.0}]\n"), cache=tmp_path / "cache")
    lock = mixture.lock()
    del lock["language"]["proposals"], lock["normalization"]
    with pytest.raises(FailedWork, match="language: proposals True became False\n"):
        mixture.check_lock(lock)


def test_a_merge_of_other_segments_leaves_every_step_its_own_sentence(tmp_path: Path) -> None:
    segments = (
        Segment(start=0, end=5, text=OPEN, source="source"),
        Segment(start=7, end=12, text=CLOSE, source="source"),
    )
    write_dataset(tmp_path, "a", [spoken(0, segments, (OPEN, CLOSE))], n_shards=1)
    store = EpisodeStore(tmp_path / "a" / "1.0.0")
    (episode_id,) = store.briefs
    for source in ("human", "source"):
        said = Annotation(
            episode_id=episode_id,
            episode_hash=store.key(episode_id).episode_hash,
            segment=Segment(start=0, end=12, text="use the drawer", source=source),  # type: ignore[arg-type]
            annotator="ann",
            created="2026-01-01T00:00:00Z",
            tool_version="0.1.0",
        )
        version = {"human": "1.1.0", "source": "1.2.0"}[source]
        bake(store.dataset, [said], tmp_path / "a" / version, version)
        spec = write_spec(tmp_path, f"datasets: [{{path: a/{version}}}]\nlanguage: {{segment: 0, task: 1}}\n")
        with Stream(open_mixture(spec, cache=tmp_path / "cache"), batch_size=48) as stream:
            texts = {(s, t) for b in stream.batches(0, 96) for s, t in zip(b.step.tolist(), b.language, strict=True)}
        assert texts == {(step, OPEN if step < 5 else "" if step < 7 else CLOSE) for step in range(12)}
