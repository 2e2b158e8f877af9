"""The commands `export` and `import`; heavy modules are imported only when a command runs."""

import argparse
import sys
from pathlib import Path

from pipelines.contract.errors import UsageError

LAYOUTS = ("openpi", "lerobot", "hf-pi0", "hf-paligemma", "big_vision")
EXPORT_EPILOG = """examples:
  embodimix export runs/a out/a --layout openpi            out/a/params and out/a/assets, for openpi
  embodimix export runs/a out/a_lerobot --layout lerobot   a folder for LeRobot's PI0Policy.from_pretrained
  embodimix export runs/a out/a_hf --layout hf-pi0         for transformers' PI0ForConditionalGeneration
  embodimix export runs/lora out/b --merge-lora            adapters added to the weights that they adapt
  embodimix export pi0_base/params out/c --layout hf-pi0   from published weights
"""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `export` and `import` to the parser of `embodimix`."""
    export = commands.add_parser(
        "export",
        help="write a policy for openpi, LeRobot, transformers or big_vision",
        epilog=EXPORT_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    export.add_argument("source", type=Path, help="a run, or an openpi folder: the newest checkpoint is taken")
    export.add_argument("output", type=Path, help="a new folder (big_vision: a new .npz)")
    export.add_argument("--layout", choices=LAYOUTS, default="openpi", help="default: %(default)s")
    export.add_argument("--step", type=int, help="which checkpoint of a run; default: the newest")
    export.add_argument("--robot", help="norm key, or its beginning, whose dims alone are kept (lerobot: the only one)")
    export.add_argument("--merge-lora", action="store_true", help="add low-rank adapters to their weights")
    export.set_defaults(run=run_export)


def run_export(arguments: argparse.Namespace) -> int:
    """Writes the folder and prints where; 2 if the source is none or the output is there already."""
    from trainers.exchange.exporting import ExportRequest, export

    request = ExportRequest(
        source=arguments.source,
        output=arguments.output,
        layout=arguments.layout,
        step=arguments.step,
        robot=arguments.robot,
        merge_lora=arguments.merge_lora,
    )
    try:
        done = export(request)
    except (ValueError, OSError, UsageError) as error:
        print(f"embodimix export: {error}", file=sys.stderr)
        return 2
    origin = arguments.source if done.step is None else f"{arguments.source}, step {done.step}"
    print(
        f"wrote {done.target}: {done.arrays} arrays, {done.values:,} values, layout {arguments.layout}, from {origin}"
    )
    for name in done.beside:
        print(f"wrote {arguments.output / name}")
    return 0
