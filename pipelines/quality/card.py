"""The data card of a stored dataset: what is in it, where it came from, what was left out, and what is wrong in it."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from pipelines.contract.reject_reasons import explain
from pipelines.contract.slots import CAMERAS
from pipelines.contract.words import counted, lasting
from pipelines.quality.card_facts import Facts, NormKeyFacts, gather_facts
from pipelines.quality.card_page import (
    Answer,
    Block,
    Folded,
    Heading,
    PageTable,
    Paragraph,
    frames_figure,
    histogram_figure,
    slots_figure,
    to_html,
    to_markdown,
)
from pipelines.quality.checks import CheckReport, inspect_dataset
from pipelines.quality.findings import Finding
from pipelines.quality.scale import Ratio, is_metric
from pipelines.shards.dataset import Dataset
from pipelines.shards.manifest import Manifest
from pipelines.shards.statistics import NormStatistics
from pipelines.storage.files import write_atomically
from pipelines.storage.paths import StoragePath

_MOST_TEXTS = 40
_SUCCESS = {1: "success", 0: "failure", -1: "unknown (the source does not say)"}
_NO_RATIOS: Mapping[str, Sequence[Ratio]] = MappingProxyType({})
Ratios = Mapping[str, Sequence[Ratio]]


def check_and_write_card(dataset: Dataset, on_episode: Callable[[], object] = lambda: None) -> tuple[list[str], int]:
    """Checks a dataset and writes its card; returns the files' names and the number of findings.

    on_episode: is called after each episode that was checked.
    """
    report = inspect_dataset(dataset, on_episode)
    paths = write_card(dataset.path, gather_facts(dataset), report.findings, report.ratios)
    return [str(path) for path in paths], len(report.findings)


def write_card(
    directory: StoragePath, facts: Facts, findings: Sequence[Finding], ratios: Ratios = _NO_RATIOS
) -> list[StoragePath]:
    """Writes card.md and card.html beside the shards, atomically; returns their paths."""
    blocks = make_card(facts, findings, ratios)
    title = f"{facts.name} {facts.version}"
    contents = {"card.md": to_markdown(blocks), "card.html": to_html(title, blocks)}
    for name, content in contents.items():
        write_atomically(directory / name, content.encode())
    return [directory / name for name in contents]


def write_short_card(
    directory: StoragePath, manifest: Manifest, statistics: Mapping[str, NormStatistics], report: CheckReport
) -> None:
    """Writes card.md at the end of a conversion, from what it knows without reading the dataset again."""
    write_atomically(directory / "card.md", to_markdown(make_short_card(manifest, statistics, report)).encode())


def make_card(facts: Facts, findings: Sequence[Finding], ratios: Ratios = _NO_RATIOS) -> list[Block]:
    """The card's blocks, in reading order."""
    pictures = [block for key in sorted(facts.groups) for block in _frame_blocks(facts.groups[key])]
    groups = [block for key in sorted(facts.groups) for block in _group_blocks(key, facts, ratios.get(key, ()))]
    concluded = (
        [*_partial(facts.manifest), *_inferred(facts.manifest), *_notes(facts.manifest)] if facts.manifest else []
    )
    return [
        *_overview(facts, findings),
        *_quality(findings),
        *_left_out(facts.rejects),
        *_languages(facts),
        *pictures,
        *_embodiments(facts),
        *groups,
        *([Folded("What the reader concluded and noted", concluded)] if concluded else []),
        *_lineage(facts),
    ]


def make_short_card(manifest: Manifest, statistics: Mapping[str, NormStatistics], report: CheckReport) -> list[Block]:
    """The blocks of a conversion's card: counts, norm keys, cameras, findings on vectors, and what was left out."""
    counts = manifest.counts
    text = (
        f"{manifest.adapter['title']}. {counts.episodes_out:,} of {counted(counts.episodes_in, 'episode')}, "
        f"{counted(counts.steps_out, 'step')}, {counts.bytes_out / 1e6:.1f} MB; "
        f"{counted(counts.steps_dropped, 'step')} of kept episodes "
        "were left out."
    )
    keys = [[key, _units(key), f"{s.n_episodes:,}", f"{s.n_steps:,}"] for key, s in sorted(statistics.items())]
    cameras = [[camera, f"{n.present:,}", f"{n.missing:,}"] for camera, n in counts.cameras.items()]
    ratios = [block for key in sorted(report.ratios) for block in _ratio_blocks(key, report.ratios[key])]
    quality = _quality(report.findings) if report.findings else []
    return [
        Heading(f"{manifest.name} {manifest.version}", 1),
        Paragraph(text),
        Paragraph("`embodimix card` adds plots, pictures, texts and the findings of all checks."),
        Heading("Embodiments"),
        PageTable(["norm key", "units", "episodes", "steps"], keys),
        Heading("Cameras"),
        PageTable(["camera", "episodes with it", "without"], cameras),
        *_partial(manifest),
        *quality,
        *ratios,
        *_inferred(manifest),
        *_notes(manifest),
        *_left_out(Counter({("", reason): n for reason, n in counts.rejects.items()})),
        Heading("Lineage"),
        Paragraph(_how(manifest)),
    ]


def _overview(facts: Facts, findings: Sequence[Finding]) -> list[Block]:
    seconds = sum(sum(group.durations_s) for group in facts.groups.values())
    n_bytes = sum(size for _, _, size in facts.splits.values())
    title = facts.manifest.adapter["title"] if facts.manifest else ""
    text = (
        f"{title + '. ' if title else ''}{counted(facts.n_episodes, 'episode')}, {counted(facts.n_steps, 'step')}, "
        f"{lasting(seconds)}, {n_bytes / 1e6:,.1f} MB; {counted(facts.tasks, 'task')}, "
        f"{counted(facts.groups, 'norm key')}."
    )
    splits = [[split, f"{n:,}", f"{t:,}", f"{size / 1e6:,.1f}"] for split, (n, t, size) in facts.splits.items()]
    return [
        Heading(f"{facts.name} {facts.version}", 1),
        Paragraph(text),
        _answer(facts, findings),
        PageTable(["split", "episodes", "steps", "MB"], splits),
    ]


def _answer(facts: Facts, findings: Sequence[Finding]) -> Answer:
    """Whether one may train on it: what the checks found, the licence, the language, and what was left out."""
    errors = [found for found in findings if found.severity == "error"]
    warnings = len(findings) - len(errors)
    kinds = ", ".join(dict.fromkeys(found.kind for found in errors or findings))
    if errors:
        kind, text = "bad", f"Not as it is: {counted(errors, 'error')} ({kinds}) would teach a policy something false."
    elif warnings:
        kind, text = (
            "flag",
            f"It can be trained on; {counted(warnings, 'warning')} ({kinds}): wasted data, or meant so.",
        )
    else:
        kind, text = "good", "It can be trained on: no check found anything (`embodimix check`)."
    episodes, steps = (sum(n for (level, _), n in facts.rejects.items() if level == of) for of in ("episode", "steps"))
    spoken = facts.n_episodes - facts.n_silent
    more = (
        f"Licence: {facts.licence or 'the dataset states none; ask its source, which Lineage names'}.",
        f"Language: {spoken:,} of {counted(facts.n_episodes, 'episode has', 'episodes have')} an instruction; "
        f"{counted(facts.tasks, 'task')}.",
        f"Left out: {counted(episodes, 'episode')} and {counted(steps, 'span')} of steps.",
        f"Look at its episodes, where {facts.name}/ lies: embodimix browse {facts.name}/{facts.version}",
    )
    return Answer(kind, text, more)  # type: ignore[arg-type]


def _embodiments(facts: Facts) -> list[Block]:
    return [
        Heading("Embodiments"),
        PageTable(
            ["norm key", "rate", "episodes", "steps", "hours", "idle steps", "outcome", "cameras", "units"],
            [_group_row(key, group) for key, group in sorted(facts.groups.items())],
        ),
    ]


def _group_row(key: str, group: NormKeyFacts) -> list[str]:
    rates = ", ".join(f"{hz:g} Hz" for hz, _ in group.rates_hz.most_common(3))
    outcome = ", ".join(f"{n:,} {_SUCCESS[value]}" for value, n in group.success.most_common())
    cameras = ", ".join(f"{camera} {n:,}" for camera, n in sorted(group.cameras.items()))
    return [
        key or "unknown",
        rates,
        f"{group.n_episodes:,}",
        f"{group.n_steps:,}",
        f"{sum(group.durations_s) / 3600:.3g}",
        f"{group.n_idle / max(group.n_steps, 1):.0%}",
        outcome,
        cameras,
        _units(key),
    ]


def _quality(findings: Sequence[Finding]) -> list[Block]:
    heading = Heading("Quality")
    if not findings:
        return []
    rows = [[f.severity, f.kind, f.scope, f.evidence, f.advice, f"{f.n_episodes:,}"] for f in findings]
    return [heading, PageTable(["severity", "finding", "where", "evidence", "advice", "episodes"], rows)]


def _partial(manifest: Manifest) -> list[Block]:
    if not manifest.partial:
        return []
    n = manifest.counts.rejects.get("promised_missing", 0)
    return [Paragraph(f"A part of its source, taken on purpose (`--partial`): {n} promised episodes were not there.")]


def _inferred(manifest: Manifest) -> list[Block]:
    """What the source did not state: a reader who trusts the dataset should know what was concluded instead."""
    if not manifest.inferred:
        return []
    rows = [[sentence, f"{n:,}"] for sentence, n in manifest.inferred.items()]
    return [Heading("Inferred"), PageTable(["what the source does not state and was concluded", "episodes"], rows)]


def _notes(manifest: Manifest) -> list[Block]:
    worst = manifest.worst_notes()
    if not worst:
        return []
    rows = [[name, f"{value:.4g}", key] for name, (value, key) in worst.items()]
    return [Heading("Notes of the reader"), PageTable(["note", "greatest", "episode"], rows)]


def _units(norm_key: str) -> str:
    """What the vectors of a norm key are measured in."""
    if not norm_key:
        return "unknown"
    return "metric" if is_metric(norm_key) else f"native to {norm_key.rpartition('/')[2]}"


def _ratio_blocks(key: str, ratios: Sequence[Ratio]) -> list[Block]:
    if not ratios:
        return []
    what = (
        f"Motion for what is commanded, {key}: 1 where the state moves by what the action says, in the same unit; in "
        "brackets what the data allow at 95 %. Slots that hardly move are left out."
    )
    rows = [[str(ratio.slot), ratio.unit, str(ratio), f"{ratio.n_episodes:,}"] for ratio in ratios]
    return [Paragraph(what), PageTable(["slot", "unit", "ratio", "episodes"], rows)]


def _group_blocks(key: str, facts: Facts, ratios: Sequence[Ratio]) -> list[Block]:
    group, statistics = facts.groups[key], facts.statistics.get(key)
    blocks: list[Block] = [Heading(key or "unknown robot")]
    if statistics:
        numbers, plots = _slot_blocks(group, statistics)
        blocks += [plots, Folded("Every slot in numbers", [numbers])]
    blocks += _ratio_blocks(key, ratios)
    for values, what in ((group.durations_s, "episodes"), (group.segments_s, "segments")):
        if values:
            blocks += [Paragraph(_spread(values, what)), histogram_figure(values, f"duration of {what}, s")]
    return blocks


def _frame_blocks(group: NormKeyFacts) -> list[Block]:
    blocks: list[Block] = []
    for sample in group.samples:
        words = f"{sample.task or 'no task'} ({sample.where}), steps {', '.join(map(str, sample.steps))}"
        cameras = sorted(sample.pictures, key=lambda camera: (CAMERAS + (camera,)).index(camera))
        blocks += [frames_figure(sample.pictures[camera], f"{camera}: {words}") for camera in cameras]
    return blocks


def _slot_blocks(group: NormKeyFacts, statistics: NormStatistics) -> tuple[Block, Block]:
    names = {slot: f"{part}[{i}]" for part, slots in group.example.parts.items() for i, slot in enumerate(slots)}
    state_units, action_units = group.example.shown_units("state"), group.example.shown_units("action")
    sides = (("state", statistics.state, state_units), ("action", statistics.action, action_units))
    rows, titles, pairs = [], [], []
    for slot in range(statistics.n_slots):
        for side, numbers, units in sides:
            if numbers.count[slot]:
                values = [numbers.min, numbers.q01, numbers.q50, numbers.q99, numbers.max, numbers.mean, numbers.std]
                cells = [f"{value[slot]:.4g}" for value in values]
                rows.append([str(slot), names.get(slot, "?"), side, units.get(slot, ""), *cells])
        if statistics.state.count[slot] or statistics.action.count[slot]:
            both = dict.fromkeys([state_units.get(slot, ""), action_units.get(slot, "")])
            titles.append(f"{slot}: {names.get(slot, '?')}, {' and '.join(both)}")
            pairs.append((statistics.state.slots[slot], statistics.action.slots[slot]))
    header = ["slot", "part", "of", "unit", "min", "1 %", "median", "99 %", "max", "mean", "deviation"]
    caption = "Every slot in physical units: the state filled blue, the action an orange line, each to its own height."
    return PageTable(header, rows), slots_figure(titles, pairs, caption)


def _spread(values: Sequence[float], what: str) -> str:
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
    return f"{len(values):,} {what}: median {middle:.2f} s, 10th to 90th percentile {low:.2f} to {high:.2f} s"


def _languages(facts: Facts) -> list[Block]:
    text = (
        f"{counted(facts.tasks, 'task')}, {counted(facts.instructions, 'instruction')}, "
        f"{counted(facts.segment_texts, 'segment text')}; "
        f"{facts.n_silent:,} of {counted(facts.n_episodes, 'episode has', 'episodes have')} no instruction."
    )
    return [
        Heading("Language"),
        Paragraph(text),
        *_texts("task", facts.tasks, "episodes"),
        *_texts("instruction", facts.instructions, "episodes"),
        *_texts("segment", facts.segment_texts, "segments"),
    ]


def _texts(what: str, counts: Counter[str], of: str) -> list[Block]:
    rows = [[text, f"{n:,}"] for text, n in counts.most_common(_MOST_TEXTS)]
    more = [Paragraph(f"and {len(counts) - _MOST_TEXTS:,} more")] if len(counts) > _MOST_TEXTS else []
    return [Folded(f"Every {what}", [PageTable([what, of], rows), *more])] if rows else []


def _left_out(rejects: Counter[tuple[str, str]]) -> list[Block]:
    """rejects: rows of rejects.parquet by level ("" where it is not known) and reason."""
    heading = Heading("Left out")
    if not rejects:
        return [heading, Paragraph("Nothing was left out.")]
    rows = [
        [reason, level or "episode or steps", f"{n:,}", explain(reason).meaning, explain(reason).advice]
        for (level, reason), n in rejects.most_common()
    ]
    return [heading, PageTable(["reason", "of", "rows in rejects.parquet", "what was found", "what to do"], rows)]


def _how(manifest: Manifest) -> str:
    adapter = manifest.adapter
    return (
        f"Converted by {manifest.converter}, adapter {adapter['name']} ({adapter['format']}), options "
        f"{manifest.options_hash}, code {manifest.code_hash[:16]}. manifest.json names the source of every record, "
        "rejects.parquet that of everything left out."
    )


def _lineage(facts: Facts) -> list[Block]:
    sources = [[uri, f"{n:,}"] for uri, n in facts.sources.most_common(_MOST_TEXTS)]
    shards = [[name, f"{n:,}", f"{size / 1e6:,.1f}"] for name, n, size in facts.shards[:_MOST_TEXTS]]
    how = "Not converted by embodimix: the index was made from the shards."
    if facts.manifest:
        how = _how(facts.manifest)
    more = len(facts.shards) - len(shards)
    merges = [
        Paragraph(
            f"Segments of {counted(m['episodes'], 'episode')} were merged into version {m['from_version']} "
            f"({m['segments']})."
        )
        for m in facts.merged
    ]
    others = [Paragraph(f"and {more:,} more shards")] if more > 0 else []
    return [
        Heading("Lineage"),
        Paragraph(how),
        *merges,
        PageTable(["source folder", "episodes"], sources),
        Folded("Every shard", [PageTable(["shard", "episodes", "MB"], shards), *others]),
    ]
