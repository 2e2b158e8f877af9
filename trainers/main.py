"""The embodimix command: parses the arguments and runs the chosen command."""

import argparse
import errno
import os
import sys
from collections.abc import Sequence

import annotation_tools.cli
import mixtures.cli
import model.cli
import pipelines.cli
import trainers.cli
import trainers.demo.cli
import trainers.planning.where
import trainers.serving.cli
from pipelines.contract.errors import EmbodimixError
from pipelines.contract.registries import use_registries
from trainers.planning.prompt_tokens import tokens_by_model

DESCRIPTION = "The data engine for cross-embodiment robot pretraining: native logs to weighted pi0 training."
# A write that fails for lack of room names no file, unlike one that fails to open.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
EPILOG = """a first tour:
  embodimix demo                                    the whole way on generated data
  embodimix convert zarr logs/ data/ --name in_house --version 1.0.0
  embodimix mix plan mixture.yaml
  embodimix train pretrain mixture.yaml --model tiny --steps 1000 --run runs/a
"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of every command; each command sets `run`, a function of the parsed arguments."""
    parser = argparse.ArgumentParser(
        prog="embodimix",
        description=DESCRIPTION,
        epilog=EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for part in (
        pipelines.cli,
        mixtures.cli,
        model.cli,
        annotation_tools.cli,
        trainers.cli,
        trainers.planning.where,
        trainers.serving.cli,
        trainers.demo.cli,
    ):
        part.add_commands(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 fine, 1 findings or failed work, 2 wrong use."""
    parser = build_parser()
    # Beam options (--runner=..., --project=...) pass through `convert` as Beam's users write them.
    parsed, rest = parser.parse_known_args(arguments)
    if rest and not getattr(parsed, "takes_beam_options", False):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    parsed.beam_options = rest
    parsed.tokens_by_model = tokens_by_model  # `mix plan` counts prompts, and mixtures know no model
    use_registries(getattr(parsed, "registry", []))
    try:
        code = parsed.run(parsed)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read the output has seen enough (`| head`); what Python flushes at exit must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except EmbodimixError as error:
        print(f"embodimix {parsed.command}: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"embodimix {parsed.command}: {_described(error)}", file=sys.stderr)
        return 1
    except RecursionError:
        # json and yaml give up so; who reads a file names it, and this is for those that did not.
        fault = "expected JSON and YAML files of usual depth, found one that is nested a thousand levels deep"
        print(f"embodimix {parsed.command}: {fault}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"embodimix {parsed.command}: interrupted; run the same command again to continue", file=sys.stderr)
        return 130


def _described(error: OSError) -> str:
    """One line for a file that cannot be read or written; raises what is about no file and no full disk."""
    where = "" if error.filename is None else f"{error.filename}: "
    if error.errno in FULL:
        return f"{where}the disk is full; free some space and run the same command again to continue"
    if error.filename is None:
        raise error
    return f"{where}expected a path that can be read and written; found: {error.strerror}"


if __name__ == "__main__":
    sys.exit(main())
