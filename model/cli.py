"""The commands of `model`; heavy modules are imported only when a command runs."""

import argparse
import sys
from pathlib import Path

LAYOUTS = ("openpi", "hf-pi0", "hf-paligemma", "big_vision")
EXPORT_EPILOG = """examples:
  embodimix export runs/a out/a --layout openpi        out/a/params, for openpi
  embodimix export runs/a out/a_hf --layout hf-pi0     out/a_hf/model.safetensors and config.json
  embodimix export pi0_base/params out/b --layout hf-pi0   from published weights
"""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds this part's commands to the parser of `embodimix`."""
    export = commands.add_parser(
        "export",
        help="write a policy's weights in a published layout",
        epilog=EXPORT_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    export.add_argument("source", type=Path, help="a run, or an openpi folder: the newest checkpoint is taken")
    export.add_argument("output", type=Path, help="a new folder (big_vision: a new .npz)")
    export.add_argument("--layout", choices=LAYOUTS, default="openpi", help="default: %(default)s")
    export.add_argument("--step", type=int, help="which checkpoint of a run; default: the newest")
    export.set_defaults(run=run_weights_export)


def run_weights_export(arguments: argparse.Namespace) -> int:
    """Writes the weights and prints where; 2 if the source is none or the output is there already."""
    from model.config import config_from_params
    from model.params import unflatten
    from model.published.export import export_params, read_trained

    try:
        step, flat = read_trained(arguments.source, arguments.step)
        config = config_from_params({name: array.shape for name, array in flat.items()})
        target = export_params(config, unflatten(flat), arguments.output, arguments.layout)
    except (ValueError, OSError) as error:
        print(f"embodimix export: {error}", file=sys.stderr)
        return 2
    values = sum(array.size for array in flat.values())
    origin = arguments.source if step is None else f"{arguments.source}, step {step}"
    print(f"wrote {target}: {len(flat)} arrays, {values:,} values, layout {arguments.layout}, from {origin}")
    return 0
