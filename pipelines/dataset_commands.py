"""The commands on stored datasets: index, check, card, rejects, registry-entry.

Heavy modules are imported only when a command runs.
"""

import argparse
import json

from pipelines.contract.options import add_command
from pipelines.contract.words import counted

INDEX_EPILOG = """example:
  embodimix index data/bridge_v2/1.0.0

The index lies in data/bridge_v2/1.0.0/index, one Parquet file beside each shard: per episode its metadata, physical
state and action, segments, and the byte range of every picture inside the shard. Rebuilding it gives the same bytes
that the conversion wrote. RLDS shards of other writers get an index of their records, language and pictures.
"""


CHECK_EPILOG = """example:
  embodimix check data/bridge_v2/1.0.0
  embodimix check data/bridge_v2/1.0.0 --json > findings.json

Each finding says what is wrong, where (norm key, camera or split, and episodes), the numbers that show it, and what to
do. An error teaches a policy something false, a warning wastes data or may be meant so. Exit code 1 if there are any.
"""


CARD_EPILOG = """example:
  embodimix card data/bridge_v2/1.0.0

Writes data/bridge_v2/1.0.0/card.md and card.html: episodes and hours, every slot with its plot, sample frames,
languages, the findings of `embodimix check`, what was left out, and where everything came from.
"""


REJECTS_EPILOG = """example:
  embodimix rejects data/bridge_v2/1.0.0
  embodimix rejects data/bridge_v2/1.0.0 --reason truncated_file --reason missing_file --all
  embodimix rejects data/bridge_v2/1.0.0 --key '*/2021-07-*' --json

Also of a conversion that kept nothing. Exit code 0 whatever was left out.
"""


REGISTRY_ENTRY_EPILOG = """example:
  embodimix registry-entry data/bridge_v2/1.0.0 --for octo
  embodimix registry-entry data/bridge_v2/1.0.0 --for openvla --json

Prints Python to append to three files of Octo, or of OpenVLA and OpenVLA-OFT: a dataset config, a standardization
transform, and a mix of this dataset alone. Their loaders then read the shards as they are.
"""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the commands on stored datasets to the parser of `embodimix`."""
    _add_index(commands)
    _add_check(commands)
    _add_card(commands)
    _add_rejects(commands)
    _add_registry_entry(commands)


def _add_index(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = add_command(
        commands,
        "index",
        "rebuild a dataset's sidecar index from its shards",
        INDEX_EPILOG,
        "Rebuilds the sidecar index of a dataset from its shards alone.",
    )
    parser.add_argument("dataset", metavar="DATASET", help="folder <root>/<name>/<version>, or its URL")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    parser.set_defaults(run=run_index)


def run_index(arguments: argparse.Namespace) -> int:
    """Rebuilds every sidecar of a dataset and prints what it wrote."""
    from pipelines.contract.progress import with_progress
    from pipelines.shards.rebuild import count_shards, rebuild_index
    from pipelines.storage.paths import as_storage_path

    path = as_storage_path(arguments.dataset)
    shards = list(with_progress(rebuild_index(path), count_shards(path), "shard", "index"))
    totals = {
        "index": str(path / "index"),
        "shards": len(shards),
        "episodes": sum(s.n_episodes for s in shards),
        "steps": sum(s.n_steps for s in shards),
        "bytes": sum(s.n_bytes for s in shards),
    }
    words = "{index}: {shards} sidecars of {episodes} episodes, {steps} steps, {bytes} bytes of shards"
    print(json.dumps(totals) if arguments.json else words.format(**totals))
    return 0


def _add_check(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = add_command(
        commands,
        "check",
        "look for faults in a dataset",
        CHECK_EPILOG,
        "Looks for what conversions get wrong: grippers, degrees, lag, rates, deltas, cameras, copies.",
    )
    parser.add_argument("dataset", metavar="DATASET", help="folder <root>/<name>/<version>, or its URL")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.set_defaults(run=run_check)


def run_check(arguments: argparse.Namespace) -> int:
    """Prints the findings of every check; 1 when there are any."""
    from pipelines.contract.progress import progress_bar
    from pipelines.quality.checks import inspect_dataset
    from pipelines.shards.dataset import Dataset

    dataset = Dataset.open(arguments.dataset)
    n_episodes = dataset.n_episodes
    with progress_bar(n_episodes, "episode", "check") as bar:
        report = inspect_dataset(dataset, on_episode=bar.update)
    if arguments.json:
        print(json.dumps({"dataset": str(dataset.path), "episodes": n_episodes} | report.to_json(), indent=1))
    else:
        print("\n".join(map(str, report.findings)) or f"{dataset.path}: {counted(n_episodes, 'episode')}, no findings")
        for key, ratios in report.ratios.items():
            listed = ", ".join(f"slot {ratio.slot}: {ratio}" for ratio in ratios) or "unknown: too little motion"
            print(f"how far {key} moves where 1 is commanded (and the range of its episodes):\n  {listed}")
    return 1 if report.findings else 0


def _add_card(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = add_command(
        commands,
        "card",
        "write a dataset's data card",
        CARD_EPILOG,
        "Writes the data card of a dataset as Markdown and as an HTML page with plots and sample frames.",
    )
    parser.add_argument("dataset", metavar="DATASET", help="folder <root>/<name>/<version>, or its URL")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    parser.set_defaults(run=run_card)


def run_card(arguments: argparse.Namespace) -> int:
    """Checks a dataset, writes its card, and prints the paths."""
    from pipelines.contract.progress import progress_bar
    from pipelines.quality.card import check_and_write_card
    from pipelines.shards.dataset import Dataset

    dataset = Dataset.open(arguments.dataset)
    with progress_bar(dataset.n_episodes, "episode", "card") as bar:
        paths, n_findings = check_and_write_card(dataset, on_episode=bar.update)
    print(json.dumps({"written": paths, "findings": n_findings}) if arguments.json else "\n".join(paths))
    return 0


def _add_rejects(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = add_command(
        commands,
        "rejects",
        "show what a conversion left out, why, and what to do",
        REJECTS_EPILOG,
        "Shows the episodes and steps that a conversion left out, by reason, each with what to do.",
    )
    parser.add_argument("dataset", metavar="DATASET", help="folder <root>/<name>/<version>, or its URL")
    parser.add_argument("--reason", action="append", default=[], metavar="REASON", help="only this one; repeatable")
    parser.add_argument("--split", default="", metavar="SPLIT", help="only of this split")
    parser.add_argument(
        "--key", default="", metavar="PATTERN", help="only source keys like this, such as '*/kitchen/*'"
    )
    parser.add_argument("--all", action="store_true", help="list every row, not three of each reason")
    parser.add_argument("--json", action="store_true", help="print the groups with all their rows as JSON")
    parser.set_defaults(run=run_rejects)


def run_rejects(arguments: argparse.Namespace) -> int:
    """Prints the rejects of a conversion by reason."""
    from pipelines.quality.rejects import MOST_SHOWN, RejectFilter, group_rejects, read_rejects, render_rejects
    from pipelines.storage.paths import as_storage_path

    wanted = RejectFilter(reasons=tuple(arguments.reason), split=arguments.split, key=arguments.key)
    rejects = read_rejects(as_storage_path(arguments.dataset))
    groups = group_rejects([reject for reject in rejects if wanted.takes(reject)])
    if arguments.json:
        print(json.dumps({"dataset": arguments.dataset, "groups": [group.to_json() for group in groups]}, indent=1))
    elif rejects and not groups:
        print(f"{arguments.dataset}: none of its {len(rejects):,} rejects is like that")
    else:
        print(render_rejects(arguments.dataset, groups, shown=None if arguments.all else MOST_SHOWN))
    return 0


def _add_registry_entry(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = add_command(
        commands,
        "registry-entry",
        "print a dataset's entry for Octo's or OpenVLA's registries",
        REGISTRY_ENTRY_EPILOG,
        "Prints the dataset config and the standardization transform by which Octo or OpenVLA read a dataset.",
    )
    parser.add_argument("dataset", metavar="DATASET", help="folder <root>/<name>/<version>, or its URL")
    parser.add_argument("--for", dest="project", choices=("octo", "openvla"), required=True, help="whose registries")
    parser.add_argument("--json", action="store_true", help="print the notes, and the code by file, as JSON")
    parser.set_defaults(run=run_registry_entry)


def run_registry_entry(arguments: argparse.Namespace) -> int:
    """Prints what to append to the project's files."""
    from pipelines.publishing.registry_entry import registry_entry

    entry = registry_entry(arguments.dataset, arguments.project)
    print(json.dumps(entry.to_json(), indent=1) if arguments.json else entry.render())
    return 0
