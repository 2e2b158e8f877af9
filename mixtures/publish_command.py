"""The command `embodimix publish`: a dataset, or what a mixture selects, in the form that others train on."""

import argparse
import json
import os
from typing import TYPE_CHECKING, Any

from pipelines.contract.options import add_command, not_negative, positive
from pipelines.contract.words import counted

if TYPE_CHECKING:
    from pipelines.publishing.publication import Choice, Form
    from pipelines.publishing.publishing import Published

EPILOG = """examples:
  embodimix publish data/bridge/1.0.0 out/bridge --as lerobot
  embodimix publish mixture.yaml out/curated --as lerobot --split-robots --licence CC-BY-4.0
  embodimix publish data/so100/1.0.0 out/so100 --as lerobot --lerobot-version 2.1 --codec h264
  embodimix publish data/so100/1.0.0 out/so100 --as lerobot --images --dims slots

The dims are the source's own, in its order and units; --dims robot gives them in m, rad and 0 open .. 1 closed. Of a
mixture, the episodes are published that its filters leave, whole. The same command continues after an interruption.
Options of Beam (--runner=DataflowRunner ...) have its workers write the files, as in convert.
"""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `publish` to the parser of `embodimix`."""
    parser = add_command(
        commands,
        "publish",
        "write a dataset or a mixture's episodes for LeRobot",
        EPILOG,
        "Writes a dataset, or the episodes that a mixture selects, as a dataset of LeRobot.",
    )
    parser.add_argument("source", metavar="DATASET|SPEC", help="a dataset's version folder, or a mixture spec (YAML)")
    parser.add_argument("out", metavar="OUT", help="a new folder")
    parser.add_argument("--as", dest="form", choices=("lerobot",), required=True, help="the form")
    parser.add_argument("--lerobot-version", choices=("3.0", "2.1"), default="3.0", help="default: %(default)s")
    about = "source's dims and units, the robot's in m and rad, or all slots (default: %(default)s)"
    parser.add_argument("--dims", choices=("native", "robot", "slots"), default="native", help=about)
    pictures = parser.add_mutually_exclusive_group()
    pictures.add_argument("--codec", choices=("av1", "h264"), default="av1", help="of videos (default: %(default)s)")
    about = "no videos: pictures in the tables, byte for byte as they are in the shards"
    pictures.add_argument("--images", action="store_true", help=about)
    about = "quality of videos, lower is better (default: 30 for av1, 23 for h264)"
    parser.add_argument("--crf", type=not_negative, metavar="N", help=about)
    parser.add_argument("--split-robots", action="store_true", help="several robots: a folder below OUT for each")
    parser.add_argument("--proposals", action="store_true", help="also the motion phrases of proposals as subtasks")
    parser.add_argument("--licence", default="", metavar="TEXT", help="of the episodes, for the provenance table")
    about = "steps of a file of version 3.0, the unit of work (default: %(default)s)"
    parser.add_argument("--steps-per-file", type=positive, default=10_000, metavar="N", help=about)
    parser.add_argument("--workers", type=positive, metavar="N", help="processes (default: one a processor)")
    parser.add_argument("--root", metavar="DIR", help="base of a spec's relative dataset paths")
    parser.add_argument("--stage", choices=("pretrain", "posttrain"), help="with the spec's changes for this stage")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    parser.set_defaults(run=run_publish, takes_beam_options=True)


def run_publish(arguments: argparse.Namespace) -> int:
    """Publishes and prints what was written."""
    from mixtures.specs.named import names_spec
    from pipelines.publishing.publication import Choice, plan_publication
    from pipelines.publishing.publishing import publish

    is_spec = names_spec(arguments.source)
    _check_options(arguments, is_spec)
    write_units = None
    if arguments.beam_options:
        from pipelines.publishing.graph import beam_writer

        # Before any index is read, which takes minutes for a large mixture.
        paths = {"OUT": arguments.out} | _dataset_paths(arguments, is_spec)
        write_units = beam_writer(arguments.beam_options, arguments.workers, paths)
    if is_spec:
        choices = choose_episodes(arguments.source, arguments.root, arguments.stage)
    else:
        choices = [Choice(path=arguments.source)]
    publications = plan_publication(choices, arguments.out, _form(arguments), arguments.split_robots)
    written = publish(publications, arguments.workers or os.cpu_count() or 1, write_units)
    if arguments.json:
        print(json.dumps([one.to_json() for one in written]))
    else:
        print("\n".join(line for one in written for line in _describe(one)))
    return 0


def choose_episodes(
    spec_path: str, root: str | None = None, stage: str | None = None, cache: str | None = None
) -> "list[Choice]":
    """The episodes that a mixture's filters and caps leave, by dataset; those held out go to the split `validation`.

    Raises UsageError where the spec overlays segment tables, which shards do not hold.
    """
    from mixtures.groups.selection import select_groups
    from mixtures.index.tables import cache_folder
    from mixtures.mixture import open_tables
    from mixtures.specs.spec import load_spec
    from pipelines.contract.errors import UsageError
    from pipelines.publishing.publication import Choice

    spec = load_spec(spec_path, root, stage)  # type: ignore[arg-type]
    for entry in spec.root.all_entries():
        if entry.segments:
            raise UsageError(
                f"{entry.mark}: expected segments that lie in the shards, found a table beside them; write them into a "
                "new version by `embodimix annotate merge` and name that"
            )
    splits: dict[str, dict[str, str]] = {}
    for group in select_groups(spec, open_tables(spec, cache_folder(cache))).groups:
        for split, parts in (("validation", group.validation), ("train", group.train)):
            for part in parts:
                chosen = splits.setdefault(part.table.path, {})
                # An episode that one group trains on is no validation for another.
                chosen |= {str(part.table.episode_ids[row]): split for row in part.rows.tolist()}
    return [Choice(path=path, splits=chosen) for path, chosen in splits.items()]


def _check_options(arguments: argparse.Namespace, is_spec: bool) -> None:
    """Refuses options that would change nothing. Raises UsageError."""
    from pipelines.contract.errors import UsageError

    if arguments.images and arguments.crf is not None:
        raise UsageError("--crf: expected videos, whose quality it is; found --images, leave one of them out")
    for name in () if is_spec else ("root", "stage"):
        if getattr(arguments, name):
            raise UsageError(f"--{name}: expected a mixture spec (.yaml), found the dataset {arguments.source}")


def _dataset_paths(arguments: argparse.Namespace, is_spec: bool) -> dict[str, str]:
    """What workers read, by its name for a message."""
    from mixtures.specs.spec import load_spec

    if not is_spec:
        return {"DATASET": arguments.source}
    spec = load_spec(arguments.source, arguments.root, arguments.stage)
    return {f"{entry.mark}: dataset": entry.path for entry in spec.root.all_entries()}


def _form(arguments: argparse.Namespace) -> "Form":
    from pipelines.publishing.encoding import CRF, VideoForm
    from pipelines.publishing.publication import Form

    crf = CRF[arguments.codec] if arguments.crf is None else arguments.crf
    return Form(
        version=arguments.lerobot_version,
        dims=arguments.dims,
        video=None if arguments.images else VideoForm(codec=arguments.codec, crf=crf),
        proposals=arguments.proposals,
        licence=arguments.licence,
        steps_per_file=arguments.steps_per_file,
    )


def _describe(published: "Published") -> list[str]:
    it = published.publication
    done = " (already done)" if published.already_done else ""
    pictures = "pictures in the tables"
    if video := it.form.video:
        pictures = f"{video.codec} video of quality {video.crf}"
    lines = [
        f"{it.out}{done}: LeRobot v{it.form.version}, {it.robot} at {it.fps:g} Hz, {counted(it.episodes, 'episode')}, "
        f"{counted(it.n_steps, 'step')}, {counted(it.tasks, 'task')}, {pictures}",
        *(
            f"  {side}: {', '.join(f'{n} ({u})' if u else n for n, u in zip(vector.names, vector.units, strict=True))}"
            for side, vector in (("state", it.state), ("action", it.action))
        ),
    ]
    for camera in it.cameras:
        if n := sum(camera in episode.missing_cameras for episode in it.episodes):
            lines.append(f"  {camera}: black in {counted(n, 'episode that lacks', 'episodes that lack')} it")
    fingers = [name for vector in (it.state, it.action) for name, part in vector.parts.items() if _is_hand(name, part)]
    if fingers:
        lines.append(
            f"  {', '.join(dict.fromkeys(fingers))}: all fingers have their mean, which is what the shards hold"
        )
    if late := [episode for episode in it.episodes if episode.time_error_s > 0.5 / it.fps]:
        worst = max(late, key=lambda episode: episode.time_error_s)
        lines.append(
            f"  times: LeRobot's are those of an even rate; {counted(late, 'episode is', 'episodes are')} off by up to "
            f"{worst.time_error_s:.3f} s ({worst.source_key})"
        )
    if it.form.version == "2.1" and it.form.proposals:
        lines.append("  subtasks: version 2.1 has no column for them")
    return lines


def _is_hand(part: str, columns: Any) -> bool:
    """Whether a gripper has several native numbers, of which conversion kept the mean."""
    return part.startswith("gripper") and len(columns.columns) > 1
