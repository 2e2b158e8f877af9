"""The commands of `annotation_tools`; heavy modules are imported only when a command runs."""

import argparse
import json
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

_EPILOG = """a tour:
  embodimix annotate propose data/in_house/1.0.0
  embodimix annotate merge data/in_house/1.0.0 data/in_house/1.0.0/segments/*.parquet
"""
_PROPOSE = """example:
  embodimix annotate propose data/in_house/1.0.0 --parameters propose.yaml
  writes data/in_house/1.0.0/segments/proposals.parquet
"""
_MERGE = """example:
  embodimix annotate merge data/in_house/1.0.0 segments/ann.parquet segments/bob.parquet --prefer ann
  writes data/in_house/1.1.0, with every picture as it was
Exit code 1 where people disagree and nobody has adjudicated: see --prefer and --conflicts.
"""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds this part's commands to the parser of `embodimix`."""
    annotate = commands.add_parser(
        "annotate", help="segment annotations: propose, merge", epilog=_EPILOG, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    actions = annotate.add_subparsers(dest="action", metavar="ACTION", required=True)
    propose = _add(actions, "propose", "cut every episode into segments of about 2 s by its movement", _PROPOSE)
    propose.add_argument("--parameters", type=Path, metavar="FILE", help="YAML of embodimix.propose/v1")
    propose.add_argument("--out", type=Path, metavar="FILE", help="the table; DATASET/segments/proposals.parquet")
    propose.set_defaults(run=_propose)
    merge = _add(actions, "merge", "decide between segment tables and bake them into a new minor version", _MERGE)
    merge.add_argument("tables", nargs="+", type=Path, metavar="TABLE", help="segment tables (Parquet)")
    merge.add_argument("--version", metavar="X.Y.Z", help="the new version; the next minor one unless said")
    merge.add_argument("--out", type=Path, metavar="DIR", help="its folder; beside the dataset's unless said")
    merge.add_argument("--table", type=Path, metavar="FILE", help="write the merged table here, and bake nothing")
    merge.add_argument("--prefer", nargs="+", default=[], metavar="NAME", help="annotators to believe, best first")
    merge.add_argument(
        "--conflicts", choices=("fail", "latest"), default="fail", help="where people disagree: fail, or the newest"
    )
    merge.set_defaults(run=_merge)


def _add(actions: Any, name: str, about: str, epilog: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=about, description=about[0].upper() + about[1:] + ".", epilog=epilog, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="the folder <root>/<name>/<version>")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    return parser


def _propose(arguments: argparse.Namespace) -> int:
    from annotation_tools.episodes import EpisodeStore
    from annotation_tools.parameters import load_parameters
    from annotation_tools.proposals import propose_table, summarize_lengths
    from annotation_tools.propose import ProposeParameters
    from pipelines.segment_tables import write_segments

    store = EpisodeStore(arguments.dataset)
    parameters = load_parameters(arguments.parameters) if arguments.parameters else ProposeParameters()
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    table = propose_table(store, parameters, created, version("embodimix"))
    out = arguments.out or arguments.dataset / "segments" / "proposals.parquet"
    write_segments(out, table)
    summary = summarize_lengths(store, table)
    if arguments.json:
        print(json.dumps({"table": str(out), **summary}))
    else:
        print(
            f"{summary['episodes']} episodes, {summary['segments']} segments: median {summary['median_s']:.2f} s, "
            f"{summary['shortest_s']:.2f} to {summary['longest_s']:.2f} s, {summary['idle']} idle, "
            f"{summary['recovery']} recoveries\nwrote {out}"
        )
    return 0


def _merge(arguments: argparse.Namespace) -> int:
    from annotation_tools.episodes import EpisodeStore
    from annotation_tools.merge import bake, merge_tables, next_minor, read_tables
    from pipelines.segment_tables import write_segments

    store = EpisodeStore(arguments.dataset)
    merged = merge_tables(read_tables(store, arguments.tables), arguments.prefer, arguments.conflicts)
    outcome: dict[str, Any] = {
        "episodes": len({a.episode_id for a in merged.annotations}), "conflicts": [str(c) for c in merged.conflicts],
    }  # fmt: skip
    if merged.conflicts:
        lines = [*outcome["conflicts"], "decide with --prefer NAME or --conflicts latest, or adjudicate in the review"]
    elif arguments.table:
        write_segments(arguments.table, merged.annotations)
        outcome["table"] = str(arguments.table)
        lines = [f"{outcome['episodes']} episodes decided", f"wrote {arguments.table}"]
    else:
        new_version = arguments.version or next_minor(store.dataset.version)
        out = arguments.out or store.dataset.path.parent / new_version
        bake(store.dataset, merged.annotations, out, new_version)
        outcome["dataset"] = str(out)
        lines = [f"{outcome['episodes']} of {len(store.briefs)} episodes have new segments", f"wrote {out}"]
    print(json.dumps(outcome) if arguments.json else "\n".join(lines))
    return 1 if merged.conflicts else 0
