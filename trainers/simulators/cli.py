"""The commands `record` and `rollout`; heavy modules are imported only when they run."""

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path

from model.config import FLOW_STEPS
from pipelines.contract.options import add_command, not_negative, positive
from pipelines.contract.words import counted
from trainers.serving.high_level_options import add_high_level_options

RECORD_EPILOG = """a worked example:
  embodimix record metaworld drawer-open window-open logs/metaworld --episodes 50
  embodimix convert zarr logs/metaworld data/ --name metaworld --version 1.0.0 --adapter metaworld

The same command continues an interrupted one: episodes that are there are kept.
"""
ROLLOUT_EPILOG = """a worked example:
  embodimix rollout runs/hand --env metaworld --task drawer-open --episodes 50 --execute 8
  open runs/hand/rollouts/metaworld/page.html

The same policy behind a server, by openpi-client, as on a robot:
  embodimix serve runs/hand --robot metaworld_sawyer --execute 8
  embodimix rollout --server 127.0.0.1:8000 --env metaworld --task drawer-open --out runs/hand/served

The same command continues an interrupted rollout, and adds to a finished one with more --episodes, tasks or conditions.
"""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `record` and `rollout` to the parser of `embodimix`."""
    _add_record(commands)
    _add_rollout(commands)


def _add_record(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = add_command(
        commands,
        "record",
        "write demonstrations of a simulator's scripted experts as in-house logs",
        RECORD_EPILOG,
        "Write demonstrations of MetaWorld's scripted experts as in-house logs (inhouse_log/v1).",
    )
    parser.add_argument("simulator", choices=("metaworld",), help="the simulator whose experts act")
    parser.add_argument("tasks", nargs="+", metavar="TASK", help="tasks such as drawer-open, or all")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the logs")
    parser.add_argument("--episodes", type=positive, default=25, metavar="N", help="of each task (%(default)s)")
    parser.add_argument(
        "--noise",
        type=float,
        default=0.0,
        metavar="X",
        help="how far the hand strays from each command, standard deviation in cm a step (0); the log has the commands",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the first scene (0)")
    parser.add_argument(
        "--processes",
        type=positive,
        default=os.cpu_count() or 1,
        metavar="N",
        help="side by side (default: one per core)",
    )
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
    parser.set_defaults(run=run_record)


def run_record(arguments: argparse.Namespace) -> int:
    """Records; 0 when every task has its episodes, 1 where an expert failed too often."""
    from trainers.simulators.record import Recording, record
    from trainers.simulators.sawyer_world import METAWORLD

    names = [] if arguments.tasks == ["all"] else arguments.tasks
    recording = Recording(
        tasks=tuple(METAWORLD.chosen(names)),
        out=arguments.out,
        episodes=arguments.episodes,
        noise=arguments.noise,
        seed=arguments.seed,
    )
    done = record(recording, arguments.processes)
    if arguments.json:
        print(json.dumps([asdict(one) for one in done]))
    else:
        for one in done:
            print(
                f"{one.task}: {one.written} written, {one.there} there before, {counted(one.failed, 'try', 'tries')} "
                f"failed"
            )
    return 0 if all(one.written + one.there == recording.episodes for one in done) else 1


def _add_rollout(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = add_command(
        commands,
        "rollout",
        "let a trained policy act in a simulator: success with intervals, films, a page",
        ROLLOUT_EPILOG,
        "Let a trained policy act in new scenes of a simulator, which judges its success.",
    )
    parser.add_argument("run_directory", nargs="?", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("--env", required=True, metavar="ENV", help="metaworld or gym-aloha")
    parser.add_argument("--server", metavar="HOST:PORT", help="act through a policy server in place of RUN")
    parser.add_argument(
        "--api-key-variable", metavar="NAME", help="environment variable with the key of the policy server"
    )
    parser.add_argument("--task", action="append", default=[], metavar="TASK", help="a task of ENV (all of them)")
    parser.add_argument("--episodes", type=positive, default=20, metavar="N", help="of each task (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the first scene, and of the noise (0)")
    parser.add_argument(
        "--execute",
        type=not_negative,
        default=0,
        metavar="N",
        help="actions of a chunk to carry out (0: half a second's)",
    )
    parser.add_argument(
        "--flow-steps", type=positive, default=FLOW_STEPS, metavar="N", help="Euler steps to an action (%(default)s)"
    )
    parser.add_argument(
        "--ask",
        action="append",
        default=[],
        choices=("task", "blind", "script", "chooser", "model"),
        help="task: by its sentence (the default); blind: the same with black pictures, which a policy that looks must "
        "fail; script: by the steps of one who knows the scene; chooser: by those that a table of labelled segments "
        "(--labels) gave states like this one; model: by those of a vision model (--high-level). Several are compared",
    )
    parser.add_argument("--labels", type=Path, metavar="TABLE", help="DATASET/segments/NAME.parquet, for --ask chooser")
    parser.add_argument("--worlds", type=positive, default=8, metavar="N", help="episodes at a time (%(default)s)")
    parser.add_argument(
        "--processes",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="of simulators (default: one per core); 0: in this one",
    )
    parser.add_argument(
        "--max-steps", type=positive, metavar="N", help="end an episode after so many steps (as the simulator does)"
    )
    parser.add_argument("--videos", type=int, default=0, metavar="N", help="film the first N episodes of each task (0)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder (RUN/rollouts/ENV)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    add_high_level_options(parser)
    parser.set_defaults(run=run_rollout)


def run_rollout(arguments: argparse.Namespace) -> int:
    """Rolls out; 0 at its end, whatever the success."""
    from trainers.simulators.command import rollout

    return rollout(arguments)
