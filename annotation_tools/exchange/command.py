"""The commands `embodimix annotate export` and `import`."""

import argparse
import csv
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from annotation_tools.episodes import EpisodeStore, check_annotator
from annotation_tools.exchange.clips import EpisodeNames, make_clips, stamp
from annotation_tools.merge import read_tables
from pipelines.contract.errors import UsageError
from pipelines.segments.tables import check_segments, overlay, write_segments


def run_export(arguments: argparse.Namespace) -> int:
    """Writes a table's segments, or those in the shards, in a foreign format."""
    store = EpisodeStore(arguments.dataset)
    if arguments.table:
        segments = overlay(read_tables(store, [arguments.table]))
    else:
        segments = {episode_id: store.episode(episode_id).segments for episode_id in store.briefs}
    clips = make_clips(store, segments)
    if not clips:
        raise UsageError(f"{arguments.table or arguments.dataset}: expected segments, found none")
    paths = import_module(f"annotation_tools.exchange.{arguments.format}").write(arguments.out, clips)
    if arguments.json:
        print(json.dumps({"episodes": len(clips), "files": [str(path) for path in paths]}))
    else:
        print(f"{len(clips)} episodes\nwrote {len(paths)} file{'s' * (len(paths) > 1)} below {arguments.out}")
    return 0


def run_import(arguments: argparse.Namespace) -> int:
    """Reads segments of a foreign format into a table. Raises FailedWork, writing nothing, where they do not fit."""
    annotator = check_annotator(arguments.annotator)
    store = EpisodeStore(arguments.dataset)
    names = EpisodeNames.of(store, read_names(arguments.names) if arguments.names else None)
    found = import_module(f"annotation_tools.exchange.{arguments.format}").read(arguments.source, names)
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    rows = stamp(store, found, annotator, created, version("embodimix"))
    check_segments(rows, store.keys(found), str(arguments.source))
    out = arguments.out or arguments.dataset / "segments" / f"{annotator}.parquet"
    write_segments(out, rows)
    if arguments.json:
        print(json.dumps({"episodes": len(found), "segments": len(rows), "table": str(out)}))
    else:
        print(f"{len(found)} episodes, {len(rows)} segments\nwrote {out}")
    return 0


def read_names(path: Path) -> Mapping[str, str]:
    """Reads a CSV of foreign names and episode ids. Raises UsageError where a row has other than two columns."""
    with open(path, newline="") as file:
        rows = [row for row in csv.reader(file) if row]
    for row in rows:
        if len(row) != 2:
            raise UsageError(f"{path}: expected rows of name and episode id, found {row}")
    return {name.strip(): episode_id.strip() for name, episode_id in rows}
