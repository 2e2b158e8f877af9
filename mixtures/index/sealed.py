"""Folders of compiled files that appear whole, and of which opening notices damage.

A seal lists the bytes of every file and a CRC-32C of each block of 256 KiB. Opening compares all sizes and some blocks
of every file, always; all blocks where a file was written to since they were last compared. So a power failure, a full
disk or a foreign hand is noticed for the price of a few reads, where comparing everything would read gigabytes each
time. A block that spoils without a new time and between the samples is noticed by the next full comparison only.
"""

import json
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import google_crc32c

from pipelines.contract.errors import FailedWork
from pipelines.storage.files import DiskFull, write_atomically

SEAL_FILE, STATE_FILE = "seal.json", "compared.json"
BLOCK_BYTES = 1 << 18
# Blocks of each file that every opening reads: 4 MB of a large one.
SAMPLED = 16


def ensure_sealed(folder: Path, write: Callable[[Path], None]) -> None:
    """Makes sure that a folder is there and whole: writes it with `write` where it is missing or damaged.

    It is written under another name, synced, sealed and renamed. If another process finished first, its result is kept.
    A damaged folder is removed, with a line on stderr: all that it held can be compiled again. Raises FailedWork where
    the disk is full or cannot be written.
    """
    damage = find_damage(folder)
    if damage is None:
        return
    if (folder / SEAL_FILE).exists():
        print(f"{folder}: {damage}; compiling it again", file=sys.stderr)
    if folder.exists():
        _remove(folder)
    scratch = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        scratch.mkdir(parents=True)
        write(scratch)
        seal(scratch)
        os.rename(scratch, folder)
    except (OSError, DiskFull) as error:
        if find_damage(folder) is not None:
            reason = getattr(error.__cause__ or error, "strerror", None) or error
            # numpy says how many bytes it wrote of how many, and neither why nor where.
            raise FailedWork(
                f"{folder.parent}: expected a folder with room for compiled index files, found: "
                f"{reason}. Free some space there, or name another folder: EMBODIMIX_CACHE=DIR"
            ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def seal(folder: Path) -> None:
    """Syncs every file of a folder and writes its seal, last: a folder without one is no compiled folder."""
    sums = {}
    for path in sorted(folder.iterdir()):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            sums[path.name] = [path.stat().st_size, [google_crc32c.value(block) for block in _blocks(path)]]
    write_atomically(folder / SEAL_FILE, json.dumps(sums).encode())
    _note_state(folder, sorted(sums))


def find_damage(folder: Path) -> str | None:
    """What is wrong with a sealed folder, None for nothing."""
    try:
        sums = json.loads((folder / SEAL_FILE).read_bytes())
        found = {name: os.stat(folder / name) for name in sums}
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError) as error:
        return f"it cannot be read: {error}"
    for name, (size, _) in sums.items():
        if found[name].st_size != size:
            return f"{name} has {found[name].st_size} bytes, not {size}"
    is_known = _state(folder, sorted(sums)) == _noted_state(folder)
    for name, (_, blocks) in sums.items():
        wrong = _first_wrong(folder / name, blocks, sample(len(blocks)) if is_known else range(len(blocks)))
        if wrong is not None:
            return f"{name} is damaged in bytes {wrong * BLOCK_BYTES} to {(wrong + 1) * BLOCK_BYTES - 1}"
    if not is_known:
        _note_state(folder, sorted(sums))
    return None


def sample(n_blocks: int) -> Sequence[int]:
    """The blocks of a file that every opening compares: the first, the last, and some evenly between.

    >>> sample(3), sample(61)
    ([0, 1, 2], [0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60])
    """
    if n_blocks <= SAMPLED:
        return list(range(n_blocks))
    return [number * (n_blocks - 1) // (SAMPLED - 1) for number in range(SAMPLED)]


def _first_wrong(path: Path, blocks: Sequence[int], numbers: Sequence[int]) -> int | None:
    with open(path, "rb") as file:
        for number in numbers:
            if google_crc32c.value(os.pread(file.fileno(), BLOCK_BYTES, number * BLOCK_BYTES)) != blocks[number]:
                return number
    return None


def _blocks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block


def _state(folder: Path, names: Sequence[str]) -> list[list[int]]:
    """When each file was last written to; the inode, too, so that a replaced file with an old time is another one."""
    return [[(found := os.stat(folder / name)).st_mtime_ns, found.st_ino] for name in names]


def _noted_state(folder: Path) -> object:
    try:
        return json.loads((folder / STATE_FILE).read_bytes())
    except (OSError, ValueError):
        return None


def _note_state(folder: Path, names: Sequence[str]) -> None:
    try:
        write_atomically(folder / STATE_FILE, json.dumps(_state(folder, names)).encode())
    except OSError:
        return  # a cache that may only be read is compared in full every time


def _remove(folder: Path) -> None:
    """Takes a folder away under another name first, so that no other process opens half of it."""
    trash = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        os.rename(folder, trash)
    except FileNotFoundError:
        return  # another process did
    shutil.rmtree(trash, ignore_errors=True)
