"""The command `embodimix annotate label`: which labeler, the estimated cost, the results."""

import argparse
import json
import shlex
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

from annotation_tools.episodes import EpisodeStore, check_annotator
from annotation_tools.labels.http import HttpLabeler
from annotation_tools.labels.labelers import Labeler, RulesLabeler, SubprocessLabeler
from annotation_tools.labels.run import (
    AnswerCache,
    CostEstimate,
    LabelLimits,
    LabelOutcome,
    estimate_run,
    label_run,
    write_dead_letters,
)
from annotation_tools.merge import read_tables
from pipelines.contract.episode import Segment
from pipelines.contract.errors import UsageError
from pipelines.contract.words import counted
from pipelines.segments.tables import check_own_table, overlay, write_segments
from pipelines.storage.paths import StoragePath


def run_label(arguments: argparse.Namespace) -> int:
    """Labels a dataset by the arguments; see `embodimix annotate label --help`."""
    if arguments.beam_options and not arguments.beam:
        raise UsageError(f"unrecognized arguments: {' '.join(arguments.beam_options)} (Beam's options need --beam)")
    labeler = choose_labeler(arguments)
    name = check_annotator(labeler.name)
    store = EpisodeStore(arguments.dataset)
    proposals = read_proposals(store, arguments.table)
    out = arguments.out or arguments.dataset / "segments"
    # Before anything is asked and paid for.
    check_own_table(out / f"{name}.parquet", name, labeler.source)
    cache = AnswerCache(out / "answers")
    estimate = estimate_run(store, labeler, proposals, cache)
    if not arguments.json:
        print(estimate_line(estimate), flush=True)
    if arguments.estimate:
        if arguments.json:
            print(json.dumps(asdict(estimate)))
        return 0
    outcome = _run(arguments, store, labeler, proposals, cache, estimate)
    table, letters = out / f"{name}.parquet", out / f"{name}.dead_letters.jsonl"
    write_segments(table, outcome.annotations)
    write_dead_letters(letters, outcome.dead_letters)
    _report(arguments.json, outcome, len(proposals), table, letters)
    return 1 if outcome.dead_letters or outcome.stopped else 0


def choose_labeler(arguments: argparse.Namespace) -> Labeler:
    """Makes the labeler that the options name. Raises UsageError where they name none, or more than one."""
    implied = "http" if arguments.url else "command" if arguments.program else None
    backend = arguments.backend or implied
    if backend is None or (implied and backend != implied) or (arguments.url and arguments.program):
        raise UsageError("expected one of --backend rules, --url URL --model NAME, --command PROGRAM")
    if backend == "rules":
        return RulesLabeler(name=arguments.name or "rules")
    if backend == "command":
        return SubprocessLabeler(command=_words(arguments.program), name=arguments.name or "command")
    if not (arguments.url and arguments.model):
        raise UsageError("--backend http: expected --url and --model")
    return HttpLabeler(
        url=arguments.url,
        model=arguments.model,
        key_variable=arguments.key_variable,
        is_plain_allowed=arguments.plain_http_key,
        name=arguments.name,
        usd_in=arguments.usd_in,
        usd_out=arguments.usd_out,
    )


def _words(program: list[str]) -> tuple[str, ...]:
    """A program given as words, or as one quoted line, which may then have options of its own."""
    is_line = len(program) == 1 and not Path(program[0]).exists()
    return tuple(shlex.split(program[0]) if is_line else program)


def read_proposals(store: EpisodeStore, table: StoragePath | None) -> list[tuple[str, tuple[Segment, ...]]]:
    """The segments to label, by episode: a table's, or those that the conversion stored."""
    if table is not None:
        (annotations,) = read_tables(store, [table])
        return list(overlay([annotations]).items())
    segments = ((episode_id, store.episode(episode_id).segments) for episode_id in store.briefs)
    return [entry for entry in segments if entry[1]]


def estimate_line(estimate: CostEstimate) -> str:
    """The estimate in one line."""
    usage = estimate.usage
    cost = f", about {usage.usd:.2f} USD" if usage.usd else ""
    return (
        f"{counted(estimate.episodes, 'episode')}, {counted(estimate.questions, 'question')}, {estimate.cached} known "
        f"already; about {usage.tokens_in} tokens in, {usage.tokens_out} out{cost}"
    )


def _run(
    arguments: argparse.Namespace,
    store: EpisodeStore,
    labeler: Labeler,
    proposals: list[tuple[str, tuple[Segment, ...]]],
    cache: AnswerCache,
    estimate: CostEstimate,
) -> LabelOutcome:
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    limits = LabelLimits(workers=arguments.workers, per_minute=arguments.per_minute, usd=arguments.max_usd)
    tool_version = version("embodimix")
    if arguments.beam:
        from annotation_tools.labels.beam import label_with_beam
        from pipelines.jobs.beam_options import make_beam_options

        if arguments.max_usd is not None and estimate.usage.usd > arguments.max_usd:
            raise UsageError(f"--max-usd {arguments.max_usd}: the estimate is {estimate.usage.usd:.2f} USD")
        return label_with_beam(
            arguments.dataset,
            labeler,
            proposals,
            cache.directory,
            limits,
            make_beam_options(arguments.beam_options),
            created,
            tool_version,
        )
    from pipelines.contract.progress import progress_bar

    with progress_bar(len(proposals), "episode", "label", shown=not arguments.json) as bar:
        return label_run(
            store, labeler, proposals, cache, limits, created, tool_version, on_done=lambda _: bar.update()
        )


def _report(as_json: bool, outcome: LabelOutcome, n_episodes: int, table: StoragePath, letters: StoragePath) -> None:
    labelled = len([key for key, _ in groupby(outcome.annotations, key=lambda a: a.episode_id)])
    if as_json:
        found = {"table": str(table), "episodes": labelled, "of": n_episodes, "dead_letters": len(outcome.dead_letters)}
        print(json.dumps({**found, "asked": outcome.asked, "usage": asdict(outcome.usage), "stopped": outcome.stopped}))
        return
    print(f"{labelled} of {counted(n_episodes, 'episode')} labelled, {counted(outcome.asked, 'question')} asked")
    if outcome.stopped:
        print("the budget is spent; the same command with a greater --max-usd continues")
    if outcome.dead_letters:
        first = outcome.dead_letters[0]
        print(f"{counted(outcome.dead_letters, 'question')} without a usable answer: {letters}")
        print(f"the first: {first.reason}, {first.detail}")
    print(f"wrote {table}")
