"""Beam's own options: passed through unchanged, with mistyped options and unsuitable runners refused."""

import argparse
import difflib
import os
from collections.abc import Mapping, Sequence

from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, StandardOptions

from pipelines.contract.errors import UsageError, nearest

LOCAL_RUNNER = "FnApiRunner"
_REFUSED = {
    "DaskRunner": "it reports success with wrong results: of several outputs only the last is written, rejects are "
    "merged into the episodes, and metrics are missing (Beam 2.77)",
    "DirectRunner": "it first tries to fetch another runner from the network and behaves differently with and "
    "without one (Beam 2.77)",
    "InteractiveRunner": "it keeps intermediate results in memory for notebooks",
}
_INSTEAD = f"Use --runner={LOCAL_RUNNER} here, or DataflowRunner, FlinkRunner or PortableRunner"


def make_beam_options(flags: Sequence[str], n_workers: int | None = None) -> PipelineOptions:
    """Returns Beam's options; without `--runner` the work runs in `n_workers` threads of this process
    (which pass it to worker processes, where such were forked).

    Raises UsageError for flags that Beam does not know and for runners that give wrong results.
    """
    known, unknown = option_parser().parse_known_args(list(flags))
    if unknown:
        raise UsageError(f"{unknown[0]}: neither embodimix nor Beam knows this option. {_nearest_flag(unknown[0])}")
    runner = (known.runner or LOCAL_RUNNER).rsplit(".", 1)[-1]
    if runner in _REFUSED:
        raise UsageError(f"--runner={runner} is refused: {_REFUSED[runner]}. {_INSTEAD}")
    _check_runner(known.runner or LOCAL_RUNNER)
    if runner == "DataflowRunner":
        _check_dataflow(known)
    options = list(flags)
    if known.save_main_session is None:
        # Workers import every function from the wheel; the launcher's own session holds nothing that they need.
        options.append("--no_save_main_session")
    if known.runner is None:
        options.append(f"--runner={LOCAL_RUNNER}")
    if runner == LOCAL_RUNNER and known.direct_num_workers == 1 and known.direct_running_mode == "in_memory":
        options += [f"--direct_num_workers={n_workers or os.cpu_count()}", "--direct_running_mode=multi_threading"]
    elif n_workers:
        raise UsageError("--workers is for local runs without other worker options; found Beam's own, use those alone")
    return PipelineOptions(options)


def _check_runner(name: str) -> None:
    """Refuses a runner that Beam would not find, before the input is scanned; dotted names are classes of one's own."""
    known = [runner.rsplit(".", 1)[-1] for runner in StandardOptions.ALL_KNOWN_RUNNERS]
    if "." not in name and name.lower() not in {runner.lower() for runner in known}:
        raise UsageError(
            f"--runner={name}: no runner of Beam. {nearest(name, [r for r in known if r not in _REFUSED])}"
        )


def _check_dataflow(known: argparse.Namespace) -> None:
    """Refuses a job of Dataflow that its service would refuse minutes later."""
    lacking = [f"--{name}" for name in ("project", "temp_location") if not getattr(known, name)]
    if lacking:
        raise UsageError(
            f"--runner=DataflowRunner: expected {' and '.join(lacking)} as well, found none; such as "
            "--project=my-project --region=europe-west4 --temp_location=gs://my-bucket/tmp"
        )
    if not known.temp_location.startswith("gs://"):
        raise UsageError(f"--temp_location: expected gs://BUCKET/PATH for Dataflow, found {known.temp_location}")


def is_local(options: PipelineOptions) -> bool:
    """Says whether the work runs on this machine, in this process or its children."""
    runner = options.view_as(StandardOptions).runner or LOCAL_RUNNER
    return runner.rsplit(".", 1)[-1] == LOCAL_RUNNER


def writes_template(options: PipelineOptions) -> bool:
    """Returns whether the launcher writes the job to a template, and so does not see its end."""
    return bool(options.view_as(GoogleCloudOptions).template_location)


def check_reach(options: PipelineOptions, paths: Mapping[str, str]) -> None:
    """Raises UsageError when the work runs in the cloud and a path, given by its option's name, is on this machine."""
    runner = (options.view_as(StandardOptions).runner or "").rsplit(".", 1)[-1]
    for name, where in paths.items():
        if runner == "DataflowRunner" and ("://" not in where or where.startswith("file://")):
            raise UsageError(f"{name} {where}: workers of Dataflow do not see this machine; expected gs://...")


def option_parser() -> argparse.ArgumentParser:
    """Returns a parser of every option that Beam and its runners declare."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, conflict_handler="resolve")
    for group in _option_groups(PipelineOptions):
        if "_add_argparse_args" in vars(group):
            # Any parser will do, though Beam declares a class of its own, which refuses options that stand twice.
            group._add_argparse_args(parser)  # type: ignore[arg-type]
    return parser


def _option_groups(group: type[PipelineOptions]) -> list[type[PipelineOptions]]:
    return [inner for child in group.__subclasses__() for inner in (child, *_option_groups(child))]


def _nearest_flag(flag: str) -> str:
    own = [
        "--name",
        "--version",
        "--adapter",
        "--robot",
        "--task",
        "--shards",
        "--splits",
        "--val-fraction",
        "--statistics",
        "--workers",
        "--json",
        "--no-progress-limit",
        "--trust-images",
        "--verify-input",
        "--restart",
    ]
    beam = [name for action in option_parser()._actions for name in action.option_strings]
    name = flag.split("=")[0]
    return nearest(name, own + difflib.get_close_matches(name, beam, n=3, cutoff=0.7))
