"""Damaged inputs: one file of a source is flipped, cut, zeroed, deleted, emptied, or exchanged for another."""

import random
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.chaos.outcomes import Failure, Tally, attempt, judge
from benchmarks.chaos.sources import CHECKSUMMED, UNPROMISED, Source, read_source

_BLOCK = 512


def flip_bit(files: Sequence[Path], chance: random.Random) -> str:
    path = chance.choice([path for path in files if path.stat().st_size])
    data = bytearray(path.read_bytes())
    at = chance.randrange(len(data))
    data[at] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    return f"{path.name}: a bit of byte {at}"


def cut(files: Sequence[Path], chance: random.Random) -> str:
    path = chance.choice([path for path in files if path.stat().st_size])
    n = chance.randrange(path.stat().st_size)
    path.write_bytes(path.read_bytes()[:n])
    return f"{path.name}: cut to {n} bytes"


def zero_block(files: Sequence[Path], chance: random.Random) -> str:
    path = chance.choice([path for path in files if path.stat().st_size])
    data = bytearray(path.read_bytes())
    at = chance.randrange(len(data)) // _BLOCK * _BLOCK
    data[at : at + _BLOCK] = bytes(len(data[at : at + _BLOCK]))
    path.write_bytes(data)
    return f"{path.name}: {_BLOCK} zeros from byte {at}"


def delete(files: Sequence[Path], chance: random.Random) -> str:
    path = chance.choice(files)
    path.unlink()
    return f"{path.name}: deleted"


def empty(files: Sequence[Path], chance: random.Random) -> str:
    path = chance.choice(files)
    path.write_bytes(b"")
    return f"{path.name}: emptied"


def exchange(files: Sequence[Path], chance: random.Random) -> str:
    one, other = chance.choice(files), chance.choice(files)
    contents = one.read_bytes(), other.read_bytes()
    one.write_bytes(contents[1])
    other.write_bytes(contents[0])
    return f"{one.name} and {other.name} exchanged"


Damage = Callable[[Sequence[Path], random.Random], str]
# Whether what is left shows the damage: a file that is gone or short always must be missed. Two whole files that are
# exchanged are what another logger might have written, and flipped numbers too, where the format has no checksums.
DAMAGES: tuple[tuple[Damage, bool], ...] = (
    (flip_bit, False),
    (zero_block, False),
    (cut, True),
    (delete, True),
    (empty, True),
    (exchange, False),
)


def try_damages(source: Source, seconds: float, seed: int) -> Tally:
    """Damages the source again and again until the time is over, each kind in turn."""
    whole = source.path.with_name(f"{source.path.name}.whole")
    shutil.copytree(source.path, whole)
    before = attempt(lambda: read_source(source))
    if isinstance(before, Failure) or before.error:
        raise RuntimeError(f"{source.name}: expected a source that is read whole, found {before}")
    tally = Tally(kind=f"damages of {source.name}")
    chance, end = random.Random(seed), time.monotonic() + seconds
    while time.monotonic() < end:
        for damage, is_shown in DAMAGES:
            what = damage(source.files, chance)
            after = attempt(lambda: read_source(source))
            is_provable = is_shown or source.name in CHECKSUMMED
            if damage is exchange or (damage is delete and source.name in UNPROMISED):
                is_provable = False
            outcome = judge(before, after, is_provable)
            tally.add(outcome, what + (f": {after.text}" if isinstance(after, Failure) else ""))
            shutil.rmtree(source.path)
            shutil.copytree(whole, source.path)
    return tally
