"""The command `browse`: the episodes of a dataset or a mixture in the browser, or one of them in the Rerun viewer."""

import argparse
import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.contract.errors import UsageError
from pipelines.contract.options import add_command, port
from pipelines.contract.words import counted

if TYPE_CHECKING:
    from trainers.browsing.collection import Collection

TOKEN_VARIABLE = "EMBODIMIX_BROWSE_TOKEN"
EPILOG = """examples:
  embodimix browse data/bridge_v2/1.0.0
  embodimix check data/bridge_v2/1.0.0 --json > findings.json
  embodimix browse data/bridge_v2/1.0.0 --findings findings.json      with a filter by finding
  embodimix browse mixture.yaml                                       what the mixture draws from, by group
  embodimix browse data/bridge_v2/1.0.0 --episode 3f2a --rerun episode.rrd
prints a link to http://127.0.0.1:8766/ with a token; nothing can be changed through the page. Without --findings it
knows the findings of the conversion, which name some of the episodes that they concern.
The token is a new one, or that of --token-file, or of the environment variable EMBODIMIX_BROWSE_TOKEN.
"""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `browse` to the parser of `embodimix`."""
    about = (
        "Plays the episodes of a dataset or a mixture: pictures, segments, curves, findings, and where they come from."
    )
    parser = add_command(commands, "browse", "look at episodes in the browser or in Rerun", EPILOG, about)
    parser.add_argument("source", metavar="DATASET|SPEC", help="a dataset's folder or URL, or a mixture spec (YAML)")
    parser.add_argument("--episode", metavar="ID", help="the episode to open: its id, or the beginning of it")
    parser.add_argument(
        "--rerun",
        nargs="?",
        const="",
        metavar="FILE.rrd",
        help="instead of the page: write the episode for the Rerun viewer, or open it there where no file is named",
    )
    parser.add_argument("--findings", type=Path, metavar="FILE", help="what `embodimix check --json` printed")
    parser.add_argument("--root", metavar="DIR", help="base of relative dataset paths (default: the spec's root)")
    about = "with the spec's changes for this stage of training (`stages`)"
    parser.add_argument("--stage", choices=("pretrain", "posttrain"), help=about)
    parser.add_argument("--host", metavar="HOST", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=port, metavar="N", default=8766, help="port (8766); 0 takes a free one")
    token = parser.add_mutually_exclusive_group()
    token.add_argument("--token-file", type=Path, metavar="FILE", help="file with the token that the link must carry")
    token.add_argument("--no-token", action="store_true", help="let every user of this machine look")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    parser.set_defaults(run=run_browse)


def run_browse(arguments: argparse.Namespace) -> int:
    """Serves the page until interrupted, or writes or opens one episode for Rerun."""
    from trainers.browsing.collection import open_collection

    if arguments.rerun is not None and arguments.episode is None:
        raise UsageError("--rerun: expected an episode; give --episode ID, which the page and `embodimix where` show")
    collection = open_collection(
        arguments.source, root=arguments.root, stage=arguments.stage, findings=arguments.findings
    )
    listed = None if arguments.episode is None else collection.listed(arguments.episode)
    if arguments.rerun is not None and listed is not None:
        from trainers.browsing.recording import write_recording

        path = Path(arguments.rerun) if arguments.rerun else None
        if path is not None and path.suffix != ".rrd":
            raise UsageError(f"--rerun {path}: expected a file name that ends in .rrd, as the viewer knows recordings")
        n_steps = write_recording(collection, listed, path)
        outcome = {"written": str(path or ""), "episode": listed.brief.episode_id, "steps": n_steps}
        said = (
            f"wrote {counted(n_steps, 'step')} to {path}; look at them with: rerun {path}"
            if path
            else "opened the viewer"
        )
        print(json.dumps(outcome) if arguments.json else said)
        return 0
    return _serve(arguments, collection, "" if listed is None else listed.key)


def _serve(arguments: argparse.Namespace, collection: "Collection", key: str) -> int:
    from annotation_tools.review.access import LOOPBACK, check_access, listen, read_token, run_until_interrupted
    from trainers.browsing.server import make_app

    token = "" if arguments.no_token else read_token(arguments.token_file, TOKEN_VARIABLE)
    check_access(arguments.host, token, arguments.no_token)
    hosts = LOOPBACK if arguments.host in LOOPBACK else ("*",)
    app = make_app(collection, hosts=hosts, token=token)
    fragment = f"#episode={key}" if key else ""
    with closing(listen(arguments.host, arguments.port)) as listener:
        run_until_interrupted(app, listener, "browse", arguments.host, token, fragment)
    return 0
