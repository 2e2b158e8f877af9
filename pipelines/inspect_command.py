"""The command that says what an input of any format holds, and drafts its registry entries."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.contract.errors import UsageError
from pipelines.contract.options import add_command
from pipelines.contract.slots import LAYOUT

if TYPE_CHECKING:
    from pipelines.contract.native import NativeEpisode
    from pipelines.inspection.description import Description
    from pipelines.inspection.draft import Draft

EPILOG = """examples:
  embodimix inspect logs/                       what is there, and whether the slots have room for it
  embodimix inspect logs/ --draft my.yaml       the same, and an adapter entry to be completed
  embodimix inspect gs://bucket/set/1.0.0 --json

A few episodes are read, whatever the size of the input. In a draft every guess has its reason as a comment, and every
open question is the value "?" with the choices; convert refuses an entry that still has one.
Exit codes: 0 understood, 1 not understood, 2 wrong use or nothing at that path.
"""

OF_OURS = """\
  converted  it is a dataset of embodimix already, and needs no draft
  next       embodimix check {0}
  or         embodimix browse {0}, or list it in a mixture: datasets: [{{path: {0}}}]"""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    """Adds the command to the parser of `embodimix`, and returns its own."""
    parser = add_command(
        commands,
        "inspect",
        "say what an input of any format holds, and draft its registry entries",
        EPILOG,
        "Says what native logs hold: robots, episodes, rates, every key of numbers, cameras, language.",
    )
    parser.add_argument("input", metavar="INPUT", help="a folder or a file of logs, or its URL")
    parser.add_argument("--format", default="", metavar="FORMAT", help="try this format only")
    parser.add_argument("--draft", default="", metavar="FILE", help="write a registry file with an entry for the input")
    parser.add_argument(
        "--name", metavar="NAME", default="", help="the name of the entry in the draft (default: the input's)"
    )
    parser.add_argument("--layout", default=LAYOUT, metavar="L", help=f"the layout to draft for (default {LAYOUT})")
    parser.add_argument("--force", action="store_true", help="let --draft replace a file")
    parser.add_argument("--json", action="store_true", help="print the description as JSON")
    parser.set_defaults(run=run_inspect)
    return parser


def run_inspect(arguments: argparse.Namespace) -> int:
    """Prints the description of an input and writes the draft; see `embodimix inspect --help`."""
    from pipelines.inspection.recognition import recognize
    from pipelines.inspection.report import describe_lines, misfit_lines, to_json, use_lines
    from pipelines.shards.manifest import MANIFEST_FILE
    from pipelines.storage.paths import as_storage_path

    recognition = recognize(arguments.input, arguments.format)
    if not recognition.understood:
        if arguments.json:
            reasons = {**recognition.near, **recognition.others}
            print(json.dumps({"source": arguments.input, "format": None, "reasons": reasons}))
        else:
            print("\n".join(misfit_lines(arguments.input, recognition)))
        return 1
    description, sample = recognition.understood[0]
    others = [other.format for other, _ in recognition.understood[1:]]
    draft = _try_draft(description, sample.episodes, arguments)
    if arguments.draft:
        _write_draft(arguments.draft, draft, arguments.force)
    if arguments.json:
        print(json.dumps(to_json(description) | {"also": others}))
    else:
        use = use_lines(draft, arguments.draft) if not isinstance(draft, UsageError) else [f"  no draft   {draft}"]
        if (as_storage_path(arguments.input) / MANIFEST_FILE).exists():
            use = OF_OURS.format(arguments.input).splitlines()
        print("\n".join(describe_lines(description, use)))
        if others:
            print(f"  also       read as {', '.join(others)} (--format)")
    return 0


def _try_draft(
    description: "Description", episodes: "Sequence[NativeEpisode]", arguments: argparse.Namespace
) -> "Draft | UsageError":
    """The draft, or why there can be none."""
    from pipelines.contract.layouts import get_layout
    from pipelines.inspection.draft import make_draft

    try:
        return make_draft(description, episodes, arguments.name, get_layout(arguments.layout).name)
    except UsageError as error:
        return error


def _write_draft(file: str, draft: "Draft | UsageError", force: bool) -> None:
    """Writes the draft. Raises UsageError where there is none, and where a file would be replaced without `force`."""
    from pipelines.inspection.draft import render
    from pipelines.storage.files import write_atomically

    if isinstance(draft, UsageError):
        raise draft
    path = Path(file)
    if path.exists() and not force:
        raise UsageError(f"--draft {file}: expected no such file, found one; give another name, or --force")
    write_atomically(path, render(draft, file).encode())
