"""The commands `export` and `import`; heavy modules are imported only when a command runs."""

import argparse
import sys
from pathlib import Path

from pipelines.contract.errors import UsageError
from pipelines.contract.options import add_command
from pipelines.contract.words import counted

LAYOUTS = ("openpi", "lerobot", "hf-pi0", "hf-paligemma", "big_vision")
EXPORT_EPILOG = """examples:
  embodimix export runs/a out/a --layout openpi            out/a/params and out/a/assets, for openpi
  embodimix export runs/a out/a_lerobot --layout lerobot   a folder for LeRobot's PI0Policy.from_pretrained
  embodimix export runs/a out/a_hf --layout hf-pi0         for transformers' PI0ForConditionalGeneration
  embodimix export runs/lora out/b --merge-lora            adapters added to the weights that they adapt
  embodimix export pi0_base/params out/c --layout hf-pi0   from published weights
"""
IMPORT_EPILOG = """examples:
  embodimix import pi0_aloha runs/aloha --robot trossen_dual/joint_position --horizon 50 --actions relative
  embodimix import lerobot_pi0 runs/so100 --robot so100/joint_position --units degrees --tokenizer tokenizer.model
  embodimix serve runs/aloha
  embodimix eval runs/aloha --spec aloha.yaml              a mixture with layout: pi32/v1
"""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `export` and `import` to the parser of `embodimix`."""
    export = add_command(
        commands, "export", "write a policy for openpi, LeRobot, transformers or big_vision", EXPORT_EPILOG
    )
    export.add_argument(
        "source", metavar="RUN|FOLDER", type=Path, help="a run, or an openpi folder: the newest checkpoint is taken"
    )
    export.add_argument("output", metavar="OUT", type=Path, help="a new folder (big_vision: a new .npz)")
    export.add_argument("--layout", choices=LAYOUTS, default="openpi", help="default: %(default)s")
    export.add_argument("--step", metavar="N", type=int, help="which checkpoint of a run; default: the newest")
    export.add_argument(
        "--robot", metavar="NAME", help="norm key, or its beginning, whose dims alone are kept (lerobot: the only one)"
    )
    export.add_argument("--merge-lora", action="store_true", help="add low-rank adapters to their weights")
    export.add_argument("--any-size", action="store_true", help="lerobot: also sizes that LeRobot does not build")
    export.set_defaults(run=run_export)
    _add_import(commands)


def _add_import(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = add_command(
        commands,
        "import",
        "make a run of a checkpoint of openpi or LeRobot, to serve, evaluate or train on",
        IMPORT_EPILOG,
    )
    parser.add_argument(
        "checkpoint",
        metavar="FOLDER",
        type=Path,
        help="folder with params/ and assets/, or with config.json of LeRobot",
    )
    parser.add_argument("run_directory", type=Path, metavar="RUN", help="a new run directory")
    parser.add_argument(
        "--robot", required=True, metavar="ROBOT/MODE", help="whose slots the dims are, of the registry"
    )
    parser.add_argument(
        "--units",
        metavar="NAME",
        default="metric",
        help="name of units that are not m, rad and s (default: %(default)s)",
    )
    parser.add_argument("--asset", metavar="ID", help="openpi's asset id, where there are several")
    parser.add_argument("--horizon", type=int, metavar="N", help="steps of a chunk, which openpi does not say")
    parser.add_argument("--actions", choices=("absolute", "relative"), help="openpi: relative with DeltaActions")
    parser.add_argument("--normalization", choices=("quantile", "zscore"), help="openpi (pi0: zscore; pi0.5: quantile)")
    parser.add_argument("--cameras", type=_names, default=(), metavar="SLOT,...", help="camera slots, in order")
    parser.add_argument("--control-hz", type=float, metavar="X", help="the robot's rate (that of the registry)")
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="PaliGemma's SentencePiece file (beside it)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of activations (openpi: bfloat16)")
    parser.add_argument("--state-slots", type=_numbers, default=(), metavar="N,...", help="the slot of every state dim")
    parser.add_argument("--action-slots", type=_numbers, default=(), metavar="N,...", help="that of every action dim")
    parser.add_argument("--siglip-heads", type=int, metavar="N", help="for other image encoders than So400m")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=run_import)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def run_import(arguments: argparse.Namespace) -> int:
    """Makes the run and prints what it is."""
    from trainers.exchange.importing import ImportRequest, import_checkpoint, report, to_json

    fields = ImportRequest.__dataclass_fields__.keys() - {"run"}
    request = ImportRequest(run=arguments.run_directory, **{name: getattr(arguments, name) for name in fields})
    imported = import_checkpoint(request)
    print(to_json(imported) if arguments.json else report(imported))
    return 0


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
        any_size=arguments.any_size,
    )
    try:
        done = export(request)
    except (ValueError, OSError, UsageError) as error:
        print(f"embodimix export: {error}", file=sys.stderr)
        return 2
    origin = arguments.source if done.step is None else f"{arguments.source}, step {done.step}"
    print(
        f"wrote {done.target}: {counted(done.arrays, 'array')}, {counted(done.values, 'value')}, layout "
        f"{arguments.layout}, from {origin}"
    )
    for name in done.beside:
        print(f"wrote {arguments.output / name}")
    return 0
