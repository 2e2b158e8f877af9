"""The page of a rollout: success of each task with its interval, then what the policies said and their films."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from pipelines.contract.words import counted
from pipelines.pages.charts import intervals
from pipelines.pages.page import page, table
from trainers.simulators.rollouts import Outcome, TaskResult

CONDITIONS = {
    "task": "the task's sentence",
    "blind": "the task's sentence, with black pictures",
    "script": "the steps of one who knows the scene",
    "chooser": "a high-level policy learned from labelled segments",
}
HEADS = ("task", "asked by", "success", "95 %", "episodes", "mean steps of successes")


def result_rows(results: Sequence[TaskResult]) -> list[list[str]]:
    """The cells of the table of success, in the order of `HEADS`."""
    return [
        [
            one.task,
            CONDITIONS.get(one.condition, f"a vision model, {one.condition.removeprefix('model-')}"),
            f"{100 * one.successes / one.episodes:.0f} %",
            f"{100 * one.low:.0f}-{100 * one.high:.0f} %",
            f"{one.successes}/{one.episodes}",
            "-" if one.steps is None else f"{one.steps:.0f}",
        ]
        for one in results
    ]


def render(
    header: Mapping[str, Any],
    results: Sequence[TaskResult],
    outcomes: Sequence[Outcome],
    counts: Mapping[str, Mapping[str, int]],
) -> str:
    """The page as HTML. counts: what the high-level model was asked and answered, by condition."""
    title = f"{header.get('run', header.get('server', ''))} in {header['env']}"
    about = ", ".join(f"{key} {value}" for key, value in header.items() if key not in ("schema", "env", "run"))
    marks = [
        (f"{one.task}, {one.condition} ({one.episodes})", one.successes / one.episodes, one.low, one.high)
        for one in results
    ]
    sections = [
        f"<h1>{escape(title)}</h1><p>{escape(about)}</p>",
        f"<h2>Success</h2><p>The simulator judges; intervals are Wilson's, of 95 %.</p>{intervals(marks)}",
        table(HEADS, result_rows(results)),
        *(f"<h2>The high-level model</h2>{_counts(counts)}" for _ in range(bool(counts))),
        f"<h2>Sentences</h2>{_sentences(outcomes)}",
        f"<h2>Films</h2>{_films(outcomes)}",
    ]
    return page(title, sections)


def _counts(counts: Mapping[str, Mapping[str, int]]) -> str:
    names = list(next(iter(counts.values())))
    return table(("asked by", *names), [[name, *map(str, of.values())] for name, of in counts.items()])


def _sentences(outcomes: Sequence[Outcome]) -> str:
    said: dict[tuple[str, str, str], int] = {}
    for outcome in outcomes:
        for sentence in outcome.sentences:
            key = (outcome.episode.task, outcome.episode.condition, sentence)
            said[key] = said.get(key, 0) + 1
    return table(("task", "asked by", "sentence", "episodes"), [[*key, str(count)] for key, count in said.items()])


def _films(outcomes: Sequence[Outcome]) -> str:
    shown = [outcome for outcome in outcomes if outcome.video]
    if not shown:
        return '<p class="muted">None: --videos N films the first episodes of each task.</p>'
    films = [
        f'<figure><video controls loop muted width="360" src="{escape(one.video)}"></video><figcaption>'
        f"{escape(one.episode.task)}, scene {one.episode.seed}, {escape(one.episode.condition)}: "
        f"{'success' if one.success else 'no success'} after {counted(one.steps, 'step')}</figcaption></figure>"
        for one in shown
    ]
    return f'<div class="row">{"".join(films)}</div>'
