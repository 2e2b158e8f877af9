"""The data card of a stored dataset: what is in it, where it came from, what was left out, and what is wrong in it."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from pipelines.contract.slots import CAMERAS, N_SLOTS
from pipelines.quality.card_facts import Facts, NormKeyFacts
from pipelines.quality.card_page import (
    Block,
    Heading,
    PageTable,
    Paragraph,
    frames_figure,
    histogram_figure,
    slots_figure,
    to_html,
    to_markdown,
)
from pipelines.quality.findings import Finding
from pipelines.shards.statistics import NormStatistics
from pipelines.storage.files import write_atomically
from pipelines.storage.paths import StoragePath

_MOST_TEXTS = 40
_SUCCESS = {1: "success", 0: "failure", -1: "unknown"}


def write_card(directory: StoragePath, facts: Facts, findings: Sequence[Finding]) -> list[StoragePath]:
    """Writes card.md and card.html beside the shards, atomically; returns their paths."""
    blocks = make_card(facts, findings)
    title = f"{facts.name} {facts.version}"
    contents = {"card.md": to_markdown(blocks), "card.html": to_html(title, blocks)}
    for name, content in contents.items():
        write_atomically(directory / name, content.encode())
    return [directory / name for name in contents]


def make_card(facts: Facts, findings: Sequence[Finding]) -> list[Block]:
    """The card's blocks, in reading order."""
    groups = [block for key in sorted(facts.groups) for block in _group_blocks(key, facts)]
    return [
        *_overview(facts),
        *_quality(findings),
        *groups,
        *_languages(facts),
        *_left_out(facts),
        *_lineage(facts),
    ]


def _overview(facts: Facts) -> list[Block]:
    hours = sum(sum(group.durations_s) for group in facts.groups.values()) / 3600
    n_bytes = sum(size for _, _, size in facts.splits.values())
    title = facts.manifest.get("adapter", {}).get("title", "")
    text = (
        f"{title + '. ' if title else ''}{facts.n_episodes:,} episodes, {facts.n_steps:,} steps, {hours:.3g} hours, "
        f"{n_bytes / 1e6:,.1f} MB; {len(facts.tasks):,} tasks, {len(facts.groups)} norm keys."
    )
    splits = [[split, f"{n:,}", f"{t:,}", f"{size / 1e6:,.1f}"] for split, (n, t, size) in facts.splits.items()]
    return [
        Heading(f"{facts.name} {facts.version}", 1),
        Paragraph(text),
        PageTable(["split", "episodes", "steps", "MB"], splits),
        Heading("Embodiments"),
        PageTable(
            ["norm key", "rate", "episodes", "steps", "hours", "idle steps", "outcome", "cameras"],
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
    ]


def _quality(findings: Sequence[Finding]) -> list[Block]:
    heading = Heading("Quality")
    if not findings:
        return [heading, Paragraph("No check found anything (`embodimix check`).")]
    rows = [[f.severity, f.kind, f.scope, f.evidence, f.advice, f"{f.n_episodes:,}"] for f in findings]
    return [heading, PageTable(["severity", "finding", "where", "evidence", "advice", "episodes"], rows)]


def _group_blocks(key: str, facts: Facts) -> list[Block]:
    group, statistics = facts.groups[key], facts.statistics.get(key)
    blocks: list[Block] = [Heading(key or "unknown robot")]
    if statistics:
        blocks += _slot_blocks(group, statistics)
    for values, what in ((group.durations_s, "episodes"), (group.segments_s, "segments")):
        if values:
            blocks += [Paragraph(_spread(values, what)), histogram_figure(values, f"duration of {what}, s")]
    for sample in group.samples:
        words = f"{sample.task or 'no task'} ({sample.where}), steps {', '.join(map(str, sample.steps))}"
        cameras = sorted(sample.pictures, key=lambda camera: (CAMERAS + (camera,)).index(camera))
        blocks += [frames_figure(sample.pictures[camera], f"{camera}: {words}") for camera in cameras]
    return blocks


def _slot_blocks(group: NormKeyFacts, statistics: NormStatistics) -> list[Block]:
    names = {slot: f"{part}[{i}]" for part, slots in group.example.parts.items() for i, slot in enumerate(slots)}
    state_units, action_units = group.example.units("state"), group.example.units("action")
    sides = (("state", statistics.state, state_units), ("action", statistics.action, action_units))
    rows, titles, pairs = [], [], []
    for slot in range(N_SLOTS):
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
    return [PageTable(header, rows), slots_figure(titles, pairs, caption)]


def _spread(values: Sequence[float], what: str) -> str:
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
    return f"{len(values):,} {what}: median {middle:.2f} s, 10th to 90th percentile {low:.2f} to {high:.2f} s"


def _languages(facts: Facts) -> list[Block]:
    text = (
        f"{len(facts.tasks):,} tasks, {len(facts.instructions):,} instructions, {len(facts.segment_texts):,} segment "
        f"texts; {facts.n_silent:,} of {facts.n_episodes:,} episodes have no instruction."
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
    return [PageTable([what, of], rows), *more] if rows else []


def _left_out(facts: Facts) -> list[Block]:
    heading = Heading("Left out")
    if not facts.rejects:
        return [heading, Paragraph("Nothing was left out.")]
    rows = [[reason, level, f"{n:,}"] for (level, reason), n in facts.rejects.most_common()]
    return [heading, PageTable(["reason", "of", "rows in rejects.parquet"], rows)]


def _lineage(facts: Facts) -> list[Block]:
    manifest = facts.manifest
    sources = [[uri, f"{n:,}"] for uri, n in facts.sources.most_common(_MOST_TEXTS)]
    shards = [[name, f"{n:,}", f"{size / 1e6:,.1f}"] for name, n, size in facts.shards[:_MOST_TEXTS]]
    how = "Not converted by embodimix: the index was made from the shards."
    if "adapter" in manifest:
        adapter = manifest["adapter"]
        how = (
            f"Converted by {manifest['converter']}, adapter {adapter['name']} ({adapter['format']}), options "
            f"{manifest['options_hash']}, code {manifest['code_hash'][:16]}. manifest.json names the source of every "
            "record, rejects.parquet that of everything left out."
        )
    more = len(facts.shards) - len(shards)
    merges = [
        Paragraph(
            f"Segments of {m['episodes']:,} episodes were merged into version {m['from_version']} ({m['segments']})."
        )
        for m in manifest.get("merged", [])
    ]
    blocks: list[Block] = [
        Heading("Lineage"),
        Paragraph(how),
        *merges,
        PageTable(["source folder", "episodes"], sources),
        PageTable(["shard", "episodes", "MB"], shards),
    ]
    return [*blocks, Paragraph(f"and {more:,} more shards")] if more > 0 else blocks
