"""What writers leave that a cluster gave up: swept when all shards are whole, even while their processes live."""

import os
import socket
from pathlib import Path

from pipelines.storage.files import sweep_leftovers
from tests.support.inputs.native_files import bridge_features, write_rlds
from trainers.main import main


def left_by_this_process(folder: Path) -> Path:
    """A temporary file as `atomic_file` names it, of a writer that lives: this very process."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".a-shard.{socket.gethostname()}.{os.getpid()}.0123abcd.tmp"
    path.write_bytes(b"half a shard")
    return path


def test_files_of_living_writers_go_only_where_their_work_is_done(tmp_path: Path) -> None:
    left = left_by_this_process(tmp_path)
    assert sweep_leftovers(tmp_path) == [] and left.exists()
    assert sweep_leftovers(tmp_path, wanted=False) == [left] and not left.exists()


def test_a_finished_dataset_holds_no_file_of_a_writer_that_still_lives(tmp_path: Path) -> None:
    source = write_rlds(tmp_path / "in", {"train": [bridge_features(0)]})
    left = left_by_this_process(tmp_path / "out" / "tiny" / "1.0.0" / "index")
    arguments = ["--name", "tiny", "--version", "1.0.0", "--adapter", "bridge_orig", "--workers", "1"]
    assert main(["convert", "rlds", str(source), str(tmp_path / "out"), *arguments]) == 0
    assert not left.exists()
    assert (tmp_path / "out" / "tiny" / "1.0.0" / "dataset_info.json").exists()
