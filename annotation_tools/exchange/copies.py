"""A copy of a LeRobot dataset to add columns to, so that the user's own is never changed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.contract.errors import FailedWork, UsageError


@contextmanager
def copied(source: Path, out: Path) -> Iterator[None]:
    """Copies a LeRobot dataset, and removes the copy if what follows fails, so that no half export is taken for one.

    Videos and pictures are linked where the disk allows, since nothing writes to them. Raises UsageError where `source`
    is no dataset, FailedWork where `out` is not empty or lies inside it: a copy into a dataset that is there would
    change it in place.
    """
    if not (source / "meta" / "info.json").exists():
        raise UsageError(f"--source {source}: expected a LeRobot dataset with meta/info.json, found none")
    if out.exists() and any(out.iterdir()):
        raise FailedWork(f"{out}: expected a new or empty folder for the copy of {source}, found files in it")
    if out.resolve().is_relative_to(source.resolve()):
        raise FailedWork(f"{out}: expected a folder outside {source}, which an export never changes")
    try:
        shutil.copytree(source, out, copy_function=_copy, dirs_exist_ok=True)
        yield
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise


def _copy(source: str, target: str) -> None:
    # Tables and metadata get new bytes of their own: a link would lead writes back into the user's dataset.
    if Path(source).suffix in (".mp4", ".png", ".jpg", ".jpeg", ".avi", ".mkv"):
        try:
            os.link(source, target)
            return
        except OSError:
            pass  # Another disk, or one without links.
    shutil.copy2(source, target)
