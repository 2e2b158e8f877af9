"""The commands of `annotation_tools`; heavy modules are imported only when a command runs."""

import argparse
import json
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipelines.contract.options import add_command, port, positive
from pipelines.contract.words import counted
from pipelines.storage.paths import as_storage_path

FORMATS = ("agibot", "calvin", "elan", "groot", "label_studio", "lerobot")
_EPILOG = """a tour:
  embodimix annotate propose data/in_house/1.0.0
  embodimix annotate label data/in_house/1.0.0 --url http://localhost:8000/v1 --model Qwen/Qwen2.5-VL-7B-Instruct
  embodimix annotate review data/in_house/1.0.0 --table data/in_house/1.0.0/segments/Qwen2.5-VL-7B-Instruct.parquet
  embodimix annotate agree data/in_house/1.0.0 data/in_house/1.0.0/segments/*.parquet
  embodimix annotate merge data/in_house/1.0.0 data/in_house/1.0.0/segments/*.parquet
"""
_PROPOSE = """example:
  embodimix annotate propose data/in_house/1.0.0 --parameters propose.yaml
  writes data/in_house/1.0.0/segments/proposals.parquet
"""
_AGREE = """example:
  embodimix annotate agree data/in_house/1.0.0 segments/ann.parquet segments/bob.parquet --min-kappa 0.7
  writes agreement.html and agreement.json beside the first table
Exit code 1 where an agreement lies under its threshold.
"""
_LABEL = """examples:
  embodimix annotate label data/in_house/1.0.0 --backend rules
  embodimix annotate label data/in_house/1.0.0 --url http://localhost:8000/v1 --model Qwen/Qwen2.5-VL-7B-Instruct \\
      --estimate
  embodimix annotate label data/in_house/1.0.0 --url https://api.example.com/v1 --model vlm --key-variable API_KEY \\
      --usd-in 2.5 --usd-out 10 --max-usd 40
  embodimix annotate label data/in_house/1.0.0 --command "python -m my_labeler --strict"
writes DATASET/segments/NAME.parquet. Answers are kept in DATASET/segments/answers, so that the command may be repeated:
it asks only what has no usable answer yet. With --beam the questions are asked by a Beam job, and options that are not
listed here go to Beam.
Exit code 1 where questions had no usable answer (NAME.dead_letters.jsonl) or the budget ended.
"""
_EXPORT = """example:
  embodimix annotate export data/in_house/1.0.0 segments/ann.parquet --format elan --out eaf/
Formats: lerobot, groot (with --source, columns are added to a copy of that dataset), agibot, calvin, elan,
label_studio. Episodes keep the source's own numbers and names. docs/annotate.md lists what a format cannot hold.
"""
_IMPORT = """example:
  embodimix annotate import data/in_house/1.0.0 eaf/ --format elan --annotator ann
  writes data/in_house/1.0.0/segments/ann.parquet
Episodes are known by their id or the source's own key (LeRobot's episode_index, a file name, a uuid), never by their
position; --names FILE gives other names as a CSV of two columns, name and episode id or source key. Episodes that the
dataset lacks are counted and named. Segments that overlap become layers ann, ann-2, ...
"""
_REVIEW = """example:
  embodimix annotate review data/in_house/1.0.0 --table segments/model.parquet --double 0.1
  prints a link to http://127.0.0.1:8765/ with a token; every edit is saved in DATASET/segments/review.sqlite, and when
  the review ends everyone's finished segments are written as DATASET/segments/NAME.parquet
The token is a new one, or that of --token-file, or of the environment variable EMBODIMIX_REVIEW_TOKEN.
"""
_MERGE = """example:
  embodimix annotate merge data/in_house/1.0.0 segments/ann.parquet segments/bob.parquet --prefer ann
  writes data/in_house/1.1.0, with every picture as it was, and its card
Labels become segments and the steps' `segment_text`; the instructions stay the source's. Without tables, a dataset of
an earlier version of embodimix gets today's form of records and nothing else. The command may be repeated.
Exit code 1 where people disagree and no adjudication exists: see --prefer and --conflicts.
"""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds this part's commands to the parser of `embodimix`."""
    annotate = add_command(
        commands, "annotate", "segment annotations: propose, label, review, agree, merge, exchange", _EPILOG
    )
    actions = annotate.add_subparsers(dest="action", metavar="ACTION", required=True)
    propose = _add(actions, "propose", "cut every episode into segments of about 2 s by its movement", _PROPOSE)
    propose.add_argument("--parameters", type=Path, metavar="FILE", help="YAML of embodimix.propose/v1")
    propose.add_argument(
        "--out", type=as_storage_path, metavar="FILE", help="the table; DATASET/segments/proposals.parquet"
    )
    propose.set_defaults(run=_propose)
    agree = _add(actions, "agree", "measure how far annotators agree on boundaries and labels", _AGREE)
    agree.add_argument("tables", nargs="+", type=as_storage_path, metavar="TABLE", help="segment tables (Parquet)")
    agree.add_argument(
        "--labels", choices=("text", "kind"), default="text", help="what makes two labels the same (default text)"
    )
    agree.add_argument(
        "--out", type=as_storage_path, metavar="DIR", help="where the report goes; beside the first table"
    )
    for name, what in (("f1", "boundary F1 at 0.25 s"), ("kappa", "Cohen's kappa"), ("alpha", "Krippendorff's alpha")):
        agree.add_argument(f"--min-{name}", type=float, metavar="X", help=f"least {what}")
    agree.set_defaults(run=_agree)
    label = _add(actions, "label", "label each segment with a sentence", _LABEL)
    _add_label_options(label)
    review = _add(actions, "review", "look at segments in the browser, correct them, finish episodes", _REVIEW)
    review.add_argument("--table", nargs="+", default=[], type=as_storage_path, metavar="TABLE", help="show these too")
    review.add_argument(
        "--findings", type=Path, metavar="FILE", help="what `embodimix check --json` printed, to filter by"
    )
    review.add_argument("--out", type=as_storage_path, metavar="DIR", help="where the work is kept; DATASET/segments")
    review.add_argument(
        "--double", type=float, default=0.0, metavar="F", help="share that two people mark blind (default 0)"
    )
    review.add_argument(
        "--host", metavar="HOST", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine alone)"
    )
    review.add_argument(
        "--port", metavar="N", type=port, default=8765, help="port to listen on (8765); 0 takes a free one"
    )
    token = review.add_mutually_exclusive_group()
    token.add_argument("--token-file", type=Path, metavar="FILE", help="file with the token that the link must carry")
    token.add_argument("--no-token", action="store_true", help="let every user of this machine in, under any name")
    review.set_defaults(run=_review)
    export = _add(actions, "export", "write segments in the format of another tool", _EXPORT)
    export.add_argument(
        "table", nargs="?", type=as_storage_path, metavar="TABLE", help="the segments (those in the shards)"
    )
    export.add_argument("--format", required=True, choices=FORMATS, help="the other tool's format")
    export.add_argument("--out", required=True, type=Path, metavar="DIR", help="where the files go")
    export.add_argument(
        "--source", type=Path, metavar="DIR", help="the LeRobot dataset whose copy in --out gets the columns"
    )
    export.add_argument("--proposals", action="store_true", help="write the motion phrases of proposals as texts, too")
    export.add_argument("--names", type=Path, metavar="FILE", help="CSV of foreign name, and episode id or source key")
    export.set_defaults(run=_export)
    imported = _add(actions, "import", "read segments in the format of another tool", _IMPORT)
    imported.add_argument("source", type=Path, metavar="SOURCE", help="the other tool's file or folder")
    imported.add_argument("--format", required=True, choices=FORMATS, help="the other tool's format")
    imported.add_argument("--annotator", required=True, metavar="NAME", help="the annotator and table name")
    imported.add_argument(
        "--names", type=Path, metavar="FILE", help="CSV of foreign name, and episode id or source key"
    )
    imported.add_argument(
        "--out", type=as_storage_path, metavar="FILE", help="the table; DATASET/segments/NAME.parquet"
    )
    imported.set_defaults(run=_import)
    merge = _add(actions, "merge", "decide between segment tables and bake them into a new minor version", _MERGE)
    merge.add_argument("tables", nargs="*", type=as_storage_path, metavar="TABLE", help="segment tables (Parquet)")
    merge.add_argument("--version", metavar="X.Y.Z", help="the new version (default: the next minor one)")
    merge.add_argument("--out", type=as_storage_path, metavar="DIR", help="its folder (default: beside the dataset's)")
    merge.add_argument(
        "--table", type=as_storage_path, metavar="FILE", help="write the merged table here, and bake nothing"
    )
    merge.add_argument("--prefer", nargs="+", default=[], metavar="NAME", help="annotators that win, best first")
    merge.add_argument(
        "--conflicts", choices=("fail", "latest"), default="fail", help="where people disagree: fail, or the newest"
    )
    merge.set_defaults(run=_merge)


def _add_label_options(label: argparse.ArgumentParser) -> None:
    label.add_argument(
        "--backend", choices=("rules", "http", "command"), help="default: the one that --url or --command implies"
    )
    label.add_argument(
        "--table", type=as_storage_path, metavar="TABLE", help="label these segments, not those in the shards"
    )
    label.add_argument("--url", metavar="URL", default="", help="an endpoint with the chat-completions protocol")
    label.add_argument("--model", metavar="NAME", default="", help="the model's name at that endpoint")
    label.add_argument("--key-variable", default="", metavar="NAME", help="environment variable that holds the key")
    label.add_argument(
        "--plain-http-key", action="store_true", help="send the key to another machine without encryption, too"
    )
    label.add_argument("--command", nargs="+", dest="program", default=[], metavar="WORD", help="a program to ask")
    label.add_argument(
        "--name", metavar="NAME", default="", help="the annotator's name in the table (default: the model's)"
    )
    label.add_argument(
        "--out", type=as_storage_path, metavar="DIR", help="where table and answers go; DATASET/segments"
    )
    label.add_argument("--workers", metavar="N", type=positive, default=4, help="questions in flight at once (4)")
    label.add_argument(
        "--per-minute", type=float, default=0.0, metavar="N", help="questions a minute (default 0: no limit)"
    )
    label.add_argument(
        "--usd-in", type=float, default=0.0, metavar="X", help="price of a million tokens sent (default 0)"
    )
    label.add_argument(
        "--usd-out", type=float, default=0.0, metavar="X", help="price of a million tokens received (default 0)"
    )
    label.add_argument("--max-usd", type=float, metavar="X", help="stop before more than this is spent")
    label.add_argument("--estimate", action="store_true", help="print what it would take, and ask nothing")
    label.add_argument("--beam", action="store_true", help="ask by a Beam job")
    label.set_defaults(run=_label, takes_beam_options=True)


def _add(actions: Any, name: str, about: str, epilog: str) -> argparse.ArgumentParser:
    parser = add_command(actions, name, about, epilog)
    parser.add_argument(
        "dataset", type=as_storage_path, metavar="DATASET", help="the folder or URL <root>/<name>/<version>"
    )
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    return parser


def _propose(arguments: argparse.Namespace) -> int:
    from annotation_tools.episodes import EpisodeStore
    from annotation_tools.parameters import load_parameters
    from annotation_tools.proposals import ANNOTATOR, propose_table, summarize_lengths
    from pipelines.segments.propose import ProposeParameters
    from pipelines.segments.tables import check_own_table, write_segments

    store = EpisodeStore(arguments.dataset)
    parameters = load_parameters(arguments.parameters) if arguments.parameters else ProposeParameters()
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    out = arguments.out or arguments.dataset / "segments" / "proposals.parquet"
    check_own_table(out, ANNOTATOR, "proposal")
    table = propose_table(store, parameters, created, version("embodimix"))
    write_segments(out, table)
    summary = summarize_lengths(store, table)
    if arguments.json:
        print(json.dumps({"table": str(out), **summary}))
    else:
        print(
            f"{counted(int(summary['episodes']), 'episode')}, {counted(int(summary['segments']), 'segment')}: "
            f"median {summary['median_s']:.2f} s, {summary['shortest_s']:.2f} to {summary['longest_s']:.2f} s, "
            f"{summary['idle']} idle, {summary['recovery']} recoveries\nwrote {out}"
        )
    return 0


def _agree(arguments: argparse.Namespace) -> int:
    from annotation_tools.agreement.agree import markings_of, measure_agreement
    from annotation_tools.agreement.report import Thresholds, find_shortfalls, to_html, to_json, to_lines
    from annotation_tools.episodes import EpisodeStore
    from annotation_tools.merge import read_tables
    from pipelines.contract.errors import UsageError
    from pipelines.storage.files import write_atomically

    store = EpisodeStore(arguments.dataset)
    annotations = [a for table in read_tables(store, arguments.tables) for a in table]
    try:
        agreement = measure_agreement(markings_of(store, annotations, arguments.labels))
    except ValueError as error:
        raise UsageError(f"{', '.join(map(str, arguments.tables))}: {error}") from error
    thresholds = Thresholds(f1=arguments.min_f1, kappa=arguments.min_kappa, alpha=arguments.min_alpha)
    shortfalls = find_shortfalls(agreement, thresholds)
    out = arguments.out or arguments.tables[0].parent
    title = f"Agreement on {store.dataset.name} {store.dataset.version}"
    report = json.dumps(to_json(agreement, shortfalls), indent=2, allow_nan=False) + "\n"
    write_atomically(out / "agreement.json", report.encode())
    write_atomically(out / "agreement.html", to_html(agreement, shortfalls, title).encode())
    if arguments.json:
        print(report, end="")
    else:
        print("\n".join([*to_lines(agreement), *shortfalls, f"wrote {out / 'agreement.html'}"]))
    return 1 if shortfalls else 0


def _label(arguments: argparse.Namespace) -> int:
    from annotation_tools.labels.command import run_label

    return run_label(arguments)


def _export(arguments: argparse.Namespace) -> int:
    from annotation_tools.exchange.command import run_export

    return run_export(arguments)


def _import(arguments: argparse.Namespace) -> int:
    from annotation_tools.exchange.command import run_import

    return run_import(arguments)


def _review(arguments: argparse.Namespace) -> int:
    from annotation_tools.review.access import read_token
    from annotation_tools.review.session import TOKEN_VARIABLE, ReviewOptions, serve

    options = ReviewOptions(
        dataset=arguments.dataset,
        tables=tuple(arguments.table),
        directory=arguments.out,
        findings=arguments.findings,
        double=arguments.double,
        host=arguments.host,
        port=arguments.port,
        token=read_token(arguments.token_file, TOKEN_VARIABLE),
        is_open=arguments.no_token,
    )
    paths = serve(options)
    print(json.dumps([str(path) for path in paths]) if arguments.json else "\n".join(f"wrote {path}" for path in paths))
    return 0


def _merge(arguments: argparse.Namespace) -> int:
    from annotation_tools.episodes import EpisodeStore
    from annotation_tools.merge import bake, merge_tables, needs_upgrade, next_minor, read_tables
    from pipelines.contract.errors import UsageError
    from pipelines.quality.card import check_and_write_card
    from pipelines.segments.tables import write_segments
    from pipelines.shards.dataset import Dataset

    store = EpisodeStore(arguments.dataset)
    if not arguments.tables and not needs_upgrade(store.dataset):
        raise UsageError(f"{arguments.dataset}: expected segment tables to merge, found none")
    merged = merge_tables(read_tables(store, arguments.tables), arguments.prefer, arguments.conflicts)
    outcome: dict[str, Any] = {
        "episodes": len({a.episode_id for a in merged.annotations}),
        "conflicts": [str(c) for c in merged.conflicts],
    }
    if merged.conflicts:
        lines = [*outcome["conflicts"], "decide with --prefer NAME or --conflicts latest, or adjudicate in the review"]
    elif arguments.table:
        write_segments(arguments.table, merged.annotations)
        outcome["table"] = str(arguments.table)
        lines = [f"{counted(outcome['episodes'], 'episode')} decided", f"wrote {arguments.table}"]
    else:
        new_version = arguments.version or next_minor(store.dataset.version)
        out = arguments.out or store.dataset.path.parent / new_version
        bake(store.dataset, merged.annotations, out, new_version)
        check_and_write_card(Dataset.open(out))
        outcome["dataset"] = str(out)
        lines = [f"{outcome['episodes']} of {counted(store.briefs, 'episode')} with new segments", f"wrote {out}"]
    print(json.dumps(outcome) if arguments.json else "\n".join(lines))
    return 1 if merged.conflicts else 0
