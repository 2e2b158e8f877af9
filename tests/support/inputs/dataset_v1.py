"""A dataset that embodimix 0.1 wrote before records had `segment_text`: `tiny` 1.0.0, three episodes, two shards."""

import tarfile
from pathlib import Path


def unpack_dataset_v1(folder: Path) -> Path:
    """Unpacks the dataset below `folder` and returns its own folder.

    Every episode has 7 steps, the task "put the cup away", and one proposed segment, "close the gripper, move the arm
    forward", which its records repeat as the instruction of every step.
    """
    with tarfile.open(Path(__file__).parent / "dataset_v1.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "tiny" / "1.0.0"
