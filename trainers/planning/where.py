"""The command `where`: which episode, step and source file a position of a mixture, or a step of a run, draws."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.contract.errors import UsageError
from pipelines.contract.options import add_command, not_negative, positive

if TYPE_CHECKING:
    from mixtures.mixture import Mixture
    from mixtures.stream.batches import Batch

EPILOG = """a worked example:
  embodimix where mixture.yaml 123456 --picture sample.jpg     what this position draws
  embodimix where runs/pretrain --step 1200                    the samples of this step of a run, a line each
  embodimix where runs/pretrain 38400 --json

Positions count samples in the global order from 0; step N of a run (from 1) draws the positions from
(N - 1) * batch size. Nothing is trained or computed again.
"""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `where` to the parser of `embodimix`."""
    about = "Shows the dataset, episode, step, source file, text and share behind a position or a run's step."
    parser = add_command(commands, "where", "show where a drawn sample comes from", EPILOG, about)
    parser.add_argument("source", type=Path, metavar="SPEC|RUN", help="a mixture spec (YAML) or a run directory")
    parser.add_argument(
        "position", type=not_negative, nargs="?", metavar="POSITION", help="in the global order, from 0"
    )
    parser.add_argument("--step", type=positive, metavar="N", help="a step of a run instead: all samples of its batch")
    parser.add_argument("--split", default="train", choices=("train", "validation"), help="train by default")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write the sample's pictures, as one JPEG")
    parser.add_argument("--draws", type=positive, metavar="N", help="samples that training draws (the spec's)")
    parser.add_argument("--root", metavar="DIR", help="base of relative dataset paths (default: the spec's root)")
    parser.add_argument("--json", action="store_true", help="print the samples as JSON")
    parser.set_defaults(run=run_where)


def run_where(arguments: argparse.Namespace) -> int:
    """Prints the origin of one sample, or of every sample of a step."""
    from mixtures.reports.origin import find_origins, render_origin, render_origins

    if (arguments.position is None) == (arguments.step is None):
        raise UsageError("expected a POSITION, or --step N of a run")
    mixture, batch_size = _open(arguments)
    position, count = arguments.position, 1
    if arguments.step is not None:
        if batch_size is None or arguments.step < 1:
            raise UsageError(
                f"--step: expected a step from 1 and a run directory, whose batch size is known; found step "
                f"{arguments.step} and {arguments.source}"
            )
        position, count = (arguments.step - 1) * batch_size, batch_size
    origins, batch = find_origins(mixture, position, count, arguments.split)
    if arguments.json:
        print(json.dumps([origin.to_json() for origin in origins], indent=1))
    else:
        print(render_origins(origins) if count > 1 else render_origin(mixture, origins[0]))
    if arguments.picture:
        _write_pictures(arguments.picture, batch)
    return 0


def _open(arguments: argparse.Namespace) -> "tuple[Mixture, int | None]":
    """The mixture, and the batch size where a run was named; that must still be the mixture it trained on."""
    from mixtures.mixture import open_mixture

    if not arguments.source.is_dir():
        return open_mixture(arguments.source, draws=arguments.draws, root=arguments.root), None
    from trainers.run import RunDirectory

    run = RunDirectory(arguments.source)
    config = run.read_config()
    mixture = open_mixture(
        Path(config.mixture),
        draws=config.steps * config.batch_size,
        root=arguments.root,
        statistics=run.recorded_statistics(),
        stage=config.stage,
    )
    mixture.check_lock(run.read_lock())
    return mixture, config.batch_size


def _write_pictures(path: Path, batch: "Batch") -> None:
    """The pictures of the first sample side by side; masked cameras are left out."""
    import sys

    import numpy as np
    import simplejpeg

    from pipelines.storage.files import write_atomically

    shown = batch.images[0][batch.camera_mask[0]]
    if not len(shown):
        raise UsageError("--picture: this sample has no camera")
    sheet = np.ascontiguousarray(np.concatenate(list(shown), axis=1))
    write_atomically(path, simplejpeg.encode_jpeg(sheet, quality=90))
    print(f"wrote {path}", file=sys.stderr)
