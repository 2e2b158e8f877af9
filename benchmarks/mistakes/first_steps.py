"""Mistakes of the first hour: a file, folder or word of one step, given to another."""

from pathlib import Path

from benchmarks.mistakes.preparing import DATASET, ROBOT, SPEC, write
from benchmarks.mistakes.records import Mistake
from tests.support.inputs.bag_writers import WRITERS, demonstration

CONVERT = ("--name", "kitchen", "--version", "1.0.0")
DRAFT = f"schema: embodimix.registry/v1\nrobots:\n  desk:\n    control_hz: 20\n    {ROBOT}"
ENTRY = """adapters:
  kitchen:
    {title: kitchen, format: bag, robot: desk, control_mode: joint_position, units: metric, control_hz: 20,
     cameras: {base_0_rgb: /camera/image_raw}, bag: {stamp: header},
     state: {arm0: {from: /joint_states}}, action: {arm0: {from: "?"}}}
"""


def bags(folder: Path) -> None:
    WRITERS["mcap"](folder / "logs", demonstration())


def bags_and_draft(folder: Path) -> None:
    bags(folder)
    write("draft.yaml", DRAFT + ENTRY)(folder)


FIRST_STEPS = (
    Mistake(
        kind="first steps",
        name="to inspect what was converted already",
        arguments=("inspect", DATASET),
        prepare=write(f"{DATASET}/manifest.json", "{}"),
        expected=r"a dataset of embodimix already",
        found=r"data/toy/1\.0\.0",
        advice=r"embodimix check data/toy/1\.0\.0.*mixture: datasets:",
        code=0,
    ),
    Mistake(
        kind="first steps",
        name="bags without an entry",
        arguments=("convert", "bag", "logs", "out", *CONVERT),
        prepare=bags,
        expected=r"expected an entry",
        found=r"none of format bag is shipped",
        advice=r"embodimix inspect logs --draft my\.yaml",
    ),
    Mistake(
        kind="first steps",
        name="a draft whose question is open",
        arguments=("convert", "bag", "logs", "out", *CONVERT, "--adapter", "draft.yaml"),
        prepare=bags_and_draft,
        expected=r"expected an answer in place of each",
        found=r"1 open: draft\.yaml:\d+ action\.arm0\.from",
        advice=r"an answer in place",
    ),
    Mistake(
        kind="first steps",
        name="an entry of another format",
        arguments=("convert", "lerobot", "logs", "out", *CONVERT, "--adapter", "draft.yaml"),
        prepare=lambda folder: write("draft.yaml", (DRAFT + ENTRY).replace('"?"', "/joint_states"))(folder),
        expected=r"expected one of format lerobot",
        found=r"found one of format bag",
        advice=r"if INPUT holds that, write bag",
    ),
    Mistake(
        kind="first steps",
        name="a dataset without its version",
        arguments=("check", "data/toy"),
        expected=r"expected a dataset",
        found=r"found no dataset_info\.json",
        advice=r"Give one of its versions: 1\.0\.0",
    ),
    Mistake(
        kind="first steps",
        name="a dataset in place of a mixture",
        arguments=("mix", "plan", DATASET),
        expected=r"expected a mixture spec, a YAML file",
        found=r"found a dataset",
        advice=r"datasets: \[\{path: data/toy/1\.0\.0\}\]",
    ),
    Mistake(
        kind="first steps",
        name="a draft in place of a mixture",
        arguments=("mix", "plan", "draft.yaml"),
        prepare=bags_and_draft,
        expected=r"expected a mixture spec",
        found=r"found embodimix\.registry/v1",
        advice=r"--adapter or --registry.*schema: embodimix\.mixture/v1",
    ),
    Mistake(
        kind="first steps",
        name="a mixture in place of a run",
        arguments=("eval", SPEC),
        prepare=write("runs/desk/config.yaml", ""),
        expected=r"expected a run directory",
        found=r"found a file",
        advice=r"Runs from here: runs/desk",
    ),
    Mistake(
        kind="first steps",
        name="a dataset in place of a run",
        arguments=("serve", DATASET),
        expected=r"expected a run directory",
        found=r"found a dataset",
        advice=r"embodimix train pretrain SPEC --run DIR",
    ),
    Mistake(
        kind="first steps",
        name="a name with a hyphen",
        arguments=(
            "convert",
            "rlds",
            DATASET,
            "out",
            "--name",
            "my-kitchen",
            "--version",
            "1.0.0",
            "--adapter",
            "toto",
        ),
        expected=r"expected letters, digits and _",
        found=r"found 'my-kitchen'",
        advice=r"my_kitchen",
    ),
)
