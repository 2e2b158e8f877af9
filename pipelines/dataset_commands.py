"""The commands on stored datasets: index. Heavy modules are imported only when a command runs."""

import argparse
import json
import sys
from pathlib import Path

INDEX_EPILOG = """example:
  embodimix index data/bridge/1.0.0

The index lies in data/bridge/1.0.0/index, one Parquet file beside each shard: per episode its metadata, physical
state and action, segments, and the byte range of every picture inside the shard. Rebuilding it gives the same bytes
that the conversion wrote. RLDS shards of other writers get an index of their records, language and pictures.
"""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the commands on stored datasets to the parser of `embodimix`."""
    _add_index(commands)


def _add_index(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "index", help="rebuild a dataset's sidecar index from its shards", allow_abbrev=False,
        description="Rebuilds the sidecar index of a dataset from its shards alone.", epilog=INDEX_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("dataset", metavar="DATASET", help="folder <root>/<name>/<version> with a dataset_info.json")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    parser.set_defaults(run=run_index)


def run_index(arguments: argparse.Namespace) -> int:
    """Rebuilds every sidecar of a dataset and prints what it wrote."""
    from tqdm import tqdm

    from pipelines.rebuild import count_shards, rebuild_index

    path = Path(arguments.dataset)
    shards = list(tqdm(rebuild_index(path), total=count_shards(path), unit="shard", desc="index", file=sys.stderr))
    totals = {
        "index": str(path / "index"), "shards": len(shards), "episodes": sum(s.n_episodes for s in shards),
        "steps": sum(s.n_steps for s in shards), "bytes": sum(s.n_bytes for s in shards),
    }  # fmt: skip
    words = "{index}: {shards} sidecars of {episodes} episodes, {steps} steps, {bytes} bytes of shards"
    print(json.dumps(totals) if arguments.json else words.format(**totals))
    return 0
