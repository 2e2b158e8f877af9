"""The commands of `pipelines`; heavy modules are imported only when a command runs."""

import argparse
import json
import logging
import os
import re
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines import dataset_commands, inspect_command
from pipelines.contract.errors import UsageError
from pipelines.contract.options import add_command
from pipelines.contract.registries import add_registry_option
from pipelines.contract.words import counted

if TYPE_CHECKING:
    from pipelines.conversion.launch import Outcome
    from pipelines.mapping.adapters import Adapter
    from pipelines.shards.manifest import Counts
    from pipelines.storage.paths import StoragePath

# Reasons whose advice a summary prints; the docs list all.
_MOST_ADVICE = 3

CONVERT_EPILOG = """examples:
  embodimix convert rlds oxe/bridge_dataset/1.0.0 data/ --name bridge_v2 --version 1.0.0 --adapter bridge_orig
  embodimix convert zarr logs/ data/ --name in_house --version 1.0.0 --workers 8
  embodimix convert droid droid_raw/1.0.1 data/ --name droid --version 1.0.0 --runner=DataflowRunner \\
      --project=my-project --region=us-central1 --temp_location=gs://my-bucket/tmp
  embodimix convert zarr logs/ data/ --name in_house --version 1.1.0 --append 1.0.0       only what is new
  embodimix convert --explain bridge_orig         how each native dim lands in which slot

Options that are not listed here go to Beam. The command may be repeated: it resumes where it stopped.
Exit codes: 0 the dataset is whole (what was left out is counted and named), 1 failed or nothing kept, 2 wrong use.
"""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds this part's commands to the parser of `embodimix`."""
    dataset_commands.add_commands(commands)
    add_registry_option(inspect_command.add_commands(commands))
    parser = add_command(
        commands,
        "convert",
        "native logs to normalized RLDS shards",
        CONVERT_EPILOG,
        "Converts native robot logs into one dataset version under OUTPUT_ROOT/NAME/VERSION.",
    )
    formats = "rlds, bridge, droid, zarr, dp, aloha, robomimic, hdf5, bag or lerobot"
    parser.add_argument("format", nargs="?", metavar="FORMAT", help=formats)
    parser.add_argument("input", nargs="?", metavar="INPUT", help="the folder that holds the source's files")
    parser.add_argument("output_root", nargs="?", metavar="OUTPUT_ROOT", help="folder or URL that holds datasets")
    parser.add_argument("--name", metavar="NAME", help="the dataset's name: letters, digits, _")
    parser.add_argument("--version", metavar="X.Y.Z", help="MAJOR.MINOR.PATCH")
    parser.add_argument(
        "--adapter",
        metavar="ENTRY",
        help="the adapter entry, or a file of your own: my.yaml, my.yaml:ENTRY; some formats have a default",
    )
    add_registry_option(parser)
    _add_meaning(parser.add_argument_group("what the source's numbers and pictures mean"))
    _add_selection(parser.add_argument_group("what is kept, and how it is laid out"))
    _add_running(parser.add_argument_group("how the work runs"))
    parser.add_argument(
        "--explain", metavar="ENTRY", help="print which slots an adapter's native dims fill, and exit; all: a table"
    )
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
    parser.set_defaults(run=run_convert, takes_beam_options=True)


def _add_meaning(parser: argparse._ArgumentGroup) -> None:
    """Options that replace what the adapter entry says of the source."""
    parser.add_argument("--robot", metavar="NAME", default="", help="the robot, where it differs from the adapter's")
    parser.add_argument(
        "--task", metavar="TEXT", default="", help="an instruction for every episode that replaces the source's"
    )
    parser.add_argument(
        "--units",
        default="",
        metavar="U",
        help="units of the source's joints where it does not state them: degrees or percent (LeRobot SO-100, Koch)",
    )
    parser.add_argument(
        "--channels",
        default="",
        metavar="ORDER",
        help="colours as stored: bgr (cv2.imencode of RGB pictures), rgb, or per camera: cam_high=bgr,cam_low=rgb; of "
        "a dataset published in BGR: as_published, or repaired (default: decided by the pictures)",
    )
    parser.add_argument(
        "--relabel",
        default="",
        choices=("never", "reached_states"),
        help="reached_states: actions are what the state did, as Octo and OpenVLA train on Bridge; drops the last step",
    )
    parser.add_argument(
        "--compat",
        default="",
        choices=("droid",),
        help="droid: also DROID's own features, and pictures under its names, so that openpi's loader of DROID reads "
        "the dataset unchanged; of DROID's raw folders or RLDS",
    )
    parser.add_argument(
        "--max-loss",
        type=float,
        metavar="F",
        help="keep an episode that loses up to this share of its steps, each counted (default: the adapter's, 0.1)",
    )
    parser.add_argument(
        "--camera",
        action="append",
        default=[],
        metavar="SLOT=NAME",
        help="the native camera of a slot, replacing the adapter's; SLOT='NAME|NAME' draws one of them for each step",
    )


def _add_selection(parser: argparse._ArgumentGroup) -> None:
    """Options on episodes, splits, shards and versions."""
    parser.add_argument(
        "--shards", metavar="N", type=int, help="shards of the largest split (default: one per 64 episodes)"
    )
    parser.add_argument("--splits", default="", metavar="A,B", help="keep only these splits of the source")
    parser.add_argument(
        "--val-fraction",
        type=float,
        default=0.0,
        metavar="F",
        help="move this share of train to val, by hash (default 0)",
    )
    parser.add_argument(
        "--partial",
        action="store_true",
        help="accept an input that lacks files (rlds); every lost record is counted",
    )
    parser.add_argument(
        "--episodes",
        default="",
        metavar="FILE",
        help="keep only the episodes that FILE lists by the source's keys: JSON list or object, or a key a line",
    )
    parser.add_argument(
        "--language",
        default="",
        metavar="FILE",
        help="instructions by the source's keys, a JSON object (DROID's annotations, key to text or texts), which "
        "replace an episode's own",
    )
    parser.add_argument(
        "--statistics", default="", metavar="FILE", help="normalize with these statistics; measure none"
    )
    parser.add_argument(
        "--append", default="", metavar="VERSION", help="add the input's new episodes to this version, as a new MINOR"
    )


def _add_running(parser: argparse._ArgumentGroup) -> None:
    """Options on trust, resuming and this machine."""
    parser.add_argument(
        "--sparse-chunks",
        action="store_true",
        help="read chunks that are not stored as zeros (zarr, HDF5): for writers that leave them out, such as "
        "zarr-python 3; without it, an episode that lacks one is rejected",
    )
    parser.add_argument(
        "--trust-images", action="store_true", help="copy JPEGs of the right size without decoding each of them once"
    )
    parser.add_argument(
        "--verify-input",
        choices=("fast", "full"),
        default="fast",
        help="how a rerun sees that the input's files are the same: by size, time, first and last bytes (fast, the "
        "default), or by every byte (full)",
    )
    parser.add_argument(
        "--restart", action="store_true", help="discard an unfinished conversion whose input has changed since"
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=int,
        help="processes of a local run, or threads where an object store is read or written (default: one per core)",
    )
    parser.add_argument(
        "--no-progress-limit",
        type=float,
        default=600.0,
        metavar="S",
        help="stop a local run that shows no progress for S seconds (default 600)",
    )
    parser.add_argument(
        "--input-cache",
        type=float,
        default=10.0,
        metavar="GB",
        help="what a worker process keeps on its disk of an input in an object store (default 10)",
    )


def run_convert(arguments: argparse.Namespace) -> int:
    """Converts, or explains an adapter; see `embodimix convert --help`."""
    from pipelines.mapping.adapters import find_adapter, with_channels, with_sparse_chunks

    if arguments.explain:
        from pipelines.mapping.explain import explain_adapter, registry_table

        if arguments.explain == "all":
            print(registry_table(), end="")
            return 0
        print(explain_adapter(find_adapter(arguments.explain), arguments.robot))
        return 0
    for name in ("format", "input", "output_root", "name", "version"):
        if getattr(arguments, name) is None:
            shown = f"--{name}" if name in ("name", "version") else name.upper()
            raise UsageError(f"expected {shown}; see embodimix convert --help")
    adapter = choose_adapter(arguments.format, arguments.input, arguments.adapter)
    adapter = with_max_loss(with_cameras(adapter, arguments.camera), arguments.max_loss)
    if arguments.channels:
        adapter = with_channels(adapter, arguments.channels)
    if arguments.relabel:
        adapter = replace(adapter, relabel=arguments.relabel)
    if arguments.compat:
        from pipelines.mapping.droid_features import check_format

        check_format(adapter.format)
        adapter = replace(adapter, compat=arguments.compat)
    if arguments.sparse_chunks:
        adapter = with_sparse_chunks(adapter)
    with workers_for(arguments):
        return _run_convert(arguments, adapter)


def with_cameras(adapter: "Adapter", options: Sequence[str]) -> "Adapter":
    """Returns the adapter with the cameras that `--camera` names. Raises UsageError on other forms."""
    from pipelines.mapping.cameras import parse_camera_option

    for slot, choice in map(parse_camera_option, options):
        drawn = {name: each for name, each in adapter.drawn.items() if name != slot}
        if choice.each:
            drawn[slot] = choice.each
        optional = {name: names for name, names in adapter.optional_cameras.items() if name != slot}
        cameras = {**adapter.cameras, slot: choice.names}
        adapter = replace(adapter, cameras=cameras, optional_cameras=optional, drawn=drawn)
    return adapter


def with_max_loss(adapter: "Adapter", share: float | None) -> "Adapter":
    """Returns the adapter with the share of steps that `--max-loss` allows. Raises UsageError on another number."""
    if share is None:
        return adapter
    if not 0 <= share <= 1:
        raise UsageError(f"--max-loss: expected a share from 0 to 1, found {share}")
    return replace(adapter, max_loss=share)


def workers_for(arguments: argparse.Namespace) -> AbstractContextManager[None]:
    """Sets up memory and processes for a local run's workers.

    They are threads of this process where one is enough or none can be forked, where Beam's options say who works, and
    where the input is in an object store, of which they share the copies.
    """
    from pipelines.jobs.fork_pool import can_fork, forked_workers
    from pipelines.jobs.local_workers import limit_malloc_arenas

    n_workers = arguments.workers or os.cpu_count() or 1
    paths = (arguments.input, arguments.output_root)
    if n_workers > 1 and can_fork() and not arguments.beam_options and not any("://" in path for path in paths):
        from pipelines.conversion.read_episode import reader_of

        limit_malloc_arenas(1)
        return forked_workers(n_workers, partial(reader_of, arguments.format))
    limit_malloc_arenas(n_workers)
    return nullcontext()


def _run_convert(arguments: argparse.Namespace, adapter: "Adapter") -> int:
    # Beam warns on the root logger about extras that it does not need here.
    logging.getLogger().setLevel(logging.ERROR)
    from pipelines.conversion.launch import ConversionRequest, run_conversion
    from pipelines.sources.tfds.registered_names import explain_clash

    conversion = ConversionRequest(
        source=arguments.input,
        output_root=arguments.output_root,
        name=arguments.name,
        version=arguments.version,
        adapter=adapter,
        robot=arguments.robot,
        task=arguments.task,
        units=arguments.units,
        n_shards=arguments.shards,
        splits=tuple(split for split in arguments.splits.split(",") if split),
        val_fraction=arguments.val_fraction,
        statistics=arguments.statistics,
        append=arguments.append,
        trust_images=arguments.trust_images,
        verify_input=arguments.verify_input,
        restart=arguments.restart,
        partial=arguments.partial,
        episodes=arguments.episodes,
        texts=arguments.language,
        n_workers=arguments.workers,
        no_progress_s=arguments.no_progress_limit,
        input_cache_gb=arguments.input_cache,
        beam_flags=tuple(arguments.beam_options),
    )
    check_input(arguments.input)
    if clash := explain_clash(arguments.name):
        print(f"embodimix convert: --name {arguments.name}: {clash}", file=sys.stderr)
    outcome = run_conversion(conversion)
    if arguments.json:
        print(json.dumps(outcome.to_json() | {"path": str(conversion.directory)}))
    else:
        print("\n".join(describe_outcome(outcome, conversion.directory)))
    return 0


def choose_adapter(format: str, source: str, name: str | None) -> "Adapter":
    """Returns the adapter asked for, or the format's usual one. Raises UsageError when it is of another format."""
    from pipelines.contract.errors import advising, draft_advice, nearest
    from pipelines.mapping.adapters import find_adapter, load_adapters
    from pipelines.mapping.formats import list_formats

    formats = list_formats()
    if format not in formats:
        raise UsageError(f"FORMAT {format!r} is unknown. {nearest(format, formats)} {draft_advice(source)}")
    name = name or formats[format] or None
    if name is None:
        known = load_adapters().names_with("format", format)
        name = next((part for part in reversed(Path(source).parts) if part in known), None)
    if name is None:
        check_input(source)
    if name is None and format == "lerobot":
        from pipelines.sources.lerobot import explain_misfit

        with advising(source):
            found = explain_misfit(source)
        raise UsageError(f"--adapter: expected an entry for {found}. {draft_advice(source)}")
    if name is None and format == "hdf5":
        from pipelines.sources.hdf5 import explain_keys

        with advising(source):
            found = explain_keys(source)
        raise UsageError(f"--adapter: expected an entry that names the keys of {found}. {draft_advice(source)}")
    if name is None and not known:
        raise UsageError(f"--adapter: expected an entry; none of format {format} is shipped. {draft_advice(source)}")
    if name is None:
        # The folder above a version is the dataset's name.
        wanted = next((part for part in reversed(Path(source).parts) if not re.fullmatch(r"[\d.]+", part)), source)
        close = nearest(wanted, known)
        raise UsageError(f"--adapter: no entry of format {format} is named {wanted!r}. {close} {draft_advice(source)}")
    adapter = find_adapter(name)
    if adapter.format != format:
        found = f"expected one of format {format}, found one of format {adapter.format}"
        raise UsageError(f"--adapter {name}: {found}; if INPUT holds that, write {adapter.format}")
    return adapter


def check_input(source: str) -> None:
    """Raises UsageError where an input on a disk is not there, with the names beside it that are nearest."""
    from pipelines.contract.errors import describe_missing, draft_advice

    path = Path(source)
    if "://" in source or path.exists():
        return
    found = describe_missing(path)
    raise UsageError(f"INPUT {source}: expected a file or folder, found none; {found} {draft_advice('PATH')}")


def describe_outcome(outcome: "Outcome", directory: "StoragePath") -> list[str]:
    """Returns the lines of a conversion's summary: what came out, what was left out and why, what was concluded."""
    if outcome.manifest is None:
        return [
            f"{directory}: job submitted. When it has finished, run the same command without Beam options to finalize",
            "the dataset",
        ]
    counts = outcome.manifest.counts
    done = ""
    if outcome.already_done:
        done = " (already done)" if outcome.same_code else " (already done, by another version of the code)"
    size = f"{counted(counts.steps_out, 'step')}, {counts.bytes_out / 1e6:.1f} MB"
    lines = [f"{directory}{done}: {counts.episodes_out} of {counted(counts.episodes_in, 'episode')}, {size}"]
    for camera, n in counts.cameras.items():
        if n.missing:
            lines.append(f"  {camera}: missing in {counted(n.missing, 'episode')} (black and masked)")
    if counts.rejects:
        lines += _describe_rejects(counts)
        lines.append(f"  each is named in {directory / 'rejects.parquet'}")
    for name, n_rows in outcome.manifest.unmatched.items():
        lines.append(f"  {counted(n_rows, 'row')} of {name} for no episode that was kept")
    for sentence, episodes in outcome.manifest.inferred.items():
        lines.append(f"  inferred in {counted(episodes, 'episode')}: {sentence}")
    for found in outcome.manifest.findings:
        lines.append(f"  {found['severity']}: {found['kind']} in {found['scope']}: {found['evidence']}")
    if outcome.manifest.findings:
        lines.append(f"  what to do is in {directory / 'card.md'}; embodimix check looks at pictures and texts, too")
    return lines


def _describe_rejects(counts: "Counts") -> list[str]:
    """What was left out by reason, and for whole episodes what to do about the most frequent reasons."""
    from pipelines.contract.reject_reasons import explain

    listed = ", ".join(f"{reason} {n}" for reason, n in counts.rejects.items())
    lines = [
        f"  left out: {counted(counts.episodes_rejected, 'episode')}, {counted(counts.steps_dropped, 'single step')} "
        f"({listed})"
    ]
    if counts.episodes_rejected:
        most = sorted(counts.rejects, key=lambda reason: -counts.rejects[reason])[:_MOST_ADVICE]
        lines += [f"    {reason}: {explain(reason).meaning}. {explain(reason).advice}" for reason in most]
    return lines
