"""The command `demo`: conversion, training and evaluation on generated data, with one page of results."""

import argparse
from pathlib import Path

from pipelines.contract.options import add_command

EPILOG = """a worked example:
  embodimix demo                             some 10 minutes on two cores; then open runs/demo/report.html
  embodimix demo --quick                     the same way end to end with few steps, too short to claim anything
  embodimix demo --ablation                  and what segment language is good for
  embodimix demo --out runs/other --seed 7   other demonstrations

It writes demonstrations of five robots in five native log formats, and runs on them the commands that you would
run on your own: convert, mix plan, train pretrain, train posttrain, eval. Each is printed, and its output is in
OUT/stages/. It claims that the post-trained policy succeeds, and that both stages add to its success, in a simulator;
a claim that does not hold is red on the page and makes the exit code 1. The same command resumes an interrupted demo,
and prints the results of a finished one again. Another --seed, --quick or another version of the code starts over in
the same folder.
"""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `demo` to the parser of `embodimix`."""
    parser = add_command(
        commands,
        "demo",
        "convert, train and evaluate on generated data, with a page of results",
        EPILOG,
        "Generate demonstrations, convert, mix, pretrain, post-train, evaluate; write one page of results.",
    )
    parser.add_argument("--quick", action="store_true", help="fewer demonstrations and steps of every stage")
    parser.add_argument(
        "--ablation",
        action="store_true",
        help="also post-train with segment sentences; compare all policies under three kinds of prompts",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="folder (runs/demo)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of the demonstrations and the training (0)")
    parser.set_defaults(run=run_demo)


def run_demo(arguments: argparse.Namespace) -> int:
    """Runs the demo; 0 when it ran and its own checks hold, 1 otherwise."""
    from trainers.demo.main_job import Demo

    return Demo(out=arguments.out, quick=arguments.quick, ablation=arguments.ablation, seed=arguments.seed).run()
