"""A small checkpoint of openpi's own, with its statistics, and a vocabulary of as many words as its model embeds."""

import json
import shutil
from pathlib import Path
from typing import Any

from trainers.exchange.importing import ImportRequest


def write_vocabulary(folder: Path) -> Path:
    path = folder / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(996))]))
    return path


def openpi_folder(shared: Path, folder: Path) -> Path:
    """openpi's own orbax folder and its own norm_stats.json, whose seven dims stand for state and actions."""
    shutil.copytree(shared / "goldens/orbax_tiny/released", folder)
    stats = json.loads((shared / "goldens/openpi/norm_stats.json").read_text())["norm_stats"]["actions"]
    asset = folder / "assets/lab/norm_stats.json"
    asset.parent.mkdir(parents=True)
    asset.write_text(json.dumps({"norm_stats": {"state": stats, "actions": stats}}))
    return folder


def import_request(checkpoint: Path, run: Path, tokenizer: Path, **changes: Any) -> ImportRequest:
    """An import of that checkpoint as the policy of a ur5e."""
    values = {"robot": "ur5e/joint_position", "horizon": 50, "actions": "absolute", "dtype": "float32"}
    return ImportRequest(checkpoint=checkpoint, run=run, tokenizer=tokenizer, **{**values, **changes})
