"""The commands `embodimix annotate export` and `import`."""

import argparse
import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from annotation_tools.episodes import EpisodeStore, check_annotator
from annotation_tools.exchange.clips import Clip, EpisodeNames, make_clips, stamp
from annotation_tools.exchange.numbering import read_numbers
from annotation_tools.merge import read_tables
from pipelines.contract.episode import Segment
from pipelines.contract.errors import UsageError
from pipelines.contract.words import counted
from pipelines.segments.tables import check_own_table, check_segments, overlay, write_segments

WITH_SOURCE = ("lerobot", "groot")
# Formats whose texts other projects train on as language; people read those of the other formats.
LANGUAGE_FORMATS = ("agibot", "calvin", "groot", "lerobot")


def run_export(arguments: argparse.Namespace) -> int:
    """Writes a table's segments, or those in the shards, in a foreign format."""
    store = EpisodeStore(arguments.dataset)
    segments: dict[str, tuple[Segment, ...]]
    if arguments.table:
        segments = overlay(read_tables(store, [arguments.table]))
    else:
        segments = {episode_id: store.episode(episode_id).segments for episode_id in store.briefs}
    n_proposals = 0
    if arguments.format in LANGUAGE_FORMATS and not arguments.proposals:
        segments, n_proposals = without_proposals(segments)
        if n_proposals and not segments:
            raise UsageError(
                f"--format {arguments.format}: expected labelled segments, found {n_proposals} proposals, whose texts "
                "describe the motion and are no instructions. Give a TABLE of labels, or --proposals to write them."
            )
    names = EpisodeNames.of(store, read_name_table(arguments.names) if arguments.names else None)
    clips = make_clips(store, segments, names)
    if not clips:
        raise UsageError(f"{arguments.table or arguments.dataset}: expected segments, found none")
    paths = _write(arguments.format, arguments.out, clips, arguments.source)
    if arguments.json:
        print(
            json.dumps(
                {"episodes": len(clips), "proposals_left_out": n_proposals, "files": [str(path) for path in paths]}
            )
        )
    else:
        left_out = f", {n_proposals} proposals left out" if n_proposals else ""
        print(f"{counted(clips, 'episode')}{left_out}\nwrote {counted(paths, 'file')} below {arguments.out}")
    return 0


def without_proposals(
    segments: Mapping[str, Sequence[Segment]],
) -> tuple[dict[str, tuple[Segment, ...]], int]:
    """The segments whose texts are language, of episodes that have some, and how many proposals were left out."""
    labelled = {e: tuple(s for s in found if s.source != "proposal") for e, found in segments.items()}
    n = sum(map(len, segments.values())) - sum(map(len, labelled.values()))
    return {episode_id: found for episode_id, found in labelled.items() if found}, n


def _write(form: str, out: Path, clips: Sequence[Clip], source: Path | None) -> list[Path]:
    module = import_module(f"annotation_tools.exchange.{form}")
    if form in WITH_SOURCE:
        return module.write(out, clips, source)
    if source is not None:
        raise UsageError(f"--source: expected for {' and '.join(WITH_SOURCE)} only, found --format {form}")
    return module.write(out, clips)


def run_import(arguments: argparse.Namespace) -> int:
    """Reads segments of a foreign format into a table. Raises FailedWork, writing nothing, where they do not fit."""
    annotator = check_annotator(arguments.annotator)
    store = EpisodeStore(arguments.dataset)
    # The names that an export wrote are exact; those that the user states win over them.
    given = read_numbers(arguments.source) | (read_name_table(arguments.names) if arguments.names else {})
    imported = import_module(f"annotation_tools.exchange.{arguments.format}").read(
        arguments.source, EpisodeNames.of(store, given)
    )
    found, absent = imported.segments, [_why_absent(store, name) for name in imported.absent]
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    rows = stamp(store, found, annotator, created, version("embodimix"))
    check_segments(rows, store.keys(found), str(arguments.source))
    out = arguments.out or arguments.dataset / "segments" / f"{annotator}.parquet"
    check_own_table(out, annotator, "source")
    write_segments(out, rows)
    if arguments.json:
        content = {"episodes": len(found), "segments": len(rows), "absent": absent, "table": str(out)}
        print(json.dumps(content))
    else:
        if absent:
            print(f"not in the dataset: {counted(absent, 'episode')} of {arguments.source}: {', '.join(absent)}")
        print(f"{counted(found, 'episode')}, {counted(rows, 'segment')}\nwrote {out}")
    return 0


def _why_absent(store: EpisodeStore, name: str) -> str:
    """A foreign name that the dataset lacks, with the reason where conversion rejected the episode."""
    index = name.removeprefix("episode_index ")
    key = f"episode_{int(index):06d}" if index != name else name
    reason = store.rejected.get(key) or store.rejected.get(name)
    return f"{name} (rejected: {reason})" if reason else name


def read_name_table(path: Path) -> dict[str, str]:
    """Reads a CSV of foreign names and episode ids or source keys.

    Raises UsageError where a row has other than two columns, or a name occurs twice.
    """
    with open(path, newline="") as file:
        rows = [row for row in csv.reader(file) if row]
    for row in rows:
        if len(row) != 2:
            raise UsageError(f"{path}: expected rows of name and episode id, found {row}")
    names = [name.strip() for name, _ in rows]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UsageError(f"{path}: expected every name once, found {twice[0]!r} twice")
    return {name.strip(): target.strip() for name, target in rows}
